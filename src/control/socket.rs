//! The control socket in the data directory, for the commands of this program.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::asking::{self, AskError};
use super::deadline::Deadlined;
use super::wire::{Line, Request, SteerOrder};
use super::{ANSWER_WAIT, Control};
use crate::mail::QueueId;
use crate::queue::{Order, Selection, Steered};
use crate::shard::ask::Ask;

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

/// Answers one client after the other, each within a deadline, for as long as the process lives.
pub(super) fn serve(listener: &ControlListener, control: &Control) {
    loop {
        match listener.listener.accept() {
            // A client that goes away midway harms nobody.
            Ok((stream, _)) => drop(answer(stream, control)),
            // Out of descriptors: they come back.
            Err(_) => std::thread::sleep(ACCEPT_RETRY_WAIT),
        }
    }
}

fn answer(stream: UnixStream, control: &Control) -> io::Result<()> {
    let mut stream = Deadlined::new(stream, CLIENT_TIME_MAX);
    let request = match read_line(&mut stream)? {
        Some(line) => Request::parse(&line),
        None => Err(format!("not a request: longer than {REQUEST_BYTES_MAX} octets or cut off")),
    };
    let mut out = Out { stream, buffer: Vec::new() };
    let answered = match request {
        Ok(request) => answer_request(&request, control, &mut out),
        Err(text) => Err(Stop::Refused(text)),
    };
    match answered {
        Ok(()) => out.line(&Line::End)?,
        Err(Stop::Refused(text)) => out.line(&Line::Error(text))?,
        Err(Stop::Shard(error)) => out.line(&Line::Error(error.to_string()))?,
        Err(Stop::Client(error)) => return Err(error),
    }
    out.flush()
}

/// Why an answer ends before its time.
enum Stop {
    Refused(String),
    Shard(AskError),
    Client(io::Error),
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

fn answer_request<S: Read + Write>(
    request: &Request,
    control: &Control,
    out: &mut Out<S>,
) -> Result<(), Stop> {
    match request {
        Request::QueueList { after, count_max } => {
            let after = after.as_deref().map(|text| parse_id(text, control)).transpose()?;
            list(after, *count_max, control, out)
        }
        Request::QueueShow { id } => {
            let id = parse_id(id, control)?;
            let shard = usize::from(id.shard);
            let shown = asking::ask_one(&*control.shards, shard, ANSWER_WAIT, |reply| {
                Ask::QueueShow { message: id.message, reply }
            })?;
            match shown {
                Some(message) => Ok(out.line(&Line::Message(message))?),
                None => Err(Stop::Refused(format!("{id} is not queued here (any more)"))),
            }
        }
        Request::QueueStats => {
            let answers = asking::ask_all(&*control.shards, ANSWER_WAIT, Ask::QueueStats);
            for (shard, stats) in answers.into_iter().enumerate() {
                out.line(&Line::Stats { shard, stats: stats? })?;
            }
            Ok(())
        }
        Request::QueueSteer { order, id, domain, all, dry_run } => {
            if id.is_none() && domain.is_none() && !all {
                return Err(Stop::Refused("say which messages: --id, --domain or --all".into()));
            }
            let id = id.as_deref().map(|text| parse_id(text, control)).transpose()?;
            let order = match order {
                SteerOrder::Retry => Order::Retry,
                SteerOrder::Hold => Order::Hold,
                SteerOrder::Release => Order::Release,
                SteerOrder::Bounce => Order::Bounce,
            };
            let message = id.map(|id| id.message);
            let domain = domain.clone();
            let selection = Selection { message, domain, ..Selection::default() };
            for shard in 0..control.shards.count() {
                if id.is_some_and(|id| usize::from(id.shard) != shard) {
                    continue;
                }
                let steered = asking::ask_one(&*control.shards, shard, STEER_WAIT, |reply| {
                    let (selection, dry_run) = (selection.clone(), *dry_run);
                    Ask::QueueSteer { selection, order, dry_run, reply }
                })?;
                let Steered { matched, done } = steered;
                out.line(&Line::Steered { shard, matched, done })?;
            }
            Ok(())
        }
        Request::Reload => match control.reload() {
            Ok(reloaded) => Ok(out.line(&Line::Note(reloaded.to_string()))?),
            Err(error) => Err(Stop::Refused(error.to_string())),
        },
    }
}

/// Shard by shard, a page at a time, so that neither side holds the whole queue.
fn list<S: Read + Write>(
    after: Option<QueueId>,
    count_max: usize,
    control: &Control,
    out: &mut Out<S>,
) -> Result<(), Stop> {
    let mut left = count_max;
    let first_shard = after.map_or(0, |id| usize::from(id.shard));
    for shard in first_shard..control.shards.count() {
        let mut after = after.filter(|id| usize::from(id.shard) == shard).map(|id| id.message);
        while left > 0 {
            let count_max = left.min(PAGE_MESSAGES);
            let page = asking::ask_one(&*control.shards, shard, ANSWER_WAIT, |reply| {
                Ask::QueueList { after, count_max, reply }
            })?;
            let Some(last) = page.last() else { break };
            after = last.id.parse().ok().map(|id: QueueId| id.message);
            left = left.saturating_sub(page.len());
            for message in page {
                out.line(&Line::Message(message))?;
            }
        }
    }
    Ok(())
}

/// A queue id of this server.
fn parse_id(text: &str, control: &Control) -> Result<QueueId, Stop> {
    let id: QueueId = text.parse().map_err(|error| Stop::Refused(format!("{text:?}: {error}")))?;
    let node = control.config().node;
    if id.node != node || usize::from(id.shard) >= control.shards.count() {
        return Err(Stop::Refused(format!("{id} belongs to another server")));
    }
    Ok(id)
}

/// The request without its line feed; `None` when it is too long or the client stops midway.
fn read_line(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut piece = [0; 512];
    while line.len() <= REQUEST_BYTES_MAX {
        let count = stream.read(&mut piece)?;
        line.extend_from_slice(&piece[..count]);
        if let Some(end) = line.iter().position(|octet| *octet == b'\n') {
            line.truncate(end);
            return Ok(Some(line));
        }
        if count == 0 {
            break;
        }
    }
    Ok(None)
}

/// Lines gathered into larger writes.
struct Out<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: Write> Out<S> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        line.write(&mut self.buffer);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
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
const WRITE_BYTES: usize = 64 * 1024;
/// Messages a shard is asked for at once.
const PAGE_MESSAGES: usize = 256;
/// From a client's connection to its last octet.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(60);
/// For one shard to carry out an order on all that it has.
const STEER_WAIT: Duration = Duration::from_secs(25);
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::Receiver;

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
                Ask::QueueList { after, count_max, reply } => {
                    let numbers = (1..=3).filter(|it| *it > after.unwrap_or(0)).take(count_max);
                    reply.send(numbers.map(message).collect()).map_err(drop)
                }
                Ask::QueueShow { message: number, reply } => {
                    reply.send((number <= 3).then(|| message(number))).map_err(drop)
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
        let control = Control::new(Box::new(shards), config, None, log);
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
            let steer = "{\"ask\":\"queue-steer\",\"order\":\"hold\",\"id\":null,\"domain\":null,";
            check(&format!("{steer}\"all\":false,\"dry_run\":false}}\n"), "say which messages");
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
