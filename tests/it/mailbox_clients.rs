//! Other people's programs at mailboxes of this server. Where one is missing, a line says so.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{SOON, Server, free_address};
use crate::interop::{Running, is_installed, is_root, messages};

const USER: &str = "reader@to.test";
const PASSWORD: &str = "not-so-secret";

/// A server that keeps mail for one account, and where it is read.
struct Mailbox {
    server: Server,
    imap: SocketAddr,
    pop3: SocketAddr,
}

impl Mailbox {
    fn start() -> Mailbox {
        let (imap, pop3) = (free_address(), free_address());
        let extra = format!(
            "[mailboxes]\ndomains = [\"to.test\"]\n\
             [[listener]]\nprotocol = \"imap\"\naddress = \"{imap}\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"{pop3}\"\n"
        );
        let server = Server::start(free_address(), &extra);
        add_account(&server, USER, PASSWORD);
        Mailbox { server, imap, pop3 }
    }

    /// Puts messages into INBOX.
    fn append(&self, contents: &[&[u8]]) {
        let mut client = ImapClient::connect(self.imap);
        for content in contents {
            client.append(content);
        }
    }

    /// Flags of each message of INBOX, as the server says them.
    fn flags(&self) -> Vec<String> {
        let mut client = ImapClient::connect(self.imap);
        client.say("SELECT INBOX");
        let lines = client.say("FETCH 1:* (FLAGS)");
        lines.into_iter().filter(|line| line.contains(" FETCH ")).collect()
    }

    fn exists(&self) -> usize {
        let mut client = ImapClient::connect(self.imap);
        let lines = client.say("SELECT INBOX");
        let exists = lines.iter().find_map(|line| line.strip_suffix(" EXISTS"));
        exists.expect("a count").trim_start_matches("* ").parse().expect("a number")
    }
}

fn add_account(server: &Server, name: &str, password: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["account", "add", name, "--config"])
        .arg(server.config_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("ringpost runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(format!("{password}\n").as_bytes()).expect("written");
    drop(stdin);
    assert!(child.wait().expect("a status").success(), "{}", server.stderr());
}

/// A client that is logged in, and says one command after another.
struct ImapClient {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl ImapClient {
    fn connect(address: SocketAddr) -> ImapClient {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut client = ImapClient { stream, reader };
        client.say(&format!("LOGIN {USER} \"{PASSWORD}\""));
        client
    }

    /// Lines of the answer, which has to be OK.
    fn say(&mut self, command: &str) -> Vec<String> {
        self.stream.write_all(format!("a {command}\r\n").as_bytes()).expect("sent");
        self.answer(command)
    }

    fn append(&mut self, content: &[u8]) {
        let head = format!("a APPEND INBOX {{{}}}\r\n", content.len());
        self.stream.write_all(head.as_bytes()).expect("sent");
        let line = self.line();
        assert!(line.starts_with('+'), "{line}");
        self.stream.write_all(&[content, b"\r\n"].concat()).expect("sent");
        self.answer("APPEND");
    }

    fn answer(&mut self, command: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if let Some(end) = line.strip_prefix("a ") {
                assert!(end.starts_with("OK"), "{command}: {line}");
                return lines;
            }
            lines.push(line);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).expect("an answer");
        assert!(count > 0, "the server hung up");
        line.trim_end().to_owned()
    }
}

/// What stands behind the header section, with lines that end in LF, and no empty ones at its end:
/// clients write their own fields, and files.
fn body(content: &[u8]) -> Vec<u8> {
    let mut lines: Vec<u8> = content.iter().copied().filter(|octet| *octet != b'\r').collect();
    while lines.ends_with(b"\n") {
        lines.pop();
    }
    let end = lines.windows(2).position(|pair| pair == b"\n\n");
    end.map_or(Vec::new(), |end| lines.split_off(end + 2))
}

fn bodies<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = contents.into_iter().map(body).collect();
    bodies.sort();
    bodies
}

