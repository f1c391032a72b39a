//! TLS with our own clients and other people's, in and out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tempfile::TempDir;

use crate::harness::{
    Behaviour, Client, NextHop, SOON, Server, canonical, free_address, stuffed, wait_until,
};
use crate::interop::{Running, is_installed};

/// A CA, and what it signed, as files.
pub struct Authority {
    directory: TempDir,
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
}

impl Authority {
    pub fn new() -> Authority {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("signed").pem();
        std::fs::write(directory.path().join("ca.pem"), ca).expect("written");
        Authority { directory, params, key }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Files NAME.pem and NAME.key for a certificate of `names`.
    pub fn sign(&self, name: &str, names: &[&str]) {
        self.sign_until(name, names, 4096);
    }

    /// The same, valid to the end of a year.
    pub fn sign_until(&self, name: &str, names: &[&str], year: i32) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "a server");
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &issuer).expect("signed");
        std::fs::write(self.path(&format!("{name}.pem")), chain.pem()).expect("written");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    pub fn chain(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate")
    }

    /// TOML of a `[[certificate]]`.
    pub fn certificate(&self, name: &str) -> String {
        let (chain, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        format!("[[certificate]]\nchain = {chain:?}\nkey = {key:?}\n")
    }

    /// What a server shows that has the certificate `name`.
    pub fn server_config(&self, name: &str) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = ServerConfig::builder_with_provider(provider.into());
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_no_client_auth();
        builder.with_single_cert(vec![self.chain(name)], key).expect("a pair").into()
    }

    pub fn client_config(&self) -> Arc<ClientConfig> {
        client_that_trusts(&self.ca())
    }
}

/// A client that knows the certificate in this file alone.
pub fn client_that_trusts(path: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(path).expect("a certificate");
    roots.add(ca).expect("usable");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A connection with or without TLS, of a client of any protocol.
pub trait Octets: Read + Write {}
impl<T: Read + Write> Octets for T {}

/// A connection on which each write goes at once, and no read waits for ever.
pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Does the handshake on a connection; the server has to be `name`.
pub fn secured(
    stream: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a client");
    let mut stream = StreamOwned::new(connection, stream);
    stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    stream
}

/// A client that speaks line by line under TLS.
pub struct TlsClient {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// Does the handshake on a connection; the server has to be `name`.
    pub fn begin(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> TlsClient {
        TlsClient { stream: BufReader::new(secured(stream, config, name)) }
    }

    /// By STARTTLS.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> TlsClient {
        let mut client = Client::connect(address);
        client.expect("EHLO client.test", "250");
        client.expect("STARTTLS", "220 2.0.0");
        let mut client = TlsClient::begin(client.stream, config, name);
        client.expect("EHLO client.test", "250");
        client
    }

    fn certificate(&self) -> CertificateDer<'static> {
        let connection = &self.stream.get_ref().conn;
        connection.peer_certificates().expect("a certificate")[0].clone()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    /// The next reply, its lines joined; empty at the end of the stream.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
                return reply;
            }
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    pub fn expect(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert!(reply.starts_with(start), "{line}: {reply}");
        reply
    }

    fn message(&mut self, content: &[u8]) {
        self.expect("MAIL FROM:<a@from.test>", "250");
        self.expect("RCPT TO:<b@to.test>", "250");
        self.expect("DATA", "354");
        self.send(&stuffed(content));
        self.send(b".\r\n");
        let reply = self.reply();
        assert!(reply.starts_with("250"), "{reply}");
    }
}

/// A next hop's line of what came over TLS.
fn says_tls(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    text.contains("\r\n\t(using TLSv1.") && text.contains(" with ESMTPS id ")
}

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";

