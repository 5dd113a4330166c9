//! MJML to HTML, at load: `email.mjml` is then a part like `email.html`.
//!
//! Each Jinja tag goes through the renderer as a comment (in text) or as a word (in an attribute's value), and comes back afterwards;
//! a check holds that none was lost, doubled or moved. Pieces come in with `mj-include`, from memory.

use mrml::prelude::{
    parser::{Error, ParserOptions},
    render::RenderOptions,
};

use super::{
    engine::LAYOUTS,
    error::Fault,
    markup::{self, Piece, StartTag},
    mjml_places::misplaced,
    style::Sheet,
};

/// How deep pieces may include pieces.
const INCLUDES_LIMIT: usize = 8;
/// Most that a part and its pieces may be together, in bytes.
const SIZE_LIMIT: usize = 1024 * 1024;
/// How deep elements, HTML's among them, may lie in each other: the renderer calls itself for each.
const DEPTH_LIMIT: usize = 256;
/// What the placeholders begin and end with.
const BEFORE: &str = "tarishi0jinja";
const AFTER: &str = "z";
/// Elements whose content is text alone, where no comment may stand.
const TEXT_ONLY: [&str; 3] = ["mj-title", "mj-preview", "mj-style"];
/// Elements with HTML in them, which is theirs to write as they like.
const WITH_HTML: [&str; 8] =
    ["mj-text", "mj-button", "mj-raw", "mj-table", "mj-accordion-text", "mj-accordion-title", "mj-navbar-link", "mj-social-element"];

/// HTML with its Jinja, and where each line of it comes from.
#[derive(Debug)]
pub(super) struct Rendered {
    pub html: String,
    pub origins: Vec<Origin>,
    /// What is to come into the tags: that of `<mj-style inline="inline">`.
    pub inlined: Vec<Sheet>,
}

/// Where a Jinja tag in a made source was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// In what was made.
    pub line: usize,
    pub file: String,
    pub file_line: usize,
}

/// A source on its way to the renderer.
#[derive(Default)]
struct Masked {
    text: String,
    tags: Vec<Tag>,
    /// Places in the text with the file and line that they come from.
    places: Vec<(usize, String, usize)>,
    /// The elements that are open.
    open: Vec<Open>,
    inlined: Vec<Sheet>,
}

/// An element that is open, and where.
struct Open {
    name: String,
    file: String,
    line: usize,
    /// It is a style sheet that goes into the tags and not through the renderer.
    is_inlined: bool,
}

/// What a placeholder stands for.
struct Tag {
    source: String,
    file: String,
    line: usize,
    /// In an attribute's value it may come back more than once, and anywhere: MJML writes some attributes twice.
    is_value: bool,
}

/// Makes HTML of the MJML `source` of `file`; `find` gives a shared piece by name, with the file it is in.
pub(super) fn to_html<'a>(file: &str, source: &'a str, find: &dyn Fn(&str) -> Option<(String, &'a str)>) -> Result<Rendered, Fault> {
    let mut masked = Masked::default();
    masked.add(file, source, find, &mut vec![file.to_owned()])?;
    if let Some(Open { name, file, line, .. }) = masked.open.iter().rfind(|open| open.name.starts_with("mj")) {
        return Err(Fault::new(file, format!("<{name}> is never closed"), format!("write </{name}>")).at(Some(*line)));
    }
    let fault = |at: usize, problem: String, hint: &str| {
        let (file, line) = match masked.places.iter().rev().find(|(place, ..)| *place <= at) {
            Some((place, file, line)) => (file.as_str(), line + masked.text[*place..at.min(masked.text.len())].matches('\n').count()),
            None => (file, 1),
        };
        Fault::new(file, problem, hint).at(Some(line))
    };
    let parsed = mrml::parse_with_options(&masked.text, &ParserOptions::default()).map_err(|error| {
        let (at, problem, hint) = explained(&error, &masked.text);
        fault(at, problem, hint)
    })?;
    let options = RenderOptions { fonts: std::collections::HashMap::new(), ..RenderOptions::default() };
    let html = parsed.element.render(&options).map_err(|error| {
        fault(0, format!("is MJML that cannot be rendered: {error}"), "see what each element takes: https://documentation.mjml.io")
    })?;
    masked.restore(file, &html)
}

