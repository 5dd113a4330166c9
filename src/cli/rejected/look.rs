//! `tarishi rejected list` and `show`: looking, and taking nothing away.

use std::collections::BTreeMap;

use super::{
    super::{
        failure::Failure,
        output::{self, count},
        settings::GlobalArgs,
    },
    Choice, Key, Keys, ListArgs, Pass, ShowArgs, resolve_numbers,
    show::{self, Everything, Summary},
};
use crate::amqp::Rejected;

pub async fn list(args: &ListArgs, mut pass: Pass) -> Result<(), Failure> {
    let (mut keys, mut found, mut newest) = (Keys::default(), 0_u32, BTreeMap::new());
    while let Some(message) = pass.next().await? {
        let key = Key::of(&message);
        keys.add(key);
        if args.reason.as_ref().is_none_or(|reason| *reason == message.reason()) {
            found += 1;
            newest.insert((key, found), Summary::of(&message, &pass.reader.ids(&message)));
            if found > args.limit {
                newest.pop_first();
            }
        }
    }
    let all = pass.queue.read();
    pass.close().await?;
    let keys = keys.in_order();
    let numbers = keys.numbers_of(newest.keys().map(|(key, _)| *key));
    let summaries = numbers.into_iter().zip(newest.into_values());
    if args.json {
        for (number, summary) in summaries {
            if output::print_to_reader(&summary.line(number).to_string())?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    let reason = args.reason.as_ref().map(|reason| format!(" as {reason}")).unwrap_or_default();
    if found == 0 {
        let others = if all == 0 { String::new() } else { format!("; {} in all", count(u64::from(all), "rejected message")) };
        return output::print(&format!("nothing is rejected{reason}{others}"));
    }
    let mut total = format!("{} rejected{reason}", count(u64::from(found), "message"));
    if found > args.limit {
        total = format!("the newest {} of {total}; --limit shows more", args.limit);
    }
    if all > found {
        total = format!("{total}; {all} in all");
    }
    output::print(&format!("{}\n{total}", show::table(summaries.map(|(number, summary)| summary.row(number)))))
}

pub async fn show(args: &ShowArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let mut choice = Choice::new(std::slice::from_ref(&args.which), None, None, false)?;
    resolve_numbers(&mut choice, global).await?;
    let mut pass = Pass::open(global).await?;
    let mut keys = Keys::default();
    let mut found: Option<(Key, Rejected)> = None;
    while let Some(message) = pass.next().await? {
        let key = Key::of(&message);
        keys.add(key);
        let is_newer = found.as_ref().is_none_or(|(newest, _)| *newest <= key);
        if choice.takes(&message, key, || pass.reader.ids(&message)) && is_newer {
            found = Some((key, message));
        }
    }
    let reader = pass.reader.clone();
    pass.close().await?;
    choice.check_all_found()?;
    let Some((key, message)) = found else { return Ok(()) };
    if args.raw {
        return output::print_bytes(&message.body).map(drop);
    }
    let number = choice.number().unwrap_or_else(|| keys.in_order().number_of(key));
    let everything = Everything::about(&message, number, &reader);
    if args.json { output::print_json(&everything) } else { output::print(&everything.told(&message, &reader)) }
}