#[test]
fn what_stands_behind_starttls_without_protection_is_no_command() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, &authority.certificate("mx"));
    let mut client = server.client();
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(ehlo.contains("250-STARTTLS"), "{ehlo}");
    client.send(b"STARTTLS\r\nEHLO injected\r\nMAIL FROM:<injected@from.test>\r\n");
    assert!(client.reply().starts_with("220"));
    let mut client = TlsClient::begin(client.stream, &authority.client_config(), "mx.test");
    client.expect("MAIL FROM:<a@from.test>", "503 5.5.1");
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
    client.expect("STARTTLS", "503 5.5.1");
    let content = b"x: y\r\n\r\n.dot\r\n";
    client.message(content);
    let large = canonical(&b"0123456789012345678901234567890123456789\n".repeat(50_000));
    client.message(&large);
    client.expect("QUIT", "221");
    assert_eq!(client.reply(), "");
    let got = next_hop.wait_for(2);
    assert!(got.iter().all(|it| says_tls(&it.content) && it.from == "a@from.test"), "{got:?}");
    let mut originals: Vec<&[u8]> = got.iter().map(|it| it.original()).collect();
    originals.sort_by_key(|it| it.len());
    assert!(originals == [&content[..], &large]);
    assert_eq!(server.metric("ringpost_reception_tls13_sessions_total"), 1.0);

    // Whoever goes on in the clear, or talks nonsense, is not served.
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.expect("STARTTLS", "220");
    client.send(b"EHLO client.test\r\n");
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"250"), "{rest:?}");
    wait_until("the failure is counted", || {
        server.metric("ringpost_reception_tls_failures_total") == 1.0
    });
}

#[test]
fn a_listener_may_begin_with_tls_or_never() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let next_hop = NextHop::start(Behaviour::default());
    let (implicit, plain) = (free_address(), free_address());
    let extra = format!(
        "{}[[listener]]\naddress = \"{implicit}\"\ntls = \"implicit\"\n\
         [[listener]]\naddress = \"{plain}\"\ntls = \"none\"\n[tls]\nversion_min = \"1.3\"\n",
        authority.certificate("mx")
    );
    let server = Server::start(next_hop.address, &extra);
    let config = authority.client_config();
    let stream = TcpStream::connect(implicit).expect("connected");
    let mut client = TlsClient::begin(stream, &config, "mx.test");
    assert!(client.reply().starts_with("220 mx.test ESMTP"));
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
    client.message(b"x: y\r\n\r\n");
    assert!(says_tls(&next_hop.wait_for(1)[0].content));

    let mut client = Client::connect(plain);
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
    client.expect("STARTTLS", "502 5.5.1");

    // A session that comes back goes on where it left off, on whichever shard.
    for _ in 0..4 {
        let stream = TcpStream::connect(implicit).expect("connected");
        assert!(TlsClient::begin(stream, &config, "mx.test").reply().starts_with("220"));
    }
    assert_eq!(server.metric("ringpost_reception_tls_resumed_total"), 4.0);

    if is_installed("openssl") {
        let status = Command::new("openssl")
            .args(["s_client", "-tls1_2", "-starttls", "smtp", "-connect"])
            .arg(server.address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("openssl runs");
        assert!(!status.success(), "TLS 1.2 is below the least");
    }
}

#[test]
fn a_client_that_says_farewell_with_its_handshake_is_let_go() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let server = Server::start(free_address(), &authority.certificate("mx"));
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.expect("STARTTLS", "220");
    let name = ServerName::try_from("mx.test").expect("a name");
    let mut connection = ClientConnection::new(authority.client_config(), name).expect("a client");
    while connection.is_handshaking() {
        while connection.wants_write() {
            connection.write_tls(&mut client.stream).expect("sent");
        }
        connection.read_tls(&mut client.stream).expect("an answer");
        connection.process_new_packets().expect("a handshake");
    }
    // Both in one segment.
    connection.send_close_notify();
    let mut last = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut last).expect("memory");
    }
    client.send(&last);
    client.stream.read_to_end(&mut Vec::new()).expect("the server closes");
    wait_until("the session has ended", || {
        server.metric("ringpost_reception_sessions_open") == 0.0
    });
}

