//! One command line, parsed in place (RFC 5321 §4.1).

use std::time::Duration;

use crate::mail::envelope::Notify;
use crate::mail::{AddressError, AddressRef, EnvelopeFlags, Reply, Utf8, status};
use crate::proto::message::date::parse_internet_date;
use crate::proto::xtext;

/// A command with its arguments, borrowed from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'l> {
    Ehlo(&'l str),
    Helo(&'l str),
    Lhlo(&'l str),
    Mail(Mail<'l>),
    Rcpt(Rcpt<'l>),
    Data,
    Bdat {
        bytes: u64,
        last: bool,
    },
    Rset,
    Noop,
    Vrfy(&'l str),
    Expn,
    Help,
    /// RFC 4954, with the initial response.
    Auth {
        mechanism: &'l str,
        initial_response: Option<&'l [u8]>,
    },
    /// RFC 3207.
    StartTls,
    Quit,
}

/// MAIL (RFC 5321 §4.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail<'l> {
    /// `None` for the null reverse-path.
    pub reverse_path: Option<AddressRef<'l>>,
    /// SIZE (RFC 1870).
    pub size: Option<u64>,
    /// EIGHT_BIT_MIME, SMTPUTF8, RETURN_FULL and RETURN_HEADERS as declared.
    pub flags: EnvelopeFlags,
    /// ENVID (RFC 3461 §4.4), in xtext.
    pub envelope_id: Option<&'l str>,
    /// HOLDFOR or HOLDUNTIL (RFC 4865).
    pub hold: Option<Hold>,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// AUTH (RFC 4954 §5) was there. Whom it names is no matter here.
    pub has_auth: bool,
}

/// Until when a message is not to be sent on (RFC 4865 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// From now on.
    For(Duration),
    /// Unix milliseconds.
    Until(u64),
}

impl Hold {
    /// Unix milliseconds of the release.
    pub fn release_ms(self, now_ms: u64) -> u64 {
        match self {
            Hold::For(wait) => now_ms.saturating_add(wait.as_millis() as u64),
            Hold::Until(release_ms) => release_ms,
        }
    }
}

/// RCPT (RFC 5321 §4.1.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcpt<'l> {
    pub forward_path: AddressRef<'l>,
    /// NOTIFY (RFC 3461 §4.1).
    pub notify: Notify,
    /// ORCPT (RFC 3461 §4.2), `type;xtext`.
    pub original_recipient: Option<&'l str>,
}

impl<'l> Command<'l> {
    /// Parses a line without its CRLF. `utf8` tells whether SMTPUTF8 holds for RCPT and VRFY; MAIL
    /// brings its own. `Err` is the reply to give.
    pub fn parse(line: &'l [u8], utf8: Utf8) -> Result<Self, Reply> {
        let verb_end = line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let argument = trim(rest);
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        if is("MAIL") {
            mail(argument).map(Command::Mail)
        } else if is("RCPT") {
            rcpt(argument, utf8).map(Command::Rcpt)
        } else if is("DATA") {
            without_argument(argument, Command::Data)
        } else if is("BDAT") {
            bdat(argument)
        } else if is("EHLO") {
            name(argument).map(Command::Ehlo)
        } else if is("HELO") {
            name(argument).map(Command::Helo)
        } else if is("LHLO") {
            name(argument).map(Command::Lhlo)
        } else if is("RSET") {
            without_argument(argument, Command::Rset)
        } else if is("NOOP") {
            Ok(Command::Noop)
        } else if is("AUTH") {
            auth(argument)
        } else if is("STARTTLS") {
            without_argument(argument, Command::StartTls)
        } else if is("QUIT") {
            without_argument(argument, Command::Quit)
        } else if is("VRFY") {
            text(argument).filter(|text| !text.is_empty()).map(Command::Vrfy).ok_or(SYNTAX)
        } else if is("EXPN") {
            Ok(Command::Expn)
        } else if is("HELP") {
            Ok(Command::Help)
        } else {
            Err(UNRECOGNIZED)
        }
    }
}

fn without_argument<'l>(argument: &[u8], command: Command<'l>) -> Result<Command<'l>, Reply> {
    if argument.is_empty() { Ok(command) } else { Err(SYNTAX) }
}

/// The name in EHLO: visible ASCII that cannot break a trace field.
fn name(argument: &[u8]) -> Result<&str, Reply> {
    let visible = |octet: &u8| octet.is_ascii_graphic() && !b"()<>\\\";,@".contains(octet);
    if argument.is_empty() || argument.len() > NAME_BYTES_MAX || !argument.iter().all(visible) {
        return Err(BAD_NAME);
    }
    text(argument).ok_or(BAD_NAME)
}

