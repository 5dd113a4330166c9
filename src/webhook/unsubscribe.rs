//! `/unsubscribe/{token}`: looking at it changes nothing, posting to it unsubscribes (RFC 8058).
//!
//! Mail clients and scanners follow links by themselves, so GET only asks. Whoever posts needs no login and no cookie: the link is enough.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{WebhookState, body, media_type, page, tell_suppressed};
use crate::{
    event::{Event, emit},
    model::{Channel, ListName, SuppressionKey, SuppressionReason, mask},
    store::{NewSuppression, SuppressedAddress},
};

/// Bytes of one request.
const BODY_LIMIT: usize = 16 << 10;
/// What RFC 8058, section 3.1, has in the body.
const NAME: &str = "List-Unsubscribe";
const VALUE: &str = "One-Click";
/// Where such an entry of the suppression list comes from.
const SOURCE: &str = "unsubscribe link";

pub(super) async fn ask(State(state): State<Arc<WebhookState>>, Path(token): Path<String>) -> Response {
    match state.links.open(&token) {
        Some((address, list)) => page::question(&mask(&address), &list),
        None => page::unknown_link(),
    }
}

pub(super) async fn unsubscribe(
    State(state): State<Arc<WebhookState>>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some((address, list)) = state.links.open(&token) else { return page::unknown_link() };
    let body = match body::read(body, BODY_LIMIT, &state.unsubscribe_room).await {
        Ok(body) => body,
        Err(refused) => return page::try_again(refused.status()),
    };
    if !is_one_click(&media_type(&headers), &body) {
        return page::not_confirmed();
    }
    let Ok(list_name) = list.parse::<ListName>() else { return page::unknown_link() };
    let key = SuppressionKey { channel: Channel::Email, address: address.clone(), list: Some(list_name.clone()) };
    let reason = SuppressionReason::Unsubscribed;
    let entry = NewSuppression { key, reason, source: SOURCE.to_owned(), expires_at: None };
    match state.store.suppress(vec![entry]).await {
        Ok(done) => {
            if done.added > 0 {
                let suppressed = SuppressedAddress { channel: Channel::Email, address: address.clone(), list: Some(list_name), reason };
                tell_suppressed(SOURCE, &suppressed);
            }
            page::done(&mask(&address), &list)
        }
        Err(error) => {
            emit(&Event::StoreFailed { doing: "unsubscribing somebody, who was asked to try again", error: &error.to_string() });
            page::try_again(StatusCode::SERVICE_UNAVAILABLE)
        }
    }
}

/// Whether the body says what RFC 8058 wants said, as a form or in parts.
fn is_one_click(media_type: &str, body: &[u8]) -> bool {
    if media_type == "multipart/form-data" {
        // One field of a known name with a known value: no need to take the parts apart.
        let text = String::from_utf8_lossy(body);
        let named = [format!("name=\"{NAME}\""), format!("name={NAME}")]
            .into_iter()
            .find_map(|name| text.split_once(&name).map(|(_, rest)| rest.to_owned()));
        let value = named.as_deref().and_then(|rest| rest.split_once("\r\n\r\n")).and_then(|(_, value)| value.lines().next());
        return value.is_some_and(|value| value.trim() == VALUE);
    }
    form_urlencoded::parse(body).any(|(name, value)| name == NAME && value == VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(media_type: &str, body: &str, expected: bool) {
        assert_eq!(is_one_click(media_type, body.as_bytes()), expected, "{media_type}: {body}");
    }

    #[test]
    fn one_click_is_said_in_two_ways() {
        const FORM: &str = "application/x-www-form-urlencoded";
        const PARTS: &str = "multipart/form-data";
        check(FORM, "List-Unsubscribe=One-Click", true);
        check(FORM, "a=b&List-Unsubscribe=One%2DClick", true);
        check("", "List-Unsubscribe=One-Click", true);
        check(FORM, "", false);
        check(FORM, "List-Unsubscribe=Two-Clicks", false);
        let part = |name: &str, value: &str| format!("--x\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n--x--\r\n");
        check(PARTS, &part("name=\"List-Unsubscribe\"", "One-Click"), true);
        check(PARTS, &part("name=List-Unsubscribe", "One-Click"), true);
        check(PARTS, &part("name=\"other\"", "One-Click"), false);
        check(PARTS, &part("name=\"List-Unsubscribe\"", "No"), false);
        check(PARTS, "", false);
    }
}
