//! `tarishi suppressions`: who is not written to any more.

use std::path::PathBuf;

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    client::Client,
    failure::{Exit, Failure},
    job,
    output::{self, count},
    server::ServerArgs,
    settings::GlobalArgs,
};
use crate::model::{Channel, ListName, SuppressionKey, SuppressionReason, Timestamp, channel_of_address};

mod file;

const AFTER_HELP: &str = "\
Examples:
  tarishi suppressions list --channel email --reason bounced
  tarishi suppressions add asha@example.com
  tarishi suppressions remove asha@example.com
  tarishi suppressions export suppressions.csv
  tarishi suppressions import suppressions.csv";
const LIST_AFTER_HELP: &str = "\
Examples:
  tarishi suppressions list
  tarishi suppressions list --address asha@example.com
  tarishi suppressions list --channel email --reason complained --limit 1000
  tarishi suppressions list --json | jq -r .address

Addresses are shown as they are: they are what the list is about.

Exit codes: 0 done; 2 usage; 4 the daemon cannot be reached; 5 it refused.";
const ADD_AFTER_HELP: &str = "\
Examples:
  tarishi suppressions add asha@example.com
  tarishi suppressions add --channel email asha@example.com --list messages
  tarishi suppressions add +255712345678 --reason opted_out
  tarishi suppressions add asha@example.com juma@example.com --expires 30d

Without --list nothing at all is sent there, on that channel. With --list it is only what templates with that name as `unsubscribe` say.

The channel is guessed when it is left out: an @ makes an email address, a + at the beginning a phone number, all else a push token.

An address that is on the list already stays there for the longer of both times. To shorten it, remove it first.

Exit codes: 0 done; 2 usage; 4 the daemon cannot be reached; 5 it refused.";
const REMOVE_AFTER_HELP: &str = "\
Examples:
  tarishi suppressions remove asha@example.com
  tarishi suppressions remove asha@example.com --list messages
  tarishi suppressions remove --channel push device-token

Without --list every entry of the address goes.

Exit codes: 0 done; 1 it was not on the list; 2 usage; 4 the daemon cannot be reached; 5 it refused.";
const IMPORT_AFTER_HELP: &str = "\
Examples:
  tarishi suppressions import suppressions.csv
  tarishi suppressions import --skip-bad old-provider.csv
  tarishi suppressions export | tarishi suppressions import --server http://127.0.0.1:8101 -

CSV whose first line names the columns: channel,address,list,reason,expires_at. Only `address` has to be there. An empty channel is guessed, an empty list is all mail, an empty reason is `manual`, an empty expires_at is never. What is over already is left out.

Every bad line is told, and nothing is imported when there is one, unless --skip-bad is given. A repeat is harmless.

Exit codes: 0 done; 1 bad lines, or the file cannot be read; 2 usage; 4 the daemon cannot be reached; 5 it refused.";
const EXPORT_AFTER_HELP: &str = "\
Examples:
  tarishi suppressions export suppressions.csv
  tarishi suppressions export --channel email --reason unsubscribed | wc -l

CSV that `tarishi suppressions import` reads, to the file or to stdout. What came on the list or went from it meanwhile may be missing or there.

Exit codes: 0 done; 1 the file cannot be written; 4 the daemon cannot be reached; 5 it refused.";

