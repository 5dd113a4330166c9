//! The commands that ask and answer, as a person or a script runs them.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::Process;

/// Where commands run: a folder of their own, with nothing but these variables.
pub struct Commands {
    folder: TempDir,
    env: BTreeMap<String, String>,
}

/// What came of one.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Absent when a signal ended it.
    pub code: Option<i32>,
    pub bytes: Vec<u8>,
    pub errors: String,
}

impl Commands {
    pub fn new() -> Self {
        let env = BTreeMap::from([("TARISHI__TEMPLATES__PATH".to_owned(), super::templates().display().to_string())]);
        Self { folder: tempfile::Builder::new().prefix("tarishi-").tempdir().unwrap(), env }
    }

    /// With the broker at this URL.
    pub fn with_broker(url: &str) -> Self {
        Self::new().with("TARISHI__AMQP__URL", url)
    }

    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.env.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Runs `tarishi` with these arguments to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, "").await
    }

    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        self.run_program(env!("CARGO_BIN_EXE_tarishi"), arguments, input).await
    }

    /// Runs a line of shell, in which `tarishi` is ours.
    pub async fn run_in_shell(&self, line: &str) -> Ran {
        self.run_program("sh", &["-c", &with_our_binary(line)], "").await
    }

    /// Runs a line as if at a terminal, where `answer` is typed. Everything it says is its output.
    pub async fn run_at_terminal(&self, line: &str, answer: &str) -> Ran {
        self.run_program("script", &["-qec", &with_our_binary(line), "/dev/null"], answer).await
    }

    async fn run_program(&self, program: &str, arguments: &[&str], input: &str) -> Ran {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.env).current_dir(self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let ran = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // It may end without reading.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        let output = ran.await.unwrap();
        Ran { code: output.status.code(), bytes: output.stdout, errors: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Starts `tarishi` with these arguments, for what goes on until it is told to end.
    pub fn start(&self, arguments: &[&str]) -> Process {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Process::start(env!("CARGO_BIN_EXE_tarishi"), &arguments, &self.env, self.folder.path())
    }
}

fn with_our_binary(line: &str) -> String {
    line.replace("tarishi ", concat!(env!("CARGO_BIN_EXE_tarishi"), " "))
}

impl Ran {
    /// What it said, once it went well.
    #[track_caller]
    pub fn out(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.errors);
        self.text()
    }

    /// What it said, however it went.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// What it said as JSON Lines, once it went well.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        self.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// It ended with this code, and with these words among its last.
    #[track_caller]
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.errors);
        for part in parts {
            assert!(self.errors.contains(part), "no `{part}` in:\n{}", self.errors);
        }
    }
}
