//! `tarishi schema` and `tarishi completions`: what other tools read about us.

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{failure::Failure, output};
use crate::{admin::openapi, config, intake::schema::job_schema};

const SCHEMA_AFTER_HELP: &str = "\
Examples:
  tarishi schema job > job.schema.json   for producers: tests, generated types
  tarishi schema config | jq '.properties.channel'
  tarishi schema openapi > openapi.json  every route of both listeners, for clients made from it

The first two are JSON Schema, draft 2020-12; the last one is OpenAPI 3.1.";
const COMPLETIONS_AFTER_HELP: &str = "\
Examples:
  tarishi completions bash > ~/.local/share/bash-completion/completions/tarishi
  tarishi completions zsh > ~/.zfunc/_tarishi
  tarishi completions fish > ~/.config/fish/completions/tarishi.fish";

#[derive(Args, Clone, Debug)]
#[command(after_help = SCHEMA_AFTER_HELP)]
pub struct SchemaArgs {
    /// What producers send, the configuration file with every default, or everything that is answered over HTTP
    #[arg(value_enum)]
    of: SchemaOf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    Job,
    Config,
    Openapi,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = COMPLETIONS_AFTER_HELP)]
pub struct CompletionsArgs {
    /// Your shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &SchemaArgs) -> Result<(), Failure> {
    output::print_json(&match args.of {
        SchemaOf::Job => job_schema(),
        SchemaOf::Config => config::schema(),
        SchemaOf::Openapi => openapi::document(),
    })
}

pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "tarishi", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())
}
