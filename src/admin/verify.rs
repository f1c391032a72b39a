//! `ringpost verify`: whether mailboxes exist, by asking their hosts through a running server.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::client::{self, Place, ask, json_line, printable};
use super::exit::{Exit, Failure};
use crate::control::wire::{Line, Request};
use crate::delivery::verify::{Verdict, Verification};

/// Asks the hosts of addresses whether their mailboxes exist: the way that mail would go, up to
/// RCPT, and never further. Hosts that take anything are told apart by a random mailbox.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Addresses.
    #[arg(value_name = "ADDRESS", required_unless_present = "file")]
    addresses: Vec<String>,
    /// A file with an address a line; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Asks in any case; otherwise what a delivery told within a week counts.
    #[arg(long)]
    fresh: bool,
    /// Prints a line of JSON for each address, with the evidence.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Prints CSV: address, verdict, confidence, reason, host, milliseconds.
    #[arg(long)]
    csv: bool,
}

/// Fails with exit 1 where some address is not deliverable.
pub fn run(options: &Options) -> Result<(), Failure> {
    let addresses = addresses(options)?;
    if options.csv {
        client::print(CSV_HEADER)?;
    }
    let mut progress = Progress::new(addresses.len());
    let mut all_deliverable = true;
    for batch in batches(&addresses) {
        let request = Request::Verify { addresses: batch.to_vec(), fresh: options.fresh };
        ask(&options.place, &request, &mut |line| {
            if let Line::Verification(verification) = line {
                all_deliverable &= verification.verdict == Verdict::Deliverable;
                client::print(&shown(&verification, options))?;
                progress.step();
            }
            Ok(())
        })?;
    }
    progress.end();
    match all_deliverable {
        true => Ok(()),
        false => Err(Failure::new(Exit::Found, "not all of them are deliverable")),
    }
}

fn addresses(options: &Options) -> Result<Vec<String>, Failure> {
    let mut addresses = options.addresses.clone();
    if let Some(path) = &options.file {
        let failure = |error: io::Error| {
            Failure::new(Exit::InputOutput, format!("{}: {error}", path.display()))
        };
        let input: Box<dyn BufRead> = match path.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => Box::new(io::BufReader::new(std::fs::File::open(path).map_err(failure)?)),
        };
        for line in input.lines() {
            let line = line.map_err(failure)?;
            let address = line.trim();
            if !address.is_empty() && !address.starts_with('#') {
                addresses.push(address.to_owned());
            }
        }
    }
    match addresses.iter().find(|address| address.len() > ADDRESS_BYTES_MAX) {
        Some(address) => Err(Failure::new(Exit::Usage, too_long(address))),
        None => Ok(addresses),
    }
}

fn too_long(address: &str) -> String {
    let start: String = address.chars().take(SHOWN_CHARS).collect();
    format!("{}...: longer than an address may be", printable(&start))
}

/// As many as fit a request.
fn batches(addresses: &[String]) -> Vec<&[String]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, address) in addresses.iter().enumerate() {
        // Quotes, a comma, and what JSON escapes.
        let of_address = 2 * address.len() + 3;
        if bytes + of_address > BATCH_BYTES && index > start {
            batches.push(&addresses[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += of_address;
    }
    batches.extend(Some(&addresses[start..]).filter(|rest| !rest.is_empty()));
    batches
}

fn shown(it: &Verification, options: &Options) -> String {
    if options.json {
        return json_line(it);
    }
    let (verdict, host) = (it.verdict.as_str(), it.host.as_deref().unwrap_or(""));
    if options.csv {
        let address = csv(&it.address);
        let host = csv(host);
        return format!(
            "{address},{verdict},{},{},{host},{}\n",
            it.confidence, it.reason, it.took_ms
        );
    }
    let address = printable(&it.address);
    let mut text = format!("{address}: {verdict}");
    if it.confidence > 0 {
        text.push_str(&format!(" ({} %)", it.confidence));
    }
    text.push_str(&format!(": {}\n", it.reason));
    for evidence in &it.evidence {
        text.push_str(&format!("  {}: {}\n", evidence.step, printable(&evidence.reply)));
    }
    text
}

/// A field of RFC 4180.
fn csv(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// How far a long list is, on standard error.
struct Progress {
    all: usize,
    done: usize,
    shown: Instant,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, done: 0, shown: Instant::now() }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.shown.elapsed() >= SHOW_PERIOD {
            self.shown = Instant::now();
            // Where the terminal is gone nobody can read it.
            let _ = writeln!(io::stderr(), "{} of {} verified", self.done, self.all);
        }
    }

    fn end(&self) {
        if self.done > 1 {
            let _ = writeln!(io::stderr(), "{} of {} verified", self.done, self.all);
        }
    }
}

const CSV_HEADER: &str = "address,verdict,confidence,reason,host,milliseconds\n";
const SHOW_PERIOD: Duration = Duration::from_secs(2);
/// Of an address that is too long.
const SHOWN_CHARS: usize = 40;
/// RFC 5321 section 4.5.3.1.3, and then some.
const ADDRESS_BYTES_MAX: usize = 320;
/// Of a request of the control socket, which has 4096.
const BATCH_BYTES: usize = 3_500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_address_once_and_fit_a_request() {
        let addresses: Vec<String> =
            (0..500).map(|number| format!("{}@{number}.test", "\"x".repeat(20))).collect();
        let batches = batches(&addresses);
        assert_eq!(batches.concat(), addresses);
        for batch in batches {
            let request = Request::Verify { addresses: batch.to_vec(), fresh: true };
            assert!(json_line(&request).len() <= 4096);
        }
        assert!(super::batches(&[]).is_empty());
    }

    #[test]
    fn an_address_that_is_too_long_is_named_by_its_start_whatever_it_is_made_of() {
        let address = format!("x{}", "\u{fc}".repeat(400));
        let text = too_long(&address);
        assert!(
            text.starts_with("x\u{fc}") && text.ends_with("...: longer than an address may be")
        );
    }

    #[test]
    fn a_field_with_a_comma_is_quoted() {
        assert_eq!(csv("a@b"), "a@b");
        assert_eq!(csv("\"a,b\"@c"), "\"\"\"a,b\"\"@c\"");
    }
}
