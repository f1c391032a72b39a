//! When a task is tried again, and when its time is over. `Pure.`

use std::time::Duration;

use crate::config::{DELAY_NOTICE_ASKED_FOR, RetryPolicy};
use crate::mail::Envelope;
use crate::mail::envelope::Notify;

/// Wait before the next attempt of a Delayed task: grows by the factor with each finished attempt
/// within the configured range, then is spread by the jitter.
///
/// `attempt_count` counts from 1. `random` is uniform over all values. RFC 5321 §4.5.4.1 asks for
/// at least 30 minutes in general; the configured floor decides.
pub(super) fn retry_wait(attempt_count: u32, random: u64, policy: &RetryPolicy) -> Duration {
    assert!(attempt_count > 0);
    let grown = policy.wait_min.as_secs_f64() * policy.factor.powf((attempt_count - 1).into());
    // What grew beyond all bounds is above the ceiling as well.
    let wait = grown.min(policy.wait_max.as_secs_f64());
    let spread = (random % 2001) as f64 / 1000.0 - 1.0;
    Duration::from_secs_f64(wait * (1.0 + policy.jitter * spread))
}

/// Unix milliseconds from which the lifetime counts: acceptance, or the release where that is
/// later.
pub(super) fn since_ms(envelope: &Envelope) -> u64 {
    envelope.accepted_ms.max(envelope.release_ms)
}

/// Unix milliseconds at which the lifetime is over that `policy` gives.
///
/// It is worked out anew each time it is asked for: another policy holds for mail that is queued
/// already.
pub(super) fn expires_ms(envelope: &Envelope, policy: &RetryPolicy) -> u64 {
    since_ms(envelope) + policy.lifetime.as_millis() as u64
}

/// Who is told of a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DelayNotice {
    No,
    /// Who asked for it by NOTIFY=DELAY.
    AskedFor,
    /// Who asked for it, and who said nothing.
    All,
}

impl DelayNotice {
    pub fn is_for(self, notify: Notify) -> bool {
        match self {
            DelayNotice::No => false,
            DelayNotice::AskedFor => notify.wants_delay(false),
            DelayNotice::All => notify.wants_delay(true),
        }
    }
}

/// Age in milliseconds at which it is told that a task is Delayed.
pub(super) fn delay_notice_age_ms(policy: &RetryPolicy) -> u64 {
    policy.delay_notice.unwrap_or(DELAY_NOTICE_ASKED_FOR).as_millis() as u64
}

/// Who is told of a delay when it is time.
pub(super) fn delay_notice(policy: &RetryPolicy) -> DelayNotice {
    match policy.delay_notice {
        Some(_) => DelayNotice::All,
        None => DelayNotice::AskedFor,
    }
}

/// Whether somebody is to be told of a delay of this message.
pub(super) fn tells_of_delay(envelope: &Envelope, policy: &RetryPolicy) -> bool {
    let delay_notice = delay_notice(policy);
    !envelope.reverse_path.is_empty()
        && envelope.recipients.iter().any(|it| delay_notice.is_for(it.notify))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_wait_grows_between_floor_and_ceiling_and_is_spread() {
        let seconds = Duration::from_secs;
        let policy = RetryPolicy {
            wait_min: seconds(10),
            wait_max: seconds(100),
            ..Config::embedded().queue.retry()
        };
        let (low, middle, high) = (0, 1000, 2000);
        for (attempt_count, random, factor, jitter, expected) in [
            (1, middle, 2.0, 0.2, 10),
            (1, low, 2.0, 0.2, 8),
            (1, high, 2.0, 0.2, 12),
            (2, middle, 2.0, 0.2, 20),
            (4, middle, 2.0, 0.2, 80),
            (5, middle, 2.0, 0.2, 100),
            (5, high, 2.0, 0.2, 120),
            (u32::MAX, middle, 2.0, 0.2, 100),
            (u32::MAX, middle, 1.0, 0.2, 10),
            (u32::MAX, low, 100.0, 1.0, 0),
            (3, high, 3.0, 0.0, 90),
            (3, 2001 + low, 1.5, 0.0, 22),
        ] {
            let policy = RetryPolicy { factor, jitter, ..policy };
            let wait = retry_wait(attempt_count, random, &policy);
            assert_eq!(wait.as_secs(), expected, "{attempt_count} {random} {factor} {jitter}");
        }
    }

    #[test]
    fn a_delay_is_told_to_those_who_asked_or_to_all() {
        let of_queue = Config::embedded().queue.retry();
        assert_eq!(delay_notice(&of_queue), DelayNotice::AskedFor);
        assert_eq!(delay_notice_age_ms(&of_queue), 4 * 3_600_000);
        let early = RetryPolicy { delay_notice: Some(Duration::from_secs(60)), ..of_queue };
        assert_eq!(delay_notice(&early), DelayNotice::All);
        assert_eq!(delay_notice_age_ms(&early), 60_000);
    }
}
