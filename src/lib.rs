//! Tarishi: a notification fan-out daemon.
//!
//! Backend services hand it jobs; it fans each out to the people and channels it names, sends, retries with backoff, and can say
//! afterwards what became of every single delivery. `docs/ARCHITECTURE.md` is the map of this crate.

pub mod model;
