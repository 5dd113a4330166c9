//! The header of the PROXY protocol, versions 1 and 2, as `doc/proxy-protocol.txt` of `HAProxy` has it. Strict: what is not exactly that is
//! refused, and not a byte of what follows is read.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a header of version 2 begins with. One of version 1 is at least as long.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, with the CRLF that ends it (section 2.1).
const V1_LIMIT: usize = 107;
/// Longest remainder of a header of version 2 that is taken. Addresses need at most 216 bytes; what clouds and TLS add stays well below.
const V2_LIMIT: usize = 4096;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;
/// Bytes of both addresses and both ports.
const IPV4_LENGTH: usize = 12;
const IPV6_LENGTH: usize = 36;

/// What came in place of a header.
#[derive(Debug, Error)]
pub(super) enum BadHeader {
    #[error("not a header of the PROXY protocol")]
    Malformed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header and gives the client's address; `None` when the proxy speaks for itself or for somebody without an address.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, BadHeader> {
    let mut start = [0; V2_SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == V2_SIGNATURE { read_v2(stream).await } else { read_v1(stream, start).await }
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin), start: [u8; V2_SIGNATURE.len()]) -> Result<Option<IpAddr>, BadHeader> {
    if !start.starts_with(b"PROXY ") {
        return Err(BadHeader::Malformed);
    }
    let mut line = Vec::with_capacity(V1_LIMIT);
    line.extend_from_slice(&start);
    // Byte by byte, so that what follows stays where it is. Proxies that are asked for speed speak version 2.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_LIMIT {
            return Err(BadHeader::Malformed);
        }
        line.push(stream.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").and_then(|line| str::from_utf8(line).ok());
    parse_v1(line.ok_or(BadHeader::Malformed)?)
}

/// The line without its end.
fn parse_v1(line: &str) -> Result<Option<IpAddr>, BadHeader> {
    let parts: Vec<&str> = line.split(' ').collect();
    let (family, source, destination, both_ports) = match parts[..] {
        ["PROXY", "UNKNOWN", ..] => return Ok(None),
        ["PROXY", family, source, destination, source_port, destination_port] => {
            (family, source, destination, [source_port, destination_port])
        }
        _ => return Err(BadHeader::Malformed),
    };
    let source = match family {
        "TCP4" => same_family::<Ipv4Addr>(source, destination).map(IpAddr::V4),
        "TCP6" => same_family::<Ipv6Addr>(source, destination).map(IpAddr::V6),
        _ => None,
    };
    source.filter(|_| both_ports.into_iter().all(is_port)).map(Some).ok_or(BadHeader::Malformed)
}

fn same_family<A: FromStr>(source: &str, destination: &str) -> Option<A> {
    destination.parse::<A>().ok()?;
    source.parse().ok()
}

/// A number as section 2.1 writes it: no sign, no leading zeros.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0')) && text.parse::<u16>().is_ok()
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, BadHeader> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, LOCAL | PROXY) || length > V2_LIMIT {
        return Err(BadHeader::Malformed);
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    if command == LOCAL {
        return Ok(None);
    }
    parse_v2(family, &rest)
}

/// The source in what follows the fixed part.
fn parse_v2(family: u8, rest: &[u8]) -> Result<Option<IpAddr>, BadHeader> {
    let source = match family {
        UNSPECIFIED | UNIX_STREAM => return Ok(None),
        TCP_OVER_IPV4 if rest.len() >= IPV4_LENGTH => rest.first_chunk::<4>().map(|source| IpAddr::from(*source)),
        TCP_OVER_IPV6 if rest.len() >= IPV6_LENGTH => rest.first_chunk::<16>().map(|source| IpAddr::from(*source)),
        _ => None,
    };
    source.map(Some).ok_or(BadHeader::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MALFORMED: Result<Option<&str>, ()> = Err(());

    /// What it makes of `bytes`, and that it leaves the whole request behind them.
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<&str>, ()>) {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let sent = [bytes, REQUEST].concat();
        let mut left = sent.as_slice();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(read(&mut left));
        let expected = expected.map(|source| source.map(|source| source.parse::<IpAddr>().unwrap()));
        assert_eq!(found.as_ref().ok().copied(), expected.ok(), "{:?}: {found:?}", String::from_utf8_lossy(bytes));
        if found.is_ok() {
            assert_eq!(left, REQUEST, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn version_1() {
        let check = |line: &str, expected| check(line.as_bytes(), expected);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Ok(Some("192.0.2.1")));
        check("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Ok(Some("255.255.255.255")));
        check("PROXY TCP6 2001:db8::1 ::1 0 1\r\n", Ok(Some("2001:db8::1")));
        check("PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", MALFORMED);
        check("PROXY UNKNOWN\r\n", Ok(None));
        check("PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", Ok(None));
        check("PROXY UNKNOWNS\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n", MALFORMED);
        check("PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 +6324 443\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 198.51.100.1 1 \r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.01 198.51.100.1 1 1\r\n", MALFORMED);
        check("PROXY TCP4 2001:db8::1 ::1 1 1\r\n", MALFORMED);
        check("PROXY TCP6 192.0.2.1 198.51.100.1 1 1\r\n", MALFORMED);
        check("PROXY TCP4 192.0.2.1 ::1 1 1\r\n", MALFORMED);
        check("PROXY UDP4 192.0.2.1 198.51.100.1 1 1\r\n", MALFORMED);
        check("proxy TCP4 192.0.2.1 198.51.100.1 1 1\r\n", MALFORMED);
        check(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LIMIT - 16)), Ok(None));
        check(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LIMIT - 15)), MALFORMED);
        check("GET / HTTP/1.1\r\nHost: test\r\n\r\n", MALFORMED);
        check("PROXY ", MALFORMED);
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    #[test]
    fn version_2() {
        let ipv4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        let ipv6 = [&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        let more = [&ipv4[..], b"\x04\x00\x03abc"].concat();
        check(&v2(PROXY, TCP_OVER_IPV4, &ipv4), Ok(Some("192.0.2.1")));
        check(&v2(PROXY, TCP_OVER_IPV4, &more), Ok(Some("192.0.2.1")));
        check(&v2(PROXY, TCP_OVER_IPV6, &ipv6), Ok(Some("2001:db8::1")));
        check(&v2(PROXY, UNIX_STREAM, &[0; 216]), Ok(None));
        check(&v2(PROXY, UNSPECIFIED, &[]), Ok(None));
        check(&v2(LOCAL, UNSPECIFIED, &[]), Ok(None));
        check(&v2(LOCAL, TCP_OVER_IPV4, &ipv4), Ok(None));
        check(&v2(PROXY, UNSPECIFIED, &[0; V2_LIMIT]), Ok(None));
        check(&v2(PROXY, UNSPECIFIED, &[0; V2_LIMIT + 1]), MALFORMED);
        check(&v2(PROXY, TCP_OVER_IPV4, &ipv4[..11]), MALFORMED);
        check(&v2(PROXY, TCP_OVER_IPV6, &ipv6[..35]), MALFORMED);
        check(&v2(PROXY, 0x12, &ipv4), MALFORMED);
        check(&v2(0x22, TCP_OVER_IPV4, &ipv4), MALFORMED);
        check(&v2(0x11, TCP_OVER_IPV4, &ipv4), MALFORMED);
        check(&V2_SIGNATURE[..11], MALFORMED);
    }
}
