//! Commands of a client, parsed (RFC 9051 §6).
//!
//! A command owns what it says: it outlives the input it came in, since sessions wait for disks and
//! other shards while they carry it out.

use super::cursor::{Cursor, Fault, Parsed};
use super::fetch::{Fetch, fetch};
use super::list::{List, StatusItem, list, lsub, status};
use super::mailbox::{MailboxName, NameForm, SpecialUse};
use super::search::{Search, Sort, Thread, search, sort, thread};
use super::select::{Access, Select, select};
use super::set::SequenceSet;
use super::store::{Store, store};

/// The tag of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Everything but APPEND, which comes in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Capability,
    Noop,
    Logout,
    StartTls,
    /// `initial_response` is base64 as it came, `=` for an empty one (RFC 4959).
    Authenticate {
        mechanism: Box<str>,
        initial_response: Option<Box<str>>,
    },
    Login {
        name: Vec<u8>,
        password: Vec<u8>,
    },
    /// Capabilities as they were written.
    Enable(Vec<Box<str>>),
    /// Fields and values of RFC 2971; none for NIL.
    Id(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Select(Select),
    Create {
        mailbox: MailboxName,
        /// `None` where some are unknown.
        special_uses: Option<Vec<SpecialUse>>,
    },
    Delete(MailboxName),
    Rename {
        from: MailboxName,
        to: MailboxName,
    },
    Subscribe(MailboxName),
    Unsubscribe(MailboxName),
    List(List),
    Lsub {
        reference: String,
        pattern: String,
    },
    Namespace,
    Status {
        mailbox: MailboxName,
        items: Vec<StatusItem>,
    },
    Idle,
    Check,
    Close,
    Unselect,
    Expunge,
    UidExpunge(Messages),
    Search(Search),
    Sort(Sort),
    Thread(Thread),
    Fetch(Fetch),
    Store(Store),
    Copy {
        numbering: Numbering,
        messages: Messages,
        mailbox: MailboxName,
    },
    Move {
        numbering: Numbering,
        messages: Messages,
        mailbox: MailboxName,
    },
    GetQuota {
        root: Vec<u8>,
    },
    GetQuotaRoot(MailboxName),
    /// COMPRESS DEFLATE (RFC 4978).
    CompressDeflate,
}

/// What the numbers of a command, and of its responses, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    Sequence,
    Uid,
}

/// The messages a command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Messages {
    Set(SequenceSet),
    /// `$`: the last result that was saved (RFC 5182).
    Saved,
}

impl Command {
    /// Whether the command needs a selected mailbox (RFC 9051 §6.4).
    pub fn needs_mailbox(&self) -> bool {
        matches!(
            self,
            Self::Check
                | Self::Close
                | Self::Unselect
                | Self::Expunge
                | Self::UidExpunge(_)
                | Self::Search(_)
                | Self::Sort(_)
                | Self::Thread(_)
                | Self::Fetch(_)
                | Self::Store(_)
                | Self::Copy { .. }
                | Self::Move { .. }
        )
    }

    /// Whether the command may come before authentication (RFC 9051 §6.1 and §6.2).
    pub fn is_for_anybody(&self) -> bool {
        matches!(
            self,
            Self::Capability
                | Self::Noop
                | Self::Logout
                | Self::Id(_)
                | Self::StartTls
                | Self::Authenticate { .. }
                | Self::Login { .. }
                | Self::CompressDeflate
        )
    }
}

/// A whole command without its last line end. The tag comes back with the fault, if there is one.
pub(super) fn parse(text: &[u8], names: NameForm) -> Result<(Tag, Command), (Option<Tag>, Fault)> {
    let mut cursor = Cursor::with_names(text, names);
    let tag = tag(&mut cursor).map_err(|fault| (None, fault))?;
    match command(&mut cursor) {
        Ok(command) => Ok((tag, command)),
        Err(fault) => Err((Some(tag), fault)),
    }
}

