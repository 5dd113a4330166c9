//! `tarishi chat`: the keys that messages are sealed with, and taking over the chat of the replaced system.

use std::path::Path;

use clap::{Args, Subcommand};

use super::{
    dev,
    failure::{Exit, Failure},
    settings::{self, GlobalArgs},
};
use crate::{
    chat::seal::ChatKeys,
    config::{self, Config, Secrets, Sources},
    daemon::store_settings,
    store::Store,
};

mod import;
mod key;
mod rotate;

const AFTER_HELP: &str = "\
Examples:
  tarishi chat new-key --file /etc/tarishi/chat.keys
  tarishi chat rotate-keys
  tarishi chat import --dry-run dump.json --old-keys-file old.keys";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ChatArgs {
    #[command(subcommand)]
    command: ChatCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum ChatCommand {
    /// Take over the chat of the replaced Django system, from a dump or its database
    Import(Box<import::ImportArgs>),
    /// Make a key to seal messages with
    NewKey(key::NewKeyArgs),
    /// Seal every message with the first key of the list
    RotateKeys(rotate::RotateKeysArgs),
}

pub async fn run(args: &ChatArgs, global: &GlobalArgs) -> Result<(), Failure> {
    match &args.command {
        ChatCommand::Import(args) => import::run(args, global).await,
        ChatCommand::NewKey(args) => key::run(args),
        ChatCommand::RotateKeys(args) => rotate::run(args, global).await,
    }
}

/// The configuration and its keys, for work on a store that nobody holds. Where no keys are configured, those that `tarishi dev` has made.
fn config_and_keys(global: &GlobalArgs) -> Result<(Config, ChatKeys), Failure> {
    let sources = Sources { secrets: Secrets::Chat, ..global.sources_without_keys() };
    let mut config = settings::load(&sources)?;
    let of_dev = dev::chat_keys_file(&config);
    if !config.chat.has_keys() && of_dev.exists() {
        config.chat.encryption_keys = config::read_fernet_keys(&of_dev, &of_dev.display().to_string())
            .map_err(|problems| Failure::configuration("the key file of `tarishi dev`", problems))?;
    }
    let keys = ChatKeys::new(&config.chat.encryption_keys).map_err(|_| {
        let hint = "make one with `tarishi chat new-key`, and name its file in `chat.encryption_keys_file`";
        Failure::new(Exit::Configuration, "there is no key to seal messages with", hint)
    })?;
    Ok((config, keys))
}

/// The store, for somebody who expects it to be there. `why_held` is what to do when a daemon has it.
fn open_store(config: &Config, must_exist: bool, why_held: &str) -> Result<Store, Failure> {
    let path = config.store.sqlite_path();
    // Opening makes what is not there.
    if must_exist && !path.exists() {
        return Err(no_store(&path));
    }
    Store::open(store_settings(config)).map_err(|error| match error {
        crate::store::StoreError::Held(path) => {
            Failure::new(Exit::Failed, format!("{} is held by a running daemon", path.display()), why_held)
        }
        other => other.into(),
    })
}

fn no_store(path: &Path) -> Failure {
    let hint = "name the one that is meant with --config FILE, or TARISHI__STORE__URL";
    Failure::new(Exit::Failed, format!("there is no store at {}", path.display()), hint)
}
