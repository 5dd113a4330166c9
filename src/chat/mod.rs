//! The chat gateway: conversations over sockets and REST, sealed at rest.
//!
//! [`seal`] is the one place that knows how a stored message looks inside; the store keeps what it gives and asks nothing. [`rotate`] seals
//! everything anew when the keys change; [`import`] takes over what the replaced system has.

pub mod import;
pub mod rotate;
pub mod seal;
