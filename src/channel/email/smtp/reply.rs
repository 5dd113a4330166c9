//! What a mail server's answer means: the one place that reads codes and words. Pure.
//!
//! The first digit decides, the enhanced code refines (RFC 5321, section 4.2; RFC 3463). Only an answer that speaks of the recipient may
//! condemn the address; whatever stands in the way of every mail alike is our set-up, which waits for a person and loses nothing.

use crate::model::{Code, Outcome, PermanentKind, cut, is_invisible, mask};

/// Bytes of a server's text that are kept.
const TEXT_LIMIT: usize = 300;
/// What ends an address inside a server's sentence.
const AROUND_ADDRESSES: &[char] = &['<', '>', '(', ')', '[', ']', '"', '\'', ',', ';', ':', '='];
/// Words for: it does not pass mails on for the likes of us.
const RELAY_WORDS: &[&str] = &["relay", "relaying", "relayed", "rcpthosts"];
/// Words for: it does not like who sends, as a sender.
const SENDER_WORDS: &[&str] = &[
    "not owned by",
    "send as this sender",
    "sender address",
    "sender denied",
    "sender rejected",
    "sender verification",
    "sender verify",
    // Exim, of what MAIL said.
    "verification failed for",
];
/// Words for: it does not like the machine that speaks to it, or how that calls itself.
const MACHINE_WORDS: &[&str] = &[
    "black list",
    "blacklist",
    "blacklisted",
    "block list",
    "blocklist",
    "blocklisted",
    "client host",
    "denylist",
    "dnsbl",
    "ehlo",
    "helo",
    "ip address",
    "rbl",
    "spamhaus",
];
/// Words for: it does not like what it says or where it comes from.
const POLICY_WORDS: &[&str] = &[
    "access denied",
    "administratively",
    "banned",
    "black list",
    "blacklist",
    "blacklisted",
    "block list",
    "blocked",
    "blocklist",
    "blocklisted",
    "client host",
    "content",
    "denylist",
    "dkim",
    "dmarc",
    "dnsbl",
    "ip address",
    "not permitted",
    "policy",
    "prohibited",
    "prohibition",
    "rbl",
    "reputation",
    "spam",
    "spamhaus",
    "spf",
    "virus",
];
/// Words for: not so fast.
const RATE_WORDS: &[&str] = &[
    "limit exceeded",
    "rate",
    "sending limit",
    "sending limits",
    "sending quota",
    "throttled",
    "throttling",
    "too fast",
    "too many",
    "too much",
];
/// Words that hold some of [`RATE_WORDS`] and mean a loop, which no waiting ends.
const LOOP_WORDS: &[&str] = &["hops", "mail loop"];
/// Words for: this recipient is none, where the enhanced code alone could mean a route.
const RECIPIENT_WORDS: &[&str] = &["recipient address rejected", "recipient rejected"];
const GREYLIST_WORDS: &[&str] = &["greylist", "greylisted", "greylisting", "graylist", "graylisted", "graylisting"];

/// What we had said when the answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing, or EHLO.
    Hello,
    StartTls,
    Authentication,
    /// RSET, to begin anew.
    Reset,
    /// MAIL
    Sender,
    /// RCPT
    Recipient,
    /// DATA
    Data,
    /// The mail, up to its final dot.
    Content,
}

/// An answer, its lines put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub code: u16,
    pub text: String,
}

impl Reply {
    /// It ends the session, whatever it was an answer to (RFC 5321, section 3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// Fit for people who must not see addresses.
    fn detail(&self) -> String {
        let text = without_addresses(&self.text);
        cut(format!("{} {text}", self.code).trim(), TEXT_LIMIT)
    }

    /// The subject and the detail of the enhanced code, if the text begins with one that agrees with the code (RFC 2034, section 4).
    fn enhanced(&self) -> Option<(u16, u16)> {
        let mut numbers = self.text.split_whitespace().next()?.split('.').map(|number| number.parse::<u16>().ok());
        let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (class == self.code / 100 && numbers.next().is_none()).then_some((subject, detail))
    }