fn mail(argument: &[u8]) -> Result<Mail<'_>, Reply> {
    let (path, parameters) = path(argument, b"FROM:").ok_or(SYNTAX)?;
    let mut size = None;
    let mut flags = EnvelopeFlags::default();
    let mut utf8 = Utf8::Refused;
    let mut envelope_id = None;
    let mut hold = None;
    let mut require_tls = false;
    let mut has_auth = false;
    for parameter in words(parameters) {
        let (keyword, value) = split_parameter(parameter);
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            size = Some(value.and_then(number).ok_or(BAD_PARAMETER)?);
        } else if keyword.eq_ignore_ascii_case(b"BODY") {
            let value = value.ok_or(BAD_PARAMETER)?;
            if value.eq_ignore_ascii_case(b"8BITMIME") {
                flags.set(EnvelopeFlags::EIGHT_BIT_MIME);
            } else if !value.eq_ignore_ascii_case(b"7BIT") {
                return Err(BAD_PARAMETER);
            }
        } else if keyword.eq_ignore_ascii_case(b"SMTPUTF8") && value.is_none() {
            flags.set(EnvelopeFlags::SMTPUTF8);
            utf8 = Utf8::Allowed;
        } else if keyword.eq_ignore_ascii_case(b"REQUIRETLS") && value.is_none() {
            require_tls = true;
        } else if keyword.eq_ignore_ascii_case(b"AUTH") && !has_auth {
            has_auth = value.is_some_and(|value| !value.is_empty() && value.len() <= 500);
            if !has_auth {
                return Err(BAD_PARAMETER);
            }
        } else if keyword.eq_ignore_ascii_case(b"RET") {
            if flags.has(EnvelopeFlags::RETURN_FULL | EnvelopeFlags::RETURN_HEADERS) {
                return Err(BAD_PARAMETER);
            }
            flags.set(returned(value).ok_or(BAD_PARAMETER)?);
        } else if keyword.eq_ignore_ascii_case(b"ENVID") {
            let value = value.and_then(xtext::parse_envelope_id).ok_or(BAD_PARAMETER)?;
            if envelope_id.replace(value).is_some() {
                return Err(BAD_PARAMETER);
            }
        } else if let Some(value) = hold_of(keyword, value)? {
            // One of the two, once.
            if hold.replace(value).is_some() {
                return Err(BAD_PARAMETER);
            }
        } else {
            return Err(UNKNOWN_PARAMETER);
        }
    }
    let reverse_path = match path {
        b"" => None,
        path => {
            Some(AddressRef::parse(without_route(path), utf8).map_err(|error| match error {
                AddressError::NonAscii => NON_ASCII,
                _ => BAD_REVERSE_PATH,
            })?)
        }
    };
    // A bare Postmaster is a forward-path only.
    if reverse_path.is_some_and(|path| path.domain().is_empty()) {
        return Err(BAD_REVERSE_PATH);
    }
    Ok(Mail { reverse_path, size, flags, envelope_id, hold, require_tls, has_auth })
}

/// HOLDFOR or HOLDUNTIL; `None` for another keyword.
fn hold_of(keyword: &[u8], value: Option<&[u8]>) -> Result<Option<Hold>, Reply> {
    if keyword.eq_ignore_ascii_case(b"HOLDFOR") {
        let digits = value.filter(|value| value.len() <= HOLD_DIGITS_MAX).ok_or(BAD_PARAMETER)?;
        let seconds = number(digits).ok_or(BAD_PARAMETER)?;
        Ok(Some(Hold::For(Duration::from_secs(seconds))))
    } else if keyword.eq_ignore_ascii_case(b"HOLDUNTIL") {
        let release_ms = value.and_then(parse_internet_date).ok_or(BAD_PARAMETER)?;
        Ok(Some(Hold::Until(release_ms)))
    } else {
        Ok(None)
    }
}

/// RET: what a report on a failure returns.
fn returned(value: Option<&[u8]>) -> Option<u16> {
    let value = value?;
    if value.eq_ignore_ascii_case(b"FULL") {
        Some(EnvelopeFlags::RETURN_FULL)
    } else if value.eq_ignore_ascii_case(b"HDRS") {
        Some(EnvelopeFlags::RETURN_HEADERS)
    } else {
        None
    }
}

