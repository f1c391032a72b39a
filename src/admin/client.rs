//! Speaking to a running server over its control socket, and what its answers have in common.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::Source;
use super::exit::{Exit, Failure};
use crate::control;
use crate::control::wire::{Line, Request};
use crate::runtime::deadline::Deadlined;

/// Which server: by its configuration, or by its data directory.
#[derive(Args, Clone, Debug)]
pub struct Place {
    #[command(flatten)]
    source: Source,
    /// The server's data directory, instead of its configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The configuration, unless a data directory stands for it.
    pub fn source(&self) -> Option<&Source> {
        self.data_dir.is_none().then_some(&self.source)
    }

    fn data_dir(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(data_dir.clone()),
            None => Ok(self.source.load()?.data_dir.clone()),
        }
    }
}

pub fn reload(place: &Place) -> Result<(), Failure> {
    ask(place, &Request::Reload, &mut |line| match line {
        Line::Note(text) => print(&format!("{text}\n")),
        _ => Ok(()),
    })
}

/// Sends one request and gives each line of the answer to `on_line`, up to the last.
pub fn ask(
    place: &Place,
    request: &Request,
    on_line: &mut dyn FnMut(Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let data_dir = place.data_dir()?;
    let path = control::socket_path(&data_dir);
    let stream = UnixStream::connect(&path).map_err(|error| no_server(&path, &error))?;
    let mut stream = Deadlined::new(stream, ANSWER_TIME_MAX);
    let mut line = serde_json::to_vec(request).expect("strings and numbers have a JSON form");
    line.push(b'\n');
    let lost = |error: io::Error| {
        Failure::new(Exit::Temporary, format!("{}: {error}; is it overloaded?", path.display()))
    };
    stream.write_all(&line).map_err(lost)?;
    let mut answer = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        answer.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(lost)?;
        match serde_json::from_slice(&line) {
            Ok(Line::End) => return Ok(()),
            Ok(Line::Error(text)) => return Err(Failure::new(Exit::Unavailable, printable(&text))),
            Ok(line) => {
                on_line(line)?;
                // A long order says how far it is: it may go on for as long as it does.
                answer.get_mut().renew(ANSWER_TIME_MAX);
            }
            Err(_) => {
                let text = format!("{}: the answer was cut off", path.display());
                return Err(Failure::new(Exit::Temporary, text));
            }
        }
    }
}

fn no_server(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unavailable,
            format!("no server answers at {path}; start it, or name its --config or --data-dir"),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            format!("{path}: {error}; run this as the server's user or as root"),
        ),
        _ => Failure::new(Exit::Unavailable, format!("{path}: {error}")),
    }
}

pub fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::new(Exit::InputOutput, error))
}

pub fn json_line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("strings and numbers have a JSON form");
    text.push('\n');
    text
}

/// Text from strangers on a terminal: control characters are shown, not obeyed.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The largest unit that leaves a number above zero.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    for (length, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds >= 2 * length {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

pub fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 10 << shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A message with the most recipients is far shorter.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// The server itself gives up after less.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_is_said_plainly() {
        let directory = tempfile::tempdir().expect("a directory");
        let place =
            Place { source: Source::default(), data_dir: Some(directory.path().to_owned()) };
        let failure = reload(&place).expect_err("nobody there");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.text.starts_with("no server answers at "), "{}", failure.text);
    }
}
