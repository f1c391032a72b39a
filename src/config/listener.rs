//! `[[listener]]`: where clients come in, and what is spoken with them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Network;
use super::explain::Out;
use super::table::{Checked, Table};
use super::values::{is_socket, parse_mode, parse_network};
use crate::mail::class::is_stream_name;
use crate::mail::{Class, Stream};

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub address: ListenAddress,
    pub protocol: Protocol,
    pub tls: ListenerTls,
    /// Proxies: connections from there begin with a header of the PROXY protocol, others never do.
    pub proxy_networks: Vec<Network>,
    /// `tenant`, `campaign`, `class` of what comes in here, where no header field says otherwise.
    pub stream: Stream,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `ADDRESS:PORT`
    Network(SocketAddr),
    /// `unix:/PATH`: a socket of this machine, for LMTP only. The file belongs to whoever the
    /// server runs as, and has these permissions: who may write to it may deliver.
    Socket { path: Arc<str>, mode: u32 },
}

impl ListenAddress {
    /// `None` for a socket of this machine.
    pub fn network(&self) -> Option<SocketAddr> {
        match self {
            ListenAddress::Network(address) => Some(*address),
            ListenAddress::Socket { .. } => None,
        }
    }

    /// The path of a socket of this machine.
    pub fn socket(&self) -> Option<&str> {
        match self {
            ListenAddress::Network(_) => None,
            ListenAddress::Socket { path, .. } => Some(path),
        }
    }

    /// Whether both cannot be listened at.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        (self.network(), self.socket()) == (other.network(), other.socket())
    }

    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) => is_listening_socket(path)
                .then(|| ListenAddress::Socket { path: path.into(), mode: SOCKET_MODE }),
            None => text.parse().ok().map(ListenAddress::Network),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Network(address) => address.fmt(f),
            ListenAddress::Socket { path, .. } => write!(f, "unix:{path}"),
        }
    }
}

/// What is spoken with the clients of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// With other servers, and with clients that may relay.
    #[default]
    Smtp,
    /// With clients that authenticate (RFC 6409).
    Submission,
    /// With whoever delivers to mailboxes here (RFC 2033).
    Lmtp,
    Imap,
    Pop3,
}

impl Protocol {
    /// As a configuration says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Smtp => "smtp",
            Protocol::Submission => "submission",
            Protocol::Lmtp => "lmtp",
            Protocol::Imap => "imap",
            Protocol::Pop3 => "pop3",
        }
    }
}

/// When the sessions of a listener begin TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerTls {
    /// Never.
    None,
    /// When the client says STARTTLS (RFC 3207).
    #[default]
    StartTls,
    /// Before the greeting (RFC 8314).
    Implicit,
}

pub(super) fn read(table: &Table<'_, '_>) -> Checked<Listener> {
    let mut address = None;
    table.parsed("address", ADDRESS_FORMS, |text| {
        address = Some(ListenAddress::parse(text)?);
        Some(())
    })?;
    let mut address = address.ok_or_else(|| table.missing("address"))?;
    let mut protocol = Protocol::default();
    table.choice("protocol", &mut protocol, PROTOCOLS)?;
    let mut tls = ListenerTls::default();
    table.choice("tls", &mut tls, LISTENER_TLS)?;
    let mut proxy_networks = Vec::new();
    table.list("proxy_networks", &mut proxy_networks, "\"192.0.2.1\"", parse_network)?;
    let mut said_mode = None;
    table.parsed("mode", "permissions such as \"0660\"", |text| {
        said_mode = Some(parse_mode(text)?);
        Some(())
    })?;
    match &mut address {
        ListenAddress::Network(_) if said_mode.is_some() => {
            return Err(table.refused("mode", "only \"unix:/PATH\" has one; remove it"));
        }
        ListenAddress::Network(_) => {}
        ListenAddress::Socket { .. } if protocol != Protocol::Lmtp => {
            let text = "\"unix:/PATH\" is for protocol = \"lmtp\" only; give \"ADDRESS:PORT\"";
            return Err(table.refused("address", text));
        }
        ListenAddress::Socket { .. } if !proxy_networks.is_empty() => {
            let text = "nobody speaks for others at \"unix:/PATH\"; remove it";
            return Err(table.refused("proxy_networks", text));
        }
        ListenAddress::Socket { mode, .. } => *mode = said_mode.unwrap_or(*mode),
    }
    let mut stream = Stream::default();
    for (key, name) in [("tenant", &mut stream.tenant), ("campaign", &mut stream.campaign)] {
        table.parsed(key, "1 to 255 printable characters of ASCII", |text| {
            is_stream_name(text).then(|| *name = text.into())
        })?;
    }
    table.choice("class", &mut stream.class, CLASSES)?;
    Ok(Listener { address, protocol, tls, proxy_networks, stream })
}