fn rcpt(argument: &[u8], utf8: Utf8) -> Result<Rcpt<'_>, Reply> {
    let (path, parameters) = path(argument, b"TO:").ok_or(SYNTAX)?;
    let mut notify = None;
    let mut original_recipient = None;
    for parameter in words(parameters) {
        let (keyword, value) = split_parameter(parameter);
        let is_again = if keyword.eq_ignore_ascii_case(b"NOTIFY") {
            notify.replace(value.and_then(notifications).ok_or(BAD_PARAMETER)?).is_some()
        } else if keyword.eq_ignore_ascii_case(b"ORCPT") {
            let value = value.and_then(|value| xtext::parse_original_recipient(value, utf8));
            original_recipient.replace(value.ok_or(BAD_PARAMETER)?).is_some()
        } else {
            return Err(UNKNOWN_PARAMETER);
        };
        if is_again {
            return Err(BAD_PARAMETER);
        }
    }
    let forward_path =
        AddressRef::parse(without_route(path), utf8).map_err(|error| match error {
            AddressError::NonAscii => NON_ASCII,
            _ => BAD_FORWARD_PATH,
        })?;
    let notify = notify.unwrap_or(Notify::DEFAULT);
    Ok(Rcpt { forward_path, notify, original_recipient })
}

/// NOTIFY: NEVER alone, or a list of the others.
fn notifications(value: &[u8]) -> Option<Notify> {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    if is(value, "NEVER") {
        return Some(Notify(Notify::NEVER));
    }
    let mut notify = Notify::DEFAULT;
    for word in value.split(|octet| *octet == b',') {
        notify.0 |= match word {
            word if is(word, "SUCCESS") => Notify::SUCCESS,
            word if is(word, "FAILURE") => Notify::FAILURE,
            word if is(word, "DELAY") => Notify::DELAY,
            _ => return None,
        };
    }
    Some(notify)
}

fn bdat<'l>(argument: &[u8]) -> Result<Command<'l>, Reply> {
    let mut words = words(argument);
    let bytes = words.next().and_then(number).ok_or(SYNTAX)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return Err(SYNTAX),
    };
    if words.next().is_some() { Err(SYNTAX) } else { Ok(Command::Bdat { bytes, last }) }
}

fn auth<'l>(argument: &'l [u8]) -> Result<Command<'l>, Reply> {
    let mut words = words(argument);
    let mechanism = words.next().and_then(text).ok_or(SYNTAX)?;
    let initial_response = words.next();
    match words.next() {
        None => Ok(Command::Auth { mechanism, initial_response }),
        Some(_) => Err(SYNTAX),
    }
}

/// The inside of `<...>` behind `keyword`, and what follows it. A space after the colon is
/// forgiven.
fn path<'l>(argument: &'l [u8], keyword: &[u8]) -> Option<(&'l [u8], &'l [u8])> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = trim(rest).strip_prefix(b"<")?;
    let mut in_quotes = false;
    let mut at = 0;
    loop {
        match *rest.get(at)? {
            b'>' if !in_quotes => break,
            b'"' => in_quotes = !in_quotes,
            b'\\' if in_quotes => at += 1,
            _ => {}
        }
        at += 1;
    }
    let parameters = &rest[at + 1..];
    if !parameters.is_empty() && parameters[0] != b' ' {
        return None;
    }
    Some((&rest[..at], parameters))
}

/// Drops `@one,@two:` (RFC 5321 §4.1.1.3: source routes are accepted and ignored).
fn without_route(path: &[u8]) -> &[u8] {
    if path.first() != Some(&b'@') {
        return path;
    }
    match memchr::memchr(b':', path) {
        Some(colon) => &path[colon + 1..],
        None => path,
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| *octet == b' ').filter(|word| !word.is_empty())
}

fn split_parameter(parameter: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', parameter) {
        Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
        None => (parameter, None),
    }
}

/// At most twenty digits (RFC 1870 §5).
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

const UNRECOGNIZED: Reply =
    Reply::new(500, status::SYNTAX_ERROR, "Command not recognized; try HELP");
const SYNTAX: Reply = Reply::new(501, status::INVALID_ARGUMENTS, "Syntax error in arguments");
const BAD_NAME: Reply = Reply::new(501, status::INVALID_ARGUMENTS, "A host name is needed");
pub(super) const BAD_PARAMETER: Reply =
    Reply::new(501, status::INVALID_ARGUMENTS, "Bad parameter value");
pub(super) const UNKNOWN_PARAMETER: Reply =
    Reply::new(555, status::INVALID_ARGUMENTS, "Parameter not recognized or not implemented");
const BAD_REVERSE_PATH: Reply =
    Reply::new(501, status::BAD_REVERSE_PATH_SYNTAX, "Bad reverse-path syntax");
const BAD_FORWARD_PATH: Reply =
    Reply::new(501, status::BAD_DESTINATION_SYNTAX, "Bad forward-path syntax");
const NON_ASCII: Reply = Reply::new(553, status::NON_ASCII_ADDRESS, "This address needs SMTPUTF8");
/// Digits of HOLDFOR (RFC 4865 §5).
const HOLD_DIGITS_MAX: usize = 9;
/// Longest name in EHLO.
const NAME_BYTES_MAX: usize = 255;
