//! Local tasks of the executor that runs the caller.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Runs `future` on this executor until it ends. A panic ends the task alone and is counted.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Contained { future }).detach();
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tasks of this process that ended in a panic.
pub fn panic_count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

struct Contained<F> {
    future: F,
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is structurally pinned: it is never moved out of `self`.
        let future = unsafe { self.map_unchecked_mut(|contained| &mut contained.future) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(poll) => poll,
            Err(_) => {
                // The panic hook has printed message and place.
                PANICS.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(())
            }
        }
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);
