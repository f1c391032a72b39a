//! Signals, taken in one thread; every other thread has them blocked.

use std::io;
use std::thread::JoinHandle;

use super::thread;

/// What an operator or the service manager says by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration and open the log anew.
    Hangup,
    /// SIGTERM or SIGINT: finish what is open and end.
    Stop,
}

/// Blocks the signals in the calling thread and in all threads it starts from now on.
///
/// Call first of all: a thread that was there before would take them in its own way.
pub fn block() -> io::Result<()> {
    let set = signal_set();
    // SAFETY: the set is initialised; the old mask is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Starts the thread that waits for signals and calls `on_signal` for each, until the process ends.
/// `core` pins it.
pub fn watch(
    core: Option<usize>,
    mut on_signal: impl FnMut(Signal) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::spawn("signals", core, move || {
        loop {
            on_signal(wait());
        }
    })
}

/// Waits for the next of the blocked signals.
fn wait() -> Signal {
    let set = signal_set();
    loop {
        let mut number = 0;
        // SAFETY: the set is initialised and `number` ours to fill.
        let result = unsafe { libc::sigwait(&set, &mut number) };
        assert!(result == 0, "the set holds valid signals only");
        match number {
            libc::SIGHUP => return Signal::Hangup,
            libc::SIGTERM | libc::SIGINT => return Signal::Stop,
            _ => {}
        }
    }
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: `sigemptyset` initialises the set; the signal numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_waits_for_the_one_that_asks() {
        let taken = std::thread::spawn(|| {
            block().expect("signals can be blocked");
            // SAFETY: a signal to this very thread, which has it blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGHUP) };
            wait()
        });
        assert_eq!(taken.join().expect("no panic"), Signal::Hangup);
    }
}
