//! Crashes: at every fail point, at random moments, and the orderly end. What was acknowledged is the promise, the outbox's record is
//! what a provider would have accepted, and nothing may be lost between the two.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::support::{Figures, Producers, Setup, StoreFile, is_long, job, recipient};

/// More than one commit takes, so that its deliveries are made in later ones.
const LARGE: usize = 1500;
const SIGABRT: i32 = 6;

/// Lanes narrow enough for deliveries to wait in memory and in the store, and retries without a wait. Inboxes keep every item: in the end
/// each is looked for.
fn narrow() -> Setup {
    Setup::new()
        .with_quick_retries()
        .with("channel.email.concurrency", &8)
        .with("channel.email.queue", &256)
        .with("channel.sms.concurrency", &2)
        .with("channel.live.concurrency", &2)
        .with("store.inbox_limit", &1_000_000)
}

/// Crashes at the `nth` pass of a fail point, again after the restart, and then is left alone. Says how often it crashed.
async fn crash_at(point: &str, nth: u32) -> u32 {
    let mut setup = narrow();
    let mut producers = Producers::new();
    producers.start_mix("one", 15, Some(LARGE));
    producers.start_mix("two", 15, None);
    let abort_at = format!("{point}:{nth}");
    let mut crashes = 0;
    for _ in 0..2 {
        let ended = match setup.try_start(&[("TARISHI_ABORT_AT", &abort_at)]).await {
            Err((_, ended)) => ended,
            Ok(daemon) => {
                producers.use_daemon(&daemon);
                let finished = async {
                    producers.finish().await;
                    daemon.drained().await;
                };
                tokio::select! {
                    ended = daemon.process.end() => ended,
                    () = finished => {
                        // The next one listens where this one did: it has to be gone.
                        daemon.process.kill().await;
                        break;
                    }
                }
            }
        };
        assert_eq!(ended.signal, Some(SIGABRT), "at {abort_at}: {ended:?}");
        crashes += 1;
    }
    let daemon = setup.start().await;
    producers.use_daemon(&daemon);
    let figures = producers.check(&setup, &daemon).await;
    println!("{abort_at}: {crashes} crashes, {figures:?}");
    crashes
}

/// At the passes named, each of which the load surely makes; in the long form at every one of the first as well, as far as it goes.
async fn crash_at_each(point: &str, passes: &[u32]) {
    for nth in passes {
        assert!(crash_at(point, *nth).await > 0, "the fail point {point} was not passed {nth} times");
    }
    for nth in (1..if is_long() { 60 } else { 0 }).filter(|nth| !passes.contains(nth)) {
        if crash_at(point, nth).await == 0 {
            return;
        }
    }
}

macro_rules! crash_tests {
    ($($name:ident => $point:literal $passes:expr,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crash_at_each($point, &$passes).await;
            }
        )+

        #[test]
        fn every_fail_point_is_crashed_at() {
            let elsewhere = crate::amqp_faults::CRASH_POINTS.into_iter().chain(crate::chat::CRASH_POINTS);
            let elsewhere = elsewhere.chain(["amqp-killer", "chat-import-batch", "rejected-republished"]);
            let tested: BTreeSet<String> = [$($point),+].into_iter().chain(elsewhere).map(str::to_owned).collect();
            assert_eq!(tested, fail_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
        }
    };
}

crash_tests! {
    crash_before_a_job_is_committed => "accept-before-commit" [1, 2, 9],
    crash_before_a_job_is_acknowledged => "accept-committed" [1, 2, 9],
    crash_before_an_attempt_is_committed => "attempt-before-commit" [1, 2, 5],
    crash_before_the_provider_is_called => "attempt-recorded" [1, 2, 40],
    crash_while_a_large_job_is_made => "expansion-before-commit" [1, 2],
    crash_before_a_live_notification_is_committed => "live-before-commit" [1, 2, 8],
    crash_before_an_outcome_is_committed => "outcome-before-commit" [1, 2, 150],
    crash_after_the_provider_accepted => "provider-accepted" [1, 2, 150],
    crash_after_any_commit => "store-after-commit" [1, 2, 3, 8, 15],
    crash_before_any_commit => "store-before-commit" [1, 2, 3, 8, 15],
}

/// The names given to `fail_point!` in a folder.
fn fail_points(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut fail_points(&entry.path()));
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            found.extend(text.split("fail_point!(").skip(1).map(|rest| rest.split('"').nth(1).unwrap().to_owned()));
        }
    }
    found
}

