//! Templates: a delivery in, what its provider is to carry out.
//!
//! All files are read, compiled and tried with their sample at start; after that nothing here does I/O, and rendering is a pure
//! function of the delivery. It does not decide who gets what, and it never treats data as template source.
//!
//! A template is a folder with a file per part (`email.subject.txt`, `email.html` or `email.mjml`, `email.txt`, `sms.txt`, `push.json`,
//! `live.json`), its `sample.json`, if need be its `schema.json` (what the data has to be) and its `template.toml`
//! (`unsubscribe = "messages"`: the list its mails belong to), and a folder per language with parts of its own. A language without a
//! part uses that of the next wider one (`sw-TZ`, `sw`, then the parts for everyone). `_layouts/` holds what templates share, extended,
//! included or imported by its name from the templates folder on; a piece in `_layouts/sw/` stands in for its namesake in parts that
//! lie in a `sw/` folder.
//!
//! From file to compiled source: MJML becomes HTML (`mjml`), then the style sheets come into the tags (`style`), both with the Jinja of
//! the source left as it is (`markup` knows where it lies). Both happen at load and never for a message.
//!
//! Names in a template are the members of the job's data, and these, which hide members of the same name: `user_id`, `locale`,
//! `timezone`, `link_base_url`, `job_id`, `template`. They are always defined; what is not known of a delivery is the empty text. Any
//! other undefined name is an error. Values are escaped for HTML in `.html` and come out as JSON values in `.json`.

mod content;
mod context;
mod engine;
mod error;
mod explain;
#[cfg(test)]
mod hostile;
mod html;
mod link;
mod lint;
mod load;
mod locale;
mod markup;
mod measure;
mod mjml;
mod mjml_places;
mod output;
mod part;
mod preview;
mod scan;
mod schema;
mod settings;
mod shelf;
mod style;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use minijinja::Value;
use serde_json::Map;

pub(crate) use self::context::convert;
use self::{
    content::render_content,
    context::Context,
    engine::Engine,
    link::Links,
    part::{Part, Parts},
    schema::Schema,
};
pub use self::{
    error::{Fault, RenderError},
    lint::Finding,
    locale::LocaleDefaults,
    measure::Measure,
    preview::Preview,
    shelf::{Refused, Shelf, ShelfStatus},
};
use crate::model::{
    Address, Body, Channel, ChannelSet, Delivery, Email, EmailAddress, ListName, Locale, PhoneNumber, Problem, PushTarget, Sms,
    TemplateName, Timestamp,
};

/// How much one part may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Work, in the engine's measure: 1 for an instruction, and 1 for each 64 bytes made.
    pub fuel: u64,
    /// Length of the output, in bytes.
    pub output: usize,
    /// Segments one SMS may have.
    pub sms_segments: usize,
    /// Title, body and data of one push notification, in bytes.
    pub push_bytes: usize,
    /// Size of a mail's HTML from which programs cut it, in bytes. Nothing is refused for it.
    pub email_clip_bytes: usize,
}

/// Every template, compiled. Immutable, so that one serves all lanes.
#[derive(Debug)]
pub struct Templates {
    engine: Engine,
    links: Links,
    locale_defaults: LocaleDefaults,
    limits: Limits,
    /// The shared style sheet, for everyone.
    sheet: style::Sheet,
    by_name: BTreeMap<TemplateName, Template>,
}

/// What one template is, for lists and previews.
#[derive(Clone, Debug)]
pub struct TemplateInfo<'a> {
    pub name: &'a TemplateName,
    pub channels: ChannelSet,
    /// The list its mails belong to, where people may refuse them.
    pub unsubscribe: Option<&'a str>,
    /// The languages with a folder of their own, beside the parts for everyone.
    pub locales: Vec<&'a str>,
    /// The data it is tried with at start.
    pub sample: &'a Map<String, serde_json::Value>,
}

#[derive(Debug)]
struct Template {
    sample: Map<String, serde_json::Value>,
    schema: Option<Schema>,
    channels: ChannelSet,
    unsubscribe: Option<ListName>,
    /// For everyone whose language has no folder.
    parts: Parts,
    locales: BTreeMap<String, Parts>,
}

