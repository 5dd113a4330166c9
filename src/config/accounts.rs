//! The rules of `[provider.…]` that no type holds. What only a used provider needs is asked of used ones alone.

use std::net::IpAddr;

use super::{
    Config, FcmConfig, SendGridConfig, SmtpConfig, SmtpTls, TwilioConfig,
    check::{Found, is_sms_sender},
    is_loopback, mailbox, webhook_key,
};
use crate::model::{Channel, is_broken};

/// Labels one mail may have (v3 mail send, `categories`), less the one that is the template's name.
const CATEGORIES_LIMIT: usize = 9;
const CATEGORY_LIMIT: usize = 255;
/// E.164 numbers have no more digits.
const DIGITS_LIMIT: u64 = 15;
/// 1 600 characters of UCS-2.
const SEGMENTS_LIMIT: u64 = 24;

impl Found {
    pub(super) fn accounts(&mut self, config: &Config) {
        let is_used = |name: &str| {
            Channel::ALL.into_iter().any(|channel| config.channel.get(channel).providers.iter().any(|provider| provider == name))
        };
        let provider = &config.provider;
        self.sendgrid(&provider.sendgrid, is_used("sendgrid"));
        self.smtp(&provider.smtp, is_used("smtp"));
        self.twilio(&provider.twilio, is_used("twilio"));
        self.fcm(&provider.fcm);
    }

    fn sendgrid(&mut self, sendgrid: &SendGridConfig, is_used: bool) {
        let path = |key: &str| format!("provider.sendgrid.{key}");
        self.api(&path("base_url"), &sendgrid.base_url);
        if sendgrid.webhook_public_key.as_ref().is_some_and(|key| webhook_key(key).is_none()) {
            let hint = "copy the verification key from Settings > Mail Settings > Event Webhook, all of it on one line";
            self.refuse(path("webhook_public_key"), "not a public key on P-256 in Base64", hint);
        }
        let senders = [("from", sendgrid.from.as_ref()), ("reply_to", sendgrid.reply_to.as_ref())];
        self.senders("provider.sendgrid", senders, sendgrid.from_by_tenant.iter());
        let by_tenant = sendgrid.from_by_tenant.iter().map(|(tenant, from)| (format!("from_by_tenant.{tenant}"), from));
        for (key, from) in sendgrid.from.iter().map(|from| ("from".to_owned(), from)).chain(by_tenant) {
            if mailbox(from).is_ok_and(|mailbox| mailbox.name.is_some_and(|name| !name.is_ascii())) {
                let hint = "write the name in ASCII: \"Unicode encoding is not supported for the from field\" (v3 mail send)";
                self.refuse(path(&key), "SendGrid takes no such name of a sender", hint);
            }
        }
        self.needed(is_used, "provider.sendgrid", "from", sendgrid.from.is_some(), "\"Tarishi <hello@example.com>\"");
        if sendgrid.categories.len() > CATEGORIES_LIMIT {
            self.refuse(path("categories"), "too many", format!("at most {CATEGORIES_LIMIT}, beside the template's name"));
        }
        for (index, category) in sendgrid.categories.iter().enumerate() {
            let good = (1..=CATEGORY_LIMIT).contains(&category.chars().count()) && !category.chars().any(is_broken);
            if !good {
                self.refuse(path(&format!("categories[{index}]")), "not a category", "1 to 255 characters on one line");
            }
        }
        self.unique(sendgrid.categories.iter().map(|name| Some(name.as_str())), |index| path(&format!("categories[{index}]")));
        self.rate("provider.sendgrid", sendgrid.rate);
    }

    fn smtp(&mut self, smtp: &SmtpConfig, is_used: bool) {
        let senders = [("from", smtp.from.as_ref()), ("reply_to", smtp.reply_to.as_ref())];
        self.senders("provider.smtp", senders, smtp.from_by_tenant.iter());
        self.needed(is_used, "provider.smtp", "from", smtp.from.is_some(), "\"Tarishi <hello@example.com>\"");
        self.needed(is_used, "provider.smtp", "url", smtp.url.is_some(), "\"smtp://user@mail.example.com:587\"");
        self.within("provider.smtp.idle_connections", smtp.idle_connections, 0..=1000);
        self.duration("provider.smtp.idle_timeout", smtp.idle_timeout);
        self.duration("provider.smtp.connect_timeout", smtp.connect_timeout);
        self.rate("provider.smtp", smtp.rate);
        if let Some(url) = &smtp.url
            && smtp.tls == SmtpTls::None
        {
            let on_loopback = url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
            if url.is_implicit_tls() {
                self.refuse("provider.smtp.tls", "\"none\" contradicts smtps://", "write the URL with smtp://, or leave `tls` out");
            } else if !on_loopback {
                let hint = "leave it out; the mail server then has to offer STARTTLS";
                self.refuse("provider.smtp.tls", "\"none\" is for mail servers on this machine", hint);
            } else if url.user().is_some() {
                self.refuse("provider.smtp.url", "a password would go over the wire as it is", "leave the user out, or `tls`");
            }
        }
    }

