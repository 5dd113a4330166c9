//! One email address, in the one form it is stored, compared and sent in.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use icu_normalizer::ComposingNormalizerBorrowed;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::{address::parsed_text, text::is_invisible};

/// Octets of a path less its brackets (RFC 5321, section 4.5.3.1.3).
const ADDRESS_LIMIT: usize = 254;
/// Octets before the `@` (RFC 5321, section 4.5.3.1.1).
const LOCAL_PART_LIMIT: usize = 64;
/// ASCII characters of an atom beside letters and digits (RFC 5322, section 3.2.3).
const ATOM_SIGNS: &[u8] = b"!#$%&'*+-/=?^_`{|}~";

/// An email address that any mail server can be given: `local-part@domain`, both without quotes, comments or brackets.
///
/// The domain is in lower-case A-labels (UTS 46), so that addresses of one mailbox are one text. The part before the `@` is its server's
/// own business (RFC 5321, section 2.4) and stays as it was written; outside ASCII it is in NFC, without characters nobody can see and
/// without those that look like others (what NFKC would change, `＠` for one).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmailAddress(Arc<str>);

impl EmailAddress {
    /// What an earlier version took and stored. Some of it would not be taken today: it is read all the same, so that nothing that was
    /// accepted is stuck, and refused where it would be sent.
    ///
    /// # Errors
    /// No version took it: it has no `@`.
    pub fn from_stored(text: &str) -> Result<Self, String> {
        text.parse().or_else(|told| if text.contains('@') { Ok(Self(text.into())) } else { Err(told) })
    }

    /// Takes the member `email` out of a stored document, if it can be read.
    pub(super) fn take_stored(document: &mut Value) -> Option<Self> {
        let members = document.as_object_mut()?;
        let email = Self::from_stored(members.get("email")?.as_str()?).ok()?;
        members.remove("email");
        Some(email)
    }

    /// Whether it is as the type says. Only what was stored can be otherwise.
    pub fn is_sound(&self) -> bool {
        self.0.parse().is_ok_and(|parsed: Self| parsed == *self)
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        self.parts().0
    }

    /// What stands behind the `@`: lower case, ASCII.
    pub fn domain(&self) -> &str {
        self.parts().1
    }

    /// Whether every mail server can carry it; else only those with SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    fn parts(&self) -> (&str, &str) {
        self.0.rsplit_once('@').unwrap_or_default()
    }
}

impl FromStr for EmailAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|problem| format!("{problem}; hint: write one plain address like asha@example.com"))
    }
}

parsed_text!(EmailAddress, { "type": "string", "format": "email", "maxLength": 254 });

fn parse(text: &str) -> Result<EmailAddress, &'static str> {
    // Bounds the work below; canonical forms can be shorter.
    if text.len() > 4 * ADDRESS_LIMIT {
        return Err("longer than 254 octets (RFC 5321)");
    }
    if text.chars().any(is_invisible) {
        return Err("has a control character, or one that nobody can see");
    }
    let Some((local, domain)) = text.split_once('@') else { return Err("not an email address: it has no @") };
    let (local, domain) = (canonical_local(local)?, canonical_domain(domain)?);
    if local.len() + 1 + domain.len() > ADDRESS_LIMIT {
        return Err("longer than 254 octets (RFC 5321)");
    }
    Ok(EmailAddress(format!("{local}@{domain}").into()))
}

fn canonical_local(local: &str) -> Result<Cow<'_, str>, &'static str> {
    let composed = ComposingNormalizerBorrowed::new_nfc().normalize(local);
    if ComposingNormalizerBorrowed::new_nfkc().normalize(&composed) != composed {
        return Err("not an email address: before the @ is a character that only looks like another");
    }
    if composed.len() > LOCAL_PART_LIMIT {
        return Err("not an email address: longer than 64 octets before the @ (RFC 5321)");
    }
    // A program that is given the address on its command line would take it for an option.
    if composed.starts_with('-') {
        return Err("not an email address: it begins with a -");
    }
    let is_allowed = |c: char| match u8::try_from(c) {
        Ok(byte) if c.is_ascii() => byte.is_ascii_alphanumeric() || ATOM_SIGNS.contains(&byte),
        _ => !c.is_whitespace(),
    };
    let is_dot_atom = composed.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_allowed));
    if is_dot_atom { Ok(composed) } else { Err("not an email address: before the @ are other characters than one may have without quotes") }
}

