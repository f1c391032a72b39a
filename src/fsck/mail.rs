//! What the records say is in mailboxes, whether they agree with one another, and whether all of it
//! can be read. `Pure.`

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::bytes::kind;
use super::frames::{Frames, Record, records};
use super::mail_payload::{
    Body, Copy, Flags, Header, Item, Message, Told, is_of_mail, read as read_payload, read_items,
};
use super::places::Places;
use super::{Problem, Report, Slots};

/// A mailbox as the records have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    pub id: u64,
    /// The name of its account.
    pub account: String,
    pub name: String,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub highest_modseq: u64,
    pub messages: Vec<Letter>,
}

/// A message of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    pub uid: u32,
    pub modseq: u64,
    pub flags: u8,
    /// By the bits of the mailbox.
    pub keywords: u64,
    pub bytes: u32,
    /// All its octets can be read.
    pub is_whole: bool,
}

impl Mailbox {
    /// Octets of all messages.
    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(|message| u64::from(message.bytes)).sum()
    }

    /// Messages whose octets cannot be read.
    pub fn unreadable(&self) -> usize {
        self.messages.iter().filter(|message| !message.is_whole).count()
    }
}

pub(super) fn read(found: Frames, slots: &mut dyn Slots) -> io::Result<Report<Mailbox>> {
    let mut replay = Replay::default();
    for frame in &found.counted {
        records(frame, slots, &mut |record| replay.visit(&record))?;
    }
    replay.judge_names();
    let bodies = std::mem::take(&mut replay.bodies);
    let mut octets = Octets { places: Places::new(&found, slots), bodies, judged: HashMap::new() };
    let mut mailboxes = Vec::new();
    for (id, entry) in std::mem::take(&mut replay.mailboxes) {
        mailboxes.push(replay.mailbox(id, entry, &mut octets)?);
    }
    Ok(Report::new(found, mailboxes, replay.problems))
}

#[derive(Default)]
struct Replay {
    /// The highest that anything was given.
    modseq: u64,
    uid_validity: u32,
    /// Names by number.
    accounts: BTreeMap<u64, String>,
    mailboxes: BTreeMap<u64, Entry>,
    /// How often a name was told of.
    naming_count: u64,
    bodies: HashMap<u64, Body>,
    problems: Vec<Problem>,
}

/// A mailbox under replay.
struct Entry {
    account: u64,
    name: String,
    /// Which telling of a name its own was, 1-based: of two with one name the later one has it.
    naming: u64,
    uid_validity: u32,
    uid_next: u32,
    highest_modseq: u64,
    keywords: Vec<String>,
    messages: BTreeMap<u32, Message>,
    /// Everything in it was told of: what comes later can be compared.
    is_complete: bool,
}

impl Entry {
    /// One that begins: nothing is in it.
    fn new(account: u64, name: String, naming: u64, uid_validity: u32) -> Self {
        Self {
            account,
            name,
            naming,
            uid_validity,
            uid_next: 1,
            highest_modseq: 0,
            keywords: Vec::new(),
            messages: BTreeMap::new(),
            is_complete: true,
        }
    }
}

impl Replay {
    /// What nothing has told of yet is passed over: a checkpoint will.
    fn visit(&mut self, record: &Record<'_>) {
        let id = record.id;
        if record.kind == kind::ITEMS {
            return match read_items(record.payload) {
                Some(items) => items.into_iter().for_each(|item| self.take(item)),
                None => self.senseless(record),
            };
        }
        if !is_of_mail(record.kind) {
            return;
        }
        let Some(told) = read_payload(record.kind, record.payload) else {
            return self.senseless(record);
        };
        match told {
            Told::AccountAdded(name) => {
                self.accounts.insert(id, name.to_owned());
            }
            Told::AccountRemoved => {
                self.accounts.remove(&id);
                self.mailboxes.retain(|_, mailbox| mailbox.account != id);
            }
            Told::Created { account, uid_validity, name } => {
                self.create(id, account, uid_validity, name);
            }
            Told::Renamed(name) => {
                self.naming_count += 1;
                if let Some(mailbox) = self.mailboxes.get_mut(&id) {
                    (mailbox.name, mailbox.naming) = (name.to_owned(), self.naming_count);
                }
            }
            Told::Deleted => {
                self.mailboxes.remove(&id);
            }
            Told::Other => {}
            Told::Body(body) => {
                self.bodies.insert(id, Body { place: Some(record.place()), ..body });
            }
            Told::Appended(message) => {
                if !self.bodies.contains_key(&message.body) {
                    return self.wrong(id, Some(message.uid), "its APPEND stands without its BODY");
                }
                self.add(id, &message);
            }
            Told::Flags(flags) => self.change_flags(id, &flags),
            Told::Expunged { modseq, uids } => self.expunge(id, modseq, &uids),
            Told::Copied { source, is_move, copies } => self.copy(source, id, is_move, copies),
            Told::Keyword { bit, keyword } => {
                let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
                if mailbox.keywords.len() <= bit {
                    mailbox.keywords.resize(bit + 1, String::new());
                }
                mailbox.keywords[bit] = keyword.to_owned();
            }
        }
    }

