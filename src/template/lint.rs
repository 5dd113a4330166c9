//! What is wrong with templates that can be loaded: nothing here keeps a message from leaving, and all of it is worth a look.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    Measure, Template, Templates,
    context::RESERVED,
    engine::LAYOUTS,
    load,
    markup::{self, Piece},
    part::{self, Part},
    style,
};
use crate::model::{Channel, Locale, Problem, TemplateName};

/// One thing worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The template, or `_layouts`.
    pub template: String,
    /// The file with its line (`new_message/email.html:12`), what is wrong, and what to do.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Finds what is worth a look in the templates `names`, or in all of them and in what they share when `names` is empty.
pub(super) fn lint(templates: &Templates, names: &[TemplateName]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, template) in &templates.by_name {
        if names.is_empty() || names.contains(name) {
            let mut lint = Lint { templates, name, template, problems: Vec::new() };
            lint.translations();
            lint.data();
            lint.links();
            lint.budgets();
            findings.extend(lint.problems.into_iter().map(|problem| Finding { template: name.to_string(), problem }));
        }
    }
    if names.is_empty() {
        findings.extend(shared(templates).into_iter().map(|problem| Finding { template: LAYOUTS.to_owned(), problem }));
    }
    findings
}

struct Lint<'a> {
    templates: &'a Templates,
    name: &'a TemplateName,
    template: &'a Template,
    problems: Vec<Problem>,
}

