//! SEARCH, SORT and THREAD (RFC 9051 §6.4.4, RFC 5256, RFC 4731, RFC 5182, RFC 7162, RFC 8474).

use super::command::{Messages, Numbering, messages};
use super::cursor::{Cursor, Fault, Parsed};
use super::date::date;
use super::flag::SystemFlags;
use crate::limits::IMAP_SEARCH_DEPTH_MAX;

/// SEARCH or UID SEARCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    pub numbering: Numbering,
    /// `None`: answered by SEARCH instead of ESEARCH.
    pub returns: Option<SearchReturn>,
    pub criteria: Criteria,
}

/// SORT or UID SORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    pub numbering: Numbering,
    /// RFC 5267; `None`: answered by SORT instead of ESEARCH.
    pub returns: Option<SearchReturn>,
    /// At least one, the most significant first.
    pub keys: Vec<SortKey>,
    pub criteria: Criteria,
}

/// THREAD or UID THREAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub numbering: Numbering,
    pub algorithm: ThreadAlgorithm,
    pub criteria: Criteria,
}

/// Which messages are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria {
    /// As the client wrote it; `None` means US-ASCII. Whether it is known is the session's to say.
    pub charset: Option<Box<str>>,
    pub key: SearchKey,
}

/// RETURN options (RFC 4731); none of the first four means ALL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    /// RFC 5182: kept as `$`.
    pub save: bool,
}

