//! Programs in other languages, with the packages that `tests/run` installed for them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::Process;

/// Where `tests/run` says which folder it installed them in.
const TOOLS: &str = "TARISHI_TEST_TOOLS";

pub fn node(arguments: &[String], env: &BTreeMap<String, String>) -> Process {
    run("node".into(), arguments, env, ("NODE_PATH", &tools().join("node/node_modules")))
}

pub fn python(arguments: &[String], env: &BTreeMap<String, String>) -> Process {
    // Elsewhere than beside the sources it runs.
    run(tools().join("python/bin/python"), arguments, env, ("PYTHONPYCACHEPREFIX", &tools().join("python/cache")))
}

fn run(program: PathBuf, arguments: &[String], env: &BTreeMap<String, String>, more: (&str, &Path)) -> Process {
    let mut env = env.clone();
    env.insert(more.0.to_owned(), more.1.display().to_string());
    Process::start(program, arguments, &env, &std::env::temp_dir())
}

fn tools() -> PathBuf {
    let Some(folder) = std::env::var_os(TOOLS) else { panic!("{TOOLS} is not set: run tests/run, which installs them") };
    folder.into()
}