/// SIGKILL, again and again, while producers hand in all kinds of jobs.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_loop_under_load_it_loses_nothing() {
    let kills: usize = if is_long() { 100 } else { 5 };
    let mut setup = narrow();
    let mut producers = Producers::new();
    for producer in 0..4 {
        let large = (producer < 2).then_some(LARGE);
        producers.start_mix(&format!("p{producer}"), 10 * kills, large);
    }
    for kill in 1..=kills {
        let daemon = setup.start().await;
        producers.use_daemon(&daemon);
        // A moment somewhere in this life's share of the work, not tied to anything the daemon does.
        let share = producers.wanted() / (kills + 1);
        producers.acknowledged(kill * share - fastrand::usize(0..share.max(1))).await;
        let moment = std::time::Duration::from_micros(fastrand::u64(0..20_000));
        let _ = tokio::time::timeout(moment, daemon.process.end()).await;
        assert_eq!(daemon.process.kill().await.signal, Some(9));
        check_log(&daemon.process.lines());
    }
    let daemon = setup.start().await;
    producers.use_daemon(&daemon);
    let figures = producers.check(&setup, &daemon).await;
    check_log(&daemon.process.lines());
    let Figures { jobs, deliveries, duplicates, unknown_outcomes } = figures;
    println!(
        "{kills} kills: {jobs} jobs, {deliveries} deliveries, {duplicates} duplicates, {unknown_outcomes} unknown outcomes; nothing lost"
    );
}

/// Invariants H and J: no address in any line, and no panic.
#[track_caller]
fn check_log(lines: &[String]) {
    for line in lines {
        assert!(!line.contains("@people.example"), "an address in the log: {line}");
        assert!(!line.contains("panicked"), "{line}");
    }
}

/// SIGTERM under load: what is under way is finished, the rest given back, and nothing is doubled at all.
#[tokio::test(flavor = "multi_thread")]
async fn terminated_under_load_it_loses_and_doubles_nothing() {
    // A pace that leaves deliveries waiting in memory whenever it ends.
    let mut setup = narrow().with("channel.sms.rate", &200).with("channel.email.rate", &2000);
    let mut producers = Producers::new();
    let lives = if is_long() { 30 } else { 3 };
    for producer in 0..4 {
        producers.start_mix(&format!("p{producer}"), 13 * lives, (producer == 0).then_some(LARGE));
    }
    let mut given_back = 0;
    for life in 1..=lives {
        let daemon = setup.start().await;
        producers.use_daemon(&daemon);
        producers.acknowledged(life * producers.wanted() / (lives + 1)).await;
        let ended = daemon.terminate().await;
        assert_eq!(ended.code, Some(0), "{}", daemon.process.lines().join("\n"));
        let drained = &daemon.events("daemon drained")[0];
        assert_eq!(drained["interrupted"], 0);
        given_back += drained["given_back"].as_u64().unwrap();
        check_log(&daemon.process.lines());
        let store = StoreFile::open(&setup.store_path());
        assert_eq!(store.number("SELECT count(*) FROM deliveries WHERE status = 0 AND lease_owner <> 0"), 0, "leases kept");
        assert_eq!(store.number("SELECT count(*) FROM deliveries WHERE status = 1"), 0, "attempts left open");
    }
    assert!(given_back > 0, "nothing waited in memory: this proved nothing");
    // From here on at full speed.
    setup.set("channel.sms.rate", &100_000);
    let daemon = setup.start().await;
    producers.use_daemon(&daemon);
    let figures = producers.check(&setup, &daemon).await;
    assert_eq!((figures.duplicates, figures.unknown_outcomes), (0, 0));
}

/// While it drains it says so, takes nothing more, and a second signal ends it at once.
#[tokio::test(flavor = "multi_thread")]
async fn terminated_twice_it_ends_at_once() {
    let (mut setup, _stuck) = with_stuck_provider();
    let daemon = setup.start().await;
    daemon.api.post("/v1/jobs", &job("stuck", &[recipient("42")], &["email"])).await.expect(202);
    daemon.job_when("stuck", |job| job["deliveries"][0]["status"] == "sending").await;
    daemon.process.signal("TERM");
    daemon
        .process
        .until("it is no longer ready", async || {
            let answer = daemon.api.get("/readyz").await;
            (answer.status == 503 && answer.body["reasons"] == json!(["draining"])).then_some(())
        })
        .await;
    let refused = daemon.api.post("/v1/jobs", &job("late", &[recipient("42")], &["email"])).await;
    refused.expect_problem(503, "unavailable");
    assert_eq!(daemon.process.has_ended(), None, "it waits for what is under way");
    let asked = std::time::Instant::now();
    daemon.process.signal("TERM");
    let ended = daemon.process.end().await;
    // Its own deadline is ten minutes: whatever ended it, that was not it.
    assert!(asked.elapsed() < std::time::Duration::from_mins(1));
    assert_eq!(ended.signal, None, "{ended:?}");
    let store = StoreFile::open(&setup.store_path());
    assert_eq!(store.number("SELECT count(*) FROM attempts WHERE outcome = 'unknown'"), 1);
    assert_eq!(store.number("SELECT count(*) FROM deliveries WHERE status = 1"), 0);
}

