//! Senders as people write them: one mailbox each (RFC 5322, section 3.4).

use lettre::{Address, message::Mailbox};

use crate::model::{EmailAddress, is_invisible};

/// A mailbox as people write it: `asha@example.com`, `Asha <asha@example.com>`, `"Asha (Dar)" <asha@example.com>`. Stricter than
/// `lettre`'s own parser, which reads the first of a list and leaves the rest.
///
/// # Errors
/// What is wrong with it, and a hint.
pub fn mailbox(text: &str) -> Result<Mailbox, String> {
    const HINT: &str = "hint: write it like \"Tarishi <hello@example.com>\"";
    if text.chars().any(is_invisible) {
        return Err(format!("has a control character, or one that nobody can see; {HINT}"));
    }
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (unquoted(name.trim()).ok_or_else(|| format!("not one name and one address; {HINT}"))?, address),
        None => (String::new(), text),
    };
    let address = lettre_address(&address.parse()?)?;
    Ok(Mailbox::new((!name.is_empty()).then_some(name), address))
}

/// A display name without its quotes, if it has any; `None` when it is not one name.
fn unquoted(name: &str) -> Option<String> {
    let Some(quoted) = name.strip_prefix('"') else {
        return (!name.contains(['"', '<', '>', '@', ',', ';', ':', '\\'])).then(|| name.to_owned());
    };
    let mut plain = String::new();
    let mut rest = quoted.strip_suffix('"')?.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return None,
            '\\' => plain.push(rest.next()?),
            other => plain.push(other),
        }
    }
    Some(plain)
}

/// The address as `lettre` takes it.
///
/// # Errors
/// It is none that a mail could have; only what an earlier version stored can be such.
pub fn lettre_address(address: &EmailAddress) -> Result<Address, String> {
    Address::new(address.local(), address.domain()).map_err(|_| "an address does not parse".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(Option<&str>, &str)>) {
        let parsed = mailbox(text);
        if let Err(told) = &parsed {
            assert!(told.contains("hint: "), "{told}");
        }
        let parsed = parsed.ok().map(|mailbox| (mailbox.name, mailbox.email.to_string()));
        assert_eq!(parsed.as_ref().map(|(name, email)| (name.as_deref(), email.as_str())), expected, "{text:?}");
    }

    #[test]
    fn a_sender_is_one_mailbox() {
        check("hello@example.com", Some((None, "hello@example.com")));
        check("<hello@example.com>", Some((None, "hello@example.com")));
        check(" Tarishi  <hello@EXAMPLE.com> ", Some((Some("Tarishi"), "hello@example.com")));
        check("Tarishi Ltd. (Dar) <hello@bücher.example>", Some((Some("Tarishi Ltd. (Dar)"), "hello@xn--bcher-kva.example")));
        check("\"Habari, \\\"Asha\\\" <3\" <hello@example.com>", Some((Some("Habari, \"Asha\" <3"), "hello@example.com")));
        check("Ujumbe Mpya é <hello@example.com>", Some((Some("Ujumbe Mpya é"), "hello@example.com")));
        for bad in [
            "",
            "Tarishi",
            "Tarishi hello@example.com",
            "Tarishi <hello@example.com",
            "a@example.com, b@example.com",
            "A <a@example.com>, B <b@example.com>",
            "A <a@example.com> b",
            "\"A\" x <a@example.com>",
            "\"A <a@example.com>",
            "friends: A <a@example.com>",
            "Tarishi\r\nBcc: x@example.com <hello@example.com>",
            "Tari\0shi <hello@example.com>",
            "Tari\u{202e}shi <hello@example.com>",
            "Tari\u{2028}shi <hello@example.com>",
        ] {
            check(bad, None);
        }
    }
}
