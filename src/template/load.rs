//! From the files to compiled and tried templates, collecting every problem on the way.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::Map;

use super::{
    Limits, RenderError, Template, Templates,
    context::RESERVED,
    engine::{Engine, LAYOUTS},
    error::Fault,
    link::Links,
    locale::LocaleDefaults,
    mjml::{self, Rendered},
    part::{self, Part, SAMPLE, SETTINGS},
    scan::{self, Folder, Sources},
    schema::{SCHEMA, Schema},
    settings::Settings,
    style::{self, Sheet},
};
use crate::model::{
    Address, Channel, Delivery, DeliveryId, DeliveryKey, Envelope, Locale, Priority, Problem, TemplateName, TimeZone, Timestamp, UserId,
};

/// When samples are tried: 2026-01-15, 10:30 UTC. Loading reads no clock, so that it comes out the same every time.
pub(super) const SAMPLE_NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

pub(super) fn load(path: &Path, link_base_url: &str, locale_defaults: LocaleDefaults, limits: Limits) -> Result<Templates, Vec<Problem>> {
    let mut problems = Vec::new();
    let links = Links::new(link_base_url).or_else(|| {
        problems.push(Problem::new("link_base_url", "is not a web address", "write it like https://app.example.com"));
        // Any will do, to find what else is wrong.
        Links::new("https://app.example.com")
    });
    let links = links.expect("the stand-in is a web address");
    let sources = scan::scan(path, &mut problems);
    let mut engine = Engine::new(&links, limits);
    let before = problems.len();
    let sheet = compile(&mut engine, &sources, &mut problems);
    let compiled = problems.len() == before;
    let mut templates = BTreeMap::new();
    for (name, folder) in sources.templates {
        if let Some(template) = build(&name, &folder, &mut problems) {
            templates.insert(name, template);
        }
    }
    let templates = Templates { engine, links, limits, locale_defaults, sheet, by_name: templates };
    if compiled {
        // A file that does not compile is missing to others: trying them would tell of nothing else.
        try_all(&templates, &mut problems);
    }
    if problems.is_empty() { Ok(templates) } else { Err(problems) }
}

/// Notes `problem` unless it is known: pieces that many parts share fail in each of them.
fn note(problems: &mut Vec<Problem>, problem: Problem) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

/// Compiles every part under its path, and every shared piece under the path it has in each language. Returns the shared style sheet.
fn compile(engine: &mut Engine, sources: &Sources, problems: &mut Vec<Problem>) -> Sheet {
    let mut shared = Shared::read(&sources.layouts, problems);
    let mut locales: Vec<&String> = sources.layouts.keys().flatten().collect();
    locales.extend(sources.templates.values().flat_map(|folder| folder.parts.keys().flatten()));
    locales.sort();
    locales.dedup();
    for piece in sources.layouts.get(&None).into_iter().flat_map(BTreeMap::keys) {
        if part::extension(piece) == "mjml" || piece == style::SHEET {
            continue;
        }
        for locale in [None].into_iter().chain(locales.iter().map(|locale| Some(locale.as_str()))) {
            let name = match locale {
                Some(locale) => format!("{LAYOUTS}/{locale}/{piece}"),
                None => format!("{LAYOUTS}/{piece}"),
            };
            let Some((file, source)) = shared.find(locale, piece) else { continue };
            if let Err(fault) = shared.add(engine, locale, &name, &file, source) {
                note(problems, fault.into_problem());
            }
        }
    }
    for (template, folder) in &sources.templates {
        for (locale, parts) in &folder.parts {
            for (part, source) in parts {
                let path = match locale {
                    Some(locale) => format!("{template}/{locale}"),
                    None => template.to_string(),
                };
                let name = format!("{path}/{}", part.file_name());
                let is_mjml = *part == Part::Html && folder.mjml.contains(locale);
                let file = if is_mjml { format!("{path}/{}", part::MJML) } else { name.clone() };
                if let Err(fault) = shared.add(engine, locale.as_deref(), &name, &file, source) {
                    note(problems, fault.into_problem());
                }
            }
        }
    }
    shared.sheets.remove(&None).unwrap_or_default()
}

/// What templates share, in every language.
struct Shared<'a> {
    layouts: &'a BTreeMap<Option<String>, BTreeMap<String, String>>,
    /// The style sheets by the language they are for.
    sheets: BTreeMap<Option<String>, Sheet>,
}

