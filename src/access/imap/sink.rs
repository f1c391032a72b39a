//! Where responses go.

use std::future::Future;
use std::io;

/// The sending side of a session, whatever the connection is wrapped in.
pub trait Sink {
    /// Octets that go next. Whoever appends much awaits `send` now and then.
    fn out(&mut self) -> &mut Vec<u8>;

    /// Sends and empties `out`, then `octets`, in as few writes as can be. Suspends while the
    /// client is slow. After an error the connection is good for nothing.
    fn send(&mut self, octets: &[u8]) -> impl Future<Output = io::Result<()>>;
}

/// What is gathered before it is sent.
pub(super) const OUT_BYTES: usize = 64 * 1024;
