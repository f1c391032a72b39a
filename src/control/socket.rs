//! The control socket in the data directory, for the commands of this program.

use std::cmp::Reverse;
use std::fmt;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accounts::Named;
use super::asking::{self, AskError};
use super::wire::{IMPORT_BEGINS, Line, Request};
use super::{ANSWER_WAIT, Control, explain, orders, verify};
use crate::mail::QueueId;
use crate::queue::survey::{self, Survey};
use crate::runtime::deadline::Deadlined;
use crate::runtime::privilege::peer_user;
use crate::runtime::{clock, thread};
use crate::shard::ask::{Ask, QueuedMessage};

/// The socket's name in a data directory.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// A bound control socket. Its file stays: the last act of the server is to remove it.
pub struct ControlListener {
    listener: UnixListener,
}

/// The control socket could not be made.
#[derive(Debug)]
pub struct SocketError {
    pub path: PathBuf,
    pub error: io::Error,
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error } = self;
        write!(f, "cannot make the control socket {}: {error}", path.display())?;
        if path.as_os_str().len() >= PATH_BYTES_MAX {
            f.write_str("; choose a data_dir with a shorter path")?;
        }
        Ok(())
    }
}

impl std::error::Error for SocketError {}

/// Makes the socket, readable and writable by this user only. A socket that a killed server left
/// is replaced: whoever holds the journals of `data_dir` is the server.
pub fn bind(data_dir: &Path) -> Result<ControlListener, SocketError> {
    let path = path_in(data_dir);
    let new = data_dir.join("control.new");
    let bind = || {
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        std::fs::rename(&new, &path)?;
        Ok(listener)
    };
    match bind() {
        Ok(listener) => Ok(ControlListener { listener }),
        Err(error) => Err(SocketError { path, error }),
    }
}

/// Answers clients, each by a thread of its own and within deadlines, for as long as the process
/// lives: a long order keeps nobody from looking.
pub(super) fn serve(listener: &ControlListener, control: &Arc<Control>) {
    loop {
        match listener.listener.accept() {
            Ok((stream, _)) => serve_client(stream, control),
            // Out of descriptors: they come back.
            Err(_) => std::thread::sleep(ACCEPT_RETRY_WAIT),
        }
    }
}

fn serve_client(stream: UnixStream, control: &Arc<Control>) {
    if control.client_count.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
        control.client_count.fetch_sub(1, Ordering::SeqCst);
        // Whoever does not wait for the answer loses nothing by it.
        drop(refuse(stream));
        return;
    }
    let core = control.config().shards.control_core;
    let counted = Counted(control.clone());
    // A client that goes away midway harms nobody; without a thread it finds the stream closed.
    let _ = thread::spawn("control-client", core, move || drop(answer(stream, &counted.0)));
}

/// A client takes its place in the count with it when it goes.
struct Counted(Arc<Control>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.client_count.fetch_sub(1, Ordering::SeqCst);
    }
}

fn refuse(stream: UnixStream) -> io::Result<()> {
    let text = format!("{CLIENTS_MAX} clients are being answered already; ask again later");
    let stream = Deadlined::new(stream, REFUSAL_TIME_MAX);
    let mut out = Out { stream, buffer: Vec::new() };
    out.line(&Line::Error(text))?;
    out.flush()
}

fn answer(stream: UnixStream, control: &Control) -> io::Result<()> {
    let by = peer_user(&stream)?;
    let mut stream = Deadlined::new(stream, CLIENT_TIME_MAX);
    let request = match read_line(&mut stream)? {
        Some(line) => Request::parse(&line),
        None => Err(format!("not a request: longer than {REQUEST_BYTES_MAX} octets or cut off")),
    };
    let mut out = Out { stream, buffer: Vec::new() };
    let answered = match request {
        Ok(request) => answer_request(&request, &by, control, &mut out),
        Err(text) => Err(Stop::Refused(text)),
    };
    match answered {
        Ok(()) => out.line(&Line::End)?,
        Err(Stop::Client(error)) => return Err(error),
        Err(stop) => out.line(&Line::Error(stop.to_string()))?,
    }
    out.flush()
}

/// Why an answer ends before its time.
pub(super) enum Stop {
    Refused(String),
    Shard(AskError),
    Client(io::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Refused(text) => f.write_str(text),
            Stop::Shard(error) => write!(f, "{error}"),
            Stop::Client(error) => write!(f, "the client went away: {error}"),
        }
    }
}