    fn create(&mut self, id: u64, account: u64, uid_validity: u32, name: &str) {
        self.uid_validity = self.uid_validity.max(uid_validity);
        self.naming_count += 1;
        if let Some(known) = self.mailboxes.get_mut(&id) {
            // It is begun anew for what is imported.
            (known.uid_validity, known.name) = (uid_validity, name.to_owned());
            known.naming = self.naming_count;
            if known.uid_next > 1 {
                self.wrong(id, None, "it is created again though it had messages");
            }
            return;
        }
        let entry = Entry::new(account, name.to_owned(), self.naming_count, uid_validity);
        self.mailboxes.insert(id, entry);
    }

    /// A message comes into a mailbox, above all that were there.
    fn add(&mut self, id: u64, message: &Message) {
        self.modseq = self.modseq.max(message.modseq);
        let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
        let (is_above, is_later) =
            (message.uid >= mailbox.uid_next, message.modseq >= mailbox.highest_modseq);
        mailbox.uid_next = mailbox.uid_next.max(message.uid + 1);
        mailbox.highest_modseq = mailbox.highest_modseq.max(message.modseq);
        mailbox.messages.insert(message.uid, *message);
        if !is_above {
            self.wrong(id, Some(message.uid), "its UID is not above those given out before");
        }
        if !is_later {
            self.wrong(id, Some(message.uid), "its mod-sequence is below an earlier one");
        }
    }

    /// A change to messages of a mailbox that had these UIDs. Returns the mailbox.
    fn change(&mut self, id: u64, modseq: u64, uids: &[(u32, u32)]) -> Option<&mut Entry> {
        self.modseq = self.modseq.max(modseq);
        let mailbox = self.mailboxes.get_mut(&id)?;
        let is_later = modseq >= mailbox.highest_modseq;
        mailbox.highest_modseq = mailbox.highest_modseq.max(modseq);
        let unknown = uids.last().map(|(_, end)| *end).filter(|end| *end >= mailbox.uid_next);
        if !is_later {
            self.wrong(id, None, "a change has a mod-sequence below an earlier one");
        }
        if unknown.is_some() {
            self.wrong(id, unknown, "it is changed and was never given out");
        }
        self.mailboxes.get_mut(&id)
    }

    fn change_flags(&mut self, id: u64, flags: &Flags) {
        let Some(mailbox) = self.change(id, flags.modseq, &flags.uids) else { return };
        for (first, end) in &flags.uids {
            for message in mailbox.messages.range_mut(first..=end).map(|(_, message)| message) {
                let after = flags.result(message);
                if after != (message.flags, message.keywords) {
                    (message.flags, message.keywords) = after;
                    message.modseq = flags.modseq;
                }
            }
        }
    }

    fn expunge(&mut self, id: u64, modseq: u64, uids: &[(u32, u32)]) {
        let Some(mailbox) = self.change(id, modseq, uids) else { return };
        for (first, end) in uids {
            take_out(&mut mailbox.messages, *first, *end);
        }
    }

    fn copy(&mut self, source: u64, target: u64, is_move: bool, copies: Vec<Copy>) {
        let modseq = copies.iter().map(|copy| copy.message.modseq).max().unwrap_or(0);
        let mut moved: Vec<u32> = copies.iter().map(|copy| copy.source_uid).collect();
        for Copy { message, body, .. } in copies {
            self.bodies.insert(message.body, body);
            self.add(target, &message);
        }
        if is_move {
            moved.sort_unstable();
            let uids: Vec<(u32, u32)> = moved.into_iter().map(|uid| (uid, uid)).collect();
            self.expunge(source, modseq, &uids);
        }
    }

