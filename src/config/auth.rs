//! Who users are: `[auth]`, the keys their tokens are signed with, and what has to fit together there.

use std::{
    borrow::Cow,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::DecodingKey;
use reqwest::Url;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IntoDeserializer as _},
};

use super::{
    Sources,
    check::Found,
    secret::{self, read, read_credential, read_private},
    units,
};
use crate::model::Problem;

/// Shortest HMAC secret, in bytes: as long as the hash of HS256 (RFC 7518, section 3.2).
const SECRET_MINIMUM: usize = 32;
/// Longer tickets would be tokens.
const TICKET_LIFETIME_MOST: Duration = Duration::from_mins(10);
/// A key set is asked for no more often than this, and no less often than that.
const JWKS_REFRESH_LEAST: Duration = Duration::from_secs(1);
const JWKS_REFRESH_MOST: Duration = Duration::from_hours(24);

/// Who users are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct AuthConfig {
    /// How long a ticket opens a socket, once.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub ticket_lifetime: Duration,
    /// How long revocations are kept. At least as long as any token lives.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub revocation_retention: Duration,
    pub jwt: JwtConfig,
}

/// Which tokens are good.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct JwtConfig {
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub leeway: Duration,
    /// Claim that carries the user id.
    pub user_claim: String,
    /// Claim that lists the topics its holder may follow.
    pub topics_claim: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Name of a cookie that may carry the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// How often key sets are fetched.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub jwks_refresh: Duration,
    #[serde(default)]
    pub keys: Vec<JwtKey>,
}

/// A key that tokens are signed with, or a set of them. Exactly one place for it is given; `source` is what was found there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct JwtKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    pub algorithm: Algorithms,
    /// The secret as written in the configuration.
    #[serde(default, rename = "secret", serialize_with = "secret::masked", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub secret_written: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Name of a file in systemd's `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_credential: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The key, wherever it came from; filled in by [`super::load`].
    #[serde(skip)]
    pub source: KeySource,
}

impl JwtKey {
    /// The secret, of a key that has one.
    pub fn secret(&self) -> Option<&SecretString> {
        match &self.source {
            KeySource::Secret(secret) => Some(secret),
            KeySource::PublicKey(_) | KeySource::JwksFile(_) | KeySource::JwksUrl(_) => None,
        }
    }
}

/// Where a key, or a set of keys, comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    Secret(SecretString),
    /// In PEM.
    PublicKey(String),
    /// JSON Web Key Sets (RFC 7517), read again and again.
    JwksFile(PathBuf),
    JwksUrl(String),
}

impl Default for KeySource {
    fn default() -> Self {
        Self::Secret(SecretString::default())
    }
}

/// Signature algorithms, named as in RFC 7518 and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    ES256,
    EdDSA,
}

impl Algorithm {
    pub const ALL: [Self; 6] = [Self::HS256, Self::HS384, Self::HS512, Self::RS256, Self::ES256, Self::EdDSA];

