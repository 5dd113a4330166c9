//! `tarishi import-env`: the settings of the replaced Django system, as a configuration of ours with its secrets in files of their own.

mod file;
mod translate;
mod write;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use self::translate::{Plan, translate};
use super::{
    failure::{Exit, Failure},
    output,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi import-env --env-file .env
  tarishi import-env --env-file .env --sms-prefix +255
  tarishi import-env --env-file .env --dry-run
  tarishi import-env --env-file /srv/app/.env --out /etc/tarishi
  tarishi import-env --env-file .env --json | jq .missing

Reads SENDGRID_API_KEY, SENDGRID_FROM_EMAIL or DEFAULT_FROM_EMAIL, TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_PHONE_NUMBER, EMAIL_HOST \
and what goes with it, GOOGLE_APPLICATION_CREDENTIALS or FIREBASE_CREDENTIALS_PATH, MESSAGE_ENCRYPTION_KEY, SECRET_KEY, REDIS_URL and \
FRONTEND_URL. Writes tarishi.toml, and every secret into a file that only its owner reads. No secret is printed. What is there already is \
left alone unless --force is given.

Exit codes: 0 done; 1 it cannot be written, or something is there already; 2 usage; 3 what was read cannot be used.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ImportEnvArgs {
    /// File with NAME=value lines; without it the environment is read
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Folder for tarishi.toml and the folder `secrets`
    #[arg(long, value_name = "DIR", default_value = "config")]
    out: PathBuf,
    /// What phone numbers may begin with, such as +255; SMS go nowhere else. Any number of them
    #[arg(long = "sms-prefix", value_name = "PREFIX", value_parser = prefix)]
    sms_prefixes: Vec<String>,
    /// Replace what is there already
    #[arg(long)]
    force: bool,
    /// Write nothing, and show what would be written
    #[arg(long)]
    dry_run: bool,
    /// Print what went where as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ImportEnvArgs) -> Result<(), Failure> {
    let variables = match &args.env_file {
        Some(file) => {
            let bytes = std::fs::read(file).map_err(|error| Failure::unreadable(file, &error))?;
            file::read(&bytes).map_err(|problems| Failure::configuration(&file.display().to_string(), problems))?
        }
        None => file::Variables::of_environment(),
    };
    let source = args.env_file.as_ref().map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    // What a configuration names is found from wherever the daemon is started.
    let out = std::path::absolute(&args.out).map_err(|error| Failure::unreadable(&args.out, &error))?;
    let plan = translate(&variables, &out, &args.sms_prefixes).map_err(|problems| Failure::configuration(&source, problems))?;
    if plan.moves.is_empty() {
        if !plan.blank.is_empty() {
            let hint = "give them their values, or take them out";
            let message = format!("{source} has nothing in {}", plan.blank.join(", "));
            return Err(Failure::new(Exit::Configuration, message, hint));
        }
        if let Some((variable, without)) = plan.useless.first() {
            let message = format!("{source} has {variable}, and nothing that it goes with");
            return Err(Failure::new(Exit::Configuration, message, *without));
        }
        let hint = "name the file with --env-file; `tarishi import-env --help` lists the variables";
        return Err(Failure::new(Exit::Configuration, format!("{source} has none of the variables that are read"), hint));
    }
    if !args.dry_run {
        write::write(&plan, &out, args.force)?;
    }
    if args.json { tell_json(args, &plan) } else { tell(args, &plan, &source) }
}

fn prefix(text: &str) -> Result<String, String> {
    let is_prefix =
        text.strip_prefix('+').is_some_and(|digits| (1..=14).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()));
    if is_prefix { Ok(text.to_owned()) } else { Err("not the beginning of a phone number; write it like +255".to_owned()) }
}

fn tell_json(args: &ImportEnvArgs, plan: &Plan) -> Result<(), Failure> {
    output::print_json(&json!({
        "written": !args.dry_run,
        "config": plan.config_file,
        "moves": plan.moves.iter().map(|moved| json!({ "variable": moved.variable, "key": moved.key, "file": moved.file })).collect::<Vec<_>>(),
        "missing": plan.missing.iter().map(|(variable, meaning)| json!({ "variable": variable, "without_it": meaning })).collect::<Vec<_>>(),
        "notes": plan.notes,
    }))
}

fn tell(args: &ImportEnvArgs, plan: &Plan, source: &str) -> Result<(), Failure> {
    let rows = plan.moves.iter().map(|moved| {
        let file = moved.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
        vec![moved.variable.to_owned(), moved.key.clone(), file]
    });
    output::print(&output::table(&["VARIABLE", "KEY", "SECRET IN"], rows))?;
    if !plan.missing.is_empty() {
        let rows = plan.missing.iter().map(|(variable, meaning)| vec![(*variable).to_owned(), (*meaning).to_owned()]);
        output::print(&format!("\n{}", output::table(&["NOT FOUND", "WITHOUT IT"], rows)))?;
    }
    for note in &plan.notes {
        output::print(&format!("\nnote: {note}"))?;
    }
    let config = plan.config_file.display();
    if args.dry_run {
        output::print(&format!("\nNothing is written. {config} would be:\n\n{}", plan.config.trim_end()))?;
        return Ok(());
    }
    output::print(&format!(
        "\nWritten from {source}: {config}\n\nNext:\n  tarishi check --config {config}\n  tarishi check --config {config} --probe    asks the \
         providers whether the credentials are good\n  tarishi run --config {config}"
    ))
}