impl<'a> Shared<'a> {
    fn read(layouts: &'a BTreeMap<Option<String>, BTreeMap<String, String>>, problems: &mut Vec<Problem>) -> Self {
        let mut sheets = BTreeMap::new();
        for (locale, pieces) in layouts {
            let Some(css) = pieces.get(style::SHEET) else { continue };
            let file = match locale {
                Some(locale) => format!("{LAYOUTS}/{locale}/{}", style::SHEET),
                None => format!("{LAYOUTS}/{}", style::SHEET),
            };
            match Sheet::read(&file, css) {
                Ok(sheet) => drop(sheets.insert(locale.clone(), sheet)),
                Err(fault) => note(problems, fault.into_problem()),
            }
        }
        Self { layouts, sheets }
    }

    /// The nearest language for which `has` gives something, down to everyone's.
    fn nearest<T>(locale: Option<&str>, has: impl Fn(&Option<String>) -> Option<T>) -> Option<T> {
        let locale: Option<Locale> = locale.map(|tag| tag.parse().expect("the scan lets only languages through"));
        let levels = locale.iter().flat_map(Locale::fallbacks).map(|tag| Some(tag.to_owned())).chain([None]);
        levels.into_iter().find_map(|level| has(&level))
    }

    /// A piece in the nearest language that has it, with its file.
    fn find(&self, locale: Option<&str>, piece: &str) -> Option<(String, &'a str)> {
        Self::nearest(locale, |level| {
            let source = self.layouts.get(level)?.get(piece)?;
            let file = match level {
                Some(tag) => format!("{LAYOUTS}/{tag}/{piece}"),
                None => format!("{LAYOUTS}/{piece}"),
            };
            Some((file, source.as_str()))
        })
    }

    /// Compiles `source` under `name`, after what its kind needs: MJML becomes HTML, HTML takes in its style sheets.
    fn add(&self, engine: &mut Engine, locale: Option<&str>, name: &str, file: &str, source: &str) -> Result<(), Fault> {
        let none = Sheet::default();
        let sheet = Self::nearest(locale, |level| self.sheets.get(level)).unwrap_or(&none);
        if part::extension(file) == "mjml" {
            let Rendered { html, origins, inlined } = mjml::to_html(file, source, &|piece| self.find(locale, piece))?;
            return engine.add_made(name, file, &style::inline_made(file, &html, sheet, &inlined)?, origins);
        }
        if part::extension(file) == "html" {
            return engine.add(name, file, &style::inline(file, source, sheet)?);
        }
        engine.add(name, file, source)
    }
}

/// Resolves one template's parts, or notes what it lacks.
fn build(name: &TemplateName, folder: &Folder, problems: &mut Vec<Problem>) -> Option<Template> {
    let files: BTreeMap<Option<String>, Vec<Part>> =
        folder.parts.iter().map(|(locale, parts)| (locale.clone(), parts.keys().copied().collect())).collect();
    let parts = part::resolve(name.as_str(), None, &files);
    let channels = parts.channels();
    lacking(name, &files, problems);
    let locales = files.keys().flatten().map(|tag| {
        let locale: Locale = tag.parse().expect("the scan lets only languages through");
        (tag.clone(), part::resolve(name.as_str(), Some(&locale), &files))
    });
    let locales = locales.collect();
    let settings = Settings::read(name, folder.settings.as_deref(), problems);
    if settings.unsubscribe.is_some() && !channels.contains(Channel::Email) {
        let file = format!("{name}/{SETTINGS}");
        problems.push(Problem::new(
            file,
            "`unsubscribe` is for templates with a mail",
            "remove it, or add email.subject.txt and email.html",
        ));
    }
    let sample = sample(name, folder.sample.as_deref(), problems)?;
    let schema = folder.schema.as_deref().and_then(|text| {
        let file = format!("{name}/{SCHEMA}");
        let schema = Schema::read(&file, text).map_err(|problem| problems.push(problem)).ok()?;
        for problem in schema.check("$", &sample) {
            let told = format!("breaks {file}: {} {}", problem.path, problem.problem);
            problems.push(Problem::new(format!("{name}/{SAMPLE}"), told, "change the sample or the schema"));
        }
        Some(schema)
    });
    Some(Template { sample, schema, channels, unsubscribe: settings.unsubscribe, parts, locales })
}