/// Calls still open at the drain's deadline are recorded as unknown.
#[tokio::test(flavor = "multi_thread")]
async fn past_the_deadline_open_calls_are_unknown() {
    let (setup, _stuck) = with_stuck_provider();
    let mut setup = setup.with("shutdown.drain", "100ms");
    let daemon = setup.start().await;
    daemon.api.post("/v1/jobs", &job("stuck", &[recipient("42")], &["email"])).await.expect(202);
    daemon.job_when("stuck", |job| job["deliveries"][0]["status"] == "sending").await;
    assert_eq!(daemon.terminate().await.signal, None);
    assert_eq!(daemon.events("daemon drained")[0]["interrupted"], 1);
    let store = StoreFile::open(&setup.store_path());
    assert_eq!(store.number("SELECT count(*) FROM attempts WHERE outcome = 'unknown' AND code = 'interrupted'"), 1);
    assert_eq!(store.number("SELECT count(*) FROM deliveries WHERE status = 0 AND lease_owner = 0"), 1, "queued again");
}

/// An outbox whose record is a pipe that is full and that nobody reads: every attempt hangs.
fn with_stuck_provider() -> (Setup, std::fs::File) {
    let setup = Setup::new().with("shutdown.drain", "10m");
    let (pipe, both) = full_pipe(setup.folder());
    let setup = setup.with("provider.outbox.record_file", &pipe.display());
    (setup, both)
}

/// A pipe that takes nothing more, while it is held open.
pub fn full_pipe(folder: &Path) -> (PathBuf, std::fs::File) {
    use std::io::Write as _;
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open for both, so that opening waits for nobody.
    let mut both = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let full = pipe_capacity();
    both.write_all(&vec![b'\n'; full]).unwrap();
    (pipe, both)
}

/// Bytes a pipe takes (pipe(7)): 16 pages.
fn pipe_capacity() -> usize {
    16 * 4096
}

/// `on_unknown = "fail"`: what may have been sent is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcomes_fail_where_that_was_chosen() {
    for point in ["attempt-recorded", "provider-accepted", "outcome-before-commit"] {
        let mut setup = Setup::new().with_quick_retries().with("channel.email.on_unknown", "fail");
        let mut producers = Producers::new();
        let Ok(daemon) = setup.try_start(&[("TARISHI_ABORT_AT", point)]).await else { panic!("it was never ready") };
        producers.use_daemon(&daemon);
        producers.start(vec![job("once", &[recipient("42")], &["email"])]);
        assert_eq!(daemon.process.end().await.signal, Some(SIGABRT), "{point}");
        let daemon = setup.start().await;
        producers.use_daemon(&daemon);
        producers.finish().await;
        let job = daemon.finished("once").await;
        let delivery = &job["deliveries"][0];
        assert_eq!((&delivery["status"], &delivery["code"]), (&json!("failed"), &json!("unknown_outcome")), "{point}");
        let messages: u64 = setup.record().values().map(|(count, _)| count).sum();
        assert_eq!(messages, u64::from(point != "attempt-recorded"), "{point}");
        let audit = daemon.api.get("/v1/audit").await.expect(200);
        assert_eq!((&audit["balanced"], &audit["unknown_outcomes"]), (&json!(true), &json!(1)));
    }
}

/// One process holds the file; the second says who to ask and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_store_is_refused() {
    let mut setup = Setup::new();
    let first = setup.start().await;
    let mut second = Setup::new();
    second.set("store.url", &format!("sqlite:{}", setup.store_path().display()));
    let Err((process, ended)) = second.try_start(&[]).await else { panic!("both run") };
    assert_eq!(ended.code, Some(1));
    let told = process.lines().join("\n");
    assert!(told.contains("is held by another process") && told.contains("stop the other tarishi"), "{told}");
    first.api.post("/v1/jobs", &job("after", &[recipient("42")], &["email"])).await.expect(202);
    assert_eq!(first.finished("after").await["deliveries"][0]["status"], "sent");
    // With the first gone, however it went, the second may.
    first.process.kill().await;
    let second = second.start().await;
    assert_eq!(second.api.get("/v1/jobs/after").await.expect(200)["open"], 0);
}
