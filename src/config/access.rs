//! `[access]`: sessions that read mailboxes, whatever their protocol.

use std::time::Duration;

use super::explain::Out;
use super::table::{Checked, Table};
use super::values::write_duration;

/// `[access]`
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Sessions of all clients on one shard.
    pub sessions_max: usize,
    /// Sessions of one client address (IPv6: one /64) over all shards, exact.
    pub sessions_per_client_max: usize,
    /// Longest time from the connection to the login.
    pub login_timeout: Duration,
    /// Longest silence of a client that has logged in (RFC 9051 §5.4 says at least 30 minutes, RFC
    /// 1939 §3 at least ten).
    pub idle_timeout: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            sessions_per_client_max: 500,
            login_timeout: Duration::from_secs(180),
            idle_timeout: Duration::from_secs(1800),
        }
    }
}

pub(super) fn read(table: &Table<'_, '_>, access: &mut Access) -> Checked<()> {
    table.number("sessions_max", &mut access.sessions_max, 1, usize::MAX)?;
    table.number("sessions_per_client_max", &mut access.sessions_per_client_max, 1, 1 << 31)?;
    table.duration("login_timeout", &mut access.login_timeout, Duration::from_secs(1))?;
    table.duration("idle_timeout", &mut access.idle_timeout, Duration::from_secs(1))
}

pub(super) fn explain(access: &Access, out: &mut Out) {
    out.table("[access]");
    out.plain("sessions_max", access.sessions_max);
    out.plain("sessions_per_client_max", access.sessions_per_client_max);
    out.text("login_timeout", Some(&write_duration(access.login_timeout)));
    out.text("idle_timeout", Some(&write_duration(access.idle_timeout)));
}