/// The place in `text`, the problem and the hint.
fn explained(error: &Error, text: &str) -> (usize, String, &'static str) {
    const TAGS: &str = "see the elements of MJML and where each may stand: https://documentation.mjml.io";
    match error {
        Error::UnexpectedElement { position, .. } => {
            let name: String = text[position.start.min(text.len())..]
                .trim_start_matches(['<', '/'])
                .chars()
                .take_while(|at| at.is_ascii_alphanumeric() || *at == '-')
                .take(40)
                .collect();
            (position.start, format!("`<{name}>` is no element of MJML, or may not stand here"), TAGS)
        }
        Error::UnexpectedToken { position, .. } => {
            let rest = &text[position.start.min(text.len())..];
            let at = position.start + rest.len() - rest.trim_start().len();
            (at, "has text or a tag where MJML has none".to_owned(), "text stands in <mj-text>, and every element is closed")
        }
        Error::MissingAttribute { name, position, .. } => (position.start, format!("the attribute `{name}` is missing"), TAGS),
        Error::InvalidAttribute { position, .. } => (position.start, "an attribute is not as MJML has it".to_owned(), TAGS),
        Error::InvalidFormat { position, .. } => (position.start, "a value is not as MJML has it".to_owned(), TAGS),
        Error::EndOfStream { .. } => (text.len(), "ends before every element is closed".to_owned(), "close what is open, down to </mjml>"),
        Error::NoRootNode => (0, "has no <mjml> around it".to_owned(), "write <mjml><mj-body>…</mj-body></mjml>"),
        Error::ParserError { source, .. } => {
            let line = usize::try_from(source.pos().row).unwrap_or(1);
            let at = text.match_indices('\n').nth(line.saturating_sub(2)).filter(|_| line > 1).map_or(0, |(at, _)| at + 1);
            // Its place is of the text that the renderer got.
            let told = source.to_string();
            let told = told.split(" at ").next().unwrap_or(&told).to_owned();
            (at, format!("is not XML as MJML needs it: {told}"), "every element is closed, and every value in quotes")
        }
        other => (0, format!("is MJML that cannot be read: {other}"), TAGS),
    }
}

impl Masked {
    fn add<'a>(
        &mut self,
        file: &str,
        source: &'a str,
        find: &dyn Fn(&str) -> Option<(String, &'a str)>,
        within: &mut Vec<String>,
    ) -> Result<(), Fault> {
        for piece in markup::pieces(source) {
            let line = markup::line(source, piece.range().start);
            self.places.push((self.text.len(), file.to_owned(), line));
            match piece {
                Piece::Jinja(range) => self.jinja(file, line, &source[range]),
                Piece::Start(tag) if &source[tag.name.clone()] == "mj-include" => {
                    self.include(file, source, &tag, find, within)?;
                }
                Piece::Start(tag) => {
                    let is_inlined = self.start(file, source, &tag)?;
                    if !tag.is_closed {
                        self.open.push(Open { name: source[tag.name.clone()].to_owned(), file: file.to_owned(), line, is_inlined });
                    }
                    if self.open.len() > DEPTH_LIMIT {
                        let problem = format!("has elements more than {DEPTH_LIMIT} deep in each other");
                        return Err(Fault::new(file, problem, "close what is open").at(Some(line)));
                    }
                }
                Piece::End(range) => {
                    let name = source[range.clone()].trim_start_matches("</").trim_end_matches('>').trim();
                    if !self.end(file, line, name)? {
                        self.text.push_str(&source[range]);
                    }
                }
                Piece::Comment(range) if source[range.clone()].starts_with("<![CDATA[") => {
                    let hint = "write the text itself, with &lt; for < and &amp; for &; in <mj-raw> it is HTML as it comes";
                    return Err(Fault::new(file, "has CDATA, which mails do not know", hint).at(Some(line)));
                }
                // What an author notes is not for readers.
                Piece::Comment(range) if source[range.clone()].starts_with("<!--") && !source[range.clone()].starts_with("<!--[") => {}
                Piece::Text(range) if self.open.last().is_some_and(|open| open.name == "mj-style") => {
                    self.style(file, line, &source[range])?;
                }
                Piece::Text(range) if !source[range.clone()].trim().is_empty() && !self.may_have_text() => {
                    let start = range.end - source[range.clone()].trim_start().len();
                    let element = self.open.last().map_or("", |open| &open.name);
                    let fault = Fault::new(file, format!("text stands in <{element}>"), "put it into <mj-text>, in a column");
                    return Err(fault.at(Some(markup::line(source, start))));
                }
                Piece::Comment(range) | Piece::Text(range) => self.text.push_str(&source[range]),
            }
            if self.text.len() > SIZE_LIMIT {
                return Err(Fault::new(file, format!("is larger than {SIZE_LIMIT} bytes with what it includes"), "include less"));
            }
        }
        Ok(())
    }

