//! The client's half of SOCKS 5 (RFC 1928), with name and password where a proxy wants them
//! (RFC 1929): a connection to somebody else through the proxy.

use std::net::SocketAddr;

use super::sasl::Credentials;

/// How to go on with a message of the proxy of which some octets are there.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more octets belong to it for certain: what stands behind it is somebody else's.
    Need(usize),
    /// Write this; another message of the proxy follows.
    Send(Vec<u8>),
    /// What is written and read from now on is between us and the other end.
    Connected,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No SOCKS 5.
    Malformed,
    /// It wants another way to say who we are.
    NoMethod,
    /// It does not know us.
    Login,
    /// It has a problem of its own, or does not let us: the code of RFC 1928 §6.
    Proxy(u8),
    /// The other end cannot be reached: the code of RFC 1928 §6.
    Unreachable(u8),
}

/// One connection to be made.
pub struct Client<'c> {
    destination: SocketAddr,
    credentials: Option<&'c Credentials>,
    awaits: Awaits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Method,
    Login,
    Connection,
}

impl<'c> Client<'c> {
    /// With `credentials` the proxy may choose whether it wants them. Name and password have at
    /// most `SECRET_BYTES_MAX` octets.
    pub fn new(destination: SocketAddr, credentials: Option<&'c Credentials>) -> Self {
        let is_right = |text: &str| (1..=SECRET_BYTES_MAX).contains(&text.len());
        assert!(credentials.is_none_or(|it| is_right(&it.name) && is_right(&it.password)));
        Self { destination, credentials, awaits: Awaits::Method }
    }

    /// What to say first.
    pub fn greeting(&self) -> &'static [u8] {
        match self.credentials {
            Some(_) => &[VERSION, 2, NO_LOGIN, NAME_AND_PASSWORD],
            None => &[VERSION, 1, NO_LOGIN],
        }
    }

    /// Whether the proxy was asked for the connection: what it does not answer may be the fault of
    /// the other end.
    pub fn has_asked(&self) -> bool {
        self.awaits == Awaits::Connection
    }

    /// Looks at the octets of the proxy's next message that came so far: no more than earlier steps
    /// asked for.
    pub fn next(&mut self, message: &[u8]) -> Result<Step, Refusal> {
        let &[version, answer, ref rest @ ..] = message else {
            return Ok(Step::Need(2 - message.len()));
        };
        let expected = if self.awaits == Awaits::Login { LOGIN_VERSION } else { VERSION };
        if version != expected {
            return Err(Refusal::Malformed);
        }
        match (self.awaits, answer) {
            (Awaits::Method, NO_LOGIN) => Ok(Step::Send(self.ask())),
            (Awaits::Method, NAME_AND_PASSWORD) => {
                let credentials = self.credentials.ok_or(Refusal::Malformed)?;
                self.awaits = Awaits::Login;
                Ok(Step::Send(login(credentials)))
            }
            (Awaits::Method, NO_METHOD) => Err(Refusal::NoMethod),
            (Awaits::Method, _) => Err(Refusal::Malformed),
            (Awaits::Login, SUCCEEDED) => Ok(Step::Send(self.ask())),
            (Awaits::Login, _) => Err(Refusal::Login),
            (Awaits::Connection, SUCCEEDED) => connected(rest),
            (Awaits::Connection, code @ 3..=6) => Err(Refusal::Unreachable(code)),
            (Awaits::Connection, code) => Err(Refusal::Proxy(code)),
        }
    }

    /// CONNECT.
    fn ask(&mut self) -> Vec<u8> {
        self.awaits = Awaits::Connection;
        let mut message = vec![VERSION, CONNECT, 0];
        match self.destination {
            SocketAddr::V4(address) => {
                message.push(IPV4);
                message.extend_from_slice(&address.ip().octets());
            }
            SocketAddr::V6(address) => {
                message.push(IPV6);
                message.extend_from_slice(&address.ip().octets());
            }
        }
        message.extend_from_slice(&self.destination.port().to_be_bytes());
        message
    }
}

fn login(credentials: &Credentials) -> Vec<u8> {
    let mut message = vec![LOGIN_VERSION];
    for text in [&credentials.name, &credentials.password] {
        message.push(text.len() as u8);
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// Reads over the address that the proxy connected from, which is of no use to us.
fn connected(rest: &[u8]) -> Result<Step, Refusal> {
    let &[_, kind, first, ..] = rest else { return Ok(Step::Need(3 - rest.len())) };
    let address_bytes = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => 1 + usize::from(first),
        _ => return Err(Refusal::Malformed),
    };
    match (2 + address_bytes + 2).checked_sub(rest.len()) {
        Some(0) => Ok(Step::Connected),
        Some(missing) => Ok(Step::Need(missing)),
        None => Err(Refusal::Malformed),
    }
}

/// In words, for logs.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Malformed => f.write_str("the proxy does not speak SOCKS 5"),
            Refusal::NoMethod => f.write_str("the proxy wants to know who we are in another way"),
            Refusal::Login => f.write_str("the proxy refuses name and password"),
            Refusal::Proxy(code) | Refusal::Unreachable(code) => {
                let text = REPLIES.get(usize::from(*code)).unwrap_or(&"has a reason of its own");
                write!(f, "the proxy says: {text} ({code})")
            }
        }
    }
}