/// All messages of a Maildir.
fn maildir(directory: &Path) -> Vec<Vec<u8>> {
    let of = |part: &str| std::fs::read_dir(directory.join(part)).expect("a part of a Maildir");
    let entries = of("new").chain(of("cur"));
    entries.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file")).collect()
}

fn make_maildir(directory: &Path) {
    for part in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(directory.join(part)).expect("a Maildir");
    }
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    let of_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, of_owner).expect("private");
}

/// Messages that stay what they are whoever writes them anew.
fn letters() -> Vec<Vec<u8>> {
    let letter = |number: usize| {
        let lines = ".a line that begins with a dot\r\n..\r\nand another\r\n".repeat(number);
        format!(
            "From: Writer <writer@from.test>\r\nTo: Reader <reader@to.test>\r\n\
             Subject: letter {number}\r\nDate: Mon, {:02} Nov 2026 10:00:00 +0000\r\n\
             Message-ID: <{number}@from.test>\r\n\r\nLetter {number}\r\n{lines}",
            number + 1
        )
    };
    (0..12).map(|number| letter(number).into_bytes()).collect()
}

/// Files that other programs can keep as they are: text without NUL.
fn texts(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    messages(directory).into_iter().filter(|(_, content)| !content.contains(&0)).collect()
}

fn python(script: &str, protocol: &str, address: SocketAddr, files: &[(PathBuf, Vec<u8>)]) {
    let status = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script))
        .args([protocol, &address.to_string(), USER, PASSWORD])
        .args(files.iter().map(|(path, _)| path))
        .status()
        .expect("python3 runs");
    assert!(status.success(), "{script} {protocol}");
}

#[test]
fn python_imaplib_and_poplib_find_messages_as_they_were() {
    if !is_installed("python3") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let files = texts(directory.path());
    let mailbox = Mailbox::start();
    python("mailbox.py", "imap", mailbox.imap, &files);
    python("mailbox.py", "pop3", mailbox.pop3, &files);
    println!("imaplib, poplib: {} messages are as they were", files.len());
}

#[test]
fn curl_uploads_and_downloads_by_imap_and_pop3() {
    if !is_installed("curl") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let files = texts(directory.path());
    let mailbox = Mailbox::start();
    let curl = |url: String, more: &[&str]| -> Vec<u8> {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--user", &format!("{USER}:{PASSWORD}")])
            .args(more)
            .arg(&url)
            .output()
            .expect("curl runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url} {more:?}: {errors}");
        output.stdout
    };
    let (imap, pop3) = (mailbox.imap, mailbox.pop3);
    for (path, _) in &files {
        let file = path.display().to_string();
        curl(format!("imap://{imap}/INBOX"), &["--upload-file", &file]);
    }
    for (index, (path, content)) in files.iter().enumerate() {
        let number = index + 1;
        let name = path.display();
        for part in ["MAILINDEX", "UID"] {
            let got = curl(format!("imap://{imap}/INBOX;{part}={number}"), &[]);
            assert!(got == *content, "{name} by {part}");
        }
        assert!(curl(format!("pop3://{pop3}/{number}"), &[]) == *content, "{name} by POP3");
    }
    let list = String::from_utf8(curl(format!("pop3://{pop3}/"), &[])).expect("ASCII");
    let sizes = list.lines().map(|line| line.split(' ').nth(1).expect("a size").parse());
    let sizes: Vec<usize> = sizes.map(|size| size.expect("a number")).collect();
    let expected: Vec<usize> = files.iter().map(|(_, content)| content.len()).collect();
    assert_eq!(sizes, expected);
    println!("curl: {} messages are as they were", files.len());
}

