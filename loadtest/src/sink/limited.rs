//! Limits as the peer sees them: how many connections and messages came at once, at most.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a sink allows its clients, all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    /// In any second, wherever it begins.
    pub messages_per_second: usize,
}

/// Counts what comes and refuses what is too much.
///
/// A connection counts from its accept until the kernel here has seen its FIN or RST. A message
/// counts at MAIL, and again at the end of its content: whatever lies between, no second of either
/// clock may hold more than allowed. What is refused counts too: it came.
pub struct Limited {
    limits: Limits,
    state: Mutex<State>,
    /// Longest time for which an executor of this sink stood still, in microseconds.
    stall_max_us: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Accepted, and not yet known to be gone.
    connections: HashSet<SocketAddr>,
    at_mail: Window,
    at_end: Window,
    seen: Seen,
}

/// What was seen until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub max_connections: usize,
    pub max_mail_in_any_second: usize,
    pub max_ended_in_any_second: usize,
    /// Messages whose content ended, refused ones included.
    pub messages: u64,
    pub connection_violations: u64,
    pub message_violations: u64,
    /// A sink that stands still sees what came meanwhile at once: this long at most.
    pub stall_max_ms: u64,
}

impl Seen {
    /// By the stricter reading of the two.
    pub fn max_messages_in_any_second(&self) -> usize {
        self.max_mail_in_any_second.max(self.max_ended_in_any_second)
    }

    pub fn violations(&self) -> u64 {
        self.connection_violations + self.message_violations
    }
}

impl Limited {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), stall_max_us: AtomicU64::new(0) }
    }

    /// Counts a connection until the guard goes; false when it is one too many.
    pub fn on_accepted(self: &Arc<Self>, peer: SocketAddr) -> (Counted, bool) {
        let mut state = self.state();
        state.connections.insert(peer);
        let mut open = state.connections.len();
        if open > state.seen.max_connections || open > self.limits.connections {
            // Some may be gone whose session has not run yet: the kernel knows.
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
            open = open_by_table(&table, &state.connections).unwrap_or(open);
        }
        state.seen.max_connections = state.seen.max_connections.max(open);
        let allowed = open <= self.limits.connections;
        state.seen.connection_violations += u64::from(!allowed);
        (Counted { limited: self.clone(), peer }, allowed)
    }

    /// Counts a MAIL; false when it is one too many.
    pub fn on_mail(&self) -> bool {
        let mut state = self.state();
        let count = state.at_mail.count(Instant::now());
        state.seen.max_mail_in_any_second = state.seen.max_mail_in_any_second.max(count);
        let allowed = count <= self.limits.messages_per_second;
        state.seen.message_violations += u64::from(!allowed);
        allowed
    }

    /// Counts a message whose content is complete; false when it is one too many.
    pub fn on_content_end(&self) -> bool {
        let mut state = self.state();
        state.seen.messages += 1;
        let count = state.at_end.count(Instant::now());
        state.seen.max_ended_in_any_second = state.seen.max_ended_in_any_second.max(count);
        let allowed = count <= self.limits.messages_per_second;
        state.seen.message_violations += u64::from(!allowed);
        allowed
    }

    pub fn on_stall(&self, stall: Duration) {
        self.stall_max_us.fetch_max(stall.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Seen {
        let stall_max_ms = self.stall_max_us.load(Ordering::Relaxed) / 1000;
        Seen { stall_max_ms, ..self.state().seen }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts.
pub struct Counted {
    limited: Arc<Limited>,
    peer: SocketAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.limited.state().connections.remove(&self.peer);
    }
}

/// The events of the last second.
#[derive(Default)]
struct Window {
    times: VecDeque<Instant>,
}

impl Window {
    /// Adds an event; returns how many the second that ends with it holds.
    fn count(&mut self, now: Instant) -> usize {
        self.times.push_back(now);
        while self.times.front().is_some_and(|first| now - *first >= SECOND) {
            self.times.pop_front();
        }
        self.times.len()
    }
}

/// Of `peers`, those whose FIN or RST has not arrived, by the text of /proc/net/tcp. `None` where
/// it does not speak of them (IPv6, another system).
fn open_by_table(table: &str, peers: &HashSet<SocketAddr>) -> Option<usize> {
    let mut open = 0;
    let mut known = 0;
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(2);
        let (Some(remote), Some(state)) = (fields.next(), fields.next()) else { continue };
        let Some(remote) = parse_table_address(remote) else { continue };
        if peers.contains(&remote) {
            // The client's end of the connection has the addresses the other way round.
            known += 1;
            open += usize::from(OPEN_STATES.contains(&state));
        }
    }
    (known > 0).then_some(open)
}

/// `0100007F:1F90`: the address as the kernel holds it in memory, and the port.
fn parse_table_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some((address, u16::from_str_radix(port, 16).ok()?).into())
}

/// Established, and the two in which only our own FIN has gone out.
const OPEN_STATES: [&str; 3] = ["01", "04", "05"];
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_came_within_one_second() {
        let start = Instant::now();
        let mut window = Window::default();
        let counts = [0, 1, 999, 1000, 1001, 5000]
            .map(|at_ms| window.count(start + Duration::from_millis(at_ms)));
        assert_eq!(counts, [1, 2, 3, 3, 3, 1]);
    }

    #[test]
    fn a_connection_whose_fin_has_come_is_not_open() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1F90 0100007F:C001 01 00000000:00000000\n\
            1: 0100007F:1F90 0100007F:C002 08 00000000:00000000\n\
            2: 0100007F:1F90 0100007F:C003 05 00000000:00000000\n\
            3: 0100007F:C001 0100007F:1F90 01 00000000:00000000\n";
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let peers = HashSet::from([0xC001, 0xC002, 0xC003, 0xC004].map(peer));
        assert_eq!(open_by_table(table, &peers), Some(2));
        assert_eq!(open_by_table("", &peers), None);
    }

    #[test]
    fn what_is_too_much_is_refused_and_counted() {
        let limits = Limits { connections: 1, messages_per_second: 2 };
        let limited = Arc::new(Limited::new(limits));
        assert!([limited.on_mail(), limited.on_mail()].iter().all(|allowed| *allowed));
        assert!(!limited.on_mail());
        assert!(limited.on_content_end());
        let seen = limited.seen();
        assert_eq!((seen.max_messages_in_any_second(), seen.violations()), (3, 1));
    }
}
