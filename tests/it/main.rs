//! The integration tests: everything but the pure modules, which are tested beside their code.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod architecture;
mod console;
mod crash;
mod fixture;
mod http;
mod live;
mod moves;
mod retries;
mod store_contract;
mod store_faults;
mod support;
mod systemd;
