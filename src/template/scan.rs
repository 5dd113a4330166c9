//! Reads the templates folder: which files there are, and what does not belong there. The only part of this module that does I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    engine::LAYOUTS,
    error::nearest_hint,
    part::{MJML, Part, SAMPLE, SETTINGS},
    schema::SCHEMA,
};
use crate::model::{Locale, Problem, TemplateName};

/// Largest file read, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
/// Most files read.
const FILES_LIMIT: usize = 10_000;
/// The one file that may lie beside the template folders.
const README: &str = "README.md";
const LAYOUT_EXTENSIONS: [&str; 5] = [".html", ".txt", ".json", ".css", ".mjml"];

/// Everything read, by language; `None` is for everyone.
#[derive(Default)]
pub(super) struct Sources {
    pub templates: BTreeMap<TemplateName, Folder>,
    /// The shared pieces by file name.
    pub layouts: BTreeMap<Option<String>, BTreeMap<String, String>>,
}

/// One template's files.
#[derive(Default)]
pub(super) struct Folder {
    pub sample: Option<String>,
    pub settings: Option<String>,
    pub schema: Option<String>,
    /// The languages whose HTML is written in MJML.
    pub mjml: BTreeSet<Option<String>>,
    pub parts: BTreeMap<Option<String>, BTreeMap<Part, String>>,
}

/// Reads every template and shared piece below `root`.
pub(super) fn scan(root: &Path, problems: &mut Vec<Problem>) -> Sources {
    let mut sources = Sources::default();
    let root = match root.canonicalize() {
        Ok(canonical) if canonical.is_dir() => canonical,
        Ok(_) => {
            problems.push(Problem::new(root.display().to_string(), "is not a folder", "templates.path names the folder of templates"));
            return sources;
        }
        Err(error) => {
            let problem = format!("the templates folder cannot be opened: {}", error.kind());
            problems.push(Problem::new(root.display().to_string(), problem, "set templates.path to the folder of templates"));
            return sources;
        }
    };
    let mut scanner = Scanner { root, problems, files: 0 };
    for entry in scanner.list("") {
        if entry.name == LAYOUTS && entry.is_folder {
            scanner.layouts(&mut sources);
        } else if !entry.is_folder {
            if entry.name != README {
                scanner.problem(&entry.path, "is not a folder", "a template is a folder of its parts, such as new_message/email.html");
            }
        } else if let Ok(name) = entry.name.parse::<TemplateName>() {
            let folder = scanner.template(&entry.path);
            sources.templates.insert(name, folder);
        } else {
            let hint = if entry.name.starts_with('_') {
                "shared pieces lie in _layouts"
            } else {
                "a template's name has lower-case letters, digits, _ and -, such as new_message"
            };
            scanner.problem(&entry.path, "is not a template's name", hint);
        }
    }
    sources
}

struct Entry {
    name: String,
    /// From the templates folder on, with `/` between.
    path: String,
    is_folder: bool,
}

struct Scanner<'a> {
    /// Canonical.
    root: PathBuf,
    problems: &'a mut Vec<Problem>,
    files: usize,
}

