//! Other people's programs at both ends. Where one is missing, a line says so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{
    Behaviour, NextHop, Server, canonical, eml_files, free_address, testdata, wait_until,
};

/// The real messages at hand, written out CRLF-canonical; ours where no others are.
pub fn messages(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eml");
    let mut files = eml_files(&own);
    if let Some(suite) = testdata("mime-mail-parser") {
        files.extend(eml_files(&suite));
    }
    if let Some(given) = std::env::var_os("RINGPOST_EML_DIR") {
        files.extend(eml_files(Path::new(&given)));
    }
    let written = files.iter().enumerate().map(|(index, path)| {
        let content = canonical(&std::fs::read(path).expect("a file"));
        let path = directory.join(format!("{index}.eml"));
        std::fs::write(&path, &content).expect("written");
        (path, content)
    });
    written.collect()
}

pub fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .expect("a shell")
        .success();
    if !found {
        println!("{program}: not installed, skipped");
    }
    found
}

/// Whether other programs may be given other users and addresses.
pub fn is_root() -> bool {
    let own = std::fs::metadata("/proc/self").expect("ourselves");
    std::os::unix::fs::MetadataExt::uid(&own) == 0
}

/// Runs `inject` over the messages, and expects each to arrive as it was.
fn check(what: &str, inject: impl Fn(&Server, &[(PathBuf, Vec<u8>)])) {
    let directory = tempfile::tempdir().expect("a directory");
    let messages = messages(directory.path());
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, "");
    inject(&server, &messages);
    let mut got: Vec<Vec<u8>> = next_hop
        .wait_for(messages.len())
        .iter()
        .map(|message| message.original().to_vec())
        .collect();
    let mut expected: Vec<Vec<u8>> = messages.into_iter().map(|(_, content)| content).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "{what}");
    println!("{what}: {} messages arrived as they were", expected.len());
}

#[test]
fn curl_injects() {
    if !is_installed("curl") {
        return;
    }
    check("curl", |server, messages| {
        for (path, _) in messages {
            let status = Command::new("curl")
                .args(["--silent", "--show-error", "--mail-from", "a@from.test"])
                .args(["--mail-rcpt", "b@to.test", "--upload-file"])
                .arg(path)
                .arg(format!("smtp://{}", server.address))
                .status()
                .expect("curl runs");
            assert!(status.success(), "{}", path.display());
        }
    });
}

#[test]
fn python_smtplib_injects() {
    if !is_installed("python3") {
        return;
    }
    check("smtplib", |server, messages| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/inject.py");
        let status = Command::new("python3")
            .arg(script)
            .arg(server.address.to_string())
            .args(messages.iter().map(|(path, _)| path))
            .status()
            .expect("python3 runs");
        assert!(status.success());
    });
}

#[test]
fn postfix_smtp_source_injects_and_smtp_sink_receives() {
    if !is_installed("smtp-source") || !is_installed("smtp-sink") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let messages = messages(directory.path());
    println!("{} messages", messages.len());
    let dump = directory.path().join("dump");
    std::fs::create_dir(&dump).expect("a directory");
    let sink_address = free_address();
    let mut sink = Running(
        // Not as root: the sink insists on another user, who must be able to write.
        Command::new("smtp-sink")
            .args(["-u", "root", "-d"])
            .arg(format!("{}/%M.", dump.display()))
            .arg(format!("inet:{sink_address}"))
            .arg("100")
            .stdout(Stdio::null())
            .spawn()
            .expect("smtp-sink runs"),
    );
    let server = Server::start(sink_address, "[queue]\nretry_wait_min = \"200ms\"\n");
    for (path, content) in &messages {
        // The program reads lines that end in LF, and sends them ending in CRLF.
        let lines: Vec<u8> = content.iter().copied().filter(|octet| *octet != b'\r').collect();
        std::fs::write(path, lines).expect("written");
        let status = Command::new("smtp-source")
            .args(["-f", "a@from.test", "-t", "b@to.test", "-F"])
            .arg(path)
            .arg(format!("inet:{}", server.address))
            .status()
            .expect("smtp-source runs");
        assert!(status.success(), "{}", path.display());
    }
    wait_until("the queue is empty", || {
        server.metric("ringpost_queue_relayed_total") >= messages.len() as f64
    });
    // The sink writes LF lines under a trace section of its own: the rest is the message.
    let mut got: Vec<Vec<u8>> = std::fs::read_dir(&dump)
        .expect("the dump")
        .map(|entry| {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a dump");
            below_trace(&canonical(&bytes))
        })
        .collect();
    let mut expected: Vec<Vec<u8>> = messages.into_iter().map(|(_, content)| content).collect();
    // The sink cannot tell an empty last line from none.
    for message in got.iter_mut().chain(&mut expected) {
        while message.ends_with(b"\r\n\r\n") {
            message.truncate(message.len() - 2);
        }
    }
    got.sort();
    expected.sort();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(String::from_utf8_lossy(got), String::from_utf8_lossy(expected));
    }
    println!("smtp-source, smtp-sink: {} messages arrived as they were", expected.len());
    sink.end();
}

/// What stands below our own Received field in a dump.
fn below_trace(dump: &[u8]) -> Vec<u8> {
    let find = |what: &[u8], within: &[u8]| within.windows(what.len()).position(|it| it == what);
    let mut at = find(b"(ringpost)", dump).expect("our trace field");
    loop {
        at += find(b"\r\n", &dump[at..]).expect("a whole field") + 2;
        if !dump[at..].starts_with(b"\t") {
            return dump[at..].to_vec();
        }
    }
}

#[test]
fn a_server_written_in_python_receives() {
    if !is_installed("python3") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let messages = messages(directory.path());
    let store = directory.path().join("store");
    std::fs::create_dir(&store).expect("a directory");
    let address = free_address();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/receive.py");
    let mut receiver = Running(
        Command::new("python3")
            .arg(script)
            .arg(address.to_string())
            .arg(&store)
            .spawn()
            .expect("python3 runs"),
    );
    let server = Server::start(address, "[queue]\nretry_wait_min = \"200ms\"\n");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for (_, content) in &messages {
        let reply =
            client.message("a@from.test", &["b@to.test"], &crate::harness::stuffed(content));
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_until("all have been relayed", || {
        server.metric("ringpost_queue_relayed_total") >= messages.len() as f64
    });
    let mut got: Vec<Vec<u8>> = std::fs::read_dir(&store)
        .expect("the store")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a message"))
        .map(|bytes| below_trace(&bytes))
        .collect();
    let mut expected: Vec<Vec<u8>> = messages.into_iter().map(|(_, content)| content).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    println!("a Python server: {} messages arrived as they were", expected.len());
    receiver.end();
}

/// A process of ours that ends with the test.
pub struct Running(pub Child);

impl Running {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
