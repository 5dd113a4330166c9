//! Who mails are from: the configured mailboxes, parsed, by the tenant a job is for.

use std::collections::BTreeMap;

use lettre::{Address, message::Mailbox};

use crate::model::{EmailAddress, is_invisible};

/// The senders of one provider.
#[derive(Clone, Debug)]
pub struct Senders {
    from: Mailbox,
    by_tenant: BTreeMap<String, Mailbox>,
    reply_to: Option<Mailbox>,
}

impl Senders {
    /// `from` is everybody's sender who has none in `by_tenant`; `reply_to` is where answers go, if not there.
    ///
    /// # Errors
    /// Which of them is not a mailbox, and a hint.
    pub fn new(from: &str, by_tenant: &BTreeMap<String, String>, reply_to: Option<&str>) -> Result<Self, String> {
        let named = |key: &str, text: &str| mailbox(text).map_err(|problem| format!("{key}: {problem}"));
        let by_tenant = by_tenant.iter().map(|(tenant, text)| Ok((tenant.clone(), named(&format!("from_by_tenant.{tenant}"), text)?)));
        Ok(Self {
            from: named("from", from)?,
            by_tenant: by_tenant.collect::<Result<_, String>>()?,
            reply_to: reply_to.map(|text| named("reply_to", text)).transpose()?,
        })
    }

    /// Whom mails on behalf of `tenant` are from.
    pub fn for_tenant(&self, tenant: Option<&str>) -> &Mailbox {
        tenant.and_then(|tenant| self.by_tenant.get(tenant)).unwrap_or(&self.from)
    }

    pub fn reply_to(&self) -> Option<&Mailbox> {
        self.reply_to.as_ref()
    }
}

/// A mailbox as people write it: `asha@example.com`, `Asha <asha@example.com>`, `"Asha (Dar)" <asha@example.com>`. Stricter than
/// `lettre`'s own parser, which reads the first of a list and leaves the rest.
fn mailbox(text: &str) -> Result<Mailbox, String> {
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
pub(super) fn lettre_address(address: &EmailAddress) -> Result<Address, String> {
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

    #[test]
    fn a_tenant_has_its_own_sender_or_everybodys() {
        let by_tenant = [("smart".to_owned(), "Smart <hello@smart.example>".to_owned())].into();
        let senders = Senders::new("hello@example.com", &by_tenant, Some("Support <help@example.com>")).unwrap();
        let of = |tenant| senders.for_tenant(tenant).email.to_string();
        assert_eq!(of(Some("smart")), "hello@smart.example");
        assert_eq!((of(Some("other")), of(None)), ("hello@example.com".to_owned(), "hello@example.com".to_owned()));
        assert_eq!(senders.reply_to().unwrap().name.as_deref(), Some("Support"));
        let told = Senders::new("hello@example.com", &[("t".to_owned(), "x".to_owned())].into(), None).unwrap_err();
        assert!(told.starts_with("from_by_tenant.t: "), "{told}");
    }
}
