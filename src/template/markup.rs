//! Where the tags of HTML and MJML lie in a source that has Jinja in it. Nothing here changes a source.
//!
//! What Jinja encloses is never read as markup, and a `<` or `>` or quote in it ends nothing.

use std::ops::Range;

/// One thing of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// `{{ … }}`, `{% … %}`, `{# … #}`, or all of `{% raw %} … {% endraw %}`.
    Jinja(Range<usize>),
    Start(StartTag),
    /// `</a>`.
    End(Range<usize>),
    /// `<!-- … -->`, `<!doctype html>`, `<?xml … ?>`.
    Comment(Range<usize>),
    /// Text, or the content of `<style>` or `<script>` with whatever Jinja it has.
    Text(Range<usize>),
}

/// `<a href="…">`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartTag {
    pub range: Range<usize>,
    pub name: Range<usize>,
    pub attributes: Vec<Attribute>,
    /// Jinja between the attributes.
    pub between: Vec<Range<usize>>,
    /// `<br/>`.
    pub is_closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    pub name: Range<usize>,
    /// Without its quotes.
    pub value: Option<Range<usize>>,
    pub quote: Option<char>,
    /// Whether it stands in a `{% if %}` or another block inside the tag.
    pub is_conditional: bool,
}

/// The pieces of `source`, in order and without gaps.
pub(super) fn pieces(source: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut at, mut text) = (0, 0);
    while at < source.len() {
        let rest = &source[at..];
        let piece = if let Some(length) = jinja(rest) {
            Piece::Jinja(at..at + length)
        } else if let Some(comment) = rest.strip_prefix("<!--") {
            Piece::Comment(at..comment.find("-->").map_or(source.len(), |end| at + "<!--".len() + end + "-->".len()))
        } else if rest.starts_with("<!") || rest.starts_with("<?") {
            Piece::Comment(at..rest.find('>').map_or(source.len(), |end| at + end + 1))
        } else if rest.strip_prefix("</").is_some_and(starts_name) {
            Piece::End(at..rest.find('>').map_or(source.len(), |end| at + end + 1))
        } else if let Some(tag) = rest.strip_prefix('<').filter(|rest| starts_name(rest)).and_then(|_| start_tag(source, at)) {
            Piece::Start(tag)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if text < at {
            pieces.push(Piece::Text(text..at));
        }
        let opaque = match &piece {
            Piece::Start(tag) if !tag.is_closed => {
                let name = source[tag.name.clone()].to_ascii_lowercase();
                matches!(name.as_str(), "style" | "script" | "mj-style").then_some(name)
            }
            _ => None,
        };
        at = piece.range().end;
        pieces.push(piece);
        text = at;
        if let Some(name) = opaque {
            at += source[at..].to_ascii_lowercase().find(&format!("</{name}")).unwrap_or(source.len() - at);
        }
    }
    if text < source.len() {
        pieces.push(Piece::Text(text..source.len()));
    }
    pieces
}

impl Piece {
    pub fn range(&self) -> Range<usize> {
        match self {
            Self::Jinja(range) | Self::End(range) | Self::Comment(range) | Self::Text(range) => range.clone(),
            Self::Start(tag) => tag.range.clone(),
        }
    }
}

/// The line of the place `at`, from 1.
pub(super) fn line(source: &str, at: usize) -> usize {
    source[..at.min(source.len())].matches('\n').count() + 1
}

/// The length of the Jinja that `rest` starts with, if it does. What never ends reaches to the end: the engine tells of it.
pub(super) fn jinja(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('{')?;
    let close = match inside.chars().next()? {
        '{' => "}}",
        '%' => "%}",
        '#' => return Some(rest.find("#}").map_or(rest.len(), |end| end + 2)),
        _ => return None,
    };
    let end = tag_end(rest, close);
    if close == "%}" && keyword(&rest[..end]) == "raw" {
        let mut at = end;
        while let Some(found) = rest[at..].find("{%") {
            let start = at + found;
            at = start + tag_end(&rest[start..], "%}");
            if keyword(&rest[start..at]) == "endraw" {
                return Some(at);
            }
        }
        return Some(rest.len());
    }
    Some(end)
}

/// Where a tag ends: behind the first `close` that is in no string.
fn tag_end(tag: &str, close: &str) -> usize {
    let mut quote = None;
    let mut characters = tag.char_indices().skip(2);
    while let Some((index, character)) = characters.next() {
        match quote {
            Some(_) if character == '\\' => {
                characters.next();
            }
            Some(open) if open == character => quote = None,
            None if tag[index..].starts_with(close) => return index + close.len(),
            None if matches!(character, '"' | '\'') => quote = Some(character),
            _ => {}
        }
    }
    tag.len()
}

/// `if` of `{%- if a %}`.
pub(super) fn keyword(tag: &str) -> &str {
    let inside = tag.strip_prefix("{%").unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
    inside.split(|at: char| !at.is_ascii_alphanumeric() && at != '_').next().unwrap_or_default()
}

/// How a tag changes the depth of blocks: an `{% if %}` by one, its `{% endif %}` back.
pub(super) fn depth(tag: &str) -> isize {
    match keyword(tag) {
        "if" | "for" | "with" | "filter" | "autoescape" | "block" | "macro" | "call" => 1,
        word if word.starts_with("end") && word != "endset" => -1,
        _ => 0,
    }
}

