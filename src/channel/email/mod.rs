//! Composing mails. What carries them is a provider's business.

use lettre::{
    Address,
    message::{Mailbox, MultiPart, SinglePart, header},
};

use crate::model::{DeliveryId, Email};

/// The header that keeps automatic answers away (RFC 3834, section 5).
const AUTO_SUBMITTED: &str = "Auto-Submitted";

/// A mail as it goes over the wire: header fields and MIME body. Its Message-ID is made from the delivery id, so that a repeat has the same.
///
/// # Errors
/// In words, without addresses: what of the mail cannot be written.
pub fn compose(mail: &Email, delivery: DeliveryId, from: &Mailbox) -> Result<lettre::Message, String> {
    let to: Address = mail.to.as_str().parse().map_err(|_| "the recipient's address does not parse".to_owned())?;
    let auto_submitted = header::HeaderValue::new(header::HeaderName::new_from_ascii_str(AUTO_SUBMITTED), "auto-generated".to_owned());
    let builder = lettre::Message::builder()
        .message_id(Some(format!("<{delivery}@{}>", from.email.domain())))
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(mail.subject.as_str())
        .raw_header(auto_submitted);
    let composed = match (&mail.text, &mail.html) {
        (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text.clone(), html.clone())),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html.clone())),
        (Some(text), None) => builder.singlepart(SinglePart::plain(text.clone())),
        (None, None) => return Err("a mail needs text or HTML".to_owned()),
    };
    composed.map_err(|error| format!("the mail cannot be composed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(subject: &str) -> Email {
        Email {
            to: "asha@example.com".parse().unwrap(),
            subject: subject.to_owned(),
            html: Some("<p>Habari</p>".to_owned()),
            text: Some("Habari\n.\n\u{e9}\r.\r".to_owned()),
        }
    }

    #[test]
    fn a_repeat_has_the_same_message_id_and_says_it_is_automatic() {
        let from: Mailbox = "Tarishi <hello@tarishi.example>".parse().unwrap();
        let id = DeliveryId::new([7; 12], 1);
        let raw = |_| String::from_utf8(compose(&mail("Habari ya nyumba"), id, &from).unwrap().formatted()).unwrap();
        let (first, second) = (raw(1), raw(2));
        let line = |raw: &str| raw.lines().find(|line| line.starts_with("Message-ID:")).map(str::to_owned);
        assert_eq!(line(&first).as_deref(), Some("Message-ID: <07070707070707070707070700000001@tarishi.example>"));
        assert_eq!(line(&first), line(&second));
        assert!(first.contains("Auto-Submitted: auto-generated\r\n"), "{first}");
        assert!(first.contains("multipart/alternative"), "{first}");
    }

    #[test]
    fn a_body_cannot_end_the_mail_early() {
        let from: Mailbox = "Tarishi <hello@tarishi.example>".parse().unwrap();
        let raw = compose(&mail("x"), DeliveryId::new([7; 12], 1), &from).unwrap().formatted();
        assert!(!raw.windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n'), "a bare CR");
        assert!(!raw.windows(2).any(|pair| pair[0] != b'\r' && pair[1] == b'\n'), "a bare LF");
    }
}