/// RFC 1928 §6, by code.
const REPLIES: [&str; 9] = [
    "succeeded",
    "general failure",
    "not allowed by its rules",
    "network unreachable",
    "host unreachable",
    "connection refused",
    "TTL expired",
    "command not supported",
    "address type not supported",
];
/// Longest name or password (RFC 1929 §2).
pub const SECRET_BYTES_MAX: usize = 255;
const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const NAME_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 255;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
const SUCCEEDED: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    /// What was sent, and how it ended: the octets behind the proxy's messages, or the refusal.
    type Played<'p> = (Vec<Vec<u8>>, Result<Option<&'p [u8]>, Refusal>);

    fn play<'p>(destination: &str, with_login: bool, proxy: &'p [u8]) -> Played<'p> {
        let (name, password) = ("user".to_owned(), "secret".to_owned());
        let credentials = Credentials { authorization_id: String::new(), name, password };
        let destination = destination.parse().expect("an address");
        let mut client = Client::new(destination, with_login.then_some(&credentials));
        let mut sent = vec![client.greeting().to_vec()];
        let (mut start, mut end) = (0, 0);
        loop {
            match client.next(&proxy[start..end]) {
                Ok(Step::Need(0)) => panic!("nothing is needed"),
                Ok(Step::Need(count)) if end + count <= proxy.len() => end += count,
                Ok(Step::Need(_)) => return (sent, Ok(None)),
                Ok(Step::Send(message)) => {
                    sent.push(message);
                    start = end;
                }
                Ok(Step::Connected) => return (sent, Ok(Some(&proxy[end..]))),
                Err(refusal) => return (sent, Err(refusal)),
            }
        }
    }

    const BEHIND: &[u8] = b"220 mx\r\n";

    fn check(destination: &str, with_login: bool, proxy: &[u8], sent: &[&[u8]]) {
        let whole = [proxy, BEHIND].concat();
        let (said, end) = play(destination, with_login, &whole);
        assert_eq!(said, sent);
        assert_eq!(end, Ok(Some(BEHIND)), "nothing of the other end is taken");
        for cut in 0..proxy.len() {
            let (said, end) = play(destination, with_login, &proxy[..cut]);
            assert_eq!(end, Ok(None), "cut at {cut}");
            assert!(sent.starts_with(&said.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn a_connection_is_asked_for_and_the_other_end_speaks_behind_it() {
        let ask: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 7, 0, 25];
        let to = "192.0.2.7:25";
        let from_v4: &[u8] = &[5, 0, 5, 0, 0, 1, 10, 0, 0, 1, 4, 210];
        check(to, false, from_v4, &[&[5, 1, 0], ask]);
        check(to, true, from_v4, &[&[5, 2, 0, 2], ask]);
        let login: &[u8] = b"\x01\x04user\x06secret";
        let with_login = [&[5, 2, 1, 0], &from_v4[2..]].concat();
        check(to, true, &with_login, &[&[5, 2, 0, 2], login, ask]);
        let from_name: &[u8] = b"\x05\x00\x05\x00\x00\x03\x05proxy\x04\xd2";
        check(to, false, from_name, &[&[5, 1, 0], ask]);
        let from_v6 = [&[5, 0, 5, 0, 0, 4][..], &[0; 18]].concat();
        let mut ask_v6 = vec![5, 1, 0, 4, 0x20, 0x01, 0x0d, 0xb8];
        ask_v6.extend([0; 11]);
        ask_v6.extend([7, 0, 25]);
        check("[2001:db8::7]:25", false, &from_v6, &[&[5, 1, 0], &ask_v6]);
    }

    #[test]
    fn a_refusal_says_whose_fault_it_is() {
        let refused = |with_login, proxy: &[u8]| {
            let (_, end) = play("192.0.2.7:25", with_login, proxy);
            end.expect_err("refused")
        };
        assert_eq!(refused(false, &[5, 255]), Refusal::NoMethod);
        assert_eq!(refused(true, &[5, 2, 1, 1]), Refusal::Login);
        for code in [1, 2, 7, 8, 99] {
            assert_eq!(refused(false, &[5, 0, 5, code]), Refusal::Proxy(code));
        }
        for code in 3..=6 {
            assert_eq!(refused(false, &[5, 0, 5, code]), Refusal::Unreachable(code));
        }
        for wrong in [
            &b"HT"[..],
            &[4, 0],
            &[5, 1],
            // Nobody offered to say who we are.
            &[5, 2],
            &[5, 0, 4, 90],
            &[5, 0, 5, 0, 0, 2, 0],
        ] {
            assert_eq!(refused(false, wrong), Refusal::Malformed, "{wrong:?}");
        }
        assert_eq!(refused(true, &[5, 2, 5, 0]), Refusal::Malformed);
        let shown = [Refusal::Unreachable(5), Refusal::Proxy(99)].map(|it| it.to_string());
        assert_eq!(shown[0], "the proxy says: connection refused (5)");
        assert_eq!(shown[1], "the proxy says: has a reason of its own (99)");
    }

    #[test]
    fn it_is_known_whether_the_connection_was_asked_for() {
        let mut client = Client::new("192.0.2.7:25".parse().expect("an address"), None);
        assert!(!client.has_asked());
        assert!(matches!(client.next(&[5, 0]), Ok(Step::Send(_))));
        assert!(client.has_asked());
    }
}
