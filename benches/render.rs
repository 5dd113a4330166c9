//! How many deliveries one thread renders, beside bare minijinja on the same sources in the same run.
//!
//! The bound renders the same files with the same filters and the same data, and throws them away: no delivery, no limits, no check of what
//! comes out, no text part made from the HTML. What a template came to at load (MJML, style sheets) is the same for both.
//!
//! `cargo bench --bench render -- [--seconds 1] [--rounds 5]`

use std::{
    collections::BTreeMap,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use minijinja::{Environment, Value};
use serde_json::{Value as Json, json};
use tarishi::{
    model::{Address, Channel, Delivery, DeliveryId, DeliveryKey, Envelope, Priority, TemplateName, Timestamp},
    template::{Limits, LocaleDefaults, Templates},
};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const BASE: &str = "https://app.example.com";
/// Deliveries between two looks at the clock.
const BATCH: u32 = 50;

#[derive(Parser)]
#[command(name = "cargo bench --bench render --")]
struct Options {
    /// For each channel and side, in each round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The sides take turns; medians are shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One delivery, and what the bound renders for it.
struct Case {
    delivery: Delivery,
    files: Vec<String>,
    context: Value,
}

fn main() -> Fallible<()> {
    let options = Options::parse();
    let now = Timestamp::now();
    let defaults = LocaleDefaults { locale: "en".parse()?, timezone: "UTC".parse()? };
    let templates = Templates::load(
        Path::new("templates"),
        BASE,
        defaults,
        Limits { fuel: 200_000, output: 1024 * 1024, sms_segments: 10, push_bytes: 4096, email_clip_bytes: 102 * 1024 },
    )
    .map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        told.join("\n")
    })?;
    let bare = templates.bare();
    println!("deliveries rendered per second by one thread, over all templates and languages of a channel\n");
    println!("{:<8}{:>10}{:>14}{:>14}{:>8}", "", "kinds", "tarishi", "bare", "ratio");
    for channel in Channel::ALL {
        let cases = cases(&templates, &bare, channel, now)?;
        let period = Duration::from_secs_f64(options.seconds);
        let (mut ours, mut bound) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds.max(1) {
            ours.push(rate(&cases, period, |case| drop(black_box(templates.render(&case.delivery, now).expect("rendered before")))));
            bound.push(rate(&cases, period, |case| {
                for file in &case.files {
                    black_box(render(&bare, file, &case.context).expect("rendered before"));
                }
            }));
        }
        let (ours, bound) = (median(ours), median(bound));
        println!("{:<8}{:>10}{ours:>14.0}{bound:>14.0}{:>8.2}", channel.as_str(), cases.len(), ours / bound);
    }
    Ok(())
}

/// Every template and language on `channel`, with its sample.
fn cases(templates: &Templates, bare: &Environment<'_>, channel: Channel, now: Timestamp) -> Fallible<Vec<Case>> {
    let mut cases = Vec::new();
    for info in templates.list().filter(|info| info.channels.contains(channel)) {
        for locale in [None].into_iter().chain(info.locales.iter().copied().map(Some)) {
            let delivery = delivery(info.name, channel, locale, info.sample.clone())?;
            templates.render(&delivery, now)?;
            let files = templates.files(info.name, delivery.locale.as_ref(), channel).map(str::to_owned).collect();
            let mut data = info.sample.clone();
            for (name, value) in [
                ("user_id", "42"),
                ("locale", locale.unwrap_or_default()),
                ("timezone", "Africa/Dar_es_Salaam"),
                ("link_base_url", BASE),
                ("job_id", "bench"),
                ("template", info.name.as_str()),
            ] {
                data.insert(name.to_owned(), json!(value));
            }
            let context = data.iter().map(|(name, member)| (Value::from(name.as_str()), value(member)));
            let (name, reader) = templates.reader(&delivery, now);
            let context = Value::from_pairs(context.chain([(Value::from(name), reader)]));
            let case = Case { delivery, files, context };
            for file in &case.files {
                render(bare, file, &case.context)?;
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

fn render(bare: &Environment<'_>, file: &str, context: &Value) -> Result<String, minijinja::Error> {
    bare.get_template(file)?.render(context)
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => number.as_i64().map_or_else(|| Value::from(number.as_f64()), Value::from),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(elements) => elements.iter().map(value).collect(),
        Json::Object(members) => Value::from_pairs(members.iter().map(|(name, member)| (name.as_str(), value(member)))),
    }
}

fn rate(cases: &[Case], period: Duration, render: impl Fn(&Case)) -> f64 {
    let (started, mut rendered) = (Instant::now(), 0.0);
    while started.elapsed() < period {
        for case in cases {
            for _ in 0..BATCH {
                render(case);
            }
            rendered += f64::from(BATCH);
        }
    }
    rendered / started.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn delivery(
    name: &TemplateName,
    channel: Channel,
    locale: Option<&str>,
    data: serde_json::Map<String, serde_json::Value>,
) -> Fallible<Delivery> {
    let address = match channel {
        Channel::Email => Address::Email("asha@example.com".parse()?),
        Channel::Sms => Address::Phone("+255712345678".parse()?),
        Channel::Push => Address::PushToken("token".parse()?),
        Channel::Live => Address::Inbox,
    };
    let envelope = Envelope {
        id: "bench".parse()?,
        template: Some(name.clone()),
        content: None,
        data,
        collapse_key: None,
        metadata: BTreeMap::new(),
        traceparent: None,
    };
    Ok(Delivery {
        key: DeliveryKey { job: 1, ordinal: 0 },
        id: DeliveryId::new(DeliveryId::job_key(&envelope.id), 0),
        job: Arc::new(envelope),
        channel,
        priority: Priority::Normal,
        user_id: Some("42".parse()?),
        address,
        locale: locale.map(str::parse).transpose()?,
        timezone: Some("Africa/Dar_es_Salaam".parse()?),
        attempts: 0,
        pinned: None,
        due_at: Timestamp::default(),
        expires_at: Timestamp::FAR_FUTURE,
    })
}
