//! SEARCH over stored messages, and what SORT and THREAD need of it.
//!
//! Most questions are answered by the index, most others by summaries. Where octets must be looked
//! through, the next messages are read while one is, and others get their turn.

use std::cell::RefCell;
use std::io::Write;
use std::ops::Range;

use super::criteria::{Context, Criteria, Known};
use super::selected::Selected;
use super::view::View;
use crate::limits::{CHUNK_BYTES_MAX, IMAP_FIELDS_BYTES_MAX};
use crate::mailbox::codec::{BodyId, MailboxId};
use crate::mailbox::{Content, ContentError, Entry, KeptSummary, Mailbox, Partition, Store};
use crate::proto::imap::command::{Numbering, Tag};
use crate::proto::imap::response::{Code, Condition, PlainCode};
use crate::proto::imap::search::{self, Search, SearchReturn};
use crate::proto::imap::set::NumberSet;
use crate::proto::mime::haystack::{BodyEncoding, Haystack};
use crate::proto::mime::scan::scan;
use crate::proto::mime::structure::{Part, Structure};
use crate::runtime::{clock, sync, task};

/// Where a session searches.
#[derive(Clone, Copy)]
pub struct Scope<'s> {
    pub store: &'s Store,
    pub mailbox: MailboxId,
    /// Brought up to date whenever the mailbox is looked at.
    pub selected: &'s RefCell<Selected>,
    /// `$` (RFC 5182).
    pub saved: &'s NumberSet,
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub uids: NumberSet,
    /// Where mod-sequences were asked for: of the first, of the last, and the highest of all.
    pub modseqs: Option<[u64; 3]>,
    /// Messages whose octets cannot be had: they were judged by what is known else.
    pub unreadable: u32,
}

/// Why nothing was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchError {
    /// The charset is not known.
    BadCharset,
    /// The mailbox is gone.
    NoMailbox,
    /// No thread could be had to put many messages in order.
    Busy,
}

impl SearchError {
    /// What the tagged response says.
    pub fn condition(self) -> (Condition, Option<Code<'static>>, &'static str) {
        let code = match self {
            Self::BadCharset => Code::BadCharset("US-ASCII UTF-8"),
            Self::NoMailbox => Code::Plain(PlainCode::NonExistent),
            Self::Busy => Code::Plain(PlainCode::Unavailable),
        };
        (Condition::No, Some(code), "Not searched")
    }
}

/// A message that the index cannot judge.
pub(super) struct Candidate {
    pub entry: Entry,
    pub body: BodyId,
}

/// The messages of the mailbox that the client knows and that meet the criteria.
pub async fn run(scope: &Scope<'_>, criteria: &search::Criteria) -> Result<Found, SearchError> {
    let charset = criteria.charset.as_deref().unwrap_or("US-ASCII");
    if !["US-ASCII", "UTF-8"].iter().any(|known| charset.eq_ignore_ascii_case(known)) {
        return Err(SearchError::BadCharset);
    }
    let compiled = scope.read_selected(|mailbox, selected| {
        let body_of = |id: &[u8]| body_of(scope.store, id);
        let (Selected { view, recent, .. }, saved) = (selected, scope.saved);
        let unix_s = (clock::unix_ms() / 1000) as i64;
        Criteria::new(
            &criteria.key,
            &Context { view, recent, mailbox, saved, unix_s, body_of: &body_of },
        )
    });
    let criteria = compiled.await?;
    let candidates = criteria.candidates();
    let mut search =
        Running { scope, haystack: Haystack::new(&criteria.needles), criteria: &criteria };
    let mut result = Found { modseqs: criteria.has_modseq.then_some([0; 3]), ..Found::default() };
    let mut next = Some(0);
    while let Some(uid_from) = next {
        let (mut certain, open, next_uid) = search.judge_indexed(&candidates, uid_from).await?;
        next = next_uid;
        search.judge_open(open, &mut certain, &mut result.unreadable).await;
        certain.sort_unstable_by_key(|(uid, _)| *uid);
        certain.iter().for_each(|(uid, modseq)| result.add(*uid, *modseq));
        task::yield_now().await;
    }
    Ok(result)
}

impl Found {
    /// Ascending.
    fn add(&mut self, uid: u32, modseq: u64) {
        if let Some([first, last, highest]) = &mut self.modseqs {
            if self.uids.is_empty() {
                *first = modseq;
            }
            (*last, *highest) = (modseq, modseq.max(*highest));
        }
        self.uids.insert(uid);
    }
}