    fn says(&self, phrases: &[&str]) -> bool {
        // What an address has in it says nothing: `policy@example.com`.
        let words: String =
            without_addresses(&self.text).to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
        let words = format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "));
        phrases.iter().any(|phrase| words.contains(&format!(" {phrase} ")))
    }
}

/// What a refusal comes to. (Of an answer that is no refusal it says that it was not to be expected.)
pub(super) fn classify(stage: Stage, reply: &Reply) -> Outcome {
    let transient = |code| Outcome::Transient { code, detail: reply.detail(), retry_after: None };
    let permanent = |kind, code| Outcome::Permanent { kind, code, detail: reply.detail() };
    match reply.code {
        400..=499 => transient(waits(stage, reply)),
        500..=599 => match refuses(stage, reply) {
            Refusal::Transient(code) => transient(code),
            Refusal::Permanent(kind, code) => permanent(kind, code),
        },
        _ if stage == Stage::Content => Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, detail: reply.detail() },
        _ => transient(Code::UNEXPECTED_ANSWER),
    }
}

enum Refusal {
    Transient(Code),
    Permanent(PermanentKind, Code),
}

/// The code of a 4yz.
fn waits(stage: Stage, reply: &Reply) -> Code {
    match reply.enhanced() {
        Some((2, 2)) => Code::MAILBOX_FULL,
        _ if reply.says(GREYLIST_WORDS) => Code::GREYLISTED,
        _ if reply.says(RATE_WORDS) => Code::RATE_LIMITED,
        _ if reply.closes() || stage != Stage::Recipient => Code::PROVIDER_UNAVAILABLE,
        // Policy for this recipient (RFC 3463, 4.7.x), or a mailbox that is busy for a while (450 alone, 4.2.x): both are said of one
        // recipient, and are how greylisting is said (RFC 6647, section 2.1).
        Some((7 | 2, _)) => Code::GREYLISTED,
        None if reply.code == 450 => Code::GREYLISTED,
        _ => Code::PROVIDER_UNAVAILABLE,
    }
}

/// What a 5yz comes to.
fn refuses(stage: Stage, reply: &Reply) -> Refusal {
    use PermanentKind::{Address, Config, Payload};
    use Refusal::{Permanent, Transient};
    let enhanced = reply.enhanced();
    let of_mail = matches!(stage, Stage::Recipient | Stage::Data | Stage::Content);
    let before_content = matches!(stage, Stage::Sender | Stage::Recipient | Stage::Data);
    match (reply.code, enhanced) {
        (530 | 534 | 535 | 538, _) | (_, Some((7, 8))) => Permanent(Config, Code::AUTHENTICATION_FAILED),
        _ if stage == Stage::Authentication => Permanent(Config, Code::AUTHENTICATION_FAILED),
        _ if matches!(stage, Stage::Hello | Stage::StartTls | Stage::Reset) => Permanent(Config, Code::CONFIG_REFUSED),
        (_, Some((2, 2))) if of_mail => Transient(Code::MAILBOX_FULL),
        (_, Some((3, 4) | (2, 3))) => Permanent(Payload, Code::TOO_LARGE),
        // Too many recipients (RFC 5321, section 4.5.3.1.10).
        (552, _) if stage == Stage::Recipient => Transient(Code::PROVIDER_UNAVAILABLE),
        (552, _) if of_mail => Permanent(Payload, Code::TOO_LARGE),
        // "is receiving mail at a rate that prevents additional messages from being delivered"
        (_, Some((2, _))) if of_mail && reply.says(RATE_WORDS) => Transient(Code::GREYLISTED),
        // "Daily user sending limit exceeded": our account's, and it passes. 5.4.5 is congestion (RFC 3463, section 3.5).
        (_, Some((4, 5))) => Transient(Code::RATE_LIMITED),
        _ if reply.says(RATE_WORDS) && !reply.says(LOOP_WORDS) => Transient(Code::RATE_LIMITED),
        (_, Some((1, 7 | 8))) => Permanent(Config, Code::SENDER_REFUSED),
        (_, Some((1, 1..=6 | 10))) if of_mail => Permanent(Address, Code::ADDRESS_UNKNOWN),
        // Many servers keep what they think of us until somebody is named.
        _ if before_content && reply.says(MACHINE_WORDS) => Permanent(Config, Code::CONFIG_REFUSED),
        _ if stage == Stage::Sender => Permanent(Config, Code::SENDER_REFUSED),
        _ if before_content && reply.says(SENDER_WORDS) => Permanent(Config, Code::SENDER_REFUSED),
        _ if stage == Stage::Recipient && reply.says(RELAY_WORDS) => Permanent(Config, Code::CONFIG_REFUSED),
        (_, Some((5 | 6, _))) | (500..=504, None) => Permanent(Payload, Code::PAYLOAD_REFUSED),
        (_, Some((7, _))) => Permanent(Payload, Code::CONTENT_REFUSED),
        _ if reply.says(POLICY_WORDS) => Permanent(Payload, Code::CONTENT_REFUSED),
        _ if stage != Stage::Recipient => Permanent(Payload, Code::CONTENT_REFUSED),
        (550, Some((4, 1))) if reply.says(RECIPIENT_WORDS) => Permanent(Address, Code::ADDRESS_UNKNOWN),
        // 556: the domain takes no mail (RFC 7504).
        (550, None | Some((0..=2, _))) | (556, _) | (_, Some((2, 1))) => Permanent(Address, Code::ADDRESS_UNKNOWN),
        (554, None) => Permanent(Payload, Code::CONTENT_REFUSED),
        // Said of this recipient, and perhaps not of the address: over, and the address stays.
        _ => Permanent(Payload, Code::ADDRESS_REFUSED),
    }
}