#[test]
fn the_certificate_follows_the_name_and_a_reload() {
    let authority = Authority::new();
    authority.sign("one", &["one.test"]);
    authority.sign("two", &["*.two.test"]);
    let certificates = authority.certificate("one") + &authority.certificate("two");
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, &certificates);
    let config = authority.client_config();
    let mut old = TlsClient::connect(server.address, &config, "one.test");
    assert_eq!(old.certificate(), authority.chain("one"));
    let other = TlsClient::connect(server.address, &config, "mx.two.test");
    assert_eq!(other.certificate(), authority.chain("two"));

    authority.sign("one", &["one.test"]);
    server.signal("HUP");
    wait_until("the other certificate is shown", || {
        let client = TlsClient::connect(server.address, &config, "one.test");
        client.certificate() == authority.chain("one")
    });
    assert_ne!(old.certificate(), authority.chain("one"));
    old.message(b"x: y\r\n\r\n");
    next_hop.wait_for(1);

    // A bad file is refused in a line, and the old one stays.
    std::fs::write(authority.path("two.key"), "nothing").expect("written");
    server.signal("HUP");
    wait_until("the file is named", || {
        let text =
            format!("{}: certificate.key: holds no key", authority.path("two.key").display());
        server.stderr().contains(&text)
    });
    let client = TlsClient::connect(server.address, &config, "mx.two.test");
    assert_eq!(client.certificate(), authority.chain("two"));
    assert_eq!(server.run(&["serve"]).status.code(), Some(78));
}

#[test]
fn other_peoples_clients_begin_tls() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test", "localhost", "127.0.0.1"]);
    authority.sign("client", &["client.test"]);
    let implicit = free_address();
    let extra = format!(
        "{}[[listener]]\naddress = \"{implicit}\"\ntls = \"implicit\"\n\
         [tls]\nclient_ca = {:?}\n",
        authority.certificate("mx"),
        authority.ca(),
    );
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, &extra);
    let message = authority.path("message.eml");
    std::fs::write(&message, b"x: y\r\n\r\nlines\r\n").expect("written");
    let mut count = 0;
    if is_installed("curl") {
        for url in [format!("smtp://{}", server.address), format!("smtps://{implicit}")] {
            let status = Command::new("curl")
                .args(["--silent", "--show-error", "--ssl-reqd", "--cacert"])
                .arg(authority.ca())
                .args(["--mail-from", "a@from.test", "--mail-rcpt", "b@to.test", "--upload-file"])
                .arg(&message)
                .arg(url)
                .status()
                .expect("curl runs");
            assert!(status.success());
            count += 1;
        }
    }
    if is_installed("python3") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/inject.py");
        let status = Command::new("python3")
            .arg(script)
            .arg("--tls")
            .arg(authority.ca())
            .arg(server.address.to_string())
            .arg(&message)
            .status()
            .expect("python3 runs");
        assert!(status.success());
        count += 1;
    }
    if is_installed("openssl") {
        let dialogue = "EHLO client.test\r\nMAIL FROM:<a@from.test>\r\nRCPT TO:<b@to.test>\r\n\
             BDAT 8 LAST\r\nx: y\r\n\r\nQUIT\r\n";
        for (version, cipher) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
            let mut child = Command::new("openssl")
                .args(["s_client", "-quiet", "-starttls", "smtp", "-verify_return_error"])
                .args(["-servername", "mx.test", "-verify_hostname", "mx.test", version, "-CAfile"])
                .arg(authority.ca())
                .arg("-cert")
                .arg(authority.path("client.pem"))
                .arg("-key")
                .arg(authority.path("client.key"))
                .arg("-connect")
                .arg(server.address.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl runs");
            // It stays open until the server closes, which is what ends the program.
            let mut stdin = child.stdin.take().expect("piped");
            stdin.write_all(dialogue.as_bytes()).expect("sent");
            let output = child.wait_with_output().expect("openssl ends");
            drop(stdin);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("queued as"), "{text}");
            count += 1;
            let verified = format!("(using {cipher} with cipher ");
            let got = next_hop.wait_for(count);
            let shown = |it: &crate::harness::Got| {
                let text = String::from_utf8_lossy(&it.content).into_owned();
                text.contains(&verified) && text.contains(", client certificate verified)")
            };
            assert!(got.iter().any(shown), "{version}");
        }
    }
    let got = next_hop.wait_for(count);
    assert!(got.iter().all(|it| says_tls(&it.content)));
    println!("{count} sessions of other programs");
}

