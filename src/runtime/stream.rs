//! A connection, with or without TLS over it.
//!
//! What a read brings is deciphered at once, into a second scratch buffer of the executor: an idle
//! session keeps no more than the library does of a record that is not whole.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::{CommonState, Connection};

use super::net::{DetachedTcpStream, TcpStream, Unsent, VECTORS_MAX, with_scratch};
use crate::limits::READ_BUFFER_BYTES;

/// A connected socket of this executor, and the TLS session on it where there is one. What is said
/// of `TcpStream` holds here.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Tls>>,
}

/// A connection that no executor has: on its way from one to another.
pub struct DetachedStream {
    tcp: DetachedTcpStream,
    tls: Option<Box<Tls>>,
}

impl DetachedStream {
    /// Hands the connection to the calling executor.
    pub fn attach(self) -> Stream {
        Stream { tcp: self.tcp.attach(), tls: self.tls }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }
}

impl Stream {
    /// Does the handshake of `connection`, within the deadline that is set; whatever is written
    /// and read from then on is protected.
    ///
    /// `ErrorKind::InvalidData` says that the peers did not agree: the error behind it is the
    /// library's. After any error the connection is good for nothing. Dropped midway, likewise.
    pub async fn start_tls(&mut self, connection: impl Into<Connection>) -> io::Result<()> {
        assert!(self.tls.is_none());
        let mut tls = Box::new(Tls { connection: connection.into() });
        poll_fn(|context| tls.poll_handshake(&mut self.tcp, context)).await?;
        self.tls = Some(tls);
        Ok(())
    }

    /// Takes the connection from the calling executor, with what was deciphered and not read. Gives
    /// it back where there is no descriptor to be had.
    pub fn detach(self) -> Result<DetachedStream, Box<Self>> {
        let Self { tcp, tls } = self;
        match tcp.detach() {
            Ok(tcp) => Ok(DetachedStream { tcp, tls }),
            Err(tcp) => Err(Box::new(Self { tcp: *tcp, tls })),
        }
    }

    /// The TLS session, once its handshake is done.
    pub fn tls(&self) -> Option<&CommonState> {
        self.tls.as_ref().map(|tls| &*tls.connection)
    }

    /// See `TcpStream::set_deadline`.
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        self.tcp.set_deadline(deadline);
    }

    /// See `TcpStream::read_scratch`.
    pub async fn read_scratch<R>(&mut self, consume: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        self.read_scratch_unless(|| false, consume).await
    }

    /// Appends what comes, at least one octet, to `input`; `ErrorKind::UnexpectedEof` at the end of
    /// the stream.
    pub async fn read_more(&mut self, input: &mut Vec<u8>) -> io::Result<()> {
        let is_end = |bytes: &[u8]| {
            input.extend_from_slice(bytes);
            bytes.is_empty()
        };
        match self.read_scratch(is_end).await? {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    /// See `TcpStream::read_scratch_unless`. Under TLS the stream ends with the TCP connection too:
    /// what SMTP calls whole says so itself, and few peers say farewell.
    pub async fn read_scratch_unless<R>(
        &mut self,
        stop: impl Fn() -> bool,
        consume: impl FnOnce(&[u8]) -> R,
    ) -> io::Result<R> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.read_scratch_unless(stop, consume).await;
        };
        let mut consume = Some(consume);
        poll_fn(|context| {
            if stop() {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            PLAIN.with(|plain| {
                let mut plain = plain.borrow_mut();
                let read = ready!(tls.poll_read(&mut self.tcp, context, &mut plain))?;
                let consume = consume.take().expect("polled once after completion");
                Poll::Ready(Ok(consume(&plain[..read])))
            })
        })
        .await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_vectored(&[bytes]).await
    }

    /// Writes all of `slices` in order, in as few records as hold them.
    ///
    /// Dropped midway, some prefix has been sent.
    pub async fn write_all_vectored(&mut self, slices: &[&[u8]]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.tcp.write_all_vectored(slices).await };
        let mut unsent = Unsent::new(slices);
        while unsent.first().is_some() {
            let mut vectors = [IoSlice::new(&[]); VECTORS_MAX];
            vectors.iter_mut().zip(unsent.slices()).for_each(|(it, slice)| {
                *it = IoSlice::new(slice);
            });
            // Takes at least a record's worth: nothing of what came before is left.
            let taken = tls.connection.writer().write_vectored(&vectors)?;
            unsent.advance(taken);
            poll_fn(|context| tls.poll_flush(&mut self.tcp, context)).await?;
        }
        Ok(())
    }

    /// Writes the last octets of the session, and says under TLS that nothing follows.
    pub async fn write_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        let Some(tls) = &mut self.tls else { return Ok(()) };
        tls.connection.send_close_notify();
        poll_fn(|context| tls.poll_flush(&mut self.tcp, context)).await
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// See `TcpStream::is_quiet`. A message of TLS itself counts as octets.
    pub fn is_quiet(&self) -> bool {
        self.tcp.is_quiet()
    }

    /// See `TcpStream::close_for_certain`.
    pub async fn close_for_certain(self, timeout: Duration) -> Result<(), TcpStream> {
        self.tcp.close_for_certain(timeout).await
    }

    /// See `TcpStream::shutdown_write`.
    pub async fn shutdown_write(&mut self) -> io::Result<()> {
        self.tcp.shutdown_write().await
    }

    /// See `TcpStream::abort`.
    pub fn abort(self) {
        self.tcp.abort();
    }
}

