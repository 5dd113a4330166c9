//! The chat end to end: what sockets say and are told, what is found again after whatever happened, and notices for who is away.

mod client;
mod sockets;

pub use self::client::Conversing;