/// One condition. Texts are in the charset of the search, dates are days since 1970-01-01.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchKey {
    All,
    /// Every one of them.
    And(Vec<SearchKey>),
    Or(Box<SearchKey>, Box<SearchKey>),
    Not(Box<SearchKey>),
    Sequence(Messages),
    Uid(Messages),
    Has(SystemFlags),
    Lacks(SystemFlags),
    Recent,
    /// RECENT and not seen.
    New,
    Old,
    Keyword(Box<str>),
    Unkeyword(Box<str>),
    Bcc(Vec<u8>),
    Body(Vec<u8>),
    Cc(Vec<u8>),
    From(Vec<u8>),
    Subject(Vec<u8>),
    Text(Vec<u8>),
    To(Vec<u8>),
    /// An empty text: the field is there.
    Header {
        name: Vec<u8>,
        text: Vec<u8>,
    },
    Before(i64),
    On(i64),
    Since(i64),
    SentBefore(i64),
    SentOn(i64),
    SentSince(i64),
    /// RFC 8514.
    SavedBefore(i64),
    SavedOn(i64),
    SavedSince(i64),
    SaveDateSupported,
    /// More octets than this.
    Larger(u64),
    /// Fewer octets than this.
    Smaller(u64),
    /// Older than, and younger than, so many seconds (RFC 5032).
    Older(u64),
    Younger(u64),
    /// At least this mod-sequence. What flag it is asked of makes no difference here: there is one
    /// for each message (RFC 7162 §3.1.5 allows it).
    ModSeq(u64),
    EmailId(Vec<u8>),
    ThreadId(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortKey {
    pub field: SortField,
    pub order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortField {
    Arrival,
    Cc,
    Date,
    From,
    Size,
    Subject,
    To,
    /// RFC 5957.
    DisplayFrom,
    DisplayTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAlgorithm {
    OrderedSubject,
    References,
}

/// The arguments of SEARCH.
pub(super) fn search(numbering: Numbering, cursor: &mut Cursor) -> Parsed<Search> {
    let returns = returns(cursor)?;
    let charset = if cursor.eat_text("CHARSET ") {
        let charset = charset(cursor)?;
        cursor.space()?;
        Some(charset)
    } else {
        None
    };
    let key = keys(cursor)?;
    Ok(Search { numbering, returns, criteria: Criteria { charset, key } })
}

/// The arguments of SORT.
pub(super) fn sort(numbering: Numbering, cursor: &mut Cursor) -> Parsed<Sort> {
    let returns = returns(cursor)?;
    let keys = cursor.list(sort_key)?;
    if keys.is_empty() {
        return Err(Fault("Missing sort key"));
    }
    cursor.space()?;
    Ok(Sort { numbering, returns, keys, criteria: criteria(cursor)? })
}

/// The arguments of THREAD.
pub(super) fn thread(numbering: Numbering, cursor: &mut Cursor) -> Parsed<Thread> {
    let algorithm = match cursor.name()?.to_ascii_uppercase().as_str() {
        "ORDEREDSUBJECT" => ThreadAlgorithm::OrderedSubject,
        "REFERENCES" => ThreadAlgorithm::References,
        _ => return Err(Fault("Unknown thread algorithm")),
    };
    cursor.space()?;
    Ok(Thread { numbering, algorithm, criteria: criteria(cursor)? })
}

/// A charset that must be there, and keys.
fn criteria(cursor: &mut Cursor) -> Parsed<Criteria> {
    let charset = charset(cursor)?;
    cursor.space()?;
    Ok(Criteria { charset: Some(charset), key: keys(cursor)? })
}

fn charset(cursor: &mut Cursor) -> Parsed<Box<str>> {
    let charset = cursor.astring()?;
    std::str::from_utf8(&charset).map(Into::into).map_err(|_| Fault("Bad charset"))
}

fn returns(cursor: &mut Cursor) -> Parsed<Option<SearchReturn>> {
    if !cursor.eat_text("RETURN ") {
        return Ok(None);
    }
    let mut returns = SearchReturn::default();
    cursor.list(|cursor| {
        let option = match cursor.name()?.to_ascii_uppercase().as_str() {
            "MIN" => &mut returns.min,
            "MAX" => &mut returns.max,
            "ALL" => &mut returns.all,
            "COUNT" => &mut returns.count,
            "SAVE" => &mut returns.save,
            _ => return Err(Fault("Unknown RETURN option")),
        };
        *option = true;
        Ok(())
    })?;
    cursor.space()?;
    Ok(Some(returns))
}

fn sort_key(cursor: &mut Cursor) -> Parsed<SortKey> {
    let mut name = cursor.name()?.to_ascii_uppercase();
    let mut order = Order::Ascending;
    if name == "REVERSE" {
        order = Order::Descending;
        cursor.space()?;
        name = cursor.name()?.to_ascii_uppercase();
    }
    let field = match name.as_str() {
        "ARRIVAL" => SortField::Arrival,
        "CC" => SortField::Cc,
        "DATE" => SortField::Date,
        "FROM" => SortField::From,
        "SIZE" => SortField::Size,
        "SUBJECT" => SortField::Subject,
        "TO" => SortField::To,
        "DISPLAYFROM" => SortField::DisplayFrom,
        "DISPLAYTO" => SortField::DisplayTo,
        _ => return Err(Fault("Unknown sort key")),
    };
    Ok(SortKey { field, order })
}

/// All keys up to the end of the command.
fn keys(cursor: &mut Cursor) -> Parsed<SearchKey> {
    let mut keys = vec![key(cursor, 0)?];
    while cursor.more()? {
        keys.push(key(cursor, 0)?);
    }
    Ok(all_of(keys))
}

fn all_of(mut keys: Vec<SearchKey>) -> SearchKey {
    match keys.len() {
        1 => keys.remove(0),
        _ => SearchKey::And(keys),
    }
}

fn key(cursor: &mut Cursor, depth: usize) -> Parsed<SearchKey> {
    if depth > IMAP_SEARCH_DEPTH_MAX {
        return Err(Fault("Search keys are nested too deeply"));
    }
    match cursor.peek() {
        Some(b'(') => {
            let keys = cursor.list(|cursor| key(cursor, depth + 1))?;
            return if keys.is_empty() {
                Err(Fault("Missing search key"))
            } else {
                Ok(all_of(keys))
            };
        }
        Some(b'0'..=b'9' | b'*' | b'$') => return messages(cursor).map(SearchKey::Sequence),
        _ => {}
    }
    let name = cursor.name()?.to_ascii_uppercase();
    if let Some(key) = key_without_argument(&name) {
        return Ok(key);
    }
    cursor.space().map_err(|_| Fault("Unknown search key, or one that lacks its argument"))?;
    key_with_argument(&name, cursor, depth)
}

fn key_without_argument(name: &str) -> Option<SearchKey> {
    Some(match name {
        "ALL" => SearchKey::All,
        "ANSWERED" => SearchKey::Has(SystemFlags::ANSWERED),
        "DELETED" => SearchKey::Has(SystemFlags::DELETED),
        "DRAFT" => SearchKey::Has(SystemFlags::DRAFT),
        "FLAGGED" => SearchKey::Has(SystemFlags::FLAGGED),
        "SEEN" => SearchKey::Has(SystemFlags::SEEN),
        "UNANSWERED" => SearchKey::Lacks(SystemFlags::ANSWERED),
        "UNDELETED" => SearchKey::Lacks(SystemFlags::DELETED),
        "UNDRAFT" => SearchKey::Lacks(SystemFlags::DRAFT),
        "UNFLAGGED" => SearchKey::Lacks(SystemFlags::FLAGGED),
        "UNSEEN" => SearchKey::Lacks(SystemFlags::SEEN),
        "RECENT" => SearchKey::Recent,
        "NEW" => SearchKey::New,
        "OLD" => SearchKey::Old,
        "SAVEDATESUPPORTED" => SearchKey::SaveDateSupported,
        _ => return None,
    })
}

fn key_with_argument(name: &str, cursor: &mut Cursor, depth: usize) -> Parsed<SearchKey> {
    let text = |cursor: &mut Cursor| cursor.astring().map(|text| text.into_owned());
    Ok(match name {
        "NOT" => SearchKey::Not(Box::new(key(cursor, depth + 1)?)),
        "OR" => {
            let left = key(cursor, depth + 1)?;
            cursor.space()?;
            SearchKey::Or(Box::new(left), Box::new(key(cursor, depth + 1)?))
        }
        "UID" => SearchKey::Uid(messages(cursor)?),
        "KEYWORD" => SearchKey::Keyword(cursor.atom()?.into()),
        "UNKEYWORD" => SearchKey::Unkeyword(cursor.atom()?.into()),
        "BCC" => SearchKey::Bcc(text(cursor)?),
        "BODY" => SearchKey::Body(text(cursor)?),
        "CC" => SearchKey::Cc(text(cursor)?),
        "FROM" => SearchKey::From(text(cursor)?),
        "SUBJECT" => SearchKey::Subject(text(cursor)?),
        "TEXT" => SearchKey::Text(text(cursor)?),
        "TO" => SearchKey::To(text(cursor)?),
        "HEADER" => {
            let name = text(cursor)?;
            cursor.space()?;
            SearchKey::Header { name, text: text(cursor)? }
        }
        "BEFORE" => SearchKey::Before(date(cursor)?),
        "ON" => SearchKey::On(date(cursor)?),
        "SINCE" => SearchKey::Since(date(cursor)?),
        "SENTBEFORE" => SearchKey::SentBefore(date(cursor)?),
        "SENTON" => SearchKey::SentOn(date(cursor)?),
        "SENTSINCE" => SearchKey::SentSince(date(cursor)?),
        "SAVEDBEFORE" => SearchKey::SavedBefore(date(cursor)?),
        "SAVEDON" => SearchKey::SavedOn(date(cursor)?),
        "SAVEDSINCE" => SearchKey::SavedSince(date(cursor)?),
        "LARGER" => SearchKey::Larger(cursor.number()?),
        "SMALLER" => SearchKey::Smaller(cursor.number()?),
        "OLDER" => SearchKey::Older(u64::from(cursor.nz_number()?)),
        "YOUNGER" => SearchKey::Younger(u64::from(cursor.nz_number()?)),
        "MODSEQ" => mod_sequence(cursor)?,
        "EMAILID" => SearchKey::EmailId(text(cursor)?),
        "THREADID" => SearchKey::ThreadId(text(cursor)?),
        _ => return Err(Fault("Unknown search key")),
    })
}

/// `["/flags/\Seen" all] 620162338`.
fn mod_sequence(cursor: &mut Cursor) -> Parsed<SearchKey> {
    if cursor.peek() == Some(b'"') {
        cursor.string()?;
        cursor.space()?;
        let kind = cursor.name()?;
        if !["all", "priv", "shared"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
            return Err(Fault("Bad kind of MODSEQ entry"));
        }
        cursor.space()?;
    }
    Ok(SearchKey::ModSeq(cursor.number()?))
}
