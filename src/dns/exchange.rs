//! One query to one upstream, and the message that comes back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::lookup::{Heard, Lookup};
use crate::limits::DNS_DATAGRAM_BYTES_MAX;
use crate::runtime::net::TcpStream;
use crate::runtime::udp::UdpSocket;

/// Sends the query from a port of its own, and listens until `handle` has heard something or the
/// time is over.
pub async fn over_udp(
    upstream: SocketAddr,
    timeout: Duration,
    lookup: &mut Lookup,
    mut handle: impl FnMut(&mut Lookup, &[u8]) -> Heard,
) -> io::Result<Heard> {
    let mut socket = UdpSocket::connect(upstream)?;
    socket.set_deadline(Some(timeout));
    socket.send(lookup.query())?;
    let mut buffer = vec![0; DNS_DATAGRAM_BYTES_MAX];
    loop {
        let received = socket.receive(&mut buffer).await?;
        match handle(lookup, &buffer[..received]) {
            Heard::Nothing => {}
            heard => return Ok(heard),
        }
    }
}

/// The same over a connection: a length of two octets stands before each message (RFC 1035
/// §4.2.2). `timeout` bounds the connect, and once more what follows.
pub async fn over_tcp(
    upstream: SocketAddr,
    timeout: Duration,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream, None, timeout).await?;
    stream.set_deadline(Some(timeout));
    let query_bytes = u16::try_from(query.len()).expect("a query is short");
    stream.write_all_vectored(&[&query_bytes.to_be_bytes(), query]).await?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length).await?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    read_exact(&mut stream, &mut message).await?;
    Ok(message)
}

async fn read_exact(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}