#[test]
fn fetchmail_collects_by_pop3_and_imap() {
    if !is_installed("fetchmail") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let files = texts(directory.path());
    let mailbox = Mailbox::start();
    let contents: Vec<&[u8]> = files.iter().map(|(_, content)| content.as_slice()).collect();
    mailbox.append(&contents);
    let script = directory.path().join("deliver");
    let store = directory.path().join("store");
    make_maildir(&store);
    std::fs::write(&script, format!("cat > {}/new/$$", store.display())).expect("written");
    for (protocol, address, keep) in
        [("POP3", mailbox.pop3, "keep"), ("IMAP", mailbox.imap, "nokeep")]
    {
        let configuration = directory.path().join(protocol);
        let text = format!(
            "set no bouncemail\npoll 127.0.0.1 service {} protocol {protocol} username \"{USER}\" \
             password \"{PASSWORD}\" fetchall {keep} no rewrite sslproto \"\" \
             mda \"sh {}\"\n",
            address.port(),
            script.display()
        );
        write_private(&configuration, &text);
        let status = Command::new("fetchmail")
            .env("FETCHMAILHOME", directory.path())
            .args(["--silent", "--invisible", "--nosyslog", "--fetchmailrc"])
            .arg(&configuration)
            .status()
            .expect("fetchmail runs");
        assert!(status.success(), "{protocol}");
        let got = maildir(&store);
        let got_bodies = bodies(got.iter().map(Vec::as_slice));
        assert!(got_bodies == bodies(contents.iter().copied()), "{protocol}: others came");
        std::fs::remove_dir_all(store.join("new")).expect("removed");
        make_maildir(&store);
    }
    assert_eq!(mailbox.exists(), 0, "all is collected");
    println!("fetchmail: {} messages came by POP3 and by IMAP", files.len());
}

#[test]
fn getmail_collects_by_pop3_and_imap() {
    if !is_installed("getmail") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let of_all = || std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), of_all()).expect("open to all");
    let letters = letters();
    let mailbox = Mailbox::start();
    let contents: Vec<&[u8]> = letters.iter().map(Vec::as_slice).collect();
    mailbox.append(&contents);
    // It does not deliver as root.
    let user = if is_root() { "user = nobody\n" } else { "" };
    for (protocol, address, more) in
        [("POP3", mailbox.pop3, ""), ("IMAP", mailbox.imap, "mailboxes = (\"INBOX\",)\n")]
    {
        let store = directory.path().join(protocol);
        make_maildir(&store);
        for part in [&store, &store.join("cur"), &store.join("new"), &store.join("tmp")] {
            std::fs::set_permissions(part, of_all()).expect("open to all");
            if is_root() {
                let owner = Command::new("chown").arg("nobody").arg(part).status();
                assert!(owner.expect("chown runs").success());
            }
        }
        let text = format!(
            "[retriever]\ntype = Simple{protocol}Retriever\nserver = 127.0.0.1\nport = {}\n\
             username = {USER}\npassword = {PASSWORD}\n{more}\
             [destination]\ntype = Maildir\npath = {}/\n{user}\
             [options]\nread_all = true\ndelete = true\nverbose = 0\n",
            address.port(),
            store.display()
        );
        write_private(&directory.path().join(format!("{protocol}.rc")), &text);
        let status = Command::new("getmail")
            .env("HOME", directory.path())
            .arg(format!("--getmaildir={}", directory.path().display()))
            .arg(format!("--rcfile={protocol}.rc"))
            .status()
            .expect("getmail runs");
        assert!(status.success(), "{protocol}");
        let got = maildir(&store);
        let got_bodies = bodies(got.iter().map(Vec::as_slice));
        assert!(got_bodies == bodies(contents.iter().copied()), "{protocol}: others came");
        assert_eq!(mailbox.exists(), 0, "{protocol}: all is deleted");
        mailbox.append(&contents);
    }
    println!("getmail: {} messages came by POP3 and by IMAP", letters.len());
}

