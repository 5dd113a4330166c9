//! The pages behind an unsubscribe link: one question, one answer. No script, nothing from elsewhere.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1.5rem;color:#1d2733;background:#fff}\
    h1{font-size:1.5rem}p.sw{color:#5a6675}button{font:inherit;padding:.6rem 1.4rem;border:0;border-radius:.4rem;background:#b3261e;color:#fff;cursor:pointer}\
    button:focus-visible{outline:3px solid #1d2733}@media(prefers-color-scheme:dark){body{color:#e6ebf0;background:#14191f}p.sw{color:#9aa6b2}}";

/// Asks; asking changes nothing. `address` is masked.
pub(super) fn question(address: &str, list: &str) -> Response {
    let (address, list) = (escaped(address), escaped(list));
    page(
        StatusCode::OK,
        "Unsubscribe",
        &format!(
            "<h1>Unsubscribe?</h1>\n<p>{address} will get no more mail of the kind \u{201c}{list}\u{201d}.</p>\n\
             <p class=\"sw\" lang=\"sw\">{address} haitapata tena barua pepe za aina hii.</p>\n\
             <form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
             <button type=\"submit\">Unsubscribe \u{b7} <span lang=\"sw\">Jiondoe</span></button></form>"
        ),
    )
}

pub(super) fn done(address: &str, list: &str) -> Response {
    let (address, list) = (escaped(address), escaped(list));
    page(
        StatusCode::OK,
        "Unsubscribed",
        &format!(
            "<h1>Done.</h1>\n<p>{address} gets no more mail of the kind \u{201c}{list}\u{201d}.</p>\n\
             <p class=\"sw\" lang=\"sw\">Imekamilika: {address} haitapata tena barua pepe za aina hii.</p>"
        ),
    )
}

pub(super) fn unknown_link() -> Response {
    page(
        StatusCode::NOT_FOUND,
        "No such link",
        "<h1>This link is not complete.</h1>\n<p>Open it from the mail again, or copy all of it.</p>\n\
         <p class=\"sw\" lang=\"sw\">Kiungo hiki si kamili. Kifungue tena kutoka kwenye barua pepe.</p>",
    )
}

pub(super) fn not_confirmed() -> Response {
    page(
        StatusCode::BAD_REQUEST,
        "Nothing was changed",
        "<h1>Nothing was changed.</h1>\n<p>Open the link from the mail again and press the button.</p>\n\
         <p class=\"sw\" lang=\"sw\">Hakuna kilichobadilika. Fungua kiungo tena na ubonyeze kitufe.</p>",
    )
}

pub(super) fn try_again(status: StatusCode) -> Response {
    let mut response = page(
        status,
        "Please try again",
        "<h1>Please try again in a minute.</h1>\n<p>Nothing was changed yet.</p>\n\
         <p class=\"sw\" lang=\"sw\">Tafadhali jaribu tena baada ya dakika moja.</p>",
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    }
    response
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"robots\" content=\"noindex\"><title>{title}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    );
    let mut response = (status, Html(html)).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        // The address of this page is a key: it is told to nobody and kept nowhere.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
