//! Executors: one pinned thread with its own io_uring, and the watchdog over them.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::{task, thread, timer};
use crate::event::notice;
use crate::limits::TIMER_TICK_MS;

/// Starts a thread that runs the future made by `body` to its end, pinned to `core`.
///
/// The future and everything it spawns stay on that thread. Probe io_uring first: an executor whose
/// ring the kernel refuses ends the thread with an error here in the join handle.
pub fn spawn<F, B>(
    name: &str,
    core: Option<usize>,
    body: B,
) -> io::Result<JoinHandle<io::Result<()>>>
where
    F: Future<Output = ()> + 'static,
    B: FnOnce() -> F + Send + 'static,
{
    let thread_name = name.to_owned();
    std::thread::Builder::new().name(thread_name.clone()).spawn(move || {
        let _guard = EndProcessOnPanic;
        if let Some(core) = core {
            thread::pin_to_core(core)?;
        }
        let heartbeat = register(&thread_name);
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name(&thread_name)
            // The default registers 30 MiB for files, which this program never reads this way.
            .io_memory(64 << 10)
            .ring_depth(RING_DEPTH)
            .preempt_timer(Duration::from_millis(PREEMPT_MS))
            .make()
            .map_err(|error| io::Error::other(error.to_string()))?;
        executor.run(async move {
            timer::advance();
            glommio::spawn_local(beat(heartbeat.clone())).detach();
            glommio::spawn_local(task::look_for_news()).detach();
            body().await;
            heartbeat.store(ENDED, Ordering::Relaxed);
        });
        Ok(())
    })
}

/// A shard that panics outside a task takes the process with it: nothing that was answered 250 is
/// lost by that, and half a server is worse than a restart.
struct EndProcessOnPanic;

impl Drop for EndProcessOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            notice!("ringpost: a shard panicked: ending the process");
            notice::finish();
            std::process::abort();
        }
    }
}

/// Turns the wheel, and bounds the time for which an executor can park with runnable tasks.
async fn beat(heartbeat: Arc<AtomicU64>) {
    loop {
        glommio::timer::sleep(Duration::from_millis(TIMER_TICK_MS)).await;
        timer::advance();
        heartbeat.fetch_add(1, Ordering::Relaxed);
    }
}

/// Watches every executor of the process: one that stands still for `stall_max` ends the process,
/// which loses nothing that was answered 250.
pub fn start_watchdog(stall_max: Duration) -> io::Result<()> {
    thread::spawn("watchdog", None, move || {
        let period = Duration::from_millis(500);
        let periods_max = (stall_max.as_millis() / period.as_millis()).max(1);
        let mut seen: Vec<(u64, u128)> = Vec::new();
        loop {
            std::thread::sleep(period);
            let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            seen.resize(watched.len(), (0, 0));
            for (executor, (last_beat, still_periods)) in watched.iter().zip(&mut seen) {
                let now_beat = executor.heartbeat.load(Ordering::Relaxed);
                if now_beat != *last_beat || now_beat == ENDED {
                    (*last_beat, *still_periods) = (now_beat, 0);
                    continue;
                }
                *still_periods += 1;
                if *still_periods == periods_max / 5 {
                    let (name, doing) = (&executor.name, thread::doing(executor.thread));
                    notice!("ringpost: executor {name} does not move: {doing}");
                }
                if *still_periods >= periods_max {
                    let (name, doing) = (&executor.name, thread::doing(executor.thread));
                    notice!("ringpost: executor {name} hangs: {doing}: ending the process");
                    notice::finish();
                    std::process::abort();
                }
            }
        }
    })
    .map(drop)
}

struct Watched {
    name: String,
    thread: u32,
    heartbeat: Arc<AtomicU64>,
}

fn register(name: &str) -> Arc<AtomicU64> {
    let heartbeat = Arc::new(AtomicU64::new(0));
    let (name, thread) = (name.to_owned(), thread::own_id());
    let watched = Watched { name, thread, heartbeat: heartbeat.clone() };
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    heartbeat
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
/// The heartbeat of an executor that came to its end.
const ENDED: u64 = u64::MAX;
/// Below ten milliseconds the timer itself becomes load.
const PREEMPT_MS: u64 = 100;
const RING_DEPTH: usize = 1024;
