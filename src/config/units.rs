//! How values with units are written: durations (`"30s"`), sizes (`"64 KiB"`), addresses to listen on (`"127.0.0.1:8000"`).
//!
//! The crates that parse them say little about what they wanted; here each refusal carries a hint.

/// A `Duration`, read by humantime.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer, de::Error};

    const UNITS: [(u128, &str); 6] =
        [(86_400_000_000_000, "d"), (3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1, "ns")];

    /// In one unit, as in `default.toml`: humantime would write 90 days as `2months 29days 2h 52m 48s`.
    pub fn written(duration: Duration) -> String {
        let nanoseconds = duration.as_nanos();
        match UNITS.iter().find(|(unit, _)| nanoseconds >= *unit && nanoseconds.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", nanoseconds / unit),
            None => "0s".to_owned(),
        }
    }

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime_serde::deserialize(deserializer)
            .map_err(|_| D::Error::custom("not a duration; hint: write it with its unit, such as \"30s\", \"2m\" or \"1h 30m\""))
    }
}

/// A list of them.
pub(super) mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Written(#[serde(with = "super::duration")] Duration);

    pub fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(durations.iter().map(|duration| Written(*duration)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Written>::deserialize(deserializer)?.into_iter().map(|Written(duration)| duration).collect())
    }
}

/// A `ByteSize`, written back without rounding.
pub(super) mod size {
    use bytesize::ByteSize;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

    pub fn written(size: ByteSize) -> String {
        let bytes = size.as_u64();
        match UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{} {name}", bytes / unit),
            None => format!("{bytes} B"),
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `with` calls it with a reference")]
    pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(*size))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        ByteSize::deserialize(deserializer)
            .map_err(|_| D::Error::custom("not a size; hint: write it with its unit, such as \"64 KiB\" or \"4 MiB\""))
    }
}

/// A `SocketAddr` to listen on.
pub(super) mod listen {
    use std::{borrow::Cow, net::SocketAddr};

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        address.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let refused = "not an IP address and port; hint: write it like \"127.0.0.1:8000\" or \"[::1]:8000\"";
        let text = <Cow<'de, str>>::deserialize(deserializer).map_err(|_| D::Error::custom(refused))?;
        text.parse().map_err(|_| D::Error::custom(refused))
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use serde_json::json;

    #[track_caller]
    fn check_size(text: &str, bytes: u64, written: &str) {
        let size = super::size::deserialize(json!(text)).unwrap();
        assert_eq!((size, super::size::written(size).as_str()), (ByteSize(bytes), written));
    }

    #[test]
    fn sizes_are_written_back_exactly() {
        check_size("64 KiB", 65536, "64 KiB");
        check_size("1.5 MiB", 1_572_864, "1536 KiB");
        check_size("4 KB", 4000, "4000 B");
        check_size("0", 0, "0 B");
        check_size("1 GiB", 1 << 30, "1 GiB");
    }

    #[track_caller]
    fn check_duration(text: &str, written: &str) {
        let duration = super::duration::deserialize(json!(text)).unwrap();
        assert_eq!(super::duration::written(duration), written);
        assert_eq!(super::duration::deserialize(json!(written)).unwrap(), duration);
    }

    #[test]
    fn durations_are_written_back_exactly() {
        check_duration("90d", "90d");
        check_duration("60s", "1m");
        check_duration("1h 30m", "90m");
        check_duration("1500ms", "1500ms");
        check_duration("1us 1ns", "1001ns");
        check_duration("0s", "0s");
    }

    #[test]
    fn refusals_carry_hints() {
        let told = |error: serde_json::Error| error.to_string();
        assert!(super::size::deserialize(json!("64 XB")).map_err(told).unwrap_err().contains("; hint: "));
        assert!(super::duration::deserialize(json!("30")).map_err(told).unwrap_err().contains("; hint: "));
        assert!(super::duration::deserialize(json!(30)).map_err(told).unwrap_err().contains("; hint: "));
        assert!(super::durations::deserialize(json!(["30s", "soon"])).map_err(told).unwrap_err().contains("; hint: "));
        assert!(super::listen::deserialize(json!("localhost:8000")).map_err(told).unwrap_err().contains("; hint: "));
    }
}
