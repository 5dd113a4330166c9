//! The links a message may carry: `https`, `http`, `mailto` and `tel`, nothing that runs in a browser or opens a file.

use std::sync::Arc;

use minijinja::{AutoEscape, Error, ErrorKind, State, Value};
use reqwest::Url;
use thiserror::Error as ThisError;

use super::html;

const SCHEMES: [&str; 4] = ["https", "http", "mailto", "tel"];

/// Why something is no link. Never holds the link, which comes from the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub(super) enum LinkError {
    #[error("a link is not defined")]
    Undefined,
    #[error("a link is not text")]
    NotText,
    #[error("a link is empty")]
    Empty,
    #[error("a link is not a URL")]
    Malformed,
    #[error("a link's path has `.` or `..` in it")]
    Climbs,
    #[error("a link must be https, http, mailto or tel")]
    Scheme,
    #[error("a link has a name before its host, as in https://bank.example@evil.example")]
    Disguised,
}

/// Where links that name no site lead: the front end.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// Without a final slash.
    base: Arc<str>,
}

impl Links {
    /// None when `base` is no absolute web address.
    pub fn new(base: &str) -> Option<Self> {
        let url = Url::parse(base).ok()?;
        let usable = matches!(url.scheme(), "https" | "http") && url.query().is_none() && url.fragment().is_none();
        usable.then(|| Self { base: url.as_str().trim_end_matches('/').into() })
    }

    pub fn base(&self) -> &Arc<str> {
        &self.base
    }

    /// The address `target` leads to: itself when it names a scheme, else a path below the base, which it cannot leave.
    pub fn resolve(&self, target: &str) -> Result<String, LinkError> {
        let target = target.trim();
        if target.is_empty() {
            return Err(LinkError::Empty);
        }
        if target.chars().any(char::is_control) {
            return Err(LinkError::Malformed);
        }
        let url = if has_scheme(target) {
            Url::parse(target)
        } else if climbs(target) {
            return Err(LinkError::Climbs);
        } else {
            Url::parse(&format!("{}/{}", self.base, target.trim_start_matches(['/', '\\'])))
        };
        let url = url.map_err(|_| LinkError::Malformed)?;
        if !SCHEMES.contains(&url.scheme()) {
            return Err(LinkError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(LinkError::Disguised);
        }
        Ok(url.into())
    }

    /// The `link` filter. In HTML its result is escaped here, without the entity that the engine makes of every slash.
    pub fn filter(&self) -> impl Fn(&State<'_, '_>, &Value) -> Result<Value, Error> + Send + Sync + 'static {
        let links = self.clone();
        move |state, target| {
            let unusable = if target.is_undefined() { LinkError::Undefined } else { LinkError::NotText };
            let resolved = target.as_str().ok_or(unusable).and_then(|target| links.resolve(target));
            let url = resolved.map_err(|error| Error::new(ErrorKind::InvalidOperation, "no link").with_source(error))?;
            Ok(if matches!(state.auto_escape(), AutoEscape::Html) { Value::from_safe_string(html::escape(&url)) } else { url.into() })
        }
    }
}

/// Whether `target` starts with a scheme (RFC 3986, section 3.1).
fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

/// Whether the path goes up, as parts of it made from data might to reach another page.
fn climbs(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '\\']).any(|segment| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, expected: Result<&str, LinkError>) {
        let links = Links::new("https://app.example.com/base/").expect("valid");
        assert_eq!(links.resolve(target).as_deref(), expected.as_ref().copied(), "{target:?}");
    }

    #[test]
    fn links_stay_below_the_base_or_name_an_allowed_scheme() {
        check("/conversations/7", Ok("https://app.example.com/base/conversations/7"));
        check("conversations/7?page=2#last", Ok("https://app.example.com/base/conversations/7?page=2#last"));
        check("/", Ok("https://app.example.com/base/"));
        check("?q=a b", Ok("https://app.example.com/base/?q=a%20b"));
        check("https://example.org/a", Ok("https://example.org/a"));
        check("HTTP://EXAMPLE.org", Ok("http://example.org/"));
        check("mailto:asha@example.com", Ok("mailto:asha@example.com"));
        check("tel:+255712345678", Ok("tel:+255712345678"));
    }

    #[test]
    fn nothing_else_is_a_link() {
        check("javascript:alert(1)", Err(LinkError::Scheme));
        check(" JavaScript:alert(1)", Err(LinkError::Scheme));
        check("java\nscript:alert(1)", Err(LinkError::Malformed));
        check("data:text/html,<b>", Err(LinkError::Scheme));
        check("file:///etc/passwd", Err(LinkError::Scheme));
        check("https://bank.example@evil.example/x", Err(LinkError::Disguised));
        check("https://:secret@evil.example/x", Err(LinkError::Disguised));
        check("https://", Err(LinkError::Malformed));
        check("  ", Err(LinkError::Empty));
    }

    #[test]
    fn a_path_leads_nowhere_else() {
        check("//evil.example/x", Ok("https://app.example.com/base/evil.example/x"));
        check("\\\\evil.example", Ok("https://app.example.com/base/evil.example"));
        check("@evil.example", Ok("https://app.example.com/base/@evil.example"));
        for up in ["../x", "/a/../../x", "/a/%2E./x", "\\..\\x", "/.", "a/.%2e?b"] {
            check(up, Err(LinkError::Climbs));
        }
        check("/a/..b/...?c=../d#/../", Ok("https://app.example.com/base/a/..b/...?c=../d#/../"));
    }

    #[test]
    fn the_base_is_a_web_address() {
        for bad in ["", "app.example.com", "/app", "ftp://example.com", "https://example.com/?a=b"] {
            assert!(Links::new(bad).is_none(), "{bad:?}");
        }
    }
}
