//! The two ways between text and HTML: escaping, and reading a mail's HTML as the plain text that goes with it.

use std::borrow::Cow;

use memchr::{memchr, memchr2_iter};

/// `text` with everything that means something in HTML, inside and outside of attributes, made to stand for itself.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Plain text as paragraphs: a blank line starts the next one, a line break stays one.
pub(super) fn paragraphs(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    let mut lines = text.trim().lines().map(str::trim_end).peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        html.push_str("<p>");
        html.push_str(&escape(line));
        while let Some(line) = lines.next_if(|line| !line.is_empty()) {
            html.push_str("<br>\n");
            html.push_str(&escape(line));
        }
        html.push_str("</p>\n");
    }
    html
}

/// What a person reads in `html`: links as `label <address>`, list items with a dash, nothing that is hidden.
///
/// For the mails that templates make, in one pass over the text. Not a browser: style sheets are not read.
pub(super) fn to_text(html: &str) -> String {
    let mut text = Text::default();
    let mut rest = html;
    // The element whose content is not shown, and how many of its name are open in it.
    let mut hidden: Option<(Cow<'_, str>, usize)> = None;
    while let Some(start) = memchr(b'<', rest.as_bytes()) {
        if hidden.is_none() {
            text.words(&rest[..start]);
        }
        rest = &rest[start..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let Some(tag) = Tag::read(rest) else {
            if hidden.is_none() {
                text.words("<");
            }
            rest = &rest[1..];
            continue;
        };
        rest = &rest[tag.length..];
        if let Some((name, depth)) = &mut hidden {
            match (tag.name == *name, tag.closes) {
                (true, true) => *depth -= 1,
                (true, false) => *depth += 1,
                (false, _) => {}
            }
            if *depth == 0 {
                hidden = None;
            }
        } else if tag.is_hidden() {
            hidden = Some((tag.name, 1));
        } else {
            text.tag(&tag);
        }
    }
    if hidden.is_none() {
        text.words(rest);
    }
    text.written
}

/// One tag: `<a href="…">`, `</a>`, `<!doctype html>`.
struct Tag<'a> {
    /// In lower case.
    name: Cow<'a, str>,
    closes: bool,
    attributes: Attributes<'a>,
    /// In bytes, brackets and all.
    length: usize,
}

/// The attributes that say something about the text, as they are written.
#[derive(Default)]
struct Attributes<'a> {
    alt: Option<&'a str>,
    hidden: bool,
    href: Option<&'a str>,
    style: Option<&'a str>,
}

impl<'a> Tag<'a> {
    /// The tag that `html` starts with, if it is one. Nothing is looked at twice: mails are long, and most of them is `style`.
    fn read(html: &'a str) -> Option<Self> {
        let bytes = html.as_bytes();
        let closes = bytes.get(1) == Some(&b'/');
        let start = skip(bytes, 1, |byte| matches!(byte, b'/' | b'!'))?;
        if !bytes[start].is_ascii_alphabetic() {
            return None;
        }
        let mut at = skip(bytes, start, |byte| !matches!(byte, b'/' | b'>') && !byte.is_ascii_whitespace())?;
        let name = &html[start..at];
        let mut attributes = Attributes::default();
        loop {
            at = skip(bytes, at, |byte| byte == b'/' || byte.is_ascii_whitespace())?;
            if bytes[at] == b'>' {
                break;
            }
            let start = at;
            // One that starts with `=` has it in its name.
            at = skip(bytes, at + 1, |byte| !matches!(byte, b'/' | b'>' | b'=') && !byte.is_ascii_whitespace())?;
            let name = start..at;
            let mut value = at..at;
            at = skip(bytes, at, |byte| byte.is_ascii_whitespace())?;
            if bytes[at] == b'=' {
                at = skip(bytes, at + 1, |byte| byte.is_ascii_whitespace())?;
                let quote = bytes[at];
                (value, at) = if matches!(quote, b'"' | b'\'') {
                    let start = at + 1;
                    let end = start + memchr(quote, &bytes[start..])?;
                    (start..end, end + 1)
                } else {
                    let end = skip(bytes, at, |byte| byte != b'>' && !byte.is_ascii_whitespace())?;
                    (at..end, end)
                };
            }
            attributes.take(&bytes[name], &html[value]);
        }
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let name = if is_lower { Cow::Borrowed(name) } else { name.to_ascii_lowercase().into() };
        Some(Self { name, closes, attributes, length: at + 1 })
    }

