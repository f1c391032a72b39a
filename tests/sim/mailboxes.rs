//! Mailboxes over a disk that fails: the store, its journal, checkpoints and compaction.
//!
//! A few clients have two mailboxes each and do one thing after the other; their records share
//! frames. A run is a few lives of one store. After each, a mailbox is what its client was last
//! answered, or that with the one thing it was not answered, and never less than somebody saw.
//! `RINGPOST_SIM_MAILBOX_SEED` runs one seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use ringpost_sim::Bug;
use ringpost_sim::disk::Disk;
use ringpost_sim::fsck;
use ringpost_sim::journal::core::Start;
use ringpost_sim::journal::format::SEGMENT_HEADER_BYTES;
use ringpost_sim::journal::recovery::{Ground, RecoverError, Recovery, recover};
use ringpost_sim::journal::tap::{JournalAllotment, Tap};
use ringpost_sim::journal::{Journal, ReadError, Replay, Replayed, kind};
use ringpost_sim::limits::FRAME_BYTES_MAX;
use ringpost_sim::mailbox::codec::{DeliveryKey, MailboxId, SpecialUses};
use ringpost_sim::mailbox::{
    ContentError, Delivered, Delivery, Expunging, InternalDate, Mailbox, Partition, Recovered,
    Refusal, Store, Target,
};
use ringpost_sim::proto::imap::flag::{Flags, SystemFlags};
use ringpost_sim::proto::imap::mailbox::MailboxName;
use ringpost_sim::proto::imap::set::NumberSet;
use ringpost_sim::proto::imap::store::FlagChange;
use ringpost_sim::rng::Rng;
use ringpost_sim::runtime::log_ring::Device;
use ringpost_sim::runtime::{executor, task, timer};

use crate::process::STORE;
use crate::truth::{NOISE_STARTS, Payload, ensure};
use crate::{attempt_with, caught_by, each_seed, from_env};

mod rot;

type Checked = Result<(), String>;

