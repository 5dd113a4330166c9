//! `tarishi template preview`: what one template says.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::{
    cli::{
        failure::{Exit, Failure},
        job,
        output::{self, Paint},
        settings,
    },
    model::{Body, Channel, Locale, Problem, TemplateName, TimeZone, Timestamp, segments::Encoding},
    template::{Measure, Preview, Templates},
};

const AFTER_HELP: &str = "\
Examples:
  tarishi template preview new_message
  tarishi template preview new_message --channel email --locale sw
  tarishi template preview new_message --channel email --open
  tarishi template preview new_message --channel email --json | jq -r '.[0].html'
  tarishi template preview generic --data data.json --timezone Africa/Nairobi

It is rendered for user 42 with the template's sample.json; members of --data replace those of the sample. The page /templates of a
running daemon shows the same as you type.

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
    /// On the clock of this time zone, such as Africa/Nairobi; without it on that of `templates.default_timezone`
    #[arg(long, value_name = "ZONE")]
    timezone: Option<TimeZone>,
    /// File with a JSON object, over the template's sample.json
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Open the mail in the browser, from a file that only you may read
    #[arg(long)]
    open: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "open")]
    json: bool,
}

/// `folder` is where `templates` lie.
pub(super) fn run(args: &PreviewArgs, folder: &Path, templates: &Templates) -> Result<(), Failure> {
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
        // The sample was looked at when the templates were loaded.
        let problems = templates.check(&args.name, "$", &data);
        if !problems.is_empty() {
            let message = format!("{} is not what `{}` takes", file.display(), args.name);
            return Err(Failure::new(Exit::Failed, message, "").with_problems(problems));
        }
    }
    let channels: Vec<Channel> = if args.channel.is_empty() { info.channels.iter().collect() } else { args.channel.clone() };
    let preview = Preview { data, locale: args.locale.clone(), timezone: args.timezone };
    let mut bodies = Vec::with_capacity(channels.len());
    for channel in channels {
        let body = templates.preview(&args.name, channel, &preview, Timestamp::now());
        bodies.push(body.map_err(|problem| {
            let Problem { path, problem, hint } = settings::located(folder, &problem);
            Failure::new(Exit::Failed, format!("{channel}: {path}: {problem}"), hint)
        })?);
    }
    if args.open {
        return open(&args.name, &bodies);
    }
    if args.json {
        return output::print_json(&bodies.iter().map(|body| templates.shown(body)).collect::<Vec<_>>());
    }
    let paint = Paint::stdout();
    output::print(&bodies.iter().map(|body| told(templates, body, paint)).collect::<Vec<_>>().join("\n\n"))
}

/// Shows the mail among `bodies` in the browser, and says where it is.
fn open(name: &TemplateName, bodies: &[Body]) -> Result<(), Failure> {
    let html = bodies.iter().find_map(|body| if let Body::Email(mail) = body { mail.html.as_deref() } else { None });
    let Some(html) = html else {
        return Err(Failure::usage(format!("`{name}` has no mail in HTML to open"), "leave out --open to see what it says"));
    };
    let file = write_privately(name, html).map_err(|error| {
        let hint = "set TMPDIR to a folder that this user may write";
        Failure::new(Exit::Failed, format!("the mail cannot be written to {}: {error}", std::env::temp_dir().display()), hint)
    })?;
    if let Err(error) = open::that_detached(&file) {
        output::note(&format!("note: no browser could be started ({error}); open the file yourself"));
    }
    output::print(&file.display().to_string())
}

/// Writes `html` where nobody else may read or put anything.
fn write_privately(name: &TemplateName, html: &str) -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("tarishi-preview-{}", Uuid::now_v7().simple()));
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    write_mail(&folder.join(format!("{name}.html")), html)
}

fn write_mail(file: &Path, html: &str) -> std::io::Result<PathBuf> {
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    // The mark says that it is UTF-8: a mail says so in its header, which a file has not.
    opened.write_all("\u{feff}".as_bytes())?;
    opened.write_all(html.as_bytes())?;
    Ok(file.to_owned())
}

