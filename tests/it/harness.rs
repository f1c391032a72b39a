//! A server under test, a next hop that keeps what it gets, and a client that says what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for anything that should happen soon, on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(60);

/// Looks again and again until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody has, below those the kernel gives to clients: a client of a server that is
/// down must not take the server's port.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = std::process::id() as usize * 97;
    loop {
        let offset = (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], 12_000 + offset as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A running ringpost with a data directory of its own.
pub struct Server {
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    pub directory: TempDir,
    data_dir: PathBuf,
    child: Option<Child>,
    /// In place of a file of its directory.
    pub standard_error: Option<OwnedFd>,
}

impl Server {
    /// Starts with `extra` TOML behind the basics, towards `next_hop`.
    pub fn start(next_hop: SocketAddr, extra: &str) -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("data");
        let mut server = Server::stopped_in(directory, data_dir, next_hop, extra);
        server.start_again();
        server
    }

    /// The same once `prepare` has put something into its data directory.
    pub fn prepared(next_hop: SocketAddr, extra: &str, prepare: impl FnOnce(&Path)) -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("data");
        let mut server = Server::stopped_in(directory, data_dir, next_hop, extra);
        prepare(&server.data_dir);
        server.start_again();
        server
    }

    /// The same with its data elsewhere, not started yet.
    pub fn stopped(data_dir: PathBuf, next_hop: SocketAddr, extra: &str) -> Server {
        Server::stopped_in(tempfile::tempdir().expect("a directory"), data_dir, next_hop, extra)
    }

    fn stopped_in(
        directory: TempDir,
        data_dir: PathBuf,
        next_hop: SocketAddr,
        extra: &str,
    ) -> Server {
        let (address, metrics) = (free_address(), free_address());
        let (child, standard_error) = (None, None);
        let server = Server { address, metrics, directory, data_dir, child, standard_error };
        server.write_config(next_hop, extra);
        server
    }

    /// Writes the configuration file, for the next start or reload.
    pub fn write_config(&self, next_hop: SocketAddr, extra: &str) {
        let data_dir = &self.data_dir;
        let log = self.directory.path().join("log");
        let text = format!(
            "hostname = \"mx.test\"\ndata_dir = {data_dir:?}\nsmarthost = \"smtp://{next_hop}\"\n\
             [[listener]]\naddress = \"{}\"\n[metrics]\nlisten = \"{}\"\n\
             [log]\npath = {log:?}\n{extra}\n",
            self.address, self.metrics
        );
        std::fs::write(self.config_path(), text).expect("a configuration");
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("ringpost.toml")
    }

    /// Starts over the same data.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        let output = |name: &str| {
            let path = self.directory.path().join(name);
            std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a file")
        };
        let child = Command::new(env!("CARGO_BIN_EXE_ringpost"))
            .arg("serve")
            .arg("--config")
            .arg(self.config_path())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(match &self.standard_error {
                Some(other) => Stdio::from(other.try_clone().expect("a descriptor")),
                None => output("stderr").into(),
            })
            .spawn()
            .expect("ringpost starts");
        self.child = Some(child);
        let end = Instant::now() + SOON;
        // It is bound early and answers last: whoever has an answer finds everything ready.
        while !self.answers() {
            let exited = self.child.as_mut().expect("started").try_wait().expect("a status");
            assert!(exited.is_none(), "ended with {exited:?}: {}", self.stderr());
            assert!(Instant::now() < end, "does not listen: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the metrics endpoint says something.
    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.metrics)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            stream.read_exact(&mut [0; 12])
        };
        ask().is_ok()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// SIGKILL: no chance to say anything.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("a status");
    }

    /// SIGTERM, and how it ends.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    /// How it ends once it was told to.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = child.try_wait().expect("a status") {
                return status;
            }
            if Instant::now() >= end {
                child.kill().expect("killed");
                panic!("does not stop: {}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// The sum over all shards of a number of the metrics endpoint; its labels but the shard's may
    /// stand behind its name: `NAME{LABEL="VALUE"`.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.metrics).expect("the metrics endpoint");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', ',']))
        });
        let values: Vec<f64> = lines
            .map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
            .collect();
        assert!(!values.is_empty(), "no {name} in\n{text}");
        values.iter().sum()
    }

    /// A number of kilobytes from `/proc/PID/smaps_rollup`.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = std::fs::read_to_string(path).expect("memory of the process");
        let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_ascii_whitespace().nth(1).expect("a value").parse().expect("a number")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// A client that has said EHLO.
    pub fn greeted(&self) -> Client {
        let mut client = self.client();
        client.expect("EHLO client.test", "250");
        client
    }

    /// A command of the program with this server's configuration, run to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.args(arguments).arg("--config").arg(self.config_path()).stdin(Stdio::null());
        command.output().expect("ringpost runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A test that failed leaves it running.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("stderr of the server:\n{}", self.stderr());
        }
    }
}