/// Entries asked for at once.
const PAGE: usize = 1000;

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct SuppressionsArgs {
    #[command(subcommand)]
    command: SuppressionsCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum SuppressionsCommand {
    /// List who is on it
    #[command(after_help = LIST_AFTER_HELP)]
    List(ListArgs),
    /// Put addresses on it
    #[command(after_help = ADD_AFTER_HELP)]
    Add(AddArgs),
    /// Take addresses off it
    #[command(after_help = REMOVE_AFTER_HELP)]
    Remove(RemoveArgs),
    /// Put everybody in a CSV file on it
    #[command(after_help = IMPORT_AFTER_HELP)]
    Import(ImportArgs),
    /// Write all of it as CSV
    #[command(after_help = EXPORT_AFTER_HELP)]
    Export(ExportArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Show the first N
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON Lines, one per entry
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
struct FilterArgs {
    /// Only this channel
    #[arg(long, short, value_name = "CHANNEL", value_parser = channels())]
    channel: Option<Channel>,
    /// Only who is on it for this reason
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    reason: Option<SuppressionReason>,
}

#[derive(Args, Clone, Debug)]
struct AddArgs {
    /// Email address, phone number or push token (repeatable)
    #[arg(value_name = "ADDRESS", required = true)]
    addresses: Vec<String>,
    /// The channel they are addresses of, if it cannot be seen
    #[arg(long, short, value_name = "CHANNEL", value_parser = channels())]
    channel: Option<Channel>,
    /// Only this kind of mail, as the template's `unsubscribe` names it [default: everything]
    #[arg(long, value_name = "LIST")]
    list: Option<ListName>,
    /// Why
    #[arg(long, value_name = "REASON", default_value = "manual", value_parser = reasons())]
    reason: SuppressionReason,
    /// Until when: RFC 3339, or from now on, as in 30d [default: for ever]
    #[arg(long, value_name = "WHEN", value_parser = job::moment)]
    expires: Option<Timestamp>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
struct RemoveArgs {
    /// Email address, phone number or push token (repeatable)
    #[arg(value_name = "ADDRESS", required = true)]
    addresses: Vec<String>,
    /// The channel they are addresses of, if it cannot be seen
    #[arg(long, short, value_name = "CHANNEL", value_parser = channels())]
    channel: Option<Channel>,
    /// Only the entry of this kind of mail [default: all of the address]
    #[arg(long, value_name = "LIST")]
    list: Option<ListName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
struct ImportArgs {
    /// CSV file, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Import the good lines even if there are bad ones
    #[arg(long)]
    skip_bad: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
struct ExportArgs {
    /// File to write [default: stdout]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// An entry, as the daemon tells it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct EntryView {
    channel: String,
    address: String,
    list: Option<String>,
    reason: String,
    source: String,
    created_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct PageView {
    suppressions: Vec<EntryView>,
    next_cursor: Option<String>,
}

/// An entry, as the daemon is told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NewEntry {
    #[serde(flatten)]
    key: SuppressionKey,
    reason: SuppressionReason,
    expires_at: Option<Timestamp>,
}

/// What became of entries.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Done {
    added: u64,
    changed: u64,
    kept: u64,
}

pub async fn run(args: &SuppressionsArgs, global: &GlobalArgs) -> Result<(), Failure> {
    match &args.command {
        SuppressionsCommand::List(args) => list(args, &args.server.connect(global)?).await,
        SuppressionsCommand::Add(args) => add(args, &args.server.connect(global)?).await,
        SuppressionsCommand::Remove(args) => remove(args, &args.server.connect(global)?).await,
        SuppressionsCommand::Import(args) => file::import(args, global).await,
        SuppressionsCommand::Export(args) => file::export(args, &args.server.connect(global)?).await,
    }
}

/// The channels that have addresses.
fn channels() -> impl TypedValueParser<Value = Channel> {
    let with_addresses = [Channel::Email, Channel::Sms, Channel::Push];
    PossibleValuesParser::new(with_addresses.map(Channel::as_str)).try_map(|text| text.parse::<Channel>())
}

fn reasons() -> impl TypedValueParser<Value = SuppressionReason> {
    PossibleValuesParser::new(SuppressionReason::ALL.map(SuppressionReason::as_str)).try_map(|text| text.parse::<SuppressionReason>())
}

/// The pages of the list, one after the other.
struct Pages<'c> {
    client: &'c Client,
    filter: Vec<(&'static str, String)>,
    cursor: Option<String>,
    is_over: bool,
}

impl<'c> Pages<'c> {
    fn new(client: &'c Client, filter: &FilterArgs, address: Option<&str>) -> Self {
        let mut parameters = Vec::new();
        parameters.extend(filter.channel.map(|channel| ("channel", channel.to_string())));
        parameters.extend(filter.reason.map(|reason| ("reason", reason.to_string())));
        parameters.extend(address.map(|address| ("address", address.to_owned())));
        Self { client, filter: parameters, cursor: None, is_over: false }
    }

    /// The next page of at most `limit` entries; none after the last.
    async fn next(&mut self, limit: usize) -> Result<Option<Vec<EntryView>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let limit = limit.min(PAGE).to_string();
        let mut query: Vec<(&str, &str)> = self.filter.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.push(("limit", &limit));
        query.extend(self.cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: PageView = self.client.get_patiently(&["v1", "suppressions"], &query, output::note).await?;
        self.is_over = page.next_cursor.is_none();
        self.cursor = page.next_cursor;
        Ok(Some(page.suppressions))
    }
}

async fn list(args: &ListArgs, client: &Client) -> Result<(), Failure> {
    let mut pages = Pages::new(client, &args.filter, args.address.as_deref());
    let (mut entries, limit) = (Vec::new(), args.limit as usize);
    while entries.len() < limit
        && let Some(page) = pages.next(limit - entries.len()).await?
    {
        entries.extend(page);
    }
    if args.json {
        return entries.iter().try_for_each(output::print_json_line);
    }
    if entries.is_empty() {
        output::note("nobody is on the list, as far as that goes");
        return Ok(());
    }
    let when = |moment: Option<Timestamp>, never: &str| moment.map_or_else(|| never.to_owned(), |moment| moment.to_string());
    let rows = entries.into_iter().map(|entry| {
        let list = entry.list.unwrap_or_else(|| "all".to_owned());
        vec![entry.channel, entry.address, list, entry.reason, when(entry.created_at, "-"), when(entry.expires_at, "never"), entry.source]
    });
    output::print(&output::table(&["channel", "address", "list", "reason", "since", "until", "source"], rows))?;
    if !pages.is_over {
        output::note("note: there may be more; --limit shows them");
    }
    Ok(())
}

async fn add(args: &AddArgs, client: &Client) -> Result<(), Failure> {
    let keys = keys(&args.addresses, args.channel, args.list.as_ref())?;
    let entries: Vec<NewEntry> = keys.into_iter().map(|key| NewEntry { key, reason: args.reason, expires_at: args.expires }).collect();
    let mut done = Done::default();
    for entries in entries.chunks(PAGE) {
        done.add(put(client, entries).await?);
    }
    if args.json { output::print_json_line(&done) } else { output::print(&done.told()) }
}

async fn put(client: &Client, entries: &[NewEntry]) -> Result<Done, Failure> {
    Ok(client.send(Method::POST, &["v1", "suppressions"], &entries, output::note).await?)
}

impl Done {
    fn add(&mut self, more: Self) {
        self.added += more.added;
        self.changed += more.changed;
        self.kept += more.kept;
    }

    fn told(self) -> String {
        let more = |number: u64, what: &str| if number > 0 { format!(", {number} {what}") } else { String::new() };
        let (changed, kept) = (more(self.changed, "changed"), more(self.kept, "there already"));
        format!("{} added{changed}{kept}", count(self.added, "entry"))
    }
}

#[derive(Deserialize)]
struct Removed {
    removed: u64,
}

async fn remove(args: &RemoveArgs, client: &Client) -> Result<(), Failure> {
    let mut doomed: Vec<Value> = Vec::new();
    for key in keys(&args.addresses, args.channel, args.list.as_ref())? {
        if key.list.is_some() {
            doomed.push(json!(key));
            continue;
        }
        // Every entry of the address, whichever lists they are about.
        let filter = FilterArgs { channel: Some(key.channel), reason: None };
        let mut pages = Pages::new(client, &filter, Some(&key.address));
        while let Some(page) = pages.next(PAGE).await? {
            doomed.extend(page.iter().map(|entry| json!({ "channel": entry.channel, "address": entry.address, "list": entry.list })));
        }
    }
    let mut removed = 0;
    for doomed in doomed.chunks(PAGE) {
        let answer: Removed = client.send(Method::DELETE, &["v1", "suppressions"], &doomed, output::note).await?;
        removed += answer.removed;
    }
    if removed == 0 {
        let hint = "see `tarishi suppressions list --address ADDRESS`";
        return Err(Failure::new(Exit::Failed, "nothing was removed: that is not on the list", hint));
    }
    if args.json {
        output::print_json_line(&json!({ "removed": removed }))
    } else {
        output::print(&format!("{} removed", count(removed, "entry")))
    }
}

/// What addresses on the command line stand for, or everything that is wrong with them.
fn keys(addresses: &[String], channel: Option<Channel>, list: Option<&ListName>) -> Result<Vec<SuppressionKey>, Failure> {
    let key = |address: &String| {
        let channel = channel.unwrap_or_else(|| channel_of_address(address));
        SuppressionKey::new(channel, address, list.cloned()).map_err(|told| format!("`{}` is {told}", crate::model::cut(address, 80)))
    };
    addresses.iter().map(key).collect::<Result<_, _>>().map_err(|told| Failure::told(Exit::Usage, &told))
}
