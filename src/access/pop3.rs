//! POP3 sessions over `proto::pop3` and `mailbox::Store`.
//!
//! A maildrop is the INBOX of the account as it was at the login. What the client may know of it is
//! kept as a difference to the mailbox, so a session costs nothing for messages it does not ask
//! for, however many there are.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use super::imap::view::View;
use super::{Access, Arrival, Entrance, LOGGED_OUT, NotOpened, SHUTTING_DOWN};
use crate::auth::{Exchange, Refusal, Step};
use crate::config::{Config, Protocol};
use crate::mail::Account;
use crate::mailbox::codec::{AccountId, MailboxId};
use crate::mailbox::{Expunging, Mailbox, Store, Watch};
use crate::proto::imap::set::NumberSet;
use crate::proto::pop3::content::{LeadingDot, Progress};
use crate::proto::pop3::server::{
    self, Channel, Event, Listing, LoginRefusal, Server, ServerConfig,
};
use crate::proto::sasl::Mechanism;
use crate::runtime::{clock, task};

/// What sessions have in common.
pub(super) fn server_config(config: &Config) -> ServerConfig {
    ServerConfig {
        hostname: config.hostname.clone(),
        mechanisms: "PLAIN SCRAM-SHA-256".into(),
        errors_max: ERRORS_MAX,
    }
}

/// Serves a client until it has logged in, leaves, goes too far or takes too long.
pub(super) async fn greet(access: Access, mut connection: Connection, entrance: Rc<Entrance>) {
    let channel = match connection.peer.protection {
        Some(_) => Channel::Protected,
        None => match (access.offers_tls(&entrance), connection.peer.may_say_password()) {
            (true, true) => Channel::TrustedWithStls,
            (true, false) => Channel::PlainWithStls,
            (false, true) => Channel::Protected,
            (false, false) => Channel::Plain,
        },
    };
    let mut server = Server::new(access.inner.terms().pop3.clone(), channel);
    server.greet(&mut connection.out);
    let began_ms = clock::coarse_ms();
    loop {
        match log_in(&access, &mut connection, &mut server, began_ms).await {
            Ok(Some(account)) => {
                match access.settle(connection, account, Arrival::Pop3).await {
                    Ok(()) => return,
                    Err(back) => connection = *back,
                }
                server.refuse_login(LoginRefusal::Temporary, &mut connection.out);
            }
            Ok(None) => break,
            Err(error) => match farewell(&error) {
                Some(text) => {
                    server.close(text, &mut connection.out);
                    break;
                }
                None => return,
            },
        }
    }
    // The client may be gone already.
    let _ = connection.close().await;
}

/// Goes on up to the next right login; `None` when the session is over. All replies but the one to
/// the login are sent then.
async fn log_in(
    access: &Access,
    connection: &mut Connection,
    server: &mut Server,
    began_ms: u64,
) -> io::Result<Option<Arc<Account>>> {
    let mut exchange: Option<Box<Exchange>> = None;
    loop {
        let (input, out) = connection.input_and_out();
        let (taken, event) = server.next(input, out);
        let checked = match event {
            Event::NeedInput => {
                connection.consume(taken);
                let timeout = access.config().access.login_timeout;
                let passed = Duration::from_millis(clock::coarse_ms().saturating_sub(began_ms));
                connection.flush().await?;
                let left = timeout.saturating_sub(passed);
                connection.read(left, || access.is_draining()).await?;
                continue;
            }
            Event::Login { password } => {
                let password = password.to_vec();
                connection.consume(taken);
                connection.flush().await?;
                let name = server.login_name().expect("USER came before").to_vec();
                let from = (&connection.peer, Protocol::Pop3);
                access.check_password(from, "PASS", (&name, &password)).await
            }
            Event::Authenticate { mechanism, initial_response } => {
                let known = Mechanism::from_name(mechanism).expect("it was offered");
                let initial_response = initial_response.map(<[u8]>::to_vec);
                connection.consume(taken);
                connection.flush().await?;
                let from = (&connection.peer, Protocol::Pop3);
                let begun = exchange.insert(Box::new(access.exchange(from, known)));
                match begun.begin(initial_response.as_deref()).await {
                    Step::Challenge(base64) => {
                        server.challenge(&base64, &mut connection.out);
                        continue;
                    }
                    Step::Done(checked) => checked,
                }
            }
            Event::Response(response) => {
                let response = response.to_vec();
                connection.consume(taken);
                let going_on = exchange.as_mut().expect("a challenge was sent");
                match going_on.step(&response).await {
                    Step::Challenge(base64) => {
                        server.challenge(&base64, &mut connection.out);
                        continue;
                    }
                    Step::Done(checked) => checked,
                }
            }
            Event::StartTls => {
                connection.consume(taken);
                connection.flush().await?;
                access.start_tls(connection).await?;
                server.on_tls();
                continue;
            }
            Event::Close => return Ok(None),
            _ => unreachable!("the maildrop is not open"),
        };
        if exchange.take().is_some() {
            access.count_login(&checked);
        }
        match checked {
            Ok(account) => {
                connection.flush().await?;
                return Ok(Some(account));
            }
            Err(refusal) => server.refuse_login(login_refusal(refusal), &mut connection.out),
        }
    }
}

