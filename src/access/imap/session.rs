//! The authenticated session: what comes is cut into commands, and each is carried out in turn.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::append::Upload;
use super::selected::{Enabled, Expunges, Selected};
use super::wire::Wire;
use super::{Shared, answer};
use crate::access::{Access, Connection, LOGGED_OUT, NotOpened, SHUTTING_DOWN};
use crate::limits::IMAP_FAULTS_MAX;
use crate::mail::Account;
use crate::mailbox::codec::AccountId;
use crate::mailbox::{Mailbox, Store};
use crate::proto::imap::append::{Append, NewMessage};
use crate::proto::imap::command::{Command, Tag};
use crate::proto::imap::mailbox::NameForm;
use crate::proto::imap::reader::{Event, Reader};
use crate::proto::imap::response::{
    Code, Condition, PlainCode, write_continuation, write_tagged, write_untagged,
};
use crate::runtime::{sync, task};

/// Serves a client that has logged in, on the shard of its account, from the answer to its login
/// on.
pub async fn serve(access: Access, mut connection: Connection, account: Arc<Account>, tag: Tag) {
    let shared = access.inner.terms().imap.clone();
    let id = AccountId(account.id);
    let opened = access.open(&mut connection, account);
    let out = &mut connection.out;
    let store = match opened {
        Ok(store) => store,
        Err(refusal) => {
            let (code, text) = match refusal {
                NotOpened::TooManySessions => {
                    (PlainCode::Limit, "The account has as many sessions as it may")
                }
                NotOpened::NotHere => (PlainCode::Unavailable, "Mailboxes cannot be had"),
                NotOpened::LoggedOut => (PlainCode::AuthenticationFailed, LOGGED_OUT),
            };
            write_tagged(&tag, Condition::No, Some(&Code::Plain(code)), text, out);
            // Another account would be on another shard: the client comes back for it.
            write_untagged(Condition::Bye, None, "Closing", out);
            // It may be gone already.
            let _ = connection.close().await;
            return;
        }
    };
    let code = Code::Capability(&shared.capabilities);
    write_tagged(&tag, Condition::Ok, Some(&code), "Logged in", out);
    Session::new(access, shared, store, id, connection).run().await;
}

/// One client that has logged in.
pub struct Session {
    access: Access,
    pub shared: Rc<Shared>,
    pub store: Store,
    pub account: AccountId,
    pub wire: Wire,
    pub reader: Reader,
    pub selected: Option<Box<Selected>>,
    pub enabled: Enabled,
    /// The APPEND under way.
    pub upload: Option<Box<Upload>>,
    /// The IDLE under way.
    idle: Option<Tag>,
    /// Commands in a row that made no sense.
    fault_count: u32,
}

/// How a session ends.
#[derive(Debug)]
pub enum Ending {
    /// The connection is good for nothing any more.
    Broken,
    /// All was said.
    Over,
    /// The client is told why.
    Bye(&'static str),
}

impl From<io::Error> for Ending {
    fn from(_: io::Error) -> Self {
        Ending::Broken
    }
}

/// What the session is to do next.
enum Step {
    Input,
    Command {
        tag: Tag,
        command: Command,
    },
    Append(Append),
    AppendNext(NewMessage),
    /// The draft of the message has no room.
    Room,
    AppendEnd,
    Done,
    Refused,
}

/// Why a wait is over.
enum Woken {
    Read(io::Result<()>),
    Changed,
}

impl Session {
    fn new(
        access: Access,
        shared: Rc<Shared>,
        store: Store,
        account: AccountId,
        connection: Connection,
    ) -> Session {
        let mut reader = Reader::default();
        reader.on_authenticated();
        Session {
            access,
            shared,
            store,
            account,
            wire: Wire::new(connection),
            reader,
            selected: None,
            enabled: Enabled::default(),
            upload: None,
            idle: None,
            fault_count: 0,
        }
    }

    /// Serves the client until it leaves, goes too far, is silent too long, or the shard drains.
    async fn run(mut self) {
        let Err(ending) = self.serve().await;
        match ending {
            Ending::Broken => return,
            Ending::Over => {}
            Ending::Bye(text) => write_untagged(Condition::Bye, None, text, self.wire.out()),
        }
        // The client may be gone already.
        let _ = self.wire.close().await;
    }

