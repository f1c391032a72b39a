//! One request over one connection, on the calling thread.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Error, StreamOwned};

use super::response::Reader;
use super::{Failure, Method, Request, Response};
use crate::runtime::deadline::Deadlined;

/// Blocks until the response is there, at most until `end`.
pub fn run(request: &Request, end: Instant) -> Result<Response, Failure> {
    let stream = connect(request, end)?;
    let session = ClientConnection::new(request.tls.clone(), request.host.clone());
    let session = session.map_err(Failure::Tls)?;
    let mut stream = StreamOwned::new(session, Deadlined::until(stream, end));
    // The handshake by itself, so that what fails in it is told from what fails later.
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(handshake_failure)?;
    }
    stream.write_all(&head(request)).map_err(failure)?;
    if let Method::Post { body, .. } = &request.method {
        stream.write_all(body).map_err(failure)?;
    }
    stream.flush().map_err(failure)?;
    let mut reader = Reader::new(request.body_bytes_max);
    if let Method::Head = request.method {
        reader = reader.without_content();
    }
    let mut buffer = [0; 8192];
    loop {
        let count = stream.read(&mut buffer).map_err(failure)?;
        let response = match count {
            0 => Some(reader.end()?),
            count => reader.feed(&buffer[..count])?,
        };
        if let Some(response) = response {
            return Ok(response);
        }
    }
}

fn connect(request: &Request, end: Instant) -> Result<TcpStream, Failure> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (index, address) in request.addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Timeout);
        }
        // What is left is shared by the addresses that are left.
        let share = left / (request.addresses.len() - index) as u32;
        match TcpStream::connect_timeout(address, share.max(CONNECT_TIME_MIN).min(left)) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(Failure::Connect(last))
}

/// Request line and header fields (RFC 9112 §3).
fn head(request: &Request) -> Vec<u8> {
    let Request { host, path, addresses, .. } = request;
    assert!(path.starts_with('/'));
    assert!(path.bytes().all(|octet| octet.is_ascii_graphic()));
    let (method, of_body) = match &request.method {
        Method::Get => ("GET", String::new()),
        Method::Head => ("HEAD", String::new()),
        Method::Post { content_type, body } => {
            let fields =
                format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
            ("POST", fields)
        }
    };
    let host = match host {
        ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => format!("[{}]", host.to_str()),
        _ => host.to_str().into_owned(),
    };
    let port = match addresses.first().map_or(HTTPS, |address| address.port()) {
        HTTPS => String::new(),
        port => format!(":{port}"),
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: ringpost/{version}\r\n\
         Accept: */*\r\nConnection: close\r\n{of_body}\r\n"
    )
    .into_bytes()
}

fn handshake_failure(error: io::Error) -> Failure {
    let cause = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match cause {
        Some(Error::InvalidCertificate(error)) => Failure::Certificate(error.clone()),
        Some(cause) => Failure::Tls(cause.clone()),
        None => failure(error),
    }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Broken(error),
    }
}

const HTTPS: u16 = 443;
/// An address has at least this long, while there is time at all.
const CONNECT_TIME_MIN: Duration = Duration::from_secs(3);
