//! The command line: parse, call the library, print. It decides nothing about notifications, and speaks to the running daemon only
//! through its admin API, and to the broker for what is there.

use std::{process::ExitCode, sync::Arc};

use clap::{
    Parser, Subcommand,
    builder::styling::{AnsiColor, Styles},
};

mod audit;
mod broker;
mod chat;
mod check;
mod client;
mod dev;
mod events;
mod failure;
mod import_env;
mod job;
mod log;
mod log_writer;
mod mock;
mod output;
mod probe;
mod progress;
mod recipient;
mod rejected;
mod revoke;
mod samples;
mod schema;
mod send;
mod send_amqp;
mod serve;
mod server;
mod settings;
mod status;
mod suppressions;
mod template;
mod token;
mod wait;

use failure::{Exit, Failure};
use settings::GlobalArgs;

use crate::{channel::Provider, model::PerChannel};

/// `0.1.0 (abc1234 2026-11-23)`: the release, and the commit it was built from where that is known.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("TARISHI_BUILD"));

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Examples:
  tarishi dev --samples                        try everything, on this machine, without accounts
  tarishi check                                what is wrong with the configuration and templates
  tarishi run --config /etc/tarishi/tarishi.toml
  tarishi send --template new_message --to 42 --data @message.json --wait
  tarishi status

Exit codes:
  0  done
  1  failed, or with --wait: some delivery did
  2  wrong usage
  3  problems in the configuration or the templates
  4  the daemon, or the broker, cannot be reached
  5  the daemon, or the broker, refused
  6  the audit does not balance

Environment:
  TARISHI__SECTION__KEY  any key of the configuration, such as TARISHI__STORE__URL
  TARISHI_CONFIG, TARISHI_SERVER, TARISHI_API_KEY, NO_COLOR";

/// A notification fan-out daemon: one job in; email, SMS, push and live notifications out; nothing lost on the way
#[derive(Parser, Debug)]
#[command(name = "tarishi", version = VERSION, styles = STYLES, after_help = AFTER_HELP, max_term_width = 120, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon
    Run(serve::RunArgs),
    /// Run the daemon for trying things out: tokens to use, messages captured instead of sent
    Dev(dev::DevArgs),
    /// Play SendGrid, Twilio and FCM on this machine, for daemons and programs to try themselves against
    Mock(Box<mock::MockArgs>),
    /// Hand jobs to the running daemon
    Send(Box<send::SendArgs>),
    /// Show what becomes of deliveries, as it happens
    Events(events::EventsArgs),
    /// Look at what came over the broker and was no job; send it again, or remove it
    Rejected(rejected::RejectedArgs),
    /// Look at who is not written to any more, and change it
    Suppressions(suppressions::SuppressionsArgs),
    /// Refuse a user's tokens, or one token, from now on, and close their sockets
    Revoke(revoke::RevokeArgs),
    /// Make keys for the chat, change them, and take over the chat of the system before
    Chat(Box<chat::ChatArgs>),
    /// Show what the running daemon is doing
    Status(status::StatusArgs),
    /// Check that nothing accepted is unaccounted for
    Audit(audit::AuditArgs),
    /// Check the configuration and the templates, and print the configuration in effect
    Check(check::CheckArgs),
    /// List templates, find what is wrong with them, or see what one says
    Template(template::TemplateArgs),
    /// Print the JSON Schema of jobs or of the configuration, or the OpenAPI document of everything over HTTP
    Schema(schema::SchemaArgs),
    /// Make a configuration from the settings of the Django system that is replaced
    ImportEnv(import_env::ImportEnvArgs),
    /// Make a token that opens a user's sockets, for development
    Token(token::TokenArgs),
    /// Print a script that completes this command line in your shell
    Completions(schema::CompletionsArgs),
}

/// Reads the command line, does what it says, and returns what a script sees.
pub fn main() -> ExitCode {
    ended(Cli::parse().run())
}

fn ended(ended: Result<(), Failure>) -> ExitCode {
    log_writer::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

/// Runs the daemon inside another program, with providers of that program's own. The configuration is the environment's.
pub fn run_with(providers: PerChannel<Vec<Arc<dyn Provider>>>) -> ExitCode {
    ended(serve::run_with(providers))
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        let Self { global, command } = self;
        if !matches!(command, Command::Run(_) | Command::Dev(_)) {
            global.start_quiet_log()?;
        }
        match command {
            Command::Run(_) => serve::run(&global),
            Command::Dev(args) => dev::run(&args, &global),
            Command::Mock(args) => mock::run(&args),
            Command::Send(args) => one_shot(send::run(&args, &global)),
            Command::Events(args) => one_shot(events::run(&args, &global)),
            Command::Rejected(args) => one_shot(rejected::run(&args, &global)),
            Command::Suppressions(args) => one_shot(suppressions::run(&args, &global)),
            Command::Revoke(args) => one_shot(revoke::run(&args, &global)),
            Command::Chat(args) => one_shot(chat::run(&args, &global)),
            Command::Status(args) => one_shot(status::run(&args, &global)),
            Command::Audit(args) => one_shot(audit::run(&args, &global)),
            Command::Check(args) => check::run(&args, &global),
            Command::Template(args) => template::run(&args, &global),
            Command::Schema(args) => schema::run(&args),
            Command::ImportEnv(args) => import_env::run(&args),
            Command::Token(args) => token::run(&args, &global),
            Command::Completions(args) => schema::completions(&args),
        }
    }
}

/// Runs a command that asks and answers: one thread is plenty.
fn one_shot(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("the runtime cannot start: {error}"), ""))?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command) {
            if command.has_subcommands() {
                command.get_subcommands().for_each(check);
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
            for line in help.lines().filter(|line| line.trim_start().starts_with("tarishi ")) {
                check_example(line);
            }
        }
        /// What `--help` shows to type must parse. Up to a pipe or two spaces, after which it explains.
        fn check_example(line: &str) {
            let command = line.trim().split("  ").next().unwrap_or_default().split(" | ").next().unwrap_or_default();
            let command = command.split(" > ").next().unwrap_or_default().split(" < ").next().unwrap_or_default();
            let words = command.split_whitespace().map(|word| word.trim_matches('\'').replace('\'', ""));
            if let Err(error) = Cli::try_parse_from(words) {
                assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{line}: {error}");
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn the_version_names_the_release() {
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
    }
}
