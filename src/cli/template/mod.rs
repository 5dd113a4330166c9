//! `tarishi template`: which templates there are, what is wrong with them, and what one says.

mod lint;
mod list;
mod preview;

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    settings::{self, GlobalArgs},
};
use crate::template::Templates;

const AFTER_HELP: &str = "\
Examples:
  tarishi template list
  tarishi template lint
  tarishi template preview new_message --locale sw";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct TemplateArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum TemplateCommand {
    /// List the templates, with their channels and languages
    List(list::ListArgs),
    /// Find what is wrong with templates, and what is worth a look
    Lint(lint::LintArgs),
    /// Show what a template says, part by part
    Preview(preview::PreviewArgs),
}

pub fn run(args: &TemplateArgs, global: &GlobalArgs) -> Result<(), Failure> {
    match &args.command {
        TemplateCommand::List(args) => list::run(args, &templates(global)?),
        TemplateCommand::Lint(args) => lint::run(args, global),
        TemplateCommand::Preview(args) => {
            let config = settings::load_without_secrets(global)?;
            preview::run(args, &config.templates.path, &settings::load_templates(&config)?)
        }
    }
}

fn templates(global: &GlobalArgs) -> Result<Templates, Failure> {
    settings::load_templates(&settings::load_without_secrets(global)?)
}
