//! Blocking streams with one deadline over everything that is read and written.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A stream whose single reads and writes can be bounded.
pub trait Timeouts: Read + Write {
    /// `time` is above zero.
    fn bound_reads(&self, time: Duration) -> io::Result<()>;
    fn bound_writes(&self, time: Duration) -> io::Result<()>;
}

impl Timeouts for TcpStream {
    fn bound_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn bound_writes(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

impl Timeouts for UnixStream {
    fn bound_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn bound_writes(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

impl<S: Timeouts + ?Sized> Timeouts for Box<S> {
    fn bound_reads(&self, time: Duration) -> io::Result<()> {
        (**self).bound_reads(time)
    }

    fn bound_writes(&self, time: Duration) -> io::Result<()> {
        (**self).bound_writes(time)
    }
}

/// Gives `TimedOut` once the deadline has passed, however slowly the peer drips.
pub struct Deadlined<S> {
    stream: S,
    until: Instant,
}

impl<S: Timeouts> Deadlined<S> {
    pub fn new(stream: S, time_max: Duration) -> Self {
        Self::until(stream, Instant::now() + time_max)
    }

    /// The deadline is `until`.
    pub fn until(stream: S, until: Instant) -> Self {
        Self { stream, until }
    }

    /// The deadline is `time_max` from now.
    pub fn renew(&mut self, time_max: Duration) {
        self.until = Instant::now() + time_max;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl<S: Timeouts> Read for Deadlined<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.bound_reads(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl<S: Timeouts> Write for Deadlined<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.bound_writes(self.left()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The kernel calls a socket's timeout "would block".
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_the_start_and_not_from_the_last_octet() {
        let (mut peer, ours) = UnixStream::pair().expect("a pair");
        peer.write_all(b"x").expect("written");
        let mut passed = Deadlined::new(ours, Duration::ZERO);
        let error = passed.read(&mut [0; 8]).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = passed.write(b"x").expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        passed.renew(Duration::from_secs(9));
        assert_eq!(passed.read(&mut [0; 8]).expect("in time again"), 1);
    }
}
