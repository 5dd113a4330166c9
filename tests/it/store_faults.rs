//! The store among hostile files, disks and neighbours.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tarishi::{
    model::{Channel, Status},
    store::{ClosedToJobs, Store, StoreError, StoreSettings},
};

use crate::fixture::{Backend, Offer, Sqlite, TestStore, first, job_id, outcome, until};

/// Which scenario a child process plays, and in which folder.
const SCENARIO: &str = "TARISHI_TEST_SCENARIO";
const FOLDER: &str = "TARISHI_TEST_FOLDER";

fn settings_in(folder: &Path) -> StoreSettings {
    StoreSettings { path: folder.join("tarishi.db"), ..Sqlite::create().settings() }
}

fn files_of(settings: &StoreSettings) -> [PathBuf; 2] {
    let path = settings.path.display();
    [settings.path.clone(), PathBuf::from(format!("{path}-wal"))]
}

/// Removes those of these files that are there.
fn forget<P: AsRef<Path>>(files: &[P]) {
    for file in files {
        let _ = fs::remove_file(file);
    }
}

/// A closed store with some rows in it.
async fn closed() -> (Sqlite, StoreSettings) {
    let test = TestStore::<Sqlite>::fresh();
    test.take(Offer::new("job").many(500).build()).await;
    test.close().await;
    test.drop_store()
}

#[track_caller]
fn check_damaged(settings: &StoreSettings, what: &str) {
    let error = Store::open(settings.clone()).expect_err(what);
    assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}");
    let said = error.to_string();
    assert!(said.contains("is damaged") && said.contains("hint: restore it from a backup"), "{said}");
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let test = TestStore::<Sqlite>::fresh();
    let error = Store::open(test.settings.clone()).unwrap_err();
    assert!(matches!(&error, StoreError::Held(path) if *path == test.settings.path));
    assert!(error.to_string().contains("hint: stop the other tarishi"), "{error}");
    // The first one noticed nothing.
    test.take(Offer::new("job").to(Channel::Email, "asha").build()).await;
    test.close().await;
    Store::open(test.settings.clone()).unwrap().close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (backend, settings) = closed().await;
    backend.tamper("INSERT INTO refinery_schema_history SELECT 9999, 'later', applied_on, '1' FROM refinery_schema_history LIMIT 1");
    let error = Store::open(settings.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9999, known: 1.., .. }), "{error}");
    assert!(error.to_string().contains("hint: run the newer version"), "{error}");
    // Refusing changed nothing: the newer version finds it as it was.
    backend.tamper("DELETE FROM refinery_schema_history WHERE version = 9999");
    let store = Store::open(settings).unwrap();
    assert!(store.audit().await.unwrap().balanced);
    assert_eq!(store.owner(), 2);
    store.close().await;
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    for (what, bytes) in [
        ("text", b"[store]\nurl = \"sqlite:var/tarishi.db\"\n".repeat(200)),
        ("zeros", vec![0; 64 << 10]),
        ("noise", (0..64_u32 << 10).map(|place| place.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings_in(folder.path());
        fs::write(&settings.path, bytes).unwrap();
        check_damaged(&settings, what);
    }
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let (_backend, settings) = closed().await;
    let whole = fs::read(&settings.path).unwrap();
    let page = 4096;
    let leftovers = files_of(&settings);
    for keep in [50, 100, 511, 512, page - 1, page, page + 1, whole.len() / 2, whole.len() - page] {
        forget(&leftovers);
        fs::write(&settings.path, &whole[..keep]).unwrap();
        check_damaged(&settings, &format!("{keep} of {} bytes", whole.len()));
    }
}

#[tokio::test]
async fn a_damaged_header_is_refused() {
    let (_backend, settings) = closed().await;
    let whole = fs::read(&settings.path).unwrap();
    for (what, place) in [("magic", 3), ("page size", 16), ("schema format", 47), ("root page", 100)] {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x7f;
        fs::write(&settings.path, damaged).unwrap();
        check_damaged(&settings, what);
    }
}

/// What is on the disk at any moment is what a power cut leaves: whole commits, and all that were acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_under_load_loses_no_acknowledged_job() {
    let test = TestStore::<Sqlite>::fresh();
    let busy = {
        let (store, lease) = ((*test).clone(), test.lease());
        tokio::spawn(async move {
            for number in 0.. {
                let job = Offer::new(&format!("busy{number}")).many(3).build();
                let Ok(committing) = store.accept_all(Arc::new(vec![vec![job]]), lease).await else { break };
                if committing.committed().await.is_err() {
                    break;
                }
            }
        })
    };
    for round in 0..10 {
        let id = format!("acknowledged{round}");
        test.take(Offer::new(&id).many(3).build()).await;
        let crashed = tempfile::tempdir().unwrap();
        let after = settings_in(crashed.path());
        for (from, to) in files_of(&test.settings).iter().zip(files_of(&after)) {
            fs::copy(from, to).unwrap();
        }
        let store = Store::open(after).unwrap();
        assert!(store.job(&job_id(&id), 0, 1).await.unwrap().is_some(), "{id} was acknowledged");
        let audit = store.audit().await.unwrap();
        assert!(audit.balanced, "{:?}", audit.disagreements);
        store.close().await;
    }
    test.close().await;
    busy.await.unwrap();
}

