//! What the clients do: deliveries, listings, searches, downloads.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ringpost::runtime::clock;

use super::clients::{Imap, Lmtp, Pop3};
use super::crew::Member;
use super::letters::{Letters, Word, count_with};
use crate::audit::DeliveryId;
use crate::ids::RunId;
use crate::message::LOAD_FIELD;

/// Where the clients of one server go, and what it owes them.
pub struct Place {
    pub lmtp: SocketAddr,
    pub imap: SocketAddr,
    pub pop3: SocketAddr,
    /// What it has taken responsibility for, by sequence and number of the account.
    pub accepted: Mutex<Vec<DeliveryId>>,
    next_sequence: AtomicU64,
}

impl Place {
    pub fn new(host: &super::host::Host) -> Self {
        let super::host::Host { lmtp, imap, pop3, .. } = *host;
        let (accepted, next_sequence) = (Mutex::default(), AtomicU64::new(0));
        Self { lmtp, imap, pop3, accepted, next_sequence }
    }
}

/// Messages to deliver, to accounts in turn.
pub struct Deliveries {
    place: Arc<Place>,
    letters: Arc<Letters>,
    run: RunId,
    /// With their numbers in the run.
    accounts: Vec<(u16, String)>,
    first_sequence: u64,
    /// Of the place's sequences.
    count_left: AtomicU64,
    taken: AtomicU64,
}

impl Deliveries {
    /// `count` of them, or as many as there is time for.
    pub fn new(
        place: &Arc<Place>,
        letters: &Arc<Letters>,
        run: RunId,
        accounts: Vec<(u16, String)>,
        count: Option<u64>,
    ) -> Arc<Self> {
        let count = count.unwrap_or(DELIVERIES_MAX);
        let first_sequence = place.next_sequence.fetch_add(count, Ordering::SeqCst);
        let (count_left, taken) = (AtomicU64::new(count), AtomicU64::new(0));
        let (place, letters) = (place.clone(), letters.clone());
        Arc::new(Self { place, letters, run, accounts, first_sequence, count_left, taken })
    }

    /// Delivers the next message by `lmtp`; false where there is none left.
    async fn deliver(&self, lmtp: &mut Lmtp, to: Option<usize>) -> io::Result<bool> {
        let one_less = |left: u64| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if self.count_left.fetch_update(order, order, one_less).is_err() {
            return Ok(false);
        }
        let index = self.taken.fetch_add(1, order);
        let accounts = self.accounts.len() as u64;
        let account = to.unwrap_or((index % accounts) as usize);
        let (number, name) = &self.accounts[account];
        let letter = self.letters.of(index / accounts);
        let sequence = self.first_sequence + index;
        let mut block = Vec::with_capacity(96);
        letter.id_block.write(self.run, sequence, &mut block);
        lmtp.deliver(name, &block, letter).await?;
        let id = DeliveryId::new(sequence, *number);
        self.place.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        Ok(true)
    }
}

/// Delivers until there is nothing left or work ends.
pub async fn deliver(member: Member, deliveries: Arc<Deliveries>) -> io::Result<()> {
    let mut lmtp = Lmtp::open(deliveries.place.lmtp).await?;
    let end = member.ready().await;
    loop {
        let since = Instant::now();
        if since >= end || !deliveries.deliver(&mut lmtp, None).await? {
            return Ok(());
        }
        member.did("lmtp", since);
    }
}

/// Waits in IDLE for what it delivers itself: the time from LMTP's 250, and from the first octet,
/// until the mailbox has one message more.
pub async fn push(member: Member, deliveries: Arc<Deliveries>) -> io::Result<()> {
    let place = &deliveries.place;
    let account = member.index % deliveries.accounts.len();
    let mut lmtp = Lmtp::open(place.lmtp).await?;
    let mut imap = Imap::open(place.imap, None, false, &deliveries.accounts[account].1).await?;
    let mut exists = imap.command("SELECT INBOX").await?.exists.unwrap_or(0);
    imap.idle().await?;
    let end = member.ready().await;
    loop {
        ringpost::runtime::timer::sleep(PUSH_PAUSE).await;
        let since = Instant::now();
        if since >= end || !deliveries.deliver(&mut lmtp, Some(account)).await? {
            break;
        }
        let answered = Instant::now();
        exists += 1;
        imap.wait_for_exists(exists).await?;
        member.took("push_after_answer", answered.elapsed());
        member.took("push_with_delivery", since.elapsed());
    }
    imap.done().await.map(drop)
}