/// What outlives the processes of a run.
struct World {
    bug: Bug,
    device: Rc<Device>,
    allotment: Rc<JournalAllotment>,
    tap: Rc<Tap>,
    undelete: Duration,
    clients: Vec<RefCell<Client>>,
    /// The highest UIDVALIDITY that anybody was told.
    uid_validity_told: Cell<u32>,
    next_mark: Cell<u64>,
    /// The partition as it was at a clean stop.
    stopped: RefCell<Option<Picture>>,
    is_stopping: Cell<bool>,
    violation: RefCell<Option<String>>,
    counts: RefCell<Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Counts {
    answered: u64,
    refused: u64,
    /// Things that were done though nobody was answered.
    unanswered: u64,
    repeats: u64,
    read: u64,
}

/// What a client knows of its account.
struct Client {
    name: String,
    has_account: bool,
    folders: Folders,
    /// What it has not been answered yet.
    pending: Option<Wish>,
    /// Somebody saw it done.
    is_seen: bool,
    /// A delivery that was not answered, to be made again.
    again: Option<Wish>,
}

/// INBOX, and another that comes and goes.
type Folders = [Option<Folder>; 2];

#[derive(Clone, Debug, PartialEq)]
struct Folder {
    name: &'static str,
    uid_validity: u32,
    uid_next: u32,
    messages: BTreeMap<u32, Message>,
}

#[derive(Clone, Debug, PartialEq)]
struct Message {
    mark: u64,
    bytes: u32,
    flags: u8,
    keywords: BTreeSet<&'static str>,
}

#[derive(Clone, Debug)]
enum Wish {
    Account,
    Deliver { mark: u64, to: Vec<usize>, flags: u8, keyword: Option<&'static str>, key: u128 },
    Flags { folder: usize, uids: Vec<u32>, change: FlagChange, flags: u8, keyword: &'static str },
    Expunge { folder: usize, uids: Vec<u32> },
    Copy { from: usize, to: usize, uids: Vec<u32>, is_move: bool },
    Create { name: &'static str },
    Delete,
    Rename { name: &'static str },
}

/// Every mailbox as the index has it.
type Picture = Vec<(MailboxId, Box<str>, u32, u32, u64, Vec<Seen>, NumberSet)>;
/// UID, mod-sequence, flags, keywords, octets.
type Seen = (u32, u64, u8, u64, u32);

fn picture(partition: &Partition) -> Picture {
    let mailboxes = partition.mailbox_ids().filter_map(|id| partition.mailbox(id));
    let picture = mailboxes.map(|mailbox| {
        let status = mailbox.status();
        let entries = mailbox.entries(0..u32::MAX);
        let seen = entries.map(|it| (it.uid, it.modseq, it.flags.0, it.keywords, it.bytes));
        (
            mailbox.id,
            mailbox.name.clone(),
            status.uid_validity,
            status.uid_next,
            status.highest_modseq,
            seen.collect(),
            mailbox.vanished_since(0),
        )
    });
    picture.collect()
}

impl Folder {
    fn new(name: &'static str, uid_validity: u32) -> Self {
        Folder { name, uid_validity, uid_next: 1, messages: BTreeMap::new() }
    }

    fn add(&mut self, message: Message) {
        self.messages.insert(self.uid_next, message);
        self.uid_next += 1;
    }

    /// Whether the index has the same.
    fn agrees(&self, mailbox: &Mailbox) -> Checked {
        let status = mailbox.status();
        ensure(*mailbox.name == *self.name, || format!("{} is {}", self.name, mailbox.name))?;
        ensure(
            status.uid_validity == self.uid_validity && status.uid_next == self.uid_next,
            || format!("{status:?} is not {self:?}"),
        )?;
        let entries = mailbox.entries(0..u32::MAX);
        let found = entries.map(|it| (it.uid, it.bytes, it.flags.0, it.keywords));
        let found: Vec<(u32, u32, u8, BTreeSet<Box<str>>)> = found
            .map(|(uid, bytes, flags, bits)| {
                (uid, bytes, flags, mailbox.keyword_names(bits).into_iter().collect())
            })
            .collect();
        let expected = self.messages.iter().map(|(uid, it)| {
            let keywords: BTreeSet<Box<str>> = it.keywords.iter().map(|it| (*it).into()).collect();
            (*uid, it.bytes, it.flags, keywords)
        });
        let expected: Vec<_> = expected.collect();
        ensure(found == expected, || format!("{}: {found:?} is not {expected:?}", self.name))
    }
}

/// What a wish makes of the folders. `uid_validity` is that of one that it makes.
fn after(wish: &Wish, before: &Folders, uid_validity: u32) -> Folders {
    let mut folders = before.clone();
    match wish {
        Wish::Account => folders[0] = Some(Folder::new("INBOX", uid_validity)),
        Wish::Deliver { mark, to, flags, keyword, .. } => {
            for target in to {
                if let Some(folder) = &mut folders[*target] {
                    let bytes = (prefix(*mark, *target).len() + content(*mark).len()) as u32;
                    let keywords = keyword.iter().copied().collect();
                    folder.add(Message { mark: *mark, bytes, flags: *flags, keywords });
                }
            }
        }
        Wish::Flags { folder, uids, change, flags, keyword } => {
            let messages = folders[*folder].iter_mut().flat_map(|it| &mut it.messages);
            for (_, message) in messages.filter(|(uid, _)| uids.contains(uid)) {
                match change {
                    FlagChange::Replace => {
                        message.flags = *flags;
                        message.keywords = BTreeSet::from([*keyword]);
                    }
                    FlagChange::Add => {
                        message.flags |= flags;
                        message.keywords.insert(keyword);
                    }
                    FlagChange::Remove => {
                        message.flags &= !flags;
                        message.keywords.remove(keyword);
                    }
                }
            }
        }
        Wish::Expunge { folder, uids } => {
            if let Some(folder) = &mut folders[*folder] {
                folder.messages.retain(|uid, _| !uids.contains(uid));
            }
        }
        Wish::Copy { from, to, uids, is_move } => {
            let source = before[*from].iter().flat_map(|folder| &folder.messages);
            let copied = source.filter(|(uid, _)| uids.contains(uid));
            for (_, message) in copied {
                if let Some(target) = &mut folders[*to] {
                    target.add(message.clone());
                }
            }
            if let Some(source) = folders[*from].as_mut().filter(|_| *is_move) {
                source.messages.retain(|uid, _| !uids.contains(uid));
            }
        }
        Wish::Create { name } => folders[1] = Some(Folder::new(name, uid_validity)),
        Wish::Delete => folders[1] = None,
        Wish::Rename { name } => folders[1].iter_mut().for_each(|folder| folder.name = name),
    }
    folders
}

/// Mostly small, at times too long for one record.
fn content(mark: u64) -> Vec<u8> {
    let mut rng = Rng::new(mark);
    let (bytes_max, times) = match rng.below(20) {
        0 => (200_000, 4),
        1..5 => (60_000, 1),
        _ => (2_000, 1),
    };
    let payload = Payload { mark, at: rng.below(NOISE_STARTS), bytes: rng.below(bytes_max) };
    payload.whole().repeat(times)
}

fn prefix(mark: u64, target: usize) -> Vec<u8> {
    format!("X-Target: {target} {mark}\r\n").into_bytes()
}

fn named(name: &str) -> MailboxName {
    MailboxName::parse(name.as_bytes()).expect("a name")
}

fn set_of(uids: &[u32]) -> NumberSet {
    uids.iter().map(|uid| (*uid, *uid)).collect()
}

impl Client {
    /// Whether what recovery found is what this client knows.
    fn judge(&mut self, partition: &Partition, told: u32, counts: &mut Counts) -> Checked {
        let account = partition.find_account(&self.name);
        let names = account.and_then(|account| partition.account(account));
        let names: Vec<&str> =
            names.iter().flat_map(|it| it.mailboxes.keys()).map(|it| &**it).collect();
        let matches = |folders: &Folders| -> Checked {
            let expected = folders.iter().flatten().map(|folder| folder.name);
            let expected: BTreeSet<&str> = expected.collect();
            ensure(names.iter().copied().collect::<BTreeSet<_>>() == expected, || {
                format!("{}: mailboxes {names:?} are not {expected:?}", self.name)
            })?;
            for folder in folders.iter().flatten() {
                let mailbox = account.and_then(|it| partition.find_mailbox(it, folder.name));
                let mailbox = mailbox.ok_or_else(|| format!("no mailbox {}", folder.name))?;
                folder.agrees(mailbox)?;
            }
            Ok(())
        };
        let as_before = matches(&self.folders);
        let wish = self.pending.take();
        let is_seen = std::mem::take(&mut self.is_seen);
        if as_before.is_ok() && !is_seen {
            if let Some(wish @ Wish::Deliver { .. }) = wish {
                self.again = Some(wish);
            }
            return Ok(());
        }
        let Some(wish) = wish else { return as_before };
        // Of a mailbox that nobody was told of, only that its UIDVALIDITY is not an old one.
        let made = account.and_then(|account| {
            let name = if let Wish::Create { name } = wish { name } else { "INBOX" };
            partition.find_mailbox(account, name)
        });
        let uid_validity = made.map_or(0, |mailbox| mailbox.uid_validity);
        let folders = after(&wish, &self.folders, uid_validity);
        matches(&folders).map_err(|violation| match as_before {
            Err(before) => format!("{}: {before}; nor {wish:?}: {violation}", self.name),
            Ok(()) => format!("{}: {wish:?} was seen and is gone", self.name),
        })?;
        if matches!(wish, Wish::Account | Wish::Create { .. }) {
            ensure(uid_validity > told, || format!("UIDVALIDITY {uid_validity} comes again"))?;
        }
        counts.unanswered += 1;
        self.has_account |= matches!(wish, Wish::Account);
        self.folders = folders;
        if let Wish::Deliver { .. } = wish {
            self.again = Some(wish);
        }
        Ok(())
    }

    /// What it wants next.
    fn wish(&self, next_mark: u64) -> Wish {
        let below = executor::below;
        let other = || ["other", "other/two", "elsewhere"][below(3)];
        if !self.has_account {
            return Wish::Account;
        }
        let folder = if self.folders[1].is_some() { below(2) } else { 0 };
        let known = self.folders[folder].iter().flat_map(|it| it.messages.keys().copied());
        let known: Vec<u32> = known.collect();
        let mut uids: Vec<u32> = known.iter().copied().filter(|_| executor::percent(40)).collect();
        // One that is not there, or not yet.
        uids.push(below(40) as u32 + 1);
        uids.sort_unstable();
        uids.dedup();
        let keyword = ["$Junk", "$NotJunk", "x"][below(3)];
        let flags = below(32) as u8;
        let change = [FlagChange::Replace, FlagChange::Add, FlagChange::Remove][below(3)];
        match below(20) {
            _ if known.len() > 14 => Wish::Expunge { folder, uids },
            0 if self.folders[1].is_some() => Wish::Delete,
            1 if self.folders[1].is_some() => Wish::Rename { name: other() },
            0..3 if self.folders[1].is_none() => Wish::Create { name: other() },
            3..6 => Wish::Expunge { folder, uids },
            6..9 if self.folders[1].is_some() => {
                Wish::Copy { from: folder, to: 1 - folder, uids, is_move: executor::percent(50) }
            }
            9..13 => Wish::Flags { folder, uids, change, flags, keyword },
            _ => {
                let both = self.folders[1].is_some() && executor::percent(30);
                let to = if both { vec![0, 1] } else { vec![folder] };
                let keyword = executor::percent(30).then_some(keyword);
                Wish::Deliver { mark: next_mark, to, flags, keyword, key: next_mark.into() }
            }
        }
    }
}

impl World {
    fn new(rng: &mut Rng, bug: Bug) -> Rc<World> {
        let device = Rc::new(Device::default());
        device.hides_read_errors.set(bug == Bug::HidesReadErrors);
        device.disk.borrow_mut().hides_read_errors = bug == Bug::HidesRecoveryErrors;
        let segment_bytes = SEGMENT_BYTES_MIN + rng.below(2) * 256 * 1024;
        for _ in 0..rng.between(2, 7) {
            device.disk.borrow_mut().add_slot(segment_bytes);
        }
        let clients = (0..rng.between(1, 4)).map(|number| {
            RefCell::new(Client {
                name: format!("client{number}@example.test"),
                has_account: false,
                folders: [None, None],
                pending: None,
                is_seen: false,
                again: None,
            })
        });
        Rc::new(World {
            bug,
            device,
            allotment: Rc::new(JournalAllotment {
                segment_bytes,
                slots_max: Cell::new(rng.between(9, 16)),
                is_full: Cell::new(false),
            }),
            tap: Tap::new(bug),
            undelete: Duration::from_secs(rng.below(20) as u64),
            clients: clients.collect(),
            uid_validity_told: Cell::new(0),
            next_mark: Cell::new(1),
            stopped: RefCell::default(),
            is_stopping: Cell::new(false),
            violation: RefCell::default(),
            counts: RefCell::default(),
        })
    }

    fn check(&self, checked: Checked) {
        if let Err(violation) = checked {
            self.violation.borrow_mut().get_or_insert(violation);
            executor::stop();
        }
    }

    /// Recovers, as often as it is disturbed, until what was found is durable.
    fn recover(&self) -> Result<(Ground, Recovered, Recovery), String> {
        loop {
            let mut disk = self.device.disk.borrow_mut();
            if executor::percent(3) {
                disk.reads_until_error = Some(executor::below(8));
            }
            let mut recovered = Recovered::default();
            let mut replay = Forgetful { bug: self.bug, recovered: &mut recovered };
            let (ground, recovery) = match recover(&STORE, &mut *disk, &mut replay) {
                Ok(recovered) => recovered,
                Err(RecoverError::Io(error)) if error.to_string().contains("told to fail") => {
                    continue;
                }
                Err(error) => return Err(format!("{error:?}")),
            };
            disk.reads_until_error = None;
            let is_sound = recovery.rot.is_empty()
                && recovery.bad_checkpoints == 0
                && recovered.malformed().is_empty();
            ensure(is_sound, || format!("damage where there is none: {recovery:?}"))?;
            // What is planted has to be caught without its help.
            if executor::percent(FSCK_PERCENT) && self.bug == Bug::None {
                agree(recovered.partition(), &mut disk)?;
            }
            for slot in 0..disk.slot_count() {
                if executor::percent(3) {
                    break;
                }
                disk.sync_all(slot);
            }
            if disk.is_synced() {
                return Ok((ground, recovered, recovery));
            }
            executor::with_rng(|rng| disk.lose_power(rng));
        }
    }

    /// Recovers, judges and starts a process.
    fn begin(self: &Rc<World>) -> Result<(Store, Journal), String> {
        let (ground, recovered, recovery) = self.recover()?;
        let partition = recovered.partition();
        let found = picture(partition);
        if let Some(stopped) = self.stopped.take() {
            ensure(stopped == found, || format!("{stopped:?} came back as {found:?}"))?;
        }
        for client in &self.clients {
            let mut counts = self.counts.borrow_mut();
            client.borrow_mut().judge(partition, self.uid_validity_told.get(), &mut counts)?;
        }
        let told = found.iter().map(|(_, _, uid_validity, ..)| *uid_validity).max();
        self.uid_validity_told.set(self.uid_validity_told.get().max(told.unwrap_or(0)));
        let (store, journal) = self.start(ground, recovered, &recovery)?;
        let mends = store.mended();
        ensure(mends.is_empty(), || format!("mended where nothing is broken: {mends:?}"))?;
        Ok((store, journal))
    }

    /// A process on what was recovered.
    fn start(
        &self,
        ground: Ground,
        recovered: Recovered,
        recovery: &Recovery,
    ) -> Result<(Store, Journal), String> {
        let slots = self.device.disk.borrow().slot_count();
        let slots_max = self.allotment.slots_max.get().max(slots);
        let start = Start { store: STORE, shard: 0, ground, slots_max };
        let (device, allotment) = (self.device.clone(), self.allotment.clone());
        let journal = Journal::start(device, allotment, start, self.tap.clone());
        let store = Store::start(journal.clone(), recovered, recovery, self.undelete);
        let store = store.map_err(|error| format!("{error:?}"))?;
        self.is_stopping.set(false);
        Ok((store, journal))
    }

    /// Lets the process go on for so long, or until it stops by itself: then this returns false.
    fn go_on(&self, ms: u64) -> Result<bool, String> {
        let end_us = executor::now_us() + ms * 1000;
        loop {
            executor::run_ready();
            self.violation.borrow().clone().map_or(Ok(()), Err)?;
            if executor::is_stopped() {
                return Ok(false);
            }
            let next_us = executor::next_timer_us().unwrap_or(end_us).min(end_us);
            executor::advance(next_us);
            if next_us == end_us {
                return Ok(true);
            }
        }
    }

    /// Lets every client be answered; false when the disk failed first.
    fn settle(&self) -> Result<bool, String> {
        self.is_stopping.set(true);
        let is_idle = || self.clients.iter().all(|client| client.borrow().pending.is_none());
        for _ in 0..STOP_ROUNDS {
            if is_idle() {
                return Ok(true);
            }
            if !self.go_on(50)? {
                return Ok(false);
            }
        }
        Err("clients are not answered".to_owned())
    }

    /// A clean stop; false when the disk failed first.
    fn stop(self: &Rc<World>, store: &Store) -> Result<bool, String> {
        if !self.settle()? {
            return Ok(false);
        }
        let is_closed = Rc::new(Cell::new(false));
        let (world, store, is_done) = (self.clone(), store.clone(), is_closed.clone());
        task::spawn(async move {
            store.close().await;
            let stopped = store.read(picture).await;
            world.stopped.replace(Some(stopped));
            is_done.set(true);
        });
        for _ in 0..STOP_ROUNDS {
            if is_closed.get() {
                return Ok(true);
            }
            if !self.go_on(50)? {
                return Ok(false);
            }
        }
        Err("the process does not come to its end".to_owned())
    }
}

/// Whether the independent reader finds the same in the same mailboxes, and nothing wrong.
fn agree(partition: &Partition, disk: &mut Disk) -> Checked {
    let report = fsck::check_mail(&STORE.0, 0, disk).map_err(|error| error.to_string())?;
    ensure(report.problems.is_empty(), || format!("fsck complains: {:?}", report.problems))?;
    let (found, expected) = (listed_by_fsck(&report), listed(&picture(partition)));
    ensure(found == expected, || format!("fsck finds {found:?}, recovery {expected:?}"))
}

/// Number, name, UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ, messages.
type Listed = (MailboxId, Box<str>, u32, u32, u64, Vec<Seen>);

fn listed(picture: &Picture) -> Vec<Listed> {
    let mailboxes = picture.iter().cloned();
    let listed = mailboxes.map(|(id, name, validity, next, modseq, seen, _)| {
        (id, name, validity, next, modseq, seen)
    });
    listed.collect()
}

fn listed_by_fsck(report: &fsck::Report<fsck::Mailbox>) -> Vec<Listed> {
    let listed = report.entries.iter().map(|it| {
        let messages = it.messages.iter();
        let seen = messages.map(|it| (it.uid, it.modseq, it.flags, it.keywords, it.bytes));
        let name = it.name.as_str().into();
        (MailboxId(it.id), name, it.uid_validity, it.uid_next, it.highest_modseq, seen.collect())
    });
    listed.collect()
}

/// What stands between recovery and the state, and forgets where that is planted.
struct Forgetful<'a> {
    bug: Bug,
    recovered: &'a mut Recovered,
}

impl Replay for Forgetful<'_> {
    fn visit(&mut self, record: Replayed<'_>) {
        let is_forgotten = match self.bug {
            Bug::ForgetsExpunged => record.kind == kind::EXPUNGE,
            Bug::ForgetsFlags => record.kind == kind::FLAGS,
            _ => false,
        };
        if !is_forgotten {
            self.recovered.visit(record);
        }
    }

    fn restart(&mut self) {
        self.recovered.restart();
    }
}

/// A client that does one thing after the other.
async fn work(world: Rc<World>, store: Store, number: usize) {
    let client = &world.clients[number];
    let pause_ms = [4, 30, 200][executor::below(3)];
    let checked = read_all(&store, client).await;
    world.check(checked);
    loop {
        timer::sleep(Duration::from_millis(executor::below(pause_ms) as u64)).await;
        if world.is_stopping.get() {
            return;
        }
        let again = client.borrow_mut().again.take();
        let is_repeat = again.is_some();
        let wish = again.unwrap_or_else(|| {
            let mark = world.next_mark.replace(world.next_mark.get() + 1);
            client.borrow().wish(mark)
        });
        let targets = match &wish {
            Wish::Deliver { to, .. } => to.clone(),
            _ => Vec::new(),
        };
        let has_targets = targets.iter().all(|it| client.borrow().folders[*it].is_some());
        if !has_targets {
            continue;
        }
        client.borrow_mut().pending = Some(wish.clone());
        let done = fulfil(&world, &store, client, &wish).await;
        on_done(&world, &mut client.borrow_mut(), wish, done, is_repeat);
        if executor::percent(20) {
            let checked = read_all(&store, &world.clients[number]).await;
            world.check(checked);
            world.counts.borrow_mut().read += 1;
        }
    }
}

/// The client knows what became of its wish.
fn on_done(
    world: &World,
    client: &mut Client,
    wish: Wish,
    done: Result<Done, Refusal>,
    is_repeat: bool,
) {
    client.is_seen = false;
    client.pending = None;
    let mut counts = world.counts.borrow_mut();
    match done {
        Ok(Done::As(folders)) => {
            counts.answered += 1;
            counts.repeats += u64::from(is_repeat);
            client.has_account |= matches!(wish, Wish::Account);
            client.folders = folders;
        }
        Ok(Done::Before) if is_repeat => counts.repeats += 1,
        Ok(Done::Before) => world.check(Err(format!("{wish:?} was never made before"))),
        Ok(Done::Wrong(violation)) => world.check(Err(violation)),
        Err(Refusal::NoSpace | Refusal::TooManyDrafts) => {
            counts.refused += 1;
            client.again = is_repeat.then_some(wish);
        }
        Err(Refusal::Exists) if matches!(wish, Wish::Rename { .. }) => {}
        Err(refusal) => world.check(Err(format!("{wish:?}: {refusal:?}"))),
    }
}

/// What a wish came to.
enum Done {
    As(Folders),
    /// The delivery was made before.
    Before,
    Wrong(String),
}

async fn fulfil(
    world: &World,
    store: &Store,
    client: &RefCell<Client>,
    wish: &Wish,
) -> Result<Done, Refusal> {
    let (name, before) = {
        let client = client.borrow();
        (client.name.clone(), client.folders.clone())
    };
    let ids = store.read(|partition| {
        let account = partition.find_account(&name);
        let find = |folder: &Option<Folder>| {
            let name = folder.as_ref()?.name;
            partition.find_mailbox(account?, name).map(|mailbox| mailbox.id)
        };
        (account, [find(&before[0]), find(&before[1])])
    });
    let (account, ids) = ids.await;
    let id = |folder: usize| ids[folder].ok_or(Refusal::NoSuchMailbox);
    let mut uid_validity = 0;
    match wish {
        Wish::Account => {
            let account = store.add_account(&name, None).await?;
            let inbox = store.read(|partition| {
                partition.find_mailbox(account, "INBOX").map(|inbox| inbox.uid_validity)
            });
            uid_validity = inbox.await.unwrap_or(0);
        }
        Wish::Deliver { mark, to, flags, keyword, key } => {
            let content = content(*mark);
            let mut deliveries = Vec::new();
            for target in to {
                let mut of_target = Flags { system: SystemFlags(*flags), keywords: Vec::new() };
                keyword.iter().for_each(|keyword| of_target.add_keyword(keyword));
                deliveries.push(Delivery {
                    to: Target::Mailbox(id(*target)?),
                    prefix: prefix(*mark, *target),
                    date: InternalDate::utc(1_000_000),
                    flags: of_target,
                    key: Some(DeliveryKey(key << 8 | *target as u128)),
                });
            }
            let mut draft = store.begin(content.len() as u64)?;
            let mut rest = content.as_slice();
            while !rest.is_empty() {
                let piece = rest.len().min(64 * 1024);
                let taken = draft.append(&rest[..piece]);
                rest = &rest[taken..];
                draft.room().await?;
            }
            let told = draft.commit(&deliveries).await?;
            let told = told.into_iter().collect::<Result<Vec<_>, _>>()?;
            if told.iter().all(|told| *told == Delivered::Before) {
                return Ok(Done::Before);
            }
            for (target, told) in to.iter().zip(told) {
                let expected = before[*target].as_ref().map(|folder| Delivered::As {
                    uid_validity: folder.uid_validity,
                    uid: folder.uid_next,
                });
                if Some(told) != expected {
                    return Ok(Done::Wrong(format!("{told:?} is not {expected:?}")));
                }
            }
        }
        Wish::Flags { folder, uids, change, flags, keyword } => {
            let mut flags = Flags { system: SystemFlags(*flags), keywords: Vec::new() };
            flags.add_keyword(keyword);
            store.store_flags(id(*folder)?, &set_of(uids), *change, &flags, None).await?;
        }
        Wish::Expunge { folder, uids } => {
            store.expunge(id(*folder)?, Expunging::All(&set_of(uids))).await?;
        }
        Wish::Copy { from, to, uids, is_move } => {
            let copied = store.copy(id(*from)?, id(*to)?, &set_of(uids), *is_move).await?;
            let first = before[*to].as_ref().map(|folder| folder.uid_next);
            if copied.target_uids.first().is_some_and(|uid| Some(uid) != first) {
                return Ok(Done::Wrong(format!("{copied:?} does not begin at {first:?}")));
            }
        }
        Wish::Create { name } => {
            let account = account.ok_or(Refusal::NoSuchAccount)?;
            let uses = SpecialUses::default();
            let mailbox = store.create_mailbox(account, &named(name), uses).await?;
            let made = store.read_mailbox(mailbox, |mailbox| mailbox.uid_validity);
            uid_validity = made.await.unwrap_or(0);
        }
        Wish::Delete => store.delete_mailbox(id(1)?).await?,
        Wish::Rename { name } => {
            let account = account.ok_or(Refusal::NoSuchAccount)?;
            let from = before[1].as_ref().map_or("", |folder| folder.name);
            store.rename_mailbox(account, &named(from), &named(name)).await?;
        }
    }
    if matches!(wish, Wish::Account | Wish::Create { .. }) {
        let told = world.uid_validity_told.get();
        if uid_validity <= told && world.clients.len() == 1 {
            return Ok(Done::Wrong(format!("UIDVALIDITY {uid_validity} comes after {told}")));
        }
        world.uid_validity_told.set(told.max(uid_validity));
    }
    Ok(Done::As(after(wish, &before, uid_validity)))
}

/// Mailboxes are what their client knows, and every message has its octets.
async fn read_all(store: &Store, client: &RefCell<Client>) -> Checked {
    let (name, folders) = {
        let client = client.borrow();
        (client.name.clone(), client.folders.clone())
    };
    for folder in folders.iter().flatten() {
        let find = |partition: &Partition| {
            let account = partition.find_account(&name)?;
            partition.find_mailbox(account, folder.name).map(|mailbox| mailbox.id)
        };
        let id = store.read(find).await.ok_or_else(|| format!("no {}", folder.name))?;
        let agrees = store.read_mailbox(id, |mailbox| folder.agrees(mailbox)).await;
        agrees.ok_or_else(|| format!("no {}", folder.name))??;
        for (uid, message) in &folder.messages {
            let octets = octets_of(store, id, *uid).await?;
            let octets = octets.ok_or_else(|| format!("{} {uid} cannot be read", folder.name))?;
            // A copy has the header fields of where it came first.
            let expected = content(message.mark);
            let is_whole = octets.len() == message.bytes as usize && octets.ends_with(&expected);
            ensure(is_whole, || format!("octets of {uid} in {} differ", folder.name))?;
        }
    }
    Ok(())
}

/// The octets of a message; `None` where they are no longer on disk. A read that fails is tried
/// again.
async fn octets_of(store: &Store, mailbox: MailboxId, uid: u32) -> Result<Option<Vec<u8>>, String> {
    let found = store.content(mailbox, uid).await;
    let found = found.ok_or_else(|| format!("no octets of {uid}"))?;
    let mut octets = Vec::new();
    loop {
        match found.piece(octets.len() as u32).await {
            Ok(Some(piece)) => octets.extend_from_slice(&piece),
            Ok(None) => return Ok(Some(octets)),
            Err(ContentError::Journal(ReadError::Io(_))) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// A session that looks at an INBOX whenever it is told of a change.
async fn look(world: Rc<World>, store: Store, number: usize) {
    let client = &world.clients[number];
    let name = client.borrow().name.clone();
    let find = |partition: &Partition| {
        let account = partition.find_account(&name)?;
        partition.find_mailbox(account, "INBOX").map(|mailbox| mailbox.id)
    };
    let inbox = loop {
        if let Some(inbox) = store.read(find).await {
            break inbox;
        }
        timer::sleep(Duration::from_millis(100)).await;
    };
    let watch = store.watch(inbox);
    loop {
        watch.changed().await;
        // What the client knows at the moment of the look.
        let found = store.read_mailbox(inbox, |mailbox| {
            let client = client.borrow();
            let wish = client.pending.as_ref();
            let done = wish.map(|wish| after(wish, &client.folders, 0));
            let agrees = |folders: &Folders| {
                folders[0].as_ref().is_some_and(|folder| folder.agrees(mailbox).is_ok())
            };
            (agrees(&client.folders), done.is_some_and(|done| agrees(&done)))
        });
        let Some((as_before, as_wished)) = found.await else { return };
        let mut client = client.borrow_mut();
        if !as_before && as_wished && client.pending.is_some() {
            client.is_seen = true;
        }
        let is_known = as_before || as_wished || !client.has_account;
        world.check(ensure(is_known, || format!("{}: INBOX is neither", client.name)));
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ran {
    digest: u64,
    stops: u64,
    checkpoints: u64,
    moved_bytes: u64,
    counts: Counts,
}

fn run(seed: u64, bug: Bug) -> Result<Ran, String> {
    executor::begin(seed ^ 0x3a11_b0c5);
    let rng = &mut Rng::new(seed);
    let world = World::new(rng, bug);
    let mut ran = Ran::default();
    let mut digest = DefaultHasher::new();
    for _ in 0..rng.between(3, 6) {
        let rarity = if rng.percent(25) { rng.between(50, 2_000) } else { 0 };
        world.device.failure_rarity.set(rarity);
        world.device.read_failure_rarity.set([0, 0, 5, 100][rng.below(4)]);
        world.allotment.is_full.set(rng.percent(10));
        let (store, journal) = world.begin()?;
        for number in 0..world.clients.len() {
            task::spawn(work(world.clone(), store.clone(), number));
            task::spawn(look(world.clone(), store.clone(), number));
        }
        let ms_max = if rng.percent(30) { 300 } else { 6_000 };
        world.go_on(rng.between(1, ms_max) as u64)?;
        if rng.percent(25) && !executor::is_stopped() {
            ran.stops += u64::from(world.stop(&store)?);
        }
        ran.checkpoints += journal.counters().checkpoints;
        ran.moved_bytes += journal.counters().moved_bytes;
        drop((store, journal));
        executor::kill();
        world.device.abandon();
        if rng.percent(50) {
            world.device.lose_power();
        }
        executor::advance(executor::now_us() + 1_000 + rng.below(5_000_000) as u64);
        (*world.counts.borrow(), executor::now_us()).hash(&mut digest);
    }
    // In the end everything is there and can be read.
    world.device.failure_rarity.set(0);
    world.device.read_failure_rarity.set(0);
    let (store, journal) = world.begin()?;
    let left = Rc::new(Cell::new(world.clients.len()));
    for number in 0..world.clients.len() {
        let (world, store, left) = (world.clone(), store.clone(), left.clone());
        task::spawn(async move {
            world.check(read_all(&store, &world.clients[number]).await);
            left.set(left.get() - 1);
        });
    }
    world.go_on(20_000)?;
    ensure(left.get() == 0, || "reading has no end".to_owned())?;
    drop((store, journal));
    executor::kill();
    ran.counts = *world.counts.borrow();
    ran.digest = digest.finish();
    Ok(ran)
}

fn attempt(seed: u64, bug: Bug) -> Result<Ran, String> {
    let ran = attempt_with(|| run(seed, bug));
    executor::forget();
    ran
}

fn check(seed: u64) -> Ran {
    attempt(seed, Bug::None).unwrap_or_else(|violation| {
        panic!(
            "seed {seed}: {violation}\n\
             RINGPOST_SIM_MAILBOX_SEED={seed} cargo test --test sim a_mailbox_is"
        )
    })
}

#[test]
fn a_mailbox_is_what_its_client_was_told() {
    if let Some(seed) = from_env("RINGPOST_SIM_MAILBOX_SEED") {
        println!("{:?}", check(seed));
        return;
    }
    let seeds = from_env("RINGPOST_SIM_SEEDS").unwrap_or(SEEDS);
    let [stops, checkpoints, moved, answered, refused, unanswered, repeats, read] =
        each_seed(seeds, |seed| {
            let Ran { stops, checkpoints, moved_bytes, counts, .. } = check(seed);
            let Counts { answered, refused, unanswered, repeats, read } = counts;
            let moved = moved_bytes / 1024;
            [stops, checkpoints, moved, answered, refused, unanswered, repeats, read]
        });
    println!(
        "{seeds} seeds: {stops} clean stops, {checkpoints} checkpoints, {moved} KiB moved; \
         {answered} wishes answered, {refused} refused, {unanswered} done without an answer; \
         {repeats} deliveries repeated, {read} looks"
    );
    assert!(answered >= 50 * seeds && read >= 5 * seeds);
    assert!(stops >= seeds / 4 && unanswered >= seeds / 10 && repeats >= seeds / 10);
    assert!(checkpoints >= seeds && moved > seeds, "{checkpoints} checkpoints, {moved} moved");
}

#[test]
fn the_same_seed_is_the_same_mail() {
    for seed in 0..3 {
        assert_eq!(check(seed), check(seed));
    }
}

fn caught(bug: Bug) {
    caught_by(attempt, bug, BUG_SEEDS);
}

#[test]
fn a_delivery_answered_before_it_is_durable_is_caught() {
    caught(Bug::ReportsEarly);
}

#[test]
fn a_checkpoint_of_mailboxes_that_is_stale_is_caught() {
    caught(Bug::StaleItems);
}

#[test]
fn an_expunged_message_that_comes_back_is_caught() {
    caught(Bug::ForgetsExpunged);
}

#[test]
fn flags_that_are_not_restored_are_caught() {
    caught(Bug::ForgetsFlags);
}

#[test]
fn a_failed_read_that_passes_for_content_is_caught() {
    caught(Bug::HidesReadErrors);
}

#[test]
fn a_failed_read_that_passes_for_a_record_is_caught() {
    caught(Bug::HidesRecoveryErrors);
}

/// A header and two frames.
const SEGMENT_BYTES_MIN: usize = SEGMENT_HEADER_BYTES + 2 * FRAME_BYTES_MAX;
const STOP_ROUNDS: usize = 2_000;
/// Chance that fsck looks at what a recovery has found.
const FSCK_PERCENT: usize = 25;
const SEEDS: u64 = 100;
/// Seeds within which every planted bug must show.
const BUG_SEEDS: u64 = 100;
