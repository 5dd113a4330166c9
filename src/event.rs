//! Every log line and every metric the daemon emits, and nothing else.
//!
//! [`emit`] writes the line and moves the metric together. Names are noun, then past verb. Fields are ids, codes and masked addresses;
//! never an address, a name, a token or a body. The job id is the thread from accept to the last attempt.

mod chat;
mod delivery;
mod intake;
mod store;
mod templates;

use metrics::counter;
use tracing::{error, info, warn};

pub use self::delivery::count_failed;
use self::{chat::emit_chat, delivery::emit_delivery, intake::emit_intake, store::emit_store, templates::emit_templates};
use crate::model::{Channel, Code, Delivery, DeliveryId, JobId, Outcome, Problem, Status, SuppressionReason, Timestamp};

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    DaemonStarted {
        version: &'a str,
        mode: &'a str,
        public: &'a str,
        admin: &'a str,
        store: &'a str,
    },
    DaemonReady,
    DaemonDraining {
        deadline_seconds: u64,
    },
    DaemonDrained {
        interrupted: usize,
        given_back: usize,
    },
    /// Drain took longer than it may, or was asked for twice.
    DaemonStopped {
        reason: &'a str,
    },
    /// SIGHUP: connections from now on get what is in the files.
    CertificateReloaded,
    /// SIGHUP: the old one stays in use.
    CertificateRefused {
        reason: &'a str,
    },
    /// Deliveries from now on are rendered with what is in the files.
    TemplatesReloaded {
        templates: usize,
    },
    /// The files have changed and cannot be used; what was loaded before stays in use.
    TemplatesRefused {
        problems: &'a [Problem],
        /// The files are read again by themselves as soon as they change.
        are_watched: bool,
    },
    /// Changes of the files will not be noticed.
    TemplatesNotWatched {
        error: &'a str,
    },
    /// A limit of a listener was hit; how often since the last time.
    ConnectionsRefused {
        listener: &'static str,
        over_limit: u64,
        over_address_limit: u64,
        proxy_refused: u64,
    },
    ChannelCaptures {
        channel: Channel,
    },
    NoTokensAccepted,
    /// There are mails that people may refuse, and no link to do it with.
    NoUnsubscribeLinks,
    JobAccepted {
        job: &'a JobId,
        template: Option<&'a str>,
        deliveries: u32,
        skipped: usize,
        /// The producer's trace (W3C Trace Context).
        traceparent: Option<&'a str>,
    },
    JobRepeated {
        job: &'a JobId,
    },
    /// A bug: whoever asked was answered 500.
    HandlerPanicked {
        route: &'a str,
    },
    JobRefused {
        code: &'static str,
        problems: usize,
    },
    /// A message that no job could be made of, now on the rejected queue.
    JobRejected {
        reason: &'static str,
        message_id: Option<&'a str>,
        problems: usize,
    },
    JobCancelled {
        job: &'a JobId,
        by: &'a str,
        cancelled: u64,
        too_late: u64,
    },
    ContactChanged {
        user: &'a str,
        by: &'a str,
        what: &'static str,
    },
    DeliverySent {
        delivery: &'a Delivery,
        provider: &'static str,
        attempt: u32,
        started_at: Timestamp,
        finished_at: Timestamp,
    },
    DeliveryRetried {
        delivery: &'a Delivery,
        provider: &'static str,
        attempt: u32,
        outcome: &'a Outcome,
        next_at: Timestamp,
    },
    /// An attempt that another provider makes up for at once.
    DeliveryFailedOver {
        delivery: &'a Delivery,
        provider: &'static str,
        next: &'static str,
        attempt: u32,
        outcome: &'a Outcome,
    },
    /// Given up: failed, expired or cancelled after an attempt.
    DeliveryEnded {
        delivery: &'a Delivery,
        attempt: u32,
        status: Status,
        code: Option<Code>,
        detail: Option<&'a str>,
    },
    DeliveryLost {
        delivery: &'a Delivery,
    },
    /// Not sent: its address is on the suppression list.
    DeliverySuppressed {
        delivery: &'a Delivery,
    },
    /// Moved by what its provider called back with.
    DeliveryConfirmed {
        delivery: DeliveryId,
        channel: Channel,
        status: Status,
        code: Option<Code>,
    },
    CallbackReceived {
        provider: &'static str,
        kind: &'static str,
    },
    /// Callbacks that moved nothing: known already, or about no delivery that is here.
    CallbacksPassedOver {
        provider: &'static str,
        repeated: u32,
        unknown: u32,
    },
    /// `untold` is how many of them were counted and not told since the last line; without it this one is counted alone.
    CallbackRefused {
        provider: &'static str,
        reason: &'a str,
        untold: Option<u64>,
    },
    /// The address is masked.
    AddressSuppressed {
        channel: Channel,
        address: &'a str,
        list: Option<&'a str>,
        reason: SuppressionReason,
        source: &'a str,
    },
    /// What an operator did to the suppression list.
    SuppressionChanged {
        by: &'a str,
        what: &'static str,
        entries: u64,
    },
    /// What an operator did; `jti` is the token's id, not the token.
    TokensRevoked {
        by: &'a str,
        revocation: i64,
        user: Option<&'a str>,
        jti: Option<&'a str>,
        sockets: usize,
    },
    RevocationTakenBack {
        by: &'a str,
        revocation: i64,
        user: Option<&'a str>,
        jti: Option<&'a str>,
    },
    /// The last step of it: whoever asked for the steps has counted the rest.
    ChatKeysRotated {
        by: &'a str,
    },
    /// What a backend or an operator did with the chat.
    ChatOperated {
        by: &'a str,
        what: &'static str,
        conversation: i64,
        message: Option<i64>,
    },
    /// What is stored of a message is not what was sealed for it.
    ChatMessageTampered {
        message: i64,
        conversation: i64,
        /// Not told of this message before.
        is_news: bool,
    },
    ChatHookRefused {
        conversation: i64,
    },
    /// It did not answer, or in a way that cannot be read.
    ChatHookFailed {
        reason: &'a str,
        is_open: bool,
    },
    /// Somebody who was away is told of what they have not read.
    ChatNoticeMade {
        job: &'a JobId,
        conversation: i64,
    },
    ChatNoticeDropped {
        conversation: i64,
        reason: &'static str,
    },
    /// There will be no notices as things are; told once.
    ChatNoticesNotAccepted {
        reason: &'a str,
    },
    /// A key set was had for the first time, again after a failure, or with other keys than before.
    KeysFetched {
        from: &'a str,
        kids: &'a str,
    },
    /// Told once until it can be had again.
    KeysNotFetched {
        from: &'a str,
        reason: &'a str,
        /// Keys that are used meanwhile.
        kept: usize,
    },
    DeliveryUnreadable {
        id: DeliveryId,
        reason: &'a str,
    },
    OutcomeLate {
        delivery: &'a Delivery,
        attempt: u32,
        lifted: bool,
    },
    AttemptsInterrupted {
        count: usize,
    },
    BreakerOpened {
        provider: &'static str,
        channel: Channel,
        reason: &'a str,
        needs_a_person: bool,
    },
    BreakerClosed {
        provider: &'static str,
        channel: Channel,
    },
    /// The provider works, but not for one platform behind it.
    PlatformRefused {
        provider: &'static str,
        channel: Channel,
        reason: &'a str,
    },
    /// The provider asked for fewer; attempts per second from now on.
    PaceLowered {
        provider: &'static str,
        channel: Channel,
        rate: f64,
    },
    BrokerConnected {
        link: &'static str,
        host: &'a str,
    },
    BrokerLost {
        link: &'static str,
        reason: &'a str,
        needs_a_person: bool,
    },
    /// The other daemons are told again.
    BusConnected {
        url: &'a str,
        sharded: bool,
    },
    BusLost {
        reason: &'a str,
        needs_a_person: bool,
    },
    StoreUnwritable {
        error: &'a str,
    },
    StoreWritable,
    StoreFailed {
        doing: &'static str,
        error: &'a str,
    },
    StorePurged {
        jobs: u64,
        deliveries: u64,
        inbox_items: u64,
    },
}

