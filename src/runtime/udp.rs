//! UDP to one peer, for questions that are worth one datagram and its answer.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_lite::AsyncRead;

use super::net::{check, to_sockaddr};
use super::timer::Deadline;

/// A connected socket of this executor, on a local port that the kernel draws at random. The
/// kernel drops what comes from anybody but the peer. Closed when dropped.
pub struct UdpSocket {
    /// glommio's stream reads by trying and waiting for readiness, whatever the descriptor is; its
    /// own datagram sockets lend a buffer to the kernel for each wait.
    socket: glommio::net::TcpStream,
    deadline: Deadline,
}

impl UdpSocket {
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::socket(family, kind, 0) })?;
        // SAFETY: the descriptor was made here and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let (address, address_bytes) = to_sockaddr(peer);
        // SAFETY: `address` is a valid socket address of `address_bytes` bytes.
        check(unsafe {
            libc::connect(socket.as_raw_fd(), (&raw const address).cast(), address_bytes)
        })?;
        // SAFETY: `into_raw_fd` gave up the only owner.
        let socket = unsafe { glommio::net::TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { socket, deadline: Deadline::default() })
    }

    /// Sends a datagram, or loses it: never waits. Whether it arrived, only an answer tells.
    ///
    /// An error means that it did not leave, or that an earlier one met a closed port.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the datagram outlives the call and its length is given.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), datagram.as_ptr().cast(), datagram.len(), flags)
        };
        match usize::try_from(sent) {
            Ok(sent) if sent == datagram.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Bounds the waits from now on: past it `receive` gives `ErrorKind::TimedOut`.
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        self.deadline.set(deadline);
    }

    /// Suspends until a datagram is there; what does not fit `buffer` is cut off. Dropped midway,
    /// no datagram is lost. `ErrorKind::ConnectionRefused` says that the peer's port is closed.
    pub async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| match Pin::new(&mut self.socket).poll_read(context, buffer) {
            Poll::Pending if self.deadline.is_over() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => {
                self.deadline.arm(context.waker());
                Poll::Pending
            }
            ready => ready,
        })
        .await
    }
}

/// The number of a network interface, for the scope of a link-local address.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a string that ends with 0 and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
