//! Next hops that want to know who we are.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::interop::{is_installed, is_root};
use crate::tls::Authority;

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";

fn credentials(next_hop: SocketAddr, more: &str) -> String {
    let next_hop = format!("next_hop = \"smtp://{next_hop}\"");
    format!("[[credentials]]\n{next_hop}\nusername = \"user\"\n{more}\n{QUICK}")
}

fn send(server: &Server, count: usize) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for _ in 0..count {
        let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\nz\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

/// A server of Dovecot for submission: it knows `user` by the password `secret`, offers these
/// mechanisms, and passes mail on to `relay`.
pub struct Dovecot {
    master: Child,
    address: SocketAddr,
}

impl Dovecot {
    fn start(authority: &Authority, mechanisms: &str, relay: SocketAddr) -> Dovecot {
        let directory = authority.path(&format!("dovecot {mechanisms}").replace(' ', "-"));
        std::fs::create_dir(&directory).expect("a directory");
        let of_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let parent = directory.parent().expect("a directory");
        std::fs::set_permissions(parent, of_all).expect("open to Dovecot's users");
        let path = |name: &str| directory.join(name).display().to_string();
        std::fs::write(path("users"), "user:{PLAIN}secret\n").expect("written");
        let (chain, key) = (authority.path("right.pem"), authority.path("right.key"));
        let address = free_address();
        let config = format!(
            "base_dir = {run}\nlog_path = {log}\nprotocols = submission\nlisten = 127.0.0.1\n\
             ssl = yes\nssl_cert = <{chain}\nssl_key = <{key}\nauth_mechanisms = {mechanisms}\n\
             first_valid_uid = 1\nmail_location = maildir:{mail}\nauth_failure_delay = 0\n\
             service submission-login {{\n inet_listener submission {{\n  port = {port}\n }}\n}}\n\
             service anvil {{\n unix_listener anvil-auth-penalty {{\n  mode = 0\n }}\n}}\n\
             passdb {{\n driver = passwd-file\n args = scheme=PLAIN {users}\n}}\n\
             userdb {{\n driver = static\n args = uid=nobody gid=nogroup home={mail}\n}}\n\
             submission_relay_host = 127.0.0.1\nsubmission_relay_port = {relay}\n",
            run = path("run"),
            log = path("log"),
            chain = chain.display(),
            key = key.display(),
            mail = path("mail"),
            port = address.port(),
            users = path("users"),
            relay = relay.port(),
        );
        let master = run(Path::new(&path("dovecot.conf")), &config);
        let dovecot = Dovecot { master, address };
        wait_until("Dovecot listens", || std::net::TcpStream::connect(address).is_ok());
        dovecot
    }

    /// One that delivers what comes by LMTP over `socket`, below `directory`.
    pub fn start_lmtp(directory: &Path, socket: &Path) -> Dovecot {
        let of_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory, of_all).expect("open to Dovecot's users");
        let (all, socket) = (directory.display(), socket.display());
        let config = format!(
            "base_dir = {all}/run\nlog_path = {all}/dovecot.log\nprotocols = lmtp\nssl = no\n\
             first_valid_uid = 1\nmail_location = maildir:{all}/mail/%u\n\
             service lmtp {{\n unix_listener {socket} {{\n  mode = 0666\n }}\n}}\n\
             passdb {{\n driver = static\n args = nopassword=y\n}}\n\
             userdb {{\n driver = static\n args = uid=nobody gid=nogroup home={all}/mail/%u\n}}\n"
        );
        let master = run(&directory.join("dovecot.conf"), &config);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let dovecot = Dovecot { master, address };
        let is_there = || std::os::unix::net::UnixStream::connect(socket.to_string()).is_ok();
        wait_until("Dovecot listens", is_there);
        dovecot
    }
}

fn run(path: &Path, config: &str) -> Child {
    std::fs::write(path, config).expect("written");
    let mut command = Command::new("dovecot");
    command.arg("-F").arg("-c").arg(path).stdin(Stdio::null());
    command.spawn().expect("dovecot runs")
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // With SIGTERM it ends those that serve for it; it may have ended by itself.
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let _ = self.master.wait();
    }
}

/// Whether there is a Dovecot, and we are the user that it wants to be started by.
fn has_dovecot() -> bool {
    if !is_root() {
        println!("dovecot: not root, skipped");
    }
    is_root() && is_installed("dovecot") && Path::new("/usr/lib/dovecot/submission").exists()
}

#[test]
fn dovecot_takes_us_for_who_we_say_by_each_mechanism_and_a_wrong_password_bounces_nothing() {
    if !has_dovecot() {
        return;
    }
    let authority = Authority::new();
    authority.sign("right", &["127.0.0.1"]);
    let file = authority.path("password");
    let tls = format!("[delivery.tls]\nca = {:?}\n", authority.ca());
    for mechanisms in ["plain", "login", "scram-sha-256", "plain login scram-sha-256"] {
        let sink = NextHop::start(Behaviour::default());
        let dovecot = Dovecot::start(&authority, mechanisms, sink.address);
        std::fs::write(&file, "wrong\n").expect("written");
        let extra = credentials(dovecot.address, &format!("password_file = {file:?}")) + &tls;
        let server = Server::start(dovecot.address, &extra);
        send(&server, 3);
        wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
        let log = server.log();
        assert!(log.contains(" status=4.7.8 ") && log.contains(" class=credentials "), "{log}");
        assert!(sink.got().is_empty());
        std::fs::write(&file, "secret\n").expect("written");
        server.signal("HUP");
        let got = sink.wait_for(3);
        assert!(got.iter().all(|it| it.from == "a@from.test"), "{got:?}");
        wait_until("all is logged", || server.log().matches("outcome=relayed").count() == 3);
        let log = server.log();
        assert!(!log.contains("outcome=failed") && log.contains(" verified=true "), "{log}");
        let said = log + &server.stderr();
        assert!(!said.contains("secret") && !said.contains("wrong\n"), "{said}");
        println!("Dovecot with {mechanisms}: all was taken");
    }
}