/// What a peer does that is asked for TLS.
fn peer(
    serve: impl Fn(usize, &mut TcpStream, &mut dyn BufRead) + Send + Sync + 'static,
) -> SocketAddr {
    let address = free_address();
    let listener = TcpListener::bind(address).expect("a port");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let serve = serve.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                serve(number, &mut stream, &mut reader);
            });
        }
    });
    address
}

fn hear(reader: &mut dyn BufRead) -> String {
    let mut line = String::new();
    // The server under test may have given up on this connection.
    let _ = reader.read_line(&mut line);
    line
}

#[test]
fn mail_goes_in_the_clear_where_tls_is_broken_and_may_be_missing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted_taken = taken.clone();
    let address = peer(move |_, stream, reader| {
        let _ = stream.write_all(b"220 mx\r\n");
        loop {
            let line = hear(reader);
            let reply: &[u8] = match line.get(..4) {
                Some("EHLO") => b"250-mx\r\n250 STARTTLS\r\n",
                Some("STAR") => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(b"220 go\r\n");
                    let _ = reader.read(&mut [0]);
                    let _ = stream.write_all(b"no TLS, only words\r\n");
                    return;
                }
                Some("DATA") => {
                    let _ = stream.write_all(b"354 go\r\n");
                    while !matches!(hear(reader).as_str(), ".\r\n" | "") {}
                    counted_taken.fetch_add(1, Ordering::SeqCst);
                    b"250 taken\r\n"
                }
                None => return,
                Some(_) => b"250 ok\r\n",
            };
            let _ = stream.write_all(reply);
        }
    });
    let server = Server::start(address, QUICK);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for _ in 0..3 {
        client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
    }
    wait_until("all is taken", || taken.load(Ordering::SeqCst) == 3);
    // Each shard remembers by itself.
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=2).contains(&asked), "{asked}");
    assert_eq!(server.metric("ringpost_delivery_tls_failures_total"), asked as f64);
    assert!(!server.log().contains("outcome=delayed"), "no attempt was spent on it");
}

#[test]
fn mail_that_must_be_protected_waits_where_tls_is_missing_broken_or_stripped() {
    let plain = NextHop::start(Behaviour::default());
    // Commands in the clear behind a STARTTLS that failed.
    let leaked = Arc::new(AtomicUsize::new(0));
    let counted = leaked.clone();
    let refusing = peer(move |_, stream, reader| {
        let mut has_refused = false;
        let _ = stream.write_all(b"220 mx\r\n");
        loop {
            let reply: &[u8] = match hear(reader).get(..4) {
                Some("EHLO") => b"250-mx\r\n250 STARTTLS\r\n",
                Some("STAR") => {
                    has_refused = true;
                    b"454 4.7.0 not now\r\n"
                }
                None => return,
                Some(command) if has_refused && command != "QUIT" => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    b"250 ok\r\n"
                }
                Some(_) => b"250 ok\r\n",
            };
            let _ = stream.write_all(reply);
        }
    });
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = heard.clone();
    let injecting = peer(move |_, stream, reader| {
        let _ = stream.write_all(b"220 mx\r\n");
        hear(reader);
        let _ = stream.write_all(b"250-mx\r\n250 STARTTLS\r\n");
        hear(reader);
        let _ = stream.write_all(b"220 go\r\n250 injected\r\n");
        // A ClientHello would be no text.
        let mut octets = Vec::new();
        let _ = reader.read_to_end(&mut octets);
        counted.fetch_add(octets.len(), Ordering::SeqCst);
    });
    let broken = peer(|_, stream, reader| {
        let _ = stream.write_all(b"220 mx\r\n");
        hear(reader);
        let _ = stream.write_all(b"250-mx\r\n250 STARTTLS\r\n");
        hear(reader);
        let _ = stream.write_all(b"220 go\r\n");
        let _ = reader.read(&mut [0]);
        let _ = stream.write_all(b"no TLS, only words\r\n");
    });
    for (next_hop, expected) in [
        (plain.address, " status=4.7.4 "),
        (refusing, " status=4.7.4 "),
        (injecting, " status=4.5.0 "),
        (broken, " status=4.7.5 "),
    ] {
        let extra = format!("[delivery.tls]\nlevel = \"required\"\n{QUICK}");
        let server = Server::start(next_hop, &extra);
        let mut client = server.client();
        client.expect("EHLO client.test", "250");
        client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
        wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
        assert!(server.log().contains(expected), "{}", server.log());
    }
    assert!(plain.got().is_empty());
    assert_eq!(leaked.load(Ordering::SeqCst), 0, "commands without protection");
    assert_eq!(heard.load(Ordering::SeqCst), 0, "octets after an injected reply");
}

