//! `tarishi audit`: is everything that was accepted accounted for?

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    failure::{Exit, Failure},
    output::{self, Paint},
    server::ServerArgs,
    settings::{self, GlobalArgs},
};
use crate::{config::Config, daemon::store_settings, store::Store};

const AFTER_HELP: &str = "\
Examples:
  tarishi audit                                 asks the running daemon
  tarishi audit --offline --config /etc/tarishi/tarishi.toml
  tarishi audit --json | jq .disagreements

It counts every row: accepted = queued + sending + sent + delivered + failed + expired + cancelled + suppressed + purged.

Exit codes: 0 balanced, 1 failed, 3 configuration, 4 not reached, 5 refused, 6 not balanced.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct AuditArgs {
    /// Open the store's file instead of asking the daemon; only while no daemon runs on it
    #[arg(long, conflicts_with_all = ["server", "api_key_file"])]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuditView {
    balanced: bool,
    accepted: i64,
    purged: i64,
    statuses: Vec<StatusTotalView>,
    unmade: i64,
    unknown_outcomes: i64,
    disagreements: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusTotalView {
    status: String,
    deliveries: i64,
}

pub async fn run(args: &AuditArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let answer = if args.offline {
        offline(&settings::load_without_secrets(global)?).await?
    } else {
        args.server.connect(global)?.get::<Value>(&["v1", "audit"]).await?
    };
    let audit = AuditView::deserialize(&answer)
        .map_err(|error| Failure::new(Exit::Failed, format!("the audit does not read: {error}"), "is the daemon of this version?"))?;
    if args.json {
        output::print_json(&answer)?;
    } else {
        output::print(&told(&audit, Paint::stdout()))?;
    }
    if audit.balanced {
        return Ok(());
    }
    let message = format!("the audit does not balance: {}", audit.disagreements.join("; "));
    let hint = "keep a copy of the store's file and of the log as they are now, and report it: this must not happen";
    Err(Failure::new(Exit::Unbalanced, message, hint))
}

async fn offline(config: &Config) -> Result<Value, Failure> {
    let path = config.store.sqlite_path();
    // Opening makes what is not there, and an audit of nothing balances.
    if !path.exists() {
        let hint = "name the one to check with --config FILE, or TARISHI__STORE__URL";
        return Err(Failure::new(Exit::Failed, format!("there is no store at {}", path.display()), hint));
    }
    let store = Store::open(store_settings(config))?;
    let audit = store.audit().await;
    store.close().await;
    serde_json::to_value(audit?).map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))
}

fn told(audit: &AuditView, paint: Paint) -> String {
    let statuses = audit.statuses.iter().map(|total| vec![total.status.clone(), total.deliveries.to_string()]);
    let rows = std::iter::once(vec!["accepted".to_owned(), audit.accepted.to_string()])
        .chain(statuses)
        .chain([vec!["purged".to_owned(), audit.purged.to_string()]]);
    let mut lines = vec![output::table(&["", "#deliveries"], rows)];
    if audit.unmade > 0 {
        lines.push(format!("{} of the queued are still to be made from large jobs", audit.unmade));
    }
    if audit.unknown_outcomes > 0 {
        lines.push(format!("attempts with an unknown outcome, which may have reached somebody twice: {}", audit.unknown_outcomes));
    }
    lines.push(if audit.balanced { paint.green("balanced") } else { paint.red("not balanced") });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config(path: &std::path::Path) -> Config {
        let url = format!("sqlite:{}", path.display());
        let overrides = vec![("store.url".to_owned(), url.into())];
        config::load(&config::Sources { overrides, ..config::Sources::default() }).unwrap()
    }

    #[tokio::test]
    async fn an_offline_audit_wants_a_store_nobody_holds() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("tarishi.db"));
        assert_eq!(offline(&config).await.unwrap_err().exit, Exit::Failed);
        assert!(!config.store.sqlite_path().exists());

        let daemon = Store::open(store_settings(&config)).unwrap();
        assert!(format!("{:?}", offline(&config).await.unwrap_err()).contains("is held by another process"));
        daemon.close().await;
        drop(daemon);

        let audit = AuditView::deserialize(&offline(&config).await.unwrap()).unwrap();
        assert!(audit.balanced);
        assert_eq!(audit.statuses.len(), 8);
        let told = told(&audit, Paint::OFF);
        assert!(told.contains("accepted             0") && told.ends_with("\nbalanced"), "{told}");
    }
}
