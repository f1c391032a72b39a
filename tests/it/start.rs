//! What keeps the server from starting: one clear line, the right exit code, nothing overwritten.
//! How it starts without a configuration, and stops where nobody reads what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;

use crate::acme::own_loopback;
use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};
use crate::tls::{TlsClient, client_that_trusts};

/// A directory with a configuration that would start.
struct Place {
    directory: TempDir,
    address: SocketAddr,
}

impl Place {
    fn new() -> Place {
        let place =
            Place { directory: tempfile::tempdir().expect("a directory"), address: free_address() };
        place.configure(&place.data_dir(), place.address, "");
        place
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("ringpost.toml")
    }

    fn configure(&self, data_dir: &Path, address: SocketAddr, extra: &str) {
        let text = format!(
            "data_dir = {data_dir:?}\nsmarthost = \"smtp://{}\"\n{extra}\n\
             [[listener]]\naddress = \"{address}\"\n",
            free_address()
        );
        std::fs::write(self.config(), text).expect("written");
    }

    /// Fails to start with `code` and one line that holds `expected`.
    fn refuses(&self, code: i32, expected: &str) {
        let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
            .args(["serve", "--config"])
            .arg(self.config())
            .output()
            .expect("ringpost runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.starts_with("ringpost: ") && text.contains(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound");
    place.configure(&place.data_dir(), address, "");
    place.refuses(69, &format!("cannot listen on {address}: Address already in use"));
}

#[test]
fn a_data_directory_that_cannot_be_made_or_written_is_named() {
    let place = Place::new();
    let file = place.directory.path().join("file");
    std::fs::write(&file, "mine").expect("written");
    place.configure(&file.join("data"), place.address, "");
    place.refuses(73, "cannot use data_dir ");
    assert_eq!(std::fs::read(&file).expect("there"), b"mine");
}

#[test]
fn a_foreign_data_directory_is_left_as_it_is() {
    let place = Place::new();
    let journal = place.data_dir().join("shard-00");
    std::fs::create_dir_all(&journal).expect("made");
    place.configure(&place.data_dir(), place.address, "[shards]\ncount = 1");
    std::fs::write(journal.join("LOCK"), "somebody else's").expect("written");
    place.refuses(65, "not the lock of this shard's journal");
    assert_eq!(std::fs::read(journal.join("LOCK")).expect("there"), b"somebody else's");
    std::fs::remove_file(journal.join("LOCK")).expect("removed");
    std::fs::write(journal.join("seg.000000"), "short").expect("written");
    // Segments without their lock: not known whose.
    place.refuses(65, "not the lock of this shard's journal");
    assert_eq!(std::fs::read(journal.join("seg.000000")).expect("there"), b"short");
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let place = Place::new();
    place.configure(&place.data_dir(), place.address, "[shards]\ncores = [1000]");
    place.refuses(78, "names core 1000");
}

#[test]
fn a_user_that_is_not_there_is_named() {
    let place = Place::new();
    place.configure(&place.data_dir(), place.address, "user = \"no-such-user\"");
    // Without root's rights nobody can be become at all.
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    match is_root {
        true => place.refuses(78, "this machine has no user \"no-such-user\""),
        false => place.refuses(77, "only root can become somebody else"),
    }
}

#[test]
fn doctor_names_what_it_looked_at() {
    let place = Place::new();
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["doctor", "--json", "--config"])
        .arg(place.config())
        .output()
        .expect("ringpost runs");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let subjects: Vec<&str> = findings
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| finding["subject"].as_str().expect("a subject"))
        .collect();
    for subject in ["io_uring", "memlock", "cores", "port", "clock", "file system", "flush cost"] {
        assert!(subjects.contains(&subject), "{subject} in {subjects:?}");
    }
}

