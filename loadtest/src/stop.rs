//! SIGINT and SIGTERM end a run early and in order: the table is still printed.
#![allow(unsafe_code)] // Installing a signal handler is a system call.

use std::sync::atomic::{AtomicBool, Ordering};

/// Lets the two signals be noticed by `requested`. A second one ends the process.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing but an atomic store and `signal`, which are
        // async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

extern "C" fn on_signal(signal: libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
    // SAFETY: restores the default action; async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

static REQUESTED: AtomicBool = AtomicBool::new(false);
