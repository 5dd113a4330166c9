//! Composing mails. What carries them is a provider's business.

pub mod sender;
pub mod sendgrid;
pub mod smtp;
pub mod unsubscribe;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::message::{Body, Mailbox, MessageBuilder, MultiPart, SinglePart, header};
use reqwest::Url;

use self::sender::Senders;
use crate::{
    config::lettre_address,
    model::{Email, Message, is_broken, is_invisible},
};

/// The custom argument of a mail that its provider calls back with.
pub const DELIVERY_ARGUMENT: &str = "tarishi_delivery";
/// The header that keeps automatic answers away (RFC 3834, section 5).
const AUTO_SUBMITTED: header::HeaderName = header::HeaderName::new_from_ascii_str("Auto-Submitted");
const LIST_UNSUBSCRIBE: header::HeaderName = header::HeaderName::new_from_ascii_str("List-Unsubscribe");
const LIST_UNSUBSCRIBE_POST: header::HeaderName = header::HeaderName::new_from_ascii_str("List-Unsubscribe-Post");
const SUBJECT: header::HeaderName = header::HeaderName::new_from_ascii_str("Subject");
/// Octets of a line without its end (RFC 5322, section 2.1.1).
const LINE_LIMIT: usize = 998;
/// Octets that fit, in base64, into an encoded-word on a line of 76 characters (RFC 2047, section 2): on the first, behind the field's
/// name, and on the others.
const ENCODED_WORD_OCTETS: [usize; 2] = [39, 45];
/// A header line is folded to this where it can be (RFC 5322, section 2.1.1).
const PREFERRED_LINE: usize = 78;

/// A mail as it goes over the wire: header fields and MIME body, all of it in lines that any mail server takes.
///
/// Its Message-ID is made from the delivery id, so that a repeat has the same. Domains are in A-labels; only a recipient's local part can
/// be other than ASCII, and then the mail needs a server with SMTPUTF8.
///
/// # Errors
/// In words, without addresses: what of the mail cannot be written.
pub fn compose(message: &Message, mail: &Email, senders: &Senders) -> Result<lettre::Message, String> {
    check(mail)?;
    let from = senders.for_tenant(message.tenant.as_deref());
    let mut builder = lettre::Message::builder()
        .message_id(Some(format!("<{}@{}>", message.delivery_id, from.email.domain())))
        .date_now()
        .from(from.clone())
        .to(Mailbox::new(None, lettre_address(&mail.to)?))
        .raw_header(subject(&mail.subject))
        .raw_header(header::HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()));
    if let Some(reply_to) = senders.reply_to() {
        builder = builder.reply_to(reply_to.clone());
    }
    if let Some(url) = &mail.unsubscribe_url {
        builder = with_unsubscribe(builder, url)?;
    }
    let part = |text: &str, kind: header::ContentType| Ok::<_, String>(SinglePart::builder().header(kind).body(encoded(text)?));
    let composed = match (&mail.text, &mail.html) {
        (Some(text), Some(html)) => builder.multipart(
            MultiPart::alternative()
                .singlepart(part(text, header::ContentType::TEXT_PLAIN)?)
                .singlepart(part(html, header::ContentType::TEXT_HTML)?),
        ),
        (None, Some(html)) => builder.singlepart(part(html, header::ContentType::TEXT_HTML)?),
        (Some(text), None) => builder.singlepart(part(text, header::ContentType::TEXT_PLAIN)?),
        (None, None) => return Err("a mail needs text or HTML".to_owned()),
    };
    composed.map_err(|error| format!("the mail cannot be composed: {error}"))
}

/// What holds for every mail, whoever carries it.
///
/// # Errors
/// In words, without addresses: why no provider is given it.
fn check(mail: &Email) -> Result<(), String> {
    if !mail.to.is_sound() {
        return Err("the address is none that is taken today; an earlier version took it".to_owned());
    }
    if mail.subject.chars().any(is_broken) {
        return Err("the subject has a line break or another control character".to_owned());
    }
    Ok(())
}