/// Reads a mailbox as clients that list and open messages do. The kinds of commands take turns.
pub async fn fetch(
    member: Member,
    place: Arc<Place>,
    name: String,
    messages: u64,
) -> io::Result<()> {
    let mut imap = Imap::open(place.imap, None, false, &name).await?;
    expect("SELECT", imap.command("SELECT INBOX").await?.exists.unwrap_or(0), messages)?;
    // Whatever a server does at the first sight of a mailbox is done before.
    imap.command("FETCH 1:* (FLAGS ENVELOPE BODYSTRUCTURE)").await?;
    let end = member.ready().await;
    let page = PAGE.min(messages);
    for kind in FETCHES.into_iter().cycle() {
        let first = 1 + clock::random_u64() % (messages - page + 1);
        let (text, count) = match kind {
            "fetch_list" => {
                let items = "UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE";
                (format!("FETCH {first}:{} ({items})", first + page - 1), page)
            }
            "fetch_fields" => {
                let items = "UID FLAGS BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE)]";
                (format!("FETCH {first}:{} ({items})", first + page - 1), page)
            }
            "fetch_structure" => {
                (format!("FETCH {first}:{} (UID BODYSTRUCTURE)", first + page - 1), page)
            }
            "fetch_flags" => ("FETCH 1:* (UID FLAGS)".to_owned(), messages),
            "fetch_part" => (format!("FETCH {first} (UID BODY.PEEK[1])"), 1),
            _ => (format!("FETCH {first} (UID BODY.PEEK[])"), 1),
        };
        let since = Instant::now();
        if since >= end {
            return Ok(());
        }
        let answer = imap.command(&text).await?;
        expect(&text, answer.fetched, count)?;
        member.did(kind, since);
    }
    Ok(())
}

/// Searches a mailbox, by header fields, text and flags in turn; each has to find what is there.
pub async fn search(
    member: Member,
    place: Arc<Place>,
    name: String,
    messages: u64,
) -> io::Result<()> {
    let mut imap = Imap::open(place.imap, None, false, &name).await?;
    expect("SELECT", imap.command("SELECT INBOX").await?.exists.unwrap_or(0), messages)?;
    let with = |word| count_with(messages, word);
    let searches = [
        ("search_unseen", "UNSEEN".to_owned(), messages - messages / SEEN),
        ("search_subject", format!("SUBJECT {}", Word::Invoice.text()), with(Word::Invoice)),
        ("search_flagged", "FLAGGED".to_owned(), messages / FLAGGED),
        ("search_from", format!("FROM {}", Word::Person7.text()), with(Word::Person7)),
        ("search_body", format!("BODY {}", Word::Zanzibar.text()), with(Word::Zanzibar)),
        ("search_keyword", format!("KEYWORD {KEYWORD}"), messages / LABELLED),
        ("search_text", format!("TEXT {}", Word::Quarterly.text()), with(Word::Quarterly)),
        ("search_larger", "SINCE 1-Jan-2020 LARGER 1000".to_owned(), messages),
    ];
    for (_, criteria, _) in &searches {
        imap.command(&format!("UID SEARCH {criteria}")).await?;
    }
    let end = member.ready().await;
    for (kind, criteria, count) in searches.iter().cycle() {
        let since = Instant::now();
        if since >= end {
            break;
        }
        let answer = imap.command(&format!("UID SEARCH {criteria}")).await?;
        expect(criteria, answer.found, *count)?;
        member.did(kind, since);
    }
    Ok(())
}