fn told(templates: &Templates, body: &Body, paint: Paint) -> String {
    let heading = |name: &str| paint.bold(&format!("── {name} {}", "─".repeat(70_usize.saturating_sub(name.len()))));
    let part = |name: &str| paint.cyan(&format!("[{name}]"));
    let size = format!("{} {}", part("size"), size(templates.measure(body), paint));
    match body {
        Body::Email(mail) => {
            let mut lines = vec![heading("email"), format!("{} {}", part("subject"), mail.subject)];
            lines.extend(mail.text.as_ref().map(|text| format!("{}\n{}", part("text"), text.trim_end())));
            lines.extend(mail.html.as_ref().map(|html| format!("{}\n{}", part("html"), html.trim_end())));
            lines.push(size);
            lines.join("\n")
        }
        Body::Sms(sms) => format!("{}\n{}\n{}\n{size}", heading("sms"), part("text"), sms.text),
        Body::Push(push) => {
            let mut lines = vec![heading("push"), format!("{} {}", part("title"), push.title), format!("{} {}", part("body"), push.body)];
            if !push.data.is_empty() {
                lines.push(format!("{}\n{:#}", part("data"), json!(push.data)));
            }
            if !push.platform.is_empty() {
                lines.push(format!("{}\n{:#}", part("platform"), json!(push.platform)));
            }
            lines.push(size);
            lines.join("\n")
        }
        Body::Live(notification) => format!("{}\n{:#}", heading("live"), json!(notification)),
    }
}

fn size(measure: Measure, paint: Paint) -> String {
    match measure {
        Measure::Email { html_bytes, text_bytes, clips } => {
            let clipped = if clips { paint.yellow("; Gmail cuts it off and hides the rest: shorten it") } else { String::new() };
            format!("{html_bytes} bytes of HTML, {text_bytes} bytes of text{clipped}")
        }
        Measure::Sms { segments, encoding, units, units_per_segment, .. } => {
            let (encoding, units_are) = match encoding {
                Encoding::Gsm7 => ("GSM-7", "septets"),
                Encoding::Ucs2 => ("UCS-2", "UTF-16 units"),
            };
            let words = if segments == 1 { "segment" } else { "segments" };
            let told = format!("{segments} {words}, {encoding}: {units} {units_are}, {units_per_segment} in each segment");
            if segments > 1 { paint.yellow(&told) } else { told }
        }
        Measure::Push { bytes, limit } => format!("{bytes} of {limit} bytes"),
        Measure::Live => String::new(),
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
                let preview = Preview { data: info.sample.clone(), locale: Some("sw-TZ".parse().unwrap()), timezone: None };
                let body = templates.preview(info.name, channel, &preview, Timestamp::now()).unwrap();
                assert_eq!(templates.shown(&body)["channel"], channel.as_str());
                assert!(told(&templates, &body, Paint::OFF).starts_with(&format!("── {channel} ──")));
            }
        }
    }

    #[test]
    fn a_size_is_told_in_the_units_that_are_paid() {
        let templates = crate::cli::settings::load_templates(&crate::config::load(&crate::config::Sources::default()).unwrap()).unwrap();
        let sms = |text: &str| Body::Sms(crate::model::Sms { to: "+255712345678".parse().unwrap(), text: text.to_owned() });
        let size = |body: Body| size(templates.measure(&body), Paint::OFF);
        assert_eq!(size(sms("Habari")), "1 segment, GSM-7: 6 septets, 160 in each segment");
        assert_eq!(size(sms(&"ш".repeat(71))), "2 segments, UCS-2: 71 UTF-16 units, 67 in each segment");
    }

    #[test]
    fn a_mail_is_opened_from_where_nobody_else_reads() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = write_mail(&folder.path().join("mail.html"), "<p>Habari</p>").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "\u{feff}<p>Habari</p>");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_mail(&file, "").is_err());
    }
}