impl Scope<'_> {
    async fn read_selected<T>(
        &self,
        read: impl FnOnce(&Mailbox, &Selected) -> T,
    ) -> Result<T, SearchError> {
        let read = self.store.read_mailbox(self.mailbox, |mailbox| {
            let mut selected = self.selected.borrow_mut();
            selected.sync();
            read(mailbox, &selected)
        });
        read.await.ok_or(SearchError::NoMailbox)
    }

    pub(super) async fn read<T>(
        &self,
        read: impl FnOnce(&Partition, &Mailbox, &View) -> T,
    ) -> Result<T, SearchError> {
        let read = self.store.read_with_bodies(self.mailbox, |partition, mailbox| {
            let mut selected = self.selected.borrow_mut();
            selected.sync();
            read(partition, mailbox, &selected.view)
        });
        read.await.ok_or(SearchError::NoMailbox)
    }

    /// What stands for messages in responses.
    pub(super) async fn numbers(
        &self,
        numbering: Numbering,
        uids: &NumberSet,
    ) -> Result<NumberSet, SearchError> {
        match numbering {
            Numbering::Uid => Ok(uids.clone()),
            Numbering::Sequence => self.read(|_, it, view| view.numbers_of(it, uids)).await,
        }
    }

    /// Summaries of messages that stand together. `ahead` messages, these included, are likely to
    /// be asked for next.
    pub(super) async fn summaries(
        &self,
        messages: &[Candidate],
        ahead: usize,
    ) -> Vec<Result<KeptSummary, ContentError>> {
        let futures = messages
            .iter()
            .map(|it| self.store.summary(self.mailbox, it.entry.uid, it.body, ahead));
        task::join_all(futures).await
    }
}

/// The body that an EMAILID means in this store.
fn body_of(store: &Store, id: &[u8]) -> Option<BodyId> {
    let digits = std::str::from_utf8(id.strip_prefix(b"M")?).ok()?;
    let body = BodyId(u128::from_str_radix(digits, 16).ok()? as u64);
    (super::fetch::email_id(store, body).as_bytes() == id).then_some(body)
}

struct Running<'s> {
    scope: &'s Scope<'s>,
    criteria: &'s Criteria,
    haystack: Haystack<'s>,
}

/// UIDs and mod-sequences of messages that are meant, those that more must be known of, and where
/// the next ones begin.
type Judged = (Vec<(u32, u64)>, Vec<Candidate>, Option<u32>);

impl Running<'_> {
    /// Judges the next messages by the index.
    async fn judge_indexed(
        &mut self,
        candidates: &NumberSet,
        uid_from: u32,
    ) -> Result<Judged, SearchError> {
        let Self { scope, criteria, haystack } = self;
        let read = |partition: &Partition, mailbox: &Mailbox, view: &View| {
            let (mut certain, mut open, mut next) = (Vec::new(), Vec::new(), None);
            for (count, known) in view.walk(mailbox, candidates, uid_from).enumerate() {
                if count == ENTRIES_AT_ONCE || open.len() == OPEN_AT_ONCE {
                    next = Some(known.uid);
                    break;
                }
                // What is gone is not found any more.
                let Some(entry) = known.entry else { continue };
                let body = partition.bodies().id(entry.body);
                let known = Known { entry: &entry, body, summary: None, header: None, found: None };
                match criteria.judge(&known, haystack) {
                    Some(true) => certain.push((entry.uid, entry.modseq)),
                    Some(false) => {}
                    None => open.push(Candidate { entry, body }),
                }
            }
            (certain, open, next)
        };
        scope.read(read).await
    }

    async fn judge_open(
        &mut self,
        open: Vec<Candidate>,
        certain: &mut Vec<(u32, u64)>,
        unreadable: &mut u32,
    ) {
        let open = match self.criteria.asks_summaries() {
            true => self.judge_by_summaries(open, certain).await,
            false => open.into_iter().map(|candidate| (candidate, None)).collect(),
        };
        let scope = self.scope;
        let mut groups = Groups { left: &open[..] };
        let mut group = groups.next();
        let mut contents = scope.open_contents(group).await;
        while !group.is_empty() {
            let next = groups.next();
            // The next ones are on their way while these are looked through.
            let (next_contents, ()) = sync::zip(scope.open_contents(next), async {
                for ((candidate, summary), content) in group.iter().zip(&contents) {
                    match self.judge_octets(candidate, summary.as_ref(), content.as_ref()).await {
                        Ok(true) => certain.push((candidate.entry.uid, candidate.entry.modseq)),
                        Ok(false) => {}
                        Err(_) => *unreadable += 1,
                    }
                }
            })
            .await;
            (group, contents) = (next, next_contents);
        }
    }

    /// Judges messages by their summaries; returns those of which more must be known.
    async fn judge_by_summaries(
        &mut self,
        open: Vec<Candidate>,
        certain: &mut Vec<(u32, u64)>,
    ) -> Vec<(Candidate, Option<KeptSummary>)> {
        let mut left = Vec::new();
        let mut summaries = Vec::with_capacity(open.len());
        for (index, group) in open.chunks(SUMMARIES_AT_ONCE).enumerate() {
            let ahead = open.len() - index * SUMMARIES_AT_ONCE;
            summaries.extend(self.scope.summaries(group, ahead).await);
        }
        for (count, (candidate, summary)) in open.into_iter().zip(summaries).enumerate() {
            let summary = summary.ok();
            let Candidate { entry, body } = &candidate;
            let known = summary.as_ref().map(KeptSummary::get);
            let known = Known { entry, body: *body, summary: known, header: None, found: None };
            match self.criteria.judge(&known, &mut self.haystack) {
                Some(true) => certain.push((entry.uid, entry.modseq)),
                Some(false) => {}
                None => left.push((candidate, summary)),
            }
            if count % SUMMARIES_A_TURN == SUMMARIES_A_TURN - 1 {
                task::yield_now().await;
            }
        }
        left
    }

    /// Judges a message by its octets.
    async fn judge_octets(
        &mut self,
        candidate: &Candidate,
        summary: Option<&KeptSummary>,
        content: Option<&Content>,
    ) -> Result<bool, ContentError> {
        let Self { scope, criteria, haystack } = self;
        let Candidate { entry, body } = candidate;
        // A message that has been let go meanwhile is not found.
        let Some(content) = content else { return Ok(false) };
        let structure = match summary {
            Some(summary) => Structure::read(summary.get().structure),
            None => match content.piece(0).await? {
                Some(piece) if piece.len() == content.bytes() as usize => Some(scan(&piece)),
                _ => {
                    let summary = scope.store.summary(scope.mailbox, entry.uid, *body, 1).await?;
                    Structure::read(summary.get().structure)
                }
            },
        };
        let structure = structure.ok_or(ContentError::Malformed)?;
        let mut known = Known {
            entry,
            body: *body,
            summary: summary.map(KeptSummary::get),
            header: None,
            found: None,
        };
        let mut header = Vec::new();
        let has_summary = summary.is_some_and(|it| !it.get().is_truncated());
        if criteria.asks_headers() || !has_summary && criteria.asks_summaries() {
            read(content, structure.parts[0].header(), &mut header).await?;
            known.header = Some(&header);
            if let Some(is_meant) = criteria.judge(&known, haystack) {
                return Ok(is_meant);
            }
        }
        look_through(content, &structure, criteria, haystack).await?;
        let found = haystack.found().to_vec();
        known.found = Some(&found);
        Ok(criteria.judge(&known, haystack).unwrap_or(false))
    }
}

