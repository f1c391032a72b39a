//! Reception: SMTP and LMTP sessions from the first octet to the 250 that takes responsibility.
//!
//! **Owns** listeners' sessions and their policy.
//! **Uses** `entrance`, `proto::smtp::server`, `queue::Draft`, `mailbox::Post`, `routing`, `dns`,
//! `metrics`.
//! While room in the journal gets short, a listener lets in ten sessions a second, and MAIL is
//! answered after 200 ms: deliveries catch up. Nothing is refused for that.
//! **Holds** that only configured networks relay, that everybody else reaches local domains only,
//! that a client's sessions are counted exactly over all shards, and that an idle session keeps no
//! buffer.
//! **Start reading** at `Reception::listen`, then `session`.

mod lmtp;
mod policy;
mod quota;
mod recipients;
mod session;
mod stream;
mod submission;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Authenticator;
use crate::config::{self, Config, ListenerTls, Network, Protocol};
use crate::dns::Resolver;
use crate::entrance::clients::{Admission, ClientMemo, Clients, SendMemo};
use crate::entrance::proxy;
use crate::mail::{Accounts, Reply, Stream, status};
use crate::mailbox::Post;
use crate::metrics::Metrics;
use crate::proto::smtp::data::BareNewline;
use crate::proto::smtp::server::{Dialect, ServerConfig, Wire};
use crate::queue::Queue;
use crate::routing::Routes;
use crate::routing::local::Local;
use crate::runtime::blocking::Pool;
use crate::runtime::net::{Listener, TcpStream};
use crate::runtime::{task, timer};
use stream::Fields;

/// Reception of this shard. Clones are the same.
#[derive(Clone)]
pub struct Reception {
    inner: Rc<Inner>,
}

struct Inner {
    queue: Queue,
    post: Post,
    authenticator: Authenticator,
    metrics: Rc<Metrics>,
    /// What new sessions live under.
    terms: RefCell<Rc<Terms>>,
    accounts: RefCell<Arc<Accounts>>,
    /// Begun when it is needed first: it looks for Maildirs.
    maildir_threads: RefCell<Option<Pool>>,
    clients: Clients,
    session_count: Cell<usize>,
    draining: Cell<bool>,
}

/// One configuration, as sessions need it. A session keeps the one it began under.
struct Terms {
    config: Arc<Config>,
    /// For clients that may relay, and for the others.
    server: [Rc<ServerConfig>; 2],
    /// For clients that deliver into mailboxes.
    lmtp: Rc<ServerConfig>,
    routes: Routes,
    local: Local,
    /// Of the shard.
    resolver: Resolver,
    /// Header fields that say what a message is part of.
    fields: Option<Fields>,
}

impl Terms {
    fn new(config: Arc<Config>, resolver: Resolver) -> Self {
        let reception = &config.reception;
        let hold_max = reception.hold_max;
        let server = |dialect, hold_max: Option<Duration>| ServerConfig {
            hostname: config.hostname.clone(),
            dialect,
            message_bytes_max: reception.message_bytes_max,
            recipients_max: reception.recipients_max,
            errors_max: reception.errors_max,
            received_fields_max: reception.received_fields_max,
            bare_newline: match reception.bare_newline {
                config::BareNewline::Refuse => BareNewline::Refuse,
                config::BareNewline::Normalise => BareNewline::Normalise,
            },
            messages_max: reception.messages_per_session_max,
            hold_max,
        };
        let relaying = server(Dialect::Smtp, (!hold_max.is_zero()).then_some(hold_max));
        let lmtp = Rc::new(server(Dialect::Lmtp, None));
        let server = [Rc::new(relaying), Rc::new(server(Dialect::Smtp, None))];
        let (routes, local) = (Routes::new(&config), Local::new(&config));
        let fields = Fields::new(&reception.headers, hold_max);
        Self { config, server, lmtp, routes, local, resolver, fields }
    }

    /// What a client lives under that may relay, or may not.
    fn server(&self, may_relay: bool) -> Rc<ServerConfig> {
        self.server[usize::from(!may_relay)].clone()
    }
}

impl Reception {
    /// Reception on shard `shard` of `shard_count`; `send` carries memos to the other shards.
    pub fn start(
        config: Arc<Config>,
        resolver: Resolver,
        (queue, post): (Queue, Post),
        authenticator: Authenticator,
        metrics: Rc<Metrics>,
        (shard, shard_count): (usize, usize),
        send: SendMemo,
    ) -> Reception {
        let sessions_max = config.reception.sessions_per_client_max;
        let clients = Clients::start(shard, shard_count, sessions_max, send);
        let inner = Inner {
            queue,
            post,
            authenticator,
            metrics,
            terms: RefCell::new(Rc::new(Terms::new(config, resolver))),
            accounts: RefCell::default(),
            maildir_threads: RefCell::default(),
            clients,
            session_count: Cell::new(0),
            draining: Cell::new(false),
        };
        Reception { inner: Rc::new(inner) }
    }

    /// These have mailboxes here from now on. Sessions whose login is over end once they are woken,
    /// see `timer::wake_all`.
    pub fn set_accounts(&self, accounts: Arc<Accounts>) {
        self.inner.accounts.replace(accounts);
    }

