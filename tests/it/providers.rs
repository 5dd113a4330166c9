//! The providers in the clouds: each held to one script, their requests to what is published, and what happens when one does not work.

mod access_tokens;
mod bad_input;
mod callbacks;
mod contract;
mod failover;
mod requests;
mod smtp;