    /// The renderer takes text anywhere; in a body it shows it above or below everything.
    fn may_have_text(&self) -> bool {
        let Some(open) = self.open.last() else { return true };
        !open.name.starts_with("mj") || TEXT_ONLY.contains(&&*open.name) || WITH_HTML.contains(&&*open.name)
    }

    /// Takes the element `name` off; in HTML, some elements need no end. Whether it was one that is not in the text.
    fn end(&mut self, file: &str, line: usize, name: &str) -> Result<bool, Fault> {
        match self.open.iter().rposition(|open| open.name == name) {
            Some(place) => {
                if let Some(unclosed) = self.open[place + 1..].iter().map(|open| &open.name).find(|open| open.starts_with("mj-")) {
                    let hint = format!("write </{unclosed}> before it");
                    return Err(Fault::new(file, format!("</{name}> closes while <{unclosed}> is open"), hint).at(Some(line)));
                }
                let is_inlined = self.open[place].is_inlined;
                self.open.truncate(place);
                Ok(is_inlined)
            }
            None if name.starts_with("mj") => {
                Err(Fault::new(file, format!("</{name}> closes what is not open"), "remove it").at(Some(line)))
            }
            None => Ok(false),
        }
    }

    fn jinja(&mut self, file: &str, line: usize, tag: &str) {
        // The head comes out in an order of MJML's own: what is in there is a value, and a word.
        let is_value = self.open.last().is_some_and(|open| TEXT_ONLY.contains(&open.name.as_str()));
        let word = self.placeholder(file, line, tag, is_value);
        if is_value {
            self.text.push_str(&word);
        } else {
            self.text.push_str("<!--");
            self.text.push_str(&word);
            self.text.push_str("-->");
        }
    }

    fn style(&mut self, file: &str, line: usize, css: &str) -> Result<(), Fault> {
        if self.open.last().is_some_and(|open| open.is_inlined) {
            self.inlined.push(Sheet::read_at(file, line, css)?);
            return Ok(());
        }
        Sheet::check(file, line, css)?;
        let mut at = 0;
        while let Some(character) = css[at..].chars().next() {
            if let Some(length) = markup::jinja(&css[at..]) {
                let word = self.placeholder(file, line + css[..at].matches('\n').count(), &css[at..at + length], true);
                self.text.push_str(&word);
                at += length;
            } else {
                self.text.push(character);
                at += character.len_utf8();
            }
        }
        Ok(())
    }

    fn placeholder(&mut self, file: &str, line: usize, source: &str, is_value: bool) -> String {
        let word = format!("{BEFORE}{}{AFTER}", self.tags.len());
        self.tags.push(Tag { source: source.to_owned(), file: file.to_owned(), line, is_value });
        word
    }

    /// Whether it is a style sheet that goes into the tags, which is then not in the text.
    fn start(&mut self, file: &str, source: &str, tag: &StartTag) -> Result<bool, Fault> {
        let line = markup::line(source, tag.range.start);
        let name = &source[tag.name.clone()];
        if !tag.between.is_empty() {
            let hint = "put the condition inside a value (color=\"{% if a %}red{% else %}blue{% endif %}\"), or around the element";
            return Err(Fault::new(file, format!("Jinja stands between the attributes of <{name}>"), hint).at(Some(line)));
        }
        let parent = self.open.iter().rfind(|open| open.name.starts_with("mj")).map(|open| open.name.as_str());
        let wrong = match parent {
            // Their content is HTML; but where they are alone, as <mj-attributes> has them.
            Some(parent) if name.starts_with("mj") && WITH_HTML.contains(&parent) => {
                Some((format!("<{name}> may not stand in <{parent}>"), "close that first".to_owned()))
            }
            parent => misplaced(name, parent),
        };
        if let Some((problem, hint)) = wrong {
            return Err(Fault::new(file, problem, hint).at(Some(line)));
        }
        if name == "mj-style"
            && let Some(inline) = tag.attributes.iter().find(|attribute| &source[attribute.name.clone()] == "inline")
        {
            if inline.value.clone().is_none_or(|value| &source[value] != "inline") {
                let hint = "write inline=\"inline\", or leave it out";
                return Err(Fault::new(file, "`inline` of <mj-style> has a value that MJML does not know", hint).at(Some(line)));
            }
            return Ok(true);
        }
        let mut done = tag.range.start;
        for value in tag.attributes.iter().filter_map(|attribute| Some((attribute.value.clone()?, attribute.quote))) {
            let (range, quote) = value;
            let text = &source[range.clone()];
            if !(text.contains("{{") || text.contains("{%") || text.contains("{#")) {
                continue;
            }
            // The renderer writes double quotes.
            let text = if quote == Some('\'') { quoted(text) } else { text.to_owned() };
            let word = self.placeholder(file, markup::line(source, range.start), &text, true);
            self.text.push_str(&source[done..range.start]);
            self.text.push_str(&word);
            done = range.end;
        }
        self.text.push_str(&source[done..tag.range.end]);
        Ok(false)
    }

