//! The broker, for the commands that speak to it themselves, and how its failures are told.

use super::{
    failure::{Exit, Failure},
    settings::{self, GlobalArgs},
};
use crate::{
    amqp::{self, AmqpError},
    config::Config,
};

/// How to reach the broker of the configuration in effect, and that configuration.
pub fn configured(global: &GlobalArgs) -> Result<(amqp::Broker, Config), Failure> {
    let config = settings::load_with_broker_password(global)?;
    match amqp::Broker::new(&config.amqp, super::VERSION) {
        Some(broker) => Ok((broker, config)),
        None => Err(Failure::new(
            Exit::Configuration,
            "the configuration names no broker",
            "set `amqp.url`, or TARISHI__AMQP__URL, such as \"amqp://tarishi@localhost:5672/\"",
        )),
    }
}

/// Tells a failure of `broker`'s. What is not there is told by whoever knows what it is for.
pub fn failed(broker: &amqp::Broker, error: &AmqpError) -> Failure {
    let message = format!("the broker at {}: {error}", broker.url());
    let (exit, hint) = match error {
        AmqpError::TimedOut { .. } | AmqpError::Failed { .. } => (Exit::Unreachable, "is it running? where it is says `amqp.url`"),
        AmqpError::Cancelled | AmqpError::Unreadable { .. } => (Exit::Unreachable, ""),
        AmqpError::File { .. } => (Exit::Configuration, "check the path and that this user may read it"),
        AmqpError::Blocked => (Exit::Refused, "see `rabbitmqctl status` for its alarms; nothing is lost, send the same again later"),
        AmqpError::Unroutable(_) => (Exit::Refused, NO_JOBS_QUEUE),
        AmqpError::NotTaken => (Exit::Refused, "is the queue tarishi.jobs full? a policy may limit its length"),
        AmqpError::Absent { .. } | AmqpError::Refused { .. } | AmqpError::Mismatch(_) => (Exit::Refused, ""),
    };
    Failure::new(exit, message, hint)
}

/// What to do where nothing takes jobs.
pub const NO_JOBS_QUEUE: &str = "is the daemon running with [amqp]? it declares the queue tarishi.jobs";

/// The same for a command that publishes jobs.
pub fn failed_to_publish(broker: &amqp::Broker, error: &AmqpError) -> Failure {
    match error {
        AmqpError::Absent { .. } => {
            Failure::new(Exit::Refused, format!("there is no queue for jobs at {}: {error}", broker.url()), NO_JOBS_QUEUE)
        }
        other => failed(broker, other),
    }
}