/// Where a delivery goes, checked to be what its channel needs.
#[derive(Clone, Debug)]
enum Target {
    Email(EmailAddress),
    Sms(PhoneNumber),
    Push(PushTarget),
    Live,
}

impl Templates {
    /// Reads every template below `path`, and tries each with its `sample.json` on every channel and in every language it has.
    ///
    /// # Errors
    /// Everything that is wrong, at once; paths start at the templates folder (`new_message/email.html:12`).
    pub fn load(path: &Path, link_base_url: &str, locale_defaults: LocaleDefaults, limits: Limits) -> Result<Self, Vec<Problem>> {
        load::load(path, link_base_url, locale_defaults, limits)
    }

    /// The channels `name` has parts for; none when there is no such template.
    pub fn channels(&self, name: &TemplateName) -> Option<ChannelSet> {
        self.by_name.get(name).map(|template| template.channels)
    }

    /// The list that what `name` says belongs to; none when people cannot refuse it.
    pub fn unsubscribe_list(&self, name: &TemplateName) -> Option<Arc<str>> {
        Some(self.by_name.get(name)?.unsubscribe.as_ref()?.as_shared().clone())
    }

    /// What keeps a job at `root` (`$`) from naming the template `name` with `data`: there is none, or its schema says otherwise.
    pub fn check(&self, name: &TemplateName, root: &str, data: &Map<String, serde_json::Value>) -> Vec<Problem> {
        let Some(template) = self.by_name.get(name) else {
            let hint = match self.nearest(name) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "see `tarishi template list`".to_owned(),
            };
            return vec![Problem::new(format!("{root}.template"), format!("no template is called `{name}`"), hint)];
        };
        template.schema.as_ref().map_or_else(Vec::new, |schema| schema.check(&format!("{root}.data"), data))
    }

    /// The template that was probably meant by `name`, for hints.
    pub fn nearest(&self, name: &TemplateName) -> Option<&str> {
        error::nearest(name.as_str(), self.by_name.keys().map(TemplateName::as_str))
    }

    /// Every template, by name.
    pub fn list(&self) -> impl Iterator<Item = TemplateInfo<'_>> {
        self.by_name.iter().map(|(name, template)| TemplateInfo {
            name,
            channels: template.channels,
            unsubscribe: template.unsubscribe.as_ref().map(ListName::as_str),
            locales: template.locales.keys().map(String::as_str).collect(),
            sample: &template.sample,
        })
    }

    /// What `delivery` says on its channel and in its language, `now` being the moment that its relative times count from.
    ///
    /// # Errors
    /// Why it cannot be said, in words without data. Trying again changes nothing.
    pub fn render(&self, delivery: &Delivery, now: Timestamp) -> Result<Body, RenderError> {
        let target = Target::of(delivery)?;
        match (&delivery.job.template, &delivery.job.content) {
            (Some(name), _) => self.render_template(name, delivery, now, target),
            (None, Some(content)) => {
                let body = render_content(content, target, &self.links)?;
                self.within_budget("content.body", &body)?;
                Ok(body)
            }
            (None, None) => Err(RenderError::NothingToRender),
        }
    }

    /// The files that `name` is rendered from on one channel and in one language, and [`Self::bare`] knows them by.
    pub fn files<'a>(&'a self, name: &TemplateName, locale: Option<&Locale>, channel: Channel) -> impl Iterator<Item = &'a str> {
        let parts = self.by_name.get(name).map(|template| template.parts(locale));
        let of_channel = Part::ALL.into_iter().filter(move |part| part.channel() == channel);
        of_channel.filter_map(move |part| parts?.get(part))
    }

    /// The engine with the same sources and filters, without limits: what a bench compares rendering with.
    pub fn bare(&self) -> minijinja::Environment<'static> {
        self.engine.bare()
    }

    /// What the filters of [`Self::bare`] look for in their context, and the name it has there.
    pub fn reader(&self, delivery: &Delivery, now: Timestamp) -> (&'static str, Value) {
        let reader = self.locale_defaults.reader(delivery.locale.as_ref(), delivery.timezone, now);
        (locale::READER, Value::from_object(reader))
    }

    /// What is worth a look in the templates `names`, or in all of them when it is empty. Nothing of it keeps a message from leaving.
    pub fn lint(&self, names: &[TemplateName]) -> Vec<Finding> {
        lint::lint(self, names)
    }

    /// What `body` takes on its channel, beside what it may take.
    pub fn measure(&self, body: &Body) -> Measure {
        Measure::of(body, &self.limits)
    }

    fn within_budget(&self, file: &str, body: &Body) -> Result<(), Fault> {
        match self.measure(body).excess() {
            Some((problem, hint)) => Err(Fault::new(file, problem, hint)),
            None => Ok(()),
        }
    }

    fn render_template(&self, name: &TemplateName, delivery: &Delivery, now: Timestamp, target: Target) -> Result<Body, RenderError> {
        let Some(template) = self.by_name.get(name) else {
            let hint = match self.nearest(name) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "add its folder to the templates and load them again".to_owned(),
            };
            return Err(RenderError::TemplateMissing { name: name.clone(), hint });
        };
        if !template.channels.contains(delivery.channel) {
            return Err(RenderError::PartMissing { template: name.clone(), channel: delivery.channel });
        }
        let parts = template.parts(delivery.locale.as_ref());
        let context = Value::from_object(Context::new(delivery, self.links.base(), &self.locale_defaults, now));
        let missing = || RenderError::PartMissing { template: name.clone(), channel: delivery.channel };
        let part = |part| parts.get(part).ok_or_else(missing);
        let body = match target {
            Target::Email(to) => Body::Email(self.email(to, parts, &context)?),
            Target::Sms(to) => {
                let file = part(Part::Sms)?;
                Body::Sms(Sms { to, text: self.engine.render(file, &context, |text| output::sms(file, text))? })
            }
            Target::Push(target) => {
                let file = part(Part::Push)?;
                let mentions = |word: &str| self.engine.mentions(file, word);
                Body::Push(self.engine.render(file, &context, |json| output::push(file, json, mentions, target))?)
            }
            Target::Live => {
                let file = part(Part::Live)?;
                let mentions = |word: &str| self.engine.mentions(file, word);
                Body::Live(self.engine.render(file, &context, |json| output::live(file, json, mentions, name.as_str()))?)
            }
        };
        let file = Part::ALL.into_iter().filter(|part| part.channel() == delivery.channel).find_map(|part| parts.get(part));
        self.within_budget(file.unwrap_or_default(), &body)?;
        Ok(body)
    }

    fn email(&self, to: EmailAddress, parts: &Parts, context: &Value) -> Result<Email, Fault> {
        let body = |part| match parts.get(part) {
            Some(file) => self.engine.render(file, context, |text| output::not_empty(file, text)).map(Some),
            None => Ok(None),
        };
        let subject = parts.get(Part::Subject).unwrap_or_default();
        let subject = self.engine.render(subject, context, |text| output::subject(subject, text))?;
        let html = body(Part::Html)?;
        let text = body(Part::Text)?.or_else(|| html.as_deref().map(html::to_text));
        Ok(Email { to, subject, html, text, unsubscribe_url: None })
    }
}

impl Template {
    fn parts(&self, locale: Option<&Locale>) -> &Parts {
        locale.into_iter().flat_map(Locale::fallbacks).find_map(|tag| self.locales.get(tag)).unwrap_or(&self.parts)
    }
}

impl Target {
    fn of(delivery: &Delivery) -> Result<Self, RenderError> {
        Ok(match (delivery.channel, &delivery.address) {
            (Channel::Email, Address::Email(to)) => Self::Email(to.clone()),
            (Channel::Sms, Address::Phone(to)) => Self::Sms(to.clone()),
            (Channel::Push, Address::PushToken(token)) => Self::Push(PushTarget::Token(token.clone())),
            (Channel::Push, Address::PushTopic(topic)) => Self::Push(PushTarget::Topic(topic.to_string())),
            (Channel::Push, Address::PushCondition(condition)) => Self::Push(PushTarget::Condition(condition.to_string())),
            (Channel::Live, Address::Inbox | Address::Topic(_)) => Self::Live,
            (channel, _) => return Err(RenderError::AddressMismatch { channel }),
        })
    }
}
