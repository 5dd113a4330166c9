//! `tarishi chat import`: conversations, messages and notifications of the replaced Django system.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    super::{
        failure::{Exit, Failure},
        output::{self, count},
        progress::Progress,
        settings::GlobalArgs,
    },
    config_and_keys, open_store,
};
use crate::{
    chat::{
        import::{self, Chosen, Counted, Import, ImportError, Kind, Report, Source, Staged, stage},
        seal::ChatKeys,
    },
    config,
    model::Problem,
    store::Store,
};

/// Rows that were not taken over and are told one by one; the file and --json have all.
const SHOWN: usize = 20;
const WHY_HELD: &str = "stop it while the chat is taken over: import writes to the store's file itself, which nobody else may hold";

const AFTER_HELP: &str = "\
Examples:
  tarishi chat import --dry-run dump.json --old-keys-file old.keys
  tarishi chat import dump.sql --secret-key-file django.secret
  tarishi chat import 'postgres://reader@db.internal/smartdalali?sslmode=require' --old-keys-file old.keys
  tarishi chat import dump.sql --map message.text=encrypted_body --map user=accounts_member

THE DAEMON MUST NOT RUN MEANWHILE: import writes to the store's file itself. Try with --dry-run first; that looks at the source only, and needs no store.

The source is a file that `manage.py dumpdata` (JSON or JSONL) or `pg_dump` (plain) has made, or the URL of the database itself, read in one snapshot. For example:
  pg_dump -t 'communications_*' -t accounts_user smartdalali, or
  manage.py dumpdata communications accounts.user
A password goes into PGPASSWORD rather than into the URL.

Taken over are the tables communications_conversation, communications_message and communications_notification, with the names in accounts_user or auth_user, and titles in properties_property, where these are there. The ids of conversations and messages are kept, those of notifications where they are free. Columns are known by their usual names; --map says others (KIND=TABLE, KIND.COLUMN=COLUMN, or KIND.COLUMN=- for one that is not there). Times without a time zone are taken as UTC.

Texts may be stored as a Fernet token, as Base64 around one, or plainly from before. Tokens are opened with the keys of --old-keys-file (what MESSAGE_ENCRYPTION_KEY was, one a line), or with the key made from Django's SECRET_KEY when none was set (--secret-key-file), and sealed anew with ours. One that no key opens is not taken over: it is told, put aside in the file of --listed-file with its row, and the exit code is 1 unless --skip-unreadable is given. With the missing key, run it again: what is here already is passed over.

It can be interrupted at any time, and run again on the same source: it goes on where it was. At the end it counts: every row of the source is in the store or listed.

Exit codes: 0 all taken over; 1 some are listed, the count is off, or it failed; 2 usage; 3 configuration.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ImportArgs {
    /// Dump file, or postgres:// URL of the database
    #[arg(value_name = "SOURCE")]
    source: String,
    /// File with the keys that texts there are sealed with, one a line
    #[arg(long, value_name = "FILE")]
    old_keys_file: Option<PathBuf>,
    /// File with Django's `SECRET_KEY`, for texts sealed when no key was set
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// What a table or column is called there, as in message.text=body (repeatable)
    #[arg(long, value_name = "OURS=THEIRS")]
    map: Vec<String>,
    /// PEM file with the authority that signed the database's certificate [default: those the system trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Where rows that are not taken over are put
    #[arg(long, value_name = "FILE", default_value = "chat-import-listed.jsonl")]
    listed_file: PathBuf,
    /// End well even if texts cannot be read
    #[arg(long)]
    skip_unreadable: bool,
    /// Read and open everything, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &ImportArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let mut chosen = Chosen::default();
    for map in &args.map {
        chosen.add(map).map_err(|told| Failure::told(Exit::Usage, &told))?;
    }
    let old = old_keys(args)?;
    let (config, keys) = config_and_keys(global)?;
    // Before the reading, which may take long: whether it can be written at all.
    let store = if args.dry_run { None } else { Some(open_store(&config, false, WHY_HELD)?) };
    let done = take_over(args, &chosen, old.as_ref(), &keys, &config.store, store.as_ref()).await;
    if let Some(store) = &store {
        store.close().await;
    }
    let (staged, report) = done.map_err(|error| Failure::told(Exit::Failed, &error.to_string()))?;
    told(args, &staged, &report)
}

