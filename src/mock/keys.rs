//! The keys and credentials of the mock, and the signatures made with them.
//!
//! Key pairs are made at start. The rest is fixed and plainly made up: whoever sees one of these in a real account's configuration knows.

use std::{fmt::Write as _, io};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::DecodingKey;
use serde_json::json;

const SENDGRID_API_KEY: &str = "SG.mock.a-key-that-opens-nothing";
const TWILIO_ACCOUNT_SID: &str = "AC00000000000000000000000000facade";
const TWILIO_API_KEY: &str = "SK00000000000000000000000000facade";
const TWILIO_API_SECRET: &str = "mock-twilio-api-secret";
const TWILIO_AUTH_TOKEN: &str = "mock-twilio-auth-token";
const FCM_PROJECT: &str = "tarishi-mock";
const SERVICE_ACCOUNT: &str = "tarishi@tarishi-mock.iam.gserviceaccount.invalid";
const PRIVATE_KEY_ID: &str = "mock-key-1";
/// Base64 characters on a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// What a client of the mock has to be given.
#[derive(Clone, Debug)]
pub struct MockCredentials {
    pub sendgrid_api_key: String,
    /// Base64 of the DER `SubjectPublicKeyInfo`, as SendGrid's settings show it.
    pub sendgrid_webhook_public_key: String,
    pub twilio_account_sid: String,
    pub twilio_api_key: String,
    pub twilio_api_secret: String,
    /// Signs Twilio's callbacks.
    pub twilio_auth_token: String,
    pub fcm_project: String,
    /// The file that Google gives out for a service account, with the mock's own `token_uri`.
    pub service_account_json: String,
}

/// What the mock keeps for itself.
pub(super) struct Keys {
    /// Checks what the service account signed.
    pub service_account: DecodingKey,
    pub client_email: &'static str,
    pub private_key_id: &'static str,
    pub webhook: EcdsaKeyPair,
    pub random: SystemRandom,
}

/// Makes the keys, for a mock that answers at `base_url`. Takes a good part of a second.
pub(super) fn generate(base_url: &str) -> io::Result<(Keys, MockCredentials)> {
    let failed = |_| io::Error::other("the keys cannot be made");
    let rsa = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = rsa.as_der().map_err(failed)?;
    let webhook = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    let public: PublicKeyX509Der<'_> = webhook.public_key().as_der().map_err(failed)?;
    let service_account = json!({
        "type": "service_account",
        "project_id": FCM_PROJECT,
        "private_key_id": PRIVATE_KEY_ID,
        "private_key": pem("PRIVATE KEY", private.as_ref()),
        "client_email": SERVICE_ACCOUNT,
        "client_id": "0",
        "auth_uri": format!("{base_url}/auth"),
        "token_uri": format!("{base_url}/token"),
        "universe_domain": "googleapis.com",
    });
    let credentials = MockCredentials {
        sendgrid_api_key: SENDGRID_API_KEY.to_owned(),
        sendgrid_webhook_public_key: STANDARD.encode(public.as_ref()),
        twilio_account_sid: TWILIO_ACCOUNT_SID.to_owned(),
        twilio_api_key: TWILIO_API_KEY.to_owned(),
        twilio_api_secret: TWILIO_API_SECRET.to_owned(),
        twilio_auth_token: TWILIO_AUTH_TOKEN.to_owned(),
        fcm_project: FCM_PROJECT.to_owned(),
        service_account_json: format!("{service_account:#}\n"),
    };
    let keys = Keys {
        service_account: DecodingKey::from_rsa_der(rsa.public_key().as_ref()),
        client_email: SERVICE_ACCOUNT,
        private_key_id: PRIVATE_KEY_ID,
        webhook,
        random: SystemRandom::new(),
    };
    Ok((keys, credentials))
}

impl Keys {
    /// What goes into `X-Twilio-Email-Event-Webhook-Signature`: ECDSA over the timestamp and the body as it is sent.
    pub fn sendgrid_signature(&self, timestamp: &str, body: &str) -> Option<String> {
        let signature = self.webhook.sign(&self.random, &sendgrid_signed(timestamp, body)).ok()?;
        Some(STANDARD.encode(signature.as_ref()))
    }
}

