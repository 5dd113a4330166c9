//! Keys and tokens that another program makes, Python's `PyJWT` (`tests/tools/tokens.py`), and a server that hands out key sets.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{Process, python};

/// Key pairs in a folder of their own: `rsa`, `rsa-next`, `ec` and `ed`.
pub struct Signer {
    folder: tempfile::TempDir,
    keys: Value,
}

impl Signer {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = run(&["keys"], folder.path(), &[]).await;
        Self { folder, keys }
    }

    /// The file with the public half, in PEM.
    pub fn public_key_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pub.pem"))
    }

    /// A JSON Web Key Set with the public halves of these; each has its name as `kid`.
    pub fn key_set(&self, names: &[&str]) -> Value {
        json!({ "keys": names.iter().map(|name| self.keys[*name].clone()).collect::<Vec<_>>() })
    }

    /// One token for each of these requests, see the script.
    pub async fn sign(&self, requests: &[Value]) -> Vec<String> {
        let tokens = run(&["sign"], self.folder.path(), &[json!(requests).to_string()]).await;
        serde_json::from_value(tokens).unwrap()
    }

    /// A token of user 42 signed with one of the keys.
    pub async fn token(&self, algorithm: &str, key: &str) -> String {
        let request = json!({ "algorithm": algorithm, "key": key, "header": { "kid": key }, "claims": claims(&json!({})) });
        self.sign(&[request]).await.remove(0)
    }
}

/// The claims of an access token of user 42, with these changed; those that are null taken out.
pub fn claims(changes: &Value) -> Value {
    let now = tarishi::model::Timestamp::now().as_millis() / 1000;
    let mut claims = json!({ "token_type": "access", "exp": now + 3600, "iat": now, "jti": "abc", "user_id": "42" });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

async fn run(command: &[&str], folder: &Path, more: &[String]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/tokens.py").to_owned();
    let mut arguments = vec![script];
    arguments.extend(command.iter().map(ToString::to_string));
    arguments.push(folder.display().to_string());
    arguments.extend(more.iter().cloned());
    let process: Process = python(&arguments, &BTreeMap::new());
    let said = process.find_line(|line| serde_json::from_str(line).ok()).await;
    said.unwrap_or_else(|ended| panic!("{ended:?}: {:?}", process.lines()))
}

/// What a server of key sets does.
#[derive(Clone, Debug)]
pub enum Mood {
    Good(Value),
    Down,
    /// More than anybody should read.
    Huge,
    /// To where there would be an answer.
    Redirects,
    /// Never answers.
    Hangs,
    Nonsense,
}

/// Hands out key sets, well or badly.
pub struct KeyServer {
    address: SocketAddr,
    shared: Arc<Mutex<(Mood, usize)>>,
}

impl KeyServer {
    pub async fn start(mood: Mood) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new((mood, 0)));
        let app = Router::new().route("/jwks.json", get(answer)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    pub fn set(&self, mood: Mood) {
        self.shared.lock().unwrap().0 = mood;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.lock().unwrap().1
    }
}

async fn answer(State(shared): State<Arc<Mutex<(Mood, usize)>>>) -> Response {
    let mood = {
        let mut shared = shared.lock().unwrap();
        shared.1 += 1;
        shared.0.clone()
    };
    match mood {
        Mood::Good(set) => set.to_string().into_response(),
        Mood::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::Huge => Body::from(vec![b' '; 2 << 20]).into_response(),
        Mood::Redirects => (StatusCode::FOUND, [(LOCATION, "/elsewhere.json")]).into_response(),
        Mood::Hangs => std::future::pending().await,
        Mood::Nonsense => "<html>".into_response(),
    }
}
