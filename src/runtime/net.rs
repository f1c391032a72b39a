//! TCP, and sockets of this machine, over the executor's ring.
//!
//! Reads and writes are tried at once and wait for readiness only when the socket is empty or
//! full. So no buffer is lent to the kernel: idle sessions share one scratch buffer an executor,
//! and dropping a future midway loses no octet.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};

use super::clock;
use super::timer::{self, Deadline};
use crate::limits::READ_BUFFER_BYTES;

/// A listening socket that no executor has yet: bound before privileges are dropped.
pub struct BoundListener {
    socket: OwnedFd,
}

impl BoundListener {
    /// Binds with SO_REUSEPORT, so every shard has a listener of its own on one address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = tcp_socket(address)?;
        let on: libc::c_int = 1;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, on)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, on)?;
        if address.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, on)?;
        }
        bind(&socket, address)?;
        // SAFETY: the descriptor is open and ours.
        check(unsafe { libc::listen(socket.as_raw_fd(), LISTEN_BACKLOG) })?;
        Ok(Self { socket })
    }

    /// Fails with `AddrInUse` when anybody listens there already. Another server of the same user
    /// would let `bind` succeed, and each would get a share of the connections.
    pub fn check_unused(address: SocketAddr) -> io::Result<()> {
        let socket = tcp_socket(address)?;
        let on: libc::c_int = 1;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, on)?;
        if address.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, on)?;
        }
        bind(&socket, address)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let socket = self.socket.try_clone()?;
        std::net::TcpListener::from(socket).local_addr()
    }

    /// Hands the socket to the calling executor.
    pub fn attach(self) -> Listener {
        let fd = self.socket.into_raw_fd();
        // SAFETY: `into_raw_fd` gave up the only owner.
        Listener { fd, listener: unsafe { glommio::net::TcpListener::from_raw_fd(fd) } }
    }
}

/// A listening socket of this executor.
pub struct Listener {
    fd: RawFd,
    listener: glommio::net::TcpListener,
}

impl Listener {
    /// Suspends until a client connects. Never drop this future midway: a connection may be lost.
    ///
    /// Waits itself while the process or the system is out of descriptors or memory; other errors
    /// concern one connection and are skipped.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = if is_readable(self.fd) {
                accept_now(self.fd)
            } else {
                let accepted = self.listener.shared_accept().await;
                accepted.map(|accepted| accepted.bind_to_executor()).map_err(io::Error::from)
            };
            match accepted.and_then(|stream| {
                let peer = stream.peer_addr().map_err(io::Error::from)?;
                Ok((TcpStream::new(stream)?, peer))
            }) {
                Ok(accepted) => return accepted,
                Err(error) => {
                    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                    if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
                        timer::sleep(ACCEPT_BACK_OFF).await;
                    }
                }
            }
        }
    }
}

/// A connected socket that no executor has: on its way from one to another. Closed when dropped.
pub struct DetachedTcpStream {
    socket: OwnedFd,
}

impl DetachedTcpStream {
    /// Hands the socket to the calling executor.
    pub fn attach(self) -> TcpStream {
        // SAFETY: `into_raw_fd` gave up the only owner.
        let stream = unsafe { glommio::net::TcpStream::from_raw_fd(self.socket.into_raw_fd()) };
        TcpStream { stream, deadline: Deadline::default() }
    }
}

/// A stream socket of this machine reads and writes as one of TCP does.
impl From<UnixStream> for DetachedTcpStream {
    fn from(stream: UnixStream) -> Self {
        Self { socket: stream.into() }
    }
}

/// A connected socket of this executor. Closed when dropped.
pub struct TcpStream {
    stream: glommio::net::TcpStream,
    deadline: Deadline,
}

