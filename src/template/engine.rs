//! Compiling and running one part within its limits, and turning what the engine says into words without data.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    io::{self, Write},
};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};

use super::{
    Limits,
    error::Fault,
    explain,
    link::{LinkError, Links},
    locale::{self, FormatError},
    mjml::Origin,
};
use crate::model;

/// The folder of what templates share.
pub(super) const LAYOUTS: &str = "_layouts";
/// How deep includes and macros may call each other; an include counts for ten.
const RECURSION_LIMIT: usize = 200;
/// Longest tag quoted in a problem, in bytes.
const QUOTE_LIMIT: usize = 80;

/// Room kept from one rendering to the next, in bytes: nearly all mails fit.
const BUFFER_KEPT: usize = 64 * 1024;

thread_local! {
    /// What is written goes here first, so that no text grows from nothing.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Every compiled file, by name.
#[derive(Debug)]
pub(super) struct Engine {
    environment: Environment<'static>,
    limits: Limits,
    /// The files behind shared pieces that a language has only by falling back: `_layouts/sw/email.html` is `_layouts/email.html`.
    inherited: BTreeMap<String, String>,
    /// Where the lines of sources that were made from MJML come from.
    origins: BTreeMap<String, Vec<Origin>>,
}

impl Engine {
    pub fn new(links: &Links, limits: Limits) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name.rsplit('.').next() {
            Some("html") => AutoEscape::Html,
            Some("json") => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        // So that an error knows which name is undefined. It then holds values too: none is ever shown or kept, only what `explain` takes
        // from it.
        environment.set_debug(true);
        environment.set_fuel(Some(limits.fuel));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_path_join_callback(|name, parent| match localized(name, parent) {
            Some(localized) => localized.into(),
            None => name.into(),
        });
        environment.add_filter("link", links.filter());
        locale::add_filters(&mut environment);
        environment.remove_global("debug");
        // A line with nothing but a statement leaves no blank line behind.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the default ones"));
        Self { environment, limits, inherited: BTreeMap::new(), origins: BTreeMap::new() }
    }

    /// Compiles `source` under `name`; `file` is where it was read from.
    pub fn add(&mut self, name: &str, file: &str, source: &str) -> Result<(), Fault> {
        if name != file {
            self.inherited.insert(name.to_owned(), file.to_owned());
        }
        self.environment.add_template_owned(name.to_owned(), source.to_owned()).map_err(|error| {
            // A problem of the source alone: there is no data yet that it could tell.
            let problem = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            let (file, line) = self.written_in(name, file, error.line());
            Fault::new(&file, problem, explain::SYNTAX).at(line)
        })
    }

    /// The environment alone, without limits.
    pub fn bare(&self) -> Environment<'static> {
        let mut bare = self.environment.clone();
        bare.set_fuel(None);
        bare.set_debug(false);
        bare
    }

    /// Compiles what was made of MJML under `name`.
    pub fn add_made(&mut self, name: &str, file: &str, source: &str, origins: Vec<Origin>) -> Result<(), Fault> {
        self.origins.insert(name.to_owned(), origins);
        self.add(name, file, source)
    }

    /// The file and the line of it that line `line` of `name` was written in.
    fn written_in(&self, name: &str, file: &str, line: Option<usize>) -> (String, Option<usize>) {
        let Some(origins) = self.origins.get(name) else { return (file.to_owned(), line) };
        match line.and_then(|line| origins.iter().rev().find(|origin| origin.line <= line)) {
            Some(origin) => (origin.file.clone(), Some(origin.file_line)),
            None => (file.to_owned(), None),
        }
    }

    /// The names of everything compiled.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.environment.templates().map(|(name, _)| name)
    }

    pub fn source(&self, name: &str) -> Option<String> {
        self.environment.get_template(name).ok().map(|template| template.source().to_owned())
    }

    /// Whether `name` is a file of its own, and not one fallen back to.
    pub fn is_own(&self, name: &str) -> bool {
        !self.inherited.get(name).is_some_and(|file| file.starts_with(LAYOUTS))
    }

    /// Line `line` of `name` as people know it: `new_message/email.mjml:3`.
    pub fn place(&self, name: &str, line: usize) -> String {
        let file = self.inherited.get(name).map_or(name, String::as_str);
        match self.written_in(name, file, Some(line)) {
            (file, Some(line)) => format!("{file}:{line}"),
            (file, None) => file,
        }
    }

    /// The names that `name` takes from the data, as far as its own source tells.
    pub fn undeclared(&self, name: &str) -> BTreeSet<String> {
        let Ok(template) = self.environment.get_template(name) else { return BTreeSet::new() };
        let ours: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        template.undeclared_variables(false).into_iter().filter(|name| !ours.contains(name.as_str())).collect()
    }

    /// Whether `name` sets or imports `word`, for those that extend it.
    pub fn defines(&self, name: &str, word: &str) -> bool {
        let source = self.source(name).unwrap_or_default();
        ["as", "set", "import"].iter().any(|before| source.contains(&format!("{before} {word}")))
    }

    /// Whether the source of `name` holds `word`: then `word` is the operator's and not the data's.
    pub fn mentions(&self, name: &str, word: &str) -> bool {
        self.environment.get_template(name).is_ok_and(|template| template.source().contains(word))
    }

    /// Runs the file `name` with `context` as its root, and has `read` look at what it wrote.
    pub fn render<R>(&self, name: &str, context: &Value, read: impl FnOnce(&str) -> Result<R, Fault>) -> Result<R, Fault> {
        let template = self.environment.get_template(name).map_err(|error| self.explain(name, &error))?;
        let mut output = Limited { bytes: BUFFER.take(), limit: self.limits.output, exceeded: false };
        let rendered = template.render_captured_to(context, &mut output);
        let read = match rendered {
            Ok(_) => read(str::from_utf8(&output.bytes).expect("the engine writes whole strings")),
            Err(_) if output.exceeded => {
                let problem = format!("grew past the output limit of {} bytes", self.limits.output);
                Err(Fault::new(name, problem, "shorten it, or raise the limit"))
            }
            Err(error) => Err(self.explain(name, &error)),
        };
        output.bytes.clear();
        output.bytes.shrink_to(BUFFER_KEPT);
        BUFFER.set(output.bytes);
        read
    }

    fn explain(&self, name: &str, error: &Error) -> Fault {
        let mut innermost = error;
        let (mut link, mut format) = (None, None);
        while let Some(source) = innermost.source() {
            let Some(deeper) = source.downcast_ref::<Error>() else {
                link = source.downcast_ref::<LinkError>();
                format = source.downcast_ref::<FormatError>();
                break;
            };
            innermost = deeper;
        }
        let at = innermost.name().unwrap_or(name);
        let file = self.inherited.get(at).map_or(at, String::as_str);
        let tag = self.tag(at, innermost);
        let quoted = tag.as_ref().map_or_else(String::new, |tag| format!(" in `{}`", model::cut(tag, QUOTE_LIMIT)));
        let piped = |filter| explain::piped(tag.as_deref()?, filter);
        let (problem, hint) = match (innermost.kind(), link) {
            _ if let Some(name) = format.and_then(|format| piped(Some(format.undefined_in?))) => not_defined(name),
            _ if let Some(format) = format => (format!("{format}{quoted}"), format.hint.clone()),
            (_, Some(LinkError::Undefined)) if let Some(name) = piped(Some("link")) => not_defined(name),
            (_, Some(link)) => (format!("{link}{quoted}"), "the filter takes a path or a URL: {{ \"/inbox\" | link }}".to_owned()),
            (ErrorKind::UndefinedError, _) => match undefined_name(innermost).or_else(|| piped(None)) {
                Some(name) => not_defined(name),
                None => (format!("a name is not defined{quoted}"), "bring it in the data (and in sample.json)".to_owned()),
            },
            (ErrorKind::OutOfFuel, _) => (
                format!("took more work than the fuel limit of {} allows", self.limits.fuel),
                "loop over less, or raise the limit".to_owned(),
            ),
            (ErrorKind::TemplateNotFound, _) => (
                format!("there is no such file to extend, include or import{quoted}"),
                format!("name it from the templates folder on, such as {LAYOUTS}/email.html"),
            ),
            (kind, _) => {
                let functions: Vec<&str> = self.environment.globals().map(|(name, _)| name).collect();
                let (problem, hint) = explain::told(kind, innermost.detail(), &functions);
                (format!("{problem}{quoted}"), hint)
            }
        };
        let (written_in, at_line) = self.written_in(at, file, innermost.line());
        Fault::new(&written_in, problem, hint).at(at_line)
    }

    /// The failing tag as the template has it (`{{ name | int }}`), which is the operator's text and not the data.
    fn tag(&self, name: &str, error: &Error) -> Option<String> {
        let template = self.environment.get_template(name).ok()?;
        let range = error.range()?;
        let (before, after) = (template.source().get(..range.start)?, template.source().get(range.end..)?);
        let start = before.rfind("{{").max(before.rfind("{%"))?;
        let ends = [after.find("}}"), after.find("%}")];
        let end = range.end + ends.into_iter().flatten().min()? + "}}".len();
        Some(template.source()[start..end].split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// A shared piece in the language of the file that uses it: `_layouts/email.html` in `new_message/sw/email.html` is
/// `_layouts/sw/email.html`.
fn localized(name: &str, parent: &str) -> Option<String> {
    let piece = name.strip_prefix(LAYOUTS)?.strip_prefix('/')?;
    let mut folders = parent.split('/');
    let (Some(_), Some(locale), Some(_), None) = (folders.next(), folders.next(), folders.next(), folders.next()) else { return None };
    (!piece.contains('/')).then(|| format!("{LAYOUTS}/{locale}/{piece}"))
}

fn not_defined(name: &str) -> (String, String) {
    (
        format!("`{name}` is not defined"),
        format!("bring it in the data (and in sample.json), or guard it with {{% if {name} is defined %}}"),
    )
}

/// The name in `… is undefined`, which the engine makes from the template's code alone.
fn undefined_name(error: &Error) -> Option<&str> {
    let (before, _) = error.detail()?.rsplit_once("` is undefined")?;
    before.rsplit_once('`').map(|(_, name)| name)
}

/// Takes bytes up to a limit, and remembers when there were more.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
