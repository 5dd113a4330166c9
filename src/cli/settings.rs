//! The options every command shares, and what they lead to: the configuration and the templates.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::failure::{Exit, Failure};
use crate::{
    config::{self, Config, LogFormat, Secrets, Sources},
    daemon::{self, Problems},
    model::Problem,
    template::Templates,
};

/// What a command that is no daemon logs, unless asked for more: it speaks for itself.
const QUIET_LEVEL: &str = "warn";

#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Configuration file [default: config/tarishi.toml if there is one, else the built-in defaults]
    #[arg(long, global = true, value_name = "FILE", env = "TARISHI_CONFIG", hide_env_values = true, help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// What log lines on stderr look like; auto is pretty on a terminal and json elsewhere
    #[arg(long, global = true, value_name = "FORMAT", value_enum, help_heading = "Global options")]
    pub log_format: Option<LogFormatArg>,
    /// How much is logged: error, warn, info, debug, trace, or per module as in `info,tarishi::store=debug`
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    Auto,
    Pretty,
    Json,
}

impl LogFormatArg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

impl GlobalArgs {
    /// Where the configuration comes from: file, environment, these options.
    pub fn sources(&self) -> Sources {
        let default = || Some(PathBuf::from(config::DEFAULT_PATH)).filter(|path| path.exists());
        let mut overrides = Vec::new();
        if let Some(format) = self.log_format {
            overrides.push(("log.format".to_owned(), format.as_str().into()));
        }
        if let Some(level) = &self.log_level {
            overrides.push(("log.level".to_owned(), level.as_str().into()));
        }
        Sources { file: self.config.clone().or_else(default), env: environment(), overrides, ..Sources::default() }
    }

    /// The configuration for commands that need no secret of it: an operator may ask without being allowed to read them.
    pub fn load_without_secrets(&self) -> Result<Config, Vec<Problem>> {
        config::load(&Sources { secrets: Secrets::None, ..self.sources_without_keys() })
    }

    pub fn sources_without_keys(&self) -> Sources {
        let mut sources = self.sources();
        sources.overrides.push(("auth.jwt.keys".to_owned(), toml::Value::Array(Vec::new())));
        sources
    }

    /// The log of a command that is no daemon.
    pub fn start_quiet_log(&self) -> Result<(), Failure> {
        let format = match self.log_format {
            None | Some(LogFormatArg::Auto) => LogFormat::Auto,
            Some(LogFormatArg::Pretty) => LogFormat::Pretty,
            Some(LogFormatArg::Json) => LogFormat::Json,
        };
        super::log::start(format, self.log_level.as_deref().unwrap_or(QUIET_LEVEL))
    }
}

/// Loads the configuration without its secrets, or tells everything that is wrong.
pub fn load_without_secrets(global: &GlobalArgs) -> Result<Config, Failure> {
    global.load_without_secrets().map_err(|problems| Failure::configuration(&name(&global.sources()), problems))
}

/// Loads the configuration with the one secret that speaking to the broker takes, or tells everything that is wrong.
pub fn load_with_broker_password(global: &GlobalArgs) -> Result<Config, Failure> {
    load(&Sources { secrets: Secrets::Broker, ..global.sources_without_keys() })
}

/// Loads `sources`, or tells everything that is wrong.
pub fn load(sources: &Sources) -> Result<Config, Failure> {
    config::load(sources).map_err(|problems| Failure::configuration(&name(sources), problems))
}

/// `the configuration (config/tarishi.toml)`.
pub fn name(sources: &Sources) -> String {
    match &sources.file {
        Some(file) => format!("the configuration ({})", file.display()),
        None => "the configuration".to_owned(),
    }
}

/// Loads the templates `config` names, or tells everything that is wrong.
pub fn load_templates(config: &Config) -> Result<Templates, Failure> {
    daemon::load_templates(config).map_err(|Problems(problems)| template_failure(&config.templates.path, &problems))
}

/// Started in the wrong folder is the most common mistake, and worth saying before anything is made there.
pub fn check_templates_folder(config: &Config) -> Result<(), Failure> {
    let path = &config.templates.path;
    if path.is_dir() { Ok(()) } else { Err(template_failure(path, &[])) }
}

/// The failure that problems with the templates in `path` are. A folder that is not there is one problem, and a common one.
pub fn template_failure(path: &Path, problems: &[Problem]) -> Failure {
    if path.is_dir() {
        let located = problems.iter().map(|problem| located(path, problem)).collect();
        return Failure::configuration(&format!("the templates folder {}", path.display()), located);
    }
    let here = std::env::current_dir().map_or_else(|_| "here".to_owned(), |folder| format!("in {}", folder.display()));
    let message = format!("there is no templates folder `{}` {here}", path.display());
    let hint = "go to the folder that has it, or name it with `templates.path` in the configuration or TARISHI__TEMPLATES__PATH";
    Failure::new(Exit::Configuration, message, hint)
}

/// A problem of the templates in `folder`, as whoever is outside of it finds its file.
pub fn located(folder: &Path, problem: &Problem) -> Problem {
    Problem { path: folder.join(&problem.path).display().to_string(), ..problem.clone() }
}

/// Of the environment what is text; nothing of ours is anything else.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