fn sendgrid_signed(timestamp: &str, body: &str) -> Vec<u8> {
    [timestamp.as_bytes(), body.as_bytes()].concat()
}

/// What goes into `X-Twilio-Signature`: HMAC-SHA1 over the whole URL and every field in order; one key's values sorted, none twice.
pub(super) fn twilio_signature(auth_token: &str, url: &str, fields: &[(&str, &str)]) -> String {
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    fields.dedup();
    let signed = fields.iter().fold(url.to_owned(), |signed, (key, value)| signed + key + value);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth_token.as_bytes());
    STANDARD.encode(hmac::sign(&key, signed.as_bytes()).as_ref())
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
        rest = after;
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    const VECTORS: &str = include_str!("../../tests/fixtures/providers/signature-vectors.json");

    fn vectors(of: &str) -> Value {
        let mut all: Value = serde_json::from_str(VECTORS).unwrap();
        all[of].take()
    }

    fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
        vector[member].as_str().unwrap_or_default()
    }

    /// The URL that was signed where a verifier has to try several; the others were signed as they are given.
    fn signed_url(vector: &Value) -> String {
        let url = text(vector, "url");
        match text(vector, "name") {
            "https url with a port: port stripped" => url.replace(":1234", ""),
            "json body {} with bodySHA256" => url.replace("mycompany.com", "mycompany.com:443"),
            name if name.ends_with("over :443") => url.replace("mycompany.com", "mycompany.com:443"),
            name if name.ends_with("over :80") => url.replace("mycompany.com", "mycompany.com:80"),
            _ => url.to_owned(),
        }
    }

    #[test]
    fn signs_callbacks_as_twilio_does() {
        let vectors = vectors("twilio_x_twilio_signature");
        let token = text(&vectors, "auth_token");
        let (mut good, mut bad) = (0, 0);
        for vector in vectors["vectors"].as_array().unwrap() {
            let Some(expected) = vector["valid"].as_bool() else { continue };
            let params: Vec<(String, String)> = serde_json::from_value(vector["params"].clone()).unwrap_or_default();
            let fields: Vec<(&str, &str)> = params.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let signature = twilio_signature(token, &signed_url(vector), &fields);
            assert_eq!(signature == text(vector, "signature"), expected, "{}", vector["name"]);
            if expected { good += 1 } else { bad += 1 }
        }
        assert_eq!((good, bad), (14, 3));
    }

    #[test]
    fn what_is_signed_of_events_is_what_sendgrid_signs() {
        let vectors = vectors("sendgrid_event_webhook");
        let mut good = 0;
        for vector in vectors["vectors"].as_array().unwrap() {
            let key = STANDARD.decode(text(vector, "public_key")).unwrap();
            let signature = STANDARD.decode(text(vector, "signature")).unwrap_or_default();
            let signed = sendgrid_signed(text(vector, "timestamp"), text(vector, "payload"));
            let valid = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&signed, &signature).is_ok();
            assert_eq!(valid, vector["valid"] == true, "{}", vector["name"]);
            good += usize::from(valid);
        }
        assert!(good >= 2, "{good}");
    }

    #[test]
    fn what_the_mock_signs_its_public_key_proves() {
        let (keys, credentials) = generate("http://127.0.0.1:1").unwrap();
        let signature = STANDARD.decode(keys.sendgrid_signature("1600112502", "[]\r\n").unwrap()).unwrap();
        let public = STANDARD.decode(&credentials.sendgrid_webhook_public_key).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
        assert!(public.verify(b"1600112502[]\r\n", &signature).is_ok());
        assert!(public.verify(b"1600112502[]", &signature).is_err());
        let account: Value = serde_json::from_str(&credentials.service_account_json).unwrap();
        assert_eq!(account["token_uri"], "http://127.0.0.1:1/token");
        let pem = account["private_key"].as_str().unwrap();
        assert!(pem.lines().all(|line| line.len() <= 64) && pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{pem}");
        assert!(jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()).is_ok());
    }
}
