//! Local tasks of the executor that runs the caller.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::event::notice;

/// Runs `future` on this executor until it ends. A panic ends the task alone and is counted.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Contained { future, on_panic: OnPanic::EndTask }).detach();
}

/// Runs `future` on this executor until it ends. A panic ends the process, with exit status 70:
/// without this task everybody would wait for ever, and the next start recovers.
pub fn spawn_vital(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Contained { future, on_panic: OnPanic::EndProcess }).detach();
}

/// Runs all of `futures` in this task at the same time; the results are in their order.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_pending = false;
        for (future, result) in running.iter_mut().filter(|(_, result)| result.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(value) => *result = Some(value),
                Poll::Pending => is_pending = true,
            }
        }
        if is_pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().map(|(_, result)| result.expect("all have ended")).collect()
}

/// From now on a panic that the sources of one of these rooms raise ends the process, with exit
/// status 70, whatever task or thread it is in: a session that calls into them must not be all that
/// ends when what everybody relies on may be half done.
pub fn end_process_on_panic_in(rooms: &'static [&'static str]) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if notice::is_started() {
            let thread = std::thread::current();
            notice!("ringpost: thread {} {panic}", thread.name().unwrap_or("without a name"));
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                notice!("{backtrace}");
            }
        } else {
            print(panic);
        }
        let file = panic.location().map_or("", |location| location.file());
        if rooms.iter().any(|room| is_of(file, room)) {
            end_process();
        }
    }));
}

/// Whether a source file, as the compiler names it, is one of a room.
fn is_of(file: &str, room: &str) -> bool {
    let rooms = file!().strip_suffix("runtime/task.rs").expect("this file has this name");
    let within = file.strip_prefix(rooms).and_then(|file| file.strip_prefix(room));
    within.is_some_and(|rest| rest.starts_with('/'))
}

fn end_process() -> ! {
    // The panic hook has said message and place.
    notice!("ringpost: stopping after a panic; nothing acknowledged is lost");
    notice::finish();
    // SAFETY: ends the process; nothing of ours runs afterwards.
    unsafe { libc::_exit(EX_SOFTWARE) }
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
            Err(_) if matches!(on_panic, OnPanic::EndProcess) => end_process(),
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_is_of_its_room_alone() {
        assert!(is_of(file!(), "runtime"));
        for (file, room) in
            [(file!(), "run"), (file!(), "queue"), ("/rustc/x/src/queue/y.rs", "queue")]
        {
            assert!(!is_of(file, room), "{file} {room}");
        }
    }

    /// Runs `panics_where_it_says` in a process of its own. Returns its exit status.
    fn status_of_panic(room: &str) -> Option<i32> {
        let test = "runtime::task::tests::panics_where_it_says";
        let mut command = Command::new(std::env::current_exe().expect("a test"));
        command.args([test, "--exact"]).env(ROOM, room);
        command.output().expect("runs").status.code()
    }

    #[test]
    fn a_panic_of_a_named_room_ends_the_process_though_somebody_would_contain_it() {
        assert_eq!(status_of_panic("runtime"), Some(70));
        assert_eq!(status_of_panic("queue"), Some(0), "contained");
    }

    #[test]
    fn panics_where_it_says() {
        match std::env::var(ROOM).as_deref() {
            Ok("runtime") => end_process_on_panic_in(&["runtime"]),
            Ok(_) => end_process_on_panic_in(&["queue"]),
            Err(_) => return,
        }
        assert!(catch_unwind(|| panic!("contained")).is_err());
    }

    const ROOM: &str = "RINGPOST_TEST_PANIC_ROOM";
}
