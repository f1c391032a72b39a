//! Local tasks of the executor that runs the caller.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use super::sync::Notify;
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
    poll_fn(|context| {
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

/// Suspends until the tasks that are ready now have run once: for whoever gathers what they do.
pub use futures_lite::future::yield_now as yield_once;

/// Lets every other ready task run once. For long work, between parts of at most a millisecond.
///
/// An executor whose tasks are always ready asks the kernel for news only when its preempt timer
/// fires, a tenth of a second later: whoever waits for a socket or for another thread would wait
/// that long. So whoever yields `LOOK_PERIOD` after the last look waits for the next one, and as
/// all others do the same, it comes as soon as what is ready has run. What it wakes goes first.
pub async fn yield_now() {
    let looks = LOOKS.with(Rc::clone);
    if looks.last.get().elapsed() < LOOK_PERIOD {
        return yield_once().await;
    }
    if looks.waiting.borrow().is_empty() {
        looks.asked_for.notify_one();
    }
    let count = looks.count.get();
    poll_fn(|context| {
        if looks.count.get() > count {
            return Poll::Ready(());
        }
        looks.waiting.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Looks for news when somebody asks for it, for as long as the executor runs.
pub(super) async fn look_for_news() {
    let looks = LOOKS.with(Rc::clone);
    let mut timer = Timer::new(A_LONG_TIME);
    loop {
        looks.asked_for.notified().await;
        // The executor looks at its timers whenever it looks for news. One that is over when it is
        // polled would not wait for that: it is made to be over while it waits.
        timer.reset(A_LONG_TIME);
        let mut has_waited = false;
        poll_fn(|context| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            assert!(Pin::new(&mut timer).poll(context).is_pending(), "it is far away");
            timer.reset(Duration::ZERO);
            Poll::Pending
        })
        .await;
        looks.last.set(Instant::now());
        looks.count.set(looks.count.get() + 1);
        looks.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// Questions to the kernel for what has come, as far as long work has asked for them.
struct Looks {
    asked_for: Notify,
    count: Cell<u64>,
    last: Cell<Instant>,
    /// Who waits for the next one; who has given up is woken for nothing.
    waiting: RefCell<Vec<Waker>>,
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
/// How long tasks that are always ready run before the kernel is asked for news.
const LOOK_PERIOD: Duration = Duration::from_micros(500);
const A_LONG_TIME: Duration = Duration::from_secs(3600);

thread_local! {
    static LOOKS: Rc<Looks> = Rc::new(Looks {
        asked_for: Notify::default(),
        count: Cell::new(0),
        last: Cell::new(Instant::now()),
        waiting: RefCell::default(),
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::{executor, inbox, thread};
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

    /// Between an answer from elsewhere and the task that waits for it, each of those that are
    /// always ready has but a few turns.
    #[test]
    fn whoever_waits_is_woken_however_busy_others_are() {
        let body = || async {
            let (news, mut waiting) = inbox::inbox::<()>(1);
            let turn_count = Rc::new(Cell::new(0));
            let sent_at = Rc::new(Cell::new(None));
            let is_over = Rc::new(Cell::new(false));
            for index in 0..BUSY {
                let (news, turn_count) = (news.clone(), turn_count.clone());
                let (sent_at, is_over) = (sent_at.clone(), is_over.clone());
                spawn(async move {
                    while !is_over.get() {
                        let since = Instant::now();
                        while since.elapsed() < LOOK_PERIOD {}
                        turn_count.set(turn_count.get() + 1);
                        if index == 0 && sent_at.get().is_none() {
                            let news = news.clone();
                            let send = move || news.try_send(()).expect("there is room");
                            let sender = thread::spawn("news", None, send).expect("a thread");
                            sender.join().expect("no panic");
                            sent_at.set(Some(turn_count.get()));
                        }
                        yield_now().await;
                    }
                });
            }
            for round in 0..20 {
                waiting.recv().await;
                let sent_at = sent_at.take().expect("it was sent");
                let between = turn_count.get() - sent_at;
                assert!(between <= 2 * BUSY, "{between} turns in round {round}");
            }
            is_over.set(true);
        };
        let thread = executor::spawn("turns-test", None, body).expect("a thread");
        thread.join().expect("no panic").expect("no error");
    }

    const BUSY: u32 = 4;
    const ROOM: &str = "RINGPOST_TEST_PANIC_ROOM";
}
