use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use chrono::DateTime;

use super::*;

const CONVERSATION: ConversationId = ConversationId(7);
const MESSAGE: MessageId = MessageId(123);

/// One of the specification's vectors; each file has some of these.
#[derive(Debug, Deserialize)]
struct Vector {
    #[serde(default)]
    desc: String,
    token: String,
    now: String,
    secret: String,
    #[serde(default)]
    src: String,
    #[serde(default)]
    iv: Vec<u8>,
    #[serde(default)]
    ttl_sec: Option<u64>,
}

impl Vector {
    fn all(text: &str) -> Vec<Self> {
        let vectors: Vec<Self> = serde_json::from_str(text).unwrap();
        assert!(!vectors.is_empty());
        vectors
    }

    fn now(&self) -> u64 {
        DateTime::parse_from_rfc3339(&self.now).unwrap().timestamp().try_into().unwrap()
    }

    /// As the specification verifies: with a time to live.
    fn verified(&self) -> Option<Vec<u8>> {
        Fernet::new(&self.secret).unwrap().decrypt_at_time(&self.token, self.ttl_sec, self.now()).ok()
    }

    /// As stored messages are: whenever it was made.
    fn opened(&self) -> Option<Vec<u8>> {
        keys(&[&self.secret]).decrypt(&self.token)
    }
}

fn keys(keys: &[&str]) -> ChatKeys {
    let keys: Vec<SecretString> = keys.iter().map(|key| (*key).into()).collect();
    ChatKeys::new(&keys).unwrap()
}

/// A key of one repeated byte.
fn key(byte: u8) -> String {
    URL_SAFE.encode([byte; 32])
}

fn body() -> ChatBody {
    ChatBody { text: "Je, nyumba bado ipo? 🏠".to_owned(), attachments: Vec::new() }
}

fn with_attachment() -> ChatBody {
    let attachment = Attachment {
        url: "https://cdn.example.com/plan.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        size: 48_211,
        name: Some("plan.pdf".to_owned()),
    };
    ChatBody { text: String::new(), attachments: vec![attachment] }
}

/// A token of `key` around whatever `plain` is.
fn token(key: &str, plain: &str) -> String {
    Fernet::new(key).unwrap().encrypt(plain.as_bytes())
}

#[track_caller]
fn check_tampered(keys: &ChatKeys, sealed: &str) {
    assert_eq!(keys.open(CONVERSATION, MESSAGE, sealed), Err(Tampered), "{sealed}");
    assert_eq!(keys.reseal(CONVERSATION, MESSAGE, sealed), Err(Tampered), "{sealed}");
}

#[test]
fn tokens_are_those_of_the_specification() {
    for vector in Vector::all(include_str!("../../../tests/fixtures/fernet/generate.json")) {
        // The crate chooses the vector's IV by itself; what it makes around another one has to be of the same form, and open.
        let made = Fernet::new(&vector.secret).unwrap().encrypt_at_time(vector.src.as_bytes(), vector.now());
        let [made, published] = [&made, &vector.token].map(|token| URL_SAFE.decode(token).unwrap());
        assert_eq!(made.len(), published.len());
        assert_eq!(made[..9], published[..9], "version and moment");
        assert_eq!(published[9..25], vector.iv);
        assert_eq!(vector.opened().as_deref(), Some(vector.src.as_bytes()));
    }
}

#[test]
fn valid_vectors_open() {
    for vector in Vector::all(include_str!("../../../tests/fixtures/fernet/verify.json")) {
        assert_eq!(vector.verified().as_deref(), Some(vector.src.as_bytes()), "{vector:?}");
        assert_eq!(vector.opened().as_deref(), Some(vector.src.as_bytes()), "{vector:?}");
    }
}

#[test]
fn invalid_vectors_do_not_open() {
    // Of the moment, which a message that is kept for years does not go by.
    let timely = ["expired TTL", "far-future TS (unacceptable clock skew)"];
    let mut of_the_moment = 0;
    for vector in Vector::all(include_str!("../../../tests/fixtures/fernet/invalid.json")) {
        assert_eq!(vector.verified(), None, "{vector:?}");
        let is_timely = timely.contains(&vector.desc.as_str());
        of_the_moment += usize::from(is_timely);
        assert_eq!(vector.opened().is_some(), is_timely, "{vector:?}");
    }
    assert_eq!(of_the_moment, timely.len());
}