impl Lint<'_> {
    fn warn(&mut self, path: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) {
        let problem = Problem::new(path, problem, hint);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Every file of the template, once.
    fn files(&self) -> BTreeSet<String> {
        let parts = [&self.template.parts].into_iter().chain(self.template.locales.values());
        parts.flat_map(|parts| Part::ALL.into_iter().filter_map(|part| parts.get(part))).map(str::to_owned).collect()
    }

    /// Parts that a language with a folder of its own has only in everyone's language.
    fn translations(&mut self) {
        let template = self.template;
        for (locale, parts) in &template.locales {
            for part in Part::ALL {
                let Some(everyones) = template.parts.get(part) else { continue };
                if parts.get(part) == Some(everyones) {
                    let path = format!("{}/{locale}/{}", self.name, part.file_name());
                    let hint = format!("translate {everyones}, or remove it there");
                    self.warn(path, format!("is missing: readers of `{locale}` get the part for everyone"), hint);
                }
            }
        }
    }

    /// Members of the sample that nothing uses, and names used that the schema does not know.
    fn data(&mut self) {
        let engine = &self.templates.engine;
        let files = self.files();
        let layouts: Vec<&str> = engine.names().filter(|name| name.starts_with(LAYOUTS)).collect();
        let names = |files: &mut dyn Iterator<Item = &str>| files.flat_map(|file| engine.undeclared(file)).collect::<BTreeSet<String>>();
        let by_parts = names(&mut files.iter().map(String::as_str));
        let by_layouts = names(&mut layouts.iter().copied());
        let template = self.template;
        for name in template.sample.keys().filter(|name| !by_parts.contains(*name) && !by_layouts.contains(*name)) {
            let hint = "use it in a part, or remove it from the sample and from what producers send";
            self.warn(format!("{}/sample.json", self.name), format!("`{name}` is used by no part"), hint);
        }
        let Some(schema) = &template.schema else { return };
        for name in by_parts {
            let is_ours = RESERVED.contains(&name.as_str()) || layouts.iter().any(|layout| engine.defines(layout, &name));
            if !is_ours && !schema.declared().contains(&name) {
                let file = files.iter().find(|file| engine.undeclared(file).contains(&name)).map_or("", String::as_str);
                let hint = format!("add `{name}` to the `properties` of {}/schema.json", self.name);
                self.warn(file, format!("uses `{name}`, which the schema does not declare"), hint);
            }
        }
    }

    fn links(&mut self) {
        for file in self.files() {
            for problem in dead_links(self.templates, &file) {
                self.warn(problem.path, problem.problem, problem.hint);
            }
        }
    }

    /// What the sample takes on each channel, in each language.
    fn budgets(&mut self) {
        let template = self.template;
        let job = load::sample_job(self.name, &template.sample);
        for locale in [None].into_iter().chain(template.locales.keys().map(Some)) {
            let locale: Option<Locale> = locale.and_then(|tag| tag.parse().ok());
            let parts = template.parts(locale.as_ref());
            for channel in template.channels.iter() {
                // What cannot be rendered kept the templates from being loaded.
                let Ok(body) = self.templates.render(&load::sample_delivery(&job, channel, locale.clone()), load::SAMPLE_NOW) else {
                    continue;
                };
                let file = match channel {
                    Channel::Email => parts.get(Part::Html),
                    Channel::Sms => parts.get(Part::Sms),
                    Channel::Push | Channel::Live => None,
                };
                let file = file.unwrap_or(self.name.as_str()).to_owned();
                match self.templates.measure(&body) {
                    Measure::Sms { segments, encoding, units, .. } if segments > 1 => {
                        let encoding = match encoding {
                            crate::model::segments::Encoding::Gsm7 => "GSM-7",
                            crate::model::segments::Encoding::Ucs2 => "UCS-2, since some character is not in the GSM alphabet",
                        };
                        let problem = format!("takes {segments} segments with its sample ({units} units of {encoding})");
                        self.warn(file, problem, "each segment is charged: shorten it, or accept it");
                    }
                    Measure::Email { html_bytes, clips: true, .. } => {
                        let problem = format!("has {html_bytes} bytes of HTML with its sample: Gmail shows the beginning only");
                        self.warn(file, problem, "shorten it: templates.email_clip_warning is where Gmail cuts");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What is worth a look in the shared pieces.
fn shared(templates: &Templates) -> Vec<Problem> {
    let engine = &templates.engine;
    let mut problems: Vec<Problem> = Vec::new();
    for name in engine.names().filter(|name| name.starts_with(LAYOUTS) && engine.is_own(name)) {
        problems.extend(dead_links(templates, name));
    }
    let sources: Vec<String> =
        engine.names().filter(|name| part::extension(name) == "html").filter_map(|name| engine.source(name)).collect();
    for selector in templates.sheet.selectors() {
        if !sources.iter().any(|source| style::matches(source, selector)) {
            let problem = format!("`{}` matches nothing in any file", crate::model::cut(selector, 80));
            let hint = "a selector matches inside one file only: remove it, or write it as one class that the tag itself has";
            problems.push(Problem::new(format!("{LAYOUTS}/{}", style::SHEET), problem, hint));
        }
    }
    problems
}

/// The `href` and `src` of `file` that lead nowhere.
fn dead_links(templates: &Templates, file: &str) -> Vec<Problem> {
    let Some(source) = templates.engine.source(file).filter(|_| part::extension(file) == "html") else { return Vec::new() };
    let source = source.as_str();
    let mut problems = Vec::new();
    for piece in markup::pieces(source) {
        let Piece::Start(tag) = piece else { continue };
        for attribute in &tag.attributes {
            let name = &source[attribute.name.clone()];
            if !name.eq_ignore_ascii_case("href") && !name.eq_ignore_ascii_case("src") {
                continue;
            }
            let value = attribute.value.clone().map_or("", |value| source[value].trim());
            if let Some((problem, hint)) = dead(value) {
                let place = templates.engine.place(file, markup::line(source, attribute.name.start));
                problems.push(Problem::new(place, format!("`{name}` {problem}"), hint));
            }
        }
    }
    problems
}

/// Why a link leads nowhere, and what to do.
fn dead(value: &str) -> Option<(&'static str, &'static str)> {
    const LINK: &str = "write it through the filter: href=\"{{ \"/inbox\" | link }}\"";
    let lower = value.to_ascii_lowercase();
    let is_jinja = |text: &str| text.starts_with("{{") || text.starts_with("{%");
    if value.is_empty() {
        Some(("is empty", LINK))
    } else if value == "#" {
        Some(("leads nowhere", LINK))
    } else if lower.starts_with("javascript:") {
        Some(("is a script, which no mail program runs", LINK))
    } else if lower.starts_with("http:") {
        Some(("is not encrypted", "write https:"))
    } else if is_jinja(value) || value.starts_with('#') {
        None
    } else {
        let scheme = ["https:", "mailto:", "tel:", "cid:", "data:"].iter().any(|scheme| lower.starts_with(scheme));
        (!scheme).then_some(("is relative, and a mail has no page that it is relative to", LINK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        assert_eq!(dead(value).map(|(problem, _)| problem), expected, "{value:?}");
    }

    #[test]
    fn links_that_lead_nowhere() {
        check("", Some("is empty"));
        check("#", Some("leads nowhere"));
        check("#top", None);
        check("JavaScript:alert(1)", Some("is a script, which no mail program runs"));
        check("http://example.com", Some("is not encrypted"));
        check("/inbox/{{ id }}", Some("is relative, and a mail has no page that it is relative to"));
        check("{{ \"/inbox\" | link }}", None);
        check("https://example.com/{{ id }}", None);
        check("mailto:a@example.com", None);
    }
}
