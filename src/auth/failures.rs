//! How often somebody was wrong, and what follows from it. `Pure.`
//!
//! An attempt counts against the client and against the name, whether or not anybody has it. Each
//! failure is forgotten after half a minute, one after the other: a few cost nothing, more cost a
//! wait before the next attempt, and beyond a number nothing is checked until one is forgotten.
//!
//! What counts against a name comes from anybody, so it must not keep its owner out: where a client
//! has logged in under a name before, only its own failures under that name count, and neither
//! those of others under it nor its own under other names. Who comes from elsewhere while strangers
//! guess competes with them for one attempt in half a minute.

use std::time::Duration;

use super::recent::Recent;
use crate::limits::{AUTH_CLIENTS_OF_NAME_MAX, AUTH_REMEMBERED_MAX};
use crate::mail::client::ClientKey;

/// Failures of all clients.
#[derive(Debug)]
pub struct Failures {
    clients: Recent<ClientKey, Level>,
    names: Recent<NameKey, Name>,
}

/// A name, known or not, so that nobody can find another one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameKey(u64);

impl NameKey {
    /// From a hash of the name under a secret key.
    pub fn new(mac: &[u8; 32]) -> Self {
        Self(u64::from_le_bytes(*mac.first_chunk().expect("long enough")))
    }
}

/// An attempt that was begun: what it counts against.
#[derive(Debug)]
pub struct Attempt {
    client: ClientKey,
    name: NameKey,
    /// The client has logged in under this name before.
    is_known: bool,
}

#[derive(Debug, Default)]
struct Name {
    level: Level,
    /// Clients that have logged in, the last one at the end, with their own failures.
    known: Vec<(ClientKey, Level)>,
}

/// Failures that are not forgotten yet.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// Monotonic milliseconds at which the last of them will be.
    until_ms: u64,
    /// Attempts that are not over, which are among them for now.
    under_way: u64,
}

/// Why an attempt must not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// Others are under way that may turn out to be failures.
    UnderWay,
    /// There were too many failures; one is forgotten after so long.
    After(Duration),
}

/// What failures cost.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// So many cost nothing.
    free: u64,
    /// With so many nothing is checked.
    max: u64,
}

impl Failures {
    pub fn new() -> Self {
        Self { clients: Recent::new(AUTH_REMEMBERED_MAX), names: Recent::new(AUTH_REMEMBERED_MAX) }
    }

    /// Counts an attempt as failed for now: however many are made at once, no more are than may be.
    /// How long to wait before it is made. Tell what became of it by `succeed`, `fail`, `withdraw`.
    pub fn begin(
        &mut self,
        client: ClientKey,
        name: NameKey,
        now_ms: u64,
    ) -> Result<(Attempt, Duration), Later> {
        let of_name = self.names.entry(name);
        if let Some((_, own)) = of_name.known.iter_mut().find(|(known, _)| *known == client) {
            let delay = OF_CLIENT.delay(*own, now_ms)?;
            own.raise(now_ms);
            return Ok((Attempt { client, name, is_known: true }, delay));
        }
        let of_client = self.clients.entry(client);
        let delay = OF_CLIENT.delay(*of_client, now_ms)?;
        let delay = delay.max(OF_NAME.delay(of_name.level, now_ms)?);
        of_client.raise(now_ms);
        of_name.level.raise(now_ms);
        Ok((Attempt { client, name, is_known: false }, delay))
    }

    /// The attempt was right.
    pub fn succeed(&mut self, attempt: &Attempt, now_ms: u64) {
        self.withdraw(attempt);
        let known = &mut self.names.entry(attempt.name).known;
        known.retain(|(client, _)| *client != attempt.client);
        if known.len() >= AUTH_CLIENTS_OF_NAME_MAX {
            known.remove(0);
        }
        known.push((attempt.client, Level { until_ms: now_ms, under_way: 0 }));
    }

    /// The attempt was wrong.
    pub fn fail(&mut self, attempt: &Attempt) {
        self.each_level(attempt, Level::end);
    }