    fn include<'a>(
        &mut self,
        file: &str,
        source: &'a str,
        tag: &StartTag,
        find: &dyn Fn(&str) -> Option<(String, &'a str)>,
        within: &mut Vec<String>,
    ) -> Result<(), Fault> {
        let fault = |problem: String, hint: String| Fault::new(file, problem, hint).at(Some(markup::line(source, tag.range.start)));
        let example = || format!("write <mj-include path=\"{LAYOUTS}/footer.mjml\" />");
        let mut path = None;
        for attribute in &tag.attributes {
            match &source[attribute.name.clone()] {
                "path" => path = attribute.value.clone().map(|value| &source[value]),
                other => return Err(fault(format!("`{other}` of <mj-include> is not known here"), example())),
            }
        }
        if !tag.is_closed {
            return Err(fault("<mj-include> is not closed".to_owned(), example()));
        }
        let path = path.ok_or_else(|| fault("<mj-include> has no `path`".to_owned(), example()))?;
        let piece =
            path.strip_prefix(LAYOUTS).and_then(|path| path.strip_prefix('/')).filter(|piece| super::part::extension(piece) == "mjml");
        let found = piece.and_then(find);
        let Some((included, text)) = found else {
            return Err(fault(format!("there is no piece `{}` to include", crate::model::cut(path, 80)), example()));
        };
        if within.contains(&included) {
            return Err(fault(format!("`{included}` includes itself"), "remove one <mj-include> of the circle".to_owned()));
        }
        if within.len() > INCLUDES_LIMIT {
            return Err(fault(format!("pieces include pieces more than {INCLUDES_LIMIT} deep"), "include less deep".to_owned()));
        }
        within.push(included.clone());
        self.add(&included, text, find, within)?;
        within.pop();
        Ok(())
    }

    /// Puts the tags back, and makes sure that each is where it was.
    fn restore(&self, file: &str, html: &str) -> Result<Rendered, Fault> {
        let inlined = self.inlined.clone();
        let mut rendered = Rendered { html: String::with_capacity(html.len() * 2), origins: Vec::new(), inlined };
        let mut seen = vec![0_usize; self.tags.len()];
        let (mut rest, mut last, mut line) = (html, None, 1);
        let moved = |tag: &Tag| {
            let hint = "MJML has no place for it there: put it around an element, into <mj-text> or <mj-raw>, or into a value";
            Fault::new(&tag.file, "a Jinja tag does not come through MJML", hint).at(Some(tag.line))
        };
        while let Some(start) = rest.find(BEFORE) {
            let digits = &rest[start + BEFORE.len()..];
            let length = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
            let number = digits[..length].parse().ok().filter(|number| digits[length..].starts_with(AFTER) && *number < self.tags.len());
            let Some(number): Option<usize> = number else {
                return Err(Fault::new(file, format!("has the word `{BEFORE}` in it, which is used here"), "write another"));
            };
            let tag = &self.tags[number];
            let (mut before, mut after) = (&rest[..start], &digits[length + AFTER.len()..]);
            if let (Some(shorter), Some(next)) = (before.strip_suffix("<!--"), after.strip_prefix("-->")) {
                (before, after) = (shorter, next);
            }
            if !tag.is_value {
                if last.is_some_and(|last| last >= number) {
                    return Err(moved(tag));
                }
                last = Some(number);
            }
            seen[number] += 1;
            line += before.matches('\n').count();
            rendered.html.push_str(before);
            rendered.origins.push(Origin { line, file: tag.file.clone(), file_line: tag.line });
            rendered.html.push_str(&tag.source);
            line += tag.source.matches('\n').count();
            rest = after;
        }
        rendered.html.push_str(rest);
        match self.tags.iter().zip(&seen).find(|(_, seen)| **seen == 0) {
            Some((tag, _)) => Err(moved(tag)),
            None => Ok(rendered),
        }
    }
}

