//! LMTP that comes over sockets of this machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringpost::mailbox::codec::Quota;

use crate::harness::{SOON, Server, free_address, wait_until};
use crate::interop::{is_installed, is_root};
use crate::local::with_accounts;
use crate::stored::inboxes;

/// A server of two shards with an account on each, and its socket with permissions `mode`.
fn with_socket(directory: &Path, mode: &str, extra: &str) -> (Server, PathBuf) {
    let path = directory.join("lmtp");
    let extra = format!(
        "{extra}[[listener]]\naddress = \"unix:{}\"\nmode = \"{mode}\"\nprotocol = \"lmtp\"\n",
        path.display()
    );
    let (unlimited, small) = (Quota::default(), Quota { bytes: 2000, messages: 0 });
    let accounts = [
        (0, "ann@local.test", unlimited),
        (1, "bob@local.test", unlimited),
        (0, "full0@local.test", small),
        (1, "full1@local.test", small),
    ];
    (with_accounts(free_address(), 2, &extra, &accounts), path)
}

/// A client that has said LHLO.
struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("a session");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut client = Client { stream, reader };
        assert!(client.line().starts_with("220 mx.test "));
        client.send("LHLO client.test\r\n");
        while client.line().as_bytes()[3] == b'-' {}
        client
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line
    }

    /// Delivers to both accounts, all commands in one write.
    fn deliver(&mut self, subject: &str) {
        self.send(&format!(
            "MAIL FROM:<s@t.test>\r\nRCPT TO:<ann@local.test>\r\nRCPT TO:<bob@local.test>\r\n\
             DATA\r\nSubject: {subject}\r\n\r\n.\r\n"
        ));
        let codes: Vec<String> = (0..6).map(|_| self.line()[..3].to_owned()).collect();
        assert_eq!(codes, ["250", "250", "250", "354", "250", "250"]);
    }
}

fn sessions(server: &Server, shard: usize) -> f64 {
    server.metric(&format!("ringpost_reception_sessions_total{{shard=\"{shard}\"}}"))
}

#[test]
fn mail_over_a_socket_is_delivered_by_all_shards() {
    let directory = tempfile::tempdir().expect("a directory");
    let limit = "[reception]\nsessions_per_client_max = 1\nrelay_networks = []\n";
    let (mut server, path) = with_socket(directory.path(), "0600", limit);
    let metadata = std::fs::symlink_metadata(&path).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // Open at the same time: nobody counts them by an address. They take turns at the shards.
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(&path)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.deliver(&number.to_string());
    }
    assert_eq!((sessions(&server, 0), sessions(&server, 1)), (3.0, 3.0));
    // Only local domains.
    clients[0].send("MAIL FROM:<>\r\nRCPT TO:<far@far.test>\r\nQUIT\r\n");
    assert!(clients[0].line().starts_with("250"));
    assert!(clients[0].line().starts_with("550 5.7.1"));
    drop(clients);
    let delivered = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["deliver", "-f", "s@t.test", "ann", "bob", "--config"])
        .arg(server.config_path())
        .stdin(Stdio::null())
        .status();
    assert!(delivered.expect("ringpost runs").success());
    assert!(server.stop().success(), "{}", server.stderr());
    assert!(!path.exists(), "the file goes with the server");
    for (partition, name) in [(0, "ann@local.test"), (1, "bob@local.test")] {
        let mail = inboxes(server.data_dir(), partition).remove(name).expect("an account");
        assert_eq!(mail.len(), 7);
        let front = format!(
            "Return-Path: <s@t.test>\r\nDelivered-To: {name}\r\n\
             Received: from client.test\r\n\tby mx.test (ringpost) with LMTP\r\n\tfor <{name}>;"
        );
        assert!(mail[0].text().starts_with(&front), "{}", mail[0].text());
    }
}