    /// The attempt tells nothing.
    pub fn withdraw(&mut self, attempt: &Attempt) {
        self.each_level(attempt, Level::lower);
    }

    fn each_level(&mut self, attempt: &Attempt, change: impl Fn(&mut Level)) {
        let of_name = self.names.entry(attempt.name);
        if attempt.is_known {
            let mut known = of_name.known.iter_mut();
            if let Some((_, own)) = known.find(|(known, _)| *known == attempt.client) {
                change(own);
            }
        } else {
            change(&mut of_name.level);
            change(self.clients.entry(attempt.client));
        }
    }
}

impl Level {
    fn raise(&mut self, now_ms: u64) {
        self.until_ms = self.until_ms.max(now_ms) + FORGOTTEN_AFTER_MS;
        self.under_way += 1;
    }

    fn lower(&mut self) {
        self.until_ms = self.until_ms.saturating_sub(FORGOTTEN_AFTER_MS);
        self.end();
    }

    /// The table may have forgotten that it began.
    fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

impl Bound {
    fn delay(&self, level: Level, now_ms: u64) -> Result<Duration, Later> {
        let left_ms = level.until_ms.saturating_sub(now_ms);
        let count = left_ms.div_ceil(FORGOTTEN_AFTER_MS);
        // Who is right as well as many of his neighbours at the same time does not wait for that.
        let failed = count.saturating_sub(level.under_way);
        if failed >= self.max {
            let wait_ms = left_ms - (self.max - 1) * FORGOTTEN_AFTER_MS;
            return Err(Later::After(Duration::from_millis(wait_ms)));
        }
        if count >= self.max {
            return Err(Later::UnderWay);
        }
        let beyond = (failed + 1).saturating_sub(self.free).min(DELAY_DOUBLINGS_MAX);
        let delay_ms = if beyond == 0 { 0 } else { DELAY_MIN_MS << (beyond - 1) };
        Ok(Duration::from_millis(delay_ms))
    }
}

/// Of one client, under all names or, where it is known, under one.
const OF_CLIENT: Bound = Bound { free: 5, max: 20 };
/// Of all clients that are not known, under one name.
const OF_NAME: Bound = Bound { free: 10, max: 50 };
const FORGOTTEN_AFTER_MS: u64 = 30_000;
/// Before the first attempt that costs something; twice as long before each further one, up to
/// eight seconds.
const DELAY_MIN_MS: u64 = 500;
const DELAY_DOUBLINGS_MAX: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: NameKey = NameKey(1);
    const OTHER: NameKey = NameKey(2);

    fn client(last_octet: u16) -> ClientKey {
        let [high, low] = last_octet.to_be_bytes();
        ClientKey::new([192, 0, high, low].into())
    }

    fn delays(failures: &mut Failures, client: ClientKey, name: NameKey, count: usize) -> Vec<u64> {
        let fail = |_| {
            let (attempt, delay) = failures.begin(client, name, 1000).expect("may be made");
            failures.fail(&attempt);
            delay.as_millis() as u64
        };
        (0..count).map(fail).collect()
    }

    #[test]
    fn failures_cost_nothing_then_a_wait_and_then_everything_until_one_is_forgotten() {
        let mut failures = Failures::new();
        let first = delays(&mut failures, client(1), OWNER, 11);
        assert_eq!(first, [0, 0, 0, 0, 0, 500, 1000, 2000, 4000, 8000, 8000]);
        delays(&mut failures, client(1), OTHER, 9);
        let refused = failures.begin(client(1), OTHER, 1000).expect_err("twenty");
        assert_eq!(refused, Later::After(Duration::from_secs(30)));
        let refused = failures.begin(client(1), OTHER, 30_000).expect_err("still twenty");
        assert_eq!(refused, Later::After(Duration::from_secs(1)));
        assert!(failures.begin(client(1), OTHER, 31_000).is_ok(), "one is forgotten");
        assert!(failures.begin(client(1), OTHER, 31_000).is_err(), "one alone");
        assert!(failures.begin(client(2), OTHER, 31_000).is_ok(), "another client");
        let all_over = 31_000 + 30 * FORGOTTEN_AFTER_MS;
        let (_, delay) = failures.begin(client(1), OWNER, all_over).expect("all is forgotten");
        assert_eq!(delay, Duration::ZERO);
    }

