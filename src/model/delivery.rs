//! The unit of sending, retrying, deduplicating and reporting.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{Address, Channel, Envelope, JobId, Locale, Priority, TimeZone, Timestamp, UserId};

/// Where a delivery stands in the store: its job's row and its place among the job's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    pub job: i64,
    pub ordinal: u32,
}

/// A delivery's id: the same for the same job on every machine and every run.
///
/// 96 bits of SHA-256 over the job id, then the delivery's ordinal among the job's deliveries, as 32 hex digits.
/// The first part finds the job, the second the delivery within it, so that deliveries are stored in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    pub job_key: [u8; 12],
    pub ordinal: u32,
}

impl DeliveryId {
    pub const fn new(job_key: [u8; 12], ordinal: u32) -> Self {
        Self { job_key, ordinal }
    }

    /// The part of the id that all deliveries of one job share.
    pub fn job_key(job: &JobId) -> [u8; 12] {
        let digest = Sha256::digest(job.as_str());
        let mut key = [0; 12];
        key.copy_from_slice(&digest[..12]);
        key
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 32];
        let bytes = self.job_key.iter().copied().chain(self.ordinal.to_be_bytes());
        for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&hex).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for DeliveryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || "not a delivery id; hint: 32 lower-case hex digits".to_owned();
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut job_key = [0; 12];
        for (index, byte) in job_key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
        }
        let ordinal = u32::from_str_radix(&text[24..], 16).map_err(|_| bad())?;
        Ok(Self { job_key, ordinal })
    }
}

impl schemars::JsonSchema for DeliveryId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DeliveryId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{32}$" })
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One job x one recipient x one channel x one address, as a lane holds it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub key: DeliveryKey,
    pub id: DeliveryId,
    /// What it shares with the job's other deliveries.
    pub job: Arc<Envelope>,
    pub channel: Channel,
    pub priority: Priority,
    /// Absent for a push topic or condition.
    pub user_id: Option<UserId>,
    pub address: Address,
    pub locale: Option<Locale>,
    pub timezone: Option<TimeZone>,
    /// Attempts recorded so far.
    pub attempts: u32,
    /// The only provider that may try: an outcome of its is unknown, and another could send twice.
    pub pinned: Option<Arc<str>>,
    /// Not before this moment.
    pub due_at: Timestamp,
    /// No attempt after this moment: the job's own `expires_at` or the channel's, whichever is earlier.
    pub expires_at: Timestamp,
}

/// An address a job asked for that no delivery was made for, kept with the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Skipped {
    pub user_id: Option<UserId>,
    pub channel: Channel,
    pub reason: SkippedReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkippedReason {
    /// Neither the job nor the contact has an address for this channel.
    NoAddress,
    /// The template has no part for this channel.
    NoTemplatePart,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_deterministic_and_round_trip() {
        let job: JobId = "order-8841-shipped".parse().expect("valid");
        let id = DeliveryId::new(DeliveryId::job_key(&job), 3);
        // Golden: stored and sent out to providers, so it must never change.
        assert_eq!(id.to_string(), "2887cd60328a2aac9c2de57b00000003");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("0".parse::<DeliveryId>().is_err());
        assert!("+".repeat(32).parse::<DeliveryId>().is_err());
    }
}
