//! The files: each whole or not at all, secrets for their owner alone, and nothing replaced that nobody asked to replace.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use secrecy::ExposeSecret as _;

use super::translate::Plan;
use crate::cli::failure::{Exit, Failure};

const SECRET_MODE: u32 = 0o600;
const CONFIG_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o700;

/// Writes a plan. The configuration comes last: where it is, its secrets are.
pub fn write(plan: &Plan, out: &Path, force: bool) -> Result<(), Failure> {
    let files = plan.secrets.iter().map(|(path, _)| path).chain([&plan.config_file]);
    let there: Vec<String> = files.filter(|path| path.symlink_metadata().is_ok()).map(|path| path.display().to_string()).collect();
    if !there.is_empty() && !force {
        let hint = "move it away, choose another folder with --out, or say --force to replace it";
        return Err(Failure::new(Exit::Failed, format!("there already: {}; nothing is written", there.join(", ")), hint));
    }
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| {
            Failure::new(Exit::Failed, format!("{path} cannot be written: {error}"), "check the path and who may write there")
        }
    };
    fs::create_dir_all(out).map_err(failed(out))?;
    if !plan.secrets.is_empty() {
        let folder = out.join("secrets");
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder).map_err(failed(&folder))?;
        // It may have been there, for everyone.
        fs::set_permissions(&folder, fs::Permissions::from_mode(FOLDER_MODE)).map_err(failed(&folder))?;
    }
    for (path, secret) in &plan.secrets {
        replace(path, format!("{}\n", secret.expose_secret()).as_bytes(), SECRET_MODE).map_err(failed(path))?;
    }
    replace(&plan.config_file, plan.config.as_bytes(), CONFIG_MODE).map_err(failed(&plan.config_file))
}

/// Writes beside it and renames over it: a reader sees all of it or none.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // What is left of it holds a secret; that it may be gone already is no news.
        let _ = fs::remove_file(&beside);
    }
    written
}