    #[test]
    fn neighbours_that_are_right_at_the_same_time_wait_for_one_another_alone() {
        let mut failures = Failures::new();
        let mut begin = |number| failures.begin(client(1), NameKey(number), 1000);
        let attempts: Vec<_> = (10..30).map(|number| begin(number).expect("may be made")).collect();
        assert!(attempts.iter().all(|(_, delay)| delay.is_zero()));
        assert_eq!(begin(30).expect_err("twenty are under way"), Later::UnderWay);
        failures.succeed(&attempts[0].0, 1000);
        let (after, delay) = failures.begin(client(1), NameKey(30), 1000).expect("one was right");
        assert_eq!(delay, Duration::ZERO);
        attempts[1..].iter().for_each(|(attempt, _)| failures.fail(attempt));
        let refused = failures.begin(client(1), NameKey(31), 1000).expect_err("one is under way");
        assert_eq!(refused, Later::UnderWay, "nineteen were wrong");
        failures.withdraw(&after);
        let (_, delay) = failures.begin(client(1), NameKey(31), 1000).expect("the twentieth");
        assert_eq!(delay, Duration::from_secs(8));
    }

    #[test]
    fn many_clients_together_get_no_more_guesses_at_one_name_and_do_not_keep_its_owner_out() {
        let mut failures = Failures::new();
        let (home, _) = failures.begin(client(1), OWNER, 1000).expect("the first");
        failures.succeed(&home, 1000);
        let mut made = 0;
        for number in 100..400 {
            made += usize::from(failures.begin(client(number), OWNER, 1000).is_ok());
        }
        assert_eq!(made, 50);
        let (known, delay) = failures.begin(client(1), OWNER, 1000).expect("the owner at home");
        assert_eq!(delay, Duration::ZERO);
        failures.succeed(&known, 1000);
        assert!(failures.begin(client(2), OWNER, 1000).is_err(), "the owner elsewhere, now");
        assert!(failures.begin(client(2), OWNER, 31_001).is_ok(), "and a little later");
        assert!(failures.begin(client(2), OTHER, 1000).is_ok(), "another name");
    }

    #[test]
    fn a_known_client_is_not_kept_out_by_its_neighbours_behind_the_same_address() {
        let mut failures = Failures::new();
        let (known, _) = failures.begin(client(1), OWNER, 1000).expect("the first");
        failures.succeed(&known, 1000);
        delays(&mut failures, client(1), OTHER, 20);
        assert!(failures.begin(client(1), NameKey(3), 1000).is_err());
        assert_eq!(delays(&mut failures, client(1), OWNER, 5), [0; 5]);
        delays(&mut failures, client(1), OWNER, 15);
        assert!(failures.begin(client(1), OWNER, 1000).is_err(), "it may be guessing itself");
    }

    #[test]
    fn what_succeeds_or_tells_nothing_does_not_count() {
        let mut failures = Failures::new();
        for _ in 0..100 {
            let (attempt, delay) = failures.begin(client(1), OWNER, 1000).expect("may be made");
            assert_eq!(delay, Duration::ZERO);
            failures.withdraw(&attempt);
        }
        for _ in 0..100 {
            let (attempt, delay) = failures.begin(client(1), OWNER, 1000).expect("may be made");
            assert_eq!(delay, Duration::ZERO);
            failures.succeed(&attempt, 1000);
        }
        for number in 2..100 {
            let (attempt, _) = failures.begin(client(number), OTHER, 1000).expect("may be made");
            failures.succeed(&attempt, 1000);
        }
        assert_eq!(failures.names.entry(OTHER).known.len(), AUTH_CLIENTS_OF_NAME_MAX);
    }
}