    /// Whether whoever can check a signature can also make one.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// # Errors
    /// It is no public key for this algorithm, in PEM.
    pub fn read_pem(self, pem: &str) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
        match self {
            Self::RS256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
            Self::ES256 => DecodingKey::from_ec_pem(pem.as_bytes()),
            Self::EdDSA => DecodingKey::from_ed_pem(pem.as_bytes()),
            Self::HS256 | Self::HS384 | Self::HS512 => Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into()),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One algorithm, or a list of those that the keys of a set may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(pub Vec<Algorithm>);

impl Algorithms {
    /// The algorithm, where there is exactly one.
    pub fn only(&self) -> Option<Algorithm> {
        match self.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

impl Serialize for Algorithms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.only() {
            Some(only) => only.serialize(serializer),
            None => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Algorithms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Algorithms;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Algorithms, E> {
                Algorithm::deserialize(text.into_deserializer()).map(|only| Algorithms(vec![only]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, sequence: A) -> Result<Algorithms, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(sequence)).map(Algorithms)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Algorithms {
    fn schema_name() -> Cow<'static, str> {
        "Algorithms".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = serde_json::json!({ "type": "string", "enum": Algorithm::ALL });
        json_schema!({ "oneOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

impl Found {
    pub(super) fn auth(&mut self, auth: &AuthConfig) {
        let inside = (Duration::from_secs(1)..=TICKET_LIFETIME_MOST).contains(&auth.ticket_lifetime);
        self.bounded("auth.ticket_lifetime", inside, "1s", "10m");
        self.duration("auth.revocation_retention", auth.revocation_retention);
        let jwt = &auth.jwt;
        self.duration_or_zero("auth.jwt.leeway", jwt.leeway);
        self.text("auth.jwt.user_claim", &jwt.user_claim);
        self.text("auth.jwt.topics_claim", &jwt.topics_claim);
        self.bounded("auth.jwt.jwks_refresh", (JWKS_REFRESH_LEAST..=JWKS_REFRESH_MOST).contains(&jwt.jwks_refresh), "1s", "24h");
        if jwt.cookie.as_deref().is_some_and(|name| !is_cookie_name(name)) {
            self.refuse("auth.jwt.cookie", "not the name of a cookie", "write it as the backend sets it, such as \"access_token\"");
        }
        self.unique(jwt.keys.iter().map(|key| key.kid.as_deref()), |index| format!("auth.jwt.keys[{index}].kid"));
    }
}

/// A token of RFC 9110, as RFC 6265 asks.
fn is_cookie_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The place a key is in, as it is written.
enum Place<'k> {
    Secret(&'k SecretString),
    SecretFile(&'k Path),
    SecretCredential(&'k str),
    PublicKeyFile(&'k Path),
    JwksFile(&'k Path),
    JwksUrl(&'k str),
}

impl Place<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::SecretFile(_) => "secret_file",
            Self::SecretCredential(_) => "secret_credential",
            Self::PublicKeyFile(_) => "public_key_file",
            Self::JwksFile(_) => "jwks_file",
            Self::JwksUrl(_) => "jwks_url",
        }
    }

    const fn is_of_secret(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::SecretFile(_) | Self::SecretCredential(_))
    }

    const fn is_of_set(&self) -> bool {
        matches!(self, Self::JwksFile(_) | Self::JwksUrl(_))
    }
}

impl JwtKey {
    /// Fetches the key, or says what keeps it from being used.
    pub(super) fn resolve(&mut self, index: usize, sources: &Sources) -> Result<(), Problem> {
        let path = format!("auth.jwt.keys[{index}]");
        let algorithm = self.checked_algorithm(&path)?;
        let place = self.place(&path, algorithm)?;
        let at = format!("{path}.{}", place.name());
        if place.is_of_secret() != algorithm.is_symmetric() {
            let (what, hint) = if algorithm.is_symmetric() {
                ("is checked with a secret", "use `secret_file`, or the algorithm of the key: RS256, ES256 or EdDSA")
            } else {
                ("is checked with a public key", "use `public_key_file`, `jwks_file` or `jwks_url`")
            };
            return Err(Problem::new(at, format!("{algorithm} {what}"), hint));
        }
        if place.is_of_set() && self.kid.is_some() {
            return Err(Problem::new(format!("{path}.kid"), "the keys of a set have their own", "leave it out"));
        }
        if !place.is_of_set() && self.algorithm.only().is_none() {
            return Err(Problem::new(format!("{path}.algorithm"), "one key has one algorithm", "write the one it is for"));
        }
        self.source = match place {
            Place::Secret(secret) => KeySource::Secret(long_enough(secret.clone(), at, algorithm, sources.development)?),
            Place::SecretFile(file) => KeySource::Secret(long_enough(read_private(file, &at)?, at, algorithm, sources.development)?),
            Place::SecretCredential(name) => {
                KeySource::Secret(long_enough(read_credential(name, &at, sources)?, at, algorithm, sources.development)?)
            }
            Place::PublicKeyFile(file) => KeySource::PublicKey(public_key(file, &at, algorithm)?),
            Place::JwksFile(file) => KeySource::JwksFile(key_set(file, &at)?),
            Place::JwksUrl(url) => KeySource::JwksUrl(https(url, &at)?),
        };
        Ok(())
    }

    /// The first algorithm, once all of them are of one kind.
    fn checked_algorithm(&self, path: &str) -> Result<Algorithm, Problem> {
        let refused = |problem: &str, hint: &str| Problem::new(format!("{path}.algorithm"), problem, hint);
        let Some(first) = self.algorithm.0.first().copied() else {
            return Err(refused("empty", "write what the tokens are signed with, such as \"RS256\""));
        };
        if self.algorithm.0.iter().any(|other| other.is_symmetric() != first.is_symmetric()) {
            return Err(refused("mixes secrets with public keys", "make one [[auth.jwt.keys]] for each"));
        }
        Ok(first)
    }

    fn place(&self, path: &str, algorithm: Algorithm) -> Result<Place<'_>, Problem> {
        let mut given = [
            self.secret_written.as_ref().map(Place::Secret),
            self.secret_file.as_deref().map(Place::SecretFile),
            self.secret_credential.as_deref().map(Place::SecretCredential),
            self.public_key_file.as_deref().map(Place::PublicKeyFile),
            self.jwks_file.as_deref().map(Place::JwksFile),
            self.jwks_url.as_deref().map(Place::JwksUrl),
        ]
        .into_iter()
        .flatten();
        let (what, places) = if algorithm.is_symmetric() {
            ("secret", "`secret_file`, `secret_credential` and `secret`")
        } else {
            ("public key", "`public_key_file`, `jwks_file` and `jwks_url`")
        };
        match (given.next(), given.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Problem::new(path, format!("has no {what}"), format!("add one of {places}"))),
            (Some(_), Some(_)) => Err(Problem::new(path, format!("has more than one {what}"), format!("keep one of {places}"))),
        }
    }
}

fn public_key(file: &Path, at: &str, algorithm: Algorithm) -> Result<String, Problem> {
    let (text, _mode) = read(file, at, "check that the file exists and this user may read it")?;
    let pem = text.expose_secret();
    let hint = "make it with `openssl pkey -in KEY -pubout`";
    if pem.contains("PRIVATE KEY") {
        return Err(Problem::new(at, format!("{} holds a private key", file.display()), format!("give the public one: {hint}")));
    }
    match algorithm.read_pem(pem) {
        Ok(_) => Ok(pem.to_owned()),
        Err(_) => Err(Problem::new(at, format!("{} holds no public key for {algorithm} in PEM", file.display()), hint)),
    }
}

/// A file that is a set at this moment; which keys it has is looked at again and again.
fn key_set(file: &Path, at: &str) -> Result<PathBuf, Problem> {
    let (text, _mode) = read(file, at, "check that the file exists and this user may read it")?;
    let document = serde_json::from_str::<serde_json::Value>(text.expose_secret()).unwrap_or_default();
    if document["keys"].is_array() {
        Ok(file.to_owned())
    } else {
        Err(Problem::new(at, format!("{} is no JSON Web Key Set", file.display()), "it looks like {\"keys\": [{\"kty\": \"RSA\", …}]}"))
    }
}

/// Who can change the answer can make tokens.
fn https(url: &str, at: &str) -> Result<String, Problem> {
    let refused = |problem: &str| Err(Problem::new(at, problem, "write it like \"https://app.example.com/.well-known/jwks.json\""));
    let Ok(parsed) = Url::parse(url) else { return refused("not a URL") };
    let host = parsed.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.fragment().is_some() {
        return refused("has a user, a password or a fragment");
    }
    match parsed.scheme() {
        "https" => Ok(url.to_owned()),
        "http" if is_loopback => Ok(url.to_owned()),
        _ => refused("not https, and not on this machine"),
    }
}

fn long_enough(secret: SecretString, place: String, algorithm: Algorithm, development: bool) -> Result<SecretString, Problem> {
    let length = secret.expose_secret().len();
    if length == 0 {
        return Err(Problem::new(place, "the secret is empty", "make one with `openssl rand -hex 32`"));
    }
    if length < SECRET_MINIMUM && !development {
        let problem = format!("the secret has {length} bytes; {algorithm} needs at least {SECRET_MINIMUM}");
        return Err(Problem::new(place, problem, "make one with `openssl rand -hex 32`"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;
    use crate::config::tests::{check_line, refused, sources};

    const GOOD: &str = "0123456789abcdef0123456789abcdef";
    const ED_PUBLIC: &str =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn key() -> JwtKey {
        JwtKey {
            kid: None,
            algorithm: Algorithms(vec![Algorithm::HS256]),
            secret_written: None,
            secret_file: None,
            secret_credential: None,
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            source: KeySource::default(),
        }
    }

    #[track_caller]
    fn check(mut key: JwtKey, sources: &Sources, expected: Result<&str, &str>) {
        let resolved = key.resolve(0, sources).map_err(|problem| problem.to_string());
        match expected {
            Ok(secret) => assert_eq!((key.secret().unwrap().expose_secret(), resolved), (secret, Ok(()))),
            Err(part) => assert!(resolved.as_ref().is_err_and(|told| told.contains(part)), "{resolved:?}"),
        }
    }

    #[test]
    fn exactly_one_place() {
        let written = Some(SecretString::from(GOOD));
        check(JwtKey { secret_written: written.clone(), ..key() }, &sources("", &[]), Ok(GOOD));
        check(key(), &sources("", &[]), Err("auth.jwt.keys[0]: has no secret"));
        let two = JwtKey { secret_written: written, secret_credential: Some("jwt".into()), ..key() };
        check(two, &sources("", &[]), Err("auth.jwt.keys[0]: has more than one secret"));
    }

    #[test]
    fn short_secrets_are_for_development() {
        let short = JwtKey { secret_written: Some(SecretString::from("short")), ..key() };
        let production = sources("", &[]);
        check(short.clone(), &production, Err("auth.jwt.keys[0].secret: the secret has 5 bytes; HS256 needs at least 32"));
        let longer = JwtKey { algorithm: Algorithms(vec![Algorithm::HS512]), ..short.clone() };
        check(longer, &production, Err("HS512 needs at least 32"));
        let development = Sources { development: true, ..production };
        check(short, &development, Ok("short"));
        let empty = JwtKey { secret_written: Some(SecretString::from("")), ..key() };
        check(empty, &development, Err("the secret is empty"));
    }

    #[test]
    fn files_are_private_and_lose_their_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwt.secret");
        let from_file = JwtKey { secret_file: Some(file.clone()), ..key() };
        check(from_file.clone(), &sources("", &[]), Err("cannot be read"));
        fs::write(&file, format!("{GOOD}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        check(from_file.clone(), &sources("", &[]), Ok(GOOD));
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        check(from_file.clone(), &sources("", &[]), Err("(hint: chmod 600 "));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, [0xff_u8; 40]).unwrap();
        check(from_file.clone(), &sources("", &[]), Err("cannot be read"));
        fs::write(&file, "x".repeat(70_000)).unwrap();
        check(from_file, &sources("", &[]), Err("is too large for a secret"));
    }

    #[test]
    fn credentials_are_found_in_their_directory() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().to_str().unwrap();
        let from_credential = JwtKey { secret_credential: Some("jwt".into()), ..key() };
        check(from_credential.clone(), &sources("", &[]), Err("CREDENTIALS_DIRECTORY is not set"));
        let with_directory = sources("", &[("CREDENTIALS_DIRECTORY", directory)]);
        check(from_credential.clone(), &with_directory, Err("(hint: check `LoadCredential=`"));
        fs::write(folder.path().join("jwt"), GOOD).unwrap();
        check(from_credential, &with_directory, Ok(GOOD));
        let outside = JwtKey { secret_credential: Some("../jwt".into()), ..key() };
        check(outside, &with_directory, Err("not the name of a credential"));
    }

    /// A line of configuration whose FILE holds this text.
    #[track_caller]
    fn check_file(text: &str, line: &str, expected: &[&str]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let expected: Vec<String> = expected.iter().map(|told| told.replace("FILE", path)).collect();
        check_line(
            &format!("auth.jwt.keys = [{{ {} }}]", line.replace("FILE", path)),
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn public_keys_are_public_and_of_their_algorithm() {
        check_file(ED_PUBLIC, "algorithm = 'EdDSA', public_key_file = 'FILE', kid = 'a'", &[]);
        let how = "(hint: make it with `openssl pkey -in KEY -pubout`)";
        for algorithm in ["RS256", "ES256"] {
            let told = format!("auth.jwt.keys[0].public_key_file: FILE holds no public key for {algorithm} in PEM {how}");
            check_file(ED_PUBLIC, &format!("algorithm = '{algorithm}', public_key_file = 'FILE'"), &[&told]);
        }
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";
        let told = "auth.jwt.keys[0].public_key_file: FILE holds a private key (hint: give the public one: make it with `openssl pkey -in KEY \
                    -pubout`)";
        check_file(private, "algorithm = 'EdDSA', public_key_file = 'FILE'", &[told]);
        check_file(
            ED_PUBLIC,
            "algorithm = 'HS256', public_key_file = 'FILE'",
            &[
                "auth.jwt.keys[0].public_key_file: HS256 is checked with a secret (hint: use `secret_file`, or the algorithm of the key: RS256, \
               ES256 or EdDSA)",
            ],
        );
        check_file(
            ED_PUBLIC,
            "algorithm = ['RS256', 'EdDSA'], public_key_file = 'FILE'",
            &["auth.jwt.keys[0].algorithm: one key has one algorithm (hint: write the one it is for)"],
        );
    }

    #[test]
    fn key_sets_are_sets_and_public() {
        check_file(r#"{"keys":[]}"#, "algorithm = ['RS256', 'ES256'], jwks_file = 'FILE'", &[]);
        check_file(
            "[]",
            "algorithm = 'RS256', jwks_file = 'FILE'",
            &["auth.jwt.keys[0].jwks_file: FILE is no JSON Web Key Set (hint: it looks like {\"keys\": [{\"kty\": \"RSA\", …}]})"],
        );
        let line = |more: &str| format!("auth.jwt.keys = [{{ {more} }}]");
        check_line(&line("algorithm = 'RS256', jwks_url = 'https://app.example.com/jwks.json?v=1'"), &[]);
        check_line(&line("algorithm = 'RS256', jwks_url = 'http://127.0.0.1:9000/jwks.json'"), &[]);
        refused(&line("algorithm = 'RS256', jwks_url = 'http://app.example.com/'"), "keys[0].jwks_url: not https, and not on this machine");
        refused(&line("algorithm = 'RS256', jwks_url = 'file:///jwks.json'"), "not https");
        refused(&line("algorithm = 'RS256', jwks_url = 'https://user:password@host/'"), "has a user, a password or a fragment");
        refused(&line("algorithm = 'RS256', jwks_url = 'https://host/', kid = 'a'"), "keys[0].kid: the keys of a set have their own");
        refused(&line("algorithm = 'HS256', jwks_url = 'https://host/'"), "HS256 is checked with a secret");
        refused(&line("algorithm = ['RS256', 'HS256'], jwks_url = 'https://host/'"), "mixes secrets with public keys");
        refused(&line("algorithm = [], jwks_url = 'https://host/'"), "keys[0].algorithm: empty");
        refused(&line("algorithm = ['RS257'], jwks_url = 'https://host/'"), "algorithm[0]: not a known value: `RS257`");
        refused(&line("algorithm = 'RS256', secret = 'x'"), "keys[0].secret: RS256 is checked with a public key");
        refused(
            &line("algorithm = 'RS256'"),
            "keys[0]: has no public key (hint: add one of `public_key_file`, `jwks_file` and `jwks_url`)",
        );
    }

    #[test]
    fn key_ids_are_told_apart() {
        let key = "{ kid = 'a', algorithm = 'HS256', secret = '0123456789abcdef0123456789abcdef' }";
        check_line(
            &format!("auth.jwt.keys = [{key}, {key}]"),
            &["auth.jwt.keys[1].kid: the same as an earlier one (hint: remove one of them)"],
        );
    }

    #[test]
    fn cookies_have_names_and_tickets_are_short() {
        check_line("auth.jwt.cookie = '__Host-access_token'", &[]);
        for name in ["", "a b", "a=b", "a;b"] {
            refused(&format!("auth.jwt.cookie = '{name}'"), "auth.jwt.cookie: not the name of a cookie");
        }
        refused("auth.ticket_lifetime = '1h'", "auth.ticket_lifetime: out of bounds (hint: between 1s and 10m)");
        refused("auth.jwt.jwks_refresh = '1ms'", "auth.jwt.jwks_refresh: out of bounds");
    }
}
