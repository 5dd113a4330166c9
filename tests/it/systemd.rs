//! The unit file, as systemd itself judges it.

use std::{path::Path, process::Command};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/tarishi.service");

/// Runs systemd-analyze and gives whether it was content, and what it said.
fn analyze(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).output().expect("systemd-analyze is installed (apt: systemd)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// The unit with the tested program in place of the installed one.
fn unit_of_this_build(folder: &Path) -> String {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/tarishi run --config /etc/tarishi/tarishi.toml"), "{unit}");
    let path = folder.join("tarishi.service");
    std::fs::write(&path, unit.replace("/usr/bin/tarishi", env!("CARGO_BIN_EXE_tarishi"))).unwrap();
    path.display().to_string()
}

#[test]
fn systemd_takes_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let (content, said) = analyze(&["verify", "--man=no", &unit_of_this_build(folder.path())]);
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("tarishi")).collect();
    assert!(content && about_ours.is_empty(), "{said}");
}

#[test]
fn the_sandbox_leaves_little_exposed() {
    let folder = tempfile::tempdir().unwrap();
    // In tenths: 1.5.
    let (content, said) = analyze(&["security", "--no-pager", "--offline=true", "--threshold=15", &unit_of_this_build(folder.path())]);
    assert!(content, "{said}");
}

/// systemd kills what has not stopped by then.
#[test]
fn the_drain_is_over_before_systemd_loses_patience() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let seconds: u64 = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    let config = tarishi::config::load(&tarishi::config::Sources::default()).unwrap();
    // Attempts, then sockets and connections, then the last outcomes.
    assert!(config.shutdown.drain.as_secs() * 2 + 10 <= seconds);
}