    /// Who has mailboxes here.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.inner.accounts.borrow().clone()
    }

    /// New sessions follow `config`, and ask `resolver`.
    pub fn reload(&self, config: Arc<Config>, resolver: Resolver) {
        self.inner.clients.set_sessions_max(config.reception.sessions_per_client_max);
        self.inner.terms.replace(Rc::new(Terms::new(config, resolver)));
    }

    /// Takes a memo from another shard's reception.
    pub fn on_memo(&self, memo: ClientMemo) {
        self.inner.clients.on_memo(memo);
    }

    /// Accepts sessions for as long as the executor runs, as `config` says.
    pub fn listen(&self, listener: Listener, config: &config::Listener) {
        let inner = self.inner.clone();
        let entrance = Rc::new(Entrance::new(config));
        task::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await;
                inner.metrics.reception.sessions.add(1);
                task::spawn(admit(inner.clone(), stream, Some(peer), entrance.clone()));
                if inner.queue.is_filling() {
                    timer::sleep(SLOW_ACCEPT).await;
                }
            }
        });
    }

    /// Serves a client that came by a socket of this machine, as `config` says.
    pub fn take(&self, stream: TcpStream, config: &config::Listener) {
        self.inner.metrics.reception.sessions.add(1);
        task::spawn(admit(self.inner.clone(), stream, None, Rc::new(Entrance::new(config))));
    }

    /// Sessions end at their next command boundary; a reply to end of data is awaited.
    pub fn drain(&self) {
        self.inner.draining.set(true);
        timer::wake_all();
    }

    pub fn session_count(&self) -> usize {
        self.inner.session_count.get()
    }

    /// Suspends until no session is left, or until `end`. Returns whether none is.
    pub async fn drained(&self, end: Instant) -> bool {
        timer::until(end, || self.session_count() == 0).await
    }
}

/// What the sessions of a listener have in common.
struct Entrance {
    protocol: Protocol,
    tls: ListenerTls,
    /// Who speaks for others.
    proxy_networks: Vec<Network>,
    /// What mail is part of where it does not say otherwise.
    stream: Stream,
}

impl Entrance {
    fn new(config: &config::Listener) -> Self {
        Self {
            protocol: config.protocol,
            tls: config.tls,
            proxy_networks: config.proxy_networks.clone(),
            stream: config.stream.clone(),
        }
    }
}

/// Lets a client in, or tells it why not. Without a `peer` it came by a socket of this machine.
async fn admit(
    inner: Rc<Inner>,
    mut stream: TcpStream,
    peer: Option<SocketAddr>,
    entrance: Rc<Entrance>,
) {
    let terms = inner.terms.borrow().clone();
    let refusal = if inner.draining.get() {
        Some(SHUTTING_DOWN)
    } else if inner.session_count.get() >= terms.config.reception.sessions_max {
        Some(TOO_MANY_SESSIONS)
    } else {
        None
    };
    if let Some(reply) = refusal {
        return refuse(&inner, stream, &entrance, &reply).await;
    }
    let _counted = Counted::new(&inner);
    let Some(peer) = peer else {
        // Its address is that of all others there: nothing is counted by it.
        return session::run(&inner, terms, stream, (None, Wire::Loopback), entrance).await;
    };
    let client = match entrance.proxy_networks.iter().any(|it| it.contains(peer.ip())) {
        true => Box::pin(proxy::client(&mut stream, peer.ip())).await,
        false => Ok(peer.ip()),
    };
    let Ok(client) = client else {
        // Nobody knows to whom a reply would go.
        inner.metrics.reception.sessions_refused.add(1);
        return;
    };
    match inner.clients.admit(client).await {
        Admission::Granted(_held) => {
            let is_near = peer.ip().is_loopback() && client.is_loopback();
            let wire = if is_near { Wire::Loopback } else { Wire::Open };
            session::run(&inner, terms, stream, (Some(client), wire), entrance).await;
        }
        Admission::Refused => refuse(&inner, stream, &entrance, &TOO_MANY_OF_CLIENT).await,
        Admission::Unknown => refuse(&inner, stream, &entrance, &TOO_MANY_SESSIONS).await,
    }
}

async fn refuse(inner: &Inner, mut stream: TcpStream, entrance: &Entrance, reply: &Reply) {
    inner.metrics.reception.sessions_refused.add(1);
    if entrance.tls == ListenerTls::Implicit {
        // It would not read a word without a handshake, which is what there is too much of.
        return;
    }
    let mut out = Vec::new();
    reply.write(&mut out);
    stream.set_deadline(Some(Duration::from_secs(1)));
    // The client may be gone already.
    let _ = stream.write_all(&out).await;
}

/// Counts a session for as long as it lives, however it ends.
struct Counted {
    inner: Rc<Inner>,
}

impl Counted {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.session_count.set(inner.session_count.get() + 1);
        inner.metrics.reception.sessions_open.add(1);
        Self { inner: inner.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inner.session_count.set(self.inner.session_count.get() - 1);
        self.inner.metrics.reception.sessions_open.sub(1);
    }
}

/// Between two new sessions of a listener while room gets short.
const SLOW_ACCEPT: Duration = Duration::from_millis(100);
const SHUTTING_DOWN: Reply = Reply::new(421, status::SYSTEM_NOT_ACCEPTING, "Service shutting down");
const LOGGED_OUT: Reply = Reply::new(
    421,
    status::AUTHENTICATION_FAILED_FOR_NOW,
    "The account was removed, or its password changed",
);
const TOO_MANY_SESSIONS: Reply =
    Reply::new(421, status::SYSTEM_NOT_ACCEPTING, "Too many sessions; try again later");
const TOO_MANY_OF_CLIENT: Reply =
    Reply::new(421, status::TOO_MANY_CONNECTIONS, "Too many sessions from your address");