fn canonical_domain(domain: &str) -> Result<Cow<'_, str>, &'static str> {
    const PROBLEM: &str = "not an email address: behind the @ is no domain name";
    let ascii =
        Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify).map_err(|_| PROBLEM)?;
    // No top-level domain is a number: this is an IPv4 address.
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if ascii.rsplit('.').next().is_none_or(is_number) { Err(PROBLEM) } else { Ok(ascii) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: Option<&str>) {
        let parsed = input.parse::<EmailAddress>();
        assert_eq!(parsed.as_ref().ok().map(EmailAddress::as_str), expected, "{input:?}");
        match parsed {
            Ok(address) => {
                assert_eq!(address.as_str().parse(), Ok(address.clone()), "the canonical form of {input:?} is its own");
                assert_eq!(format!("{}@{}", address.local(), address.domain()), address.as_str());
            }
            Err(told) => assert!(told.contains("; hint: "), "{told}"),
        }
    }

    #[test]
    fn good_addresses_have_one_form() {
        for same in [
            "asha@example.com",
            "asha+flat@mail.example.co.tz",
            "Asha.Juma@example.com",
            "o'neill!#$%&*/=?^_`{|}~@example.com",
            "a@localhost",
            "1234567890@example.com",
            "a-@example.com",
            "a--b@ex--ample.com",
            "jürgen@example.com",
            "用户@example.com",
            "xn--@xn--fsq.xn--0zwm56d",
        ] {
            check(same, Some(same));
        }
        check("asha@EXAMPLE.Com", Some("asha@example.com"));
        check("asha@BÜCHER.example", Some("asha@xn--bcher-kva.example"));
        check("asha@bu\u{308}cher.example", Some("asha@xn--bcher-kva.example"));
        check("asha@XN--BCHER-KVA.example", Some("asha@xn--bcher-kva.example"));
        check("asha@faß.example", Some("asha@xn--fa-hia.example"));
        check("asha@例。テスト", Some("asha@xn--fsq.xn--zckzah"));
        check("ju\u{308}rgen@example.com", Some("j\u{fc}rgen@example.com"));
        // Cyrillic а: another domain, and seen to be another once it is in A-labels.
        check("asha@ex\u{430}mple.com", Some("asha@xn--exmple-4nf.com"));
        check(&format!("{}@example.com", "a".repeat(64)), Some(&format!("{}@example.com", "a".repeat(64))));
        assert!("asha@bücher.example".parse::<EmailAddress>().unwrap().is_ascii());
        assert!(!"jürgen@example.com".parse::<EmailAddress>().unwrap().is_ascii());
    }

    #[test]
    fn what_was_stored_is_read_whatever_it_is() {
        for (stored, is_sound) in [
            ("asha@example.com", true),
            ("asha@EXAMPLE.com", true),
            ("asha@[127.0.0.1]", false),
            ("\"asha juma\"@example.com", false),
            ("as\u{200b}ha@example.com", false),
        ] {
            let read = EmailAddress::from_stored(stored).unwrap();
            assert_eq!(read.is_sound(), is_sound, "{stored:?}");
            assert_eq!(EmailAddress::from_stored(read.as_str()), Ok(read));
        }
        assert!(EmailAddress::from_stored("nowhere").is_err());
    }

    #[test]
    fn whatever_is_not_one_plain_address_is_refused() {
        for bad in [
            "",
            "@",
            "asha",
            "asha@",
            "@example.com",
            "a@b@c",
            "a@b,c@d",
            "a@b.example,c@d.example",
            "a@b.example;c@d.example",
            "a@b.example c@d.example",
            "Asha <asha@example.com>",
            "<asha@example.com>",
            "\"asha juma\"@example.com",
            "\"asha\"@example.com",
            "asha(comment)@example.com",
            "asha@example.com(comment)",
            "asha@(comment)example.com",
            "friends:asha@example.com;",
            "@relay.example:asha@example.com",
            "asha%x@relay@example.com",
            "asha@[127.0.0.1]",
            "asha@[IPv6:::1]",
            "asha@127.0.0.1",
            "asha@example.123",
            "asha@example.com.",
            "asha@.example.com",
            "asha@example..com",
            "asha@-example.com",
            "asha@example-.com",
            "asha@exam_ple.com",
            "asha@exam ple.com",
            "asha@xn--a.example",
            ".asha@example.com",
            "asha.@example.com",
            "as..ha@example.com",
            "-asha@example.com",
            "as ha@example.com",
            " asha@example.com",
            "asha@example.com ",
            "asha\\@example.com",
            "asha＠example.com",
            "as＠ha@example.com",
            "asha@example＠evil.example",
            "ａsha@example.com",
            "ﬁ@example.com",
            "asha\u{a0}@example.com",
            "asha@example.com\r\nBcc: x@y.z",
            "asha@example.com\n",
            "a\0@example.com",
            "a\u{b}@example.com",
            "a\u{c}@example.com",
            "a\u{7f}@example.com",
            "a\u{85}@example.com",
            "a\u{2028}@example.com",
            "a\u{2029}@example.com",
            "a\u{200b}@example.com",
            "a\u{200d}b@example.com",
            "a\u{202e}@example.com",
            "a\u{2066}b\u{2069}@example.com",
            "\u{feff}asha@example.com",
            "asha@exa\u{ad}mple.com",
            "asha@exa\u{200b}mple.com",
            "asha@exa\u{202e}mple.com",
        ] {
            check(bad, None);
        }
        check(&format!("{}@example.com", "a".repeat(65)), None);
        check(&format!("{}@example.com", "é".repeat(33)), None);
        check(&format!("a{}@example.com", "\u{301}".repeat(40)), None);
        let label = "d".repeat(63);
        check(&format!("asha@{}.example", "d".repeat(64)), None);
        check(&format!("asha@{label}.{label}.{label}.{label}.example"), None);
        check(&format!("{}@{label}.{label}.{label}.example", "a".repeat(64)), None);
        check(&format!("asha@{}", "d".repeat(100_000)), None);
    }
}