/// Sends messages of several sizes and waits until they are relayed; what the log says.
fn relay(server: &Server, contents: &[Vec<u8>]) -> String {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for content in contents {
        let reply = client.message("a@from.test", &["b@to.test"], &stuffed(content));
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_until("all is relayed", || {
        server.log().matches("outcome=relayed").count() >= contents.len()
    });
    server.log()
}

fn contents() -> Vec<Vec<u8>> {
    let lines = |count: usize| b"0123456789 of a line\r\n.and more\r\n".repeat(count);
    (0..30).map(|index| lines(1 << (index % 14))).collect()
}

#[test]
fn protected_mail_goes_to_whom_the_certificate_names_and_to_nobody_else() {
    let authority = Authority::new();
    authority.sign("right", &["127.0.0.1"]);
    authority.sign("wrong", &["elsewhere.test"]);
    let sink = NextHop::start(Behaviour::default());
    let contents = contents();
    let verify = |authority: &Authority| {
        let ca = authority.ca();
        let delivery = "[delivery]\nconnections_max = 2\n";
        format!("{delivery}[delivery.tls]\nlevel = \"verify\"\nca = {ca:?}\n{QUICK}")
    };
    // Our own server offers PIPELINING and CHUNKING: groups of messages share a write.
    let next_hop = Server::start(sink.address, &authority.certificate("right"));
    let server = Server::start(next_hop.address, &verify(&authority));
    let log = relay(&server, &contents);
    let sent = log.matches(" tls=TLSv1.3 cipher=TLS_").count();
    assert_eq!(sent, contents.len(), "{log}");
    assert!(log.contains(" verified=true "), "{log}");
    let mut got: Vec<Vec<u8>> =
        sink.wait_for(contents.len()).iter().map(|it| below_both(&it.content)).collect();
    let mut expected = contents.clone();
    got.sort();
    expected.sort();
    assert!(got == expected, "every octet arrives");
    assert!(server.metric("ringpost_delivery_tls13_connections_total") >= 1.0);
    drop((server, next_hop));

    let wrong = Server::start(sink.address, &authority.certificate("wrong"));
    let stranger = Server::start(sink.address, &authority.certificate("right"));
    let others = Authority::new();
    for (next_hop, authority) in [(&wrong, &authority), (&stranger, &others)] {
        let server = Server::start(next_hop.address, &verify(authority));
        let mut client = server.client();
        client.expect("EHLO client.test", "250");
        client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
        wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
        assert!(server.log().contains(" status=4.7.5 "), "{}", server.log());
        assert!(server.metric("ringpost_delivery_tls_failures_total") >= 1.0);
    }
    assert_eq!(sink.got().len(), contents.len(), "nothing more has come");
}

#[test]
fn each_domain_has_the_protection_that_its_policy_demands() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let sink = NextHop::start(Behaviour::default());
    let next_hop = Server::start(sink.address, &authority.certificate("mx"));
    let policy = |domain: &str, level: &str, names: &str| {
        format!("[[tls_policy]]\ndomain = {domain:?}\nlevel = {level:?}\nnames = [{names}]\n")
    };
    // They all go to one place, which takes one connection: nobody is kept out by the others.
    let extra = [
        policy("*.right.test", "verify", "\"mx.test\""),
        policy("wrong.test", "verify", "\"elsewhere.test\""),
        policy("plain.test", "none", ""),
        format!("[delivery.tls]\nca = {:?}\n[shards]\ncount = 1\n{QUICK}", authority.ca()),
        "[[limit]]\nmatch = \"*\"\nconnections = 1\n".to_owned(),
    ]
    .concat();
    let server = Server::start(next_hop.address, &extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for round in 0..5 {
        for domain in ["a.right.test", "wrong.test", "plain.test", "else.test"] {
            let to = format!("b{round}@{domain}");
            client.message("a@from.test", &[&to], b"x: y\r\n\r\n");
        }
    }
    let lines = |domain: &str, what: &str| {
        let log = server.log();
        let of_domain = log.lines().filter(|line| line.contains(&format!("@{domain}>")));
        of_domain.filter(|line| line.contains(what)).count()
    };
    wait_until("all that may go has gone", || {
        sink.got().len() == 15 && lines("wrong.test", "status=4.7.5") > 0
    });
    wait_until("it is logged", || server.log().matches("outcome=relayed").count() == 15);
    assert_eq!(lines("a.right.test", " verified=true "), 5);
    assert_eq!(lines("else.test", " verified=false "), 5);
    assert_eq!(lines("plain.test", " tls="), 0);
    assert_eq!(lines("wrong.test", "outcome=relayed"), 0);
    for got in sink.got() {
        assert_eq!(says_tls(&got.content), !got.to[0].ends_with("@plain.test"), "{got:?}");
    }
}

/// The content below the trace fields of two servers.
fn below_both(content: &[u8]) -> Vec<u8> {
    let first = crate::harness::Got { content: content.to_vec(), ..Default::default() };
    let second = crate::harness::Got { content: first.original().to_vec(), ..Default::default() };
    second.original().to_vec()
}

#[test]
fn sessions_with_a_next_hop_are_resumed() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let sink = NextHop::start(Behaviour::default());
    let next_hop = Server::start(sink.address, &authority.certificate("mx"));
    let extra =
        "[delivery]\nmessages_per_connection_max = 1\nconnections_max = 1\n[shards]\ncount = 1\n";
    let server = Server::start(next_hop.address, extra);
    let log = relay(&server, &contents());
    assert!(log.contains(" verified=false "), "{log}");
    assert!(server.metric("ringpost_delivery_tls_resumed_total") >= 1.0);
    assert!(next_hop.metric("ringpost_reception_tls_resumed_total") >= 1.0);
}

