//! `tarishi check`: everything that would keep the daemon from starting, at once, and what it would start with.

use clap::Args;
use serde_json::json;

use super::{
    failure::Failure,
    output::{self, count},
    probe,
    settings::{self, GlobalArgs},
};
use crate::{
    config::{self, Config, Sources},
    daemon::{self, Problems},
    model::Problem,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi check
  tarishi check > /dev/null              problems only
  tarishi check --config /etc/tarishi/tarishi.toml
  tarishi check --json | jq .config.channel.email.providers

  tarishi check --probe                  whether the providers would take our messages; sends nothing

It prints the configuration in effect (defaults, file, environment, in this order) as TOML on stdout, with *** for secrets, and problems on stderr. Every key and its meaning: `tarishi schema config`.

Exit codes: 0 good, 3 problems, those of the providers included.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// Print problems and configuration as JSON
    #[arg(long)]
    json: bool,
    /// Ask every provider in use whether our credentials are good, and print the answers instead of the configuration; nothing is sent
    #[arg(long)]
    probe: bool,
}

pub fn run(args: &CheckArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let sources = global.sources();
    let loaded = config::load(&sources);
    let (problems, templates) = match &loaded {
        Ok(config) => {
            let mut problems = daemon::load_tls(config).err().map_or_else(Vec::new, |Problems(problems)| problems);
            problems.extend(daemon::account_problems(config));
            (problems, Some(config.clone()))
        }
        Err(problems) => (problems.clone(), templates_alone(&sources)),
    };
    let (template_problems, names) = match templates.as_ref().map(daemon::load_templates) {
        Some(Ok(templates)) => (Vec::new(), templates.list().count()),
        Some(Err(Problems(problems))) => (problems, 0),
        None => (Vec::new(), 0),
    };
    let found = problems.len() + template_problems.len();
    if let (true, 0, Ok(config)) = (args.probe, found, &loaded) {
        return probe::run(config, args.json);
    }
    if args.json {
        let config = loaded.as_ref().ok();
        output::print_json(&json!({
            "good": problems.is_empty() && template_problems.is_empty(),
            "configuration_problems": problems,
            "template_problems": template_problems,
            "config": config,
        }))?;
    } else if let Ok(config) = &loaded {
        output::print(config.to_toml_masked().trim_end())?;
    }
    if found == 0 {
        if !args.json {
            output::note(&format!("good: {}, {}", settings::name(&sources), count(names as u64, "template")));
        }
        return Ok(());
    }
    Err(failure(&sources, problems, &template_problems, templates.as_ref()))
}

fn failure(sources: &Sources, problems: Vec<Problem>, in_templates: &[Problem], config: Option<&Config>) -> Failure {
    let broken = config.filter(|_| !in_templates.is_empty());
    let templates_failure = broken.map(|config| settings::template_failure(&config.templates.path, in_templates));
    match (templates_failure, problems.is_empty()) {
        (Some(failure), true) => failure,
        (None, _) => Failure::configuration(&settings::name(sources), problems),
        (Some(templates_failure), false) => {
            // Both at once: one run of this command should be enough.
            templates_failure.print();
            Failure::configuration(&settings::name(sources), problems)
        }
    }
}

/// The configuration with nothing taken from a broken one but its `[templates]`, so that they too can be checked.
fn templates_alone(sources: &Sources) -> Option<Config> {
    let section = "templates";
    let table: toml::Table = match &sources.file {
        Some(file) => std::fs::read_to_string(file).ok()?.parse().ok()?,
        None => toml::Table::new(),
    };
    let keys = table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
    let overrides = keys.map(|(key, value)| (format!("{section}.{key}"), value.clone())).collect();
    let env = sources.env.iter().filter(|(name, _)| name.starts_with("TARISHI__TEMPLATES")).cloned().collect();
    config::load(&Sources { env, overrides, ..Sources::default() }).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::failure::Exit, *};

    #[test]
    fn templates_are_found_in_a_broken_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tarishi.toml");
        std::fs::write(&file, "[store]\nulr = 'x'\n[templates]\npath = 'elsewhere'\n").unwrap();
        let sources = Sources { file: Some(file), ..Sources::default() };
        assert_eq!(templates_alone(&sources).unwrap().templates.path, std::path::Path::new("elsewhere"));
    }

    #[test]
    fn problems_are_configuration() {
        let problem = || vec![Problem::new("store.url", "empty", "")];
        assert_eq!(failure(&Sources::default(), problem(), &[], None).exit, Exit::Configuration);
    }
}
