//! LMTP over sockets of this machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::harness::{Server, free_address, wait_until};
use crate::interop::is_root;
use crate::login::Dovecot;

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";

fn route(path: &Path) -> String {
    let path = path.display();
    format!("[[route]]\ndomain = \"to.test\"\nnext_hop = \"lmtp+unix://{path}\"\n{QUICK}")
}

/// Recipients and content of each message.
type Taken = Mutex<Vec<(Vec<String>, String)>>;

/// Takes what comes, but for recipients that begin with `full`, who have no room.
fn serve(stream: UnixStream, taken: &Taken) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let say = |text: &str| (&stream).write_all(text.as_bytes());
    let (mut line, mut recipients) = (String::new(), Vec::new());
    let mut go_on = say("220 lmtp.test\r\n");
    while go_on.is_ok() && reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        go_on = match line.get(..4) {
            Some("LHLO") => say("250-lmtp.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
            Some("RCPT") => {
                let path = line.trim_end().trim_start_matches("RCPT TO:<").trim_end_matches('>');
                recipients.push(path.to_owned());
                say("250 2.1.5 ok\r\n")
            }
            Some("DATA") => {
                let mut content = String::new();
                let mut go_on = say("354 go\r\n");
                line.clear();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) && line != ".\r\n" {
                    content.push_str(&line);
                    line.clear();
                }
                for recipient in &recipients {
                    go_on = go_on.and(match recipient.starts_with("full") {
                        true => say("552 5.2.2 full\r\n"),
                        false => say("250 2.1.5 kept\r\n"),
                    });
                }
                taken.lock().expect("no panic").push((std::mem::take(&mut recipients), content));
                go_on
            }
            Some("QUIT") => say("221 bye\r\n"),
            _ => say("250 2.0.0 ok\r\n"),
        };
        line.clear();
    }
}

#[test]
fn mail_is_delivered_over_a_socket_and_each_recipient_is_answered_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lmtp");
    // An address that mail leaves from has nothing to do with it, nor has TLS.
    let more = "[delivery.tls]\nlevel = \"required\"\n\
        [[source]]\nname = \"nobody\"\naddress = \"192.0.2.77\"\n\
        [[pool]]\nname = \"p\"\nsources = \"nobody\"\n[[egress]]\npool = \"p\"\n\
        [[limit]]\nmatch = \"lmtp+unix://*\"\nconnections = 1\nmessages_per_second = 50\n";
    let server = Server::start(free_address(), &format!("{}{more}", route(&path)));
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for _ in 0..10 {
        let to = ["a@to.test", "full@to.test"];
        let reply = client.message("", &to, b"x: y\r\n\r\n..z\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
    // Nobody listens there yet.
    wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
    assert!(server.log().contains(" status=4.4.1 "), "{}", server.log());
    let taken: Arc<Taken> = Arc::default();
    let (of_server, listener) = (taken.clone(), UnixListener::bind(&path).expect("a socket"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = of_server.clone();
            std::thread::spawn(move || serve(stream, &taken));
        }
    });
    wait_until("all is delivered", || server.log().matches("outcome=delivered").count() == 10);
    wait_until("all has failed", || server.log().matches("outcome=failed").count() == 10);
    let taken = taken.lock().expect("no panic");
    assert_eq!(taken.len(), 10);
    let (recipients, content) = &taken[0];
    assert_eq!(recipients, &["a@to.test", "full@to.test"]);
    assert!(content.ends_with("\r\n\r\n..z\r\n"), "{content}");
    let site = format!(" site=lmtp+unix://{}", path.display());
    assert!(server.log().contains(&site), "{}", server.log());
    let explained = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["explain", "to.test", "--config"])
        .arg(server.config_path())
        .output()
        .expect("ringpost runs");
    let page = String::from_utf8_lossy(&explained.stdout).into_owned();
    let next_hop = format!("next hop      lmtp+unix://{}, by [[route]] to.test", path.display());
    assert!(page.contains(&next_hop) && page.contains("tls           none"), "{page}");
    assert!(page.contains("connections") && page.contains("by [[limit]] 1"), "{page}");
}

#[test]
fn dovecot_delivers_what_comes_over_its_socket() {
    if !is_root() || !Path::new("/usr/lib/dovecot/lmtp").exists() {
        println!("dovecot's lmtp: not root, or not installed, skipped");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("lmtp");
    let _dovecot = Dovecot::start_lmtp(directory.path(), &socket);
    let server = Server::start(free_address(), &route(&socket));
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for number in 0..10 {
        let to = [format!("a{number}@to.test"), "b@to.test".to_owned()];
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let reply = client.message("a@from.test", &to, b"Subject: x\r\n\r\n..z\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_until("all is delivered", || server.log().matches("outcome=delivered").count() == 20);
    let of_b = directory.path().join("mail/b@to.test/new");
    assert_eq!(std::fs::read_dir(of_b).expect("a maildir").count(), 10);
}
