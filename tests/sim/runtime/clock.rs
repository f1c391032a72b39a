//! Clocks that stand still while anything runs, and randomness from the seed.

use std::time::{Duration, Instant};

use super::executor;
use crate::limits::TIMER_TICK_MS;

pub fn now() -> Instant {
    executor::instant_zero() + Duration::from_micros(executor::now_us())
}

pub fn monotonic_ms() -> u64 {
    // Never 0, as on a host that has been up for a while.
    BOOT_MS + executor::now_us() / 1000 - executor::monotonic_lag_ms()
}

/// As of the last tick.
pub fn coarse_ms() -> u64 {
    let ms = monotonic_ms();
    ms - ms % TIMER_TICK_MS
}

pub fn unix_ms() -> u64 {
    UNIX_START_MS + executor::now_us() / 1000
}

pub fn random_u64() -> u64 {
    executor::random_u64()
}

pub fn fill_random(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = random_u64() as u8);
}

/// What the wall clock says when a run begins.
pub const UNIX_START_MS: u64 = 1_700_000_000_000;
const BOOT_MS: u64 = 100_000;
