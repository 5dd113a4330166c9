//! The parts a template is made of, by their file names, and how each language gets its own.

use std::collections::BTreeMap;

use crate::model::{Channel, ChannelSet, Locale};

/// The file with the data for checks and previews.
pub(super) const SAMPLE: &str = "sample.json";
/// The file with what is to be known of a template beside its parts.
pub(super) const SETTINGS: &str = "template.toml";

/// The mail as MJML, in place of `email.html`.
pub(super) const MJML: &str = "email.mjml";

/// What follows the last dot of a file's name.
pub(super) fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// One file of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Subject,
    Html,
    Text,
    Sms,
    Push,
    Live,
}

impl Part {
    pub const ALL: [Self; 6] = [Self::Subject, Self::Html, Self::Text, Self::Sms, Self::Push, Self::Live];

    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Subject => "email.subject.txt",
            Self::Html => "email.html",
            Self::Text => "email.txt",
            Self::Sms => "sms.txt",
            Self::Push => "push.json",
            Self::Live => "live.json",
        }
    }

    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.file_name() == name)
    }

    pub const fn channel(self) -> Channel {
        match self {
            Self::Subject | Self::Html | Self::Text => Channel::Email,
            Self::Sms => Channel::Sms,
            Self::Push => Channel::Push,
            Self::Live => Channel::Live,
        }
    }
}

/// Which files one language uses, each already fallen back to the nearest wider language that has it. A file is known by its name
/// from the templates folder on (`new_message/sw/email.html`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts([Option<String>; Part::ALL.len()]);

impl Parts {
    pub fn get(&self, part: Part) -> Option<&str> {
        self.0[part as usize].as_deref()
    }

    /// The channels with everything they need.
    pub fn channels(&self) -> ChannelSet {
        let has = |part| self.get(part).is_some();
        Channel::ALL
            .into_iter()
            .filter(|channel| match channel {
                Channel::Email => has(Part::Subject) && (has(Part::Html) || has(Part::Text)),
                Channel::Sms => has(Part::Sms),
                Channel::Push => has(Part::Push),
                Channel::Live => has(Part::Live),
            })
            .collect()
    }
}

/// A language's parts, its own first and then those of each wider language, down to the parts for everyone (`None`).
///
/// An `email.txt` of a wider language than the `email.html` is left out, so that one mail does not speak two languages: the text is
/// then made from the HTML.
pub(super) fn resolve(folder: &str, locale: Option<&Locale>, files: &BTreeMap<Option<String>, Vec<Part>>) -> Parts {
    let levels: Vec<Option<String>> =
        locale.into_iter().flat_map(Locale::fallbacks).map(|tag| Some(tag.to_owned())).chain([None]).collect();
    let level_of = |part| levels.iter().position(|level| files.get(level).is_some_and(|parts| parts.contains(&part)));
    let html = level_of(Part::Html);
    let mut resolved = Parts::default();
    for part in Part::ALL {
        let Some(level) = level_of(part) else { continue };
        if part == Part::Text && html.is_some_and(|html| html < level) {
            continue;
        }
        resolved.0[part as usize] = Some(match &levels[level] {
            Some(tag) => format!("{folder}/{tag}/{}", part.file_name()),
            None => format!("{folder}/{}", part.file_name()),
        });
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(locale: Option<&str>, part: Part, expected: Option<&str>) {
        let files = BTreeMap::from([
            (None, vec![Part::Subject, Part::Html, Part::Text, Part::Sms]),
            (Some("sw".to_owned()), vec![Part::Subject, Part::Html]),
            (Some("sw-TZ".to_owned()), vec![Part::Sms, Part::Text]),
        ]);
        let locale = locale.map(|tag| tag.parse().expect("valid"));
        assert_eq!(resolve("t", locale.as_ref(), &files).get(part), expected, "{locale:?} {part:?}");
    }

    #[test]
    fn each_part_falls_back_by_itself() {
        check(None, Part::Sms, Some("t/sms.txt"));
        check(Some("fr"), Part::Subject, Some("t/email.subject.txt"));
        check(Some("sw"), Part::Subject, Some("t/sw/email.subject.txt"));
        check(Some("sw"), Part::Sms, Some("t/sms.txt"));
        check(Some("sw-TZ"), Part::Sms, Some("t/sw-TZ/sms.txt"));
        check(Some("sw-TZ"), Part::Html, Some("t/sw/email.html"));
        check(Some("sw-TZ"), Part::Push, None);
    }

    #[test]
    fn one_mail_does_not_speak_two_languages() {
        check(None, Part::Text, Some("t/email.txt"));
        check(Some("sw"), Part::Text, None);
        check(Some("sw-TZ"), Part::Text, Some("t/sw-TZ/email.txt"));
    }
}