fn login_refusal(refusal: Refusal) -> LoginRefusal {
    match refusal {
        Refusal::Credentials => LoginRefusal::Credentials,
        Refusal::TooManyFailures { wait } => {
            LoginRefusal::TooManyFailures { wait_s: wait.as_secs() + 1 }
        }
        Refusal::Busy => LoginRefusal::Temporary,
        Refusal::Cancelled | Refusal::Malformed => LoginRefusal::Cancelled,
    }
}

/// What a client is told for the end of its session; nothing where it is gone.
fn farewell(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::Interrupted => Some(SHUTTING_DOWN),
        io::ErrorKind::PermissionDenied => Some(LOGGED_OUT),
        io::ErrorKind::TimedOut => Some("Timed out; closing"),
        _ => None,
    }
}

/// Serves a client that has logged in, on the shard of its account.
pub(super) async fn serve(access: Access, mut connection: Connection, account: Arc<Account>) {
    let config = access.inner.terms().pop3.clone();
    let mut server = Server::logged_in(config, Channel::Protected);
    let id = AccountId(account.id);
    let refusal = match access.open(&mut connection, account) {
        Err(NotOpened::TooManySessions) => Some(LoginRefusal::InUse),
        Err(NotOpened::NotHere) => Some(LoginRefusal::Permanent),
        Err(NotOpened::LoggedOut) => Some(LoginRefusal::Credentials),
        Ok(store) => match Maildrop::open(&store, id).await {
            Some((maildrop, status)) => {
                server.open(status.0, status.1, &mut connection.out);
                let mut session = Session { access: &access, connection, server, maildrop };
                return session.run().await;
            }
            // The account was removed a moment ago.
            None => Some(LoginRefusal::Permanent),
        },
    };
    if let Some(refusal) = refusal {
        server.refuse_login(refusal, &mut connection.out);
        // Another account would be on another shard: the client comes back for it.
        let _ = connection.close().await;
    }
}

/// An INBOX as it was at the login.
struct Maildrop {
    store: Store,
    inbox: MailboxId,
    uid_validity: u32,
    watch: Watch,
    /// Nothing of what comes or goes is ever told.
    view: View,
}

impl Maildrop {
    /// With the number of messages and their octets. `None` where there is no such account.
    async fn open(store: &Store, account: AccountId) -> Option<(Self, (u32, u64))> {
        let inbox = store.find_mailbox(account, "INBOX").await?;
        let watch = store.watch(inbox);
        let look = |mailbox: &Mailbox| (View::of(mailbox), mailbox.status());
        let (view, status) = store.read_mailbox(inbox, look).await?;
        let uid_validity = status.uid_validity;
        let maildrop = Self { store: store.clone(), inbox, uid_validity, watch, view };
        Some((maildrop, (status.exists, status.bytes)))
    }

    /// What `look` finds; `None` when the account is no more.
    async fn read<T>(&mut self, look: impl FnOnce(&View, &Mailbox) -> T) -> Option<T> {
        let Self { store, inbox, watch, view, .. } = self;
        let read = store.read_mailbox(*inbox, |mailbox| {
            view.on_vanished(&watch.take().vanished);
            look(view, mailbox)
        });
        read.await
    }

    /// The UID of a message, and its octets. `None` when it cannot be had any more.
    async fn message(&mut self, number: u32) -> Option<(u32, u64)> {
        let look = |view: &View, mailbox: &Mailbox| {
            let uid = view.uid(mailbox, number)?;
            Some((uid, mailbox.find(uid).map(|entry| u64::from(entry.bytes))))
        };
        let (uid, bytes) = self.read(look).await??;
        match bytes {
            Some(bytes) => Some((uid, bytes)),
            None => self.bytes_of_gone(uid).await.map(|bytes| (uid, bytes)),
        }
    }

    /// Octets of a message that another session has expunged: it is kept for a while.
    async fn bytes_of_gone(&self, uid: u32) -> Option<u64> {
        self.store.content(self.inbox, uid).await.map(|content| content.bytes().into())
    }

