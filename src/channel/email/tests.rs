use super::*;
use crate::model::{Body as Content, DeliveryId, Timestamp};

fn mail(subject: &str) -> Email {
    Email {
        to: "asha@example.com".parse().unwrap(),
        subject: subject.to_owned(),
        html: Some("<p>Habari</p>".to_owned()),
        text: Some("Habari\n.\n\u{e9}\r.\r".to_owned()),
        unsubscribe_url: None,
    }
}

fn senders() -> Senders {
    let by_tenant = [("smart".to_owned(), "Smart <hello@smart.example>".to_owned())].into();
    Senders::new("Tarishi <hello@tarishi.example>", &by_tenant, Some("Msaada <help@tarishi.example>")).unwrap()
}

fn message(mail: Email, tenant: Option<&str>) -> Message {
    Message {
        delivery_id: DeliveryId::new([7; 12], 1),
        job_id: "job".parse().unwrap(),
        user_id: None,
        template: None,
        tenant: tenant.map(str::to_owned),
        collapse_key: None,
        expires_at: Timestamp::from_millis(0),
        body: Content::Email(mail),
    }
}

#[track_caller]
fn raw_for(mail: Email, tenant: Option<&str>) -> String {
    let message = message(mail, tenant);
    let Content::Email(mail) = &message.body else { panic!() };
    String::from_utf8(formatted(&compose(&message, mail, &senders()).unwrap()).unwrap()).unwrap()
}

fn refused(mail: Email) -> String {
    let message = message(mail, None);
    let Content::Email(mail) = &message.body else { panic!() };
    let composed = compose(&message, mail, &senders());
    composed.and_then(|composed| formatted(&composed)).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_err()
}

/// The header fields of this name, as they are on the wire.
fn field<'a>(raw: &'a str, name: &str) -> Vec<&'a str> {
    raw.split("\r\n").filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[test]
fn a_repeat_has_the_same_message_id_and_says_it_is_automatic() {
    let raw = raw_for(mail("Habari ya nyumba"), None);
    assert_eq!(field(&raw, "Message-ID"), ["<07070707070707070707070700000001@tarishi.example>"]);
    assert_eq!(field(&raw, "Message-ID"), field(&raw_for(mail("x"), None), "Message-ID"));
    assert_eq!(field(&raw, "Auto-Submitted"), ["auto-generated"]);
    assert_eq!(field(&raw, "From"), ["Tarishi <hello@tarishi.example>"]);
    assert_eq!(field(&raw, "Reply-To"), ["Msaada <help@tarishi.example>"]);
    assert_eq!((field(&raw, "Date").len(), field(&raw, "MIME-Version").len()), (1, 1));
    assert!(raw.contains("multipart/alternative"), "{raw}");
    assert!(!raw.contains("List-Unsubscribe"), "{raw}");
}

#[test]
fn a_tenants_mail_is_from_the_tenant() {
    let raw = raw_for(mail("x"), Some("smart"));
    assert_eq!(field(&raw, "From"), ["Smart <hello@smart.example>"]);
    assert_eq!(field(&raw, "Message-ID"), ["<07070707070707070707070700000001@smart.example>"]);
}

#[test]
fn one_click_ends_mails_of_a_kind() {
    let url = format!("https://notify.example/u/{}?a=b&c=é", "t".repeat(200));
    let raw = raw_for(Email { unsubscribe_url: Some(url.clone()), ..mail("x") }, None);
    assert_eq!(field(&raw, "List-Unsubscribe"), [format!("<{}>", url.replace('é', "%C3%A9"))]);
    assert_eq!(field(&raw, "List-Unsubscribe-Post"), ["List-Unsubscribe=One-Click"]);
    let long = format!("https://notify.example/{}", "t".repeat(1000));
    for bad in ["", "x", "mailto:a@example.com", "javascript:alert(1)", "https://a.example/\r\nBcc: x@example.com", &long] {
        let told = refused(Email { unsubscribe_url: Some(bad.to_owned()), ..mail("x") });
        assert!(told.contains("unsubscribe URL"), "{bad:?}: {told}");
    }
    let raw = raw_for(Email { unsubscribe_url: Some("https://a.example/>,<https://b.example".to_owned()), ..mail("x") }, None);
    assert_eq!(field(&raw, "List-Unsubscribe"), ["<https://a.example/%3E,%3Chttps://b.example>"]);
}