    async fn serve(&mut self) -> Result<Infallible, Ending> {
        loop {
            // What a command needs while it is carried out, an idle session does not pay for.
            match self.step() {
                Step::Input => self.wait().await?,
                Step::Command { tag, command } => {
                    self.fault_count = 0;
                    Box::pin(self.on_command(tag, command)).await?;
                }
                Step::Append(append) => Box::pin(self.on_append(append)).await?,
                Step::AppendNext(message) => Box::pin(self.on_append_next(message)).await?,
                Step::Room => Box::pin(self.make_room()).await,
                Step::AppendEnd => Box::pin(self.on_append_end()).await?,
                Step::Done => {
                    let tag = self.idle.take().expect("DONE ends an IDLE");
                    self.finish(&tag, Expunges::Told, None, "Idle completed").await?;
                }
                Step::Refused => {
                    (self.idle, self.upload) = (None, None);
                    self.fault_count += 1;
                    if self.fault_count >= IMAP_FAULTS_MAX {
                        return Err(Ending::Bye("Too many commands that make no sense"));
                    }
                }
            }
            self.wire.flush_if_long().await?;
            if self.wire.has_input() {
                // Whoever sends a thousand commands at once takes turns with others.
                task::yield_now().await;
            }
        }
    }

    /// Takes what has come up to something that the reader does not do by itself.
    fn step(&mut self) -> Step {
        loop {
            let (input, out) = self.wire.input_and_out();
            let (taken, event) = self.reader.next(input, out);
            let step = match event {
                Event::NeedInput => Some(Step::Input),
                Event::Command { tag, command } => Some(Step::Command { tag, command }),
                Event::Append(append) => Some(Step::Append(append)),
                Event::AppendNext(message) => Some(Step::AppendNext(message)),
                Event::Content(octets) => {
                    let upload = self.upload.as_mut().expect("content belongs to an APPEND");
                    upload.take(octets).then_some(Step::Room)
                }
                Event::AppendEnd => Some(Step::AppendEnd),
                Event::Done => Some(Step::Done),
                Event::Response(_) => unreachable!("nothing was asked"),
                Event::Refused => Some(Step::Refused),
            };
            self.wire.consume(taken);
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// Sends what there is, and waits for more to do.
    async fn wait(&mut self) -> Result<(), Ending> {
        let mut waited = Duration::ZERO;
        let silence_max = self.access.config().access.idle_timeout;
        loop {
            self.wire.flush().await?;
            let left = silence_max.saturating_sub(waited);
            let wait_max = match self.idle {
                Some(_) => left.min(KEEPALIVE_PERIOD),
                None => left,
            };
            match self.read(wait_max).await {
                Woken::Read(Ok(())) => return Ok(()),
                Woken::Changed => self.tell(Expunges::Told).await?,
                Woken::Read(Err(error)) => match error.kind() {
                    io::ErrorKind::Interrupted => return Err(Ending::Bye(SHUTTING_DOWN)),
                    io::ErrorKind::PermissionDenied => return Err(Ending::Bye(LOGGED_OUT)),
                    io::ErrorKind::TimedOut => {
                        waited += wait_max;
                        if waited >= silence_max {
                            return Err(Ending::Bye("Nothing was said for too long"));
                        }
                        // Whatever stands between us takes a silent connection for a dead one.
                        let text = "Still here";
                        write_untagged(Condition::Ok, None, text, self.wire.out());
                    }
                    _ => return Err(Ending::Broken),
                },
            }
        }
    }

    /// Waits for octets, or in IDLE for a change to the mailbox.
    async fn read(&mut self, wait_max: Duration) -> Woken {
        let may_stop = self.reader.is_between_commands() || self.idle.is_some();
        let access = &self.access;
        let read = self.wire.read(wait_max, || may_stop && access.is_draining());
        match (&self.idle, &self.selected) {
            (Some(_), Some(selected)) => {
                let changed = async {
                    selected.watch.changed().await;
                    Woken::Changed
                };
                sync::or(async { Woken::Read(read.await) }, changed).await
            }
            _ => Woken::Read(read.await),
        }
    }

    async fn on_command(&mut self, tag: Tag, command: Command) -> Result<(), Ending> {
        if command.needs_mailbox() && self.selected.is_none() {
            self.refuse(&tag, Condition::Bad, None, "No mailbox is selected");
            return Ok(());
        }
        match command {
            Command::Capability => {
                let out = self.wire.out();
                out.extend_from_slice(b"* CAPABILITY ");
                out.extend_from_slice(self.shared.capabilities.as_bytes());
                out.extend_from_slice(b"\r\n");
                self.finish(&tag, Expunges::Told, None, "Capability completed").await
            }
            Command::Noop => self.finish(&tag, Expunges::Told, None, "NOOP completed").await,
            Command::Check => self.finish(&tag, Expunges::Told, None, "Check completed").await,
            Command::Logout => {
                let out = self.wire.out();
                write_untagged(Condition::Bye, None, "Logging out", out);
                write_tagged(&tag, Condition::Ok, None, "Logout completed", out);
                Err(Ending::Over)
            }
            Command::StartTls | Command::Authenticate { .. } | Command::Login { .. } => {
                self.refuse(&tag, Condition::Bad, None, "Already logged in");
                Ok(())
            }
            Command::Id(_) => {
                self.wire.out().extend_from_slice(answer::ID);
                self.finish(&tag, Expunges::Told, None, "ID completed").await
            }
            Command::Enable(capabilities) => self.on_enable(&tag, &capabilities).await,
            Command::Namespace => {
                self.wire.out().extend_from_slice(b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n");
                self.finish(&tag, Expunges::Told, None, "Namespace completed").await
            }
            Command::Idle => {
                write_continuation("idling", self.wire.out());
                self.reader.expect_done(tag.clone());
                self.idle = Some(tag);
                self.tell(Expunges::Told).await
            }
            Command::Select(select) => self.on_select(&tag, select).await,
            Command::Close => self.on_close(&tag).await,
            Command::Unselect => {
                self.selected = None;
                self.finish(&tag, Expunges::Told, None, "Unselect completed").await
            }
            Command::Create { mailbox, special_uses } => {
                self.on_create(&tag, &mailbox, special_uses.as_deref()).await
            }
            Command::Delete(mailbox) => self.on_delete(&tag, &mailbox).await,
            Command::Rename { from, to } => self.on_rename(&tag, &from, &to).await,
            Command::Subscribe(mailbox) => self.on_subscribe(&tag, &mailbox, true).await,
            Command::Unsubscribe(mailbox) => self.on_subscribe(&tag, &mailbox, false).await,
            Command::List(list) => self.on_list(&tag, &list).await,
            Command::Lsub { reference, pattern } => self.on_lsub(&tag, &reference, &pattern).await,
            Command::Status { mailbox, items } => self.on_status(&tag, &mailbox, &items).await,
            Command::Expunge => self.on_expunge(&tag, None).await,
            Command::UidExpunge(messages) => self.on_expunge(&tag, Some(&messages)).await,
            Command::Store(store) => self.on_store(&tag, &store).await,
            Command::Copy { numbering, messages, mailbox } => {
                self.on_copy(&tag, numbering, &messages, &mailbox).await
            }
            Command::Move { numbering, messages, mailbox } => {
                self.on_move(&tag, numbering, &messages, &mailbox).await
            }
            Command::GetQuota { root } => self.on_get_quota(&tag, &root).await,
            Command::GetQuotaRoot(mailbox) => self.on_get_quota_root(&tag, &mailbox).await,
            Command::Fetch(fetch) => self.on_fetch(&tag, &fetch).await,
            Command::Search(search) => self.on_search(&tag, &search).await,
            Command::Sort(sort) => self.on_sort(&tag, &sort).await,
            Command::Thread(thread) => self.on_thread(&tag, &thread).await,
            Command::CompressDeflate => self.on_compress(&tag).await,
        }
    }

    async fn on_enable(&mut self, tag: &Tag, capabilities: &[Box<str>]) -> Result<(), Ending> {
        let mut said = String::from("* ENABLED");
        for capability in capabilities {
            let known = match capability.to_ascii_uppercase().as_str() {
                "CONDSTORE" => {
                    self.enable_condstore().await?;
                    " CONDSTORE"
                }
                "QRESYNC" => {
                    self.enable_condstore().await?;
                    self.enabled.qresync = true;
                    " QRESYNC"
                }
                "UTF8=ACCEPT" => {
                    self.enabled.utf8 = true;
                    self.reader.on_utf8();
                    " UTF8=ACCEPT"
                }
                "IMAP4REV2" => {
                    self.enabled.rev2 = true;
                    self.reader.on_utf8();
                    " IMAP4rev2"
                }
                _ => continue,
            };
            said.push_str(known);
        }
        said.push_str("\r\n");
        self.wire.out().extend_from_slice(said.as_bytes());
        self.finish(tag, Expunges::Told, None, "Enabled").await
    }

    /// The client has shown that it knows of mod-sequences: FETCH responses have them from now on
    /// (RFC 7162 §3.1.2).
    pub async fn enable_condstore(&mut self) -> Result<(), Ending> {
        if !self.enabled.condstore {
            self.enabled.condstore = true;
            if self.selected.is_some() {
                self.look(|_, mailbox, out| {
                    let highest = Code::HighestModSeq(mailbox.highest_modseq.max(1));
                    write_untagged(Condition::Ok, Some(&highest), "Highest", out);
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Compresses both ways from here on (RFC 4978).
    async fn on_compress(&mut self, tag: &Tag) -> Result<(), Ending> {
        if self.wire.is_compressed() {
            let code = Some(PlainCode::CompressionActive);
            self.refuse(tag, Condition::No, code, "Both ways are compressed already");
            return Ok(());
        }
        write_tagged(tag, Condition::Ok, None, "Compression begins", self.wire.out());
        self.wire.flush().await?;
        self.wire.compress();
        Ok(())
    }

    /// What `look` finds in the selected mailbox, in which the view is up to date, given out once
    /// it is durable. Nothing of what `look` writes may be sent if this fails.
    pub async fn look<T>(
        &mut self,
        look: impl FnOnce(&mut Selected, &Mailbox, &mut Vec<u8>) -> T,
    ) -> Result<T, Ending> {
        let selected = self.selected.as_mut().expect("a mailbox is selected");
        let out = self.wire.out();
        let found = self.store.read_mailbox(selected.id, |mailbox| {
            selected.sync();
            look(selected, mailbox, out)
        });
        found.await.ok_or(MAILBOX_IS_GONE)
    }

    /// Tells of what has happened to the selected mailbox, if one is.
    pub async fn tell(&mut self, expunges: Expunges) -> Result<(), Ending> {
        let enabled = self.enabled;
        while self.selected.is_some() {
            let tell = |selected: &mut Selected, mailbox: &Mailbox, out: &mut Vec<u8>| {
                selected.write_updates(mailbox, expunges, enabled, out)
            };
            if !self.look(tell).await? {
                break;
            }
            self.wire.flush_if_long().await?;
            task::yield_now().await;
        }
        Ok(())
    }

    /// Tells of what has happened, and that the command was carried out.
    pub async fn finish(
        &mut self,
        tag: &Tag,
        expunges: Expunges,
        code: Option<&Code<'_>>,
        text: &str,
    ) -> Result<(), Ending> {
        self.finish_as(tag, expunges, (Condition::Ok, code, text)).await
    }

    /// Tells of what has happened, and what became of the command.
    pub async fn finish_as(
        &mut self,
        tag: &Tag,
        expunges: Expunges,
        (condition, code, text): (Condition, Option<&Code<'_>>, &str),
    ) -> Result<(), Ending> {
        self.tell(expunges).await?;
        write_tagged(tag, condition, code, text, self.wire.out());
        Ok(())
    }

    /// Says that the command was not carried out.
    pub fn refuse(&mut self, tag: &Tag, condition: Condition, code: Option<PlainCode>, text: &str) {
        let code = code.map(Code::Plain);
        write_tagged(tag, condition, code.as_ref(), text, self.wire.out());
    }

    pub fn name_form(&self) -> NameForm {
        let is_utf8 = self.enabled.utf8 || self.enabled.rev2;
        if is_utf8 { NameForm::Utf8 } else { NameForm::ModifiedUtf7 }
    }
}

/// Nothing that the client could do with it has a meaning any more.
pub const MAILBOX_IS_GONE: Ending = Ending::Bye("The selected mailbox was deleted");
/// Between signs of life to a client that idles.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(120);
