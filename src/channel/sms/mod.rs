//! SMS: how long a text is on the air, and who carries it.

pub mod segments;
pub mod twilio;
mod velocity;
