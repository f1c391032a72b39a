//! The header by which a proxy says whom it speaks for: PROXY protocol, versions 1 and 2 (HAProxy,
//! doc/proxy-protocol.txt); and the one that we say to a proxy of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whom a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(SocketAddr),
    /// The proxy itself, to see whether we are well, or it does not know.
    Proxy,
}

/// How to go on with a header of which some octets are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more octets belong to it for certain: what stands behind it is the client's.
    Need(usize),
    Done(Origin),
}

/// No header of the PROXY protocol, or one for something else than a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Writes the header of version 2 that has a proxy connect from `source` to `destination`. `None`
/// where they are of different families, which no header can say.
pub fn header(source: IpAddr, destination: SocketAddr) -> Option<Vec<u8>> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match (source, destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend_from_slice(&[TCP_OVER_IPV4, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend_from_slice(&[TCP_OVER_IPV6, 0, 36]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
        }
        _ => return None,
    }
    // Which port it connects from is for the proxy to choose.
    header.extend_from_slice(&[0, 0]);
    header.extend_from_slice(&destination.port().to_be_bytes());
    Some(header)
}

/// Looks at the octets that came so far, from the first on: no more than earlier steps asked for.
pub fn next(header: &[u8]) -> Result<Step, Malformed> {
    let start = header.len().min(SIGNATURE.len());
    if header[..start] == SIGNATURE[..start] && !header.is_empty() {
        return version_2(header);
    }
    let start = header.len().min(VERSION_1.len());
    if header[..start] != VERSION_1[..start] {
        return Err(Malformed);
    }
    version_1(header)
}

fn version_1(header: &[u8]) -> Result<Step, Malformed> {
    if header.len() < LINE_BYTES_MIN {
        return Ok(Step::Need(LINE_BYTES_MIN - header.len()));
    }
    let Some(line) = header.strip_suffix(b"\r\n") else {
        // From here on octet by octet: nobody knows how long the line is.
        return if header.len() < LINE_BYTES_MAX { Ok(Step::Need(1)) } else { Err(Malformed) };
    };
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let (source, port) = match words[..] {
        ["PROXY", "UNKNOWN", ..] => return Ok(Step::Done(Origin::Proxy)),
        ["PROXY", "TCP4", source, destination, port, of_destination] => {
            let _: Ipv4Addr = destination.parse().map_err(|_| Malformed)?;
            let _: u16 = of_destination.parse().map_err(|_| Malformed)?;
            (IpAddr::V4(source.parse().map_err(|_| Malformed)?), port)
        }
        ["PROXY", "TCP6", source, destination, port, of_destination] => {
            let _: Ipv6Addr = destination.parse().map_err(|_| Malformed)?;
            let _: u16 = of_destination.parse().map_err(|_| Malformed)?;
            (IpAddr::V6(source.parse().map_err(|_| Malformed)?), port)
        }
        _ => return Err(Malformed),
    };
    let port = port.parse().map_err(|_| Malformed)?;
    Ok(Step::Done(Origin::Client(SocketAddr::new(source.to_canonical(), port))))
}

fn version_2(header: &[u8]) -> Result<Step, Malformed> {
    let Some((fixed, rest)) = header.split_at_checked(FIXED_BYTES) else {
        return Ok(Step::Need(FIXED_BYTES - header.len()));
    };
    let bytes = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if bytes > ADDRESSES_BYTES_MAX {
        return Err(Malformed);
    }
    if rest.len() < bytes {
        return Ok(Step::Need(bytes - rest.len()));
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let origin = match (fixed[12], fixed[13]) {
        (LOCAL, _) | (PROXY, UNSPECIFIED) => Origin::Proxy,
        (PROXY, TCP_OVER_IPV4) if bytes >= 12 => {
            let source: [u8; 4] = rest[..4].try_into().expect("looked at above");
            Origin::Client(SocketAddr::new(Ipv4Addr::from(source).into(), port(8)))
        }
        (PROXY, TCP_OVER_IPV6) if bytes >= 36 => {
            let source: [u8; 16] = rest[..16].try_into().expect("looked at above");
            let source = IpAddr::V6(Ipv6Addr::from(source)).to_canonical();
            Origin::Client(SocketAddr::new(source, port(32)))
        }
        _ => return Err(Malformed),
    };
    Ok(Step::Done(origin))
}

const VERSION_1: &[u8] = b"PROXY ";
/// `PROXY UNKNOWN` and its end.
const LINE_BYTES_MIN: usize = 15;
const LINE_BYTES_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const FIXED_BYTES: usize = 16;
/// Addresses and what else a proxy says; real ones say some hundred octets.
const ADDRESSES_BYTES_MAX: usize = 4096;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the steps over `input`; what was found, and how much of it was taken.
    fn read(input: &[u8]) -> Result<Option<(Origin, usize)>, Malformed> {
        let mut taken = 0;
        loop {
            match next(&input[..taken])? {
                Step::Done(origin) => return Ok(Some((origin, taken))),
                Step::Need(count) if taken + count <= input.len() => taken += count,
                Step::Need(_) => return Ok(None),
            }
        }
    }

    fn check(header: &[u8], expected: Result<Origin, Malformed>) {
        let input = [header, b"EHLO x\r\n"].concat();
        let expected = expected.map(|origin| Some((origin, header.len())));
        assert_eq!(read(&input), expected, "{}", header.escape_ascii());
        for cut in 0..header.len() {
            let found = read(&header[..cut]);
            assert!(
                found == Ok(None) || (expected == Err(Malformed) && found == expected),
                "{} cut at {cut}: {found:?}",
                header.escape_ascii()
            );
        }
    }

    fn client(text: &str) -> Result<Origin, Malformed> {
        Ok(Origin::Client(text.parse().expect("an address")))
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, [command, family].as_slice(), &length, rest].concat()
    }

    #[test]
    fn a_line_names_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n";
        check(line, client("192.0.2.7:4711"));
        check(b"PROXY TCP6 2001:db8::7 ::1 4711 25\r\n", client("[2001:db8::7]:4711"));
        check(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 25\r\n", client("192.0.2.7:4711"));
        check(b"PROXY UNKNOWN\r\n", Ok(Origin::Proxy));
        check(b"PROXY UNKNOWN what ever it says\r\n", Ok(Origin::Proxy));
        for wrong in [
            b"PROXY TCP4 192.0.2.7 127.0.0.1 4711\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 99999\r\n",
            b"PROXY TCP4 2001:db8::7 127.0.0.1 4711 25\r\n",
            b"PROXY  TCP4 192.0.2.7 127.0.0.1 4711 25\r\n",
            b"PROXY UDP4 192.0.2.7 127.0.0.1 4711 25\r\n",
            b"EHLO client.test\r\n",
        ] {
            let found = read(&[wrong, b"x"].concat());
            assert_eq!(found, Err(Malformed), "{}", wrong.escape_ascii());
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(read(&endless), Err(Malformed));
    }

    #[test]
    fn a_binary_header_names_the_client() {
        let of_four = [192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x67, 0, 25];
        check(&binary(PROXY, TCP_OVER_IPV4, &of_four), client("192.0.2.7:4711"));
        // More is said behind the addresses.
        let more = [&of_four[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        check(&binary(PROXY, TCP_OVER_IPV4, &more), client("192.0.2.7:4711"));
        let mut of_six = [0; 36];
        of_six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        of_six[15] = 7;
        of_six[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        check(&binary(PROXY, TCP_OVER_IPV6, &of_six), client("[2001:db8::7]:4711"));
        check(&binary(LOCAL, UNSPECIFIED, &[]), Ok(Origin::Proxy));
        check(&binary(LOCAL, TCP_OVER_IPV4, &of_four), Ok(Origin::Proxy));
        check(&binary(PROXY, UNSPECIFIED, b"x"), Ok(Origin::Proxy));
        for wrong in [
            binary(PROXY, TCP_OVER_IPV4, &of_four[..11]),
            binary(PROXY, TCP_OVER_IPV6, &of_four),
            binary(PROXY, 0x12, &of_four),
            binary(0x31, TCP_OVER_IPV4, &of_four),
            binary(PROXY, TCP_OVER_IPV4, &[0; ADDRESSES_BYTES_MAX + 1]),
        ] {
            assert_eq!(read(&wrong), Err(Malformed), "{}", wrong[12..].escape_ascii());
        }
    }

    #[test]
    fn what_is_written_reads_back_and_says_where_to() {
        let written = |source: &str, destination: &str| {
            let source = source.parse().expect("an address");
            header(source, destination.parse().expect("an address"))
        };
        let of_four = written("192.0.2.7", "198.51.100.1:25").expect("one family");
        check(&of_four, client("192.0.2.7:0"));
        assert_eq!(of_four[FIXED_BYTES..], [192, 0, 2, 7, 198, 51, 100, 1, 0, 0, 0, 25]);
        let of_six = written("2001:db8::7", "[2001:db8::9]:4711").expect("one family");
        check(&of_six, client("[2001:db8::7]:0"));
        assert_eq!(of_six[FIXED_BYTES + 31..], [9, 0, 0, 0x12, 0x67]);
        assert_eq!(written("192.0.2.7", "[::1]:25"), None);
        assert_eq!(written("::1", "192.0.2.7:25"), None);
    }
}
