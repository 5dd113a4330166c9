//! `tarishi template list`: which templates there are.

use clap::Args;
use serde_json::json;

use crate::{
    cli::{failure::Failure, output},
    model::Channel,
    template::Templates,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi template list
  tarishi template list --json | jq -r '.[].name'

Exit codes: 0 done, 3 problems in the configuration or the templates.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ListArgs, templates: &Templates) -> Result<(), Failure> {
    if args.json {
        let list = templates.list().map(|info| {
            let channels: Vec<Channel> = info.channels.iter().collect();
            json!({ "name": info.name, "channels": channels, "unsubscribe": info.unsubscribe, "locales": info.locales, "sample": info.sample })
        });
        return output::print_json(&list.collect::<Vec<_>>());
    }
    let rows = templates.list().map(|info| {
        let channels: Vec<&str> = info.channels.iter().map(Channel::as_str).collect();
        let locales = if info.locales.is_empty() { "default only".to_owned() } else { format!("default, {}", info.locales.join(", ")) };
        vec![info.name.to_string(), channels.join(", "), locales, info.unsubscribe.unwrap_or("-").to_owned()]
    });
    output::print(&output::table(&["template", "channels", "languages", "unsubscribe"], rows))
}