/// The tag with the space behind it.
pub(super) fn tag(cursor: &mut Cursor) -> Parsed<Tag> {
    let mut ahead = *cursor;
    let tag = ahead.astring_atom().map_err(|_| BAD_TAG)?;
    if tag.contains('+') || tag.len() > TAG_BYTES_MAX || !matches!(ahead.peek(), Some(b' ') | None)
    {
        return Err(BAD_TAG);
    }
    *cursor = ahead;
    while cursor.eat(b' ') {}
    Ok(Tag(tag.into()))
}

fn command(cursor: &mut Cursor) -> Parsed<Command> {
    let word = cursor.name().map_err(|_| Fault("Missing command"))?.to_ascii_uppercase();
    let command = match without_arguments(&word) {
        Some(command) => command,
        None => with_arguments(&word, cursor)?,
    };
    cursor.end()?;
    Ok(command)
}

fn without_arguments(word: &str) -> Option<Command> {
    Some(match word {
        "CAPABILITY" => Command::Capability,
        "NOOP" => Command::Noop,
        "LOGOUT" => Command::Logout,
        "STARTTLS" => Command::StartTls,
        "NAMESPACE" => Command::Namespace,
        "IDLE" => Command::Idle,
        "CHECK" => Command::Check,
        "CLOSE" => Command::Close,
        "UNSELECT" => Command::Unselect,
        "EXPUNGE" => Command::Expunge,
        _ => return None,
    })
}

fn with_arguments(word: &str, cursor: &mut Cursor) -> Parsed<Command> {
    let read = match word {
        "AUTHENTICATE" => authenticate,
        "LOGIN" => login,
        "ENABLE" => enable,
        "ID" => id,
        "SELECT" => |cursor: &mut Cursor| select(Access::ReadWrite, cursor).map(Command::Select),
        "EXAMINE" => |cursor: &mut Cursor| select(Access::ReadOnly, cursor).map(Command::Select),
        "CREATE" => create,
        "DELETE" => |cursor: &mut Cursor| cursor.mailbox().map(Command::Delete),
        "RENAME" => rename,
        "SUBSCRIBE" => |cursor: &mut Cursor| cursor.mailbox().map(Command::Subscribe),
        "UNSUBSCRIBE" => |cursor: &mut Cursor| cursor.mailbox().map(Command::Unsubscribe),
        "LIST" => |cursor: &mut Cursor| list(cursor).map(Command::List),
        "LSUB" => |cursor: &mut Cursor| {
            lsub(cursor).map(|(reference, pattern)| Command::Lsub { reference, pattern })
        },
        "STATUS" => |cursor: &mut Cursor| {
            status(cursor).map(|(mailbox, items)| Command::Status { mailbox, items })
        },
        "GETQUOTA" => |cursor: &mut Cursor| {
            cursor.astring().map(|root| Command::GetQuota { root: root.into_owned() })
        },
        "GETQUOTAROOT" => |cursor: &mut Cursor| cursor.mailbox().map(Command::GetQuotaRoot),
        "COMPRESS" => compress,
        "UID" => uid,
        "APPEND" => |_: &mut Cursor| Err(Fault("APPEND needs a message")),
        _ => return numbered(word, Numbering::Sequence, cursor),
    };
    cursor.space()?;
    read(cursor)
}

/// UID before a command, or UID EXPUNGE (RFC 4315).
fn uid(cursor: &mut Cursor) -> Parsed<Command> {
    let word = cursor.name()?.to_ascii_uppercase();
    if word == "EXPUNGE" {
        cursor.space()?;
        return messages(cursor).map(Command::UidExpunge);
    }
    numbered(&word, Numbering::Uid, cursor)
}

