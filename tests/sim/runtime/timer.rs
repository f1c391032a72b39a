//! Sleeps by the simulated clock.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::executor;
use crate::limits::TIMER_TICK_MS;

/// Ends with the tick that follows, as the wheel of the server does.
pub async fn sleep(duration: Duration) {
    let tick_us = TIMER_TICK_MS * 1000;
    let due_us = executor::now_us() + duration.as_micros() as u64;
    sleep_until_us(due_us.next_multiple_of(tick_us)).await;
}

pub async fn sleep_exactly(duration: Duration) {
    sleep_until_us(executor::now_us() + duration.as_micros() as u64).await;
}

/// Suspends until the clock of the simulation stands there.
pub async fn sleep_until_us(due_us: u64) {
    let mut is_armed = false;
    poll_fn(|context| {
        if executor::now_us() >= due_us {
            return Poll::Ready(());
        }
        if !is_armed {
            is_armed = true;
            executor::wake_at(due_us, context.waker());
        }
        Poll::Pending
    })
    .await;
}