    /// What a checkpoint says here must be what the records before it come to, where these began.
    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Counters { modseq, uid_validity } => {
                if modseq < self.modseq || uid_validity < self.uid_validity {
                    let what = "a checkpoint has counters below what was given out";
                    self.problems.push(Problem::Mail { mailbox: String::new(), uid: None, what });
                }
                self.modseq = self.modseq.max(modseq);
                self.uid_validity = self.uid_validity.max(uid_validity);
            }
            Item::Account { id, name } => {
                self.accounts.insert(id, name.to_owned());
            }
            Item::Mailbox { id, header } => self.take_header(id, &header),
            Item::Messages { mailbox, first, end, messages } => {
                self.take_messages(mailbox, first, end, messages);
            }
            Item::Other => {}
        }
    }

    fn take_header(&mut self, id: u64, header: &Header<'_>) {
        let Header { account, uid_validity, uid_next, highest_modseq, .. } = *header;
        let name = header.name.to_owned();
        let keywords: Vec<String> = header.keywords.iter().map(|it| (*it).to_owned()).collect();
        self.modseq = self.modseq.max(highest_modseq);
        self.uid_validity = self.uid_validity.max(uid_validity);
        self.naming_count += 1;
        let Some(known) = self.mailboxes.get_mut(&id) else {
            let is_complete = false;
            let begun = Entry::new(account, name, self.naming_count, uid_validity);
            let entry = Entry { uid_next, highest_modseq, keywords, is_complete, ..begun };
            self.mailboxes.insert(id, entry);
            return;
        };
        // Behind frames that cannot be read, UIDs and mod-sequences are passed over.
        let agrees = (known.account, &known.name, known.uid_validity)
            == (account, &name, uid_validity)
            && known.keywords == keywords
            && uid_next >= known.uid_next
            && highest_modseq >= known.highest_modseq;
        (known.account, known.name, known.uid_validity) = (account, name, uid_validity);
        (known.uid_next, known.highest_modseq) = (uid_next, highest_modseq);
        known.naming = self.naming_count;
        known.keywords = keywords;
        if !agrees {
            self.wrong(id, None, "a checkpoint says other of it than the records do");
        }
    }

    fn take_messages(&mut self, id: u64, first: u32, end: u32, messages: Vec<(Message, Body)>) {
        let told: BTreeMap<u32, Message> =
            messages.iter().map(|(message, _)| (message.uid, *message)).collect();
        let count = messages.len();
        for (message, body) in messages {
            self.modseq = self.modseq.max(message.modseq);
            if self.mailboxes.contains_key(&id) {
                self.bodies.insert(message.body, body);
            }
        }
        let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
        let agrees = !mailbox.is_complete || mailbox.messages.range(first..=end).eq(&told);
        mailbox.is_complete |= end == u32::MAX;
        let is_below = told.last_key_value().is_none_or(|(uid, _)| *uid < mailbox.uid_next)
            && told.values().all(|message| message.modseq <= mailbox.highest_modseq);
        take_out(&mut mailbox.messages, first, end);
        let is_ascending = told.len() == count;
        mailbox.messages.extend(told);
        if !agrees {
            self.wrong(id, None, "a checkpoint lists other messages than the records");
        }
        if !is_ascending {
            self.wrong(id, None, "a checkpoint lists a UID twice");
        }
        if !is_below {
            self.wrong(id, None, "a UID is not below UIDNEXT, or a mod-sequence above the highest");
        }
    }

    /// Whether accounts and mailboxes can be told apart, and each account has its INBOX.
    fn judge_names(&mut self) {
        let (mut names, mut paths) = (HashSet::new(), HashSet::new());
        let mut wrong = Vec::new();
        // The later account and the mailbox that was called so later keep the name.
        for (id, name) in self.accounts.iter().rev() {
            if !names.insert(name.to_ascii_lowercase()) {
                let what = "another account has its name: a start gives it another";
                wrong.push((name.clone(), what));
            }
            let is_inbox = |it: &Entry| it.account == *id && it.name == "INBOX";
            if !self.mailboxes.values().any(is_inbox) {
                wrong.push((name.clone(), "it has no INBOX: a start begins one"));
            }
        }
        let mut mailboxes: Vec<(&u64, &Entry)> = self.mailboxes.iter().collect();
        mailboxes.sort_by_key(|(_, mailbox)| Reverse(mailbox.naming));
        for (id, mailbox) in mailboxes {
            if !self.accounts.contains_key(&mailbox.account) {
                wrong.push((self.path(*id), "it is of an account that nothing tells of"));
            } else if !paths.insert((mailbox.account, &mailbox.name)) {
                let what = "another mailbox has its name: a start gives it another";
                wrong.push((self.path(*id), what));
            }
        }
        for (mailbox, what) in wrong {
            self.problems.push(Problem::Mail { mailbox, uid: None, what });
        }
    }

    /// Judges what is in a mailbox at the end.
    fn mailbox(&mut self, id: u64, entry: Entry, octets: &mut Octets<'_>) -> io::Result<Mailbox> {
        let account = self.account_name(entry.account);
        let path = path(&account, &entry.name);
        let mut wrong = |uid: Option<u32>, what| {
            self.problems.push(Problem::Mail { mailbox: path.clone(), uid, what });
        };
        if !entry.is_complete {
            wrong(None, "a checkpoint tells of it and not of its messages");
        }
        let known = entry.keywords.iter().enumerate().filter(|(_, keyword)| !keyword.is_empty());
        let known = known.fold(0_u64, |known, (bit, _)| known | 1 << bit);
        let mut messages = Vec::new();
        for (uid, message) in &entry.messages {
            if message.keywords & !known != 0 {
                wrong(Some(*uid), "it has a keyword that its mailbox has no name for");
            }
            let (bytes, fault) = octets.judge(message.body)?;
            if let Some(fault) = fault {
                wrong(Some(*uid), fault);
            }
            let Message { uid, modseq, flags, keywords, .. } = *message;
            let is_whole = fault.is_none();
            messages.push(Letter { uid, modseq, flags, keywords, bytes, is_whole });
        }
        let Entry { name, uid_validity, uid_next, highest_modseq, .. } = entry;
        Ok(Mailbox { id, account, name, uid_validity, uid_next, highest_modseq, messages })
    }

    fn senseless(&mut self, record: &Record<'_>) {
        self.problems.push(Problem::Payload { slot: record.slot, offset: record.offset });
    }

    fn wrong(&mut self, id: u64, uid: Option<u32>, what: &'static str) {
        let mailbox = self.path(id);
        self.problems.push(Problem::Mail { mailbox, uid, what });
    }

    fn account_name(&self, id: u64) -> String {
        self.accounts.get(&id).cloned().unwrap_or_else(|| format!("account {id}"))
    }

    fn path(&self, id: u64) -> String {
        match self.mailboxes.get(&id) {
            Some(mailbox) => path(&self.account_name(mailbox.account), &mailbox.name),
            None => format!("mailbox {id}"),
        }
    }
}