async fn take_over(
    args: &ImportArgs,
    chosen: &Chosen,
    old: Option<&ChatKeys>,
    keys: &ChatKeys,
    settings: &config::StoreConfig,
    store: Option<&Store>,
) -> Result<(Staged, Report), ImportError> {
    let reading = Progress::waiting(0, "reading");
    let staged = stage(&source(args), chosen, &mut |read, of| {
        // Of a database nobody knows how much it will be.
        reading.set_length(of.max(read));
        reading.at(read);
    })
    .await?;
    drop(reading);
    let taking = Progress::waiting(0, if store.is_some() { "taking over" } else { "looking" });
    let import = Import {
        staged: &staged,
        keys,
        old,
        store,
        inbox_retention: settings.inbox_retention,
        inbox_limit: settings.inbox_limit,
        listed_file: &args.listed_file,
    };
    let report = import
        .run(&mut |done, total| {
            taking.set_length(total);
            taking.at(done);
        })
        .await?;
    Ok((staged, report))
}

fn source(args: &ImportArgs) -> Source {
    let is_url = args.source.starts_with("postgres://") || args.source.starts_with("postgresql://");
    if !is_url {
        return Source::File(args.source.clone().into());
    }
    Source::Postgres { url: args.source.clone(), password: std::env::var("PGPASSWORD").ok(), ca_file: args.ca_file.clone() }
}

/// The replaced system's keys, under the rules for secrets.
fn old_keys(args: &ImportArgs) -> Result<Option<ChatKeys>, Failure> {
    let bad = |problems: Vec<Problem>| Failure::configuration("what the old texts are opened with", problems);
    let place = |file: &Path| file.display().to_string();
    let keys = args.old_keys_file.as_ref().map(|file| config::read_fernet_keys(file, &place(file)).map_err(bad)).transpose()?;
    let secret = args.secret_key_file.as_ref().map(|file| config::read_secret(file, &place(file)).map_err(|one| bad(vec![one])));
    import::old_keys(keys.unwrap_or_default(), secret.transpose()?.as_ref())
        .map_err(|error| Failure::told(Exit::Configuration, &error.to_string()))
}

fn told(args: &ImportArgs, staged: &Staged, report: &Report) -> Result<(), Failure> {
    if args.json {
        output::print_json(&json!({
            "dry_run": args.dry_run,
            "balanced": report.is_balanced(),
            "tables": staged.tables.iter().map(|(kind, table)| (kind.as_str(), table)).collect::<std::collections::BTreeMap<_, _>>(),
            "ignored_columns": staged.ignored,
            "report": report,
        }))?;
    } else {
        output::print(&in_words(args, staged, report))?;
    }
    let unreadable = report.listed.iter().filter(|row| row.unreadable).count();
    let others = report.listed.len() - unreadable;
    if !report.is_balanced() {
        let hint = "keep the source and the log as they are now, and report it: this must not happen";
        return Err(Failure::new(Exit::Failed, "the count is off: some rows are neither in the store nor listed", hint));
    }
    if others > 0 || unreadable > 0 && !args.skip_unreadable {
        let what = count(report.listed.len() as u64, "row");
        let hint = match (args.dry_run, unreadable) {
            (_, 1..) if args.old_keys_file.is_none() && args.secret_key_file.is_none() => {
                "give the keys of the replaced system with --old-keys-file or --secret-key-file".to_owned()
            }
            (true, _) => "nothing was written; see the list".to_owned(),
            (false, _) => format!("they are in {}; run it again once the reason is gone", args.listed_file.display()),
        };
        return Err(Failure::new(Exit::Failed, format!("{what} not taken over"), hint));
    }
    Ok(())
}

fn in_words(args: &ImportArgs, staged: &Staged, report: &Report) -> String {
    let kinds = [(Kind::Conversation, report.conversations), (Kind::Message, report.messages), (Kind::Notification, report.notifications)];
    let row = |(kind, counted): (Kind, Counted)| {
        let table = staged.tables.get(&kind).map_or("-", String::as_str);
        let numbers = [counted.source, counted.imported, counted.listed, counted.past].map(|number| number.to_string());
        std::iter::once(table.to_owned()).chain(numbers).collect()
    };
    let taken = if args.dry_run { "#would be here" } else { "#here now" };
    let mut lines = vec![output::table(&["table", "#there", taken, "#listed", "#past keeping"], kinds.map(row))];
    let texts: Vec<String> = report.texts.iter().map(|(form, number)| format!("{number} {form}")).collect();
    if !texts.is_empty() {
        lines.push(format!("texts read: {}", texts.join(", ")));
    }
    if report.renumbered > 0 {
        lines.push(format!("{} got a new id: theirs was taken", count(report.renumbered, "notification")));
    }
    for (table, columns) in &staged.ignored {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        lines.push(format!("not looked at in {table}: {}", columns.join(", ")));
    }
    for listed in report.listed.iter().take(SHOWN) {
        lines.push(format!("listed: {} {}: {}", listed.table, listed.id, listed.why));
    }
    if report.listed.len() > SHOWN {
        lines.push(format!("… and {} more", report.listed.len() - SHOWN));
    }
    if report.resumed {
        lines.push("an interrupted import of this source was gone on with".to_owned());
    }
    lines.join("\n")
}