#[tokio::test]
async fn a_cut_log_leaves_whole_commits() {
    let test = TestStore::<Sqlite>::fresh();
    for number in 0..10 {
        test.take(Offer::new(&format!("job{number}")).many(20).build()).await;
    }
    let [database, log] = files_of(&test.settings).map(|file| fs::read(file).unwrap());
    let mut counts = std::collections::BTreeSet::new();
    let anywhere = (0..20).map(|part| log.len() * part / 20 + part * 17).chain([log.len()]);
    // The first pages are the schema's. After the log's header of 32 bytes, each has one of 24 (the SQLite file format, section 4.1).
    let between_pages = (0..40).map(|pages| 32 + pages * (24 + 4096));
    for keep in anywhere.chain(between_pages) {
        let crashed = tempfile::tempdir().unwrap();
        let after = settings_in(crashed.path());
        let [to_database, to_log] = files_of(&after);
        fs::write(to_database, &database).unwrap();
        fs::write(to_log, &log[..keep.min(log.len())]).unwrap();
        let store = Store::open(after).unwrap();
        let audit = store.audit().await.unwrap();
        assert!(audit.balanced && audit.accepted % 20 == 0, "{keep} bytes: {:?}", audit.disagreements);
        counts.insert(audit.accepted);
        store.close().await;
    }
    assert!(counts.contains(&200) && counts.len() > 3, "{counts:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    // Root may write anywhere: the child is nobody in particular, in a user namespace of its own.
    let plain = Command::new("unshare").args(["--user", "--map-user=1000", "true"]).status();
    let is_possible = plain.is_ok_and(|status| status.success());
    let folder = tempfile::tempdir().unwrap();
    let wrapper: &[&str] = if is_possible { &["unshare", "--user", "--map-user=1000"] } else { &["env"] };
    play("read_only_folder", folder.path(), wrapper);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_full_disk_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = "mount -t tmpfs -o size=6m tarishi-test \"$0\" && exec \"$@\"";
    let wrapper = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted, folder.path().to_str().unwrap()];
    let is_possible = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status().is_ok_and(|status| status.success());
    if is_possible {
        play("full_disk", folder.path(), &wrapper);
    } else {
        // Nothing may be mounted here: the limit on a file's size is as hard a wall.
        play("file_size_limit", folder.path(), &LIMITED);
    }
}

#[test]
fn a_file_that_may_not_grow_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    play("file_size_limit", folder.path(), &LIMITED);
}

/// Without the signal, a write past the limit is an error like any other.
const LIMITED: [&str; 4] = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];

/// Runs one scenario in a process of its own, behind `wrapper`.
#[track_caller]
fn play(scenario: &str, folder: &Path, wrapper: &[&str]) {
    let exe = std::env::current_exe().unwrap();
    let test = ["--exact", "--nocapture", "store_faults::scenario_of_a_child"].map(OsStr::new);
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(exe)
        .args(test)
        .env(SCENARIO, scenario)
        .env(FOLDER, folder)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", wrapper[0]));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(&played(scenario)), "{scenario}: {said}");
}

/// What a child says when it has really played, and not merely ended well.
fn played(scenario: &str) -> String {
    format!("played {scenario} to its end")
}

/// Nothing on its own; the scenario that [`play`] names in a child process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_of_a_child() {
    let (Ok(scenario), Some(folder)) = (std::env::var(SCENARIO), std::env::var_os(FOLDER)) else { return };
    let folder = PathBuf::from(folder);
    match scenario.as_str() {
        "read_only_folder" => read_only_folder(&folder).await,
        "full_disk" => no_room(&FullDisk { filler: folder.join("filler") }, &folder).await,
        "file_size_limit" => no_room(&FileSizeLimit, &folder).await,
        other => panic!("no scenario is called {other}"),
    }
    println!("{}", played(&scenario));
}