/// Writes the line and moves the metric of `event`.
pub fn emit(event: &Event<'_>) {
    match event {
        Event::DaemonStarted { .. }
        | Event::DaemonReady
        | Event::DaemonDraining { .. }
        | Event::DaemonDrained { .. }
        | Event::DaemonStopped { .. }
        | Event::CertificateReloaded
        | Event::CertificateRefused { .. }
        | Event::ConnectionsRefused { .. }
        | Event::ChannelCaptures { .. }
        | Event::NoTokensAccepted
        | Event::NoUnsubscribeLinks => emit_daemon(event),
        Event::JobAccepted { .. }
        | Event::JobRepeated { .. }
        | Event::JobRefused { .. }
        | Event::HandlerPanicked { .. }
        | Event::JobRejected { .. }
        | Event::JobCancelled { .. }
        | Event::ContactChanged { .. } => emit_intake(event),
        Event::TokensRevoked { .. }
        | Event::RevocationTakenBack { .. }
        | Event::ChatKeysRotated { .. }
        | Event::KeysFetched { .. }
        | Event::KeysNotFetched { .. } => emit_auth(event),
        Event::ChatOperated { .. }
        | Event::ChatMessageTampered { .. }
        | Event::ChatHookRefused { .. }
        | Event::ChatHookFailed { .. }
        | Event::ChatNoticeMade { .. }
        | Event::ChatNoticeDropped { .. }
        | Event::ChatNoticesNotAccepted { .. } => emit_chat(event),
        Event::BrokerConnected { .. } | Event::BrokerLost { .. } => emit_broker(event),
        Event::BusConnected { .. } | Event::BusLost { .. } => emit_bus(event),
        Event::DeliveryConfirmed { .. }
        | Event::CallbackReceived { .. }
        | Event::CallbacksPassedOver { .. }
        | Event::CallbackRefused { .. }
        | Event::AddressSuppressed { .. }
        | Event::SuppressionChanged { .. } => emit_callback(event),
        Event::TemplatesReloaded { .. } | Event::TemplatesRefused { .. } | Event::TemplatesNotWatched { .. } => emit_templates(event),
        Event::StoreUnwritable { .. } | Event::StoreWritable | Event::StoreFailed { .. } | Event::StorePurged { .. } => emit_store(event),
        _ => emit_delivery(event),
    }
}