#[test]
fn what_is_sealed_opens() {
    let keys = keys(&[&key(1)]);
    for body in
        [body(), with_attachment(), ChatBody::default(), ChatBody { text: "a\"\\\u{0}\u{2028}".repeat(1000), attachments: Vec::new() }]
    {
        let sealed = keys.seal(CONVERSATION, MESSAGE, &body);
        assert!(!sealed.contains("nyumba"));
        assert_ne!(sealed, keys.seal(CONVERSATION, MESSAGE, &body), "the same text twice must not look the same");
        assert_eq!(keys.open(CONVERSATION, MESSAGE, &sealed), Ok(body));
    }
}

/// Rows that are stored now have to be readable for ever.
#[test]
fn the_inside_is_as_it_was() {
    let keys = keys(&[&key(1)]);
    let inside = |body: &ChatBody| String::from_utf8(keys.decrypt(&keys.seal(CONVERSATION, MESSAGE, body)).unwrap()).unwrap();
    assert_eq!(inside(&body()), r#"{"c":7,"m":123,"t":"Je, nyumba bado ipo? 🏠"}"#);
    assert_eq!(
        inside(&with_attachment()),
        r#"{"c":7,"m":123,"t":"","a":[{"url":"https://cdn.example.com/plan.pdf","content_type":"application/pdf","size":48211,"name":"plan.pdf"}]}"#
    );
    let stored = "gAAAAABpJIEAAAECAwQFBgcICQoLDA0ODyzzAxr_jbK9etKyoxdU0lpVY6CVMVLHZdZt32KBJkEVevXW3D6aN_8CbAdo_FeCEexFXlPuUClH4urxYiY3aNbMNT43y4rI9WesQGXT_kBp";
    assert_eq!(keys.open(CONVERSATION, MESSAGE, stored), Ok(body()));
}

#[test]
fn another_rows_text_is_tampered() {
    let keys = keys(&[&key(1)]);
    let sealed = keys.seal(CONVERSATION, MESSAGE, &body());
    assert_eq!(keys.open(CONVERSATION, MessageId(124), &sealed), Err(Tampered));
    assert_eq!(keys.open(ConversationId(8), MESSAGE, &sealed), Err(Tampered));
    // Two rows that were swapped.
    let other = keys.seal(CONVERSATION, MessageId(124), &body());
    assert_eq!(keys.open(CONVERSATION, MESSAGE, &other), Err(Tampered));
    assert_eq!(keys.open(CONVERSATION, MessageId(124), &sealed), Err(Tampered));
    // Conversation and message exchanged.
    assert_eq!(keys.open(ConversationId(MESSAGE.0), MessageId(CONVERSATION.0), &sealed), Err(Tampered));
}

#[test]
fn a_key_that_is_not_ours_is_tampered() {
    let (ours, theirs) = (keys(&[&key(1), &key(2)]), keys(&[&key(3)]));
    check_tampered(&ours, &theirs.seal(CONVERSATION, MESSAGE, &body()));
    // Half of a key is not enough.
    let half: Vec<u8> = [[1; 16], [9; 16]].concat();
    check_tampered(&ours, &keys(&[&URL_SAFE.encode(half)]).seal(CONVERSATION, MESSAGE, &body()));
}

#[test]
fn text_that_was_never_sealed_is_tampered() {
    let keys = keys(&[&key(1)]);
    for text in ["", " ", "Je, bado ipo?", "gAAAAA", r#"{"c":7,"m":123,"t":"plain"}"#, "\u{0}", "%%%%", "====", "🏠"] {
        check_tampered(&keys, text);
    }
    check_tampered(&keys, &URL_SAFE.encode(keys.seal(CONVERSATION, MESSAGE, &body())));
}

#[test]
fn a_sealed_text_of_another_kind_is_tampered() {
    let keys = keys(&[&key(1)]);
    let insides = [
        "",
        "Je, bado ipo?",
        "{}",
        "null",
        r#"{"c":7,"m":123}"#,
        r#"{"m":123,"t":"x"}"#,
        r#"{"c":"7","m":123,"t":"x"}"#,
        r#"{"c":7.0,"m":123,"t":"x"}"#,
        r#"{"c":7,"m":123,"t":null}"#,
        r#"{"c":7,"m":123,"t":"x","more":1}"#,
        r#"{"c":8,"c":7,"m":123,"t":"x"}"#,
        r#"{"c":7,"m":123,"t":"x"} "and more""#,
        r#"{"c":7,"m":123,"t":"x","a":[{"url":"https://cdn.example.com/"}]}"#,
    ];
    for inside in insides {
        check_tampered(&keys, &token(&key(1), inside));
    }
    assert!(keys.open(CONVERSATION, MESSAGE, &token(&key(1), r#"{"c":7,"m":123,"t":"x"}"#)).is_ok());
    assert!(keys.open(CONVERSATION, MESSAGE, &Fernet::new(&key(1)).unwrap().encrypt(b"\xff\xfe")).is_err());
}

#[test]
fn a_changed_bit_is_tampered_wherever_it_is() {
    let keys = keys(&[&key(1)]);
    let bytes = URL_SAFE.decode(keys.seal(CONVERSATION, MESSAGE, &body())).unwrap();
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        check_tampered(&keys, &URL_SAFE.encode(changed));
    }
}

#[test]
fn a_cut_or_lengthened_text_is_tampered() {
    let keys = keys(&[&key(1)]);
    let sealed = keys.seal(CONVERSATION, MESSAGE, &body());
    let padding = sealed.len() - sealed.trim_end_matches('=').len();
    for length in 0..sealed.len() - padding {
        check_tampered(&keys, &sealed[..length]);
        check_tampered(&keys, &sealed[length + 1..]);
    }
    let whole = sealed.trim_end_matches('=');
    for longer in [format!("{whole}A"), format!("{whole}AAAA"), format!("{sealed}{sealed}"), format!(" {sealed}"), format!("{sealed}\n")] {
        check_tampered(&keys, &longer);
    }
}

#[test]
fn the_first_key_seals_and_all_open() {
    let (old, both, new) = (keys(&[&key(1)]), keys(&[&key(2), &key(1)]), keys(&[&key(2)]));
    let sealed = old.seal(CONVERSATION, MESSAGE, &with_attachment());
    assert_eq!(both.open(CONVERSATION, MESSAGE, &sealed), Ok(with_attachment()));
    assert_eq!(new.open(CONVERSATION, MESSAGE, &sealed), Err(Tampered));
    let Ok(Resealed::Anew(anew)) = both.reseal(CONVERSATION, MESSAGE, &sealed) else { panic!("it has to be sealed anew") };
    assert_eq!(new.open(CONVERSATION, MESSAGE, &anew), Ok(with_attachment()));
    assert_eq!(old.open(CONVERSATION, MESSAGE, &anew), Err(Tampered));
    assert_eq!(both.reseal(CONVERSATION, MESSAGE, &anew), Ok(Resealed::Already));
}

#[test]
fn a_clock_that_was_wrong_makes_nothing_unreadable() {
    let keys = keys(&[&key(1)]);
    let plain = r#"{"c":7,"m":123,"t":"x"}"#;
    for moment in [0, 1, 4_000_000_000, u64::MAX / 2] {
        let sealed = Fernet::new(&key(1)).unwrap().encrypt_at_time(plain.as_bytes(), moment);
        assert!(keys.open(CONVERSATION, MESSAGE, &sealed).is_ok(), "{moment}");
    }
}

#[test]
fn keys_are_checked_and_not_shown() {
    let refused = |keys: &[&str]| ChatKeys::new(&keys.iter().map(|key| (*key).into()).collect::<Vec<_>>()).unwrap_err();
    assert_eq!(refused(&[]), KeysRefused::None);
    assert_eq!(refused(&[&key(1), "short"]), KeysRefused::Malformed(1));
    assert_eq!(refused(&[&URL_SAFE.encode([1; 31])]), KeysRefused::Malformed(0));
    assert_eq!(refused(&[&URL_SAFE.encode([1; 33])]), KeysRefused::Malformed(0));
    assert_eq!(format!("{:?}", keys(&[&key(1), &key(2)])), "ChatKeys(2 keys)");
    let (one, other) = (ChatKeys::new_key(), ChatKeys::new_key());
    assert_ne!(one.expose_secret(), other.expose_secret());
    assert!(ChatKeys::new(&[one, other]).is_ok());
}
