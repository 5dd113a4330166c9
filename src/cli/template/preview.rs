//! `tarishi template preview`: what one template says.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    cli::{
        failure::{Exit, Failure},
        job,
        output::{self, Paint},
    },
    model::{
        Address, Body, Channel, Delivery, DeliveryId, DeliveryKey, Envelope, Locale, Priority, TemplateName, TimeZone, Timestamp, UserId,
    },
    template::Templates,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi template preview new_message
  tarishi template preview new_message --channel email --locale sw
  tarishi template preview new_message --channel email --json | jq -r '.[0].html' > /tmp/mail.html
  tarishi template preview generic --data data.json

It is rendered for user 42 in Dar es Salaam with the template's sample.json; members of --data replace those of the sample.

Exit codes: 0 done, 1 it cannot be rendered, 3 problems in the configuration or the templates.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct PreviewArgs {
    /// The template
    name: TemplateName,
    /// Only these channels (repeatable, or with commas)
    #[arg(long, short, value_name = "CHANNEL", value_delimiter = ',', value_parser = job::channels())]
    channel: Vec<Channel>,
    /// In this language, such as sw or sw-TZ
    #[arg(long, value_name = "LOCALE")]
    locale: Option<Locale>,
    /// File with a JSON object, over the template's sample.json
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PreviewArgs, templates: &Templates) -> Result<(), Failure> {
    let Some(info) = templates.list().find(|info| *info.name == args.name) else {
        let hint = match templates.nearest(&args.name) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "see `tarishi template list`".to_owned(),
        };
        return Err(Failure::usage(format!("no template is called `{}`", args.name), hint));
    };
    let mut data = info.sample.clone();
    if let Some(file) = &args.data {
        data.extend(job::object_file(file)?);
    }
    let channels: Vec<Channel> = if args.channel.is_empty() { info.channels.iter().collect() } else { args.channel.clone() };
    let mut bodies = Vec::with_capacity(channels.len());
    for channel in channels {
        let delivery = delivery(&args.name, data.clone(), channel, args.locale.clone())?;
        let body = templates.render(&delivery, Timestamp::now()).map_err(|error| {
            let hint = "see the template's sample.json for the data it takes, and `tarishi template list` for its channels";
            Failure::new(Exit::Failed, format!("{channel}: {error}"), hint)
        })?;
        bodies.push(body);
    }
    if args.json {
        return output::print_json(&bodies.iter().map(as_json).collect::<Vec<_>>());
    }
    let paint = Paint::stdout();
    output::print(&bodies.iter().map(|body| told(body, paint)).collect::<Vec<_>>().join("\n\n"))
}

/// What the preview is for: user 42 of the documentation.
fn delivery(name: &TemplateName, data: Map<String, Value>, channel: Channel, locale: Option<Locale>) -> Result<Delivery, Failure> {
    let broken = |reason: String| Failure::new(Exit::Failed, reason, "");
    let id = "preview".parse().map_err(broken)?;
    let address = match channel {
        Channel::Email => Address::Email("asha@example.com".parse().map_err(broken)?),
        Channel::Sms => Address::Phone("+255712345678".parse().map_err(broken)?),
        Channel::Push => Address::PushToken("preview".parse().map_err(broken)?),
        Channel::Live => Address::Inbox,
    };
    let timezone: TimeZone = "Africa/Dar_es_Salaam".parse().map_err(broken)?;
    let user_id: UserId = "42".parse().map_err(broken)?;
    Ok(Delivery {
        key: DeliveryKey { job: 0, ordinal: 0 },
        id: DeliveryId::new(DeliveryId::job_key(&id), 0),
        job: Arc::new(Envelope {
            id,
            template: Some(name.clone()),
            content: None,
            data,
            collapse_key: None,
            metadata: std::collections::BTreeMap::new(),
            traceparent: None,
        }),
        channel,
        priority: Priority::Normal,
        user_id: Some(user_id),
        address,
        locale,
        timezone: Some(timezone),
        attempts: 0,
        pinned: None,
        due_at: Timestamp::now(),
        expires_at: Timestamp::FAR_FUTURE,
    })
}

fn as_json(body: &Body) -> Value {
    let mut value = match body {
        Body::Email(mail) => json!(mail),
        Body::Sms(sms) => json!(sms),
        Body::Push(push) => json!(push),
        Body::Live(notification) => json!(notification),
    };
    value["channel"] = json!(body.channel());
    value
}

fn told(body: &Body, paint: Paint) -> String {
    let heading = |name: &str| paint.bold(&format!("── {name} {}", "─".repeat(70_usize.saturating_sub(name.len()))));
    let part = |name: &str| paint.cyan(&format!("[{name}]"));
    match body {
        Body::Email(mail) => {
            let mut lines = vec![heading("email"), format!("{} {}", part("subject"), mail.subject)];
            lines.extend(mail.text.as_ref().map(|text| format!("{}\n{}", part("text"), text.trim_end())));
            lines.extend(mail.html.as_ref().map(|html| format!("{}\n{}", part("html"), html.trim_end())));
            lines.join("\n")
        }
        Body::Sms(sms) => {
            let length = sms.text.chars().count();
            format!("{}\n{} {length} characters\n{}", heading("sms"), part("text"), sms.text)
        }
        Body::Push(push) => {
            let mut lines = vec![heading("push"), format!("{} {}", part("title"), push.title), format!("{} {}", part("body"), push.body)];
            if !push.data.is_empty() {
                lines.push(format!("{}\n{:#}", part("data"), json!(push.data)));
            }
            if !push.platform.is_empty() {
                lines.push(format!("{}\n{:#}", part("platform"), json!(push.platform)));
            }
            lines.join("\n")
        }
        Body::Live(notification) => format!("{}\n{:#}", heading("live"), json!(notification)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_of_ours_previews() {
        let config = crate::config::load(&crate::config::Sources::default()).unwrap();
        let templates = crate::cli::settings::load_templates(&config).unwrap();
        for info in templates.list() {
            for channel in info.channels.iter() {
                let locale = Some("sw-TZ".parse().unwrap());
                let delivery = delivery(info.name, info.sample.clone(), channel, locale).unwrap();
                let body = templates.render(&delivery, Timestamp::now()).unwrap();
                assert_eq!(as_json(&body)["channel"], channel.as_str());
                assert!(told(&body, Paint::OFF).starts_with(&format!("── {channel} ──")));
            }
        }
    }
}
