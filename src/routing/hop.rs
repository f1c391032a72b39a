//! What a site is a site of: the place that mail goes to, by one name on all shards.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{NextHop, NextHopProtocol};

/// Where connections go, and whose mail goes there by itself. Domains that lead to the same MX
/// hosts have the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    pub place: Place,
    /// The domain whose mail a `[[limit]]` sets apart from all other mail to that place.
    pub domain: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Address {
        protocol: NextHopProtocol,
        address: SocketAddr,
    },
    Host {
        protocol: NextHopProtocol,
        host: Arc<str>,
        port: u16,
    },
    /// A socket of this machine, by its path.
    Socket(Arc<str>),
    /// MX hosts, as `Plan::roll_up_key` says them.
    Exchanges(Arc<str>),
    /// Directories of files, as the next hop says.
    Maildir(Arc<str>),
    /// The mailboxes of this server.
    Mailboxes,
}

impl Place {
    /// Where a next hop is about which nobody has to be asked.
    pub fn known(next_hop: &NextHop) -> Option<Place> {
        match next_hop.clone() {
            NextHop::Address { protocol, address } => Some(Place::Address { protocol, address }),
            NextHop::Socket(path) => Some(Place::Socket(path)),
            NextHop::Maildir(path) => Some(Place::Maildir(path)),
            NextHop::Mailboxes => Some(Place::Mailboxes),
            NextHop::Host { .. } | NextHop::Mx(_) => None,
        }
    }

    /// What leads here by one name; `None` for MX hosts, to which many domains lead.
    pub fn next_hop(&self) -> Option<NextHop> {
        Some(match self.clone() {
            Place::Address { protocol, address } => NextHop::Address { protocol, address },
            Place::Host { protocol, host, port } => NextHop::Host { protocol, host, port },
            Place::Socket(path) => NextHop::Socket(path),
            Place::Maildir(path) => NextHop::Maildir(path),
            Place::Mailboxes => NextHop::Mailboxes,
            Place::Exchanges(_) => return None,
        })
    }

    /// Whether mail gets there without a connection.
    pub fn is_here(&self) -> bool {
        matches!(self, Place::Maildir(_) | Place::Mailboxes)
    }

    /// Whether an address is needed from which to connect.
    pub fn has_source(&self) -> bool {
        !self.is_here() && !matches!(self, Place::Socket(_))
    }
}

impl Hop {
    pub fn new(place: Place, domain: Option<&str>) -> Self {
        Self { place, domain: domain.map(Arc::from) }
    }

    pub fn protocol(&self) -> NextHopProtocol {
        match &self.place {
            Place::Address { protocol, .. } | Place::Host { protocol, .. } => *protocol,
            // What is not connected to delivers finally, as LMTP does.
            Place::Socket(_) | Place::Maildir(_) | Place::Mailboxes => NextHopProtocol::Lmtp,
            Place::Exchanges(_) => NextHopProtocol::Smtp,
        }
    }

    /// Whether mail that goes there has arrived without having left this host.
    pub fn ends_here(&self) -> bool {
        match &self.place {
            Place::Address { protocol: NextHopProtocol::Lmtp, address } => {
                address.ip().is_loopback()
            }
            Place::Socket(_) | Place::Maildir(_) | Place::Mailboxes => true,
            _ => false,
        }
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, domain) = match text.split_once('#') {
            Some((place, domain)) => (place, Some(domain)),
            None => (text, None),
        };
        let place = match place.strip_prefix("mx://") {
            Some(hosts) if !hosts.is_empty() => Place::Exchanges(hosts.into()),
            Some(_) => return None,
            None if place == MAILBOXES => Place::Mailboxes,
            None => match NextHop::parse(place)? {
                NextHop::Host { protocol, host, port } => Place::Host { protocol, host, port },
                next_hop => Place::known(&next_hop)?,
            },
        };
        Some(Self::new(place, domain.filter(|domain| !domain.is_empty())))
    }
}

/// In words: `smtp://192.0.2.1:25`, `lmtp://mail.example:24`, `mx://mx1.a.test,mx2.a.test`, and the
/// domain behind a `#`.
impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Address { protocol, address } => write!(f, "{protocol}://{address}")?,
            Place::Host { protocol, host, port } => write!(f, "{protocol}://{host}:{port}")?,
            Place::Socket(path) => write!(f, "lmtp+unix://{path}")?,
            Place::Exchanges(hosts) => write!(f, "mx://{hosts}")?,
            Place::Maildir(path) => write!(f, "maildir://{path}")?,
            Place::Mailboxes => f.write_str(MAILBOXES)?,
        }
        self.domain.as_ref().map_or(Ok(()), |domain| write!(f, "#{domain}"))
    }
}

/// As `NextHop` writes it.
const MAILBOXES: &str = "mailboxes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_reads_back() {
        for text in [
            "smtp://192.0.2.1:25",
            "lmtp://[::1]:24",
            "smtp://mail.example:587",
            "lmtp+unix:///run/lmtp",
            "lmtp+unix:///run/lmtp#b.test",
            "mx://mx1.a.test,mx2.a.test",
            "mx://[192.0.2.1]",
            "mx://mx1.a.test#b.test",
            "smtp://192.0.2.1:25#b.test",
            "maildir:///var/mail/{domain}/{local_part}#b.test",
            "mailboxes",
        ] {
            assert_eq!(Hop::parse(text).map(|hop| hop.to_string()).as_deref(), Some(text));
        }
        for text in ["", "mx", "mx://", "a.test", "smtp://a.test"] {
            assert_eq!(Hop::parse(text), None, "{text}");
        }
    }
}
