//! A job's literal content on each channel. Nothing in it is ever a template.

use serde_json::Map;

use super::{RenderError, Target, error::Fault, html, link::Links, output};
use crate::model::{Body, Content, Email, Notification, Push, Sms, plain};

/// The kind of a live notification that no template names.
const KIND: &str = "generic";

/// `content` as one channel carries it.
pub(super) fn render_content(content: &Content, target: Target, links: &Links) -> Result<Body, RenderError> {
    let url = match &content.url {
        Some(url) => Some(links.resolve(url).map_err(|error| Fault::new("content.url", error.to_string(), ""))?),
        None => None,
    };
    let title = output::subject("content.title", &content.title)?;
    let body = output::not_empty("content.body", &plain(&content.body))?;
    Ok(match target {
        Target::Email(to) => {
            let html = content.html.clone().unwrap_or_else(|| match &url {
                Some(url) => {
                    let url = html::escape(url);
                    format!("{}<p><a href=\"{url}\">{url}</a></p>\n", html::paragraphs(&body))
                }
                None => html::paragraphs(&body),
            });
            let text = with_url(&body, "\n\n", url.as_deref());
            Body::Email(Email { to, subject: title, html: Some(html), text: Some(text), unsubscribe_url: None })
        }
        Target::Sms(to) => Body::Sms(Sms { to, text: output::sms("content.body", &with_url(&body, " ", url.as_deref()))? }),
        Target::Push(target) => {
            let data = url.into_iter().map(|url| ("url".to_owned(), url)).collect();
            Body::Push(Push { target, title, body, data, platform: Map::new() })
        }
        Target::Live => Body::Live(Notification {
            kind: KIND.to_owned(),
            title,
            message: body,
            severity: content.severity,
            related_object_id: None,
            related_object_type: None,
            data: url.into_iter().map(|url| ("url".to_owned(), url.into())).collect(),
        }),
    })
}

fn with_url(body: &str, between: &str, url: Option<&str>) -> String {
    match url {
        Some(url) => format!("{body}{between}{url}"),
        None => body.to_owned(),
    }
}
