//! Style sheets into `style` attributes, at load: some mail programs drop `<style>`.
//!
//! A parser of HTML reads a skeleton of the source (its tags with what selectors look at), and only the declarations that it finds for
//! each tag are brought into the source, which otherwise stays as it is, letter for letter: no Jinja can be lost on the way. A file is
//! seen alone: an element of a block knows nothing of what the layout has around it.

use std::{collections::BTreeMap, fmt::Write as _};

use css_inline::{CSSInliner, InlineOptions};

use super::{
    error::Fault,
    markup::{self, Attribute, Piece, StartTag},
};

/// The shared sheet, by its name in the folder of shared pieces.
pub(super) const SHEET: &str = "email.css";
/// Largest style sheet, in bytes: half of what Gmail shows of a mail.
const SHEET_LIMIT: usize = 50 * 1024;
/// Most tags of one file.
const TAGS_LIMIT: usize = 5_000;
/// What the skeleton numbers its tags with.
const NUMBER: &str = "data-tarishi-tag";

/// A style sheet, parted into what attributes can hold and what they cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sheet {
    /// Rules as selector and declarations.
    rules: Vec<(String, String)>,
    /// `@media` and its like, and rules for states (`a:hover`).
    kept: String,
}

impl Sheet {
    /// Reads `css` of `file`.
    pub fn read(file: &str, css: &str) -> Result<Self, Fault> {
        Self::read_at(file, 1, css)
    }

    /// The same where `css` begins on the line `first`.
    pub fn read_at(file: &str, first: usize, css: &str) -> Result<Self, Fault> {
        let line = |at| Some(first - 1 + markup::line(css, at));
        if css.len() > SHEET_LIMIT {
            let problem = format!("is a style sheet larger than {SHEET_LIMIT} bytes");
            return Err(Fault::new(file, problem, "keep what mails use: every mail with a <head> carries what cannot be inlined"));
        }
        if let Some(at) = css.find("{{").or_else(|| css.find("{%")) {
            let hint = "write the values out, or put the rule into the layout's <style>";
            return Err(Fault::new(file, "has Jinja in it, and a style sheet is no template", hint).at(line(at)));
        }
        if let Some(at) = css.to_ascii_lowercase().find("</style") {
            return Err(Fault::new(file, "has `</style` in it", "it holds rules alone, without a tag").at(line(at)));
        }
        Self::parsed_at(file, first, css)
    }

    /// Whether the rules of a `<style>` that begins on the line `first` of `file` all end. With Jinja in it that cannot be told.
    pub fn check(file: &str, first: usize, css: &str) -> Result<(), Fault> {
        if has_jinja(css) { Ok(()) } else { Self::parsed_at(file, first, css).map(drop) }
    }

    fn parsed_at(file: &str, first: usize, css: &str) -> Result<Self, Fault> {
        Self::parse(css).map_err(|at| {
            let hint = "every rule is written selector { property: value }";
            Fault::new(file, "has a rule without its braces", hint).at(Some(first - 1 + markup::line(css, at)))
        })
    }

    /// The place of the rule that never ends, when one does not.
    fn parse(css: &str) -> Result<Self, usize> {
        let mut sheet = Self::default();
        let clean = without_comments(css);
        let mut at = 0;
        while let Some(start) = clean[at..].find(|character: char| !character.is_whitespace()).map(|skip| at + skip) {
            let rest = &clean[start..];
            let open = rest.find(['{', ';']).ok_or(start)?;
            if rest[open..].starts_with(';') {
                if !rest.starts_with('@') {
                    return Err(start);
                }
                at = start + open + 1;
                sheet.kept.push_str(clean[start..at].trim());
                sheet.kept.push('\n');
                continue;
            }
            let end = open + closing(&rest[open..]).ok_or(start)?;
            at = start + end;
            let (selectors, declarations) = (rest[..open].trim(), rest[open + 1..end - 1].trim());
            if rest.starts_with('@') {
                sheet.kept.push_str(rest[..end].trim());
                sheet.kept.push('\n');
                continue;
            }
            for selector in selectors.split(',').map(str::trim) {
                if selector.contains(':') {
                    writeln!(sheet.kept, "{selector} {{ {declarations} }}").expect("a String takes all");
                } else {
                    sheet.rules.push((selector.to_owned(), declarations.to_owned()));
                }
            }
        }
        Ok(sheet)
    }

