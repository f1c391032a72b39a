//! Local tasks of the executor that runs the caller.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Runs `future` on this executor until it ends. A panic ends the task alone and is counted.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Contained { future, on_panic: OnPanic::EndTask }).detach();
}

/// Runs `future` on this executor until it ends. A panic ends the process, with exit status 70:
/// without this task everybody would wait for ever, and the next start recovers.
pub fn spawn_vital(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Contained { future, on_panic: OnPanic::EndProcess }).detach();
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

#[derive(Clone, Copy)]
enum OnPanic {
    EndTask,
    EndProcess,
}

struct Contained<F> {
    future: F,
    on_panic: OnPanic,
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let on_panic = self.on_panic;
        // SAFETY: `future` is structurally pinned: it is never moved out of `self`.
        let future = unsafe { self.map_unchecked_mut(|contained| &mut contained.future) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(poll) => poll,
            Err(_) if matches!(on_panic, OnPanic::EndProcess) => {
                // The panic hook has printed message and place.
                eprintln!("ringpost: stopping after a panic; nothing acknowledged is lost");
                // SAFETY: ends the process; nothing of ours runs afterwards.
                unsafe { libc::_exit(EX_SOFTWARE) }
            }
            Err(_) => {
                PANICS.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(())
            }
        }
    }
}

/// Exit status for an error of our own (sysexits).
const EX_SOFTWARE: libc::c_int = 70;
static PANICS: AtomicU64 = AtomicU64::new(0);
