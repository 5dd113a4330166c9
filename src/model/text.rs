//! Text made safe to show: addresses masked, details cut short.

/// Masks an address for logs and answers: `a***@e***.com`, `+2557*****78`, the first characters of anything else.
pub fn mask(address: &str) -> String {
    if let Some((local, domain)) = address.split_once('@') {
        let top = domain.rsplit_once('.').map_or("", |(_, top)| top);
        let dot = if top.is_empty() { "" } else { "." };
        return format!("{}***@{}***{dot}{top}", first(local, 1), first(domain, 1));
    }
    if address.starts_with('+') && address.len() > 7 && address.is_ascii() {
        let (head, tail) = (&address[..5], &address[address.len() - 2..]);
        return format!("{head}{}{tail}", "*".repeat(address.len() - 7));
    }
    match address.chars().count() {
        0 => String::new(),
        1..=8 => "***".to_owned(),
        _ => format!("{}***", first(address, 4)),
    }
}

fn first(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

/// Cuts `text` to at most `limit` bytes at a character boundary, marking the cut.
pub fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: &str) {
        assert_eq!(mask(address), expected);
    }

    #[test]
    fn masks_what_would_identify() {
        check("asha@example.com", "a***@e***.com");
        check("asha@localhost", "a***@l***");
        check("+255712345678", "+2557******78");
        check("+12345", "***");
        check("fcm-token-0123456789", "fcm-***");
        check("", "");
    }

    #[test]
    fn cuts_at_a_character() {
        assert_eq!(cut("habari", 10), "habari");
        assert_eq!(cut("ééééé", 8), "éé…");
    }
}
