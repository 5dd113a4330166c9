//! `tarishi chat rotate-keys`: every message under the first key, step by step.

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::{
    super::{
        failure::{Exit, Failure},
        output::{self, count},
        progress::Progress,
        server::ServerArgs,
        settings::GlobalArgs,
    },
    config_and_keys, open_store,
};
use crate::chat::rotate::{self, RotationStep};

/// Ids of tampered messages that are shown; --json has all.
const SHOWN: usize = 20;
const WHY_HELD: &str = "leave --offline away, so that the daemon does it, or stop it first";

const AFTER_HELP: &str = "\
Examples:
  tarishi chat rotate-keys
  tarishi chat rotate-keys --json | jq .resealed
  tarishi chat rotate-keys --offline --config /etc/tarishi/tarishi.toml

To change keys: `tarishi chat new-key --file FILE` puts a new one first, a restart has the daemon use it, this command seals what is stored with it, and then the old keys can be taken out of the file. Until the last of these, nothing is unreadable.

It can be interrupted at any time, and run again: it goes on where it was. People chat meanwhile; what they write is sealed with the first key already.

A message that none of the keys opens, or that was sealed for another row, is tampered: it stays as it is, and its id is told. If it was sealed with a key that is missing, put that key back into the list and run this again.

Exit codes: 0 all sealed with the first key; 1 some are tampered, or it failed; 3 configuration; 4 the daemon cannot be reached; 5 it refused.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RotateKeysArgs {
    /// Open the store's file instead of asking the daemon; only while no daemon runs on it
    #[arg(long, conflicts_with_all = ["server", "api_key_file"])]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: &RotateKeysArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let done = if args.offline {
        let (config, keys) = config_and_keys(global)?;
        let store = open_store(&config, true, WHY_HELD)?;
        let done = all(async || Ok(rotate::step(&store, &keys).await?)).await;
        store.close().await;
        done?
    } else {
        let client = args.server.connect(global)?;
        let path = ["v1", "chat", "rotate-keys"];
        all(async || Ok(client.send::<RotationStep>(Method::POST, &path, &json!({}), output::note).await?)).await?
    };
    told(&done, args.json)
}

/// Steps until the last one.
async fn all(mut step: impl AsyncFnMut() -> Result<RotationStep, Failure>) -> Result<RotationStep, Failure> {
    let mut done = step().await?;
    let progress = Progress::of(u64::try_from(done.last).unwrap_or(0), "sealing anew");
    while !done.done {
        progress.at(u64::try_from(done.position).unwrap_or(0));
        done = done.followed_by(step().await?);
    }
    Ok(done)
}

fn told(done: &RotationStep, json: bool) -> Result<(), Failure> {
    let RotationStep { resealed, already, tampered, .. } = done;
    if json {
        output::print_json(&json!({ "resealed": resealed, "already": already, "tampered": tampered }))?;
    } else {
        output::print(&format!("{} sealed anew; {already} had the first key already", count(*resealed, "message")))?;
    }
    if tampered.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = tampered.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if tampered.len() > SHOWN { ", … (--json has all)" } else { "" };
    let are = if tampered.len() == 1 { "is" } else { "are" };
    let message = format!("{} {are} tampered, and left as before: {}{more}", count(tampered.len() as u64, "message"), shown.join(", "));
    Err(Failure::new(Exit::Failed, message, "if a key is missing from the list, put it back, restart the daemon and run this again"))
}
