//! IMAP sessions over a partition on a real disk, by transcripts.
//!
//! `C:` is sent with a line end, `S:` is a line that comes; `2C:` and `2S:` are another session of
//! the same account, opened where it is named first. In what comes `<n>` stands for a number and
//! `<*>` for anything. `G: n` puts n messages into INBOX before a session begins.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ringpost::access::{Access, Setting};
use ringpost::auth::{Authenticator, make_secret};
use ringpost::config::{Config, ListenAddress, Listener, ListenerTls, Protocol};
use ringpost::journal::JournalConfig;
use ringpost::mail::{Account, Accounts};
use ringpost::mailbox::codec::AccountId;
use ringpost::mailbox::{Delivery, InternalDate, Store, Target};
use ringpost::proto::imap::flag::Flags;
use ringpost::runtime::inbox::{InboxSender, inbox};
use ringpost::runtime::log_ring::Durability;
use ringpost::runtime::net::BoundListener;
use ringpost::runtime::{executor, sync};

use crate::mailbox::{config, open_as};

/// A server with one partition, and one account at a time.
struct Server {
    address: SocketAddr,
    orders: InboxSender<Order>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    _directory: tempfile::TempDir,
}

enum Order {
    /// A new account with so many messages takes the place of the one before.
    Account(usize, mpsc::Sender<()>),
    Stop,
}

fn open(data_dir: &Path) -> Store {
    let config = JournalConfig { durability: Durability::None, ..config(data_dir, 0) };
    open_as(&config).expect("a journal")
}

impl Server {
    fn start() -> Server {
        let message_bytes_max = 1 << 20;
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().to_owned();
        let listener = BoundListener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (orders, mut waiting) = inbox(8);
        let body = move || async move {
            let store = open(&data_dir);
            let access = access(&store, message_bytes_max);
            access.listen(listener.attach(), &of_listener(address));
            let mut before = None;
            while let Order::Account(count, done) = waiting.recv().await {
                if let Some(account) = before {
                    store.remove_account(account).await.expect("there");
                }
                let account = store.add_account(NAME, None).await.expect("room");
                before = Some(account);
                access.set_accounts(Arc::new(accounts(account)));
                deliver(&store, account, count).await;
                done.send(()).expect("somebody waits");
            }
        };
        let thread = executor::spawn("imap-test", None, body).expect("a thread");
        Server { address, orders, thread: Some(thread), _directory: directory }
    }

    fn account(&self, message_count: usize) {
        let (done, wait) = mpsc::channel();
        let order = Order::Account(message_count, done);
        assert!(self.orders.try_send(order).is_ok());
        wait.recv().expect("an answer");
    }

    /// Before its login.
    fn stranger(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("a session");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        Client { reader: BufReader::new(stream) }
    }

    fn client(&self) -> Client {
        let mut client = self.stranger();
        client.expect("* OK [CAPABILITY <*>] <*> ready");
        client.send(b"0 LOGIN jo \"secret word\"\r\n");
        client.expect("0 OK [CAPABILITY <*>] Logged in");
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.orders.try_send(Order::Stop);
        let result = self.thread.take().expect("one stop").join();
        if !std::thread::panicking() {
            result.expect("no panic").expect("no error");
        }
    }
}

fn access(store: &Store, message_bytes_max: u64) -> Access {
    let mut config = Config::default();
    config.mailboxes.domains = vec!["example.test".to_owned()];
    config.reception.message_bytes_max = message_bytes_max;
    let setting = Setting {
        stores: [(0, store.clone())].into_iter().collect(),
        authenticator: Authenticator::new(1, [7; 32], None),
        shard: 0,
        shard_count: 1,
        send: Rc::new(|_, memo| Err(memo)),
    };
    Access::start(Arc::new(config), Arc::default(), Rc::default(), setting)
}

fn of_listener(address: SocketAddr) -> Listener {
    Listener {
        address: ListenAddress::Network(address),
        protocol: Protocol::Imap,
        tls: ListenerTls::None,
        proxy_networks: Vec::new(),
        stream: Default::default(),
    }
}

fn accounts(id: AccountId) -> Accounts {
    static SECRET: LazyLock<String> = LazyLock::new(|| make_secret("secret word"));
    let secret = Some(SECRET.as_str().into());
    let account = Account { name: NAME.into(), id: id.0, partition: 0, secret, revision: 0 };
    [account].into_iter().collect()
}

async fn deliver(store: &Store, account: AccountId, count: usize) {
    let inbox = store.find_mailbox(account, "INBOX").await.expect("there");
    let one = |number: usize| async move {
        let content = format!("Subject: {number}\r\n\r\nbody {number}\r\n");
        let mut draft = store.begin(0).expect("room");
        assert_eq!(draft.append(content.as_bytes()), content.len());
        let flags = Flags::default();
        let delivery = Delivery {
            to: Target::Mailbox(inbox),
            prefix: Vec::new(),
            date: InternalDate::utc(1_600_000_000),
            flags,
            key: None,
        };
        draft.commit(&[delivery]).await.expect("room");
    };
    sync::join_all((1..=count).map(one).collect()).await;
    // Somebody has seen these.
    store.claim_recent(inbox, count as u32 + 1);
}

