//! `tarishi rejected requeue` and `purge`: taking away what was chosen, and nothing else.

use std::io::{self, BufRead as _};

use serde_json::json;

use super::{
    super::{
        broker,
        failure::{Exit, Failure},
        output::{self, count},
        progress::Progress,
        settings::GlobalArgs,
    },
    Choice, Key, Pass, PurgeArgs, RequeueArgs, resolve_numbers,
};
use crate::amqp::JobPublisher;

pub async fn requeue(args: &RequeueArgs, mut choice: Choice, global: &GlobalArgs) -> Result<(), Failure> {
    resolve_numbers(&mut choice, global).await?;
    let mut pass = Pass::open(global).await?;
    let broker = pass.broker.clone();
    let publisher = JobPublisher::open(&broker).await.map_err(|error| broker::failed_to_publish(&broker, &error))?;
    let ended = requeue_chosen(&mut choice, &mut pass, &publisher).await;
    let requeued = u64::from(pass.queue.removed());
    publisher.close().await;
    let closed = pass.close().await;
    let so_far = |failure: Failure| {
        failure.with_more_hint(&format!("{} requeued before that, all others are still here", count(requeued, "message")))
    };
    ended.map_err(so_far)?;
    let left = closed.map_err(so_far)?;
    if args.json {
        output::print_json_line(&json!({ "requeued": requeued, "left": left }))?;
    } else {
        output::print(&format!("requeued {}; {left} left here", count(requeued, "message")))?;
    }
    choice.check_all_found()
}

/// One at a time: with several on their way, a return could be taken for another's.
async fn requeue_chosen(choice: &mut Choice, pass: &mut Pass, publisher: &JobPublisher) -> Result<(), Failure> {
    while !choice.is_exhausted() {
        let Some(message) = pass.next().await? else { break };
        if choice.takes(&message, Key::of(&message), || pass.reader.ids(&message)) {
            let place = message.place;
            let sent = publisher.publish(&[message.into_original()]).await;
            sent.map_err(|error| broker::failed_to_publish(&pass.broker, &error))?;
            fail::fail_point!("rejected-republished");
            pass.remove(place).await?;
        }
    }
    Ok(())
}

pub async fn purge(args: &PurgeArgs, mut choice: Choice, global: &GlobalArgs) -> Result<(), Failure> {
    resolve_numbers(&mut choice, global).await?;
    let mut pass = Pass::open(global).await?;
    let mut is_confirmed = args.yes;
    // All of them are counted already.
    if choice.is_all() && !is_confirmed && pass.queue.waiting() > 0 {
        confirm(pass.queue.waiting().into()).await?;
        is_confirmed = true;
    }
    let mut chosen = Vec::new();
    while !choice.is_exhausted() {
        let Some(message) = pass.next().await? else { break };
        if choice.takes(&message, Key::of(&message), || pass.reader.ids(&message)) {
            chosen.push(message.place);
        }
    }
    let removed = chosen.len() as u64;
    pass.progress = None;
    if !is_confirmed && removed > 0 {
        confirm(removed).await?;
    }
    let progress = Progress::of(removed, "removing");
    for place in chosen {
        pass.remove(place).await?;
        progress.add(1);
    }
    drop(progress);
    let left = pass.close().await?;
    if args.json {
        output::print_json_line(&json!({ "removed": removed, "left": left }))?;
    } else {
        output::print(&format!("removed {}; {left} left here", count(removed, "message")))?;
    }
    choice.check_all_found()
}

/// Asks the person at the keyboard. On a thread of its own, so that the broker hears from us meanwhile.
async fn confirm(number: u64) -> Result<(), Failure> {
    let question = format!("Remove {} for good? [y/N] ", count(number, "rejected message"));
    let answer = tokio::task::spawn_blocking(move || {
        output::ask(&question);
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    match answer.await {
        Ok(Ok(answer)) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was removed", "answer y, or give --yes")),
    }
}