fn emit_daemon(event: &Event<'_>) {
    match event {
        Event::DaemonStarted { version, mode, public, admin, store } => info!(version, mode, public, admin, store, "daemon started"),
        Event::DaemonReady => info!("daemon ready"),
        Event::DaemonDraining { deadline_seconds } => info!(deadline_seconds, "daemon draining: finishing what is under way"),
        Event::DaemonDrained { interrupted, given_back } => info!(interrupted, given_back, "daemon drained"),
        Event::DaemonStopped { reason } => warn!(reason, "daemon stopped early"),
        Event::CertificateReloaded => {
            counter!("tarishi_certificate_reloads_total", "result" => "reloaded").increment(1);
            info!("certificate reloaded: new connections get it");
        }
        Event::CertificateRefused { reason } => {
            counter!("tarishi_certificate_reloads_total", "result" => "refused").increment(1);
            error!(reason, "certificate refused: the old one stays in use; mend the files, then send SIGHUP again");
        }
        Event::ConnectionsRefused { listener, over_limit, over_address_limit, proxy_refused } => {
            warn!(
                listener,
                over_limit,
                over_address_limit,
                proxy_refused,
                "connections refused: over max_connections, over max_connections_per_address (is it a proxy's? then \
                 public.trusted_proxies should name it), or without a trusted proxy's header"
            );
        }
        Event::ChannelCaptures { channel } => {
            warn!(%channel, "channel only captures: its provider is the outbox, nothing reaches anybody; set channel.{channel}.providers");
        }
        Event::NoUnsubscribeLinks => {
            warn!("mails that can be refused go out without an unsubscribe link: public.base_url has to be https, as mail clients want it");
        }
        Event::NoTokensAccepted => warn!("no [[auth.jwt.keys]] configured: every socket is refused"),
        _ => {}
    }
}