async fn read_only_folder(folder: &Path) {
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let settings = settings_in(folder);
    let check = |what: &str| {
        let error = Store::open(settings.clone()).expect_err(what);
        assert!(matches!(error, StoreError::Open { .. }), "{what}: {error}");
        assert!(error.to_string().contains("hint: check that its folder exists and is writable"), "{error}");
    };
    set_mode(folder, 0o555);
    check("no store yet");
    set_mode(folder, 0o755);
    Store::open(settings.clone()).unwrap().close().await;
    let beside = ["wal", "shm"].map(|suffix| format!("{}-{suffix}", settings.path.display()));
    forget(&beside);
    set_mode(folder, 0o555);
    check("a file that can be written in a folder that cannot");
    set_mode(folder, 0o755);
    set_mode(&settings.path, 0o444);
    check("a file that cannot be written");
    // SQLite gives what it keeps beside the file the file's own mode.
    forget(&beside);
    set_mode(&settings.path, 0o644);
    Store::open(settings).unwrap().close().await;
}

/// A way to run out of room, and to get it back.
trait Wall: Sync {
    fn run_into(&self, settings: &StoreSettings);
    fn take_away(&self);
}

struct FullDisk {
    filler: PathBuf,
}

impl Wall for FullDisk {
    fn run_into(&self, _: &StoreSettings) {
        let mut file = fs::File::create(&self.filler).unwrap();
        let written = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    fn take_away(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

struct FileSizeLimit;

impl FileSizeLimit {
    fn set(limit: &str) {
        let status = Command::new("prlimit").args([format!("--pid={}", std::process::id()), format!("--fsize={limit}:")]).status();
        assert!(status.unwrap().success());
    }
}

impl Wall for FileSizeLimit {
    fn run_into(&self, settings: &StoreSettings) {
        let longest = files_of(settings).iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).max().unwrap_or(0);
        Self::set(&longest.to_string());
    }

    fn take_away(&self) {
        Self::set("unlimited");
    }
}

async fn no_room(wall: &dyn Wall, folder: &Path) {
    let mut test = TestStore::in_folder(settings_in(folder));
    let sending = test.sending("sending").await;
    let offer = |number: usize| Offer::new(&format!("job{number}")).many(50).build();
    test.take(offer(0)).await;

    wall.run_into(&test.settings);
    let mut number = 1;
    let error = loop {
        match test.offer_groups(vec![vec![offer(number)]]).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(!test.is_writable());
    assert_eq!(test.closed_to_jobs(), Some(ClosedToJobs::Unwritable));
    let reopening = tokio::spawn({
        let store = (*test).clone();
        async move { store.closed_to_jobs_changed(Some(ClosedToJobs::Unwritable)).await }
    });
    let outcome_refused = test.record(outcome(sending, 1, Status::Sent)).await.unwrap().committed().await;
    assert!(matches!(outcome_refused, Err(StoreError::Unavailable(_))), "{outcome_refused:?}");
    // It is not fooled by asking itself: two of its own probes go by.
    let fooled = until("nothing", async || test.is_writable().then_some(()));
    assert!(tokio::time::timeout(Duration::from_millis(2500), fooled).await.is_err(), "it calls itself writable on a full disk");

    // Nothing half-written, and reading works.
    assert!(test.job(&job_id(&format!("job{number}")), 0, 1).await.unwrap().is_none());
    test.expect_status(sending, Status::Sending).await;
    let audit = test.balanced().await;
    assert_eq!(audit.accepted, 1 + 50 * i64::try_from(number).unwrap());

    wall.take_away();
    until("it recovers by itself", async || test.is_writable().then_some(())).await;
    assert_eq!(reopening.await.unwrap(), None);
    let job = test.take(offer(number)).await;
    test.expect_status(first(job), Status::Queued).await;
    test.put_outcome(outcome(sending, 1, Status::Sent)).await;
    test.expect_status(sending, Status::Sent).await;
    test.balanced().await;
    test.reopen().await;
    test.balanced().await;

    // A start without room says so, and does not call a sound file damaged.
    test.close().await;
    wall.run_into(&test.settings);
    let nested = folder.join("fresh");
    for settings in [test.settings.clone(), StoreSettings { path: nested, ..test.settings.clone() }] {
        match Store::open(settings) {
            Err(error) => assert!(matches!(error, StoreError::Open { .. }), "{error}"),
            // Files that are there already may have room left in them.
            Ok(store) => store.close().await,
        }
    }
    wall.take_away();
    test.reopen().await;
    test.balanced().await;
}
