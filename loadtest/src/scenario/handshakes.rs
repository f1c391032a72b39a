//! A client that does nothing but full handshakes, and the servers that it asks for them.

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

use crate::failure::Failure;
use crate::relay::accounting::Group;
use crate::relay::child::{self, Process};

/// A certificate with a P-256 key for `localhost`, that vouches for itself.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Has `openssl` write it into `directory`.
    pub fn make(directory: &Path) -> Result<Self, Failure> {
        let unusable = |error: io::Error| {
            Failure::cannot_create(format!("cannot use {}: {error}", directory.display()))
        };
        fs::create_dir_all(directory).map_err(unusable)?;
        let directory = directory.canonicalize().map_err(unusable)?;
        let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
            .arg(&chain)
            .arg("-keyout")
            .arg(&key)
            .output()
            .map_err(|error| Failure::unavailable(format!("cannot run openssl: {error}")))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::unavailable(format!("openssl made no certificate: {words}")));
        }
        Ok(Self { chain, key })
    }
}

/// `openssl s_server` with a certificate.
pub struct OpenSsl {
    pub address: SocketAddr,
    pub group: Group,
    process: Process,
}

impl OpenSsl {
    pub fn start(certificate: &Certificate, log: &Path) -> Result<Self, Failure> {
        let address = child::free_address()?;
        let mut group = Group::new("openssl");
        let mut command = group.command(Path::new("openssl"), None);
        // It turns lines round, which nobody asks it for: without that it would read its terminal.
        command.args(["s_server", "-rev", "-quiet", "-accept", &address.to_string(), "-cert"]);
        command.arg(&certificate.chain).arg("-key").arg(&certificate.key).stdin(Stdio::null());
        let mut process = Process::start("openssl", command, log)?;
        group.add_root(process.pid());
        let listens = || TcpStream::connect_timeout(&address, CONNECT_TIME_MAX).is_ok();
        process.wait_until("does not listen", START_TIME_MAX, listens)?;
        Ok(Self { address, group, process })
    }

    pub fn stop(mut self) {
        self.process.stop(STOP_TIME_MAX);
    }
}

/// Full handshakes of TLS 1.3, X25519, with servers that have the certificate.
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    pub fn new(certificate: &Certificate) -> Result<Self, Failure> {
        let broken = |error: &dyn std::fmt::Display| Failure::system(format!("TLS: {error}"));
        let mut roots = RootCertStore::empty();
        let anchor =
            CertificateDer::from_pem_file(&certificate.chain).map_err(|error| broken(&error))?;
        roots.add(anchor).map_err(|error| broken(&error))?;
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&version::TLS13]);
        let builder = builder.map_err(|error| broken(&error))?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }

    /// As many as there is time for, over some connections at a time. Returns how many.
    pub fn run(&self, server: SocketAddr, duration: Duration) -> Result<u64, Failure> {
        let end = Instant::now() + duration;
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let config = self.config.clone();
                thread::spawn(move || -> io::Result<u64> {
                    let mut count = 0;
                    while Instant::now() < end {
                        handshake(server, &config)?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let mut count = 0;
        for thread in threads {
            let done = thread.join().map_err(|_| Failure::system("a client ended in a panic"))?;
            count += done.map_err(|error| {
                Failure::unavailable(format!("no handshake with {server}: {error}"))
            })?;
        }
        Ok(count)
    }
}

/// One handshake, and the end of the session from both sides.
fn handshake(server: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<()> {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.conn.send_close_notify();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    // Until the server has closed: then it has done its half. A greeting may come before.
    let mut rest = [0; 4096];
    loop {
        match stream.sock.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // It closes while our farewell is unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Handshakes under way at a time.
const CLIENTS: usize = 8;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
const START_TIME_MAX: Duration = Duration::from_secs(10);
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
