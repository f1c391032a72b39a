//! The octets of one client: what came and is not dealt with, and what is to be sent.

use std::io;
use std::time::Duration;

use crate::runtime::stream::Stream;

/// A connection with its buffers. An idle one has none.
pub struct Wire {
    stream: Stream,
    /// What came; dealt with up to `at`.
    input: Vec<u8>,
    at: usize,
    /// What is to be sent.
    pub out: Vec<u8>,
}

impl Wire {
    /// A connection on which `input` has come already.
    pub fn new(stream: Stream, input: Vec<u8>) -> Wire {
        Wire { stream, input, at: 0, out: Vec::new() }
    }

    /// What came and is not dealt with, and where to answer.
    pub fn input_and_out(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.at..], &mut self.out)
    }

    pub fn has_input(&self) -> bool {
        self.at < self.input.len()
    }

    /// Octets at the front of the input are dealt with.
    pub fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        assert!(self.at <= self.input.len());
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
    }

    /// Appends what comes, at least one octet, to the input; `UnexpectedEof` at the end, `TimedOut`
    /// when nothing comes for `wait_max`, `Interrupted` where `stop` is true. Keeps no buffer while
    /// it waits. Dropped midway, no octet is lost.
    pub async fn read(&mut self, wait_max: Duration, stop: impl Fn() -> bool) -> io::Result<()> {
        assert!(self.out.is_empty());
        if !self.has_input() {
            (self.input, self.at) = (Vec::new(), 0);
        }
        self.out = Vec::new();
        self.stream.set_deadline(Some(wait_max));
        let input = &mut self.input;
        let is_end = self.stream.read_scratch_unless(stop, |octets| {
            input.extend_from_slice(octets);
            octets.is_empty()
        });
        if is_end.await? { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Sends all of `out`, and waits for the client to take it.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.set_deadline(Some(WRITE_TIME_MAX));
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Sends what there is if that has become much: a long answer takes no more memory than that.
    pub async fn flush_if_long(&mut self) -> io::Result<()> {
        if self.out.len() >= OUT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends all of `out`; nothing follows.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.set_deadline(Some(FAREWELL_TIME_MAX));
        self.stream.write_last(&self.out).await
    }
}

/// What is gathered before it is sent.
pub const OUT_BYTES: usize = 64 * 1024;
/// For the client to take one part of an answer.
const WRITE_TIME_MAX: Duration = Duration::from_secs(300);
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);