impl TcpStream {
    fn new(stream: glommio::net::TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, deadline: Deadline::default() })
    }

    /// Takes the socket from the calling executor: two system calls. Gives the stream back where
    /// there is no descriptor to be had.
    pub fn detach(self) -> Result<DetachedTcpStream, Box<Self>> {
        let fd = self.stream.as_raw_fd();
        // The executor closes the descriptor that it has when it has forgotten it; what it was told
        // to wait for there is not waited for at this one.
        // SAFETY: no memory is passed; the descriptor is open.
        match check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) }) {
            // SAFETY: the descriptor was made here and has no other owner.
            Ok(fd) => Ok(DetachedTcpStream { socket: unsafe { OwnedFd::from_raw_fd(fd) } }),
            Err(_) => Err(Box::new(self)),
        }
    }

    /// Connects from `local` (any address where `None`) within `timeout`.
    pub async fn connect(
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = tcp_socket(remote)?;
        if let Some(local) = local {
            let on: libc::c_int = 1;
            set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, on)?;
            bind(&socket, SocketAddr::new(local, 0))?;
        }
        set_nonblocking(&socket)?;
        let (address, address_bytes) = to_sockaddr(remote);
        // SAFETY: `address` is a valid socket address of `address_bytes` bytes.
        let result = check(unsafe {
            libc::connect(socket.as_raw_fd(), (&raw const address).cast(), address_bytes)
        });
        if let Err(error) = result
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            return Err(error);
        }
        // SAFETY: `into_raw_fd` gave up the only owner.
        let stream = unsafe { glommio::net::TcpStream::from_raw_fd(socket.into_raw_fd()) };
        let mut stream = Self::new(stream)?;
        stream.set_deadline(Some(timeout));
        // A write of nothing is refused until the handshake has ended.
        poll_fn(|context| stream.poll_write(context, &[])).await?;
        Ok(stream)
    }

    /// Connects to a stream socket of this machine within `timeout`. It reads and writes as one of
    /// TCP does; its peer knows at once when it is closed.
    pub async fn connect_socket(path: &str, timeout: Duration) -> io::Result<Self> {
        let end = clock::now() + timeout;
        let connecting = Connecting::to(path)?;
        while !connecting.attempt()? {
            if clock::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            timer::sleep(CONNECT_POLL).await;
        }
        Ok(DetachedTcpStream { socket: connecting.socket }.attach())
    }

    /// Bounds every wait from now on: past it reads and writes give `ErrorKind::TimedOut`.
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        self.deadline.set(deadline);
    }

    /// Reads what is there, at least one octet; 0 at the end of the stream.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// Reads into the executor's scratch buffer and gives `consume` what came; nothing at the end
    /// of the stream. No buffer is held while waiting. `consume` must not read another stream.
    pub async fn read_scratch<R>(&mut self, consume: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        self.read_scratch_unless(|| false, consume).await
    }

    /// The same, but gives `ErrorKind::Interrupted` where `stop` is true. A waiting read looks at
    /// `stop` again whenever it is woken: see `timer::wake_all`.
    pub async fn read_scratch_unless<R>(
        &mut self,
        stop: impl Fn() -> bool,
        consume: impl FnOnce(&[u8]) -> R,
    ) -> io::Result<R> {
        let mut consume = Some(consume);
        poll_fn(|context| {
            if stop() {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            with_scratch(|scratch| {
                let read = std::task::ready!(self.poll_read(context, scratch))?;
                let consume = consume.take().expect("polled once after completion");
                Poll::Ready(Ok(consume(&scratch[..read])))
            })
        })
        .await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_vectored(&[bytes]).await
    }

    /// Writes all of `slices` in order, with one system call where the socket has room.
    ///
    /// Dropped midway, some prefix has been sent.
    pub async fn write_all_vectored(&mut self, slices: &[&[u8]]) -> io::Result<()> {
        let mut unsent = Unsent::new(slices);
        while let Some(first) = unsent.first() {
            let sent = match self.send(unsent.slices()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.poll_write(context, first)).await?
                }
                result => result?,
            };
            unsent.advance(sent);
        }
        Ok(())
    }

    /// The same for some prefix of the slices, as far as the socket takes it now; registers for
    /// more room where there is none.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.send(slices.iter().map(|slice| &**slice)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                self.poll_write(context, first.map_or(&[], |slice| slice))
            }
            result => Poll::Ready(result),
        }
    }

    fn send<'s>(&self, slices: impl Iterator<Item = &'s [u8]>) -> io::Result<usize> {
        send_vectored(self.stream.as_raw_fd(), slices)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.stream.peer_addr()?)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Whether nothing waits to be read: neither octets nor the end, as far as this host knows.
    pub fn is_quiet(&self) -> bool {
        let mut octet = 0u8;
        let fd = self.stream.as_raw_fd();
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: one byte that lives through the call.
        let read = unsafe { libc::recv(fd, (&raw mut octet).cast(), 1, flags) };
        read < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// Sends FIN after what was written; reading goes on.
    pub async fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write).await?)
    }

    /// Closes, and suspends until the peer has closed and knows that we did. Gives the stream back
    /// where that takes longer than `timeout` or the connection breaks on the way.
    pub async fn close_for_certain(mut self, timeout: Duration) -> Result<(), Self> {
        let end = clock::now() + timeout;
        // A connection that the peer has reset refuses it, and is closed already.
        let _ = self.shutdown_write().await;
        self.set_deadline(Some(timeout));
        // Whatever else it says, or how it ends: the state tells.
        while let Ok(false) = self.read_scratch(<[u8]>::is_empty).await {}
        while tcp_state(self.stream.as_raw_fd()) != TCP_CLOSE {
            if clock::now() >= end {
                return Err(self);
            }
            timer::sleep(CLOSE_POLL).await;
        }
        Ok(())
    }

    /// Closes with RST: the peer learns that what it did not get will not come.
    pub fn abort(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // A socket that has gone already needs no reset.
        let _ = set_option(&self.stream, libc::SOL_SOCKET, libc::SO_LINGER, linger);
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_deadline(context),
            ready => ready,
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.poll_deadline(context),
            ready => ready,
        }
    }

    fn poll_deadline(&self, context: &Context<'_>) -> Poll<io::Result<usize>> {
        if self.deadline.is_over() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.deadline.arm(context.waker());
        Poll::Pending
    }
}