/// Notes the parts that have to be there for everyone, since some language or part counts on them.
fn lacking(name: &TemplateName, files: &BTreeMap<Option<String>, Vec<Part>>, problems: &mut Vec<Problem>) {
    const WHY: &str = "a language without its own part uses this one";
    let everyones = files.get(&None).map(Vec::as_slice).unwrap_or_default();
    let found = |channel| files.values().flatten().any(|part| part.channel() == channel);
    let mut lacks = |part: Part, problem: &str, hint: &str| {
        problems.push(Problem::new(format!("{name}/{}", part.file_name()), problem, hint));
    };
    if files.values().all(Vec::is_empty) {
        problems.push(Problem::new(name.as_str(), "has no part", "add one, such as sms.txt or email.subject.txt with email.html"));
        return;
    }
    let has = |part| everyones.contains(&part);
    if found(Channel::Email) && !has(Part::Subject) {
        lacks(Part::Subject, "is missing", WHY);
    }
    if found(Channel::Email) && !has(Part::Html) && !has(Part::Text) {
        lacks(Part::Html, "is missing, and so is email.txt", WHY);
    }
    for part in [Part::Sms, Part::Push, Part::Live] {
        if found(part.channel()) && !has(part) {
            lacks(part, "is missing", WHY);
        }
    }
}

fn sample(name: &TemplateName, text: Option<&str>, problems: &mut Vec<Problem>) -> Option<Map<String, serde_json::Value>> {
    const HINT: &str = "it holds the data object that the template is tried with: { \"name\": \"Asha\" }";
    let file = format!("{name}/{SAMPLE}");
    let Some(text) = text else {
        // Unreadable is told already.
        let told = problems.iter().any(|problem| problem.path == file);
        if !told {
            problems.push(Problem::new(file, "is missing", HINT));
        }
        return None;
    };
    let sample: Map<String, serde_json::Value> = match serde_json::from_str(text) {
        Ok(sample) => sample,
        Err(error) => {
            problems.push(Problem::new(format!("{file}:{}", error.line()), "is not a JSON object", HINT));
            return None;
        }
    };
    for hidden in RESERVED.into_iter().filter(|reserved| sample.contains_key(*reserved)) {
        problems.push(Problem::new(&file, format!("`{hidden}` is a name of ours and hides the data's"), "give it another name"));
    }
    Some(sample)
}

/// Renders every template with its sample, as every delivery would be.
fn try_all(templates: &Templates, problems: &mut Vec<Problem>) {
    for (name, template) in &templates.by_name {
        let job = sample_job(name, &template.sample);
        for locale in [None].into_iter().chain(template.locales.keys().map(Some)) {
            let locale = locale.map(|tag| tag.parse().expect("the scan lets only languages through"));
            for channel in template.channels.iter() {
                if let Err(error) = templates.render(&sample_delivery(&job, channel, locale.clone()), SAMPLE_NOW) {
                    note(problems, problem(name, error));
                }
            }
        }
    }
}

fn problem(name: &TemplateName, error: RenderError) -> Problem {
    match error {
        RenderError::Failed(fault) => fault.into_problem(),
        other => Problem::new(name.as_str(), other.to_string(), ""),
    }
}

/// The job that tries the template `name`.
pub(super) fn sample_job(name: &TemplateName, sample: &Map<String, serde_json::Value>) -> Arc<Envelope> {
    Arc::new(Envelope {
        id: "sample".parse().expect("a job id"),
        template: Some(name.clone()),
        content: None,
        data: sample.clone(),
        collapse_key: None,
        metadata: BTreeMap::new(),
        traceparent: None,
    })
}

pub(super) fn sample_delivery(job: &Arc<Envelope>, channel: Channel, locale: Option<Locale>) -> Delivery {
    let address = match channel {
        Channel::Email => Address::Email("asha@example.com".parse().expect("an email address")),
        Channel::Sms => Address::Phone("+255712345678".parse().expect("a phone number")),
        Channel::Push => Address::PushToken("sample".parse().expect("a push token")),
        Channel::Live => Address::Inbox,
    };
    Delivery {
        key: DeliveryKey { job: 0, ordinal: 0 },
        id: DeliveryId::new(DeliveryId::job_key(&job.id), 0),
        job: Arc::clone(job),
        channel,
        priority: Priority::Normal,
        user_id: Some("42".parse::<UserId>().expect("a user id")),
        address,
        locale,
        timezone: Some("Africa/Dar_es_Salaam".parse::<TimeZone>().expect("a time zone")),
        attempts: 0,
        pinned: None,
        due_at: Timestamp::default(),
        expires_at: Timestamp::FAR_FUTURE,
    }
}
