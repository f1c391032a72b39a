//! ringpost keeps one complete mail system on every core.
#![deny(unsafe_code)]

/// As std's, which panics where nobody reads standard error any more: `ringpost 2>&1 | head` must
/// stop as it should all the same. Stands before the rooms, so that none of them has the other.
macro_rules! eprint {
    ($($argument:tt)*) => {{
        let text = ::std::format_args!($($argument)*);
        let _ = ::std::io::Write::write_fmt(&mut ::std::io::stderr(), text);
    }};
}

/// `eprint!` with the end of the line.
macro_rules! eprintln {
    ($($argument:tt)*) => { eprint!("{}\n", ::std::format_args!($($argument)*)) };
}

pub mod access;
pub mod acme;
pub mod admin;
pub mod auth;
pub mod config;
pub mod control;
pub mod delivery;
pub mod dns;
pub mod entrance;
pub mod event;
pub mod fsck;
pub mod journal;
pub mod limits;
pub mod mail;
pub mod mailbox;
pub mod metrics;
pub mod proto;
pub mod queue;
pub mod reception;
pub mod routing;
pub mod runtime;
pub mod shard;
pub mod tls;
pub mod web;