/// Whether somebody listens at a stream socket of this machine; an error where that cannot be
/// known. Never waits.
pub fn is_listened_at(path: &str) -> io::Result<bool> {
    match Connecting::to(path)?.attempt() {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ENOENT) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Connects to a stream socket of this machine within `time_max`, for threads that may wait.
pub fn connect_blocking(path: &str, time_max: Duration) -> io::Result<UnixStream> {
    let end = Instant::now() + time_max;
    let connecting = Connecting::to(path)?;
    while !connecting.attempt()? {
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(CONNECT_POLL);
    }
    let stream = UnixStream::from(connecting.socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a connection could not be opened because of the address it was to come from.
pub fn is_source_fault(error: &io::Error) -> bool {
    let faults = [libc::EADDRNOTAVAIL, libc::EINVAL, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| faults.contains(&code))
}

/// The addresses of this machine's interfaces, loopback included.
pub fn machine_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list that is made is freed below.
    check(unsafe { libc::getifaddrs(&raw mut first) })?;
    let mut addresses = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: an entry of the list, which lives until it is freed.
        let entry = unsafe { &*next };
        if !entry.ifa_addr.is_null() {
            // SAFETY: the family says which socket address it points to, and each is as long as
            // what is read.
            addresses.extend(unsafe {
                match i32::from((*entry.ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let address = entry.ifa_addr.cast::<libc::sockaddr_in>();
                        let bits = address.read_unaligned().sin_addr.s_addr;
                        Some(IpAddr::from(bits.to_ne_bytes()))
                    }
                    libc::AF_INET6 => {
                        let address = entry.ifa_addr.cast::<libc::sockaddr_in6>();
                        Some(IpAddr::from(address.read_unaligned().sin6_addr.s6_addr))
                    }
                    _ => None,
                }
            });
        }
        next = entry.ifa_next;
    }
    // SAFETY: made above, and nothing of it is kept.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// The state of a connection; that of a closed one where the system does not say.
fn tcp_state(fd: RawFd) -> u8 {
    // SAFETY: all zeroes is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `info`; both live through the call.
    let result = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(fd, level, name, (&raw mut info).cast(), &raw mut bytes)
    };
    if result < 0 { TCP_CLOSE } else { info.tcpi_state }
}

fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    stream_socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
}

fn stream_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was made here and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let (address, address_bytes) = to_sockaddr(address);
    // SAFETY: `address` is a valid socket address of `address_bytes` bytes.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), address_bytes) };
    check(result).map(drop)
}

