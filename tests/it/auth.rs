//! Who gets in: every algorithm with tokens of another program, attempts to get around them, key sets that change and fail, cookies.

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, client::IntoClientRequest as _, http::HeaderName},
};

use crate::support::{Api, Daemon, KeyServer, Mood, PATIENCE, SECRET, Setup, Signer, claims, token, until};

pub type Socket = WebSocketStream<TcpStream>;

const LONG_SECRET: &str = "a secret of sixty-four bytes, as RFC 7518 would have it for HS512";

/// Opens the notifications socket with this query and these headers; the status when it is refused.
pub async fn open(daemon: &Daemon, query: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/ws/notifications/{query}", daemon.public).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let stream = TcpStream::connect(daemon.public).await.unwrap();
    match tokio::time::timeout(PATIENCE, client_async(request, stream)).await.unwrap() {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// What is said to whoever asks for a ticket with this token: `good`, or why not.
pub async fn told(public: &Api, token: &str) -> String {
    let answer = public.with_bearer(token).post("/v1/tickets", &json!({})).await;
    match answer.status {
        201 => "good".to_owned(),
        401 => answer.body["detail"].as_str().unwrap().to_owned(),
        status => panic!("{status}: {}", answer.text),
    }
}

fn keys(entries: &[String]) -> String {
    format!("[{}]", entries.join(", "))
}

#[tokio::test]
async fn every_algorithm_is_checked_with_its_own_key_alone() {
    let signer = Signer::new().await;
    let public = |algorithm: &str, name: &str| {
        let file = signer.public_key_file(name);
        format!("{{ algorithm = \"{algorithm}\", kid = \"{name}\", public_key_file = \"{}\" }}", file.display())
    };
    let secret = |algorithm: &str| format!("{{ algorithm = \"{algorithm}\", kid = \"{algorithm}\", secret = \"{LONG_SECRET}\" }}");
    let entries = [secret("HS256"), secret("HS384"), secret("HS512"), public("RS256", "rsa"), public("ES256", "ec"), public("EdDSA", "ed")];
    let mut setup = Setup::new().with("auth.jwt.keys", &keys(&entries));
    let daemon = setup.start().await;
    let api = daemon.public_api();

    let hmac = |algorithm: &str, kid: &str| json!({ "algorithm": algorithm, "secret": LONG_SECRET, "header": { "kid": kid }, "claims": claims(&json!({})) });
    let pair = |algorithm: &str, key: &str, kid: &str| json!({ "algorithm": algorithm, "key": key, "header": { "kid": kid }, "claims": claims(&json!({})) });
    let changed = |changes: Value| json!({ "algorithm": "RS256", "key": "rsa", "header": { "kid": "rsa" }, "claims": claims(&changes) });
    let with_header = |more: Value| {
        let mut request = changed(json!({}));
        more.as_object().unwrap().iter().for_each(|(name, value)| request["header"][name] = value.clone());
        request
    };
    let now = tarishi::model::Timestamp::now().as_millis() / 1000;
    let another = signer.key_set(&["rsa-next"])["keys"][0].clone();
    let cases = [
        (hmac("HS256", "HS256"), "good"),
        (hmac("HS384", "HS384"), "good"),
        (hmac("HS512", "HS512"), "good"),
        (pair("RS256", "rsa", "rsa"), "good"),
        (pair("ES256", "ec", "ec"), "good"),
        (pair("EdDSA", "ed", "ed"), "good"),
        // The algorithm is the key's, whatever the token says.
        (hmac("HS512", "HS256"), "token signed with another algorithm than its key is for"),
        (pair("RS512", "rsa", "rsa"), "token signed with another algorithm than its key is for"),
        (pair("PS256", "rsa", "rsa"), "token signed with another algorithm than its key is for"),
        (
            json!({ "algorithm": "HS256", "public_as_secret": "rsa", "header": { "kid": "rsa" }, "claims": claims(&json!({})) }),
            "token signed with another algorithm than its key is for",
        ),
        (
            json!({ "algorithm": "HS256", "public_as_secret": "rsa", "header": { "kid": "HS256" }, "claims": claims(&json!({})) }),
            "token signature is wrong",
        ),
        (json!({ "algorithm": "none", "header": { "kid": "rsa" }, "claims": claims(&json!({})) }), "not a token"),
        (json!({ "algorithm": "none", "claims": claims(&json!({})) }), "not a token"),
        // The key is ours, whatever the token brings.
        (pair("RS256", "rsa-next", "rsa"), "token signature is wrong"),
        (pair("RS256", "rsa", "unknown"), "token signed by an unknown key"),
        (json!({ "algorithm": "RS256", "key": "rsa", "claims": claims(&json!({})) }), "token signed by an unknown key"),
        (
            json!({ "algorithm": "RS256", "key": "rsa-next", "header": { "kid": "rsa", "jwk": another, "jku": "https://evil.example/" },
                    "claims": claims(&json!({})) }),
            "token signature is wrong",
        ),
        (with_header(json!({ "x5u": "https://evil.example/", "jku": "https://evil.example/" })), "good"),
        (with_header(json!({ "crit": ["b64"], "b64": true })), "not a token"),
        // And then the claims.
        (changed(json!({ "exp": now - 3600 })), "token expired"),
        (changed(json!({ "exp": null })), "token does not expire"),
        (changed(json!({ "nbf": now + 3600 })), "token not valid yet"),
        (changed(json!({ "nbf": now - 1, "user_id": 42 })), "good"),
        (changed(json!({ "token_type": "refresh" })), "not an access token"),
        (changed(json!({ "user_id": null })), "token names no user"),
    ];
    let requests: Vec<Value> = cases.iter().map(|(request, _)| request.clone()).collect();
    let tokens = signer.sign(&requests).await;
    for ((request, expected), token) in cases.iter().zip(&tokens) {
        assert_eq!(told(&api, token).await, *expected, "{request}");
        let opened = open(&daemon, &format!("?token={token}"), &[]).await;
        assert_eq!(opened.map(drop), if *expected == "good" { Ok(()) } else { Err(403) }, "{request}");
    }
    let lines = daemon.process.lines();
    for token in &tokens {
        let signature = token.rsplit('.').next().unwrap();
        assert!(signature.is_empty() || !lines.iter().any(|line| line.contains(signature)), "a token in the log");
    }
}

#[tokio::test]
async fn a_key_set_in_a_file_is_read_again_for_a_new_key() {
    let signer = Signer::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let put = |names: &[&str]| {
        let next = folder.path().join("next");
        std::fs::write(&next, signer.key_set(names).to_string()).unwrap();
        std::fs::rename(next, &file).unwrap();
    };
    put(&["rsa", "ec"]);
    let entry = format!("{{ algorithm = [\"RS256\", \"EdDSA\"], jwks_file = \"{}\" }}", file.display());
    let mut setup = Setup::new().with("auth.jwt.keys", &keys(&[entry]));
    let daemon = setup.start().await;
    let api = daemon.public_api();
    let (old, new, ec) = (signer.token("RS256", "rsa").await, signer.token("RS256", "rsa-next").await, signer.token("ES256", "ec").await);
    assert_eq!(told(&api, &old).await, "good");
    put(&["rsa-next", "ec"]);
    until("the new key is known", async || (told(&api, &new).await == "good").then_some(())).await;
    assert_eq!(told(&api, &old).await, "token signed by an unknown key", "it is in the set no more");
    assert_eq!(told(&api, &ec).await, "token signed by an unknown key", "it is passed over");
    // A set that is none leaves the keys alone.
    std::fs::write(&file, "{").unwrap();
    let fails = daemon.process.find_line(|line| line.contains("key set cannot be had").then_some(()));
    let _asked = told(&api, &old).await;
    fails.await.unwrap();
    assert_eq!(told(&api, &new).await, "good");
}

#[tokio::test]
async fn an_unknown_key_has_the_set_fetched_but_not_for_everybody_who_names_one() {
    let signer = Signer::new().await;
    let server = KeyServer::start(Mood::Good(signer.key_set(&["rsa"]))).await;
    let entry = format!("{{ algorithm = \"RS256\", jwks_url = \"{}\" }}", server.url());
    let mut setup = Setup::new().with("auth.jwt.keys", &keys(&[entry]));
    let daemon = setup.start().await;
    let api = daemon.public_api();
    assert_eq!((server.asked(), told(&api, &signer.token("RS256", "rsa").await).await), (1, "good".to_owned()));
    let forged: Vec<Value> = (0..40)
        .map(|number| json!({ "algorithm": "RS256", "key": "rsa", "header": { "kid": format!("kid-{number}") }, "claims": claims(&json!({})) }))
        .collect();
    let forged = signer.sign(&forged).await;
    server.set(Mood::Good(signer.key_set(&["rsa", "rsa-next"])));
    let new = signer.token("RS256", "rsa-next").await;
    until("the new key is known", async || (told(&api, &new).await == "good").then_some(())).await;
    assert_eq!(server.asked(), 2);
    for token in &forged {
        assert_eq!(told(&api, token).await, "token signed by an unknown key");
    }
    // However slow this machine is: one in ten seconds.
    assert!(server.asked() < forged.len() / 4, "asked {} times", server.asked());
    until("both are told", async || (daemon.events("key set fetched").len() == 2).then_some(())).await;
}

#[tokio::test]
async fn a_key_set_that_cannot_be_had_leaves_the_keys_that_were() {
    let signer = Signer::new().await;
    let server = KeyServer::start(Mood::Down).await;
    let entry = format!("{{ algorithm = \"RS256\", jwks_url = \"{}?key=hush\" }}", server.url());
    let mut setup = Setup::new().with("auth.jwt.keys", &keys(&[entry])).with("auth.jwt.jwks_refresh", "1s");
    let daemon = setup.start().await;
    let api = daemon.public_api();
    let good = signer.token("RS256", "rsa").await;
    let told_failures = || daemon.events("key set cannot be had: the keys there are stay, and it is tried again");
    assert_eq!(told(&api, &good).await, "token signed by an unknown key");
    assert_eq!((told_failures().len(), told_failures()[0]["reason"].clone()), (1, json!("it answers 503")));
    for (round, (mood, reason)) in [
        (Mood::Huge, "larger than 256 KiB"),
        (Mood::Redirects, "it answers 302"),
        (Mood::Nonsense, "it is not JSON"),
        (Mood::Good(signer.key_set(&["ec"])), "none of its 1 keys is for signatures with RS256"),
        (Mood::Hangs, "no answer within 10s"),
    ]
    .into_iter()
    .enumerate()
    {
        server.set(Mood::Good(signer.key_set(&["rsa"])));
        until("the key is known", async || (daemon.events("key set fetched").len() > round).then_some(())).await;
        server.set(mood);
        let asked = server.asked();
        until("it failed", async || (told_failures().len() == round + 2).then_some(())).await;
        assert_eq!(told_failures()[round + 1]["reason"], reason);
        assert_eq!(told_failures()[round + 1]["kept"], 1);
        assert_eq!(told(&api, &good).await, "good");
        until("it was tried again", async || (server.asked() > asked + 1).then_some(())).await;
        assert_eq!(told_failures().len(), round + 2, "told once");
    }
    assert!(!daemon.process.lines().iter().any(|line| line.contains("hush")));
}

#[tokio::test]
async fn a_cookie_lets_in_the_pages_that_may_use_it() {
    let mut setup = Setup::new().with("auth.jwt.cookie", "access").with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let cookie = format!("theme=dark; access={}", token("42"));
    let (ours, foreign) = (("origin", "https://app.example.com"), ("origin", "https://evil.example"));
    assert!(open(&daemon, "", &[("cookie", &cookie)]).await.is_ok());
    assert!(open(&daemon, "", &[("cookie", &cookie), ours]).await.is_ok());
    assert_eq!(open(&daemon, "", &[("cookie", &cookie), foreign]).await.map(drop), Err(403));
    assert_eq!(open(&daemon, "", &[("cookie", "other=x")]).await.map(drop), Err(403));
    let push_tokens = "/api/v1/communications/push_tokens/";
    let with_cookie = daemon.public_api().with_header("cookie", &cookie);
    let body = json!({ "token": "device", "platform": "web" });
    let refused = with_cookie.with_header("origin", foreign.1).post(push_tokens, &body).await.expect(403);
    assert_eq!(refused["error"], "this origin is not allowed");
    with_cookie.with_header("origin", ours.1).post(push_tokens, &body).await.expect(201);
    with_cookie.with_header("origin", foreign.1).post("/v1/tickets", &json!({})).await.expect(403);
    with_cookie.with_header("origin", ours.1).post("/v1/tickets", &json!({})).await.expect(201);
    assert_eq!(told(&daemon.public_api(), &token("42")).await, "good", "the other ways are open still");
}

#[tokio::test]
async fn keys_that_cannot_be_used_stop_the_start() {
    let signer = Signer::new().await;
    let file = signer.public_key_file("ec").display().to_string();
    let cases = [
        (format!("{{ algorithm = \"RS256\", public_key_file = \"{file}\" }}"), "holds no public key for RS256 in PEM"),
        (format!("{{ algorithm = \"HS256\", public_key_file = \"{file}\" }}"), "HS256 is checked with a secret"),
        (format!("{{ algorithm = \"ES256\", public_key_file = \"{}\" }}", file.replace(".pub", "")), "holds a private key"),
        ("{ algorithm = \"RS256\", jwks_url = \"http://keys.example/\" }".to_owned(), "not https, and not on this machine"),
    ];
    for (entry, expected) in cases {
        let mut setup = Setup::new().with("auth.jwt.keys", &keys(&[entry]));
        let Err((process, ended)) = setup.try_start(&[]).await else { panic!("it started") };
        assert_eq!(ended.code, Some(3));
        assert!(process.lines().iter().any(|line| line.contains(expected)), "{expected}: {:?}", process.lines());
    }
    assert_eq!(told_with_short_secret().await, Some(3));
}

async fn told_with_short_secret() -> Option<i32> {
    let entry = format!("{{ algorithm = \"HS512\", secret = \"{}\" }}", &SECRET[..31]);
    let Err((_, ended)) = Setup::new().with("auth.jwt.keys", &keys(&[entry])).try_start(&[]).await else { panic!("it started") };
    ended.code
}