    /// Up to `LISTED_AT_ONCE` messages from a number on, without those that are marked: number,
    /// UID, and octets where the message is still there; and the number to go on with.
    async fn list_from(&mut self, first: u32, deleted: &NumberSet) -> Option<(Vec<Listed>, u32)> {
        let look = |view: &View, mailbox: &Mailbox| {
            let Some(uid_first) = view.uid(mailbox, first) else { return (Vec::new(), 0) };
            let all = [(uid_first, view.uid_end().saturating_sub(1))].into_iter().collect();
            let walk = view.walk(mailbox, &all, uid_first).take(LISTED_AT_ONCE as usize);
            let mut listed = Vec::new();
            let mut next = 0;
            for known in walk {
                next = known.number + 1;
                if !deleted.contains(known.number) {
                    let bytes = known.entry.map(|entry| u64::from(entry.bytes));
                    listed.push(Listed { number: known.number, uid: known.uid, bytes });
                }
            }
            (listed, next)
        };
        self.read(look).await
    }

    /// UIDs of marked messages.
    async fn uids_of(&mut self, numbers: &NumberSet) -> Option<NumberSet> {
        let look = |view: &View, mailbox: &Mailbox| {
            let mut uids = NumberSet::default();
            for (first, end) in numbers.ranges() {
                uids.insert_range(view.uid(mailbox, *first)?, view.uid(mailbox, *end)?);
            }
            Some(uids)
        };
        self.read(look).await.flatten()
    }
}

struct Listed {
    number: u32,
    uid: u32,
    bytes: Option<u64>,
}

struct Session<'s> {
    access: &'s Access,
    connection: Connection,
    server: Server,
    maildrop: Maildrop,
}

/// What the machine cannot go on without.
enum Need {
    Input,
    ListAll(Listing),
    ListOne(Listing, u32),
    Retrieve { number: u32, top_lines: Option<u64> },
    Delete(u32),
    Commit,
    Close,
}