/// A client that speaks line by line.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let mut client = Client::connect_silent(address);
        let greeting = client.reply();
        assert!(greeting.starts_with("220"), "{greeting}");
        client
    }

    /// Without waiting for the greeting.
    pub fn connect_silent(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Client { stream, reader }
    }

    /// The next reply, its lines joined; empty at the end of the stream.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return reply;
            }
            assert!(line.ends_with("\r\n"), "{line:?}");
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            reply.push_str(line.trim_end());
            if is_last {
                return reply;
            }
            reply.push('\n');
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// Sends a line and returns its reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Says `line` and expects a reply that begins so.
    pub fn expect(&mut self, line: &str, start: &str) -> String {
        let reply = self.say(line);
        assert!(reply.starts_with(start), "{line}: {reply}");
        reply
    }

    /// A mail transaction with `content` already dot-stuffed and ending in CRLF; the last reply.
    pub fn message(&mut self, from: &str, to: &[&str], content: &[u8]) -> String {
        self.expect(&format!("MAIL FROM:<{from}>"), "250");
        for recipient in to {
            self.expect(&format!("RCPT TO:<{recipient}>"), "250");
        }
        self.expect("DATA", "354");
        self.send(content);
        self.send(b".\r\n");
        self.reply()
    }
}

/// Numbered messages, and which of them were answered 250.
#[derive(Default)]
pub struct Numbered {
    count: usize,
    pub accepted: Vec<usize>,
    /// Sent whole, and never answered.
    pub in_doubt: Vec<usize>,
}

impl Numbered {
    /// Sends one of about so many octets; the reply that ended it, empty where the server went.
    pub fn send(&mut self, client: &mut Client, bytes: usize) -> String {
        for line in ["MAIL FROM:<a@from.test>", "RCPT TO:<b@to.test>"] {
            let reply = client.say(line);
            if !reply.starts_with("250") {
                client.say("RSET");
                return reply;
            }
        }
        let reply = client.say("DATA");
        if !reply.starts_with("354") {
            client.say("RSET");
            return reply;
        }
        let number = self.count;
        self.count += 1;
        let lines = b"0123456789 and some more of it\r\n".repeat(bytes / 32);
        let content = [format!("X-Id: {number}\r\n\r\n").into_bytes(), lines].concat();
        // A server that goes while it is told something says nothing, which is the answer.
        let _ = client.stream.write_all(&[&content[..], b".\r\n"].concat());
        let reply = client.reply();
        if reply.starts_with("250") {
            self.accepted.push(number);
        } else if reply.is_empty() {
            self.in_doubt.push(number);
        }
        reply
    }

    /// Nothing that was answered 250 is missing, nothing came twice, and nothing else came but what
    /// is in doubt.
    pub fn audit(&self, got: &[Got]) {
        let number_of = |got: &Got| -> usize {
            let text = String::from_utf8_lossy(got.original()).into_owned();
            let line = text.lines().next().expect("a line");
            line.strip_prefix("X-Id: ").expect("a number").parse().expect("a number")
        };
        let mut numbers: Vec<usize> = got.iter().map(number_of).collect();
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "some came twice");
        let lost: Vec<&usize> = self.accepted.iter().filter(|it| !numbers.contains(it)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        numbers.retain(|it| !self.accepted.contains(it) && !self.in_doubt.contains(it));
        assert!(numbers.is_empty(), "invented: {numbers:?}");
    }
}

/// A message as the next hop got it.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
    /// Its MAIL, and the RCPT commands that were accepted, as they came.
    pub commands: Vec<String>,
    /// Where it came from, and the name said there.
    pub client: String,
    pub ehlo: String,
}

impl Got {
    /// The content without the trace field that the server under test added in front.
    pub fn original(&self) -> &[u8] {
        assert!(self.content.starts_with(b"Received: "), "a trace field comes first");
        let mut at = 0;
        loop {
            let end = self.content[at..].windows(2).position(|pair| pair == b"\r\n");
            at += end.expect("a whole field") + 2;
            if !self.content[at..].starts_with(b"\t") {
                return &self.content[at..];
            }
        }
    }
}

/// What the next hop answers to RCPT, or to the content for the first recipient: by recipient and
/// the count of times it was asked.
pub type Answer = dyn Fn(&str, usize) -> Option<String> + Send + Sync;

/// How the next hop behaves.
pub struct Behaviour {
    /// Lines of the EHLO reply behind the name.
    pub extensions: &'static [&'static str],
    pub on_rcpt: Box<Answer>,
    pub on_content: Box<Answer>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            extensions: &["PIPELINING", "8BITMIME", "SMTPUTF8"],
            on_rcpt: Box::new(|_, _| None),
            on_content: Box::new(|_, _| None),
        }
    }
}