/// A stream socket on its way to one of this machine.
struct Connecting {
    socket: OwnedFd,
    address: libc::sockaddr_un,
}

impl Connecting {
    fn to(path: &str) -> io::Result<Self> {
        let socket = stream_socket(libc::AF_UNIX)?;
        set_nonblocking(&socket)?;
        Ok(Self { socket, address: to_sockaddr_un(path)? })
    }

    /// False where the queue of who listens is full: nobody says when there is room. Never waits.
    fn attempt(&self) -> io::Result<bool> {
        let (fd, bytes) = (self.socket.as_raw_fd(), size_of::<libc::sockaddr_un>());
        let address = (&raw const self.address).cast();
        // SAFETY: `address` is a valid socket address of `bytes` bytes.
        match check(unsafe { libc::connect(fd, address, bytes as libc::socklen_t) }) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

fn set_option<T>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// Whether an accept would find a connection.
fn is_readable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry that lives through the call.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 }
}

/// Takes a connection that is there: this executor is the only one to accept from this socket.
fn accept_now(fd: RawFd) -> io::Result<glommio::net::TcpStream> {
    // SAFETY: null addresses are allowed; the descriptor is open.
    let accepted = check(unsafe {
        libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: the descriptor was made here and has no other owner.
    Ok(unsafe { glommio::net::TcpStream::from_raw_fd(accepted) })
}

/// What of several slices is still to be sent.
pub(super) struct Unsent<'s> {
    slices: &'s [&'s [u8]],
    /// Octets of the first slice that are gone.
    offset: usize,
}

impl<'s> Unsent<'s> {
    pub fn new(slices: &'s [&'s [u8]]) -> Self {
        let mut unsent = Self { slices, offset: 0 };
        unsent.advance(0);
        unsent
    }

    /// What comes next; `None` when all is sent.
    pub fn first(&self) -> Option<&'s [u8]> {
        self.slices.first().map(|first| &first[self.offset..])
    }

    pub fn slices(&self) -> impl Iterator<Item = &'s [u8]> + use<'s> {
        let rest = self.slices.get(1..).unwrap_or_default();
        self.first().into_iter().chain(rest.iter().copied())
    }

    pub fn advance(&mut self, sent: usize) {
        self.offset += sent;
        while let Some(first) = self.slices.first()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.slices = &self.slices[1..];
        }
        assert!(self.offset == 0 || !self.slices.is_empty());
    }
}

/// One gathering send; never waits.
fn send_vectored<'s>(fd: RawFd, slices: impl Iterator<Item = &'s [u8]>) -> io::Result<usize> {
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; VECTORS_MAX];
    let mut count = 0;
    for (vector, slice) in vectors.iter_mut().zip(slices) {
        *vector = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        count += 1;
    }
    // SAFETY: a zeroed msghdr is an empty one; the vectors point into `slices`, which outlive the
    // call, and the kernel only reads them.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = count;
        libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// `ErrorKind::InvalidInput` where the path is too long.
fn to_sockaddr_un(path: &str) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // One octet is left for the NUL.
    if path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    address.sun_path.iter_mut().zip(path.bytes()).for_each(|(to, octet)| *to = octet as _);
    Ok(address)
}

pub(super) fn to_sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let bytes = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, bytes as libc::socklen_t)
}

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `TCP_CLOSE` of the kernel: both ends have closed and know it.
const TCP_CLOSE: u8 = 7;
/// How often a socket with a full queue is tried again.
const CONNECT_POLL: Duration = Duration::from_millis(10);
/// How often a closing connection is looked at.
const CLOSE_POLL: Duration = Duration::from_millis(10);
/// Connections the kernel keeps for us until they are accepted.
const LISTEN_BACKLOG: libc::c_int = 4096;
/// Pause when descriptors or memory have run out.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Slices of one gathering send; more take another call.
pub(super) const VECTORS_MAX: usize = 16;

/// Lends the executor's scratch buffer. Whoever has it must not ask for it again.
pub(super) fn with_scratch<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with(|scratch| use_it(&mut scratch.borrow_mut()))
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice());
}