    fn twilio(&mut self, twilio: &TwilioConfig, is_used: bool) {
        let path = |key: &str| format!("provider.twilio.{key}");
        self.api(&path("base_url"), &twilio.base_url);
        self.needed(is_used, "provider.twilio", "account_sid", twilio.account_sid.is_some(), "\"AC…\"");
        let sids = [("account_sid", &twilio.account_sid, "AC"), ("api_key", &twilio.api_key, "SK")];
        for (key, sid, prefix) in sids.into_iter().chain([("messaging_service_sid", &twilio.messaging_service_sid, "MG")]) {
            if sid.as_ref().is_some_and(|sid| !is_sid(sid, prefix)) {
                self.refuse(path(key), "not such a SID", format!("{prefix} and 32 hexadecimal digits, as the console shows it"));
            }
        }
        let has_sender = twilio.from.is_some() || twilio.messaging_service_sid.is_some();
        self.needed(is_used, "provider.twilio", "from", has_sender, "a number like \"+255712345678\", or set `messaging_service_sid`");
        let is_short_code = |from: &str| (3..=8).contains(&from.len()) && from.bytes().all(|byte| byte.is_ascii_digit());
        if twilio.from.as_ref().is_some_and(|from| !is_sms_sender(from) && !is_short_code(from)) {
            let hint = "write a phone number like +255712345678, a short code, or up to 11 letters and digits";
            self.refuse(path("from"), "not an SMS sender", hint);
        }
        let has_prefixes = !twilio.allowed_prefixes.is_empty();
        let hint = "a list such as [\"+255\", \"+254\"]: numbers elsewhere are not written to";
        self.needed(is_used, "provider.twilio", "allowed_prefixes", has_prefixes, hint);
        for (index, prefix) in twilio.allowed_prefixes.iter().enumerate() {
            let digits = prefix.strip_prefix('+').unwrap_or("x");
            if digits.len() > 15 || digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                let hint = "+ and the country's code, such as \"+255\"; \"+\" alone is every country";
                self.refuse(path(&format!("allowed_prefixes[{index}]")), "not the beginning of a phone number", hint);
            }
        }
        self.count(&path("velocity.limit"), twilio.velocity.limit);
        self.duration(&path("velocity.window"), twilio.velocity.window);
        self.within(&path("velocity.digits"), twilio.velocity.digits, 1..=DIGITS_LIMIT);
        self.within(&path("max_segments"), twilio.max_segments, 1..=SEGMENTS_LIMIT);
        self.rate("provider.twilio", twilio.rate);
    }

    fn fcm(&mut self, fcm: &FcmConfig) {
        self.api("provider.fcm.base_url", &fcm.base_url);
        self.count("provider.fcm.rate", fcm.rate);
        self.duration("provider.fcm.ramp", fcm.ramp);
    }

    fn needed(&mut self, is_used: bool, section: &str, key: &str, is_there: bool, example: &str) {
        if is_used && !is_there {
            self.refuse(section, format!("has no `{key}`, and a channel uses it"), format!("add `{key}`: {example}"));
        }
    }

    fn senders<'a>(
        &mut self,
        section: &str,
        written: [(&str, Option<&'a String>); 2],
        by_tenant: impl Iterator<Item = (&'a String, &'a String)>,
    ) {
        let by_tenant = by_tenant.map(|(tenant, from)| (format!("from_by_tenant.{tenant}"), from));
        let written = written.into_iter().filter_map(|(key, sender)| Some((key.to_owned(), sender?)));
        for (key, sender) in written.chain(by_tenant) {
            self.sender(&format!("{section}.{key}"), sender);
        }
    }

    /// The address in ASCII: SendGrid takes no other sender, and not every mail server does.
    pub(super) fn sender(&mut self, path: &str, sender: &str) {
        const HINT: &str = "write it like \"Tarishi <tarishi@example.com>\"";
        match mailbox(sender) {
            Ok(mailbox) if AsRef::<str>::as_ref(&mailbox.email).is_ascii() => {}
            Ok(_) => self.refuse(path, "not a sender address: other letters than ASCII before the @", HINT),
            Err(told) => {
                let (problem, _) = told.split_once("; hint: ").unwrap_or((&told, ""));
                self.refuse(path, format!("not a sender address: {problem}"), HINT);
            }
        }
    }

    /// Where a provider's API is. Credentials go there, and the messages.
    fn api(&mut self, path: &str, url: &str) {
        self.url(path, url);
        if url.starts_with("http://") && !is_loopback(url) {
            self.refuse(path, "credentials would go over the wire as they are", "write it with https://; http:// is for this machine");
        }
    }

    fn rate(&mut self, section: &str, rate: Option<u32>) {
        if let Some(rate) = rate {
            self.count(&format!("{section}.rate"), rate);
        }
    }
}