const NAME: &str = "jo@example.test";

struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn send(&mut self, octets: &[u8]) {
        self.reader.get_mut().write_all(octets).expect("sent");
    }

    /// The next line, without its line end; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).expect("a line in time");
        let line = String::from_utf8_lossy(&line).into_owned();
        let text = line.strip_suffix("\r\n").map(str::to_owned);
        assert!(text.is_some() || line.is_empty(), "{line:?} ends somehow");
        text
    }

    fn expect(&mut self, expected: &str) {
        match self.line() {
            Some(line) => assert!(matches(expected, &line), "{line:?} is not {expected:?}"),
            None => assert_eq!(expected, "<end>"),
        }
    }
}

/// Whether a line is as a pattern says.
fn matches(pattern: &str, line: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("<n>") {
        let digits = line.len() - line.trim_start_matches(|it: char| it.is_ascii_digit()).len();
        return digits > 0 && matches(rest, &line[digits..]);
    }
    if let Some(rest) = pattern.strip_prefix("<*>") {
        return (0..=line.len()).any(|at| line.is_char_boundary(at) && matches(rest, &line[at..]));
    }
    match (pattern.chars().next(), line.chars().next()) {
        (None, None) => true,
        (Some(expected), Some(octet)) if expected == octet => {
            matches(&pattern[expected.len_utf8()..], &line[octet.len_utf8()..])
        }
        _ => false,
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Given,
    Client,
    Server,
}

/// Session, kind and text of each line.
fn parse(text: &str) -> Vec<(u32, Kind, &str)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (head, rest) = line.split_once(':').expect("a line of a transcript");
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let (session, kind) = match head.len() {
                1 => (1, head),
                _ => (head[..1].parse().expect("a number"), &head[1..]),
            };
            let kind = match kind {
                "G" => Kind::Given,
                "C" => Kind::Client,
                "S" => Kind::Server,
                _ => panic!("{line}"),
            };
            (session, kind, rest)
        })
        .collect()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/imap").join(name);
    std::fs::read_to_string(path).expect("a transcript")
}

fn given(lines: &[(u32, Kind, &str)]) -> usize {
    let given = lines.iter().find(|(_, kind, _)| *kind == Kind::Given);
    given.map_or(0, |(_, _, count)| count.parse().expect("a number"))
}

/// Each line is sent when those before it have been answered.
fn check(name: &str) {
    let text = read(name);
    let lines = parse(&text);
    let server = Server::start();
    server.account(given(&lines));
    let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
    for (session, kind, text) in lines {
        if kind == Kind::Given {
            continue;
        }
        let client = clients.entry(session).or_insert_with(|| match name {
            "login.txt" => server.stranger(),
            _ => server.client(),
        });
        match kind {
            Kind::Client => client.send(format!("{}\r\n", text.replace("<nul>", "\0")).as_bytes()),
            _ => client.expect(text),
        }
    }
}

/// All that the client says comes at once, in two pieces cut anywhere, and octet by octet.
fn check_pieces(name: &str) {
    let text = read(name);
    let lines = parse(&text);
    let server = Server::start();
    let of = |kind: Kind| lines.iter().filter(move |(_, it, _)| *it == kind);
    let sent: String = of(Kind::Client).map(|(_, _, text)| format!("{text}\r\n")).collect();
    let run = |pieces: &[&[u8]]| {
        server.account(given(&lines));
        let mut client = server.client();
        for piece in pieces {
            client.send(piece);
            // Most arrive by themselves.
            std::thread::yield_now();
        }
        of(Kind::Server).for_each(|(_, _, expected)| client.expect(expected));
        let mut rest = Vec::new();
        client.reader.read_to_end(&mut rest).expect("the end");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    };
    let sent = sent.as_bytes();
    run(&[sent]);
    for at in 1..sent.len() {
        run(&[&sent[..at], &sent[at..]]);
    }
    let octets: Vec<&[u8]> = sent.chunks(1).collect();
    run(&octets);
}

macro_rules! transcripts {
    ($($name:ident $file:literal)*) => { $(
        #[test]
        fn $name() {
            check($file);
        }
    )* };
}

transcripts! {
    what_select_tells "select.txt"
    names_of_mailboxes "mailboxes.txt"
    names_are_listed "list.txt"
    flags_are_stored_and_told "store.txt"
    numbers_stay_until_expunges_are_told "expunge.txt"
    messages_are_copied_and_moved "copy.txt"
    messages_are_appended "append.txt"
    dates_stay_in_their_zone "dates.txt"
    idle_tells_at_once "idle.txt"
    changes_since_a_mod_sequence "qresync.txt"
    commands_out_of_place "faults.txt"
    strangers_log_in "login.txt"
    messages_are_fetched "fetch.txt"
    messages_are_searched "search.txt"
    recent_is_what_came_here_first "recent.txt"
    binary_is_told_and_taken "binary.txt"
    what_enabling_imap4rev2_changes "rev2.txt"
}

#[test]
fn octets_may_come_in_any_pieces() {
    check_pieces("pieces.txt");
}