struct Tls {
    connection: Connection,
}

impl Tls {
    fn poll_handshake(
        &mut self,
        tcp: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(tcp, context))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            // What may come behind the handshake is less than what the library keeps.
            let fed = with_scratch(|scratch| {
                let read = ready!(tcp.poll_read(context, &mut scratch[..HANDSHAKE_READ_BYTES]))?;
                if read == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(self.feed(&scratch[..read], &mut []).map(drop))
            });
            self.finish(ready!(fed), tcp, context)?;
        }
    }

    /// Deciphers what comes next, at least one octet; 0 at the end of the stream.
    fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        context: &mut Context<'_>,
        plain: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_flush(tcp, context))?;
            // Behind the handshake, too, the peer may have said all that it has to say.
            match self.drain(plain)? {
                Fed::End => return Poll::Ready(Ok(0)),
                Fed::Plain(0) => {}
                Fed::Plain(left) => return Poll::Ready(Ok(left)),
            }
            let fed = with_scratch(|scratch| {
                match ready!(tcp.poll_read(context, &mut scratch[..CIPHERTEXT_READ_BYTES]))? {
                    0 => Poll::Ready(Ok(Fed::End)),
                    read => Poll::Ready(self.feed(&scratch[..read], plain)),
                }
            });
            match self.finish(ready!(fed), tcp, context)? {
                Fed::End => return Poll::Ready(Ok(0)),
                Fed::Plain(0) => {}
                Fed::Plain(filled) => return Poll::Ready(Ok(filled)),
            }
        }
    }

    /// Gives the library what came, and takes what it made of it into `plain`; with an empty one
    /// that stays in the library.
    fn feed(&mut self, mut ciphertext: &[u8], plain: &mut [u8]) -> io::Result<Fed> {
        let mut filled = 0;
        while !ciphertext.is_empty() {
            if self.connection.read_tls(&mut ciphertext)? == 0 {
                // The peer said that nothing follows.
                return Ok(if filled == 0 { Fed::End } else { Fed::Plain(filled) });
            }
            self.connection.process_new_packets().map_err(invalid)?;
            match self.drain(&mut plain[filled..])? {
                Fed::End if filled == 0 => return Ok(Fed::End),
                Fed::End => return Ok(Fed::Plain(filled)),
                Fed::Plain(more) => filled += more,
            }
        }
        Ok(Fed::Plain(filled))
    }

    /// Takes octets that are deciphered already. The end comes when there are none left.
    fn drain(&mut self, plain: &mut [u8]) -> io::Result<Fed> {
        let mut filled = 0;
        while filled < plain.len() {
            match self.connection.reader().read(&mut plain[filled..]) {
                Ok(0) if filled == 0 => return Ok(Fed::End),
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Fed::Plain(filled))
    }

    /// Where the library refused what came, the peer is told why, if there is room for it.
    fn finish<T>(
        &mut self,
        fed: io::Result<T>,
        tcp: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> io::Result<T> {
        if fed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            // The session is over either way.
            let _ = self.poll_flush(tcp, context);
        }
        fed
    }

    fn poll_flush(
        &mut self,
        tcp: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket { tcp, context }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What came of octets that were read.
enum Fed {
    /// So many octets of plain text.
    Plain(usize),
    End,
}

/// The socket as the library writes to it: `WouldBlock` means that the task will be woken.
struct Socket<'s, 'c> {
    tcp: &'s mut TcpStream,
    context: &'s mut Context<'c>,
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tcp.poll_send(self.context, slices) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Octets read at once during a handshake.
const HANDSHAKE_READ_BYTES: usize = 8 * 1024;
/// Octets read at once under TLS.
const CIPHERTEXT_READ_BYTES: usize = 40 * 1024;
/// The longest record, its header included (RFC 5246 §6.2.3).
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

// What is read completes at most one record that began before.
const _: () = assert!(CIPHERTEXT_READ_BYTES + RECORD_BYTES_MAX <= READ_BUFFER_BYTES);

thread_local! {
    static PLAIN: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice());
}
