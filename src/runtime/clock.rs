//! Clocks and randomness.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock, exact.
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the process asked first, exact.
pub fn monotonic_ms() -> u64 {
    start().elapsed().as_millis() as u64
}

/// Milliseconds since the process asked first, as of this executor's last timer tick.
///
/// Costs a load. On a thread without an executor it is exact.
pub fn coarse_ms() -> u64 {
    match COARSE_MS.get() {
        0 => monotonic_ms(),
        coarse_ms => coarse_ms,
    }
}

/// Wall clock in milliseconds since 1970; 0 where the clock stands before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// Called by this executor's timer at each tick; returns the new coarse time.
pub(super) fn advance_coarse() -> u64 {
    let now_ms = monotonic_ms().max(1);
    COARSE_MS.set(now_ms);
    now_ms
}

/// A random number for spreading load and breaking ties; not for secrets.
pub fn random_u64() -> u64 {
    RANDOM.with(|state| {
        let mut value = state.get();
        if value == 0 {
            let mut seed = [0; 8];
            fill_random(&mut seed);
            value = u64::from_le_bytes(seed) | 1;
        }
        // xorshift64*: a full period over the non-zero states.
        value ^= value >> 12;
        value ^= value << 25;
        value ^= value >> 27;
        state.set(value);
        value.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

/// Fills `bytes` from the kernel's generator; fit for identifiers that must not collide.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel has a random generator");
}

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

thread_local! {
    static COARSE_MS: Cell<u64> = const { Cell::new(0) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}