/// A server whose standard error we read, for as long as we like.
struct Heard {
    child: Child,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Heard {
    fn start(command: &mut Command) -> Heard {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ringpost starts");
        let stderr = child.stderr.take().map(BufReader::new);
        Heard { child, stderr }
    }

    /// Reads on until a line holds `expected`.
    fn wait_for(&mut self, expected: &str) {
        let stderr = self.stderr.as_mut().expect("open");
        let mut lines = stderr.lines().map(|line| line.expect("a line"));
        assert!(lines.any(|line| line.contains(expected)), "it ended and never said {expected}");
    }

    /// Whether it ends well on SIGTERM.
    fn stops(&mut self) -> bool {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success());
        let mut status = None;
        wait_until("it stops", || {
            status = self.child.try_wait().expect("a status");
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_that_nobody_listens_to_stops_all_the_same() {
    for hears_start in [true, false] {
        let place = Place::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        let mut server = Heard::start(command.args(["serve", "--config"]).arg(place.config()));
        if hears_start {
            server.wait_for("ready on");
        }
        server.stderr = None;
        wait_until("it listens", || TcpStream::connect(place.address).is_ok());
        Client::connect(place.address).expect("NOOP", "250");
        assert!(server.stops(), "heard the start: {hears_start}");
    }
}

#[test]
fn without_a_configuration_there_is_tls_with_a_certificate_that_stays() {
    if let Err(reason) = own_loopback() {
        return println!("skipped, the default ports may be in use: {reason}");
    }
    let place = tempfile::tempdir().expect("a directory");
    let pem = place.path().join("ringpost-data/self-signed.pem");
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        let mut server = Heard::start(command.current_dir(place.path()));
        server.wait_for("ready on");
        let mode = std::fs::metadata(&pem).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        kept.push(std::fs::read(&pem).expect("there"));
        let client = client_that_trusts(&pem);
        let implicit =
            [(2993, "localhost", "* OK"), (2995, "127.0.0.1", "+OK"), (2465, "localhost", "220 ")];
        for (port, name, greeting) in implicit {
            let stream = TcpStream::connect(local(port)).expect("it listens");
            let greeted = TlsClient::begin(stream, &client, name).reply();
            assert!(greeted.starts_with(greeting), "{port}: {greeted}");
        }
        for port in [2525, 2587] {
            TlsClient::connect(local(port), &client, "localhost").expect("NOOP", "250");
        }
        let later = [(2143, "* OK", "a STARTTLS", "a OK"), (2110, "+OK", "STLS", "+OK")];
        for (port, greeting, command, answer) in later {
            let mut plain = Client::connect_silent(local(port));
            assert!(plain.reply().starts_with(greeting), "{port}");
            plain.expect(command, answer);
        }
        assert!(server.stops());
    }
    assert_eq!(kept[0], kept[1], "clients that trust it go on doing so");
}

#[test]
fn a_server_whose_standard_error_is_full_takes_mail_and_stops() {
    let next_hop = NextHop::start(Behaviour::default());
    // A source that cannot be used is said by the shard that finds it out.
    let extra = "[shards]\ncount = 1\n\
        [[source]]\nname = \"nobody\"\naddress = \"192.0.2.77\"\n\
        [[source]]\nname = \"a\"\naddress = \"127.0.0.2\"\n\
        [[pool]]\nname = \"p\"\nsources = [\"nobody*9\", \"a\"]\n[[egress]]\npool = \"p\"\n";
    for is_read_later in [false, true] {
        let (full, mut unread) = UnixStream::pair().expect("a pair");
        full.set_nonblocking(true).expect("set");
        for octets in [&[b'.'; 4096][..], b"."] {
            while (&full).write(octets).is_ok() {}
        }
        full.set_nonblocking(false).expect("set");
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("data");
        let mut server = Server::stopped(data_dir, next_hop.address, extra);
        server.standard_error = Some(full.into());
        server.start_again();
        server.standard_error = None;
        let (mut client, before) = (server.greeted(), next_hop.got().len());
        for count in 1..=20 {
            let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
            assert!(reply.starts_with("250"), "{reply}");
            next_hop.wait_for(before + count);
        }
        if is_read_later {
            let mut said = Vec::new();
            let line = b"source nobody (192.0.2.77) cannot be used";
            while !said.windows(line.len()).any(|it| it == line) {
                let mut octets = [0; 4096];
                let count = unread.read(&mut octets).expect("readable");
                assert!(count > 0, "{}", String::from_utf8_lossy(&said));
                said.extend_from_slice(&octets[..count]);
            }
        }
        drop(client);
        assert!(server.stop().success(), "its last words may find no room");
    }
}
