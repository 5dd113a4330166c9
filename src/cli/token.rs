//! `tarishi token`: what a backend would give its user, for trying things out.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use secrecy::SecretString;
use serde_json::json;

use super::{
    dev::SECRET_FILE,
    failure::{Exit, Failure},
    output,
    settings::{self, GlobalArgs},
};
use crate::{
    config::{Algorithm, Config, JwtConfig, JwtKey, Sources},
    model::{Timestamp, UserId},
    socket::sign_development_token,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi token --user 42
  tarishi token --user 42 --lifetime 5m --json
  websocat \"ws://127.0.0.1:8000/ws/notifications/?token=$(tarishi token --user 42)\"

It is signed with the first of [[auth.jwt.keys]], or with var/dev-jwt.secret, which `tarishi dev` makes, when no key is configured.
For development only: production tokens come from your backend.";
/// What the development token calls its user.
const USER_CLAIM: &str = "user_id";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct TokenArgs {
    /// Whose token
    #[arg(long, short, value_name = "ID")]
    user: UserId,
    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    lifetime: Duration,
    /// Print JSON: `token`, `user_id`, `expires_at`, `url`
    #[arg(long)]
    json: bool,
}

pub fn run(args: &TokenArgs, global: &GlobalArgs) -> Result<(), Failure> {
    // A short secret is for whoever checks tokens to refuse.
    let sources = Sources { development: true, ..global.sources() };
    let mut config = settings::load(&sources)?;
    if config.auth.jwt.keys.is_empty() {
        if !Path::new(SECRET_FILE).exists() {
            let hint = "run `tarishi dev` here once, which makes one, or configure [[auth.jwt.keys]]";
            return Err(Failure::new(Exit::Configuration, format!("there is no key to sign with, and no {SECRET_FILE}"), hint));
        }
        let key = super::dev::key();
        config = settings::load(&Sources { overrides: [sources.overrides.clone(), vec![key]].concat(), ..sources })?;
    }
    let (kid, secret, place) = key(&config.auth.jwt)?;
    let now = Timestamp::now();
    let token = sign_development_token(&secret, kid.as_deref(), &args.user, args.lifetime, now);
    let expires_at = now.saturating_add(args.lifetime);
    let url = socket_url(&config, &token);
    for why in refusals(&config.auth.jwt) {
        output::note(&format!("warning: the daemon will refuse this token: {why}"));
    }
    if args.json {
        return output::print_json(&json!({ "token": token, "user_id": args.user, "expires_at": expires_at, "url": url }));
    }
    output::note(&format!("signed with {place}; good for user {} until {expires_at}", args.user));
    output::note(&format!("connect to {}", socket_url(&config, "TOKEN")));
    output::print(&token)
}

fn key(jwt: &JwtConfig) -> Result<(Option<String>, SecretString, String), Failure> {
    let signs = |key: &&JwtKey| key.algorithm.only() == Some(Algorithm::HS256);
    let Some((key, secret)) = jwt.keys.iter().find(signs).and_then(|key| Some((key, key.secret()?))) else {
        return Err(Failure::new(Exit::Configuration, "no configured key signs tokens", "add one with algorithm = \"HS256\""));
    };
    let file = key.secret_file.as_ref().map(|file: &PathBuf| file.display().to_string());
    let place = file.unwrap_or_else(|| "the first of [[auth.jwt.keys]]".to_owned());
    Ok((key.kid.clone(), secret.clone(), place))
}

/// Where `token` opens the live notifications socket.
pub fn socket_url(config: &Config, token: &str) -> String {
    format!("{}/ws/notifications/?token={token}", config.public.socket_base(&config.public.listen))
}

/// What of the configuration a development token does not satisfy.
pub fn refusals(jwt: &JwtConfig) -> Vec<String> {
    let mut refusals = Vec::new();
    if jwt.user_claim != USER_CLAIM {
        refusals.push(format!("auth.jwt.user_claim is `{}`, and it carries `{USER_CLAIM}`", jwt.user_claim));
    }
    for (name, wanted) in [("audience", &jwt.audience), ("issuer", &jwt.issuer)] {
        if wanted.is_some() {
            refusals.push(format!("auth.jwt.{name} is set, and it carries none"));
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_would_refuse_is_told() {
        let mut jwt = crate::config::load(&Sources::default()).unwrap().auth.jwt;
        assert_eq!(refusals(&jwt), Vec::<String>::new());
        jwt.audience = Some("tarishi".to_owned());
        jwt.user_claim = "sub".to_owned();
        assert_eq!(
            refusals(&jwt),
            ["auth.jwt.user_claim is `sub`, and it carries `user_id`", "auth.jwt.audience is set, and it carries none"]
        );
        assert_eq!(key(&jwt).unwrap_err().exit, Exit::Configuration);
    }
}