/// The mail's octets, known to be whole lines.
///
/// `lettre` before 0.11.24 does not double the dot behind a bare CR or LF (RUSTSEC-2026-0561), and some servers take such a one for the end
/// of a line (RFC 5321, section 2.3.8): what a mail says could end it, and begin another. So none gets as far as there.
///
/// # Errors
/// In words: what is wrong with which line.
pub fn formatted(composed: &lettre::Message) -> Result<Vec<u8>, String> {
    let raw = composed.formatted();
    match flaw(&raw) {
        None => Ok(raw),
        Some((line, flaw)) => Err(format!("line {line} of the composed mail {flaw}")),
    }
}

fn flaw(raw: &[u8]) -> Option<(usize, &'static str)> {
    for (index, line) in raw.split(|byte| *byte == b'\n').enumerate() {
        let is_last = line.as_ptr_range().end == raw.as_ptr_range().end;
        let text = match (line.strip_suffix(b"\r"), is_last) {
            (Some(text), false) => text,
            (None, true) => line,
            (None, false) => return Some((index + 1, "ends with a bare LF")),
            (Some(_), true) => return Some((index + 1, "has a bare CR")),
        };
        if text.contains(&b'\r') {
            return Some((index + 1, "has a bare CR"));
        }
        if text.contains(&0) {
            return Some((index + 1, "has a NUL"));
        }
        if text.len() > LINE_LIMIT {
            return Some((index + 1, "is longer than 998 octets (RFC 5322)"));
        }
    }
    None
}

/// Encoded here where `lettre` would not: what reads as an encoded-word would come out as something else, and a word without end makes a
/// line without end.
fn subject(subject: &str) -> header::HeaderValue {
    let is_harmless = !subject.contains("=?") && subject.split(' ').all(|word| word.len() < PREFERRED_LINE - "Subject: ".len());
    if is_harmless {
        return header::HeaderValue::new(SUBJECT, subject.to_owned());
    }
    let mut words = Vec::new();
    let mut rest = subject;
    while !rest.is_empty() {
        let octets = ENCODED_WORD_OCTETS[usize::from(!words.is_empty())];
        let (word, more) = rest.split_at(rest.floor_char_boundary(octets));
        words.push(format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
        rest = more;
    }
    header::HeaderValue::dangerous_new_pre_encoded(SUBJECT, subject.to_owned(), words.join("\r\n "))
}

/// A body that can pass any server, in quoted-printable or base64, whichever is shorter. Every kind of line end is a line end.
fn encoded(text: &str) -> Result<Body, String> {
    if text.contains('\0') {
        return Err("the mail's text has a NUL".to_owned());
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let octets = text.bytes().filter(|byte| !byte.is_ascii()).count();
    // An octet becomes three in quoted-printable; in base64 three become four.
    let is_mostly_ascii = octets * 6 <= text.len();
    let encoding = if is_mostly_ascii { header::ContentTransferEncoding::QuotedPrintable } else { header::ContentTransferEncoding::Base64 };
    Body::new_with_encoding(text, encoding).map_err(|_| "the mail's text cannot be encoded".to_owned())
}

/// The two fields by which a mail program offers to unsubscribe with one click (RFC 8058, section 3.1).
fn with_unsubscribe(builder: MessageBuilder, url: &str) -> Result<MessageBuilder, String> {
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let value = parsed.map(|url| format!("<{url}>")).filter(|_| !url.chars().any(is_invisible));
    let Some(value) = value.filter(|value| value.len() + LIST_UNSUBSCRIBE.len() + 2 <= LINE_LIMIT && !value.contains(' ')) else {
        return Err("the unsubscribe URL is not one a header can have".to_owned());
    };
    // As it is: in an encoded-word nobody looks for a URL.
    let link = header::HeaderValue::dangerous_new_pre_encoded(LIST_UNSUBSCRIBE, value.clone(), value);
    let one_click = header::HeaderValue::new(LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click".to_owned());
    Ok(builder.raw_header(link).raw_header(one_click))
}

#[cfg(test)]
mod tests;