/// A next hop without TLS, whose EHLO reply ends so and which answers so to AUTH. Counts messages.
fn next_hop(offers: &'static str, on_auth: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let address = free_address();
    let listener = TcpListener::bind(address).expect("the next hop's port");
    let taken: Arc<AtomicUsize> = Arc::default();
    let counted = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let counted = counted.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let mut say = |text: &str| {
                    // The server under test may have given up on this connection.
                    let _ = stream.write_all(text.as_bytes());
                };
                say("220 next-hop.test\r\n");
                let (mut line, mut is_known) = (String::new(), false);
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    match line.get(..4) {
                        Some("EHLO") => say(&format!("250-next-hop.test\r\n250 {offers}\r\n")),
                        Some("AUTH") => {
                            is_known = on_auth.starts_with("235");
                            assert!(!is_known || line == "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
                            say(&format!("{on_auth}\r\n"));
                        }
                        Some("MAIL") if !is_known => panic!("mail from nobody"),
                        Some("DATA") => say("354 go\r\n"),
                        _ if line == ".\r\n" => {
                            counted.fetch_add(1, Ordering::SeqCst);
                            say("250 taken\r\n");
                        }
                        Some("MAIL" | "RCPT" | "RSET") => say("250 ok\r\n"),
                        _ => {}
                    }
                    line.clear();
                }
            });
        }
    });
    (address, taken)
}

#[test]
fn mail_waits_where_nobody_takes_us_for_who_we_say() {
    for (offers, on_auth, expected) in [
        ("PIPELINING", "502 5.5.1 what", "AUTH came to nothing: The next hop offers no AUTH"),
        ("AUTH XOAUTH2 CRAM-MD5", "502 5.5.1 what", "or no mechanism that is known here"),
        ("AUTH PLAIN", "535 5.7.8 wrong", "AUTH was refused: 535 5.7.8 wrong"),
        ("AUTH LOGIN", "534 5.7.9 too weak", "AUTH was refused: 534 5.7.9 too weak"),
        ("AUTH PLAIN", "454 4.7.0 later", "AUTH was refused: 454 4.7.0 later"),
        ("AUTH PLAIN", "550 5.1.1 no such user here", "AUTH was refused: 550 5.1.1"),
    ] {
        let (address, _) = next_hop(offers, on_auth);
        let password = "password = \"secret\"\nlevel = \"none\"";
        let server = Server::start(address, &credentials(address, password));
        send(&server, 2);
        wait_until("delays are logged", || server.log().matches("outcome=delayed").count() >= 3);
        let log = server.log();
        assert!(log.contains(" status=4.7.8 ") && log.contains(expected), "{log}");
        assert!(!log.contains("outcome=failed") && !log.contains("secret"), "{log}");
    }
}

#[test]
fn a_password_is_said_in_the_clear_only_where_that_is_allowed() {
    let (address, taken) = next_hop("AUTH PLAIN", "235 2.7.0 ok");
    let plain = "password = \"secret\"\nlevel = \"none\"";
    let server = Server::start(address, &credentials(address, plain));
    send(&server, 2);
    wait_until("all is taken", || taken.load(Ordering::SeqCst) == 2);

    let (address, taken) = next_hop("AUTH PLAIN", "235 2.7.0 ok");
    for level in ["", "level = \"required\""] {
        let password = format!("password = \"secret\"\n{level}");
        let server = Server::start(address, &credentials(address, &password));
        send(&server, 1);
        wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
        assert!(server.log().contains(" status=4.7.4 "), "{}", server.log());
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    let check = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["check", "--config"])
        .arg(server.config_path())
        .output()
        .expect("ringpost runs");
    let shown = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(shown.contains("[[credentials]]") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_password_is_not_said_to_a_server_that_nobody_vouches_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("right", &["127.0.0.1"]);
    let sink = NextHop::start(Behaviour::default());
    // It offers no AUTH: whoever got that far would say so.
    let stranger = Server::start(sink.address, &authority.certificate("right"));
    let tls = format!("[delivery.tls]\nca = {:?}\n", other.ca());
    for (level, expected) in [("verify", " status=4.7.5 "), ("required", " status=4.7.8 ")] {
        let password = format!("password = \"secret\"\nlevel = \"{level}\"");
        let extra = credentials(stranger.address, &password) + &tls;
        let server = Server::start(stranger.address, &extra);
        send(&server, 1);
        wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
        assert!(server.log().contains(expected), "{}", server.log());
    }
    assert!(sink.got().is_empty());
}
