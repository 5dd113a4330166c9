//! `tarishi revoke`: tokens that are not good any more.

use clap::Args;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    failure::Failure,
    output::{self, count},
    server::ServerArgs,
    settings::GlobalArgs,
};
use crate::model::{Revocation, UserId};

const AFTER_HELP: &str = "\
Examples:
  tarishi revoke --user 42
  tarishi revoke --user 42 --reason stolen-phone
  tarishi revoke --jti 0d3c7c1d2f1e4f0c9a5b7e6d8c9b0a1f --json

With --user every token of theirs that was issued up to now is refused; the next login works again. With --jti it is one token, the one whose claim `jti` says so. Sockets that such tokens have opened are closed at once, with 4401.

It is kept for auth.revocation_retention. To see what is revoked, or to take it back: GET /v1/revocations, DELETE /v1/revocations/ID on the admin listener.

Exit codes: 0 done; 2 usage; 4 the daemon cannot be reached; 5 it refused.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RevokeArgs {
    #[command(flatten)]
    what: WhatArgs,
    /// Why, for whoever looks at it later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct WhatArgs {
    /// Whose tokens
    #[arg(long, short, value_name = "ID")]
    user: Option<UserId>,
    /// The id of one token
    #[arg(long, value_name = "JTI")]
    jti: Option<String>,
}

/// What the daemon did.
#[derive(Debug, Deserialize, Serialize)]
struct Done {
    #[serde(flatten)]
    revocation: Revocation,
    sockets_closed: u64,
}

pub async fn run(args: &RevokeArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let client = args.server.connect(global)?;
    let mut body = match (&args.what.user, &args.what.jti) {
        (Some(user), _) => json!({ "user_id": user }),
        (None, jti) => json!({ "jti": jti }),
    };
    if let Some(reason) = &args.reason {
        body["reason"] = json!(reason);
    }
    let done: Done = client.send(Method::POST, &["v1", "revocations"], &body, output::note).await?;
    if args.json {
        return output::print_json_line(&done);
    }
    let what = match &args.what.user {
        Some(user) => format!("every token of user {user} up to {}", done.revocation.revoked_at),
        None => "the token".to_owned(),
    };
    output::print(&format!("revoked: {what}; {} closed", count(done.sockets_closed, "socket")))
}
