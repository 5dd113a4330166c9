//! From a script's answer to what goes over the wire, in each provider's own form.
//!
//! Decisions and bytes only; connections are [`super::server`]'s.

use super::{
    exchange::{self, Reply},
    fcm,
    script::{Answer, ErrorCode, Fault, Provider, StatusAnswer},
    sendgrid, token, twilio,
};
use crate::model::Timestamp;

/// Where a client that follows redirects ends up, and is told that all is well: that is the trap.
pub(super) const REDIRECTED: &str = "/mock/redirected";
const BAD_GATEWAY: &str = "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>";
/// A 200 of something in between, such as the sign-in page of a network.
const PORTAL: &str = "<!doctype html><html><head><title>Welcome</title></head><body>Please accept our terms to go on.</body></html>";

/// What is done about a request.
#[derive(Debug)]
pub(super) struct Plan {
    /// Whether the message is taken, whatever the client learns of it.
    pub accepted: bool,
    pub way: Way,
}

#[derive(Debug)]
pub(super) enum Way {
    Whole(Reply),
    /// Half of the body, and the end of the connection.
    Cut(Reply),
    /// A byte every second.
    Drip(Reply),
    /// A failure with a body of ten megabytes.
    Huge,
    /// Nothing, until the client goes.
    Hang,
    /// The connection is reset.
    Reset,
}

impl Way {
    /// The status that the client sees.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Whole(reply) | Self::Cut(reply) | Self::Drip(reply) => Some(reply.status().as_u16()),
            Self::Huge => Some(500),
            Self::Hang | Self::Reset => None,
        }
    }
}

/// What `answer` makes of a good request, which would have been answered with `good`.
pub(super) fn plan(provider: Provider, answer: &Answer, to: &[String], good: Reply, now: Timestamp) -> Plan {
    let to = to.first().map_or("", String::as_str);
    let fault = match answer {
        Answer::Status(answer) => return by_status(provider, answer, to, good, now),
        Answer::Named(fault) => *fault,
    };
    let (accepted, way) = match fault {
        Fault::Ok => (true, Way::Whole(good)),
        Fault::ResetBefore => (false, Way::Reset),
        Fault::ResetAfter => (true, Way::Reset),
        Fault::ErrorAfter => (true, Way::Whole(failure(provider, 500, None, to))),
        Fault::Hang => (false, Way::Hang),
        Fault::Drip => (true, Way::Drip(good)),
        Fault::Cut => (true, Way::Cut(good)),
        Fault::Huge => (false, Way::Huge),
        Fault::Html => (false, Way::Whole(exchange::html(502, BAD_GATEWAY))),
        Fault::Nonsense => (false, Way::Whole(exchange::html(200, PORTAL))),
        Fault::Empty => (false, Way::Whole(exchange::empty(500))),
        Fault::Redirect => (false, Way::Whole(exchange::with_header(exchange::empty(302), "location", REDIRECTED))),
        told => (false, Way::Whole(refusal(provider, told, to))),
    };
    Plan { accepted, way }
}

/// The answers that say why.
fn refusal(provider: Provider, fault: Fault, to: &str) -> Reply {
    match fault {
        Fault::Unregistered => fcm::error(404, "NOT_FOUND", &format!("Requested entity was not found: {to}"), Some("UNREGISTERED")),
        Fault::SenderMismatch => fcm::error(403, "PERMISSION_DENIED", &format!("SenderId mismatch: {to}"), Some("SENDER_ID_MISMATCH")),
        Fault::ThirdPartyAuth => {
            fcm::error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", Some("THIRD_PARTY_AUTH_ERROR"))
        }
        Fault::Quota => failure(provider, 429, None, to),
        Fault::Unavailable => failure(provider, 503, None, to),
        Fault::OptedOut => twilio::error(400, 21610, "Attempt to send to unsubscribed recipient"),
        Fault::InvalidTo => {
            let (code, message) = twilio::invalid_to(to);
            twilio::error(400, code, &message)
        }
        Fault::QueueFull => twilio::error(429, 21611, "This 'From' number has exceeded the maximum number of queued messages"),
        Fault::Credits => sendgrid::error(401, None, "Maximum credits exceeded"),
        Fault::Unauthenticated | Fault::Auth => match provider {
            Provider::Sendgrid => sendgrid::bad_credentials(),
            Provider::Twilio => twilio::bad_credentials(),
            Provider::Fcm => fcm::bad_credentials(),
            Provider::Token => token::bad_credentials(),
        },
        _ => failure(provider, 500, None, to),
    }
}