/// A next hop: an SMTP server of the tests' own.
pub struct NextHop {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    stopping: Arc<AtomicBool>,
}

impl NextHop {
    pub fn start(behaviour: Behaviour) -> NextHop {
        NextHop::start_on(free_address(), behaviour)
    }

    pub fn start_on(address: SocketAddr, behaviour: Behaviour) -> NextHop {
        let listener = TcpListener::bind(address).expect("the next hop's port");
        let next_hop = NextHop { address, got: Arc::default(), stopping: Arc::default() };
        let (got, stopping) = (next_hop.got.clone(), next_hop.stopping.clone());
        let behaviour = Arc::new(behaviour);
        let asked = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (got, behaviour, asked) = (got.clone(), behaviour.clone(), asked.clone());
                std::thread::spawn(move || {
                    // The peer may be killed at any moment.
                    let _ = serve(stream, &got, &behaviour, &asked);
                });
            }
        });
        next_hop
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().expect("not poisoned").clone()
    }

    pub fn wait_for(&self, count: usize) -> Vec<Got> {
        wait_until(&format!("{count} messages have arrived"), || {
            self.got.lock().expect("not poisoned").len() >= count
        });
        self.got()
    }
}

impl Drop for NextHop {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    got: &Mutex<Vec<Got>>,
    behaviour: &Behaviour,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    stream.write_all(b"220 next-hop.test\r\n")?;
    let client = stream.peer_addr()?.ip().to_string();
    let mut ehlo = String::new();
    let mut message = Got::default();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let path = |line: &str| {
            let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
            inside.map_or(String::new(), |(path, _)| path.to_owned())
        };
        let verb = line.get(..4).unwrap_or("").to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" | "LHLO" => {
                ehlo = line[4..].trim().to_owned();
                let mut lines = vec!["next-hop.test"];
                lines.extend(behaviour.extensions);
                let last = lines.len() - 1;
                let separator = |index: usize| if index == last { ' ' } else { '-' };
                let lines = lines.iter().enumerate();
                let lines: Vec<String> =
                    lines.map(|(index, text)| format!("250{}{text}", separator(index))).collect();
                lines.join("\r\n")
            }
            "MAIL" => {
                let (client, ehlo) = (client.clone(), ehlo.clone());
                let (from, commands) = (path(&line), vec![line]);
                message = Got { from, commands, client, ehlo, ..Got::default() };
                "250 2.1.0 ok".into()
            }
            "RCPT" => {
                let recipient = path(&line);
                let count = asked.fetch_add(1, Ordering::SeqCst);
                match (behaviour.on_rcpt)(&recipient, count) {
                    Some(reply) => reply,
                    None => {
                        message.to.push(recipient);
                        message.commands.push(line);
                        "250 2.1.5 ok".into()
                    }
                }
            }
            "DATA" if message.to.is_empty() => "554 5.5.1 no recipients".into(),
            "DATA" => {
                stream.write_all(b"354 go\r\n")?;
                loop {
                    let mut line = Vec::new();
                    if reader.read_until(b'\n', &mut line)? == 0 {
                        return Ok(());
                    }
                    if line == b".\r\n" {
                        break;
                    }
                    message.content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                }
                finish(got, behaviour, asked, message.clone())
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let bytes: usize = words.next().and_then(|it| it.parse().ok()).expect("a size");
                let start = message.content.len();
                message.content.resize(start + bytes, 0);
                reader.read_exact(&mut message.content[start..])?;
                match words.next() {
                    None => "250 more".into(),
                    Some(_) if message.to.is_empty() => "554 5.5.1 no recipients".into(),
                    Some(_) => finish(got, behaviour, asked, message.clone()),
                }
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => "250 ok".into(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

fn finish(
    got: &Mutex<Vec<Got>>,
    behaviour: &Behaviour,
    asked: &AtomicUsize,
    message: Got,
) -> String {
    let count = asked.fetch_add(1, Ordering::SeqCst);
    if let Some(reply) = (behaviour.on_content)(&message.to[0], count) {
        return reply;
    }
    got.lock().expect("not poisoned").push(message);
    "250 2.0.0 taken".into()
}

/// Every file below `directory` whose name ends in `.eml`, in order.
pub fn eml_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "eml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Other people's cases, where they are at hand.
pub fn testdata(suite: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata").join(suite);
    if path.is_dir() {
        return Some(path);
    }
    println!("{suite}: not at hand");
    None
}

/// Lines end in CRLF, and the last one too.
pub fn canonical(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 2);
    for (index, octet) in bytes.iter().enumerate() {
        match octet {
            b'\r' if bytes.get(index + 1) == Some(&b'\n') => {}
            b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
            octet => out.push(*octet),
        }
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Content as DATA carries it.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}