pub(super) fn explain(listener: &Listener, out: &mut Out) {
    out.table("[[listener]]");
    out.text("address", Some(&listener.address.to_string()));
    if let ListenAddress::Socket { mode, .. } = listener.address {
        out.text("mode", Some(&format!("{mode:04o}")));
    }
    out.choice("protocol", listener.protocol, PROTOCOLS);
    out.choice("tls", listener.tls, LISTENER_TLS);
    let networks: Vec<String> = listener.proxy_networks.iter().map(|net| net.to_string()).collect();
    out.plain("proxy_networks", format_args!("{networks:?}"));
    let stream = &listener.stream;
    for (key, name) in [("tenant", &stream.tenant), ("campaign", &stream.campaign)] {
        out.text(key, (!name.is_empty()).then_some(name));
    }
    out.choice("class", stream.class, CLASSES);
}

/// A path at which a socket can be made under another name first.
fn is_listening_socket(path: &str) -> bool {
    is_socket(&format!("{path}{NEW_SUFFIX}")) && !path.ends_with('/')
}

/// Behind the path of a socket while it is made.
pub const NEW_SUFFIX: &str = ".new";
/// Permissions where none are said: user and group of the server.
const SOCKET_MODE: u32 = 0o660;
const ADDRESS_FORMS: &str = "\"ADDRESS:PORT\" such as \"127.0.0.1:2525\" or \"[::1]:25\", or \
                             \"unix:/PATH\"";
pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    (Protocol::Smtp.as_str(), Protocol::Smtp),
    (Protocol::Submission.as_str(), Protocol::Submission),
    (Protocol::Lmtp.as_str(), Protocol::Lmtp),
    (Protocol::Imap.as_str(), Protocol::Imap),
    (Protocol::Pop3.as_str(), Protocol::Pop3),
];
const LISTENER_TLS: &[(&str, ListenerTls)] = &[
    ("none", ListenerTls::None),
    ("starttls", ListenerTls::StartTls),
    ("implicit", ListenerTls::Implicit),
];
const CLASSES: &[(&str, Class)] = &[("transactional", Class::Transactional), ("bulk", Class::Bulk)];

#[cfg(test)]
mod tests {
    use crate::config::{Config, ListenAddress};

    fn parse(listener: &str) -> Result<Config, String> {
        let text = format!("[mailboxes]\ndomains = [\"a.test\"]\n[[listener]]\n{listener}\n");
        Config::parse(&text, "f").map_err(|error| error.to_string())
    }

    #[test]
    fn a_socket_of_this_machine_is_a_path_with_permissions() {
        let check = |keys: &str, path: &str, mode: u32| {
            let config = parse(&format!("protocol = \"lmtp\"\n{keys}")).expect(keys);
            let expected = ListenAddress::Socket { path: path.into(), mode };
            assert_eq!(config.listeners[0].address, expected);
            let explained = Config::parse(&config.explain(), "f").expect("valid");
            assert_eq!(explained.listeners, config.listeners);
        };
        check("address = \"unix:/run/ringpost/lmtp\"", "/run/ringpost/lmtp", 0o660);
        check("address = \"unix:/s\"\nmode = \"0600\"", "/s", 0o600);
        check("mode = \"666\"\naddress = \"unix:/s\"", "/s", 0o666);
    }

    #[test]
    fn what_a_socket_cannot_be_is_said_in_a_line() {
        let check = |keys: &str, expected: &str| {
            let error = parse(keys).expect_err(keys);
            assert!(error.starts_with(expected) && !error.contains('\n'), "{keys}: {error}");
        };
        for protocol in ["smtp", "submission", "imap", "pop3"] {
            let keys = format!("protocol = \"{protocol}\"\naddress = \"unix:/s\"");
            check(&keys, "f:5: listener.address: \"unix:/PATH\" is for protocol = \"lmtp\" only");
        }
        check("address = \"unix:/s\"", "f:4: listener.address: \"unix:/PATH\" is for");
        let lmtp = |keys: &str, expected: &str| {
            check(&format!("protocol = \"lmtp\"\n{keys}"), expected);
        };
        for path in ["", "s", "./s", "/a b", "/s/", &format!("/{}", "s".repeat(103))] {
            let keys = format!("address = \"unix:{path}\"");
            lmtp(&keys, "f:5: listener.address: found \"unix:");
        }
        for mode in ["\"\"", "\"0680\"", "\"1660\"", "\"00660\"", "\"66\"", "\"+66\"", "660"] {
            let keys = format!("address = \"unix:/s\"\nmode = {mode}");
            lmtp(&keys, "f:6: listener.mode: found ");
        }
        lmtp(
            "address = \"[::1]:24\"\nmode = \"0660\"",
            "f:6: listener.mode: only \"unix:/PATH\" has one",
        );
        lmtp(
            "address = \"unix:/s\"\nproxy_networks = [\"::1\"]",
            "f:6: listener.proxy_networks: nobody speaks for others",
        );
        let twice = "address = \"unix:/s\"\n[[listener]]\nprotocol = \"lmtp\"\nmode = \"0600\"\n\
                     address = \"unix:/s\"";
        lmtp(twice, "f:9: listener.address: another [[listener]] has it already");
    }
}
