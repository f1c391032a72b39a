//! Access: how people and programs read the mailboxes of their account.
//!
//! **Owns** IMAP and POP3 sessions, from the connection to the last word, and their way to the
//! shard that has the account.
//! **Uses** `entrance`, `auth`, `mailbox`, `proto::imap`, `proto::pop3`, `runtime`. Never `queue`,
//! `reception` or `delivery`.
//! **Holds** that a session tells of nothing that is not durable, that the numbers a client was
//! told stay good until it is told otherwise, that no literal has another length than was
//! announced, that no password is asked for where others hear it, and that an idle session keeps no
//! buffer.
//! **Start reading** at `Access::listen`, then `Access::settle`, then `imap` and `pop3`.

mod connection;
pub mod imap;
mod pop3;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

pub use connection::{Connection, Peer};

use crate::auth::{self, Authenticator, Exchange, Origin, Realm};
use crate::config::{self, Config, ListenerTls, Network, Protocol};
use crate::entrance::clients::{Admission, ClientMemo, Clients};
use crate::entrance::{self, proxy};
use crate::mail::{Account, Accounts, Protection};
use crate::mailbox::{Store, Stores};
use crate::metrics::Metrics;
use crate::proto::imap::command::Tag;
use crate::proto::sasl::Mechanism;
use crate::runtime::net::{Listener, TcpStream};
use crate::runtime::stream::Stream;
use crate::runtime::{task, timer};
use crate::tls;
use connection::{Counted, Detached};

/// Access on this shard. Clones are the same.
#[derive(Clone)]
pub struct Access {
    inner: Rc<Inner>,
}

struct Inner {
    setting: Setting,
    metrics: Rc<Metrics>,
    /// What sessions live under from now on.
    terms: RefCell<Rc<Terms>>,
    clients: Clients,
    session_count: Cell<usize>,
    /// Sessions of accounts here that have logged in, by partition and number.
    of_accounts: RefCell<HashMap<(u16, u64), usize>>,
    draining: Cell<bool>,
}

/// What access works with.
pub struct Setting {
    /// The partitions that this shard has.
    pub stores: Stores,
    pub authenticator: Authenticator,
    /// Where this shard stands among those that serve, and how many they are: partition p has
    /// shard p mod N.
    pub shard: usize,
    pub shard_count: usize,
    pub send: SendMemo,
}

/// One configuration, and who has mailboxes.
struct Terms {
    config: Arc<Config>,
    realm: Realm,
    pop3: Rc<crate::proto::pop3::server::ServerConfig>,
    imap: Rc<imap::Shared>,
}

/// What the access of different shards says to one another.
pub enum AccessMemo {
    /// Sessions of one client address, counted over all shards.
    Client(ClientMemo),
    /// A session that has logged in comes to the shard of its account.
    Moved(Box<Moved>),
}

/// A session on its way.
pub struct Moved {
    connection: Detached,
    account: Arc<Account>,
    arrival: Arrival,
}

/// Carries a memo to a shard; gives it back when the shard's inbox is full.
pub type SendMemo = Rc<dyn Fn(usize, AccessMemo) -> Result<(), AccessMemo>>;

/// How a session goes on once it is where its mailboxes are.
pub enum Arrival {
    Pop3,
    /// The command that logged in is not answered yet.
    Imap {
        tag: Tag,
    },
}

impl Terms {
    fn new(config: Arc<Config>, accounts: Arc<Accounts>) -> Self {
        let domain = config.mailboxes.domains.first().map(|domain| domain.as_str().into());
        let pop3 = Rc::new(pop3::server_config(&config));
        let imap = Rc::new(imap::Shared::new(&config));
        Self { config, realm: Realm { accounts, domain }, pop3, imap }
    }

    fn origin(&self, peer: &Peer, protocol: Protocol) -> Origin {
        Origin { client: peer.client, protocol, format: self.config.log.format }
    }
}