    fn is_hidden(&self) -> bool {
        if self.closes || matches!(&*self.name, "br" | "hr" | "img" | "input" | "link" | "meta") {
            return false;
        }
        self.attributes.hidden
            || self.attributes.style.is_some_and(|style| hides(&decode(style)))
            || matches!(&*self.name, "head" | "style" | "script" | "title" | "template")
    }
}

impl<'a> Attributes<'a> {
    /// Of two with one name, the first counts.
    fn take(&mut self, name: &[u8], value: &'a str) {
        let place = match name.len() {
            3 if name.eq_ignore_ascii_case(b"alt") => &mut self.alt,
            4 if name.eq_ignore_ascii_case(b"href") => &mut self.href,
            5 if name.eq_ignore_ascii_case(b"style") => &mut self.style,
            6 => return self.hidden |= name.eq_ignore_ascii_case(b"hidden"),
            _ => return,
        };
        place.get_or_insert(value);
    }
}

/// Where, from `start` on, the first byte is that is not to be passed over.
fn skip(bytes: &[u8], start: usize, passes: impl Fn(u8) -> bool) -> Option<usize> {
    let from = bytes.get(start..)?;
    from.iter().position(|byte| !passes(*byte)).map(|skipped| start + skipped)
}

/// Whether the declarations of a `style` take the element away.
fn hides(style: &str) -> bool {
    let style = style.as_bytes();
    // Few names have a `y`, and what has none needs no closer look.
    memchr2_iter(b'y', b'Y', style).any(|last| {
        let (before, after) = style.split_at(last + 1);
        let Some((before, property)) = before.split_last_chunk::<{ "display".len() }>() else { return false };
        let value = after.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        property.eq_ignore_ascii_case(b"display")
            && before.trim_ascii_end().last().is_none_or(|end| *end == b';')
            && value.and_then(|value| value.get(..4)).is_some_and(|word| word.eq_ignore_ascii_case(b"none"))
    })
}

/// The text as it grows. Spaces and line breaks wait until a word needs them.
#[derive(Default)]
struct Text<'a> {
    written: String,
    space: bool,
    breaks: usize,
    /// The open links: address, and where their label starts.
    links: Vec<(Option<Cow<'a, str>>, usize)>,
}

impl<'a> Text<'a> {
    fn words(&mut self, raw: &str) {
        if raw.trim_ascii_start().is_empty() {
            self.space |= !raw.is_empty();
            return;
        }
        let decoded = decode(raw);
        for (index, word) in decoded.split(char::is_whitespace).enumerate() {
            self.space |= index > 0;
            if !word.is_empty() {
                self.flush();
                self.written.push_str(word);
            }
        }
    }

    fn flush(&mut self) {
        if !self.written.is_empty() {
            match self.breaks {
                0 if self.space => self.written.push(' '),
                breaks => self.written.extend(std::iter::repeat_n('\n', breaks)),
            }
        }
        (self.breaks, self.space) = (0, false);
    }

    fn tag(&mut self, tag: &Tag<'a>) {
        match &*tag.name {
            "br" => self.breaks = (self.breaks + 1).min(2),
            "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "ul" | "ol" | "table" | "blockquote" | "pre" | "hr" => self.breaks = 2,
            "li" if !tag.closes => {
                self.breaks = self.breaks.max(1);
                self.words("- ");
            }
            "div" | "section" | "article" | "header" | "footer" | "main" | "tr" | "li" | "body" | "html" | "center" => {
                self.breaks = self.breaks.max(1);
            }
            "td" | "th" => self.space = true,
            "img" => self.words(tag.attributes.alt.unwrap_or_default()),
            "a" if tag.closes => self.close_link(),
            "a" => self.links.push((tag.attributes.href.map(decode), self.written.len())),
            _ => {}
        }
    }

    fn close_link(&mut self) {
        let Some((Some(address), start)) = self.links.pop() else { return };
        let label = self.written[start..].trim();
        let leads_out = ["https:", "http:", "mailto:", "tel:"].iter().any(|scheme| address.starts_with(scheme));
        if leads_out && !label.is_empty() && bare(label) != bare(&address) {
            self.written.push_str(" <");
            self.written.push_str(&address);
            self.written.push('>');
        }
    }
}