#[test]
fn a_subject_is_one_line_and_means_itself() {
    for c in ['\r', '\n', '\0', '\u{b}', '\u{c}', '\u{7f}', '\u{85}', '\u{2028}', '\u{2029}', '\u{202e}'] {
        assert!(refused(mail(&format!("a{c}b"))).contains("subject"), "{c:?}");
    }
    assert!(refused(mail("x\r\nBcc: asha@example.com")).contains("subject"));
    assert_eq!(field(&raw_for(mail("Habari %0d%0a \\r\\n ya <leo>"), None), "Subject"), ["Habari %0d%0a \\r\\n ya <leo>"]);
    // It is what it says, and not what it would decode to.
    assert_eq!(field(&raw_for(mail("=?utf-8?b?DQpCY2M6?="), None), "Subject"), ["=?utf-8?b?PT91dGYtOD9iP0RRcENZMk02Pz0=?="]);
}

#[test]
fn no_line_is_too_long_and_none_is_broken() {
    let long = |text: &str| text.repeat(5000);
    for text in ["a", "é", "用", "a b", "\u{1f600}", ".", " ", "\t", "\r", "\n", "\r\n.\r", "=", "a\r"] {
        let raw = raw_for(Email { text: Some(long(text)), html: Some(format!("<p>{}</p>", long(text))), ..mail("x") }, None);
        for line in raw.split("\r\n") {
            assert!(line.len() <= 78 && !line.contains(['\r', '\n']) && line.is_ascii(), "{text:?}: {line:?}");
        }
    }
    for subject in ["a".repeat(998), "é".repeat(499), "用 ".repeat(240), "a".repeat(70), "a ".repeat(499)] {
        let raw = raw_for(mail(&subject), None);
        assert!(raw.split("\r\n").all(|line| line.len() <= 78), "{raw}");
    }
}

#[test]
fn what_could_end_a_mail_early_does_not_leave() {
    for (raw, told) in [
        (&b"a\r\n.\n"[..], "ends with a bare LF"),
        (b"a\n", "ends with a bare LF"),
        (b"a\r.\r\n", "has a bare CR"),
        (b"a\r\r\n", "has a bare CR"),
        (b"a\r\nb\r", "has a bare CR"),
        (b"a\0\r\n", "has a NUL"),
    ] {
        assert_eq!(flaw(raw).map(|(_, told)| told), Some(told), "{raw:?}");
    }
    assert_eq!(flaw(&[b'a'; 999]), Some((1, "is longer than 998 octets (RFC 5322)")));
    assert_eq!(flaw(b"a\r\n.\r\n..\r\n\r\nb"), None);
    assert_eq!(flaw(b""), None);
}

#[test]
fn an_address_that_was_taken_once_is_refused_here() {
    let to = crate::model::EmailAddress::from_stored("asha@[127.0.0.1]").unwrap();
    assert!(refused(Email { to, ..mail("x") }).contains("earlier version"));
}

#[test]
fn what_has_no_place_in_a_mail_is_refused() {
    assert!(refused(Email { text: Some("a\0b".to_owned()), ..mail("x") }).contains("NUL"));
    assert!(refused(Email { html: Some("a\0b".to_owned()), ..mail("x") }).contains("NUL"));
    assert!(refused(Email { html: None, text: None, ..mail("x") }).contains("needs text or HTML"));
}

#[test]
fn domains_are_ascii_in_the_envelope_and_in_the_headers() {
    let to = "jürgen@Bücher.example".parse().unwrap();
    let message = message(Email { to, ..mail("x") }, None);
    let Content::Email(mail) = &message.body else { panic!() };
    let senders = Senders::new("Bücher <hello@bücher.example>", &[].into(), None).unwrap();
    let composed = compose(&message, mail, &senders).unwrap();
    assert_eq!(composed.envelope().from().unwrap().to_string(), "hello@xn--bcher-kva.example");
    assert_eq!(composed.envelope().to()[0].to_string(), "jürgen@xn--bcher-kva.example");
    let raw = String::from_utf8(formatted(&composed).unwrap()).unwrap();
    assert_eq!(field(&raw, "To"), ["jürgen@xn--bcher-kva.example"]);
    assert!(field(&raw, "From")[0].ends_with(" <hello@xn--bcher-kva.example>"), "{raw}");
    assert_eq!(field(&raw, "Message-ID"), ["<07070707070707070707070700000001@xn--bcher-kva.example>"]);
}