impl Access {
    pub fn start(
        config: Arc<Config>,
        accounts: Arc<Accounts>,
        metrics: Rc<Metrics>,
        setting: Setting,
    ) -> Access {
        let of_clients = setting.send.clone();
        let send = Rc::new(move |to, memo| {
            of_clients(to, AccessMemo::Client(memo)).map_err(|memo| match memo {
                AccessMemo::Client(memo) => memo,
                AccessMemo::Moved(_) => unreachable!("what was sent comes back"),
            })
        });
        let sessions_max = config.access.sessions_per_client_max;
        let clients = Clients::start(setting.shard, setting.shard_count, sessions_max, send);
        let inner = Inner {
            setting,
            metrics,
            terms: RefCell::new(Rc::new(Terms::new(config, accounts))),
            clients,
            session_count: Cell::new(0),
            of_accounts: RefCell::default(),
            draining: Cell::new(false),
        };
        Access { inner: Rc::new(inner) }
    }

    /// Sessions follow `config` from their next look at it on.
    pub fn reload(&self, config: Arc<Config>) {
        self.inner.clients.set_sessions_max(config.access.sessions_per_client_max);
        let accounts = self.inner.terms().realm.accounts.clone();
        self.inner.terms.replace(Rc::new(Terms::new(config, accounts)));
    }

    /// These have mailboxes from now on. Sessions whose login is over end once they are woken, see
    /// `timer::wake_all`.
    pub fn set_accounts(&self, accounts: Arc<Accounts>) {
        let config = self.inner.terms().config.clone();
        self.inner.terms.replace(Rc::new(Terms::new(config, accounts)));
    }

