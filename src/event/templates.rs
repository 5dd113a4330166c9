//! Which templates are in use.

use metrics::{counter, gauge};
use tracing::{error, info, warn};

use super::Event;
use crate::model::Problem;

pub(super) fn emit_templates(event: &Event<'_>) {
    match event {
        Event::TemplatesReloaded { templates } => {
            counter!("tarishi_template_reloads_total", "result" => "reloaded").increment(1);
            gauge!("tarishi_templates_refused").set(0.0);
            info!(templates, "templates reloaded");
        }
        Event::TemplatesRefused { problems, are_watched } => {
            counter!("tarishi_template_reloads_total", "result" => "refused").increment(1);
            gauge!("tarishi_templates_refused").set(1.0);
            for Problem { path, problem, hint } in *problems {
                error!(file = path, problem, hint, "template problem");
            }
            let problems = problems.len();
            if *are_watched {
                error!(problems, "templates refused: the ones loaded before stay in use until the files are mended");
            } else {
                error!(problems, "templates refused: the ones loaded before stay in use; mend the files, then send SIGHUP");
            }
        }
        Event::TemplatesNotWatched { error } => warn!(error, "templates are not watched: send SIGHUP after a change"),
        _ => {}
    }
}
