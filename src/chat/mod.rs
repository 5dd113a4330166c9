//! The chat gateway: conversations over sockets and REST, sealed at rest.
//!
//! [`seal`] is the one place that knows how a stored message looks inside; the store keeps what it gives and asks nothing. [`service`] is what can
//! be done, [`protocol`] how sockets say it. [`rotate`] seals everything anew when the keys change; [`import`] takes over what the replaced
//! system has.

mod backend;
mod conversations;
mod error;
mod frames;
mod gateway;
mod hook;
pub mod import;
mod members;
mod notify;
mod openapi;
mod protocol;
mod relay;
mod rest;
pub mod rotate;
pub mod seal;
mod service;
mod status;
mod typing;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use tokio_util::sync::CancellationToken;

pub use self::{
    backend::{ConversationMaking, ConversationRecord, NotMade, ParticipantsChange, SystemNotice},
    error::ChatError,
    openapi::operations,
    service::{Chat, Draft, Posted},
    view::MessageView,
};
use self::{
    hook::Hook,
    relay::{Notes, Relay},
    seal::ChatKeys,
};
use crate::{
    accept::Acceptor,
    config::ChatConfig,
    socket::{Authenticator, Bus, Gate, OriginPolicy, cross_origin, require_user},
    store::Store,
};

/// How often users who have said nothing for a while are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_mins(1);

/// What runs beside the chat.
pub struct Background {
    chat: Arc<Chat>,
    notes: Notes,
}

/// The chat as configured. Nothing is told before [`Background::run`].
///
/// # Errors
/// The keys or the hook cannot be used.
pub fn open(
    store: Store,
    bus: Bus,
    gate: Gate,
    authenticator: Arc<Authenticator>,
    config: ChatConfig,
) -> Result<(Arc<Chat>, Background), String> {
    let keys = ChatKeys::new(&config.encryption_keys).map_err(|error| format!("chat: {error}"))?;
    let hook = Hook::new(&config.hook)?;
    let (relay, notes) = Relay::new();
    let chat = Arc::new(Chat::new((store, bus), (gate, authenticator), (config, keys), hook, relay));
    Ok((chat.clone(), Background { chat, notes }))
}

impl Background {
    /// Makes notices for who is away into jobs for `acceptor`, until `stop`. On one node of those that share a store.
    pub fn notices(&self, acceptor: Acceptor, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        notify::run(self.chat.clone(), acceptor, stop)
    }

    /// Until `stop`; what is stored by then is still told.
    pub async fn run(self, stop: CancellationToken) {
        let Self { chat, notes } = self;
        let told = relay::run(notes, chat.bus.clone(), chat.store.epoch().clone(), stop.clone());
        let beside = async {
            tokio::join!(
                status::run(chat.clone(), stop.clone()),
                status::heed_controls(chat.clone(), stop.clone()),
                async {
                    tokio::select! {
                        () = chat.typing.run(&chat.bus) => {}
                        () = stop.cancelled() => {}
                    }
                },
                async {
                    loop {
                        tokio::select! {
                            () = tokio::time::sleep(FORGET_INTERVAL) => chat.forget_idle(),
                            () = stop.cancelled() => return,
                        }
                    }
                },
            );
        };
        tokio::join!(told, beside);
    }
}

/// The sockets of conversations, and conversations over HTTP. `origins` are the pages that may use the latter.
pub fn router(chat: Arc<Chat>, origins: OriginPolicy) -> Router {
    let over_http = rest::router()
        .layer(middleware::from_fn_with_state(chat.authenticator.clone(), require_user))
        .layer(middleware::from_fn_with_state(origins, cross_origin));
    gateway::router().merge(over_http).with_state(chat)
}