/// `value` for double quotes: those outside of Jinja are escaped.
fn quoted(value: &str) -> String {
    let (mut written, mut at) = (String::with_capacity(value.len()), 0);
    while let Some(character) = value[at..].chars().next() {
        let length = markup::jinja(&value[at..]);
        match (length, character) {
            (Some(length), _) => written.push_str(&value[at..at + length]),
            (None, '"') => written.push_str("&quot;"),
            (None, other) => written.push(other),
        }
        at += length.unwrap_or(character.len_utf8());
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(body: &str) -> Result<String, String> {
        let find = |piece: &str| match piece {
            "a.mjml" => Some(("_layouts/a.mjml".to_owned(), "<mj-text>\n{{ a }}</mj-text>")),
            "loop.mjml" => Some(("_layouts/loop.mjml".to_owned(), "\n<mj-include path=\"_layouts/loop.mjml\" />")),
            "bad.mjml" => Some(("_layouts/bad.mjml".to_owned(), "\n\n<mj-txt>x</mj-txt>")),
            _ => None,
        };
        to_html("t/email.mjml", body, &find).map(|rendered| rendered.html).map_err(|fault| fault.into_problem().to_string())
    }

    /// `inner` in a column comes out with `expected` in it.
    #[track_caller]
    fn check(inner: &str, expected: &str) {
        let html = made(&format!("<mjml><mj-body><mj-section><mj-column>{inner}</mj-column></mj-section></mj-body></mjml>"));
        assert!(html.as_ref().is_ok_and(|html| html.contains(expected)), "{inner}: {html:?}");
    }

    #[track_caller]
    fn check_bad(source: &str, expected: &str) {
        let told = made(source).err().unwrap_or_default();
        assert!(told.starts_with(expected), "{source}: {told}");
    }

    #[test]
    fn jinja_comes_through() {
        check(
            "<mj-text>{{ name }} &amp; {% if a < b %}<b>c</b>{% endif %}</mj-text>",
            "{{ name }} &amp; {% if a < b %}<b>c</b>{% endif %}",
        );
        check("<mj-button href='{{ \"/x\" | link }}'>Go {{ n }}</mj-button>", "href=\"{{ \"/x\" | link }}\"");
        check("{% if a %}<mj-text>x</mj-text>{% endif %}", "{% if a %}");
        check("<mj-text color=\"{% if a %}red{% else %}blue{% endif %}\">x</mj-text>", "color:{% if a %}red{% else %}blue{% endif %}");
        check(
            "<mj-table>{% for i in l %}<tr><td>{{ i }}</td></tr>{% endfor %}</mj-table>",
            "{% for i in l %}<tr><td>{{ i }}</td></tr>{% endfor %}",
        );
        check("<mj-include path=\"_layouts/a.mjml\" />", "{{ a }}");
        check("<mj-raw><script>{{ a }}</script></mj-raw>", "{{ a }}");
        let head = made(
            "<mjml><mj-head><mj-title>{{ t }}</mj-title><mj-preview>{{ p }}</mj-preview><mj-style>a { color: {{ c }} }</mj-style></mj-head><mj-body>{% if s %}<mj-section></mj-section>{% endif %}</mj-body></mjml>",
        );
        let head = head.unwrap_or_else(|told| panic!("{told}"));
        for tag in ["<title>{{ t }}</title>", "{{ p }}", "color: {{ c }}", "{% if s %}", "{% endif %}"] {
            assert!(head.contains(tag), "{tag}: {head}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        check_bad("<mjml><mj-body>\n<mj-sectoin></mj-sectoin></mj-body></mjml>", "t/email.mjml:2: `<mj-sectoin>` is no element of MJML");
        check_bad("<mjml><mj-body><mj-section>\n</mj-body></mjml>", "t/email.mjml:2: </mj-body> closes while <mj-section> is open");
        check_bad("<mjml><mj-body></mj-text></mj-body></mjml>", "t/email.mjml:1: </mj-text> closes what is not open");
        check_bad("<mjml>\n<mj-body>", "t/email.mjml:2: <mj-body> is never closed (hint: write </mj-body>)");
        check_bad("<p>x</p>", "t/email.mjml:1: ");
        check_bad("", "t/email.mjml:1: has no <mjml> around it");
        check_bad(
            "<mjml><mj-body><mj-wrapper>\n<mj-text>x</mj-text></mj-wrapper></mj-body></mjml>",
            "t/email.mjml:2: <mj-text> may not stand",
        );
        check_bad(
            "<mjml><mj-body><mj-section><mj-column>\n<mj-style>a{}</mj-style></mj-column></mj-section></mj-body></mjml>",
            "t/email.mjml:2: <mj-style> may not stand in <mj-column> (hint: it belongs in <mj-head>)",
        );
        check_bad("<mjml><mj-body><mj-raw>\n<![CDATA[x]]></mj-raw></mj-body></mjml>", "t/email.mjml:2: has CDATA");
        check_bad(
            "<mjml>\n\nx<mj-body></mj-body></mjml>",
            "t/email.mjml:3: text stands in <mjml> (hint: put it into <mj-text>, in a column)",
        );
        check_bad(
            "<mjml><mj-head><mj-style>\na { top: 0 }\nb { top: 0</mj-style></mj-head></mjml>",
            "t/email.mjml:3: has a rule without its braces",
        );
        check_bad(
            "<mjml><mj-head><mj-style inline=\"inline\">\na { color: {{ c }} }</mj-style></mj-head></mjml>",
            "t/email.mjml:2: has Jinja in it",
        );
        check_bad("<mjml><mj-head><mj-style inline=\"yes\"></mj-style></mj-head></mjml>", "t/email.mjml:1: `inline` of <mj-style>");
        check_bad(
            "<mjml><mj-body><mj-include path=\"_layouts/loop.mjml\" /></mj-body></mjml>",
            "_layouts/loop.mjml:2: `_layouts/loop.mjml` includes itself",
        );
        check_bad(
            "<mjml><mj-body><mj-include path=\"_layouts/bad.mjml\" /></mj-body></mjml>",
            "_layouts/bad.mjml:3: `<mj-txt>` is no element",
        );
        check_bad("<mjml><mj-body><mj-include path=\"../x\" /></mj-body></mjml>", "t/email.mjml:1: there is no piece `../x` to include");
        check_bad(
            "<mjml><mj-body><mj-section {% if a %}x=\"1\"{% endif %}></mj-section></mj-body></mjml>",
            "t/email.mjml:1: Jinja stands between",
        );
        check_bad(&format!("<mjml><mj-body><mj-raw>{}", "<div>".repeat(300)), "t/email.mjml:1: has elements more than 256 deep");
    }

    #[test]
    fn a_style_sheet_for_the_tags_is_kept_for_them() {
        let style = "<mj-style inline=\"inline\">.red { color: red }</mj-style>";
        let source = format!("<mjml><mj-head>{style}<mj-style>a {{ top: 0 }}</mj-style></mj-head><mj-body></mj-body></mjml>");
        let rendered = to_html("t/email.mjml", &source, &|_| None).expect("renders");
        assert_eq!(rendered.inlined.iter().flat_map(Sheet::selectors).collect::<Vec<_>>(), [".red"]);
        assert!(rendered.html.contains("a { top: 0 }") && !rendered.html.contains(".red"), "{}", rendered.html);
    }

    #[test]
    fn lines_lead_back() {
        let source = "<mjml>\n<mj-body>\n<mj-raw>\n{{ a }}\n</mj-raw></mj-body></mjml>";
        let rendered = to_html("t/email.mjml", source, &|_| None).expect("renders");
        let [origin] = rendered.origins.as_slice() else { panic!("{:?}", rendered.origins) };
        assert_eq!((origin.file.as_str(), origin.file_line), ("t/email.mjml", 4));
        assert!(rendered.html.lines().nth(origin.line - 1).is_some_and(|line| line.contains("{{ a }}")), "{rendered:?}");
    }
}
