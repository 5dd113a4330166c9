//! `tarishi check --probe`: whether the providers would take our messages. Nothing is sent to anybody.

use serde_json::{Value, json};

use super::{
    failure::{Exit, Failure},
    one_shot,
    output::{self, count},
};
use crate::{
    config::Config,
    daemon::{self, Probed},
    model::Channel,
};

/// Probes every provider that a channel of `config` names, and prints what came of it.
pub fn run(config: &Config, as_json: bool) -> Result<(), Failure> {
    let mut answers = Vec::new();
    one_shot(async {
        answers = daemon::probe(config).await.map_err(|error| Failure::new(Exit::Configuration, error.to_string(), ""))?;
        Ok(())
    })?;
    let bad = answers.iter().filter(|answer| answer.result.is_err()).count();
    if as_json {
        let probes: Vec<Value> = answers.iter().map(|answer| document(config, answer)).collect();
        output::print_json(&json!({ "good": bad == 0, "probes": probes }))?;
    } else {
        output::print(&table(config, &answers))?;
    }
    if bad == 0 {
        return Ok(());
    }
    let hint = "deliveries for it wait, or go to the next provider of their channel; nothing is lost";
    Err(Failure::new(Exit::Configuration, format!("{} would not take our messages", count(bad as u64, "provider")), hint))
}

fn channels(config: &Config, provider: &str) -> Vec<Channel> {
    let uses = |channel: &Channel| config.channel.get(*channel).providers.iter().any(|name| name == provider);
    Channel::ALL.into_iter().filter(uses).collect()
}

fn document(config: &Config, answer: &Probed) -> Value {
    let failure = answer.result.as_ref().err();
    json!({
        "provider": answer.provider,
        "channels": channels(config, answer.provider),
        "good": failure.is_none(),
        "problem": failure.map(|failure| &failure.problem),
        "hint": failure.map(|failure| &failure.hint),
        "milliseconds": u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn table(config: &Config, answers: &[Probed]) -> String {
    let row = |answer: &Probed| {
        let channels = channels(config, answer.provider).iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (said, hint) = match &answer.result {
            Ok(()) => ("good", ""),
            Err(failure) => (failure.problem.as_str(), failure.hint.as_str()),
        };
        vec![answer.provider.to_owned(), channels, format!("{} ms", answer.took.as_millis()), said.to_owned(), hint.to_owned()]
    };
    output::table(&["provider", "channels", "#time", "answer", "hint"], answers.iter().map(row))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{channel::ProbeFailure, config::Sources};

    #[test]
    fn the_table_says_what_to_do() {
        let config = crate::config::load(&Sources::default()).unwrap();
        let took = Duration::from_millis(42);
        let failure = ProbeFailure::new("answered 401 Unauthorized", "check the key");
        let probed = [Probed { provider: "outbox", result: Ok(()), took }, Probed { provider: "twilio", result: Err(failure), took }];
        assert_eq!(
            table(&config, &probed),
            "provider  channels         time  answer                     hint\n\
             outbox    email,sms,push  42 ms  good\n\
             twilio                    42 ms  answered 401 Unauthorized  check the key"
        );
    }
}