impl Scanner<'_> {
    fn problem(&mut self, path: &str, problem: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(path, problem, hint));
    }

    fn template(&mut self, folder: &str) -> Folder {
        let mut read = Folder::default();
        let known: Vec<&str> = Part::ALL.into_iter().map(Part::file_name).chain([MJML, SAMPLE, SCHEMA, SETTINGS]).collect();
        let (folders, mut files) = self.sorted_out(folder);
        files.retain(|file| {
            let place = match file.name.as_str() {
                SAMPLE => &mut read.sample,
                SETTINGS => &mut read.settings,
                SCHEMA => &mut read.schema,
                _ => return true,
            };
            *place = self.read(&file.path);
            false
        });
        let (parts, is_mjml) = self.parts(files, &known);
        read.mjml.extend(is_mjml.then_some(None));
        read.parts.insert(None, parts);
        for (locale, files) in self.locales(folders) {
            let (parts, is_mjml) = self.parts(files, &known[..=Part::ALL.len()]);
            read.mjml.extend(is_mjml.then(|| Some(locale.clone())));
            read.parts.insert(Some(locale), parts);
        }
        read
    }

    /// The parts among `files`, and whether the HTML is MJML.
    fn parts(&mut self, files: Vec<Entry>, known: &[&str]) -> (BTreeMap<Part, String>, bool) {
        let mut parts = BTreeMap::new();
        let mut is_mjml = false;
        for file in files {
            let part = if file.name == MJML { Some(Part::Html) } else { Part::from_file_name(&file.name) };
            let Some(part) = part else {
                self.problem(&file.path, "is no part of a template", nearest_hint(&file.name, known));
                continue;
            };
            if let Some(text) = self.read(&file.path) {
                is_mjml |= file.name == MJML;
                if parts.insert(part, text).is_some() {
                    self.problem(&file.path, "lies beside email.html, and is the same part", "keep one of the two");
                }
            }
        }
        (parts, is_mjml)
    }

    fn layouts(&mut self, sources: &mut Sources) {
        let (folders, files) = self.sorted_out(LAYOUTS);
        let pieces = self.pieces(files);
        for (locale, files) in self.locales(folders) {
            let overrides = self.pieces(files);
            for name in overrides.keys().filter(|name| !pieces.contains_key(*name)) {
                let known: Vec<&str> = pieces.keys().map(String::as_str).collect();
                let problem = format!("stands in for {LAYOUTS}/{name}, which is missing");
                self.problem(&format!("{LAYOUTS}/{locale}/{name}"), problem, nearest_hint(name, &known));
            }
            sources.layouts.insert(Some(locale), overrides);
        }
        sources.layouts.insert(None, pieces);
    }

    fn pieces(&mut self, files: Vec<Entry>) -> BTreeMap<String, String> {
        let mut pieces = BTreeMap::new();
        for file in files {
            if !LAYOUT_EXTENSIONS.iter().any(|extension| file.name.ends_with(extension)) {
                self.problem(&file.path, "is no shared piece", "shared pieces end in .html, .mjml, .css, .txt or .json");
            } else if let Some(text) = self.read(&file.path) {
                pieces.insert(file.name, text);
            }
        }
        pieces
    }

    /// The languages among `folders`, and the files of each.
    fn locales(&mut self, folders: Vec<Entry>) -> Vec<(String, Vec<Entry>)> {
        let mut locales = Vec::new();
        for folder in folders {
            let Some(locale) = self.locale(&folder) else { continue };
            let (nested, files) = self.sorted_out(&folder.path);
            for folder in nested {
                self.problem(&folder.path, "is a folder in a language's folder", "languages lie side by side: sw and sw-TZ");
            }
            locales.push((locale, files));
        }
        locales
    }

    fn locale(&mut self, entry: &Entry) -> Option<String> {
        match entry.name.parse::<Locale>() {
            Ok(locale) if locale.as_str() == entry.name => Some(entry.name.clone()),
            Ok(locale) => {
                self.problem(&entry.path, "is not how this language is written", format!("rename it to {locale}"));
                None
            }
            Err(_) => {
                self.problem(&entry.path, "is not a language", "a folder in here is a BCP 47 language tag, such as sw or sw-TZ");
                None
            }
        }
    }

    /// The folders and the files in `folder`.
    fn sorted_out(&mut self, folder: &str) -> (Vec<Entry>, Vec<Entry>) {
        self.list(folder).into_iter().partition(|entry| entry.is_folder)
    }

    /// What lies in `folder`, by name, without hidden files. What leads out of the templates folder is a problem and not listed.
    fn list(&mut self, folder: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        let listed = fs::read_dir(self.root.join(folder)).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.problem(folder, format!("cannot be listed: {}", error.kind()), "");
                return entries;
            }
        };
        for listed in listed {
            let name = listed.file_name();
            let shown = name.to_string_lossy();
            if shown.starts_with('.') {
                continue;
            }
            let path = if folder.is_empty() { shown.to_string() } else { format!("{folder}/{shown}") };
            let real = listed.path().canonicalize().and_then(|real| Ok((real.metadata()?, real)));
            match real {
                _ if name.to_str().is_none() => self.problem(&path, "has a name that is not UTF-8", "rename it"),
                Err(error) => self.problem(&path, format!("cannot be opened: {}", error.kind()), ""),
                Ok((_, real)) if !real.starts_with(&self.root) => {
                    self.problem(&path, "leads out of the templates folder", "put the file itself here");
                }
                Ok((metadata, _)) if metadata.is_dir() || metadata.is_file() => {
                    entries.push(Entry { name: shown.into_owned(), path, is_folder: metadata.is_dir() });
                }
                Ok(_) => self.problem(&path, "is neither a file nor a folder", "remove it"),
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries
    }

    fn read(&mut self, path: &str) -> Option<String> {
        self.files += 1;
        if self.files > FILES_LIMIT {
            if self.files == FILES_LIMIT + 1 {
                self.problem(path, format!("is one file more than the {FILES_LIMIT} that are read"), "remove some");
            }
            return None;
        }
        let file = self.root.join(path);
        let read = match file.metadata() {
            Ok(metadata) if metadata.len() > FILE_LIMIT => {
                self.problem(path, format!("is larger than {FILE_LIMIT} bytes"), "shorten it");
                return None;
            }
            Ok(_) => fs::read(file),
            Err(error) => Err(error),
        };
        match read.map(String::from_utf8) {
            Ok(Ok(text)) => Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
            Ok(Err(_)) => {
                self.problem(path, "is not UTF-8", "save it as UTF-8");
                None
            }
            Err(error) => {
                self.problem(path, format!("cannot be read: {}", error.kind()), "");
                None
            }
        }
    }
}
