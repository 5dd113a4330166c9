//! How many deliveries one thread renders, beside bare minijinja on the same sources in the same run.
//!
//! The bound renders the same files with the same filters and the same data, and throws them away: no delivery, no limits, no check of what
//! comes out, no text part made from the HTML. What a template came to at load (MJML, style sheets) is the same for both. `bare` makes its
//! context from the job's JSON for each delivery, as whoever calls `render(&data)` does; `ready` finds it made.
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
    data: serde_json::Map<String, Json>,
}

impl Case {
    fn context(&self, templates: &Templates, now: Timestamp) -> Value {
        let data = self.data.iter().map(|(name, member)| (Value::from(name.as_str()), value(member)));
        let (name, reader) = templates.reader(&self.delivery, now);
        Value::from_pairs(data.chain([(Value::from(name), reader)]))
    }

    fn render_bare(&self, bare: &Environment<'_>, context: &Value) -> Result<(), minijinja::Error> {
        for file in &self.files {
            black_box(bare.get_template(file)?.render(context)?);
        }
        Ok(())
    }
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
    println!("{:<8}{:>10}{:>12}{:>12}{:>8}{:>12}{:>8}", "", "kinds", "tarishi", "bare", "ratio", "ready", "ratio");
    for channel in Channel::ALL {
        let cases = cases(&templates, channel, now)?;
        let ready: Vec<Value> = cases.iter().map(|case| case.context(&templates, now)).collect();
        for (case, context) in cases.iter().zip(&ready) {
            case.render_bare(&bare, context)?;
        }
        let period = Duration::from_secs_f64(options.seconds);
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..options.rounds.max(1) {
            rates[0].push(rate(&cases, period, |_, case| {
                black_box(templates.render(&case.delivery, now).expect("rendered before"));
            }));
            rates[1].push(rate(&cases, period, |_, case| {
                case.render_bare(&bare, &case.context(&templates, now)).expect("rendered before");
            }));
            rates[2].push(rate(&cases, period, |index, case| case.render_bare(&bare, &ready[index]).expect("rendered before")));
        }
        let [ours, bare, ready] = rates.map(median);
        let (name, kinds) = (channel.as_str(), cases.len());
        println!("{name:<8}{kinds:>10}{ours:>12.0}{bare:>12.0}{:>8.2}{ready:>12.0}{:>8.2}", ours / bare, ours / ready);
    }
    Ok(())
}

/// Every template and language on `channel`, with its sample.
fn cases(templates: &Templates, channel: Channel, now: Timestamp) -> Fallible<Vec<Case>> {
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
            cases.push(Case { delivery, files, data });
        }
    }
    Ok(cases)
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

fn rate(cases: &[Case], period: Duration, render: impl Fn(usize, &Case)) -> f64 {
    let (started, mut rendered) = (Instant::now(), 0.0);
    while started.elapsed() < period {
        for (index, case) in cases.iter().enumerate() {
            for _ in 0..BATCH {
                render(index, case);
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
