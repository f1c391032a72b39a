//! The octets of one client: what came and is not dealt with, and what is to be sent, compressed
//! where the client has asked for that.

use std::io;
use std::time::Duration;

use super::deflate::{Inflate, deflate};
use super::sink::{OUT_BYTES, Sink};
use crate::access::Connection;
use crate::runtime::task;

/// A connection, with or without compression over it. An idle one has no buffers.
pub struct Wire {
    connection: Connection,
    compression: Option<Box<Compression>>,
}

#[derive(Default)]
struct Compression {
    inflate: Inflate,
    /// What the client said, made plain; dealt with up to `at`.
    input: Vec<u8>,
    at: usize,
    /// What is to be sent, plain.
    out: Vec<u8>,
}

impl Wire {
    pub fn new(connection: Connection) -> Wire {
        Wire { connection, compression: None }
    }

    /// What comes from here on is compressed, and so is what is sent (RFC 4978 §3). Everything has
    /// been sent; what came and is not dealt with was compressed already.
    pub fn compress(&mut self) {
        assert!(self.compression.is_none());
        assert!(self.connection.input_and_out().1.is_empty());
        self.compression = Some(Box::default());
    }

    pub fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// What is to be sent.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.input_and_out().1
    }

    /// What came and is not dealt with, and where to answer.
    pub fn input_and_out(&mut self) -> (&[u8], &mut Vec<u8>) {
        match &mut self.compression {
            Some(compression) => (&compression.input[compression.at..], &mut compression.out),
            None => self.connection.input_and_out(),
        }
    }

    pub fn has_input(&self) -> bool {
        match &self.compression {
            Some(compression) => compression.at < compression.input.len(),
            None => self.connection.has_input(),
        }
    }

    /// Octets at the front of the input are dealt with.
    pub fn consume(&mut self, bytes: usize) {
        let Some(compression) = &mut self.compression else {
            return self.connection.consume(bytes);
        };
        compression.at += bytes;
        assert!(compression.at <= compression.input.len());
        if compression.at == compression.input.len() {
            compression.input.clear();
            compression.at = 0;
        }
    }

    /// See `Connection::read`. All input has been dealt with. `InvalidData` where what came is not
    /// compressed though it should be.
    pub async fn read(&mut self, wait_max: Duration, stop: impl Fn() -> bool) -> io::Result<()> {
        let Some(compression) = &mut self.compression else {
            return self.connection.read(wait_max, stop).await;
        };
        assert!(compression.input.is_empty() && compression.out.is_empty());
        (compression.input, compression.out) = (Vec::new(), Vec::new());
        loop {
            while self.connection.has_input() {
                let (compressed, _) = self.connection.input_and_out();
                let taken = compression.inflate.inflate(compressed, &mut compression.input)?;
                self.connection.consume(taken);
                // A little may stand for very much: one piece at a time.
                if !compression.input.is_empty() {
                    return Ok(());
                }
                // Thousands of blocks may stand for nothing: others take their turns between them.
                task::yield_now().await;
            }
            // The last piece may have had no room for its end.
            compression.inflate.inflate(&[], &mut compression.input)?;
            if !compression.input.is_empty() {
                return Ok(());
            }
            self.connection.read(wait_max, &stop).await?;
        }
    }

    /// See `Connection::flush`.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.compress_out(&[]);
        self.connection.flush().await
    }

    /// Sends what there is if that has become much: a long answer takes no more memory than that.
    pub async fn flush_if_long(&mut self) -> io::Result<()> {
        if self.out().len() >= OUT_BYTES { self.send(&[]).await } else { Ok(()) }
    }

    /// Sends all that is to be sent; nothing follows.
    pub async fn close(&mut self) -> io::Result<()> {
        self.compress_out(&[]);
        self.connection.close().await
    }

    fn compress_out(&mut self, octets: &[u8]) {
        if let Some(compression) = &mut self.compression
            && !(compression.out.is_empty() && octets.is_empty())
        {
            deflate(&[&compression.out, octets], &mut self.connection.out);
            compression.out.clear();
        }
    }
}

impl Sink for Wire {
    fn out(&mut self) -> &mut Vec<u8> {
        self.input_and_out().1
    }

    async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self.compression {
            Some(_) => {
                let mut left = octets;
                loop {
                    let (piece, rest) = left.split_at(left.len().min(DEFLATED_AT_ONCE));
                    self.compress_out(piece);
                    self.connection.send(&[]).await?;
                    if rest.is_empty() {
                        return Ok(());
                    }
                    left = rest;
                    task::yield_now().await;
                }
            }
            None => self.connection.send(octets).await,
        }
    }
}

/// Octets compressed before others get a turn.
const DEFLATED_AT_ONCE: usize = 64 * 1024;