#[test]
fn a_recipient_without_room_is_refused_at_rcpt_by_either_shard() {
    let directory = tempfile::tempdir().expect("a directory");
    let (server, path) = with_socket(directory.path(), "0660", "");
    let mut clients = [Client::connect(&path), Client::connect(&path)];
    assert_eq!((sessions(&server, 0), sessions(&server, 1)), (1.0, 1.0));
    for client in &mut clients {
        // All at once: the answers keep their order though others are asked for some.
        client.send(
            "MAIL FROM:<s@t.test> SIZE=5000\r\nRCPT TO:<full0@local.test>\r\n\
             RCPT TO:<ann@local.test>\r\nRCPT TO:<full1@local.test>\r\n\
             RCPT TO:<bob@local.test>\r\nDATA\r\nx: y\r\n\r\n.\r\n\
             MAIL FROM:<s@t.test> SIZE=50\r\nRCPT TO:<full0@local.test>\r\n\
             RCPT TO:<full1@local.test>\r\nRSET\r\n",
        );
        let replies: Vec<String> = (0..12).map(|_| client.line()).collect();
        let codes: Vec<&str> = replies.iter().map(|reply| &reply[..9]).collect();
        let (ok, full, saved) = ("250 2.1.5", "452 4.2.2", "250 2.0.0");
        let expected = [full, ok, full, ok];
        assert_eq!(codes[1..5], expected, "{replies:?}");
        assert!(codes[5].starts_with("354") && codes[6..8] == [saved, saved], "{replies:?}");
        assert_eq!(codes[9..11], [ok, ok], "{replies:?}");
    }
}

#[test]
fn other_programs_deliver_over_a_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut server, path) = with_socket(directory.path(), "0660", "");
    let mut expected = 0;
    if is_installed("python3") {
        let script = "import smtplib, sys\n\
            with smtplib.LMTP(sys.argv[1]) as client:\n\
            \x20   refused = client.sendmail('s@t.test', ['ann@local.test', 'no@local.test'],\n\
            \x20                             'Subject: x\\r\\n\\r\\n.one\\r\\n')\n\
            assert list(refused) == ['no@local.test'], refused\n";
        let status = Command::new("python3").args(["-c", script]).arg(&path).status();
        assert!(status.expect("python3 runs").success());
        expected += 1;
    }
    if is_installed("smtp-source") {
        // As Postfix delivers: `lmtp:unix:PATH`.
        let status = Command::new("smtp-source")
            .args(["-L", "-m", "20", "-s", "4", "-f", "s@t.test", "-t", "ann@local.test"])
            .arg(format!("unix:{}", path.display()))
            .status();
        assert!(status.expect("smtp-source runs").success());
        expected += 20;
    }
    assert!(server.stop().success(), "{}", server.stderr());
    let mail = inboxes(server.data_dir(), 0).remove("ann@local.test").expect("an account");
    assert_eq!(mail.len(), expected);
}

#[test]
fn the_socket_of_a_killed_server_is_replaced_and_that_of_a_live_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut server, path) = with_socket(directory.path(), "0660", "");
    Client::connect(&path).deliver("before");
    server.kill();
    assert!(path.exists() && UnixStream::connect(&path).is_err(), "dead, and still there");
    server.start_again();
    Client::connect(&path).deliver("after");
    // Another server with the same socket: it ends, and takes nothing from the first one.
    let other = Server::stopped(
        directory.path().join("other"),
        free_address(),
        &format!(
            "[mailboxes]\ndomains = [\"local.test\"]\n\
             [[listener]]\naddress = \"unix:{}\"\nprotocol = \"lmtp\"\n",
            path.display()
        ),
    );
    let refused = other.run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(69), 1), "{said}");
    let expected = format!("ringpost: cannot listen on unix:{}: address in use", path.display());
    assert!(said.starts_with(&expected), "{said}");
    Client::connect(&path).deliver("still");
    assert!(server.stop().success(), "{}", server.stderr());
    assert!(!path.exists());
    let mail = inboxes(server.data_dir(), 1).remove("bob@local.test").expect("an account");
    assert_eq!(mail.len(), 3);
    // A file that is no socket is somebody's.
    std::fs::write(&path, "somebody's").expect("written");
    let refused = other.run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(said.contains("something that is no socket is there"), "{said}");
    assert_eq!(std::fs::read(&path).expect("there"), b"somebody's");
}

