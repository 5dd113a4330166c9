//! A private RabbitMQ node, by the script that the tests start theirs with.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::Fallible;

/// Stopped when dropped.
pub struct Broker {
    port: String,
    node: Child,
    port_mapper: Child,
    _folder: TempDir,
}

impl Broker {
    pub fn start() -> Fallible<Self> {
        let folder = tempfile::Builder::new().prefix("tarishi-").tempdir()?;
        let prepared = script("prepare", folder.path()).status()?;
        if !prepared.success() {
            return Err("tests/broker could not prepare a node; is rabbitmq-server installed? tests/run installs it".into());
        }
        let port_mapper = script("epmd", folder.path()).spawn()?;
        let node = script("node", folder.path()).spawn()?;
        let awaited = script("await", folder.path()).arg(node.id().to_string()).status()?;
        let ports = std::fs::read_to_string(folder.path().join("ports"))?;
        let port = ports.lines().find_map(|line| line.strip_prefix("AMQP_PORT=")).ok_or("no port")?.to_owned();
        // Made first, so that what has started is stopped when it is of no use.
        let broker = Self { port, node, port_mapper, _folder: folder };
        if awaited.success() { Ok(broker) } else { Err("the node did not start".into()) }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/", self.port)
    }
}

fn script(verb: &str, folder: &Path) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker"));
    command.arg(verb).arg(folder).stdin(Stdio::null());
    command
}

impl Drop for Broker {
    fn drop(&mut self) {
        for child in [&mut self.node, &mut self.port_mapper] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
