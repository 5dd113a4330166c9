//! `tarishi chat new-key`: a key, to be read or put into a key file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use clap::Args;
use secrecy::ExposeSecret as _;

use super::super::{
    failure::{Exit, Failure},
    output,
};
use crate::{chat::seal::ChatKeys, config};

const AFTER_HELP: &str = "\
Examples:
  tarishi chat new-key --file /etc/tarishi/chat.keys
  tarishi chat new-key > chat.key

With --file the key becomes the first of that file, the one that seals; those in it stay and still open what they have sealed. A file that is not there is made, readable by its owner alone. Then restart the daemon, run `tarishi chat rotate-keys`, and take the old keys out.

Whoever loses the keys loses the messages: keep a copy, and not beside the copies of the store.

Exit codes: 0 done; 1 the file cannot be written; 3 what is in it are not keys.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct NewKeyArgs {
    /// Put it first into this key file, instead of on stdout
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub fn run(args: &NewKeyArgs) -> Result<(), Failure> {
    let key = ChatKeys::new_key();
    let Some(file) = &args.file else { return output::print(key.expose_secret()) };
    if file.exists() {
        config::read_fernet_keys(file, &file.display().to_string())
            .map_err(|problems| Failure::configuration(&format!("the key file {}", file.display()), problems))?;
    }
    let failed = |error: io::Error| {
        Failure::new(Exit::Failed, format!("{} cannot be written: {error}", file.display()), "run it as somebody who may write there")
    };
    let is_first = put_first(file, key.expose_secret()).map_err(failed)?;
    let (file, next) = (file.display(), "restart the daemon, then run `tarishi chat rotate-keys`");
    output::note(&if is_first { format!("{file} is made, with one key") } else { format!("{file} has a new first key: {next}") });
    Ok(())
}

/// The file is whole at every moment, and belongs to whom it did. Says whether it is new.
fn put_first(file: &Path, key: &str) -> io::Result<bool> {
    // Where a link leads, so that the link stays one.
    let file = &fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let before = match fs::read_to_string(file) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let made = write_beside(&beside, file, before.as_deref(), key).and_then(|()| fs::rename(&beside, file));
    if made.is_err() {
        // What is left of it holds a key that nobody uses.
        let _ = fs::remove_file(&beside);
    }
    made?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(before.is_none())
}

fn write_beside(beside: &Path, file: &Path, before: Option<&str>, key: &str) -> io::Result<()> {
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    if before.is_some() {
        let old = fs::metadata(file)?;
        fchown(&new, Some(old.uid()), Some(old.gid()))?;
        new.set_permissions(old.permissions())?;
    }
    new.write_all(format!("{key}\n{}", before.unwrap_or_default()).as_bytes())?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_newest_key_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.keys");
        let args = NewKeyArgs { file: Some(file.clone()) };
        run(&args).unwrap();
        let first = fs::read_to_string(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        run(&args).unwrap();
        let both = fs::read_to_string(&file).unwrap();
        assert!(both.ends_with(&format!("\n{first}")) && both.lines().count() == 2, "{both}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(config::read_fernet_keys(&file, "").unwrap().len(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes");
        fs::write(&file, "buy milk\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(run(&NewKeyArgs { file: Some(file.clone()) }).unwrap_err().exit, Exit::Configuration);
        assert_eq!(fs::read_to_string(&file).unwrap(), "buy milk\n");
    }
}
