//! The integration tests: everything but the pure modules, which are tested beside their code.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod amqp;
mod amqp_faults;
mod architecture;
mod auth;
mod broker;
mod bus;
mod chat;
mod chat_import;
mod chat_moves;
mod chat_rotation;
mod chat_sealing;
mod commands;
mod console;
mod contract;
mod crash;
mod deploy;
mod enqueue;
mod feed;
mod fixture;
mod fuzz;
mod http;
mod import_env;
mod listener;
mod live;
mod mock;
mod moves;
mod moving;
mod openapi;
mod providers;
mod retries;
mod store_contract;
mod store_faults;
mod store_upgrade;
mod support;
mod systemd;
mod templates;
mod tickets_and_revocations;
