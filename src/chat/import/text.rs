//! The forms in which the replaced system has stored texts over the years: as they were typed, as a Fernet token, and as Base64 around one.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::chat::seal::ChatKeys;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
const EITHER: [GeneralPurpose; 2] = [GeneralPurpose::new(&STANDARD, LENIENT), GeneralPurpose::new(&URL_SAFE, LENIENT)];
/// What a token begins with: the version, and the first bytes of a moment before the year 2242.
const TOKEN_START: &str = "gAAAAA";
/// The same in Base64.
const WRAPPED_START: &str = "Z0FBQUFB";
/// Characters of the shortest token: 73 bytes. What begins like one, is made of nothing else, and is shorter has been cut; from this length on.
const TOKEN_LEAST: usize = 40;

/// How a text was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Token,
    /// Base64 around a token.
    Wrapped,
}

/// Why a stored text is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    NoKeys,
    WrongKeys,
    NotText,
}

impl Unreadable {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoKeys => "its text is sealed, and no old keys were given",
            Self::WrongKeys => "none of the old keys opens its text: another key, or it is damaged",
            Self::NotText => "its text was opened, and is not UTF-8",
        }
    }
}

/// The text, however it was stored.
///
/// # Errors
/// It looks like a token, and none of the keys opens it.
pub fn read(stored: &str, keys: Option<&ChatKeys>) -> Result<(String, Form), (Unreadable, Form)> {
    let Some((token, form)) = token(stored) else { return Ok((stored.to_owned(), Form::Plain)) };
    let Some(keys) = keys else { return Err((Unreadable::NoKeys, form)) };
    let opened = keys.decrypt(&token).ok_or((Unreadable::WrongKeys, form))?;
    String::from_utf8(opened).map(|text| (text, form)).map_err(|_| (Unreadable::NotText, form))
}

/// The token that `stored` is, or is around. Something that looks like one is one, whatever keys there are: nobody types such a text.
fn token(stored: &str) -> Option<(String, Form)> {
    // How the Python of some years wrote bytes down by mistake.
    let stored = stored.trim();
    let stored = stored.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\'')).unwrap_or(stored);
    if is_like_token(stored) {
        return Some((stored.to_owned(), Form::Token));
    }
    let is_wrapped = stored.starts_with(WRAPPED_START) && stored.len() >= TOKEN_LEAST && stored.bytes().all(is_base64);
    if !is_wrapped {
        return None;
    }
    let inner = EITHER.iter().find_map(|either| String::from_utf8(either.decode(stored).ok()?).ok());
    // What cannot be unwrapped is a token that nobody opens.
    Some((inner.unwrap_or_default(), Form::Wrapped))
}

fn is_like_token(text: &str) -> bool {
    text.starts_with(TOKEN_START) && text.len() >= TOKEN_LEAST && text.bytes().all(is_base64)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
    use fernet::Fernet;
    use secrecy::ExposeSecret as _;

    use super::*;

    const TEXT: &str = "Je, bado ipo? 🏠";

    #[track_caller]
    fn check(stored: &str, keys: Option<&ChatKeys>, expected: Result<(&str, Form), (Unreadable, Form)>) {
        assert_eq!(read(stored, keys), expected.map(|(text, form)| (text.to_owned(), form)), "{stored}");
    }

    #[test]
    fn all_three_forms_are_read() {
        let key = ChatKeys::new_key();
        let keys = ChatKeys::new(&[ChatKeys::new_key(), key.clone()]).unwrap();
        let fernet = Fernet::new(key.expose_secret()).unwrap();
        let token = fernet.encrypt(TEXT.as_bytes());
        check(&token, Some(&keys), Ok((TEXT, Form::Token)));
        check(&format!("b'{token}'"), Some(&keys), Ok((TEXT, Form::Token)));
        check(&format!("{token}\n"), Some(&keys), Ok((TEXT, Form::Token)));
        for wrapped in [STANDARD.encode(&token), URL_SAFE.encode(&token), URL_SAFE_NO_PAD.encode(&token)] {
            check(&wrapped, Some(&keys), Ok((TEXT, Form::Wrapped)));
        }
        check(&fernet.encrypt(b""), Some(&keys), Ok(("", Form::Token)));
        check(&fernet.encrypt(b"\xff"), Some(&keys), Err((Unreadable::NotText, Form::Token)));
        for plain in
            [TEXT, "", "  with spaces ", "gAAAAA", "gAAAAA is how it begins, they say, and it goes on", "Z0FBQUFB", "aGVsbG8gd29ybGQ="]
        {
            check(plain, Some(&keys), Ok((plain, Form::Plain)));
            check(plain, None, Ok((plain, Form::Plain)));
        }
    }

    #[test]
    fn what_looks_sealed_is_never_taken_for_text() {
        let keys = ChatKeys::new(&[ChatKeys::new_key()]).unwrap();
        let token = Fernet::new(ChatKeys::new_key().expose_secret()).unwrap().encrypt(TEXT.as_bytes());
        check(&token, Some(&keys), Err((Unreadable::WrongKeys, Form::Token)));
        check(&token, None, Err((Unreadable::NoKeys, Form::Token)));
        check(&token[..token.len() - 20], Some(&keys), Err((Unreadable::WrongKeys, Form::Token)));
        let wrapped = STANDARD.encode(&token);
        check(&wrapped, Some(&keys), Err((Unreadable::WrongKeys, Form::Wrapped)));
        check(&wrapped[..wrapped.len() - 3], Some(&keys), Err((Unreadable::WrongKeys, Form::Wrapped)));
    }
}
