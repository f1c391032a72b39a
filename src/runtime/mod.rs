//! Everything that touches the kernel, behind thin names: executors, sockets, timers, inboxes,
//! the log ring, threads, signals, privileges.
//!
//! **Owns** the only system calls and the only `unsafe` of the program, and the only mention of
//! glommio, io-uring and libc.
//! **Uses** `limits` and `config`'s types. Knows nothing of mail; TLS is the library's.
//! **Holds** that a wait has a deadline, that a panic stays in its task unless all rely on what it
//! left, and that an executor that stops making progress is seen by the watchdog.
//! **Start reading** at `executor::spawn`, then `net::TcpStream` and `stream::Stream`.
#![allow(unsafe_code)]

pub mod aligned;
pub mod blocking;
pub mod clock;
pub mod deadline;
pub mod disk;
pub mod executor;
pub mod inbox;
pub mod log_ring;
pub mod net;
pub mod pages;
pub mod privilege;
pub mod probe;
pub mod rlimit;
pub mod segment_file;
pub mod signal;
pub mod stream;
pub mod sync;
pub mod task;
pub mod terminal;
pub mod thread;
pub mod timer;
pub mod udp;
pub mod whole_file;
