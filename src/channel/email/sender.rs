//! Who mails are from: the configured mailboxes, parsed, by the tenant a job is for.

use std::collections::BTreeMap;

use lettre::message::Mailbox;

use crate::{
    config::mailbox,
    model::{Code, Outcome, PermanentKind},
};

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

    /// An outcome, as it concerns whom the mail is from: a sender that is one tenant's own and is refused is that tenant's affair, and
    /// no reason to pause the provider for everybody. Whoever puts it right finds the mails still waiting, or another provider has had them.
    pub fn judged(&self, tenant: Option<&str>, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Permanent { kind: PermanentKind::Config, code: code @ Code::SENDER_REFUSED, detail }
                if tenant.is_some_and(|tenant| self.by_tenant.contains_key(tenant)) =>
            {
                Outcome::Transient { code, detail, retry_after: None }
            }
            other => other,
        }
    }

    pub fn reply_to(&self) -> Option<&Mailbox> {
        self.reply_to.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_own_sender_or_everybodys() {
        let by_tenant = [("smart".to_owned(), "Smart <hello@smart.example>".to_owned())].into();
        let senders = Senders::new("hello@example.com", &by_tenant, Some("Support <help@example.com>")).unwrap();
        let of = |tenant| senders.for_tenant(tenant).email.to_string();
        assert_eq!(of(Some("smart")), "hello@smart.example");
        assert_eq!((of(Some("other")), of(None)), ("hello@example.com".to_owned(), "hello@example.com".to_owned()));
        assert_eq!(senders.reply_to().unwrap().name.as_deref(), Some("Support"));
        let judged = |tenant, code| {
            let refused = Outcome::Permanent { kind: PermanentKind::Config, code, detail: "no".to_owned() };
            senders.judged(tenant, refused).as_str()
        };
        assert_eq!(judged(Some("smart"), Code::SENDER_REFUSED), "transient");
        assert_eq!(judged(Some("smart"), Code::AUTHENTICATION_FAILED), "permanent");
        assert_eq!((judged(Some("other"), Code::SENDER_REFUSED), judged(None, Code::SENDER_REFUSED)), ("permanent", "permanent"));
        let told = Senders::new("hello@example.com", &[("t".to_owned(), "x".to_owned())].into(), None).unwrap_err();
        assert!(told.starts_with("from_by_tenant.t: "), "{told}");
    }
}