impl Scope<'_> {
    /// Opens messages, and reads what of them stands together.
    async fn open_contents(
        &self,
        group: &[(Candidate, Option<KeptSummary>)],
    ) -> Vec<Option<Content>> {
        let futures = group.iter().map(|(candidate, _)| async move {
            let content = self.store.content(self.mailbox, candidate.entry.uid).await;
            if let Some(content) = &content
                && candidate.entry.bytes as usize <= CHUNK_BYTES_MAX
            {
                // Whoever needs it meets the error again.
                let _ = content.piece(0).await;
            }
            content
        });
        task::join_all(futures).await
    }
}

/// Messages whose octets fit into memory together, or one.
struct Groups<'c> {
    left: &'c [(Candidate, Option<KeptSummary>)],
}

impl<'c> Groups<'c> {
    fn next(&mut self) -> &'c [(Candidate, Option<KeptSummary>)] {
        let mut bytes = 0;
        let fits = |(candidate, _): &&(Candidate, Option<KeptSummary>)| {
            bytes += candidate.entry.bytes as usize;
            bytes <= GROUP_BYTES_MAX
        };
        let count = self.left.iter().take(GROUP_MAX).take_while(fits).count();
        let (group, left) = self.left.split_at(count.max(1).min(self.left.len()));
        self.left = left;
        group
    }
}

/// Looks for all needles in every part that is text, and for those that are meant there in the
/// header sections of all parts (RFC 9051 §6.4.4, BODY and TEXT).
async fn look_through(
    content: &Content,
    structure: &Structure,
    criteria: &Criteria,
    haystack: &mut Haystack<'_>,
) -> Result<(), ContentError> {
    let mut header = Vec::new();
    let in_headers = &criteria.is_in_header;
    haystack.begin();
    for (index, part) in structure.parts.iter().enumerate() {
        if in_headers.contains(&true) && part.header_bytes > 2 {
            read(content, part.header(), &mut header).await?;
            haystack.look_in_header(&header, in_headers);
        }
        if haystack.is_done() {
            return Ok(());
        }
        if let Some(encoding) = BodyEncoding::of(structure, index) {
            look_in_body(content, part, encoding, haystack).await?;
        }
    }
    Ok(())
}