/// A server's text with the addresses in it masked, on one line.
pub(super) fn without_addresses(text: &str) -> String {
    let mut clean = String::new();
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_whitespace() || is_invisible(c) || AROUND_ADDRESSES.contains(&c) {
            match word.matches('@').count() {
                0 => clean.push_str(&word),
                1 => clean.push_str(&mask(word.trim_end_matches('.'))),
                _ => clean.push_str("***"),
            }
            word.clear();
            clean.push(if c.is_whitespace() || is_invisible(c) { ' ' } else { c });
        } else {
            word.push(c);
        }
    }
    clean.trim().to_owned()
}

/// What the server calls the mail it took, by which its operators find it: out of the texts that common servers answer with.
pub(super) fn queue_id(text: &str) -> Option<String> {
    const LENGTHS: std::ops::RangeInclusive<usize> = 4..=100;
    let is_id =
        |word: &&str| LENGTHS.contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let words: Vec<&str> = text.split_whitespace().collect();
    // An enhanced code has digits too, and nothing else but its dots.
    let has_digit =
        |word: &&str| word.bytes().any(|byte| byte.is_ascii_digit()) && !word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // Postfix: "2.0.0 Ok: queued as 4ZxYb21k3Lz".
    let queued_as = words.windows(3).find(|words| words[0].eq_ignore_ascii_case("queued") && words[1] == "as").map(|words| words[2]);
    // Exim: "OK id=1tXyz0-000000001Ab-0abc".
    let named = || words.iter().find_map(|word| word.strip_prefix("id="));
    // Sendmail, OpenSMTPD: "2.0.0 51f4a3b0 Message accepted for delivery".
    let accepted = || words.windows(3).find(|words| words[1..] == ["Message", "accepted"]).map(|words| words[0]).filter(has_digit);
    // Amazon SES: "Ok 010201890abcdef0-…".
    let alone = || match words[..] {
        ["Ok" | "OK", id] if id.len() >= 16 => Some(id),
        _ => None,
    };
    queued_as.or_else(named).or_else(accepted).or_else(alone).filter(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use PermanentKind::{Address, Config, Payload};
    use Stage::{Authentication, Content, Data, Hello, Recipient, Sender, StartTls};

    use super::*;

    /// An answer written as servers write it: `550 5.1.1 No such user`.
    fn reply(text: &str) -> Reply {
        let (code, text) = text.split_once(' ').unwrap_or((text, ""));
        Reply { code: code.parse().unwrap(), text: text.to_owned() }
    }

    #[track_caller]
    fn waits(stage: Stage, text: &str, expected: Code) {
        let outcome = classify(stage, &reply(text));
        assert!(matches!(outcome, Outcome::Transient { code, .. } if code == expected), "{text}: {outcome:?}");
    }

    #[track_caller]
    fn dies(stage: Stage, text: &str, expected: (PermanentKind, Code)) {
        let outcome = classify(stage, &reply(text));
        assert!(matches!(outcome, Outcome::Permanent { kind, code, .. } if (kind, code) == expected), "{text}: {outcome:?}");
    }

    #[test]
    fn who_is_not_there_is_the_address() {
        for text in [
            "550 5.1.1 <asha@example.com>: Recipient address rejected: User unknown in local recipient table",
            "550 5.1.1 <policy@example.com>: no such user",
            "550 5.1.2 No such domain",
            "550 5.1.3 Bad address",
            "550 5.1.6 Moved",
            "550 5.1.10 Null MX",
            "550 5.2.1 This account is disabled",
            "554 5.1.1 User unknown",
            "550 No such user here",
            "550",
            "550 5.0.0 User unknown",
            "550 5.4.1 Recipient address rejected",
            "550 9.1.1 not an enhanced code of this answer",
            "556 5.1.10 Domain does not accept mail",
            "556 Domain does not accept mail",
        ] {
            dies(Recipient, text, (Address, Code::ADDRESS_UNKNOWN));
        }
        // With one recipient, the answer to the content can be about it.
        dies(Content, "550 5.1.1 User unknown", (Address, Code::ADDRESS_UNKNOWN));
        dies(Recipient, "551 Not here; try <asha@example.net>", (Payload, Code::ADDRESS_REFUSED));
        dies(Recipient, "553 Mailbox name not allowed", (Payload, Code::ADDRESS_REFUSED));
        dies(Recipient, "550 5.3.0 Other mail system problem", (Payload, Code::ADDRESS_REFUSED));
    }

    #[test]
    fn what_waits() {
        waits(Recipient, "452 4.2.2 Mailbox full", Code::MAILBOX_FULL);
        waits(Recipient, "552 5.2.2 Mailbox full", Code::MAILBOX_FULL);
        waits(Content, "552 5.2.2 Over quota", Code::MAILBOX_FULL);
        waits(Recipient, "451 4.7.1 Come back later", Code::GREYLISTED);
        waits(Recipient, "450 4.7.1 Come back later", Code::GREYLISTED);
        waits(Recipient, "450 4.2.0 <asha@example.com>: Recipient address rejected: Greylisted", Code::GREYLISTED);
        waits(Recipient, "450 Mailbox busy", Code::GREYLISTED);
        waits(Recipient, "451 Greylisting in action", Code::GREYLISTED);
        waits(Data, "451 4.7.1 Greylisted", Code::GREYLISTED);
        waits(Recipient, "451 Local error", Code::PROVIDER_UNAVAILABLE);
        waits(Recipient, "451 4.3.0 Local error", Code::PROVIDER_UNAVAILABLE);
        waits(Recipient, "452 Insufficient storage", Code::PROVIDER_UNAVAILABLE);
        waits(Recipient, "552 Too many recipients", Code::PROVIDER_UNAVAILABLE);
        waits(Recipient, "452 4.5.3 Too many recipients", Code::RATE_LIMITED);
        waits(Recipient, "550 5.2.1 The user is receiving mail at a rate that prevents additional messages", Code::GREYLISTED);
        for stage in [Sender, Recipient, Data, Content] {
            for text in [
                "550 5.4.5 Daily user sending limit exceeded",
                "550 5.4.5 Daily SMTP relay limit exceeded for customer",
                "554 5.7.1 Daily sending quota reached",
                "550 Too many messages from you, slow down",
                "550 5.7.1 Message rate exceeded, throttled",
            ] {
                waits(stage, text, Code::RATE_LIMITED);
            }
        }
        waits(Sender, "450 4.7.1 Later", Code::PROVIDER_UNAVAILABLE);
        waits(Content, "451 4.3.2 Later", Code::PROVIDER_UNAVAILABLE);
        waits(Content, "421 4.7.28 Our system has detected an unusual rate of mail", Code::RATE_LIMITED);
        waits(Authentication, "454 4.7.0 Temporary authentication failure", Code::PROVIDER_UNAVAILABLE);
        waits(StartTls, "454 TLS not available", Code::PROVIDER_UNAVAILABLE);
        for stage in [Hello, StartTls, Authentication, Sender, Recipient, Data, Content] {
            waits(stage, "421 4.7.0 Closing", Code::PROVIDER_UNAVAILABLE);
            waits(stage, "421 Service not available", Code::PROVIDER_UNAVAILABLE);
            waits(stage, "499 Nobody knows this code", Code::PROVIDER_UNAVAILABLE);
        }
    }

    #[test]
    fn what_is_in_the_way_of_every_mail_is_the_set_up() {
        for text in ["530 5.7.0 Authentication required", "534 Too weak", "535 5.7.8 Bad credentials", "535", "538", "550 5.7.8 Bad"] {
            for stage in [Authentication, Sender, Recipient, Content] {
                dies(stage, text, (Config, Code::AUTHENTICATION_FAILED));
            }
        }
        dies(Authentication, "504 Unrecognized authentication type", (Config, Code::AUTHENTICATION_FAILED));
        dies(Hello, "554 5.7.1 Your address is on a list", (Config, Code::CONFIG_REFUSED));
        dies(Hello, "502 EHLO?", (Config, Code::CONFIG_REFUSED));
        dies(StartTls, "502 5.5.1 Not implemented", (Config, Code::CONFIG_REFUSED));
        for text in ["550 No", "553 5.1.8 Unknown domain", "554 5.7.1 Not yours", "501 5.5.4 Syntax", "503 5.5.1 Authenticate first"] {
            dies(Sender, text, (Config, Code::SENDER_REFUSED));
        }
        dies(Recipient, "550 5.1.8 <hello@tarishi.example>: Sender address rejected: Domain not found", (Config, Code::SENDER_REFUSED));
        dies(Recipient, "553 5.7.1 <a@b.example>: Sender address rejected: not owned by user tarishi", (Config, Code::SENDER_REFUSED));
        for text in [
            "550 Sender verify failed",
            "550 Verification failed for <hello@tarishi.example> The mail server could not deliver mail to it. Sender verify failed",
            "550 Verification failed for <hello@tarishi.example>",
        ] {
            for stage in [Sender, Recipient, Data] {
                dies(stage, text, (Config, Code::SENDER_REFUSED));
            }
        }
        for text in [
            "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
            "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
            "550 5.7.1 Your IP address is on a blocklist",
            "550 192.0.2.1 is listed at rbl.example.org",
            "554 rejected, see the dnsbl",
            "550 The sending IP address is listed by Spamhaus",
        ] {
            for stage in [Sender, Recipient, Data] {
                dies(stage, text, (Config, Code::CONFIG_REFUSED));
            }
        }
        dies(Recipient, "554 5.7.1 <asha@example.com>: Relay access denied", (Config, Code::CONFIG_REFUSED));
        dies(Recipient, "550 relay not permitted", (Config, Code::CONFIG_REFUSED));
        dies(Recipient, "550 5.7.1 Unable to relay", (Config, Code::CONFIG_REFUSED));
        dies(Recipient, "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", (Config, Code::CONFIG_REFUSED));
    }

    #[test]
    fn what_is_said_of_the_mail_condemns_no_address() {
        for stage in [Recipient, Data, Content] {
            for text in [
                "554 5.7.1 Refused by policy",
                "550 5.7.1 Message rejected",
                "550 5.7.26 Not authenticated",
                "554 Transaction failed",
                "550 Blocked: spam",
                "550 Administrative prohibition",
                "550 administratively denied",
                "550 5.4.1 Recipient address rejected: Access denied",
            ] {
                dies(stage, text, (Payload, Code::CONTENT_REFUSED));
            }
            dies(stage, "552 5.3.4 Message too big", (Payload, Code::TOO_LARGE));
            dies(stage, "555 5.5.4 Unsupported", (Payload, Code::PAYLOAD_REFUSED));
            dies(stage, "503 Bad sequence", (Payload, Code::PAYLOAD_REFUSED));
            dies(stage, "554 5.6.0 Bad content", (Payload, Code::PAYLOAD_REFUSED));
        }
        // A link in it can be on a list too.
        dies(Content, "554 5.7.1 Blocked using dbl.spamhaus.org", (Payload, Code::CONTENT_REFUSED));
        // A route, a loop: not the address.
        for text in ["550 5.4.4 Unable to route", "550 5.4.1 No answer from host", "554 5.4.6 Too many hops", "550 5.4.0 No"] {
            dies(Recipient, text, (Payload, Code::ADDRESS_REFUSED));
        }
        dies(Sender, "552 5.3.4 Message size exceeds fixed limit", (Payload, Code::TOO_LARGE));
        dies(Content, "552 Message size exceeds fixed limit", (Payload, Code::TOO_LARGE));
        dies(Content, "550 Rejected", (Payload, Code::CONTENT_REFUSED));
        dies(Content, "599 Nobody knows this code", (Payload, Code::CONTENT_REFUSED));
    }

    #[test]
    fn what_is_no_refusal_is_not_to_be_expected() {
        for text in ["250 OK", "354 Go on", "199 x"] {
            waits(Data, text, Code::UNEXPECTED_ANSWER);
            let outcome = classify(Content, &reply(text));
            assert!(matches!(outcome, Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, .. }), "{outcome:?}");
        }
    }

    #[test]
    fn people_see_the_answer_and_no_address() {
        for (text, expected) in [
            ("550 5.1.1 <asha@example.com>: unknown", "550 5.1.1 <a***@e***.com>: unknown"),
            ("550 RCPT TO:<asha@example.com>,<b@example.com> no", "550 RCPT TO:<a***@e***.com>,<b***@e***.com> no"),
            ("550 asha@example.com. is not here", "550 a***@e***.com is not here"),
            ("550 a@b.example@c.example", "550 ***"),
            ("550 a\u{1b}[31m\tb\u{202e}c", "550 a [31m b c"),
            ("550", "550"),
        ] {
            assert_eq!(classify(Recipient, &reply(text)).detail(), Some(expected));
        }
        let long = classify(Recipient, &reply(&format!("550 {}", "x".repeat(5000))));
        assert!(long.detail().unwrap().len() <= TEXT_LIMIT);
    }

    #[test]
    fn a_queue_id_is_found_where_servers_put_it() {
        for (text, expected) in [
            ("2.0.0 Ok: queued as 4ZxYb21k3Lz", Some("4ZxYb21k3Lz")),
            ("2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 9B6F41", Some("9B6F41")),
            ("OK id=1tXyz0-000000001Ab-0abc", Some("1tXyz0-000000001Ab-0abc")),
            ("2.0.0 51f4a3b0 Message accepted for delivery", Some("51f4a3b0")),
            ("2.0.0 Message accepted for delivery", None),
            ("Ok 0102018f3c1d2e4a-1b2c3d4e-0000-000000", Some("0102018f3c1d2e4a-1b2c3d4e-0000-000000")),
            ("OK", None),
            ("2.0.0 Ok: queued as <asha@example.com>", None),
            ("queued as", None),
            ("", None),
        ] {
            assert_eq!(queue_id(text).as_deref(), expected, "{text}");
        }
    }
}