fn starts_name(rest: &str) -> bool {
    rest.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn start_tag(source: &str, start: usize) -> Option<StartTag> {
    let bytes = source.as_bytes();
    let ends_name =
        |at: usize| bytes[at].is_ascii_whitespace() || matches!(bytes[at], b'/' | b'>' | b'=') || jinja(&source[at..]).is_some();
    let word = |from: usize| (from..source.len()).find(|at| source.is_char_boundary(*at) && ends_name(*at)).unwrap_or(source.len());
    let name = start + 1..word(start + 1);
    let (mut at, mut attributes, mut between, mut level) = (name.end, Vec::new(), Vec::new(), 0);
    let mut is_closed = false;
    while at < source.len() {
        if let Some(length) = jinja(&source[at..]) {
            level += depth(&source[at..at + length]);
            between.push(at..at + length);
            at += length;
            continue;
        }
        match bytes[at] {
            b'>' => return Some(StartTag { range: start..at + 1, name, attributes, between, is_closed }),
            byte if byte.is_ascii_whitespace() || matches!(byte, b'/' | b'=') => {
                is_closed = byte == b'/' && bytes.get(at + 1) == Some(&b'>');
                at += 1;
            }
            _ => {
                let attribute = attribute(source, at..word(at), level > 0)?;
                at = match &attribute.value {
                    Some(value) => value.end + attribute.quote.map_or(0, char::len_utf8),
                    None => attribute.name.end,
                };
                attributes.push(attribute);
            }
        }
    }
    None
}

/// The attribute called `name`, with what follows it. None when its value never ends.
fn attribute(source: &str, name: Range<usize>, is_conditional: bool) -> Option<Attribute> {
    let spaces = |at: usize| source[at..].len() - source[at..].trim_start().len();
    let equals = name.end + spaces(name.end);
    if !source[equals..].starts_with('=') {
        return Some(Attribute { name, value: None, quote: None, is_conditional });
    }
    let mut start = equals + 1;
    start += spaces(start);
    let quote = source[start..].chars().next().filter(|quote| matches!(quote, '"' | '\''));
    start += quote.map_or(0, char::len_utf8);
    let (mut at, mut level) = (start, 0);
    while at < source.len() {
        let rest = &source[at..];
        let character = rest.chars().next()?;
        if let Some(length) = jinja(rest) {
            let ends = keyword(&rest[..length]).starts_with("end") || matches!(keyword(&rest[..length]), "else" | "elif");
            if quote.is_none() && ends && level == 0 {
                // It belongs to a block that began before the attribute.
                return Some(Attribute { name, value: Some(start..at), quote, is_conditional });
            }
            level += depth(&rest[..length]);
            at += length;
        } else if quote.map_or(character.is_ascii_whitespace() || character == '>', |quote| quote == character) {
            return Some(Attribute { name, value: Some(start..at), quote, is_conditional });
        } else {
            at += character.len_utf8();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces, one letter for each kind and its text.
    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let pieces = pieces(source);
        let shown = pieces.iter().map(|piece| {
            let kind = match piece {
                Piece::Jinja(_) => 'j',
                Piece::Start(_) => 's',
                Piece::End(_) => 'e',
                Piece::Comment(_) => 'c',
                Piece::Text(_) => 't',
            };
            format!("{kind} {}", &source[piece.range()])
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected, "{source}");
        assert_eq!(pieces.iter().map(|piece| &source[piece.range()]).collect::<String>(), source, "no gaps");
    }

    #[test]
    fn jinja_is_no_markup() {
        check("a<b>{{ x }}</b>", &["t a", "s <b>", "j {{ x }}", "e </b>"]);
        check("{% if a < b %}<p>{% endif %}", &["j {% if a < b %}", "s <p>", "j {% endif %}"]);
        check("{{ \"}}<b>\" }}<i>", &["j {{ \"}}<b>\" }}", "s <i>"]);
        check("{{ '\\'}}' }}<i>", &["j {{ '\\'}}' }}", "s <i>"]);
        check("{# <b> {{ \" #}<i>", &["j {# <b> {{ \" #}", "s <i>"]);
        check("{% raw %}<b>{{{%- endraw -%}<i>", &["j {% raw %}<b>{{{%- endraw -%}", "s <i>"]);
        check("{{ never", &["j {{ never"]);
        check("{% raw %} never <b>", &["j {% raw %} never <b>"]);
        check("a { b {é <c>", &["t a { b {é ", "s <c>"]);
    }

    #[test]
    fn tags_end_where_they_end() {
        check("<a href=\"{{ \"/x>\" | link }}\" title='>'>é</a>", &["s <a href=\"{{ \"/x>\" | link }}\" title='>'>", "t é", "e </a>"]);
        check("<td {% if a > b %}class=x{% endif %}>", &["s <td {% if a > b %}class=x{% endif %}>"]);
        check("<br/><img src=a>", &["s <br/>", "s <img src=a>"]);
        check("a < b <3 <", &["t a < b <3 <"]);
        check("<a href=\"x", &["t <a href=\"x"]);
        check("<!doctype html><!-- <b> {{ x }} --><p>", &["c <!doctype html>", "c <!-- <b> {{ x }} -->", "s <p>"]);
        check("<!-- never <b>", &["c <!-- never <b>"]);
        check("<style>a > b {{ x }} </b></STYLE><p>", &["s <style>", "t a > b {{ x }} </b>", "e </STYLE>", "s <p>"]);
        check("<script>if (a < b) {% if c %}</script>", &["s <script>", "t if (a < b) {% if c %}", "e </script>"]);
    }

    #[test]
    fn conditions_in_a_tag_are_known() {
        let source = "<td a {% if x %}b=1{% else %}c{% endif %} d>";
        let Some(Piece::Start(tag)) = pieces(source).into_iter().next() else { panic!("a tag") };
        let told = tag.attributes.iter().map(|attribute| (&source[attribute.name.clone()], attribute.is_conditional));
        assert_eq!(told.collect::<Vec<_>>(), [("a", false), ("b", true), ("c", true), ("d", false)]);
    }
}