/// How Twilio names things: two letters for the kind, then 32 hexadecimal digits.
fn is_sid(sid: &str, prefix: &str) -> bool {
    sid.strip_prefix(prefix).is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check_line as check, refused};

    #[test]
    fn a_provider_that_is_not_used_needs_nothing() {
        check("provider.sendgrid.categories = ['a']", &[]);
        refused("provider.sendgrid.categories = ['a', 'a']", "provider.sendgrid.categories[1]: the same as an earlier one");
    }

    #[test]
    fn a_provider_that_is_used_needs_its_account() {
        check(
            "channel.email.providers = ['sendgrid']",
            &[
                "provider.sendgrid: has no `from`, and a channel uses it (hint: add `from`: \"Tarishi <hello@example.com>\")",
                "provider.sendgrid: has no `api_key` (hint: add one of `api_key_file` and `api_key_credential`)",
            ],
        );
        let twilio = "channel.sms.providers = ['twilio']\n[provider.twilio]\nauth_token = 'x'\n";
        refused(twilio, "provider.twilio: has no `account_sid`, and a channel uses it");
        refused(twilio, "provider.twilio: has no `from`, and a channel uses it");
        refused(twilio, "provider.twilio: has no `allowed_prefixes`, and a channel uses it");
        refused("channel.push.providers = ['fcm']", "provider.fcm: has no `service_account`");
        refused("channel.email.providers = ['smtp']", "provider.smtp: has no `url`, and a channel uses it");
    }

    #[test]
    fn accounts_are_written_as_their_consoles_show_them() {
        refused("provider.twilio.account_sid = 'AC12'", "provider.twilio.account_sid: not such a SID");
        refused("provider.twilio.allowed_prefixes = ['255']", "provider.twilio.allowed_prefixes[0]: not the beginning of a phone number");
        check("provider.twilio.allowed_prefixes = ['+', '+255']", &[]);
        check("provider.sendgrid.from = 'Tarishi <tarishi@ex\u{e4}mple.com>'", &[]);
        check("provider.smtp.from = 'Tarishi \u{e9} <tarishi@example.com>'", &[]);
        for provider in ["sendgrid", "smtp"] {
            let refused = |key: &str, text: &str| {
                refused(&format!("provider.{provider}.{key} = \"{text}\""), &format!("provider.{provider}.{key}: not a sender address"));
            };
            refused("from", "Tarishi <t\u{e4}rishi@example.com>");
            refused("from_by_tenant.a", "x\\r\\ny <a@example.com>");
            refused("from", "a@example.com, b@example.com");
            refused("from", "A <a@example.com> b");
            refused("reply_to", "Tari\u{202e}shi <a@example.com>");
            refused("from", "a@[127.0.0.1]");
        }
        refused("provider.sendgrid.from = 'Tarishi \u{e9} <tarishi@example.com>'", "provider.sendgrid.from: SendGrid takes no such name");
        refused(
            "provider.sendgrid.from_by_tenant.a = '\u{e9} <a@b.example>'",
            "provider.sendgrid.from_by_tenant.a: SendGrid takes no such",
        );
        check("provider.sendgrid.reply_to = 'Tarishi \u{e9} <tarishi@example.com>'", &[]);
        refused(
            "provider.smtp.url = 'smtp://mail.example.com'\nprovider.smtp.tls = 'none'",
            "provider.smtp.tls: \"none\" is for mail servers",
        );
        refused(
            "provider.smtp.url = 'smtp://u@localhost'\nprovider.smtp.tls = 'none'",
            "provider.smtp.url: a password would go over the wire",
        );
        check("provider.smtp.url = 'smtp://127.0.0.1:2525'\nprovider.smtp.tls = 'none'", &[]);
        for provider in ["sendgrid", "twilio", "fcm"] {
            let key = format!("provider.{provider}.base_url");
            refused(&format!("{key} = 'http://api.example.com'"), &format!("{key}: credentials would go over the wire"));
            check(&format!("{key} = 'http://127.0.0.1:8089'"), &[]);
            check(&format!("{key} = 'https://api.example.com'"), &[]);
        }
        refused("provider.sendgrid.webhook_public_key = 'MFkwEwYHKoZIzj0CAQ'", "provider.sendgrid.webhook_public_key: not a public key");
    }

    #[test]
    fn two_places_for_one_secret_are_one_too_many() {
        let two = "channel.email.providers = ['sendgrid']\nprovider.sendgrid.from = 'a@b.example'\nprovider.sendgrid.api_key = 'x'\n\
                   provider.sendgrid.api_key_file = '/nowhere'";
        check(
            two,
            &["provider.sendgrid: has more than one `api_key` (hint: keep one of `api_key`, `api_key_file` and `api_key_credential`)"],
        );
    }
}
