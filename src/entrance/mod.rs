//! Entrance: what comes before the first word of a session, whatever its protocol.
//!
//! **Owns** the counts of clients' sessions over all shards, headers of the PROXY protocol, and the
//! handshake of our servers; sockets of this machine that are listened at.
//! **Uses** `mail`, `proto::proxy`, `tls`, `config`, `runtime`.
//! **Holds** that a client's sessions are counted exactly, and that nothing here waits without a
//! deadline.
//! **Start reading** at `clients::Clients::admit`.

pub mod clients;
pub mod proxy;
pub mod socket;

use std::io;
use std::time::Duration;

use crate::mail::{Protection, VerifiedBy};
use crate::runtime::stream::Stream;
use crate::tls;

/// What came of a handshake.
pub struct Secured {
    pub protection: Protection,
    pub is_resumed: bool,
}

/// Does the server's half of the handshake within `time_max`. After an error the connection is good
/// for nothing.
pub async fn handshake(
    context: &tls::server::Context,
    stream: &mut Stream,
    time_max: Duration,
) -> io::Result<Secured> {
    stream.set_deadline(Some(time_max.min(HANDSHAKE_TIME_MAX)));
    let connection = rustls::ServerConnection::new(context.config()).map_err(io::Error::other)?;
    stream.start_tls(connection).await?;
    let session = stream.tls().expect("the handshake is done");
    let is_verified = context.is_client_verified(session.peer_certificates());
    let protection = tls::protection(session, is_verified.then_some(VerifiedBy::Ca));
    Ok(Secured { protection, is_resumed: tls::is_resumed(session) })
}

/// Longest time for the handshake of a client.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(60);
