//! `GET /metrics` for Prometheus: one connection at a time, each with a deadline and a bound.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use super::asking::{self, Shards};
use super::{ANSWER_WAIT, Control};
use crate::config::Durability;
use crate::event::notice;
use crate::metrics::{self, Snapshot};
use crate::runtime::deadline::Deadlined;
use crate::shard::ask::Ask;

/// Answers one client after the other for as long as the process lives.
pub(super) fn serve(listener: &TcpListener, control: &Control) {
    loop {
        match listener.accept() {
            // A client that goes away midway harms nobody.
            Ok((stream, _)) => drop(answer(stream, control)),
            // Out of descriptors: they come back.
            Err(_) => std::thread::sleep(ACCEPT_RETRY_WAIT),
        }
    }
}

fn answer(stream: TcpStream, control: &Control) -> io::Result<()> {
    let closing = stream.try_clone()?;
    let mut stream = Deadlined::new(stream, CLIENT_TIME_MAX);
    let response = match read_head(&mut stream)? {
        Head::Complete(head) => respond(&head, || scrape(control)),
        Head::TooLong => Response::of(431, "request header fields too long\n"),
        Head::CutOff => return Ok(()),
    };
    stream.write_all(&response.bytes())?;
    closing.shutdown(Shutdown::Write)
}

enum Head {
    /// Up to the empty line.
    Complete(Vec<u8>),
    TooLong,
    CutOff,
}

fn read_head(stream: &mut impl Read) -> io::Result<Head> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(Head::CutOff);
        }
        head.extend_from_slice(&piece[..count]);
        // A bare line feed ends a line too (RFC 9112 §2.2).
        if head.windows(2).any(|it| it == b"\n\n") || head.windows(3).any(|it| it == b"\n\r\n") {
            return Ok(Head::Complete(head));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
    }
}

struct Response {
    status: u16,
    body: String,
    /// The answer to HEAD says how long the body would be.
    send_body: bool,
}

impl Response {
    fn of(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned(), send_body: true }
    }

    fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Request Header Fields Too Large",
        };
        let kind = if self.status == 200 { "text/plain; version=0.0.4" } else { "text/plain" };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n{allow}\r\n",
            self.status,
            self.body.len(),
        );
        if self.send_body {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

/// Decides by the request line; header fields do not matter here.
fn respond(head: &[u8], scrape: impl FnOnce() -> String) -> Response {
    let line = head.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.trim_ascii_end().split(|octet| *octet == b' ').collect();
    let [method, target, version] = words[..] else {
        return Response::of(400, "not a request\n");
    };
    if !version.starts_with(b"HTTP/1.") {
        return Response::of(400, "not HTTP/1\n");
    }
    if method != b"GET" && method != b"HEAD" {
        return Response::of(405, "GET and HEAD only\n");
    }
    let path = target.split(|octet| *octet == b'?').next().unwrap_or_default();
    let body = match path {
        b"/metrics" => scrape(),
        b"/" => "ringpost: see /metrics\n".to_owned(),
        _ => return Response::of(404, "see /metrics\n"),
    };
    Response { status: 200, body, send_body: method == b"GET" }
}

/// Everything that is counted. A shard that does not answer is reported as down.
fn scrape(control: &Control) -> String {
    let answers = asking::ask_all(&*control.shards, ANSWER_WAIT, Ask::Snapshot);
    let snapshots: Vec<(usize, Snapshot)> =
        answers.into_iter().filter_map(|(shard, answer)| Some((shard, answer.ok()?))).collect();
    let mut text = metrics::render(&snapshots);
    render_up(&mut text, &*control.shards, &snapshots);
    let durable = control.config().journal.durability != Durability::None;
    render_number(
        &mut text,
        "ringpost_journal_durable",
        "gauge",
        "1 unless 250 is not durable.",
        u64::from(durable),
    );
    render_number(
        &mut text,
        "ringpost_log_dropped_batches_total",
        "counter",
        "Batches of log lines dropped because the log was too slow.",
        control.log.dropped_batches(),
    );
    render_number(
        &mut text,
        "ringpost_notices_dropped_total",
        "counter",
        "Lines for standard error dropped because nobody read it.",
        notice::dropped_lines(),
    );
    let version = env!("CARGO_PKG_VERSION");
    // Writing into memory does not fail, here and below.
    let _ = writeln!(text, "# HELP ringpost_build_info The version in its label.");
    let _ = writeln!(text, "# TYPE ringpost_build_info gauge");
    let _ = writeln!(text, "ringpost_build_info{{version=\"{version}\"}} 1");
    text
}

fn render_up(text: &mut String, shards: &dyn Shards, snapshots: &[(usize, Snapshot)]) {
    let name = "ringpost_shard_up";
    let _ = writeln!(text, "# HELP {name} Whether the shard answered this scrape.");
    let _ = writeln!(text, "# TYPE {name} gauge");
    for shard in shards.numbers() {
        let up = snapshots.iter().any(|(answered, _)| *answered == shard);
        let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {}", u8::from(up));
    }
}

fn render_number(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

/// Longest request line and header section.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// From a client's connection to its last octet; longer than a shard may take to answer.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);
const _: () = assert!(ANSWER_WAIT.as_secs() < CLIENT_TIME_MAX.as_secs());
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(head: &str) -> u16 {
        respond(head.as_bytes(), || "ringpost_x 1\n".to_owned()).status
    }

    #[test]
    fn only_a_whole_get_of_metrics_is_answered() {
        assert_eq!(status_of("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
        assert_eq!(status_of("GET /metrics?a=b HTTP/1.0\n\n"), 200);
        assert_eq!(status_of("GET /metrics/ HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status_of("POST /metrics HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status_of("GET /metrics HTTP/2.0\r\n\r\n"), 400);
        assert_eq!(status_of("GET /metrics\r\n\r\n"), 400);
        assert_eq!(status_of("EHLO client.example\r\n\r\n"), 400);
        assert_eq!(status_of("\r\n\r\n"), 400);
        let head = respond(b"HEAD /metrics HTTP/1.1\r\n\r\n", || "1234".into()).bytes();
        let head = String::from_utf8(head).expect("ASCII");
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn a_request_is_read_to_its_empty_line_within_a_bound() {
        let read = |text: &[u8]| read_head(&mut &text[..]).expect("memory can be read");
        assert!(matches!(read(b"GET / HTTP/1.1\r\nA: b\r\n\r\n"), Head::Complete(_)));
        assert!(matches!(read(b"GET / HTTP/1.1\n\n"), Head::Complete(_)));
        assert!(matches!(read(b"GET / HTTP/1.1\r\n"), Head::CutOff));
        assert!(matches!(read(b""), Head::CutOff));
        assert!(matches!(read(&vec![b'x'; 3 * HEAD_BYTES_MAX]), Head::TooLong));
    }
}