/// An address as people write it.
fn bare(address: &str) -> &str {
    let address = ["mailto:", "tel:"].iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address);
    address.trim_end_matches('/')
}

/// Longest character reference looked for, in bytes.
const REFERENCE_LIMIT: usize = 10;

/// `text` with its character references made into characters. An unknown one stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if memchr(b'&', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        decoded.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.bytes().take(REFERENCE_LIMIT).position(|byte| byte == b';');
        if let Some((end, character)) = end.and_then(|end| Some((end, referenced(&rest[1..end])?))) {
            decoded.push(character);
            rest = &rest[end + 1..];
        } else {
            decoded.push('&');
            rest = &rest[1..];
        }
    }
    decoded.push_str(rest);
    decoded.into()
}

fn referenced(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?).filter(|character| !character.is_control());
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "laquo" => '«',
        "raquo" => '»',
        "bull" => '•',
        "middot" => '·',
        "times" => '×',
        "rarr" => '→',
        "larr" => '←',
        "euro" => '€',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(html: &str, expected: &str) {
        assert_eq!(to_text(html), expected, "{html}");
    }

    #[test]
    fn html_reads_as_text() {
        check("<p>Habari  <b>Asha</b>,</p>\n<p>karibu.</p>", "Habari Asha,\n\nkaribu.");
        check("one<br>two<br/>three", "one\ntwo\nthree");
        check("<div>one</div><div>two</div>", "one\ntwo");
        check("<h1>Flats</h1><ul><li>Upanga</li><li>Masaki</li></ul>now", "Flats\n\n- Upanga\n- Masaki\n\nnow");
        check("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc");
        check("Tom &amp; Jerry &lt;3 &#x41;&#65; &nope; AT&T", "Tom & Jerry <3 AA &nope; AT&T");
        check("<img src='x' alt='a &lt; b'>", "a < b");
        check("", "");
    }

    #[test]
    fn links_keep_their_address() {
        check(r#"<a class="b" href="https://example.com/?a=1&amp;b=2">Open</a>!"#, "Open <https://example.com/?a=1&b=2>!");
        check(r#"<p><a href="https://example.com/">https://example.com</a></p>"#, "https://example.com");
        check(r"<a href='mailto:asha@example.com'>asha@example.com</a>", "asha@example.com");
        check(r##"<a href="#top">up</a> <a>no</a> <a href="javascript:x">js</a>"##, "up no js");
        check(r#"<a href="https://example.com/"><img src="x"></a>"#, "");
    }

    #[test]
    fn what_is_hidden_is_not_read() {
        check("<!doctype html><html><head><title>t</title><style>p > a {}</style></head><body>x</body></html>", "x");
        check(r#"<div style="Display: none"><div>a</div>b</div>c"#, "c");
        check(r#"<div style="color:red; display : NONE !important">a</div>c"#, "c");
        check(r#"<div style="--display:none; display: inline">a</div><p data-style="display:none">c</p>"#, "a\n\nc");
        check("<span hidden>a</span>b<!-- <p>c</p> -->d", "bd");
        check("<script>if (a < b) {}</script>after", "after");
    }

    #[test]
    fn broken_html_does_no_harm() {
        check("a < b", "a < b");
        check("a <b", "a <b");
        check(r#"<a href="x>y"#, r#"<a href="x>y"#);
        check("<p hidden>never closed", "");
        check("</p></p>a</a></b>", "a");
        check("&#x0;&#xffffffff;&", "&#x0;&#xffffffff;&");
        check("<é>", "<é>");
        check(r"a<b =x y= >b<p/ style=display:none>c</p>d<br", "abd<br");
        check(r#"<img alt=two alt="one" src="a>b">"#, "two");
    }

    #[test]
    fn text_becomes_paragraphs() {
        assert_eq!(paragraphs("a <b>\nc\n\n\n'd'\n"), "<p>a &lt;b&gt;<br>\nc</p>\n<p>&#39;d&#39;</p>\n");
        assert_eq!(paragraphs(""), "");
    }
}