    /// The selectors that are inlined.
    pub fn selectors(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(selector, _)| selector.as_str())
    }

    /// `selector` alone, for asking whether it matches anywhere.
    pub fn only(selector: &str) -> Self {
        Self { rules: vec![(selector.to_owned(), "color: red".to_owned())], kept: String::new() }
    }

    fn css(&self) -> String {
        self.rules.iter().fold(String::new(), |mut css, (selector, declarations)| {
            writeln!(css, "{selector} {{ {declarations} }}").expect("a String takes all");
            css
        })
    }
}

fn has_jinja(css: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|start| css.contains(start))
}

/// `css` with its comments blanked, so that places stay; and the marks that once hid style sheets from programs that knew none.
fn without_comments(css: &str) -> String {
    let css = css.replace("<!--", "    ").replace("-->", "   ");
    let (mut clean, mut rest) = (String::with_capacity(css.len()), css.as_str());
    while let Some(start) = rest.find("/*") {
        let end = rest[start..].find("*/").map_or(rest.len(), |end| start + end + 2);
        clean.push_str(&rest[..start]);
        clean.extend(rest[start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    clean + rest
}

/// The length of the block that `css` starts with, braces and all.
fn closing(css: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    for (index, character) in css.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') => {
                depth -= 1;
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// `source` with the rules of `shared` and of its own style sheets brought into its tags.
pub(super) fn inline(file: &str, source: &str, shared: &Sheet) -> Result<String, Fault> {
    let pieces = markup::pieces(source);
    let own = own_sheets(file, source, &pieces)?;
    inline_sheets(file, source, &pieces, shared, &own)
}

/// `source`, which was made of MJML, with the rules of `shared` and of `inlined` brought into its tags: what is in its `<style>` is meant
/// to stay there.
pub(super) fn inline_made(file: &str, source: &str, shared: &Sheet, inlined: &[Sheet]) -> Result<String, Fault> {
    let kept = inlined.iter().fold(shared.kept.clone(), |kept, sheet| kept + &sheet.kept);
    inline_sheets(file, source, &markup::pieces(source), &Sheet { kept, ..shared.clone() }, inlined)
}

fn inline_sheets(file: &str, source: &str, pieces: &[Piece], shared: &Sheet, own: &[Sheet]) -> Result<String, Fault> {
    let mut css = shared.css();
    for own in own {
        css.push_str(&own.css());
    }
    let styles = if css.is_empty() { BTreeMap::new() } else { styles(file, source, pieces, &css)? };
    let mut written = String::with_capacity(source.len());
    let (mut done, mut number, mut is_kept_due) = (0, 0, !shared.kept.is_empty());
    for piece in pieces {
        match piece {
            Piece::Start(tag) => {
                if let Some(style) = styles.get(&number).filter(|style| !style.is_empty()) {
                    let (at, text) = change(file, source, tag, style)?;
                    written.push_str(&source[done..at]);
                    written.push_str(&text);
                    done = at;
                }
                number += 1;
            }
            Piece::End(range) if is_kept_due && source[range.clone()].eq_ignore_ascii_case("</head>") => {
                is_kept_due = false;
                written.push_str(&source[done..range.start]);
                // On one line, so that the lines of the source keep their numbers.
                let kept = shared.kept.split_whitespace().collect::<Vec<_>>().join(" ");
                write!(written, "<style>{{% raw %}}{kept}{{% endraw %}}</style>").expect("a String takes all");
                done = range.start;
            }
            _ => {}
        }
    }
    written.push_str(&source[done..]);
    Ok(written)
}

/// Whether `selector` matches anything in `source`.
pub(super) fn matches(source: &str, selector: &str) -> bool {
    let pieces = markup::pieces(source);
    styles("", source, &pieces, &Sheet::only(selector).css()).is_ok_and(|styles| !styles.is_empty())
}

/// The style sheets in `source` that can be read: those without Jinja.
fn own_sheets(file: &str, source: &str, pieces: &[Piece]) -> Result<Vec<Sheet>, Fault> {
    let texts = pieces.windows(2).filter_map(|pair| match pair {
        [Piece::Start(tag), Piece::Text(text)] if source[tag.name.clone()].eq_ignore_ascii_case("style") => Some(text.clone()),
        _ => None,
    });
    let plain = texts.filter(|text| !has_jinja(&source[text.clone()]) && text.len() <= SHEET_LIMIT);
    plain.map(|text| Sheet::parsed_at(file, markup::line(source, text.start), &source[text])).collect()
}

/// The declarations for each tag that has some, by its number.
fn styles(file: &str, source: &str, pieces: &[Piece], css: &str) -> Result<BTreeMap<usize, String>, Fault> {
    let tags: Vec<&StartTag> = pieces.iter().filter_map(|piece| if let Piece::Start(tag) = piece { Some(tag) } else { None }).collect();
    if tags.len() > TAGS_LIMIT {
        return Err(Fault::new(file, format!("has more than {TAGS_LIMIT} tags"), "a mail this large is not read: shorten it"));
    }
    let mut skeleton = String::with_capacity(source.len() * 2);
    let mut number = 0;
    for piece in pieces {
        match piece {
            Piece::Start(tag) => {
                number_tag(&mut skeleton, source, tag, number);
                number += 1;
            }
            Piece::End(range) => skeleton.push_str(&source[range.clone()]),
            _ => {}
        }
    }
    let inliner = CSSInliner::new(InlineOptions {
        inline_style_tags: false,
        load_remote_stylesheets: false,
        keep_at_rules: false,
        extra_css: Some(css.to_owned().into()),
        ..InlineOptions::default()
    });
    let run = |skeleton: &str| match inliner.inline(skeleton) {
        Ok(html) => Ok(read_styles(&html)),
        Err(_) => Err(Fault::new(file, "its style sheet cannot be read", "look for a selector or a value that is no CSS")),
    };
    let mut found = run(&skeleton)?;
    // What a parser drops outside of its place, such as a row without its table, is asked for by itself.
    let dropped: Vec<usize> = (0..tags.len()).filter(|number| !found.contains_key(number)).collect();
    if !dropped.is_empty() {
        let mut skeleton = String::new();
        for number in dropped {
            let name = source[tags[number].name.clone()].to_ascii_lowercase();
            let around = match name.as_str() {
                "td" | "th" => "<table><tbody><tr>",
                "tr" => "<table><tbody>",
                "tbody" | "thead" | "tfoot" | "caption" | "colgroup" => "<table>",
                _ => continue,
            };
            skeleton.push_str(around);
            number_tag(&mut skeleton, source, tags[number], number);
            skeleton.push_str("</table>");
        }
        found.extend(run(&skeleton)?);
    }
    found.retain(|_, style| !style.is_empty());
    Ok(found)
}

/// Writes `tag` as the skeleton has it: its number, and the attributes that are always there and have no style.
fn number_tag(skeleton: &mut String, source: &str, tag: &StartTag, number: usize) {
    let name = &source[tag.name.clone()];
    write!(skeleton, "<{name} {NUMBER}=\"{number}\"").expect("a String takes all");
    for attribute in tag.attributes.iter().filter(|attribute| !attribute.is_conditional) {
        let name = &source[attribute.name.clone()];
        if name.eq_ignore_ascii_case("style") || name.contains(['"', '\'', '<']) {
            continue;
        }
        let value = attribute.value.clone().map_or_else(String::new, |value| always(&source[value]));
        write!(skeleton, " {name}=\"{}\"", value.replace('"', "&quot;")).expect("a String takes all");
    }
    skeleton.push_str(if tag.is_closed { "/>" } else { ">" });
}

/// What a value is whatever the data: without what stands in an `{% if %}`, and with a word for each `{{ }}`.
fn always(value: &str) -> String {
    let (mut written, mut at, mut level) = (String::with_capacity(value.len()), 0, 0);
    while let Some(character) = value[at..].chars().next() {
        if let Some(length) = markup::jinja(&value[at..]) {
            let tag = &value[at..at + length];
            level += markup::depth(tag);
            if level == 0 && tag.starts_with("{{") {
                written.push_str("tarishi-data");
            }
            at += length;
            continue;
        }
        if level == 0 {
            written.push(character);
        }
        at += character.len_utf8();
    }
    written
}

/// The numbers in what the inliner made, with the style of each.
fn read_styles(html: &str) -> BTreeMap<usize, String> {
    let mut found = BTreeMap::new();
    for piece in markup::pieces(html) {
        let Piece::Start(tag) = piece else { continue };
        let value = |wanted: &str| {
            let attribute = tag.attributes.iter().find(|attribute| &html[attribute.name.clone()] == wanted)?;
            Some(&html[attribute.value.clone()?])
        };
        if let Some(number) = value(NUMBER).and_then(|number| number.parse().ok()) {
            // A parser repeats some tags where they overlap: the first is the one that was written.
            found.entry(number).or_insert_with(|| value("style").unwrap_or_default().trim().to_owned());
        }
    }
    found
}

/// Where in the source something comes in, and what. What the tag says itself stays behind it, and so wins.
fn change(file: &str, source: &str, tag: &StartTag, style: &str) -> Result<(usize, String), Fault> {
    let style = style.trim_end_matches(';');
    let own: Option<&Attribute> = tag.attributes.iter().find(|attribute| source[attribute.name.clone()].eq_ignore_ascii_case("style"));
    Ok(match own {
        Some(own) if own.is_conditional => {
            let hint = "put the condition inside the value: style=\"{% if a %}color: red{% endif %}\"";
            let problem = "a `style` inside {% if %} cannot be joined with what the style sheet says of this tag";
            return Err(Fault::new(file, problem, hint).at(Some(markup::line(source, own.name.start))));
        }
        Some(Attribute { value: Some(value), quote: Some(quote), .. }) => {
            let style = if *quote == '\'' { style.replace('\'', "&#39;") } else { style.to_owned() };
            (value.start, if source[value.clone()].trim().is_empty() { style } else { format!("{style}; ") })
        }
        Some(own) => {
            let hint = "write it with quotes: style=\"…\"";
            let problem = "a `style` without quotes cannot be joined with what the style sheet says of this tag";
            return Err(Fault::new(file, problem, hint).at(Some(markup::line(source, own.name.start))));
        }
        None => (tag.name.end, format!(" style=\"{style}\"")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(css: &str, source: &str, expected: Result<&str, &str>) {
        let sheet = Sheet::read("_layouts/email.css", css);
        let inlined = sheet.and_then(|sheet| inline("t/email.html", source, &sheet)).map_err(|fault| fault.to_string());
        assert_eq!(inlined.as_deref().map_err(String::as_str), expected, "{source}");
    }

    #[test]
    fn rules_come_into_tags_and_nothing_else_changes() {
        const CSS: &str = ".a { color: red }";
        check(CSS, "<p class=\"a\">{{ x }}</p>", Ok("<p style=\"color: red\" class=\"a\">{{ x }}</p>"));
        check(CSS, "<P CLASS=a>&nbsp;é<br/>", Ok("<P style=\"color: red\" CLASS=a>&nbsp;é<br/>"));
        check(CSS, "<p class='a' style='margin: 0'>", Ok("<p class='a' style='color: red; margin: 0'>"));
        check(CSS, "<p class=a style=\"\">", Ok("<p class=a style=\"color: red\">"));
        check("p { font: 1em 'Segoe UI' }", "<p style='margin: 0'>", Ok("<p style='font: 1em &#39;Segoe UI&#39;; margin: 0'>"));
        check("", "{% extends \"_layouts/email.html\" %}<p", Ok("{% extends \"_layouts/email.html\" %}<p"));
    }

    #[test]
    fn jinja_is_left_where_it_is() {
        const CSS: &str = ".a { color: red } .b { margin: 0 }";
        check(
            CSS,
            "{% if a < b %}<div class=\"a\">{% else %}<div class=\"b\">{% endif %}{{ c }}</div>",
            Ok(
                "{% if a < b %}<div style=\"color: red\" class=\"a\">{% else %}<div style=\"margin: 0\" class=\"b\">{% endif %}{{ c }}</div>",
            ),
        );
        check(
            CSS,
            "<table>{% for i in l %}<tr class=a><td class=\"b {{ i }}\">{{ i }}</td></tr>{% endfor %}</table>",
            Ok("<table>{% for i in l %}<tr style=\"color: red\" class=a><td style=\"margin: 0\" class=\"b {{ i }}\">{{ i }}</td></tr>\
                {% endfor %}</table>"),
        );
        check(
            CSS,
            "{% macro row(x) %}<tr class=\"a\"><td class=\"b\">{{ x }}</td></tr>{% endmacro %}",
            Ok(
                "{% macro row(x) %}<tr style=\"color: red\" class=\"a\"><td style=\"margin: 0\" class=\"b\">{{ x }}</td></tr>{% endmacro %}",
            ),
        );
        check(CSS, "{# <p class=a> #}{% raw %}<p class=a>{% endraw %}", Ok("{# <p class=a> #}{% raw %}<p class=a>{% endraw %}"));
        check(CSS, "<script>'<p class=a>' {{ x }}</script>", Ok("<script>'<p class=a>' {{ x }}</script>"));
        check("[href] { color: red }", "<a href='{{ \"/>\" | link }}'>", Ok("<a style=\"color: red\" href='{{ \"/>\" | link }}'>"));
        check(CSS, "<p class=\"{% if x > 1 %}a{% endif %}\">", Ok("<p class=\"{% if x > 1 %}a{% endif %}\">"));
        check(CSS, "<p {% if x %}class=\"a\"{% endif %}>", Ok("<p {% if x %}class=\"a\"{% endif %}>"));
        check(
            CSS,
            "<p class=a style=\"{% if x %}top: 0{% endif %}\">",
            Ok("<p class=a style=\"color: red; {% if x %}top: 0{% endif %}\">"),
        );
        check(
            CSS,
            "\n<p class=a {% if x %}style=\"top: 0\"{% endif %}>",
            Err("t/email.html:2: a `style` inside {% if %} cannot be joined with what the style sheet says of this tag"),
        );
        check(
            CSS,
            "<p class=a style=top>",
            Err("t/email.html:1: a `style` without quotes cannot be joined with what the style sheet says of this tag"),
        );
    }

    #[test]
    fn what_attributes_cannot_hold_stays_in_a_sheet() {
        check(
            "a:hover, a { color: red }\n@media print {#x{top:0}}",
            "<html><head></head><a>{{ x }}</a>",
            Ok("<html><head><style>{% raw %}a:hover { color: red } @media print {#x{top:0}}{% endraw %}</style></head>\
                <a style=\"color: red\">{{ x }}</a>"),
        );
        let own = "<head><style>/* { */ .a { color: red }\n@media print { .a { color: blue !important } }</style></head><p class=a>";
        check("", own, Ok(&own.replace("<p ", "<p style=\"color: red\" ")));
        let with_jinja = "<style>.a { color: {{ x }} }</style><p class=a>";
        check("", with_jinja, Ok(with_jinja));
    }

    #[test]
    fn bad_sheets_are_told() {
        check("\n.a { color: {{ x }} }", "", Err("_layouts/email.css:2: has Jinja in it, and a style sheet is no template"));
        check("</style>", "", Err("_layouts/email.css:1: has `</style` in it"));
        check("a { top: 0 }\nb { top: 0", "", Err("_layouts/email.css:2: has a rule without its braces"));
        check("a", "", Err("_layouts/email.css:1: has a rule without its braces"));
        check(&"a{top:0}".repeat(10_000), "", Err("_layouts/email.css: is a style sheet larger than 51200 bytes"));
        check("a{}", &"<a>".repeat(5_001), Err("t/email.html: has more than 5000 tags"));
        check("", "<p>\n<style>\na { top: 0 }\nb { top: 0 </style>", Err("t/email.html:4: has a rule without its braces"));
        check("", "<style><!-- a { top: 0 } --></style><a>", Ok("<style><!-- a { top: 0 } --></style><a style=\"top: 0\">"));
    }
}
