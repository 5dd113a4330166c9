//! Text made safe to show: addresses masked, details cut short, tricks of other people's texts taken out.

use std::borrow::Cow;

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

/// Whether nobody can see this character: it breaks or turns around the text it is in, or makes two texts that look the same differ.
///
/// Controls, line and paragraph separators (U+2028, U+2029), zero-width and bidirectional format characters, fillers, selectors and tags:
/// those of general categories Cc, Zl, Zp and Cf, and those of `Default_Ignorable_Code_Point` (Unicode, `DerivedCoreProperties.txt`).
pub const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether it breaks the line it is in, for some reader, or turns the rest of it around whatever its language: no subject, name or label
/// may have it. (What is invisible and does neither belongs to some languages.)
pub const fn is_broken(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{202d}' | '\u{202e}')
}

/// `text` without what only tricks use: it comes from strangers and stands among words of ours.
///
/// Taken out are characters that turn around or hide what follows them (bidirectional embeddings and overrides, isolates that are not
/// closed; tags, as hide text in emoji), that nobody sees (zero-width spaces, word joiners, byte order marks) and controls. Every kind of line
/// break is a line feed. What languages and emoji need stays: joiners, direction marks, selectors, isolates.
///
/// See Unicode Standard Annex 9, section 2, and Technical Report 36, section 2.5.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t')) {
        return Cow::Borrowed(text);
    }
    let are_isolates_closed = are_isolates_closed(text);
    let is_out = |c| is_trick(c) || (is_isolate(c) && !are_isolates_closed);
    if text.chars().all(|c| c == '\n' || !is_out(c)) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\r' if characters.peek() == Some(&'\n') => {}
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => plain.push('\n'),
            c if is_out(c) => {}
            c => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

const fn is_isolate(c: char) -> bool {
    matches!(c, '\u{2066}'..='\u{2069}')
}

/// Whether what is isolated ends where the text does, so that nothing of ours is within it.
fn are_isolates_closed(text: &str) -> bool {
    let depth = text
        .chars()
        .filter(|c| is_isolate(*c))
        .try_fold(0_u32, |depth, c| if c == '\u{2069}' { depth.checked_sub(1) } else { Some(depth + 1) });
    depth == Some(0)
}

const fn is_trick(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{8}' | '\u{a}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{180e}' | '\u{200b}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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
    fn what_nobody_sees_is_told_from_what_everybody_does() {
        for c in "\0\r\n\u{85}\u{ad}\u{200b}\u{200d}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}\u{feff}\u{e0041}".chars() {
            assert!(is_invisible(c), "{c:?}");
        }
        for c in "a é\u{301}नमस्ते ＠日本😀".chars() {
            assert!(!is_invisible(c), "{c:?}");
        }
    }

    #[test]
    fn what_breaks_a_line_is_told_from_what_a_language_needs() {
        for c in "\0\t\r\n\u{b}\u{c}\u{7f}\u{85}\u{2028}\u{2029}\u{202d}\u{202e}".chars() {
            assert!(is_broken(c), "{c:?}");
        }
        for c in "a \u{200c}\u{200d}\u{200e}\u{200f}\u{2066}\u{2069}\u{fe0f}😀".chars() {
            assert!(!is_broken(c), "{c:?}");
        }
    }

    #[track_caller]
    fn check_plain(text: &str, expected: &str) {
        assert_eq!(plain(text), expected, "{text:?}");
    }

    #[test]
    fn tricks_are_taken_out() {
        check_plain("pay \u{202e}0005\u{202c} TZS", "pay 0005 TZS");
        check_plain("\u{202a}+255712345678\u{202c}", "+255712345678");
        check_plain("pay \u{2067}0005 TZS", "pay 0005 TZS");
        check_plain("\u{2069}pay \u{2067}0005 TZS", "pay 0005 TZS");
        check_plain("J\u{200b}u\u{2060}m\u{feff}a", "Juma");
        check_plain("a\u{e0041}\u{e007f}b\0\u{1b}[31m", "ab[31m");
        check_plain("a\r\nb\rc\u{2028}d\u{85}e\u{b}f\n\tg", "a\nb\nc\nd\ne\nf\n\tg");
    }

    #[test]
    fn what_languages_and_emoji_need_stays() {
        for text in [
            "Habari\tza leo?\n",
            "می\u{200c}خواهم",
            "\u{200f}مرحبا\u{200e}",
            "\u{2068}Asha\u{2069} \u{2066}x\u{2069}",
            "👩\u{200d}👧 ❤\u{fe0f}",
            "co\u{ad}op",
            "é ＠日本",
        ] {
            assert!(matches!(plain(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn cuts_at_a_character() {
        assert_eq!(cut("habari", 10), "habari");
        assert_eq!(cut("ééééé", 8), "éé…");
    }
}
