//! Outside bytes to jobs, and the answer to the producer once accept has committed. It does not decide who gets what.

pub mod amqp;
pub mod decode;
pub mod expand;
pub mod http;
pub mod problem_details;
pub mod refusals;
pub mod schema;