impl Session<'_> {
    async fn run(&mut self) {
        match self.go_on().await {
            Ok(()) => {}
            Err(error) => match farewell(&error) {
                Some(text) => self.server.close(text, &mut self.connection.out),
                None => return,
            },
        }
        // The client may be gone already.
        let _ = self.connection.close().await;
    }

    async fn go_on(&mut self) -> io::Result<()> {
        loop {
            let (input, out) = self.connection.input_and_out();
            let (taken, event) = self.server.next(input, out);
            let need = match event {
                Event::NeedInput => Need::Input,
                Event::ListAll(listing) => Need::ListAll(listing),
                Event::ListOne(listing, number) => Need::ListOne(listing, number),
                Event::Retrieve { number, top_lines } => Need::Retrieve { number, top_lines },
                Event::Delete(number) => Need::Delete(number),
                Event::Commit => Need::Commit,
                Event::Close => Need::Close,
                Event::Login { .. }
                | Event::Authenticate { .. }
                | Event::Response(_)
                | Event::StartTls => unreachable!("the maildrop is open"),
            };
            self.connection.consume(taken);
            match need {
                Need::Input => self.read().await?,
                // What a command needs while it is carried out, an idle session does not pay for.
                Need::ListAll(listing) => Box::pin(self.list_all(listing)).await?,
                Need::ListOne(listing, number) => Box::pin(self.list_one(listing, number)).await,
                Need::Retrieve { number, top_lines } => {
                    Box::pin(self.retrieve(number, top_lines)).await?;
                }
                Need::Delete(number) => Box::pin(self.delete(number)).await,
                Need::Commit => Box::pin(self.commit()).await,
                Need::Close => return Ok(()),
            }
            if self.connection.out.len() >= OUT_BYTES {
                self.connection.flush().await?;
            }
            if self.connection.has_input() {
                // Whoever sends a thousand commands at once takes turns with others.
                task::yield_now().await;
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.connection.flush().await?;
        let timeout = self.access.config().access.idle_timeout;
        self.connection.read(timeout, || self.access.is_draining()).await
    }

    async fn list_one(&mut self, listing: Listing, number: u32) {
        let message = self.maildrop.message(number).await;
        let out = &mut self.connection.out;
        match (message, listing) {
            (Some((_, bytes)), Listing::Sizes) => self.server.answer_size(bytes, out),
            (Some((uid, _)), Listing::UniqueIds) => {
                let unique_id = unique_id(self.maildrop.uid_validity, uid);
                self.server.answer_unique_id(&unique_id, out);
            }
            (None, _) => self.server.refuse(GONE, out),
        }
    }

    async fn list_all(&mut self, listing: Listing) -> io::Result<()> {
        let deleted = self.server.deleted().expect("the maildrop is open").clone();
        let mut next = 1;
        while let Some((listed, after)) = self.maildrop.list_from(next, &deleted).await {
            for Listed { number, uid, bytes } in listed {
                let bytes = match bytes {
                    Some(bytes) => Some(bytes),
                    None => self.maildrop.bytes_of_gone(uid).await,
                };
                // One that cannot be had any more is not told of.
                let Some(bytes) = bytes else { continue };
                let out = &mut self.connection.out;
                match listing {
                    Listing::Sizes => server::write_size(number, bytes, out),
                    Listing::UniqueIds => {
                        let unique_id = unique_id(self.maildrop.uid_validity, uid);
                        server::write_unique_id(number, &unique_id, out);
                    }
                }
            }
            if after == 0 {
                break;
            }
            next = after;
            self.connection.send(&[]).await?;
            task::yield_now().await;
        }
        server::end_list(&mut self.connection.out);
        Ok(())
    }

    /// Sends a message, or its top: piece by piece, as fast as the client takes them.
    async fn retrieve(&mut self, number: u32, top_lines: Option<u64>) -> io::Result<()> {
        let Some((uid, bytes)) = self.maildrop.message(number).await else {
            self.server.refuse(GONE, &mut self.connection.out);
            return Ok(());
        };
        let Some(content) = self.maildrop.store.content(self.maildrop.inbox, uid).await else {
            self.server.refuse(GONE, &mut self.connection.out);
            return Ok(());
        };
        let mut piece = match content.piece(0).await {
            Ok(piece) => piece,
            Err(_) => {
                self.server.refuse(UNREADABLE, &mut self.connection.out);
                return Ok(());
            }
        };
        self.access.metrics().access.pop3_retrieved.add(1);
        self.server.begin_content(bytes, &mut self.connection.out);
        let mut writer = server::content_writer(LeadingDot::Possible, top_lines);
        let mut at = 0;
        while let Some(octets) = &piece {
            at += octets.len() as u32;
            match writer.pass(octets) {
                // Large ones are not copied; several small ones share a send.
                Some(octets) if octets.len() >= OUT_BYTES / 4 => {
                    self.connection.send(octets).await?;
                }
                Some(octets) => self.connection.out.extend_from_slice(octets),
                None => {
                    let progress = writer.write(octets, &mut self.connection.out);
                    if progress == Progress::Enough {
                        break;
                    }
                }
            }
            if self.connection.out.len() >= OUT_BYTES {
                self.connection.send(&[]).await?;
            }
            // A client must not take a part of a message for the whole: without its end the
            // connection breaks.
            let next = content.piece(at).await;
            piece = next.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        }
        writer.finish(&mut self.connection.out);
        Ok(())
    }

    async fn delete(&mut self, number: u32) {
        let message = self.maildrop.message(number).await;
        let out = &mut self.connection.out;
        match message {
            Some((_, bytes)) => self.server.answer_deleted(bytes, out),
            None => self.server.refuse(GONE, out),
        }
    }

    /// Deletes what is marked, all at once.
    async fn commit(&mut self) {
        let deleted = self.server.deleted().expect("the maildrop is open").clone();
        let committed = if deleted.is_empty() {
            Ok(())
        } else {
            match self.maildrop.uids_of(&deleted).await {
                Some(uids) => {
                    let Maildrop { store, inbox, .. } = &self.maildrop;
                    match store.expunge(*inbox, Expunging::All(&uids)).await {
                        Ok(expunged) => {
                            let numbers = &self.access.metrics().access;
                            numbers.pop3_deleted.add(expunged.count());
                            Ok(())
                        }
                        Err(_) => Err(NOT_DELETED),
                    }
                }
                None => Err(NOT_DELETED),
            }
        };
        self.server.answer_quit(committed, &mut self.connection.out);
    }
}

/// The same for a message for as long as its mailbox lives, and never for another one.
fn unique_id(uid_validity: u32, uid: u32) -> String {
    format!("{uid_validity}.{uid}")
}

/// Errors of one session before it is closed.
const ERRORS_MAX: u32 = 10;
/// What is gathered before it is sent.
const OUT_BYTES: usize = 64 * 1024;
/// Messages listed before others get a turn.
const LISTED_AT_ONCE: u32 = 1024;
const GONE: &str = "The message is gone";
const UNREADABLE: &str = "[SYS/PERM] The message cannot be read";
const NOT_DELETED: &str = "[SYS/TEMP] Nothing was deleted, try again later";
