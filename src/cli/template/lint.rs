//! `tarishi template lint`: what is wrong with templates, and what is worth a look.

use clap::Args;
use serde_json::json;

use crate::{
    cli::{
        failure::{Exit, Failure},
        output::{self, Paint, count},
        settings::{self, GlobalArgs},
    },
    daemon::{self, Problems},
    model::{Problem, TemplateName},
    template::Finding,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi template lint
  tarishi template lint new_message verification_code
  tarishi template lint --strict
  tarishi template lint --json | jq -r '.[] | .path'

Errors keep the templates from being loaded; warnings keep nothing from leaving: parts not translated, links that lead nowhere, data that nothing uses, names that schema.json does not declare, long messages.

Exit codes: 0 nothing, or warnings without --strict; 1 warnings with --strict; 2 no such template; 3 problems in the configuration or the templates.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct LintArgs {
    /// Only these templates; what they share is then left out
    names: Vec<TemplateName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fail for warnings too
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(args: &LintArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let config = settings::load_without_secrets(global)?;
    let templates = match daemon::load_templates(&config) {
        Ok(templates) => templates,
        Err(Problems(problems)) => {
            if args.json {
                output::print_json(&problems.iter().map(|problem| as_json("error", template_of(problem), problem)).collect::<Vec<_>>())?;
            }
            return Err(settings::template_failure(&config.templates.path, &problems));
        }
    };
    for name in &args.names {
        if templates.channels(name).is_none() {
            let hint = match templates.nearest(name) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "see `tarishi template list`".to_owned(),
            };
            return Err(Failure::usage(format!("no template is called `{name}`"), hint));
        }
    }
    let findings = templates.lint(&args.names);
    if args.json {
        let findings: Vec<_> = findings.iter().map(|finding| as_json("warning", &finding.template, &finding.problem)).collect();
        output::print_json(&findings)?;
    } else {
        let looked_at = if args.names.is_empty() { templates.list().count() } else { args.names.len() };
        output::print(&told(&findings, looked_at, Paint::stdout()))?;
    }
    if args.strict && !findings.is_empty() {
        let message = format!("{} in the templates", count(findings.len() as u64, "warning"));
        return Err(Failure::new(Exit::Failed, message, "each has its hint; without --strict they are told and not refused"));
    }
    Ok(())
}

fn template_of(problem: &Problem) -> &str {
    problem.path.split('/').next().unwrap_or_default()
}

fn as_json(severity: &str, template: &str, problem: &Problem) -> serde_json::Value {
    json!({ "severity": severity, "template": template, "path": problem.path, "problem": problem.problem, "hint": problem.hint })
}

fn told(findings: &[Finding], looked_at: usize, paint: Paint) -> String {
    let mut lines = Vec::new();
    let mut last = "";
    for Finding { template, problem } in findings {
        if template != last {
            lines.push(paint.bold(template));
            last = template;
        }
        lines.push(format!("  {}  {}", paint.cyan(&problem.path), problem.problem));
        if !problem.hint.is_empty() {
            lines.push(format!("    {} {}", paint.dim("hint:"), problem.hint));
        }
    }
    let summary = format!("{} looked at: {}", count(looked_at as u64, "template"), count(findings.len() as u64, "warning"));
    lines.push(if findings.is_empty() { paint.green(&summary) } else { paint.yellow(&summary) });
    lines.join("\n")
}
