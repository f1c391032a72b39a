//! What the log says of refused logins, and how much of it.

use std::net::IpAddr;

use super::Refusal;
use crate::config::{LogFormat, Protocol};
use crate::event::{Format, LogSink, RefusedLogin};
use crate::limits::AUTH_LOGGED_NAME_BYTES_MAX;
use crate::runtime::clock;

/// Where an attempt to log in comes from, and how the log is written now.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub client: IpAddr,
    pub protocol: Protocol,
    pub format: LogFormat,
}

/// So many lines that nobody is short of one who is guessed at by a few, and so few that many
/// leave the log to mail. `Pure.`
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Monotonic milliseconds at which what was written is made up for.
    until_ms: u64,
    left_out: u64,
}

impl Allowance {
    /// How many were left out before the line that may be written now, if one may.
    pub fn take(&mut self, now_ms: u64) -> Option<u64> {
        let until_ms = self.until_ms.max(now_ms) + LINE_MS;
        if until_ms > now_ms + LINES_AT_ONCE_MAX * LINE_MS {
            self.left_out += 1;
            return None;
        }
        self.until_ms = until_ms;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Writes a line on what was refused. Nothing is said of clients that gave up by themselves.
pub(super) fn log(
    sink: &LogSink,
    take: impl FnOnce() -> Option<u64>,
    origin: &Origin,
    (name, mechanism): (&[u8], &str),
    refusal: Refusal,
) {
    let reason = match refusal {
        Refusal::Credentials => "credentials",
        Refusal::TooManyFailures { .. } => "too-many-failures",
        Refusal::Busy => "busy",
        Refusal::Malformed => "malformed",
        Refusal::Cancelled => return,
    };
    let Some(left_out) = take() else { return };
    let name = &name[..name.len().min(AUTH_LOGGED_NAME_BYTES_MAX)];
    let record = RefusedLogin {
        time_ms: clock::unix_ms(),
        protocol: origin.protocol.as_str(),
        client: origin.client,
        name: &String::from_utf8_lossy(name),
        mechanism,
        reason,
        left_out,
    };
    let format = match origin.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let mut line = Vec::new();
    record.write(format, &mut line);
    sink.append(line);
}

/// Ten lines a second in the long run, of the whole process.
const LINE_MS: u64 = 100;
const LINES_AT_ONCE_MAX: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_few_lines_and_says_how_many_are_missing() {
        let mut allowance = Allowance::default();
        let now_ms = 5_000_000;
        let written = (0..5_000).filter(|_| allowance.take(now_ms).is_some()).count();
        assert_eq!(written as u64, LINES_AT_ONCE_MAX);
        assert_eq!(allowance.take(now_ms + LINE_MS - 1), None);
        assert_eq!(allowance.take(now_ms + LINE_MS), Some(4_001));
        assert_eq!(allowance.take(now_ms + LINE_MS), None);
        let later_ms = now_ms + 3_600_000;
        assert_eq!(allowance.take(later_ms), Some(1));
        let written = (0..5_000).filter(|_| allowance.take(later_ms).is_some()).count();
        assert_eq!(written as u64, LINES_AT_ONCE_MAX - 1);
    }
}