    pub fn config(&self) -> Arc<Config> {
        self.inner.terms().config.clone()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Takes a memo from another shard's access.
    pub fn on_memo(&self, memo: AccessMemo) {
        match memo {
            AccessMemo::Client(memo) => self.inner.clients.on_memo(memo),
            AccessMemo::Moved(moved) => {
                let Moved { connection, account, arrival } = *moved;
                self.inner.metrics.access.sessions_moved.add(1);
                self.serve(connection.attach(&self.inner), account, arrival);
            }
        }
    }

    /// Accepts sessions for as long as the executor runs, as `config` says.
    pub fn listen(&self, listener: Listener, config: &config::Listener) {
        let access = self.clone();
        let entrance = Rc::new(Entrance {
            protocol: config.protocol,
            tls: config.tls,
            proxy_networks: config.proxy_networks.clone(),
        });
        task::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await;
                access.inner.metrics.access.sessions.add(1);
                task::spawn(admit(access.clone(), stream, peer, entrance.clone()));
            }
        });
    }

    /// Checks the password that `command` said, and counts what came of it.
    pub async fn check_password(
        &self,
        (peer, protocol): (&Peer, Protocol),
        command: &str,
        said: (&[u8], &[u8]),
    ) -> Result<Arc<Account>, auth::Refusal> {
        let terms = self.inner.terms();
        let authenticator = &self.inner.setting.authenticator;
        let origin = terms.origin(peer, protocol);
        let checked = authenticator.check_password(&terms.realm, origin, command, said).await;
        self.count_login(&checked);
        checked
    }

    /// Begins a SASL exchange; what comes of it goes to `count_login`.
    pub fn exchange(&self, (peer, protocol): (&Peer, Protocol), mechanism: Mechanism) -> Exchange {
        let (authenticator, terms) = (&self.inner.setting.authenticator, self.inner.terms());
        let origin = terms.origin(peer, protocol);
        Exchange::new(authenticator, &terms.realm, origin, mechanism)
    }

    pub fn count_login(&self, result: &Result<Arc<Account>, auth::Refusal>) {
        let numbers = &self.inner.metrics.access;
        match result {
            Ok(_) => numbers.logins.add(1),
            Err(auth::Refusal::Credentials) => numbers.logins_refused.add(1),
            Err(auth::Refusal::TooManyFailures { .. }) => numbers.logins_limited.add(1),
            Err(auth::Refusal::Busy) => numbers.logins_busy.add(1),
            Err(auth::Refusal::Cancelled | auth::Refusal::Malformed) => {}
        }
    }

    /// Does the server's half of a handshake; what the client said before is dropped.
    pub async fn start_tls(&self, connection: &mut Connection) -> io::Result<()> {
        connection.start_tls(&self.inner).await
    }

    /// Whether TLS can begin in a session that has none.
    pub fn offers_tls(&self, entrance: &Entrance) -> bool {
        entrance.tls == ListenerTls::StartTls && self.inner.terms().config.tls.context.is_some()
    }

    /// Goes on with a session that has logged in, on the shard of its account, in a task of its
    /// own. Everything has been sent. Gives the connection back where that shard cannot take it.
    ///
    /// Suspends while its inbox is full, for a second at most.
    pub async fn settle(
        &self,
        connection: Connection,
        account: Arc<Account>,
        arrival: Arrival,
    ) -> Result<(), Box<Connection>> {
        let Setting { shard, shard_count, send, .. } = &self.inner.setting;
        let owner = usize::from(account.partition) % shard_count;
        if owner == *shard {
            self.serve(connection, account, arrival);
            return Ok(());
        }
        let connection = match connection.detach() {
            Ok(connection) => connection,
            Err(connection) => {
                self.inner.metrics.access.moves_failed.add(1);
                return Err(connection);
            }
        };
        let mut memo = AccessMemo::Moved(Box::new(Moved { connection, account, arrival }));
        for _ in 0..MOVE_TRIES_MAX {
            match send(owner, memo) {
                Ok(()) => return Ok(()),
                Err(refused) => memo = refused,
            }
            timer::sleep(MOVE_PERIOD).await;
        }
        self.inner.metrics.access.moves_failed.add(1);
        let AccessMemo::Moved(moved) = memo else { unreachable!("what was sent comes back") };
        Err(Box::new(moved.connection.attach(&self.inner)))
    }

    /// Serves a session whose mailboxes are here, in a task of its own.
    fn serve(&self, connection: Connection, account: Arc<Account>, arrival: Arrival) {
        let access = self.clone();
        match arrival {
            Arrival::Pop3 => task::spawn(pop3::serve(access, connection, account)),
            Arrival::Imap { tag } => task::spawn(imap::serve(access, connection, account, tag)),
        }
    }

    /// The partition of an account that the client has logged in to. The connection has a place
    /// among the sessions of the account then, and ends with the login.
    pub fn open(
        &self,
        connection: &mut Connection,
        account: Arc<Account>,
    ) -> Result<Store, NotOpened> {
        let inner = &self.inner;
        if inner.is_over(&account) {
            return Err(NotOpened::LoggedOut);
        }
        let store = inner.setting.stores.get(account.partition).ok_or(NotOpened::NotHere)?;
        let key = (account.partition, account.id);
        let mut of_accounts = inner.of_accounts.borrow_mut();
        let count = of_accounts.entry(key).or_insert(0);
        if *count >= inner.terms().config.mailboxes.sessions_per_account_max {
            return Err(NotOpened::TooManySessions);
        }
        *count += 1;
        connection.log_in(OfAccount { inner: inner.clone(), account });
        Ok(store.clone())
    }

    /// Sessions end at their next command boundary.
    pub fn drain(&self) {
        self.inner.draining.set(true);
        timer::wake_all();
    }

    pub fn is_draining(&self) -> bool {
        self.inner.draining.get()
    }

    pub fn session_count(&self) -> usize {
        self.inner.session_count.get()
    }

    /// Suspends until no session is left, or until `end`. Returns whether none is.
    pub async fn drained(&self, end: Instant) -> bool {
        timer::until(end, || self.session_count() == 0).await
    }

    /// Brings numbers up to date that are not counted here.
    pub fn update_numbers(&self) {
        let Setting { authenticator, shard, .. } = &self.inner.setting;
        if *shard == 0 {
            // Of the process.
            self.inner.metrics.access.password_hashes.set(authenticator.hash_count());
        }
    }
}

impl Inner {
    fn terms(&self) -> Rc<Terms> {
        self.terms.borrow().clone()
    }

    fn is_over(&self, account: &Account) -> bool {
        self.terms.borrow().realm.accounts.is_over(account)
    }

    /// Does the server's half of a handshake, and counts it.
    async fn handshake(&self, stream: &mut Stream) -> io::Result<Protection> {
        let numbers = &self.metrics.access;
        let terms = self.terms();
        let Some(context) = &terms.config.tls.context else {
            // A reload took the certificate away: nothing is said without it.
            return Err(io::ErrorKind::Unsupported.into());
        };
        let secured = entrance::handshake(context, stream, terms.config.access.login_timeout).await;
        let secured = secured.inspect_err(|_| numbers.tls_failures.add(1))?;
        match secured.protection.version {
            tls::TLS13 => numbers.tls13_sessions.add(1),
            _ => numbers.tls12_sessions.add(1),
        }
        numbers.tls_resumed.add(u64::from(secured.is_resumed));
        Ok(secured.protection)
    }
}

