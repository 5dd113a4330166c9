//! Links with which one click ends mails of one kind (RFC 8058). What a click does is for whoever answers it.
//!
//! A link carries the address and the list, sealed (Fernet), so that nobody can make one for somebody else and nothing has to be kept.

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::model::{Channel, EmailAddress, ListName, canonical_address};

/// The form of what is sealed.
const VERSION: u8 = 1;
/// Longest token that is looked at, in bytes: an address of 254 and a list of 40, sealed, take about 550.
const TOKEN_LIMIT: usize = 2048;

/// Makes links and reads them back.
pub struct UnsubscribeLinks {
    /// Up to the token.
    base: Option<String>,
    seal: Option<fernet::Fernet>,
}

/// What a link is about.
#[derive(Serialize, Deserialize)]
struct Sealed {
    v: u8,
    /// Canonical.
    address: String,
    list: ListName,
}

impl UnsubscribeLinks {
    /// Links below `base_url`, sealed with `key`: 32 bytes in Base64 (RFC 4648, section 5). A key of another form makes and opens none.
    pub fn new(base_url: &str, key: &SecretString) -> Self {
        let base = format!("{}/unsubscribe/", base_url.trim_end_matches('/'));
        Self { base: is_fit_for_mail(base_url).then_some(base), seal: fernet::Fernet::new(key.expose_secret()) }
    }

    /// Whether mails can carry links at all.
    pub fn is_on(&self) -> bool {
        self.base.is_some() && self.seal.is_some()
    }

    /// The link for this address and list. None where mail clients would not follow it: RFC 8058 wants `https`; on loopback anything goes.
    pub fn link(&self, address: &EmailAddress, list: &str) -> Option<String> {
        let (base, seal) = (self.base.as_deref()?, self.seal.as_ref()?);
        let sealed = Sealed { v: VERSION, address: canonical_address(Channel::Email, address.as_str()).ok()?, list: list.parse().ok()? };
        let token = seal.encrypt(&serde_json::to_vec(&sealed).ok()?);
        // Padding says nothing, and some programs end a link before it.
        Some(format!("{base}{}", token.trim_end_matches('=')))
    }

    /// The canonical address and the list in a token of ours.
    pub fn open(&self, token: &str) -> Option<(String, String)> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let bare = token.trim_end_matches('=');
        let padding = "=".repeat((4 - bare.len() % 4) % 4);
        let opened = self.seal.as_ref()?.decrypt(&format!("{bare}{padding}")).ok()?;
        let sealed: Sealed = serde_json::from_slice(&opened).ok()?;
        (sealed.v == VERSION).then(|| (sealed.address, sealed.list.to_string()))
    }
}

fn is_fit_for_mail(base_url: &str) -> bool {
    let Ok(url) = Url::parse(base_url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(base_url: &str) -> UnsubscribeLinks {
        UnsubscribeLinks::new(base_url, &"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into())
    }

    fn asha() -> EmailAddress {
        "Asha@Example.com".parse().unwrap()
    }

    #[test]
    fn a_link_reads_back() {
        let links = links("https://notify.example.com/");
        let link = links.link(&asha(), "messages").unwrap();
        let token = link.strip_prefix("https://notify.example.com/unsubscribe/").unwrap();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{token}");
        let expected = Some(("asha@example.com".to_owned(), "messages".to_owned()));
        assert_eq!(links.open(token), expected);
        assert_eq!(links.open(&format!("{token}==")), expected, "with the padding that some add");
    }

    #[test]
    fn a_link_of_an_earlier_start_reads_back() {
        // Golden, made by another program: links in mailboxes are read for years.
        let token = "gAAAAABpaMGoAAECAwQFBgcICQoLDA0OD1su8XD375D6rO929q1BP5iPe3_ArKC1_oxoi4g4_WLxyH4UKaUxXp7RhA2fFc6jj_LQ\
                     plma-11d-J7WXbFJ4U1_CxbmY-omWFTKBsoLWOIrKLqZHsZsA8ss-3cusCxb6Q";
        assert_eq!(links("https://a.example").open(token), Some(("asha@example.com".to_owned(), "messages".to_owned())));
    }

    #[test]
    fn nobody_makes_one_for_somebody_else() {
        let ours = links("https://notify.example.com");
        let link = ours.link(&asha(), "messages").unwrap();
        let token = link.rsplit('/').next().unwrap();
        let other = UnsubscribeLinks::new("https://notify.example.com", &fernet::Fernet::generate_key().into());
        assert_eq!(other.open(token), None);
        for at in [0, 20, token.len() / 2, token.len() - 2] {
            let mut bytes = token.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.open(&String::from_utf8(bytes).unwrap()), None, "byte {at}");
        }
        for bad in ["", "x", "gAAAAA", "é", &"A".repeat(5000)] {
            assert_eq!(ours.open(bad), None);
        }
    }

    #[test]
    fn mail_clients_follow_https_only() {
        for (base_url, is_fit) in [
            ("https://notify.example.com", true),
            ("http://notify.example.com", false),
            ("http://localhost:8000", true),
            ("http://127.0.0.1:8000", true),
            ("http://[::1]:8000", true),
            ("http://10.0.0.7:8000", false),
            ("ftp://localhost", false),
            ("no url", false),
        ] {
            assert_eq!(links(base_url).link(&asha(), "messages").is_some(), is_fit, "{base_url}");
        }
        assert!(UnsubscribeLinks::new("https://notify.example.com", &"short".into()).link(&asha(), "messages").is_none());
    }
}
