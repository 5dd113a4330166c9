//! Tickets in place of tokens, and tokens that are taken back.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tarishi::model::Timestamp;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    auth::{Socket, open, told},
    support::{Api, Commands, Daemon, PATIENCE, Redis, SECRET, Setup, claims, problems, token, until},
};

/// A token of user 42 with these claims changed.
fn token_with(changes: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims(changes), &key).unwrap()
}

async fn ticket(public: &Api, token: &str) -> String {
    let answer = public.with_bearer(token).post("/v1/tickets", &json!({})).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.expect(201)["ticket"].as_str().unwrap().to_owned()
}

async fn opened(daemon: &Daemon, token: &str) -> Socket {
    open(daemon, &format!("?token={token}"), &[]).await.unwrap()
}

/// Reads on to the close and gives its code and reason.
async fn closed(socket: &mut Socket) -> (u16, String) {
    let reading = async {
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                let frame = frame.unwrap();
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

/// It answers, so it is open.
async fn is_open(socket: &mut Socket) -> bool {
    socket.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    let reading = async {
        loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                return text.contains("pong");
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

/// The first event of this name in the daemon's log, once it is there.
async fn line(daemon: &Daemon, name: &str) -> Value {
    let event = |line: &str| serde_json::from_str(line).ok().filter(|event: &Value| event["message"] == name);
    daemon.process.find_line(event).await.unwrap()
}

fn revoked() -> (u16, String) {
    (4401, "token revoked".to_owned())
}

#[tokio::test]
async fn a_ticket_opens_one_socket_for_as_long_as_its_token() {
    let mut setup = Setup::new().with("auth.jwt.leeway", "0s").with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let api = daemon.public_api();
    let answer = api.with_bearer(&token("42")).with_header("origin", "https://app.example.com").post("/v1/tickets", &json!({})).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    let body = answer.expect(201);
    assert_eq!(body["expires_in"], 30);
    let query = format!("?ticket={}", body["ticket"].as_str().unwrap());
    let mut socket = open(&daemon, &query, &[]).await.unwrap();
    assert!(is_open(&mut socket).await);
    assert_eq!(open(&daemon, &query, &[]).await.map(drop), Err(403), "used");
    let mut told_why = open(&daemon, &format!("{query}&v=1"), &[]).await.unwrap();
    assert_eq!(closed(&mut told_why).await, (4401, "ticket used before".to_owned()));
    // It does not make up for a token, is not made by a ticket, and cannot be made up.
    api.post(&format!("/v1/tickets{query}"), &json!({})).await.expect(401);
    api.with_bearer(body["ticket"].as_str().unwrap()).post("/v1/tickets", &json!({})).await.expect(401);
    for forged in ["", "x", &"A".repeat(300)] {
        assert_eq!(open(&daemon, &format!("?ticket={forged}"), &[]).await.map(drop), Err(403), "{forged}");
    }
    // Its socket ends with the token.
    let short = token_with(&json!({ "exp": Timestamp::now().as_millis() / 1000 + 2 }));
    let mut socket = open(&daemon, &format!("?ticket={}", ticket(&api, &short).await), &[]).await.unwrap();
    assert_eq!(closed(&mut socket).await, (4401, "token expired".to_owned()));
    // Of what was made before a restart nobody knows whether it was used.
    let before = ticket(&api, &token("42")).await;
    daemon.process.kill().await;
    let daemon = setup.start().await;
    assert_eq!(open(&daemon, &format!("?ticket={before}"), &[]).await.map(drop), Err(403));
    assert!(!daemon.process.lines().iter().any(|line| line.contains(&before)), "a ticket in the log");
}

#[tokio::test]
async fn over_redis_a_ticket_opens_once_whichever_process_made_or_saw_it() {
    let redis = Redis::start().await;
    let mut setup = Setup::new().with("bus.url", &redis.url()).with("auth.ticket_lifetime", "10m");
    let daemon = setup.start().await;
    let api = daemon.public_api();
    let connected = async |daemon: &Daemon| {
        let is_connected = async || daemon.api.get("/v1/status").await.expect(200)["bus"]["connected"] == true;
        until("Redis", async || is_connected().await.then_some(())).await;
    };
    connected(&daemon).await;
    let (used, unused) = (ticket(&api, &token("42")).await, ticket(&api, &token("42")).await);
    let opens = async |daemon: &Daemon, ticket: &str| is_open(&mut open(daemon, &format!("?ticket={ticket}"), &[]).await.unwrap()).await;
    assert!(opens(&daemon, &used).await);
    daemon.process.kill().await;
    let daemon = setup.start().await;
    connected(&daemon).await;
    let refusal = async |ticket: &str| closed(&mut open(&daemon, &format!("?v=1&ticket={ticket}"), &[]).await.unwrap()).await;
    assert_eq!(refusal(&used).await, (4401, "ticket used before".to_owned()));
    assert!(opens(&daemon, &unused).await);
    assert_eq!(refusal(&unused).await, (4401, "ticket used before".to_owned()));
    // While nobody can be asked, no ticket is good.
    let late = ticket(&daemon.public_api(), &token("42")).await;
    redis.pause();
    assert_eq!(refusal(&late).await, (4401, "whether this ticket was used cannot be told now; try again soon, or with a token".to_owned()));
    assert!(is_open(&mut opened(&daemon, &token("42")).await).await);
}

#[tokio::test]
async fn a_ticket_expires() {
    let mut setup = Setup::new().with("auth.ticket_lifetime", "1s");
    let daemon = setup.start().await;
    let query = format!("?v=1&ticket={}", ticket(&daemon.public_api(), &token("42")).await);
    let over = Timestamp::now().saturating_add(Duration::from_secs(1));
    until("it is over", async || (Timestamp::now() > over).then_some(())).await;
    assert_eq!(closed(&mut open(&daemon, &query, &[]).await.unwrap()).await, (4401, "ticket expired".to_owned()));
}

#[tokio::test]
async fn revoking_a_user_closes_their_sockets_and_a_new_login_works() {
    let key = "the key of the backend";
    let hash = format!("{:x}", Sha256::digest(key));
    let entry = format!("[{{ name = \"backend\", sha256 = \"{hash}\", scopes = [\"operate\", \"read\"] }}]");
    let mut setup = Setup::new().with("admin.api_keys", &entry);
    let daemon = setup.start().await;
    let (admin, public) = (daemon.api.with_bearer(key), daemon.public_api());
    let old = token("42");
    let unused = ticket(&public, &old).await;
    let by_ticket = format!("?ticket={}", ticket(&public, &old).await);
    let mut sockets = [opened(&daemon, &old).await, opened(&daemon, &old).await, open(&daemon, &by_ticket, &[]).await.unwrap()];
    let mut other = opened(&daemon, &token("43")).await;
    daemon.api.post("/v1/revocations", &json!({ "user_id": 42 })).await.expect(401);
    let made = admin.post("/v1/revocations", &json!({ "user_id": 42, "reason": "stolen phone" })).await.expect(201);
    for socket in &mut sockets {
        assert_eq!(closed(socket).await, revoked());
    }
    assert!(is_open(&mut other).await);
    assert_eq!(
        (&made["user_id"], &made["reason"], &made["revoked_by"], &made["sockets_closed"]),
        (&json!("42"), &json!("stolen phone"), &json!("backend"), &json!(3))
    );
    let made_known = line(&daemon, "tokens revoked").await;
    assert_eq!((&made_known["by"], &made_known["user"], &made_known["sockets"]), (&json!("backend"), &json!("42"), &json!(3)));
    assert!(made_known.get("reason").is_none());
    // The old token is good for nothing, nor is its ticket; one of a new login is, and one without a date is not.
    assert_eq!(told(&public, &old).await, "token revoked");
    assert_eq!(open(&daemon, &format!("?token={old}"), &[]).await.map(drop), Err(403));
    assert_eq!(open(&daemon, &format!("?ticket={unused}"), &[]).await.map(drop), Err(403));
    let new = token_with(&json!({ "iat": Timestamp::now().as_millis() / 1000 + 1 }));
    assert_eq!(told(&public, &new).await, "good");
    assert_eq!(told(&public, &token_with(&json!({ "iat": null }))).await, "token revoked");
    let mut again = opened(&daemon, &new).await;
    assert!(is_open(&mut again).await);

    daemon.process.kill().await;
    let daemon = setup.start().await;
    let (admin, public) = (daemon.api.with_bearer(key), daemon.public_api());
    assert_eq!((told(&public, &old).await, told(&public, &new).await), ("token revoked".to_owned(), "good".to_owned()));
    let listed = admin.get("/v1/revocations?user_id=42").await.expect(200);
    assert_eq!(listed["revocations"][0]["id"], made["id"]);
    let path = format!("/v1/revocations/{}", made["id"]);
    assert_eq!(admin.delete(&path).await.expect(200)["user_id"], "42");
    admin.delete(&path).await.expect_problem(404, "not_found");
    assert_eq!(told(&public, &old).await, "good");
    assert_eq!(line(&daemon, "revocation taken back").await["by"], "backend");
}

#[tokio::test]
async fn revoking_one_token_leaves_the_others() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let public = daemon.public_api();
    let (doomed, other) = (token_with(&json!({ "jti": "doomed" })), token_with(&json!({ "jti": "other" })));
    let (mut closing, mut staying) = (opened(&daemon, &doomed).await, opened(&daemon, &other).await);
    let server = format!("http://{}", daemon.admin);
    let commands = Commands::new().with("TARISHI_SERVER", &server);
    let said = commands.run(&["revoke", "--jti", "doomed", "--reason", "lost"]).await.out();
    assert_eq!(said.trim(), "revoked: the token; 1 socket closed");
    assert_eq!(closed(&mut closing).await, revoked());
    assert!(is_open(&mut staying).await);
    assert_eq!((told(&public, &doomed).await, told(&public, &other).await), ("token revoked".to_owned(), "good".to_owned()));
    let made = &commands.run(&["revoke", "--user", "42", "--json"]).await.lines()[0];
    assert_eq!((&made["user_id"], &made["sockets_closed"], &made["revoked_by"]), (&json!("42"), &json!(1), &json!("loopback")));
    assert_eq!(closed(&mut staying).await, revoked());
    commands.run(&["revoke", "--user", "42", "--jti", "x"]).await.failed(2, &["cannot be used with"]);
    commands.run(&["revoke"]).await.failed(2, &["--user"]);
    daemon.process.kill().await;
    let daemon = setup.start().await;
    assert_eq!(told(&daemon.public_api(), &doomed).await, "token revoked");
    let listed = daemon.api.get("/v1/revocations?limit=1").await.expect(200);
    let next = daemon.api.get(&format!("/v1/revocations?limit=1&cursor={}", listed["next_cursor"].as_str().unwrap())).await.expect(200);
    assert_eq!((&listed["revocations"][0]["user_id"], &next["revocations"][0]["jti"]), (&json!("42"), &json!("doomed")));
    let refused = daemon.api.post("/v1/revocations", &json!({ "user": 42 })).await.expect_problem(422, "invalid");
    assert!(problems(&refused)[0].starts_with("$.user: unknown member"), "{refused}");
}
