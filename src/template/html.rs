//! The two ways between text and HTML: escaping, and reading a mail's HTML as the plain text that goes with it.

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
    let mut hidden: Option<(String, usize)> = None;
    while let Some(start) = rest.find('<') {
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
    name: String,
    closes: bool,
    attributes: &'a str,
    /// In bytes, brackets and all.
    length: usize,
}

impl<'a> Tag<'a> {
    /// The tag that `html` starts with, if it is one.
    fn read(html: &'a str) -> Option<Self> {
        let inside = html.strip_prefix('<')?;
        let closes = inside.starts_with('/');
        let named = inside.trim_start_matches(['/', '!']);
        if !named.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return None;
        }
        let mut quote = None;
        let end = named.char_indices().find_map(|(index, character)| match (quote, character) {
            (None, '>') => Some(index),
            (None, '"' | '\'') => {
                quote = Some(character);
                None
            }
            (Some(open), _) if open == character => {
                quote = None;
                None
            }
            _ => None,
        })?;
        let tag = &named[..end];
        let (name, attributes) = tag.split_at(tag.find(|at: char| at.is_whitespace() || at == '/').unwrap_or(tag.len()));
        Some(Self { name: name.to_ascii_lowercase(), closes, attributes, length: html.len() - named.len() + end + 1 })
    }

    fn is_hidden(&self) -> bool {
        const VOID: [&str; 6] = ["br", "hr", "img", "input", "link", "meta"];
        if self.closes || VOID.contains(&self.name.as_str()) {
            return false;
        }
        matches!(self.name.as_str(), "head" | "style" | "script" | "title" | "template")
            || self.attribute("hidden").is_some()
            || self.attribute("style").is_some_and(|style| style.replace(' ', "").to_ascii_lowercase().contains("display:none"))
    }

    fn attribute(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|at: char| at.is_whitespace() || at == '/');
            let end = rest.find(|at: char| at.is_whitespace() || at == '=' || at == '/').unwrap_or(rest.len());
            let name = &rest[..end];
            rest = rest[end..].trim_start();
            let mut value = "";
            if let Some(after) = rest.strip_prefix('=') {
                let after = after.trim_start();
                (value, rest) = match after.chars().next() {
                    Some(quote @ ('"' | '\'')) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
                    _ => after.split_at(after.find(char::is_whitespace).unwrap_or(after.len())),
                };
            } else if name.is_empty() {
                return None;
            }
            if name.eq_ignore_ascii_case(wanted) {
                return Some(decode(value));
            }
        }
    }
}

/// The text as it grows. Spaces and line breaks wait until a word needs them.
#[derive(Default)]
struct Text {
    written: String,
    space: bool,
    breaks: usize,
    /// The open links: address, and where their label starts.
    links: Vec<(Option<String>, usize)>,
}

impl Text {
    fn words(&mut self, raw: &str) {
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

    fn tag(&mut self, tag: &Tag<'_>) {
        match tag.name.as_str() {
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
            "img" => self.words(&escape(&tag.attribute("alt").unwrap_or_default())),
            "a" if tag.closes => self.close_link(),
            "a" => self.links.push((tag.attribute("href"), self.written.len())),
            _ => {}
        }
    }

    fn close_link(&mut self) {
        let Some((Some(address), start)) = self.links.pop() else { return };
        let label = self.written[start..].trim();
        let bare = |text: &str| text.trim_start_matches("mailto:").trim_start_matches("tel:").trim_end_matches('/').to_owned();
        let leads_out = ["https:", "http:", "mailto:", "tel:"].iter().any(|scheme| address.starts_with(scheme));
        if leads_out && !label.is_empty() && bare(label) != bare(&address) {
            self.written.push_str(" <");
            self.written.push_str(&address);
            self.written.push('>');
        }
    }
}

/// Longest character reference looked for, in bytes.
const REFERENCE_LIMIT: usize = 10;

/// `text` with its character references made into characters. An unknown one stays as it is.
fn decode(text: &str) -> String {
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
    decoded
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
    }

    #[test]
    fn text_becomes_paragraphs() {
        assert_eq!(paragraphs("a <b>\nc\n\n\n'd'\n"), "<p>a &lt;b&gt;<br>\nc</p>\n<p>&#39;d&#39;</p>\n");
        assert_eq!(paragraphs(""), "");
    }
}
