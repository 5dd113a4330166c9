//! A job's deliveries. Pure, and in a fixed order: the ordinal of a delivery is part of its id, and a large job is expanded again after a
//! restart.

use std::{collections::HashSet, sync::Arc};

use crate::model::{Address, Channel, ChannelSet, Locale, Recipient, Skipped, SkippedReason, TimeZone, Topic, UserId};

/// What is expanded: recipients already completed from contacts.
#[derive(Clone, Copy, Debug)]
pub struct Expand<'a> {
    pub recipients: &'a [Recipient],
    /// As the job asked; empty means all of `available`.
    pub channels: &'a [Channel],
    /// What the template has parts for.
    pub available: ChannelSet,
    pub topic: Option<&'a Topic>,
    pub push_topic: Option<&'a str>,
    pub push_condition: Option<&'a str>,
}

/// One delivery to be, in the order of its ordinal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub channel: Channel,
    pub user_id: Option<UserId>,
    pub address: Address,
    pub locale: Option<Locale>,
    pub timezone: Option<TimeZone>,
}

/// A job's deliveries and what none was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    pub deliveries: Vec<Planned>,
    pub skipped: Vec<Skipped>,
}

/// Every recipient x channel x address once: identical (user, channel, address) in one job are one delivery.
pub fn expand(job: Expand<'_>) -> Expanded {
    let channels = channels(job);
    let mut expanded = Expanded::default();
    let mut seen = HashSet::new();
    for target in push_targets(job) {
        let planned = Planned { channel: Channel::Push, user_id: None, address: target, locale: None, timezone: None };
        expanded.deliveries.push(planned);
    }
    if let Some(topic) = job.topic {
        if job.available.contains(Channel::Live) {
            let address = Address::Topic(topic.clone());
            let planned = Planned { channel: Channel::Live, user_id: None, address, locale: None, timezone: None };
            expanded.deliveries.push(planned);
        } else {
            expanded.skipped.push(Skipped { user_id: None, channel: Channel::Live, reason: SkippedReason::NoTemplatePart });
        }
    }
    for recipient in job.recipients {
        for &channel in &channels {
            let skip = |reason| Skipped { user_id: Some(recipient.user_id.clone()), channel, reason };
            if !job.available.contains(channel) {
                expanded.skipped.push(skip(SkippedReason::NoTemplatePart));
                continue;
            }
            let addresses = addresses(recipient, channel);
            if addresses.is_empty() {
                expanded.skipped.push(skip(SkippedReason::NoAddress));
            }
            for address in addresses {
                if seen.insert((recipient.user_id.clone(), channel, address.clone())) {
                    expanded.deliveries.push(Planned {
                        channel,
                        user_id: Some(recipient.user_id.clone()),
                        address,
                        locale: recipient.locale.clone(),
                        timezone: recipient.timezone,
                    });
                }
            }
        }
    }
    expanded
}

/// The channels asked for, each once, in the order asked.
fn channels(job: Expand<'_>) -> Vec<Channel> {
    if job.channels.is_empty() {
        return job.available.iter().collect();
    }
    let mut seen = ChannelSet::default();
    let mut channels = Vec::new();
    for &channel in job.channels {
        if !seen.contains(channel) {
            seen.insert(channel);
            channels.push(channel);
        }
    }
    channels
}

fn push_targets(job: Expand<'_>) -> impl Iterator<Item = Address> {
    let topic = job.push_topic.map(|topic| Address::PushTopic(Arc::from(topic)));
    let condition = job.push_condition.map(|condition| Address::PushCondition(Arc::from(condition)));
    topic.into_iter().chain(condition)
}