#[test]
fn a_server_written_in_python_receives_under_tls() {
    if !is_installed("python3") {
        return;
    }
    let authority = Authority::new();
    authority.sign("mx", &["127.0.0.1"]);
    let store = authority.path("store");
    std::fs::create_dir(&store).expect("a directory");
    let address = free_address();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/receive.py");
    let _receiver = Running(
        Command::new("python3")
            .arg(script)
            .arg(address.to_string())
            .arg(&store)
            .args([authority.path("mx.pem"), authority.path("mx.key")])
            .spawn()
            .expect("python3 runs"),
    );
    let ca = authority.ca();
    let extra = format!("[delivery.tls]\nlevel = \"verify\"\nca = {ca:?}\n{QUICK}");
    let server = Server::start(address, &extra);
    let contents = contents();
    let log = relay(&server, &contents);
    assert_eq!(log.matches(" verified=true ").count(), contents.len(), "{log}");
    let read = |path: &Path| {
        let content = std::fs::read(path).expect("a message");
        let got = crate::harness::Got { content, ..Default::default() };
        got.original().to_vec()
    };
    let mut got: Vec<Vec<u8>> = std::fs::read_dir(&store)
        .expect("the store")
        .map(|entry| read(&entry.expect("an entry").path()))
        .collect();
    let mut expected = contents;
    got.sort();
    expected.sort();
    assert!(got == expected, "every octet arrives");
}

#[test]
fn an_idle_session_under_tls_costs_at_most_twenty_five_kilobytes() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let server = Server::start(free_address(), &authority.certificate("mx"));
    let config = authority.client_config();
    let warm = TlsClient::connect(server.address, &config, "mx.test");
    let before_kib = server.memory_kib("Pss_Anon:");
    let count = 400;
    let sessions: Vec<TlsClient> =
        (0..count).map(|_| TlsClient::connect(server.address, &config, "mx.test")).collect();
    let grown_kib = server.memory_kib("Pss_Anon:").saturating_sub(before_kib);
    let each = grown_kib * 1024 / count;
    println!("{} idle sessions under TLS: {each} bytes of user memory each", sessions.len());
    assert!(each <= 25 * 1024, "{each} bytes each");
    drop((warm, sessions));
}