fn path(account: &str, mailbox: &str) -> String {
    format!("{account} {}", mailbox.escape_debug())
}

fn take_out(messages: &mut BTreeMap<u32, Message>, first: u32, end: u32) {
    let gone: Vec<u32> = messages.range(first..=end).map(|(uid, _)| *uid).collect();
    for uid in gone {
        messages.remove(&uid);
    }
}

/// Reads the octets of messages, each body once.
struct Octets<'s> {
    places: Places<'s>,
    bodies: HashMap<u64, Body>,
    judged: HashMap<u64, Option<&'static str>>,
}

impl Octets<'_> {
    /// Octets of a body, and what is wrong with it.
    fn judge(&mut self, id: u64) -> io::Result<(u32, Option<&'static str>)> {
        let Some(body) = self.bodies.get(&id).cloned() else {
            return Ok((0, Some("nothing tells where its content is")));
        };
        let fault = match self.judged.get(&id) {
            Some(fault) => *fault,
            None => self.read(id, &body)?,
        };
        self.judged.insert(id, fault);
        Ok((body.bytes, fault))
    }

    fn read(&mut self, id: u64, body: &Body) -> io::Result<Option<&'static str>> {
        let Some(place) = body.place else { return Ok(Some("nothing tells where its content is")) };
        let there = self.places.read(place, kind::BODY)?;
        let Some(there) = there.filter(|there| there.id == id) else {
            return Ok(Some("its content cannot be read: no BODY where it should be"));
        };
        let Some(Told::Body(told)) = read_payload(kind::BODY, &there.payload) else {
            return Ok(Some("its content cannot be read: the BODY makes no sense"));
        };
        if told.bytes != body.bytes || told.chunks != body.chunks {
            return Ok(Some("its BODY says other of its content than the records"));
        }
        let mut bytes = told.beside_bytes as u64;
        for chunk in &body.chunks {
            let Some(there) = self.places.read(*chunk, kind::CONTENT)? else {
                return Ok(Some("its content cannot be read: a part is not where it should be"));
            };
            bytes += there.payload.len() as u64;
        }
        Ok((bytes != u64::from(body.bytes)).then_some("its content has another length than told"))
    }
}