impl From<AskError> for Stop {
    fn from(error: AskError) -> Self {
        Stop::Shard(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Client(error)
    }
}

fn answer_request(
    request: &Request,
    by: &str,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    match request {
        Request::QueueList { after, count_max } => {
            let after = after.as_deref().map(|text| parse_id(text, control)).transpose()?;
            list(after, *count_max, control, out)
        }
        Request::QueueShow { id } => {
            let id = parse_id(id, control)?;
            Ok(out.line(&Line::Message(shown(id, control)?))?)
        }
        Request::QueueStats => {
            let answers = asking::ask_all(&*control.shards, ANSWER_WAIT, Ask::QueueStats);
            for (shard, stats) in answers {
                out.line(&Line::Stats { shard, stats: stats? })?;
            }
            Ok(())
        }
        Request::QueueSurvey { by, count_max } => {
            let mut survey = Survey::new();
            // Each looks at all that it has.
            let make = |reply| Ask::QueueSurvey { by: *by, reply };
            for (_, of_shard) in asking::ask_all(&*control.shards, SURVEY_WAIT, make) {
                survey::merge(&mut survey, of_shard?);
            }
            let mut rows: Vec<_> = survey.into_iter().collect();
            rows.sort_by_cached_key(|(name, ages)| {
                (Reverse(ages.iter().sum::<u64>()), name.clone())
            });
            for (name, ages) in rows.into_iter().take(*count_max) {
                out.line(&Line::Row { name, ages })?;
            }
            Ok(())
        }
        Request::Explain { subject } => explain::answer(subject, control, out),
        Request::QueueSteer { order, which, dry_run } => {
            orders::steer(order, which, *dry_run, by, control, out)
        }
        Request::Suspend { mail, all, seconds, note, dry_run } => {
            let words = orders::Suspend { mail, all: *all, seconds: *seconds, note };
            orders::suspend(&words, *dry_run, by, control, out)
        }
        Request::Resume { number, mail, all, dry_run } => {
            let words = orders::Resume { number: *number, mail, all: *all };
            orders::resume(&words, *dry_run, by, control, out)
        }
        Request::Suspensions => {
            let now_ms = clock::unix_ms();
            for suspension in control.suspensions().iter().filter(|it| it.stands(now_ms)) {
                out.line(&Line::Suspension(suspension.clone()))?;
            }
            let mut by_rule = Vec::new();
            let make = Ask::RuleSuspensions;
            for (_, known) in asking::ask_all(&*control.shards, ANSWER_WAIT, make) {
                explain::merge(&mut by_rule, known?);
            }
            for suspension in by_rule {
                out.line(&Line::RuleSuspension(suspension))?;
            }
            Ok(())
        }
        Request::Verify { addresses, fresh } => verify::answer(addresses, *fresh, control, out),
        Request::AccountAdd { name, secret, quota } => {
            control.try_add_account(name, secret.as_deref(), quota.into())
        }
        Request::AccountRemove { name } => control.remove_account(name),
        Request::AccountPassword { name, secret } => control.set_secret(name, secret),
        Request::AccountQuota { name, quota } => control.set_quota(name, quota.into()),
        Request::AccountList => control.list_accounts(out),
        Request::MailboxList { account } => control.list_mailboxes(account, out),
        Request::MailboxCreate { account, mailbox, special_uses } => {
            control.create_mailbox(&Named { account, mailbox }, special_uses)
        }
        Request::MailboxRename { account, mailbox, to } => {
            control.rename_mailbox(&Named { account, mailbox }, to)
        }
        Request::MailboxDelete { account, mailbox } => {
            control.delete_mailbox(&Named { account, mailbox })
        }
        Request::MailboxDeleted { account } => control.list_deleted(account, out),
        Request::MailboxUndelete { account, mailbox, to } => {
            control.undelete_mailbox(&Named { account, mailbox }, to.as_deref(), out)
        }
        Request::MailboxOpen { account, mailbox, uid_validity } => {
            control.open_mailbox(&Named { account, mailbox }, *uid_validity, out)
        }
        Request::MailboxImport { account, mailbox, uid_validity, letters } => {
            control.import(&Named { account, mailbox }, *uid_validity, letters, out)
        }
        Request::MailboxExport { account, mailbox, from } => {
            control.export(&Named { account, mailbox }, *from, out)
        }
        Request::MailboxSpecialUses { account, mailbox, special_uses } => {
            control.set_special_uses(&Named { account, mailbox }, special_uses)
        }
        Request::Reload => match control.reload() {
            Ok(reloaded) => Ok(out.line(&Line::Note(reloaded.to_string()))?),
            Err(error) => Err(Stop::Refused(error.to_string())),
        },
    }
}

/// A queued message.
pub(super) fn shown(id: QueueId, control: &Control) -> Result<QueuedMessage, Stop> {
    let shard = usize::from(id.shard);
    let make = |reply| Ask::QueueShow { messages: vec![id.message], reply };
    let mut shown = asking::ask_one(&*control.shards, shard, ANSWER_WAIT, make)?;
    shown.pop().ok_or_else(|| Stop::Refused(format!("{id} is not queued here (any more)")))
}

/// Shard by shard. To find the next numbers a shard looks at all it has, so it is asked for many at
/// once; messages come a page at a time, so that neither side holds the whole queue.
fn list(
    after: Option<QueueId>,
    count_max: usize,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    let mut left = count_max;
    let first_shard = after.map_or(0, |id| usize::from(id.shard));
    let shards = control.shards.numbers().into_iter().filter(|shard| *shard >= first_shard);
    for shard in shards {
        let mut after = after.filter(|id| usize::from(id.shard) == shard).map(|id| id.message);
        while left > 0 {
            let count_max = left.min(NUMBERS_AT_ONCE);
            let numbers = asking::ask_one(&*control.shards, shard, SURVEY_WAIT, |reply| {
                Ask::QueueNumbers { after, count_max, reply }
            })?;
            for page in numbers.chunks(PAGE_MESSAGES) {
                let messages = page.to_vec();
                let make = |reply| Ask::QueueShow { messages, reply };
                let page = asking::ask_one(&*control.shards, shard, ANSWER_WAIT, make)?;
                // What was settled since is no longer queued, and another takes its place.
                left = left.saturating_sub(page.len());
                for message in page {
                    out.line(&Line::Message(message))?;
                }
            }
            if numbers.len() < count_max {
                break;
            }
            after = numbers.last().copied();
        }
    }
    Ok(())
}

/// A queue id of this server.
pub(super) fn parse_id(text: &str, control: &Control) -> Result<QueueId, Stop> {
    let id: QueueId = text.parse().map_err(|error| Stop::Refused(format!("{text:?}: {error}")))?;
    let node = control.config().node;
    if id.node != node || !control.shards.numbers().contains(&id.shard.into()) {
        return Err(Stop::Refused(format!("{id} belongs to another server")));
    }
    Ok(id)
}

/// The request without its line feed; `None` when it is too long or the client stops midway.
fn read_line(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    let bytes_max = |line: &[u8]| match line.starts_with(IMPORT_BEGINS) {
        true => IMPORT_BYTES_MAX,
        false => REQUEST_BYTES_MAX,
    };
    while line.len() <= bytes_max(&line) {
        let count = stream.read(&mut piece)?;
        line.extend_from_slice(&piece[..count]);
        if let Some(end) = piece[..count].iter().position(|octet| *octet == b'\n') {
            line.truncate(line.len() - count + end);
            return Ok(Some(line));
        }
        if count == 0 {
            break;
        }
    }
    Ok(None)
}

/// Lines gathered into larger writes.
pub(super) struct Out {
    stream: Deadlined<UnixStream>,
    buffer: Vec<u8>,
}

impl Out {
    pub fn line(&mut self, line: &Line) -> io::Result<()> {
        line.write(&mut self.buffer);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// A line that is to be seen at once. What goes on may take as long as it takes.
    pub fn line_now(&mut self, line: &Line) -> io::Result<()> {
        self.stream.renew(CLIENT_TIME_MAX);
        self.line(line)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Room for a path in a socket address, its end included.
const PATH_BYTES_MAX: usize = 108;
const REQUEST_BYTES_MAX: usize = 4096;
/// Of a request with letters, of which one may be as long as a message.
const IMPORT_BYTES_MAX: usize = 100 << 20;
const WRITE_BYTES: usize = 64 * 1024;
/// For a shard to look at all that it has, besides its work.
const SURVEY_WAIT: Duration = Duration::from_secs(50);
/// Numbers of messages a shard is asked for at once.
const NUMBERS_AT_ONCE: usize = 65_536;
/// Messages a shard is asked for at once.
const PAGE_MESSAGES: usize = 256;
/// From a client's connection to its last octet; for a long order, from one sign of progress to the
/// next.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(60);
/// Operators that are answered at once.
const CLIENTS_MAX: usize = 16;
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::super::Directory;
    use super::super::asking::fake;
    use super::*;
    use crate::config::Config;
    use crate::event::LogWriter;
    use crate::shard::ask::{QueueStats, QueuedMessage};

    fn id(shard: u16, message: u64) -> String {
        QueueId { node: 0, shard, message }.to_string()
    }

    /// A shard whose queue holds the messages 1..=3.
    fn run_shard(shard: u16, inbox: Receiver<Ask>) {
        for ask in inbox {
            let message = |message| QueuedMessage { id: id(shard, message), ..Default::default() };
            // Askers are still there: they wait.
            let _ = match ask {
                Ask::QueueNumbers { after, count_max, reply } => {
                    let numbers = (1..=3).filter(|number| *number > after.unwrap_or(0));
                    reply.send(numbers.take(count_max).collect()).map_err(drop)
                }
                Ask::QueueShow { messages, reply } => {
                    let queued = messages.into_iter().filter(|number| *number <= 3);
                    reply.send(queued.map(message).collect()).map_err(drop)
                }
                Ask::QueueStats(reply) => {
                    reply.send(QueueStats { messages: 3, ..Default::default() }).map_err(drop)
                }
                _ => panic!("not asked here"),
            };
        }
    }

    fn with_server(check: impl FnOnce(&dyn Fn(&str) -> Vec<Line>)) {
        let directory = tempfile::tempdir().expect("a directory");
        let (writer, log) = LogWriter::start(Some(directory.path().join("log"))).expect("a log");
        let (shards, inboxes) = fake::shards(2);
        for (shard, inbox) in inboxes.into_iter().enumerate() {
            std::thread::spawn(move || run_shard(shard as u16, inbox));
        }
        let config = Arc::new(Config::embedded());
        let control =
            Control::new(Box::new(shards), config, None, log, Arc::default(), Directory::default());
        check(&|request: &str| {
            let (ours, mut client) = UnixStream::pair().expect("a pair");
            client.write_all(request.as_bytes()).expect("written");
            client.shutdown(std::net::Shutdown::Write).expect("open");
            answer(ours, &control).expect("answered");
            let mut text = String::new();
            client.read_to_string(&mut text).expect("read");
            text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
        });
        writer.stop();
    }

    #[test]
    fn a_list_goes_over_all_shards_and_on_behind_an_id() {
        with_server(|ask| {
            let ids = |lines: Vec<Line>| -> Vec<String> {
                assert_eq!(lines.last(), Some(&Line::End));
                let messages = lines.into_iter().filter_map(|line| match line {
                    Line::Message(message) => Some(message.id),
                    _ => None,
                });
                messages.collect()
            };
            let all = ids(ask("{\"ask\":\"queue-list\",\"after\":null,\"count_max\":9}\n"));
            assert_eq!(all, [id(0, 1), id(0, 2), id(0, 3), id(1, 1), id(1, 2), id(1, 3)]);
            let after = id(0, 2);
            let some =
                format!("{{\"ask\":\"queue-list\",\"after\":\"{after}\",\"count_max\":2}}\n");
            assert_eq!(ids(ask(&some)), [id(0, 3), id(1, 1)]);
        });
    }

    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        with_server(|ask| {
            let check = |request: &str, expected: &str| {
                let lines = ask(request);
                let [Line::Error(text)] = &lines[..] else { panic!("{lines:?}") };
                assert!(text.contains(expected), "{text}");
            };
            check("{\"ask\":\"queue-show\",\"id\":\"0.0.9\"}\n", "0.0.9 is not queued");
            check("{\"ask\":\"queue-show\",\"id\":\"1.0.1\"}\n", "another server");
            check("{\"ask\":\"queue-show\",\"id\":\"0.2.1\"}\n", "another server");
            check("{\"ask\":\"queue-show\",\"id\":\"x\"}\n", "not a queue id");
            let steer = |which: &str| {
                let which = format!("\"which\":{{{which}}},\"dry_run\":false");
                format!("{{\"ask\":\"queue-steer\",\"order\":\"hold\",{which}}}\n")
            };
            check(&steer("\"mail\":{},\"all\":false"), "say which messages");
            check(&steer("\"mail\":{\"domain\":\"a\"},\"all\":true"), "--all takes no other");
            check(&steer("\"mail\":{\"tenant\":\"**\"},\"all\":false"), "tenant: found");
            check("{\"ask\":\"reload\"}\n", "without --config");
            check("{\"ask\":\"queue-stats\"}", "cut off");
            check(&"x".repeat(REQUEST_BYTES_MAX + 1), "longer than");
            check("EHLO\n", "not a request");
        });
    }

    #[test]
    fn stats_come_by_shard() {
        with_server(|ask| {
            let lines = ask("{\"ask\":\"queue-stats\"}\n");
            assert_eq!(lines.len(), 3);
            assert!(matches!(&lines[1], Line::Stats { shard: 1, stats } if stats.messages == 3));
        });
    }

    #[test]
    fn the_socket_is_private_and_replaces_what_a_killed_server_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = bind(directory.path()).expect("bound");
        let path = path_in(directory.path());
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert!(UnixStream::connect(&path).is_err());
        let _second = bind(directory.path()).expect("bound again");
        assert!(UnixStream::connect(&path).is_ok());
    }
}
