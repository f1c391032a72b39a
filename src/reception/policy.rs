//! What a client may do.

use std::net::IpAddr;

use super::Terms;
use crate::mail::{Accounts, AddressRef, Reply, status};
use crate::proto::dns::Kind;
use crate::routing::local::Target;
use crate::routing::mx::{Destination, NULL_MX_REVERSE_PATH, is_null_mx};

/// Whether this client may relay to wherever a route leads.
pub(super) fn may_relay(terms: &Terms, client: IpAddr) -> bool {
    terms.config.reception.relay_networks.iter().any(|network| network.contains(client))
}

/// Whether MAIL with this reverse-path, `""` for the null one, waits for the DNS.
pub(super) fn asks_dns(terms: &Terms, may_relay: bool, reverse_path: &str) -> bool {
    terms.config.reception.refuse_null_mx && may_relay && !reverse_path.is_empty()
}

/// The answer to MAIL where the DNS is asked. A DNS that does not answer refuses nothing.
pub(super) async fn on_mail(terms: &Terms, reverse_path: &str) -> Reply {
    let domain = reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain);
    let Ok(Destination::Domain(name)) = Destination::parse(domain) else { return MAIL_OK };
    match terms.resolver.lookup(&name, Kind::Mx).await.result {
        Ok(answer) if is_null_mx(&answer) => NULL_MX_REVERSE_PATH,
        _ => MAIL_OK,
    }
}

/// Whom a forward-path leads to.
pub(super) enum Leads {
    /// To itself, somewhere else.
    Away,
    /// To these, by way of a local domain.
    Home(Vec<Target>),
}

/// What RCPT comes to, or the answer that refuses it. Mail for local domains comes from anybody.
pub(super) fn on_rcpt(
    terms: &Terms,
    accounts: &Accounts,
    may_relay: bool,
    forward_path: AddressRef<'_>,
) -> Result<Leads, Reply> {
    if let Some(found) = terms.local.resolve(accounts, forward_path.as_str()) {
        return found.map(Leads::Home);
    }
    if !may_relay {
        return Err(RELAYING_DENIED);
    }
    terms.routes.resolve(forward_path.domain()).map(|_| Leads::Away)
}

pub(super) const MAIL_OK: Reply = Reply::new(250, status::OK_REVERSE_PATH, "Ok");
pub(super) const RECIPIENT_OK: Reply = Reply::new(250, status::OK_RECIPIENT, "Ok");
const RELAYING_DENIED: Reply =
    Reply::new(550, status::DELIVERY_NOT_AUTHORIZED, "Relaying denied for your address");
/// VRFY neither confirms nor denies (RFC 5321 §3.5.3).
pub(super) const VRFY: Reply =
    Reply::new(252, status::CANNOT_VERIFY, "Cannot verify; send some mail and see");
