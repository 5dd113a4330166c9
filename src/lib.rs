//! Tarishi: a notification fan-out daemon.
//!
//! Backend services hand it jobs; it fans each out to the people and channels it names, sends, retries with backoff, and can say
//! afterwards what became of every single delivery. `docs/ARCHITECTURE.md` is the map of this crate.

pub mod accept;
pub mod admin;
pub mod amqp;
pub mod channel;
pub mod chat;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod event;
pub mod feed;
pub mod intake;
pub mod lane;
pub mod live;
pub mod mock;
pub mod model;
pub mod openapi;
pub mod retry;
pub mod socket;
pub mod store;
pub mod template;
pub mod webhook;