#[test]
fn a_socket_that_took_the_name_is_left_at_a_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut server, path) = with_socket(directory.path(), "0660", "");
    std::fs::remove_file(&path).expect("removed");
    let _other = UnixListener::bind(&path).expect("bound");
    assert!(server.stop().success(), "{}", server.stderr());
    assert!(UnixStream::connect(&path).is_ok(), "it is another server's");
}

#[test]
fn a_server_that_becomes_somebody_owns_its_socket() {
    if !is_root() {
        println!("not root: skipped");
        return;
    }
    // Where the user may write, the file goes at the stop; elsewhere it is said and replaced.
    for (mode, is_removed) in [(0o777, true), (0o755, false)] {
        let directory = tempfile::tempdir().expect("a directory");
        let permit = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory.path(), permissions).expect("permitted");
        };
        permit(mode);
        let path = directory.path().join("lmtp");
        let extra = format!(
            "[mailboxes]\ndomains = [\"local.test\"]\n\
             [[listener]]\naddress = \"unix:{}\"\nprotocol = \"lmtp\"\n",
            path.display()
        );
        let place = tempfile::tempdir().expect("a directory");
        let mut server = Server::stopped(place.path().join("data"), free_address(), &extra);
        for directory in [place.path(), server.directory.path()] {
            let permissions = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(directory, permissions).expect("permitted");
        }
        let config = std::fs::read_to_string(server.config_path()).expect("there");
        let config = format!("user = \"65534\"\ngroup = \"65533\"\n{config}");
        std::fs::write(server.config_path(), config).expect("written");
        for _ in 0..2 {
            server.start_again();
            let metadata = std::fs::symlink_metadata(&path).expect("there");
            assert_eq!((metadata.uid(), metadata.gid()), (65534, 65533));
            assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
            drop(Client::connect(&path));
            assert!(server.stop().success(), "{}", server.stderr());
            assert_eq!(!path.exists(), is_removed);
        }
        let stays = format!("ringpost: {} stays: Permission denied", path.display());
        assert_eq!(server.stderr().contains(&stays), !is_removed, "{}", server.stderr());
    }
}

#[test]
fn a_socket_is_for_lmtp_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::stopped(
        directory.path().join("data"),
        free_address(),
        "[mailboxes]\ndomains = [\"local.test\"]\n\
         [[listener]]\nprotocol = \"imap\"\naddress = \"unix:/run/imap\"\n",
    );
    let refused = server.run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    let expected = format!(
        "ringpost: {}:14: listener.address: \"unix:/PATH\" is for protocol = \"lmtp\" only",
        server.config_path().display()
    );
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_session_over_a_socket_ends_between_messages_at_a_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let (server, path) = with_socket(directory.path(), "0660", "");
    let mut idle = Client::connect(&path);
    let mut busy = Client::connect(&path);
    busy.send("MAIL FROM:<>\r\nRCPT TO:<ann@local.test>\r\nDATA\r\n");
    for code in ["250", "250", "354"] {
        assert!(busy.line().starts_with(code));
    }
    server.signal("TERM");
    assert!(idle.line().starts_with("421 "));
    let mut late = UnixStream::connect(&path).expect("it drains");
    late.set_read_timeout(Some(SOON)).expect("set");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut late, &mut said).expect("an end");
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    busy.send("S: 1\r\n\r\n.\r\n");
    assert!(busy.line().starts_with("250 "));
    drop(busy);
    wait_until("it has ended", || !path.exists());
}
