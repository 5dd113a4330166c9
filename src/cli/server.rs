//! Which daemon the commands speak to, and with which key.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::{
    client::{Client, Patience},
    failure::Failure,
    output,
    settings::GlobalArgs,
};
use crate::config::{self, reachable};

/// Where the daemon may be besides `--server`.
const SERVER_VARIABLE: &str = "TARISHI_SERVER";
/// Where the key may be besides `--api-key-file`.
const API_KEY_VARIABLE: &str = "TARISHI_API_KEY";

/// How to reach the running daemon.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// The daemon's admin listener [default: `admin.listen` of the configuration]
    #[arg(long, value_name = "URL", env = SERVER_VARIABLE, hide_env_values = true)]
    pub server: Option<String>,
    /// File with the API key, where the daemon asks for one; or set `TARISHI_API_KEY`
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl ServerArgs {
    /// Whether any of it was written on the command line. What the environment says is for all commands.
    pub fn is_given(&self) -> bool {
        let is_everywhere = || std::env::var(SERVER_VARIABLE).ok() == self.server;
        self.api_key_file.is_some() || self.server.is_some() && !is_everywhere()
    }

    pub fn connect(&self, global: &GlobalArgs) -> Result<Client, Failure> {
        let server = match &self.server {
            Some(server) => server.clone(),
            None => configured_server(global),
        };
        Client::new(&server, self.api_key()?, Patience::default())
    }

    pub fn api_key(&self) -> Result<Option<SecretString>, Failure> {
        let key = match &self.api_key_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(|error| Failure::unreadable(file, &error))?),
            None => std::env::var(API_KEY_VARIABLE).ok(),
        };
        Ok(key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).map(SecretString::from))
    }
}

/// Where the configuration says the daemon listens. With a broken one the daemon may still run: then where it does by default.
fn configured_server(global: &GlobalArgs) -> String {
    if let Ok(config) = global.load_without_secrets() {
        return format!("http://{}", reachable(config.admin.listen));
    }
    let default = config::load(&config::Sources::default()).expect("the defaults are good, which a test holds");
    let url = format!("http://{}", default.admin.listen);
    output::note(&format!("note: the configuration has problems (see `tarishi check`); asking {url}"));
    url
}