/// Commands that come with and without UID.
fn numbered(word: &str, numbering: Numbering, cursor: &mut Cursor) -> Parsed<Command> {
    let read = match word {
        "SEARCH" => |numbering, cursor: &mut Cursor| search(numbering, cursor).map(Command::Search),
        "SORT" => |numbering, cursor: &mut Cursor| sort(numbering, cursor).map(Command::Sort),
        "THREAD" => |numbering, cursor: &mut Cursor| thread(numbering, cursor).map(Command::Thread),
        "FETCH" => |numbering, cursor: &mut Cursor| fetch(numbering, cursor).map(Command::Fetch),
        "STORE" => |numbering, cursor: &mut Cursor| store(numbering, cursor).map(Command::Store),
        "COPY" => |numbering, cursor: &mut Cursor| {
            let (messages, mailbox) = transfer(cursor)?;
            Ok(Command::Copy { numbering, messages, mailbox })
        },
        "MOVE" => |numbering, cursor: &mut Cursor| {
            let (messages, mailbox) = transfer(cursor)?;
            Ok(Command::Move { numbering, messages, mailbox })
        },
        _ => return Err(Fault("Unknown command")),
    };
    cursor.space()?;
    read(numbering, cursor)
}

pub(super) fn messages(cursor: &mut Cursor) -> Parsed<Messages> {
    if cursor.eat(b'$') {
        return Ok(Messages::Saved);
    }
    cursor.sequence_set().map(Messages::Set)
}

fn transfer(cursor: &mut Cursor) -> Parsed<(Messages, MailboxName)> {
    let messages = messages(cursor)?;
    cursor.space()?;
    Ok((messages, cursor.mailbox()?))
}

fn authenticate(cursor: &mut Cursor) -> Parsed<Command> {
    let mechanism = cursor.atom()?.to_ascii_uppercase().into();
    let mut initial_response = None;
    if cursor.more()? {
        let belongs = |octet: u8| octet.is_ascii_alphanumeric() || b"+/=".contains(&octet);
        let text = std::str::from_utf8(cursor.take_while(belongs));
        initial_response = Some(text.map_err(|_| Fault("Bad base64"))?.into());
    }
    Ok(Command::Authenticate { mechanism, initial_response })
}

fn login(cursor: &mut Cursor) -> Parsed<Command> {
    let name = cursor.astring()?.into_owned();
    cursor.space()?;
    Ok(Command::Login { name, password: cursor.astring()?.into_owned() })
}

fn enable(cursor: &mut Cursor) -> Parsed<Command> {
    let mut capabilities = vec![cursor.atom()?.into()];
    while cursor.more()? {
        capabilities.push(cursor.atom()?.into());
    }
    Ok(Command::Enable(capabilities))
}

fn id(cursor: &mut Cursor) -> Parsed<Command> {
    if cursor.eat_text("NIL") {
        return Ok(Command::Id(Vec::new()));
    }
    let fields = cursor.list(|cursor| {
        let field = cursor.string()?.into_owned();
        cursor.space()?;
        Ok((field, cursor.nstring()?.map(|value| value.into_owned())))
    })?;
    Ok(Command::Id(fields))
}

fn create(cursor: &mut Cursor) -> Parsed<Command> {
    let mailbox = cursor.mailbox()?;
    let mut special_uses = Some(Vec::new());
    if cursor.more()? {
        cursor.list(|cursor| {
            if !cursor.eat_text("USE") {
                return Err(Fault("Unknown CREATE parameter"));
            }
            cursor.space()?;
            special_uses = cursor.list(special_use)?.into_iter().collect();
            Ok(())
        })?;
    }
    Ok(Command::Create { mailbox, special_uses })
}

/// An attribute, known or not.
fn special_use(cursor: &mut Cursor) -> Parsed<Option<SpecialUse>> {
    let name = cursor.take_while(|octet| octet == b'\\' || octet.is_ascii_alphanumeric());
    let is_attribute = name.len() > 1 && name.starts_with(b"\\");
    if is_attribute { Ok(SpecialUse::from_name(name)) } else { Err(Fault("Bad special use")) }
}

fn rename(cursor: &mut Cursor) -> Parsed<Command> {
    let from = cursor.mailbox()?;
    cursor.space()?;
    Ok(Command::Rename { from, to: cursor.mailbox()? })
}

fn compress(cursor: &mut Cursor) -> Parsed<Command> {
    match cursor.atom()?.eq_ignore_ascii_case("DEFLATE") {
        true => Ok(Command::CompressDeflate),
        false => Err(Fault("Unknown compression mechanism")),
    }
}

const BAD_TAG: Fault = Fault("Bad tag");
const TAG_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests;