fn emit_auth(event: &Event<'_>) {
    match event {
        Event::TokensRevoked { by, revocation, user, jti, sockets } => {
            counter!("tarishi_revocations_total").increment(1);
            info!(by, revocation, user, jti, sockets, "tokens revoked");
        }
        Event::RevocationTakenBack { by, revocation, user, jti } => info!(by, revocation, user, jti, "revocation taken back"),
        Event::ChatKeysRotated { by } => info!(by, "chat keys rotated: what they open is sealed with the first"),
        Event::KeysFetched { from, kids } => info!(from, kids, "key set fetched"),
        Event::KeysNotFetched { from, reason, kept } => {
            counter!("tarishi_jwks_failures_total").increment(1);
            warn!(from, reason, kept, "key set cannot be had: the keys there are stay, and it is tried again");
        }
        _ => {}
    }
}

fn emit_broker(event: &Event<'_>) {
    match event {
        Event::BrokerConnected { link, host } => info!(link, host, "broker connected"),
        Event::BrokerLost { link, reason, needs_a_person } => {
            counter!("tarishi_broker_lost_total", "link" => *link).increment(1);
            if *needs_a_person {
                error!(link, reason, "broker refuses: trying again, but it will not mend by itself");
            } else {
                warn!(link, reason, "broker lost: trying again until it is back");
            }
        }
        _ => {}
    }
}

fn emit_bus(event: &Event<'_>) {
    match event {
        Event::BusConnected { url, sharded } => info!(url, sharded, "bus connected"),
        Event::BusLost { reason, needs_a_person } => {
            counter!("tarishi_bus_lost_total").increment(1);
            if *needs_a_person {
                error!(reason, "bus refuses: other daemons are told late; trying again, but it will not mend by itself");
            } else {
                warn!(reason, "bus lost: other daemons are told late; trying again until it is back");
            }
        }
        _ => {}
    }
}

fn emit_callback(event: &Event<'_>) {
    match event {
        Event::DeliveryConfirmed { delivery, channel, status, code } => {
            let code = code.map_or("", Code::as_str);
            counter!("tarishi_deliveries_confirmed_total", "channel" => channel.as_str(), "status" => status.as_str(), "code" => code)
                .increment(1);
            if *status == Status::Failed {
                warn!(%delivery, %channel, code, "delivery failed after it was sent");
            } else {
                info!(%delivery, %channel, %status, "delivery confirmed");
            }
        }
        Event::CallbackReceived { provider, kind } => {
            counter!("tarishi_callbacks_total", "provider" => *provider, "event" => *kind).increment(1);
        }
        Event::CallbacksPassedOver { provider, repeated, unknown } => {
            counter!("tarishi_callbacks_repeated_total", "provider" => *provider).increment(u64::from(*repeated));
            counter!("tarishi_callbacks_unmatched_total", "provider" => *provider).increment(u64::from(*unknown));
        }
        Event::CallbackRefused { provider, reason, untold } => {
            counter!("tarishi_callbacks_refused_total", "provider" => *provider).increment(1);
            if let Some(untold) = untold {
                warn!(provider, reason, untold, "callback refused");
            }
        }
        Event::AddressSuppressed { channel, address, list, reason, source } => {
            counter!("tarishi_addresses_suppressed_total", "channel" => channel.as_str(), "reason" => reason.as_str()).increment(1);
            info!(%channel, address, list, %reason, source, "address suppressed: it is not written to any more");
        }
        Event::SuppressionChanged { by, what, entries } => info!(by, what, entries, "suppression list changed"),
        _ => {}
    }
}