/// Why the mailboxes of an account are not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The account has as many sessions as it may.
    TooManySessions,
    /// No shard has its partition.
    NotHere,
    /// It was removed, or has another password, since the login.
    LoggedOut,
}

/// One session's place among those of its account, given back when dropped.
struct OfAccount {
    inner: Rc<Inner>,
    /// As it was at the login.
    account: Arc<Account>,
}

impl OfAccount {
    /// Whether the login is over.
    fn is_over(&self) -> bool {
        self.inner.is_over(&self.account)
    }

    /// Is there when the login is over, for a task that is woken to look around.
    async fn over<T>(&self) -> io::Result<T> {
        std::future::poll_fn(|_| match self.is_over() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            false => Poll::Pending,
        })
        .await
    }
}

impl Drop for OfAccount {
    fn drop(&mut self) {
        let mut of_accounts = self.inner.of_accounts.borrow_mut();
        let key = (self.account.partition, self.account.id);
        let count = of_accounts.get_mut(&key).expect("what is given back was taken");
        *count -= 1;
        if *count == 0 {
            of_accounts.remove(&key);
        }
    }
}

/// What the sessions of a listener have in common.
pub struct Entrance {
    protocol: Protocol,
    tls: ListenerTls,
    /// Who speaks for others.
    proxy_networks: Vec<Network>,
}

/// Lets a client in, or tells it why not.
async fn admit(access: Access, mut stream: TcpStream, peer: SocketAddr, entrance: Rc<Entrance>) {
    let inner = &access.inner;
    let refusal = if inner.draining.get() {
        Some(SHUTTING_DOWN)
    } else if inner.session_count.get() >= inner.terms().config.access.sessions_max {
        Some(TOO_MANY_SESSIONS)
    } else {
        None
    };
    if let Some(text) = refusal {
        return refuse(inner, stream, &entrance, text).await;
    }
    let counted = Counted::new(inner);
    let client = match entrance.proxy_networks.iter().any(|it| it.contains(peer.ip())) {
        true => proxy::client(&mut stream, peer.ip()).await,
        false => Ok(peer.ip()),
    };
    let Ok(client) = client else {
        // Nobody knows to whom a word would go.
        inner.metrics.access.sessions_refused.add(1);
        return;
    };
    let held = match inner.clients.admit(client).await {
        Admission::Granted(held) => held,
        Admission::Refused => return refuse(inner, stream, &entrance, TOO_MANY_OF_CLIENT).await,
        Admission::Unknown => return refuse(inner, stream, &entrance, TOO_MANY_SESSIONS).await,
    };
    let mut connection = Connection::new(Stream::from(stream), client, held, counted);
    connection.peer.is_on_loopback = peer.ip().is_loopback() && client.is_loopback();
    if entrance.tls == ListenerTls::Implicit && access.start_tls(&mut connection).await.is_err() {
        return;
    }
    match entrance.protocol {
        Protocol::Pop3 => pop3::greet(access, connection, entrance).await,
        Protocol::Imap => imap::greet(access, connection, entrance).await,
        Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => {
            unreachable!("such listeners are not handed to access")
        }
    }
}

async fn refuse(inner: &Inner, mut stream: TcpStream, entrance: &Entrance, text: &str) {
    inner.metrics.access.sessions_refused.add(1);
    if entrance.tls == ListenerTls::Implicit {
        // It would not read a word without a handshake, which is what there is too much of.
        return;
    }
    let line = match entrance.protocol {
        Protocol::Pop3 => format!("-ERR [SYS/TEMP] {text}\r\n"),
        _ => format!("* BYE [UNAVAILABLE] {text}\r\n"),
    };
    stream.set_deadline(Some(Duration::from_secs(1)));
    // The client may be gone already.
    let _ = stream.write_all(line.as_bytes()).await;
}

/// How often, and how many times, a session is offered to a shard whose inbox is full.
const MOVE_PERIOD: Duration = Duration::from_millis(20);
const MOVE_TRIES_MAX: u32 = 50;
const SHUTTING_DOWN: &str = "Shutting down";
const LOGGED_OUT: &str = "The account was removed, or its password changed";
const TOO_MANY_SESSIONS: &str = "Too many sessions; try again later";
const TOO_MANY_OF_CLIENT: &str = "Too many sessions from your address";
