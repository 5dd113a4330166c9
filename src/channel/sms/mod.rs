//! SMS: who carries it, and how fast.

pub mod twilio;
mod velocity;
