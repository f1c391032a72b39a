//! Connections that a proxy made: the client that it speaks for.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::proxy::{self, Origin, Step};
use crate::runtime::net::TcpStream;

/// Takes the header of the PROXY protocol from the front of the stream, and no octet more. The
/// client's address, or that of the proxy, `peer`, where it speaks for nobody.
///
/// Suspends until the header is whole, for `HEADER_TIME_MAX` at most. An error where the proxy
/// says something else: the connection is good for nothing.
pub async fn client(stream: &mut TcpStream, peer: IpAddr) -> io::Result<IpAddr> {
    stream.set_deadline(Some(HEADER_TIME_MAX));
    let mut header = Vec::new();
    loop {
        match proxy::next(&header).map_err(|_| io::ErrorKind::InvalidData)? {
            Step::Done(Origin::Client(client)) => return Ok(client.ip()),
            Step::Done(Origin::Proxy) => return Ok(peer),
            Step::Need(count) => {
                let start = header.len();
                header.resize(start + count, 0);
                let read = stream.read(&mut header[start..]).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                header.truncate(start + read);
            }
        }
    }
}

/// Proxies say it at once.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
