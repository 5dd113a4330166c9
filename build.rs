//! Names the commit this is built from, for `tarishi --version`. Does without git, and without a repository.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-env=TARISHI_BUILD={}", build(Path::new(&folder)).unwrap_or_default());
}

/// ` (abc1234 2026-11-23)`: the commit and its day. Nothing when `folder` is not the root of a repository: an unpacked release inside
/// another project must not name that project's commit.
fn build(folder: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != folder.canonicalize().ok()? {
        return None;
    }
    // HEAD names a branch; the branch's own file, or the packed ones, name the commit.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // A file that does not exist would run this every time.
        if let Some(file) = git(&["rev-parse", "--git-path", name]).map(|file| folder.join(file)).filter(|file| file.exists()) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    Some(format!(" ({})", git(&["log", "-1", "--abbrev=7", "--format=%h %cs"])?))
}
