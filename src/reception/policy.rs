//! What a client may do.

use std::net::IpAddr;

use super::Terms;
use crate::mail::{AddressRef, Reply, status};

/// Whether this client may relay to wherever a route leads.
pub(super) fn may_relay(terms: &Terms, client: IpAddr) -> bool {
    terms.config.reception.relay_networks.iter().any(|network| network.contains(client))
}

/// The answer to RCPT.
pub(super) fn on_rcpt(terms: &Terms, may_relay: bool, forward_path: AddressRef<'_>) -> Reply {
    if !may_relay {
        return RELAYING_DENIED;
    }
    match terms.routes.resolve(forward_path.domain()) {
        Ok(_) => RECIPIENT_OK,
        Err(reply) => reply,
    }
}

pub(super) const MAIL_OK: Reply = Reply::new(250, status::OK_REVERSE_PATH, "Ok");
const RECIPIENT_OK: Reply = Reply::new(250, status::OK_RECIPIENT, "Ok");
const RELAYING_DENIED: Reply =
    Reply::new(550, status::DELIVERY_NOT_AUTHORIZED, "Relaying denied for your address");
/// VRFY neither confirms nor denies (RFC 5321 §3.5.3).
pub(super) const VRFY: Reply =
    Reply::new(252, status::CANNOT_VERIFY, "Cannot verify; send some mail and see");