async fn look_in_body(
    content: &Content,
    part: &Part,
    mut encoding: BodyEncoding,
    haystack: &mut Haystack<'_>,
) -> Result<(), ContentError> {
    let Range { start: mut at, end } = part.body();
    haystack.begin_body();
    while at < end {
        let piece = content.piece(at as u32).await?.ok_or(ContentError::Malformed)?;
        let count = (end - at).min(piece.len() as u64).min(LOOKED_AT_AT_ONCE);
        haystack.look_in_body(&mut encoding, &piece[..count as usize]);
        at += count;
        if haystack.is_done() {
            return Ok(());
        }
        task::yield_now().await;
    }
    haystack.end_body(encoding);
    Ok(())
}

/// Reads a header section, as far as fields are looked for.
async fn read(
    content: &Content,
    octets: Range<u64>,
    out: &mut Vec<u8>,
) -> Result<(), ContentError> {
    out.clear();
    let end = octets.end.min(octets.start + IMAP_FIELDS_BYTES_MAX as u64);
    let mut at = octets.start;
    while at < end {
        let piece = content.piece(at as u32).await?.ok_or(ContentError::Malformed)?;
        let count = piece.len().min((end - at) as usize);
        out.extend_from_slice(&piece[..count]);
        at += count as u64;
    }
    Ok(())
}

/// Appends the response to SEARCH: ESEARCH where the client asked for that or has enabled
/// IMAP4rev2, and nothing where the result was only to be kept (RFC 5182 §2.1).
pub async fn write(
    tag: &Tag,
    command: &Search,
    is_rev2: bool,
    scope: &Scope<'_>,
    found: &Found,
    out: &mut Vec<u8>,
) -> Result<(), SearchError> {
    let numbers = scope.numbers(command.numbering, &found.uids).await?;
    match command.returns.or(is_rev2.then(SearchReturn::default)) {
        Some(returns) => {
            let all = |out: &mut Vec<u8>| numbers.write(out);
            let ends = numbers.first().zip(numbers.last());
            let told = Told { ends, count: numbers.count(), modseqs: found.modseqs };
            write_extended(tag, command.numbering, returns, &told, all, out);
        }
        None => {
            out.extend_from_slice(b"* SEARCH");
            // Writing into memory does not fail.
            numbers.iter().for_each(|number| drop(write!(out, " {number}")));
            if let Some([_, _, highest]) = found.modseqs.filter(|_| !numbers.is_empty()) {
                let _ = write!(out, " (MODSEQ {highest})");
            }
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

/// What ESEARCH may tell.
pub(super) struct Told {
    /// What MIN and MAX are, if there is anything.
    pub ends: Option<(u32, u32)>,
    pub count: u64,
    pub modseqs: Option<[u64; 3]>,
}

/// Appends ESEARCH (RFC 4731, RFC 5267); `write_all` appends what ALL is.
pub(super) fn write_extended(
    tag: &Tag,
    numbering: Numbering,
    returns: SearchReturn,
    told: &Told,
    write_all: impl FnOnce(&mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    let SearchReturn { min, max, all, count, save } = returns;
    let has_none = !(min || max || all || count);
    if has_none && save {
        return;
    }
    // Writing into memory does not fail.
    let _ = write!(out, "* ESEARCH (TAG \"{}\")", tag.as_str());
    if numbering == Numbering::Uid {
        out.extend_from_slice(b" UID");
    }
    if let Some((first, last)) = told.ends {
        if min {
            let _ = write!(out, " MIN {first}");
        }
        if max {
            let _ = write!(out, " MAX {last}");
        }
        if all || has_none {
            out.extend_from_slice(b" ALL ");
            write_all(out);
        }
    }
    if count {
        let _ = write!(out, " COUNT {}", told.count);
    }
    if let Some([of_first, of_last, highest]) = told.modseqs.filter(|_| told.ends.is_some()) {
        // Of what is told, where that is no more than the ends (RFC 4731 §3.2).
        let modseq = match (min, max, all || count || has_none) {
            (true, false, false) => of_first,
            (false, true, false) => of_last,
            (true, true, false) => of_first.max(of_last),
            _ => highest,
        };
        let _ = write!(out, " MODSEQ {modseq}");
    }
    out.extend_from_slice(b"\r\n");
}

/// Messages that the index judges before others get a turn: less than a millisecond.
const ENTRIES_AT_ONCE: usize = 16 * 1024;
/// Messages that are kept to be judged by more than the index.
const OPEN_AT_ONCE: usize = 1024;
/// Summaries that are asked for at the same time, and that are looked at before others get a turn.
const SUMMARIES_AT_ONCE: usize = 16;
const SUMMARIES_A_TURN: usize = 256;
/// Messages that are read at the same time, and their octets; twice that is in memory.
const GROUP_MAX: usize = 32;
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Octets that are looked at before others get a turn.
const LOOKED_AT_AT_ONCE: u64 = 64 * 1024;