fn addresses(recipient: &Recipient, channel: Channel) -> Vec<Address> {
    match channel {
        Channel::Email => recipient.email.iter().cloned().map(Address::Email).collect(),
        Channel::Sms => recipient.phone.iter().cloned().map(Address::Phone).collect(),
        Channel::Push => recipient.push_tokens.iter().cloned().map(Address::PushToken).collect(),
        Channel::Live => vec![Address::Inbox],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recipient(user: &str, email: Option<&str>, tokens: &[&str]) -> Recipient {
        Recipient {
            user_id: user.parse().unwrap(),
            email: email.map(|email| email.parse().unwrap()),
            phone: None,
            push_tokens: tokens.iter().map(|token| token.parse().unwrap()).collect(),
            locale: None,
            timezone: None,
        }
    }

    fn all() -> ChannelSet {
        Channel::ALL.into_iter().collect()
    }

    fn job<'a>(recipients: &'a [Recipient], channels: &'a [Channel]) -> Expand<'a> {
        Expand { recipients, channels, available: all(), topic: None, push_topic: None, push_condition: None }
    }

    #[track_caller]
    fn check(job: Expand<'_>, deliveries: &[&str], skipped: &[&str]) {
        let expanded = expand(job);
        let written: Vec<String> = expanded
            .deliveries
            .iter()
            .map(|planned| {
                format!("{} {} {}", planned.user_id.as_ref().map_or("-", UserId::as_str), planned.channel, planned.address.as_stored())
            })
            .collect();
        assert_eq!(written, deliveries);
        let written: Vec<String> = expanded
            .skipped
            .iter()
            .map(|skipped| format!("{} {} {:?}", skipped.user_id.as_ref().map_or("-", UserId::as_str), skipped.channel, skipped.reason))
            .collect();
        assert_eq!(written, skipped);
    }

    #[test]
    fn each_recipient_channel_and_address_is_one_delivery() {
        use Channel::{Email, Live, Push, Sms};
        let asha = recipient("42", Some("asha@example.com"), &["t1", "t2", "t1"]);
        check(
            job(std::slice::from_ref(&asha), &[Live, Push, Email]),
            &["42 live ", "42 push t1", "42 push t2", "42 email asha@example.com"],
            &[],
        );
        check(job(&[asha.clone(), asha.clone()], &[Email, Email]), &["42 email asha@example.com"], &[]);
        check(job(&[recipient("7", None, &[])], &[Email, Sms, Live]), &["7 live "], &["7 email NoAddress", "7 sms NoAddress"]);
        let only_sms = Expand { available: [Sms].into_iter().collect(), ..job(std::slice::from_ref(&asha), &[Live]) };
        check(only_sms, &[], &["42 live NoTemplatePart"]);
        let default_channels = Expand { available: [Email, Live].into_iter().collect(), ..job(std::slice::from_ref(&asha), &[]) };
        check(default_channels, &["42 email asha@example.com", "42 live "], &[]);
        check(Expand { push_topic: Some("city.dar"), ..job(&[], &[Push]) }, &["- push topic city.dar"], &[]);
        let everyone = Topic::everyone();
        check(Expand { topic: Some(&everyone), ..job(&[], &[]) }, &["- live *"], &[]);
        check(Expand { topic: Some(&everyone), available: [Sms].into_iter().collect(), ..job(&[], &[]) }, &[], &["- live NoTemplatePart"]);
    }

    proptest! {
        #[test]
        fn expansion_is_deterministic_without_repeats_and_complete(
            people in proptest::collection::vec((0_u8..6, proptest::option::of(0_u8..4), proptest::collection::vec(0_u8..4, 0..4)), 0..20),
            channels in proptest::collection::vec(prop_oneof![Just(Channel::Email), Just(Channel::Push), Just(Channel::Live), Just(Channel::Sms)], 0..5),
        ) {
            let recipients: Vec<Recipient> = people.iter().map(|(user, email, tokens)| {
                let tokens: Vec<String> = tokens.iter().map(|token| format!("t{token}")).collect();
                let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
                recipient(&user.to_string(), email.map(|email| format!("{email}@example.com")).as_deref(), &tokens)
            }).collect();
            let expanded = expand(job(&recipients, &channels));
            prop_assert_eq!(&expanded, &expand(job(&recipients, &channels)));
            let unique: HashSet<_> = expanded.deliveries.iter().map(|planned| (planned.user_id.clone(), planned.channel, planned.address.clone())).collect();
            prop_assert_eq!(unique.len(), expanded.deliveries.len());
            let wanted = if channels.is_empty() { Channel::ALL.to_vec() } else { channels.clone() };
            for recipient in &recipients {
                for channel in &wanted {
                    let told = expanded.deliveries.iter().any(|planned| planned.user_id.as_ref() == Some(&recipient.user_id) && planned.channel == *channel);
                    let skipped = expanded.skipped.iter().any(|skipped| skipped.user_id.as_ref() == Some(&recipient.user_id) && skipped.channel == *channel);
                    prop_assert!(told || skipped);
                }
            }
        }
    }
}