#[test]
fn neomutt_copies_and_flags_all_there_is() {
    if !is_installed("neomutt") || !is_installed("script") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let letters = letters();
    let mailbox = Mailbox::start();
    let contents: Vec<&[u8]> = letters.iter().map(Vec::as_slice).collect();
    mailbox.append(&contents);
    let store = directory.path().join("store");
    make_maildir(&store);
    let configuration = directory.path().join("muttrc");
    let text = format!(
        "set folder = \"imap://{imap}/\"\nset imap_user = \"{USER}\"\n\
         set imap_pass = \"{PASSWORD}\"\nset ssl_starttls = no\nset ssl_force_tls = no\n\
         set spoolfile = \"imap://{imap}/INBOX\"\nset confirmappend = no\nset quit = yes\n\
         set mark_old = no\nset mbox_type = Maildir\nset record = \"\"\nset wait_key = no\n\
         set tmpdir = \"{tmp}\"\n\
         push \"<tag-pattern>~A<enter><tag-prefix><copy-message>{store}<enter>\
         <tag-prefix><set-flag>!<sync-mailbox><quit>\"\n",
        imap = mailbox.imap,
        tmp = directory.path().display(),
        store = store.display(),
    );
    write_private(&configuration, &text);
    // It wants a terminal.
    let child = Command::new("script")
        .env("HOME", directory.path())
        .env("TERM", "xterm")
        .args(["-qec", &format!("neomutt -n -F {}", configuration.display()), "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs");
    let mut running = Running(child);
    let mut stdout = running.0.stdout.take().expect("piped");
    let reading = std::thread::spawn(move || {
        let mut octets = Vec::new();
        // What it drew is for whoever looks into a failure.
        let _ = stdout.read_to_end(&mut octets);
        String::from_utf8_lossy(&octets).into_owned()
    });
    crate::harness::wait_until("neomutt ends", || {
        running.0.try_wait().expect("a status").is_some()
    });
    let screen = reading.join().expect("no panic");
    let got = maildir(&store);
    let got_bodies = bodies(got.iter().map(Vec::as_slice));
    assert!(got_bodies == bodies(contents.iter().copied()), "others came:\n{screen}");
    let flags = mailbox.flags();
    assert_eq!(flags.len(), letters.len());
    assert!(flags.iter().all(|line| line.contains("\\Flagged")), "{flags:?}\n{screen}");
    println!("neomutt: {} messages copied and flagged", letters.len());
}

/// A mailbox and a Maildir that change at random, the client and the server killed meanwhile. More
/// messages and rounds, and other changes, where `RINGPOST_SYNC_MESSAGES`, `RINGPOST_SYNC_ROUNDS`
/// and `RINGPOST_SYNC_SEED` say so.
fn synchronise(client: &str) {
    if !is_installed(client) || !is_installed("python3") {
        return;
    }
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let directory = tempfile::tempdir().expect("a directory");
    let mut mailbox = Mailbox::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/sync.py");
    let child = Command::new("python3")
        .args([script, client, &mailbox.imap.to_string(), USER, PASSWORD])
        .arg(directory.path())
        .arg(setting("RINGPOST_SYNC_MESSAGES", "300"))
        .arg(setting("RINGPOST_SYNC_ROUNDS", "3"))
        .arg(setting("RINGPOST_SYNC_SEED", "1"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut running = Running(child);
    let mut stdin = running.0.stdin.take().expect("piped");
    let stdout = BufReader::new(running.0.stdout.take().expect("piped"));
    for line in stdout.lines() {
        let line = line.expect("a line");
        if line == "kill" {
            mailbox.server.kill();
            mailbox.server.start_again();
            stdin.write_all(b"serves again\n").expect("written");
        } else {
            println!("{line}");
        }
    }
    assert!(running.0.wait().expect("a status").success(), "{client}");
}

#[test]
fn mbsync_and_the_server_agree_whatever_is_killed() {
    synchronise("mbsync");
}

#[test]
fn offlineimap_and_the_server_agree_whatever_is_killed() {
    synchronise("offlineimap");
}