fn by_status(provider: Provider, answer: &StatusAnswer, to: &str, good: Reply, now: Timestamp) -> Plan {
    let status = answer.status;
    let accepted = (200..300).contains(&status);
    let mut reply = match &answer.body {
        Some(body) if answer.html => exchange::html(status, body.clone()),
        Some(body) => exchange::of_type("application/json", status, body.clone()),
        None if answer.html => exchange::html(status, BAD_GATEWAY.replace("502 Bad Gateway", &status.to_string())),
        None if accepted => {
            let mut reply = good;
            *reply.status_mut() = exchange::empty(status).status();
            reply
        }
        None => failure(provider, status, answer.code.as_ref(), to),
    };
    if let Some(retry_after) = &answer.retry_after {
        reply = exchange::with_header(reply, "retry-after", retry_after);
    }
    if let Some(seconds) = answer.rate_limit_reset {
        let reset = now.as_millis() / 1000 + i64::from(seconds);
        reply = exchange::with_header(reply, "x-ratelimit-limit", "600");
        reply = exchange::with_header(reply, "x-ratelimit-remaining", "0");
        reply = exchange::with_header(reply, "x-ratelimit-reset", &reset.to_string());
    }
    Plan { accepted, way: Way::Whole(reply) }
}

/// A failure of this status, in the provider's words for it. `to`, where it is known, is among them: providers quote what they were sent,
/// and whoever keeps such answers has to take it out.
pub(super) fn failure(provider: Provider, status: u16, code: Option<&ErrorCode>, to: &str) -> Reply {
    let quoting = |message: &str| if to.is_empty() { message.to_owned() } else { format!("{message} ({to})") };
    match provider {
        Provider::Sendgrid => {
            let message = match status {
                400 => "Bad Request",
                401 => "The provided authorization grant is invalid, expired, or revoked",
                403 => "access forbidden",
                404 => "not found",
                413 => "payload too large",
                429 => "too many requests",
                500 => "Internal Server Error",
                503 => "Service Unavailable",
                _ => "request failed",
            };
            sendgrid::error(status, None, &quoting(message))
        }
        Provider::Twilio => {
            let (usual, message) = match status {
                401 => (20003, "Authenticate"),
                403 => (20403, "Forbidden"),
                404 => (20404, "The requested resource was not found"),
                429 => (20429, "Too Many Requests"),
                503 => (20503, "Service is unavailable"),
                400 | 402 | 405..=428 | 430..500 => (20001, "Bad request"),
                _ => (20500, "Internal Server Error"),
            };
            let code = if let Some(ErrorCode::Number(code)) = code { *code } else { usual };
            twilio::error(status, code, &quoting(message))
        }
        Provider::Fcm => {
            let (name, message, usual) = match status {
                400 => ("INVALID_ARGUMENT", "Request contains an invalid argument.", Some("INVALID_ARGUMENT")),
                401 => ("UNAUTHENTICATED", "Request had invalid authentication credentials.", None),
                403 => ("PERMISSION_DENIED", "The caller does not have permission", None),
                404 => ("NOT_FOUND", "Requested entity was not found.", None),
                429 => ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric.", Some("QUOTA_EXCEEDED")),
                503 => ("UNAVAILABLE", "The service is currently unavailable.", Some("UNAVAILABLE")),
                402 | 405..=428 | 430..500 => ("FAILED_PRECONDITION", "Precondition check failed.", None),
                _ => ("INTERNAL", "Internal error encountered.", Some("INTERNAL")),
            };
            let code = if let Some(ErrorCode::Word(code)) = code { Some(code.as_str()) } else { usual };
            fcm::error(status, name, &quoting(message), code)
        }
        Provider::Token => {
            let usual = match status {
                400..=428 => "invalid_grant",
                429 => "rate_limit_exceeded",
                503 => "temporarily_unavailable",
                _ => "internal_failure",
            };
            let code = if let Some(ErrorCode::Word(code)) = code { code.as_str() } else { usual };
            token::error(status, code, "The request failed.")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::spec::Spec, *};

    const ALL_OF_ONE_KIND: [Fault; 4] = [Fault::ErrorAfter, Fault::Quota, Fault::Unavailable, Fault::Auth];

    fn of(provider: Provider, fault: Fault) -> Plan {
        plan(provider, &Answer::Named(fault), &["+255700000000".to_owned()], exchange::empty(202), Timestamp::default())
    }

    fn body(plan: &Plan) -> Value {
        let Way::Whole(reply) = &plan.way else { panic!("{plan:?}") };
        serde_json::from_slice(reply.body()).unwrap()
    }

    #[track_caller]
    fn check_answers(provider: Provider, pointer: &str, own: &[Fault]) {
        let spec = Spec::of_answer(provider, pointer);
        for fault in ALL_OF_ONE_KIND.iter().chain(own) {
            let mut body = body(&of(provider, *fault));
            // The specification says `nullable`, which its validator does not know.
            if let Some(error) = body.pointer_mut("/errors/0").and_then(Value::as_object_mut) {
                error.retain(|_, value| !value.is_null());
            }
            assert_eq!(spec.check(&body), Ok(()), "{fault:?}: {body}");
        }
    }

    #[test]
    fn failures_are_as_the_specifications_say() {
        check_answers(Provider::Sendgrid, "#/components/schemas/ErrorResponse", &[Fault::Credits]);
        check_answers(Provider::Twilio, "#/components/schemas/twilio_error", &[Fault::OptedOut, Fault::InvalidTo, Fault::QueueFull]);
        let own = [Fault::Unregistered, Fault::SenderMismatch, Fault::ThirdPartyAuth, Fault::Unauthenticated];
        check_answers(Provider::Fcm, "#/components/schemas/GoogleRpcError", &own);
        // And the specification can say no.
        let spec = Spec::of_answer(Provider::Twilio, "#/components/schemas/twilio_error");
        assert!(spec.check(&serde_json::json!({ "message": "x" })).is_err());
    }

    #[test]
    fn failures_quote_whom_they_are_about() {
        for (provider, faults) in [
            (Provider::Sendgrid, [Fault::Quota, Fault::ErrorAfter, Fault::Unavailable]),
            (Provider::Twilio, [Fault::Quota, Fault::InvalidTo, Fault::Unavailable]),
            (Provider::Fcm, [Fault::Quota, Fault::Unregistered, Fault::SenderMismatch]),
        ] {
            for fault in faults {
                let body = body(&of(provider, fault)).to_string();
                assert!(body.contains("+255700000000"), "{provider:?} {fault:?}: {body}");
            }
        }
    }

    #[test]
    fn what_is_taken_is_not_what_is_told() {
        for (fault, accepted, status) in [
            (Fault::Ok, true, Some(202)),
            (Fault::ResetBefore, false, None),
            (Fault::ResetAfter, true, None),
            (Fault::ErrorAfter, true, Some(500)),
            (Fault::Hang, false, None),
            (Fault::Drip, true, Some(202)),
            (Fault::Cut, true, Some(202)),
            (Fault::Huge, false, Some(500)),
            (Fault::Html, false, Some(502)),
            (Fault::Nonsense, false, Some(200)),
            (Fault::Empty, false, Some(500)),
            (Fault::Redirect, false, Some(302)),
            (Fault::Quota, false, Some(429)),
            (Fault::Unavailable, false, Some(503)),
        ] {
            let plan = of(Provider::Sendgrid, fault);
            assert_eq!((plan.accepted, plan.way.status()), (accepted, status), "{fault:?}");
        }
    }

    #[test]
    fn statuses_come_with_what_they_are_given() {
        let answer = StatusAnswer {
            status: 429,
            retry_after: Some("soon".to_owned()),
            rate_limit_reset: Some(5),
            code: Some(ErrorCode::Number(63017)),
            ..StatusAnswer::default()
        };
        let plan = by_status(Provider::Twilio, &answer, "", exchange::empty(201), Timestamp::from_millis(7_000));
        let Way::Whole(reply) = &plan.way else { panic!("{plan:?}") };
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["retry-after"], &reply.headers()["x-ratelimit-reset"]),
            (429, &"soon".parse().unwrap(), &"12".parse().unwrap())
        );
        assert_eq!(body(&plan)["code"], 63017);
        let accepted = by_status(
            Provider::Twilio,
            &StatusAnswer { status: 200, ..StatusAnswer::default() },
            "",
            exchange::empty(201),
            Timestamp::default(),
        );
        assert!(accepted.accepted && accepted.way.status() == Some(200));
    }
}