/// Gives every third message `\Seen`, and others other flags, for searches to find.
pub async fn flag(
    member: Member,
    place: Arc<Place>,
    name: String,
    messages: u64,
) -> io::Result<()> {
    let mut imap = Imap::open(place.imap, None, false, &name).await?;
    member.ready().await;
    expect("SELECT", imap.command("SELECT INBOX").await?.exists.unwrap_or(0), messages)?;
    for (every, flag) in [(SEEN, "\\Seen"), (FLAGGED, "\\Flagged"), (LABELLED, KEYWORD)] {
        let numbers: Vec<u64> = (1..=messages / every).map(|index| index * every).collect();
        for numbers in numbers.chunks(NUMBERS_MAX) {
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            let set = numbers.join(",");
            imap.command(&format!("STORE {set} +FLAGS.SILENT ({flag})")).await?;
        }
    }
    Ok(())
}

/// Logs in by POP3, counts, lists and fetches some, again and again.
pub async fn pop3(
    member: Member,
    place: Arc<Place>,
    name: String,
    messages: u64,
) -> io::Result<()> {
    // The first login is dearer: the password is seen for the first time.
    Pop3::open(place.pop3, &name).await?.line("QUIT").await?;
    let end = member.ready().await;
    loop {
        let since = Instant::now();
        if since >= end {
            return Ok(());
        }
        let mut pop3 = Pop3::open(place.pop3, &name).await?;
        member.did("pop3_login", since);
        let since = Instant::now();
        pop3.line("STAT").await?;
        member.did("pop3_stat", since);
        let since = Instant::now();
        pop3.lines("UIDL").await?;
        member.did("pop3_uidl", since);
        for _ in 0..RETRIEVALS {
            let number = 1 + clock::random_u64() % messages;
            let since = Instant::now();
            let octets = pop3.lines(&format!("RETR {number}")).await?;
            if octets < LETTER_BYTES_LEAST {
                return Err(io::Error::other(format!("RETR {number} brought {octets} octets")));
            }
            member.did("pop3_retr", since);
        }
        pop3.line("QUIT").await?;
    }
}

/// The sequences of all messages of a mailbox that are of this run.
pub async fn sequences(imap: &mut Imap, run: RunId) -> io::Result<Vec<u64>> {
    let exists = imap.command("EXAMINE INBOX").await?.exists.unwrap_or(0);
    if exists == 0 {
        return Ok(Vec::new());
    }
    let field = String::from_utf8_lossy(LOAD_FIELD);
    let field = field.trim_end_matches([':', ' ']);
    let command = format!("FETCH 1:* (BODY.PEEK[HEADER.FIELDS ({field})])");
    let answer = imap.command_with_literals(&command).await?;
    let literals = answer.literals.unwrap_or_default();
    expect("FETCH", literals.len() as u64, exists)?;
    let ids = literals.iter().filter_map(|literal| crate::message::find_id(literal));
    Ok(ids.filter(|(of, _)| *of == run).map(|(_, sequence)| sequence).collect())
}

/// An error where a server's answer is not what has to come.
pub fn expect(what: &str, found: u64, expected: u64) -> io::Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("{what}: {found} came, {expected} are there")))
}

/// In the order in which they take turns: as often as clients say them, more or less.
const FETCHES: [&str; 12] = [
    "fetch_list",
    "fetch_body",
    "fetch_body",
    "fetch_part",
    "fetch_fields",
    "fetch_body",
    "fetch_body",
    "fetch_part",
    "fetch_structure",
    "fetch_body",
    "fetch_part",
    "fetch_flags",
];
/// Messages of a listing.
const PAGE: u64 = 50;
/// Every so many are seen, flagged, labelled.
const SEEN: u64 = 3;
const FLAGGED: u64 = 10;
const LABELLED: u64 = 7;
const KEYWORD: &str = "$Label1";
const NUMBERS_MAX: usize = 1000;
/// Messages fetched by each POP3 session.
const RETRIEVALS: usize = 20;
const LETTER_BYTES_LEAST: u64 = 512;
const PUSH_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// Sequences that are set aside for deliveries without a count.
const DELIVERIES_MAX: u64 = 1 << 32;
