//! A client's connection: its octets, who it is, and what it counts for.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{Inner, OfAccount};
use crate::entrance::clients::{Held, HeldElsewhere};
use crate::mail::Protection;
use crate::runtime::stream::{DetachedStream, Stream};
use crate::runtime::sync;

/// A connection with its buffers. An idle one has none.
pub struct Connection {
    stream: Stream,
    /// What came; dealt with up to `at`.
    input: Vec<u8>,
    at: usize,
    /// What is to be sent.
    pub out: Vec<u8>,
    pub peer: Peer,
    /// Once the client has logged in.
    login: Option<OfAccount>,
}

/// Whom a connection is with. Counts as a session of its client for as long as it lives.
pub struct Peer {
    pub client: IpAddr,
    pub protection: Option<Protection>,
    /// Nothing between the client and this process is another machine.
    pub is_on_loopback: bool,
    held: Held,
    _counted: Counted,
}

impl Peer {
    /// Whether a password may be said in the session: under TLS, or where nobody else hears it.
    pub fn may_say_password(&self) -> bool {
        self.protection.is_some() || self.is_on_loopback
    }
}

/// A connection that no shard has: on its way to the one whose mailboxes it is for.
pub struct Detached {
    stream: DetachedStream,
    input: Vec<u8>,
    client: IpAddr,
    protection: Option<Protection>,
    is_on_loopback: bool,
    held: HeldElsewhere,
}

impl Connection {
    pub(super) fn new(stream: Stream, client: IpAddr, held: Held, counted: Counted) -> Self {
        let peer =
            Peer { client, protection: None, is_on_loopback: false, held, _counted: counted };
        Self { stream, input: Vec::new(), at: 0, out: Vec::new(), peer, login: None }
    }

    /// The stream with what came and is not dealt with. Everything has been sent. Nobody has logged
    /// in.
    pub fn into_parts(mut self) -> (Stream, Vec<u8>, Peer) {
        assert!(self.out.is_empty());
        self.input.drain(..self.at);
        (self.stream, self.input, self.peer)
    }

    /// What `into_parts` gave.
    pub fn from_parts(stream: Stream, input: Vec<u8>, peer: Peer) -> Self {
        Self { stream, input, at: 0, out: Vec::new(), peer, login: None }
    }

    /// Everything has been sent. Gives the connection back where it cannot leave this shard.
    pub(super) fn detach(self) -> Result<Detached, Box<Self>> {
        let (stream, input, peer) = self.into_parts();
        match stream.detach() {
            Ok(stream) => {
                let Peer { client, protection, is_on_loopback, held, _counted: _ } = peer;
                let held = held.leave();
                Ok(Detached { stream, input, client, protection, is_on_loopback, held })
            }
            Err(stream) => Err(Box::new(Self::from_parts(*stream, input, peer))),
        }
    }

    /// Reads and writes end with the login from here on.
    pub(super) fn log_in(&mut self, login: OfAccount) {
        self.login = Some(login);
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
    /// when nothing comes for `wait_max`, `Interrupted` where `stop` is true, `PermissionDenied`
    /// when the login is over. Keeps no buffer while it waits. Dropped midway, no octet is lost.
    pub async fn read(&mut self, wait_max: Duration, stop: impl Fn() -> bool) -> io::Result<()> {
        assert!(self.out.is_empty());
        self.out = Vec::new();
        if self.has_input() {
            self.input.drain(..self.at);
        } else {
            self.input = Vec::new();
        }
        self.at = 0;
        self.stream.set_deadline(Some(wait_max));
        let Self { stream, input, login, .. } = self;
        let is_over = || login.as_ref().is_some_and(OfAccount::is_over);
        let read = stream.read_scratch_unless(
            || stop() || is_over(),
            |octets| {
                input.extend_from_slice(octets);
                octets.is_empty()
            },
        );
        match read.await {
            Ok(false) => Ok(()),
            Ok(true) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && is_over() => {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends all of `out`, which ends with a whole answer, and waits for the client to take it.
    /// `ConnectionAborted` where the login is over before it has: the answer is broken off, and the
    /// connection good for nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Self { stream, out, login, .. } = self;
        stream.set_deadline(Some(WRITE_TIME_MAX));
        let sent = stream.write_all(out);
        match login {
            Some(login) => sync::or(sent, login.over()).await?,
            None => sent.await?,
        }
        out.clear();
        Ok(())
    }

    /// Sends all of `out` and then `octets`, which are not copied, in the midst of an answer: one
    /// of many gigabytes ends with the login too. Otherwise as `flush`.
    pub async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        if self.out.is_empty() && octets.is_empty() {
            return Ok(());
        }
        let Self { stream, out, login, .. } = self;
        stream.set_deadline(Some(WRITE_TIME_MAX));
        let slices: [&[u8]; 2] = [out, octets];
        let sent = stream.write_all_vectored(&slices);
        match login {
            Some(login) => sync::or(login.over(), sent).await?,
            None => sent.await?,
        }
        out.clear();
        Ok(())
    }

    /// Sends all of `out`; nothing follows.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.set_deadline(Some(FAREWELL_TIME_MAX));
        self.stream.write_last(&self.out).await
    }

    /// Does the handshake. What was said before could have come from anybody: it is dropped.
    pub(super) async fn start_tls(&mut self, inner: &Inner) -> io::Result<()> {
        assert!(self.out.is_empty());
        (self.input, self.at) = (Vec::new(), 0);
        self.peer.protection = Some(inner.handshake(&mut self.stream).await?);
        Ok(())
    }
}

impl Detached {
    /// Hands the connection to this shard.
    pub(super) fn attach(self, inner: &Rc<Inner>) -> Connection {
        let Self { stream, input, client, protection, is_on_loopback, held } = self;
        let held = inner.clients.take(held);
        let counted = Counted::new(inner);
        let peer = Peer { client, protection, is_on_loopback, held, _counted: counted };
        Connection::from_parts(stream.attach(), input, peer)
    }
}

/// Counts a session of this shard for as long as it lives, however it ends.
pub(super) struct Counted {
    inner: Rc<Inner>,
}

impl Counted {
    pub fn new(inner: &Rc<Inner>) -> Self {
        inner.session_count.set(inner.session_count.get() + 1);
        inner.metrics.access.sessions_open.add(1);
        Self { inner: inner.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inner.session_count.set(self.inner.session_count.get() - 1);
        self.inner.metrics.access.sessions_open.sub(1);
    }
}

/// For the client to take one part of an answer.
const WRITE_TIME_MAX: Duration = Duration::from_secs(300);
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);
