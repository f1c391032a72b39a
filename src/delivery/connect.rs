//! A connection to a host from a source: by our own address, or by the proxy of the source.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Inner;
use crate::config::{Proxy, ProxyProtocol};
use crate::proto::proxy;
use crate::proto::socks5::{self, Refusal, Step};
use crate::runtime::clock;
use crate::runtime::net::{self, TcpStream};

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Host,
    /// What it has closed towards us may be open behind it for a moment.
    Proxy,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NotConnected {
    /// Our own address cannot be used: nothing was sent.
    Source(io::Error),
    /// The proxy of the source cannot be used.
    Proxy(io::Error),
    /// The host does not answer.
    Host(io::Error),
}

impl NotConnected {
    pub fn error(&self) -> &io::Error {
        match self {
            NotConnected::Source(error)
            | NotConnected::Proxy(error)
            | NotConnected::Host(error) => error,
        }
    }
}

impl Inner {
    /// Connects within `timeout`, all steps together. What it tells of the source is remembered but
    /// for a failure of it, which is for the caller to note.
    pub(super) async fn connect(
        &self,
        host: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<(TcpStream, Via), NotConnected> {
        let connected = match source.and_then(|source| Some((source, self.proxy_of(source)?))) {
            Some((source, proxy)) => connect_by(&proxy, host, source, timeout).await,
            None => connect_from(host, source, timeout).await,
        };
        if let Ok(_) | Err(NotConnected::Host(_)) = connected {
            self.sources.borrow_mut().on_used(source);
        }
        connected
    }

    fn proxy_of(&self, source: IpAddr) -> Option<Proxy> {
        self.config.borrow().source_at(source)?.proxy.clone()
    }
}

async fn connect_from(
    host: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
) -> Result<(TcpStream, Via), NotConnected> {
    match TcpStream::connect(host, source, timeout).await {
        Ok(stream) => Ok((stream, Via::Host)),
        Err(error) if source.is_some() && net::is_source_fault(&error) => {
            Err(NotConnected::Source(error))
        }
        Err(error) => Err(NotConnected::Host(error)),
    }
}

async fn connect_by(
    proxy: &Proxy,
    host: SocketAddr,
    source: IpAddr,
    timeout: Duration,
) -> Result<(TcpStream, Via), NotConnected> {
    let end = clock::now() + timeout;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{proxy}: {error}"));
    let stream = TcpStream::connect(proxy.address, None, timeout).await;
    let stream = stream.map_err(|error| NotConnected::Proxy(named(error)))?;
    let asked = match proxy.protocol {
        ProxyProtocol::Socks5 => ask_socks5(stream, proxy, host, end).await,
        ProxyProtocol::Haproxy => tell_haproxy(stream, host, source, end).await,
    };
    match asked {
        Ok(stream) => Ok((stream, Via::Proxy)),
        Err(NotConnected::Host(error)) => Err(NotConnected::Host(named(error))),
        Err(NotConnected::Proxy(error) | NotConnected::Source(error)) => {
            Err(NotConnected::Proxy(named(error)))
        }
    }
}

async fn ask_socks5(
    mut stream: TcpStream,
    proxy: &Proxy,
    host: SocketAddr,
    end: Instant,
) -> Result<TcpStream, NotConnected> {
    let credentials = proxy.login.as_ref().map(|login| &*login.credentials);
    let mut client = socks5::Client::new(host, credentials);
    set_end(&stream, end);
    stream.write_all(client.greeting()).await.map_err(NotConnected::Proxy)?;
    let mut message = Vec::new();
    loop {
        match client.next(&message) {
            Ok(Step::Need(count)) => {
                let read = read_exactly(&mut stream, count, &mut message).await;
                read.map_err(|error| match error.kind() {
                    // The proxy is there, and waits for the host as we do.
                    io::ErrorKind::TimedOut if client.has_asked() => NotConnected::Host(error),
                    _ => NotConnected::Proxy(error),
                })?;
            }
            Ok(Step::Send(bytes)) => {
                message.clear();
                stream.write_all(&bytes).await.map_err(NotConnected::Proxy)?;
            }
            Ok(Step::Connected) => return Ok(stream),
            Err(refusal) => {
                let error = io::Error::other(refusal.to_string());
                return Err(match refusal {
                    Refusal::Unreachable(_) => NotConnected::Host(error),
                    _ => NotConnected::Proxy(error),
                });
            }
        }
    }
}

/// Such a proxy answers nothing: a host that it cannot reach looks like one that closes.
async fn tell_haproxy(
    mut stream: TcpStream,
    host: SocketAddr,
    source: IpAddr,
    end: Instant,
) -> Result<TcpStream, NotConnected> {
    let Some(header) = proxy::header(source, host) else {
        let text = format!("{source} and {host} are of different families");
        return Err(NotConnected::Source(io::Error::new(io::ErrorKind::InvalidInput, text)));
    };
    set_end(&stream, end);
    stream.write_all(&header).await.map_err(NotConnected::Proxy)?;
    Ok(stream)
}

fn set_end(stream: &TcpStream, end: Instant) {
    let left = end.saturating_duration_since(clock::now());
    stream.set_deadline(Some(left.max(Duration::from_millis(1))));
}

/// Appends so many octets, and takes none of those behind them.
async fn read_exactly(
    stream: &mut TcpStream,
    count: usize,
    message: &mut Vec<u8>,
) -> io::Result<()> {
    let start = message.len();
    message.resize(start + count, 0);
    let mut filled = start;
    while filled < message.len() {
        match stream.read(&mut message[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}
