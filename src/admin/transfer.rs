//! `ringpost mailbox import` and `export`: mail between a running server and files.
//!
//! A mailbox that comes from elsewhere keeps UIDVALIDITY and UIDs where it is begun by that, or
//! never had a message. Letters go in the order of their UIDs, a batch whole or not at all, so that
//! what was broken off goes on where it was when it is given again.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::client::{self, Place, ask, json_line, printable, size};
use super::exit::{Exit, Failure};
use super::{maildir, mbox};
use crate::control::wire::{Line, Request};
use crate::shard::mail_order::{Letter, MailboxView, OpenedView};

#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    place: Place,
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// A Maildir++, an mbox, or a directory of files NAME.mbox.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Where an mbox goes; a Maildir++ names its mailboxes itself.
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    mailbox: String,
    /// Prints a line of JSON for each mailbox.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    place: Place,
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Directory, made where it is missing.
    #[arg(value_name = "DIR")]
    path: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Maildir)]
    format: Format,
    /// This mailbox alone.
    #[arg(long, value_name = "MAILBOX")]
    mailbox: Option<String>,
    /// Prints a line of JSON for each mailbox.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Maildir,
    Mbox,
}

/// A mailbox in files.
pub struct Source {
    pub name: String,
    pub uid_validity: u32,
    pub letters: Letters,
}

/// Where its letters are.
pub enum Letters {
    Maildir(Vec<maildir::Entry>),
    Mbox(PathBuf),
}

/// Letters as they are read.
type Reading = Box<dyn Iterator<Item = Result<Letter, Failure>>>;

impl Letters {
    /// Those from this UID on, in the order of their UIDs.
    fn read(self, from: u32) -> Result<Reading, Failure> {
        Ok(match self {
            Letters::Maildir(entries) => {
                let behind = entries.into_iter().filter(move |entry| entry.uid >= from);
                Box::new(behind.map(|entry| entry.read()))
            }
            Letters::Mbox(path) => {
                let read = mbox::read(&path)?;
                Box::new(read.filter(move |it| it.as_ref().map_or(true, |it| it.uid >= from)))
            }
        })
    }
}

/// What became of a mailbox.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    mailbox: String,
    /// Letters written, and their octets.
    done: usize,
    bytes: u64,
    /// Letters that were there from an earlier time.
    skipped: usize,
    keeps_uids: bool,
    /// Letters that were found again with the same octets.
    verified: usize,
    /// Letters that were not, or that cannot be read.
    failed: usize,
    /// Keywords that a Maildir has no letter for.
    keywords_left_out: usize,
}

impl Report {
    fn print(&self, verb: &str, json: bool) -> Result<(), Failure> {
        if json {
            return client::print(&json_line(self));
        }
        let uids = if self.keeps_uids { "UIDs kept" } else { "other UIDs" };
        let keywords = match self.keywords_left_out {
            0 => String::new(),
            count => format!("; {count} keywords left out, a Maildir has letters for 26"),
        };
        client::print(&format!(
            "{}: {} {verb} ({}), {} were there, {} verified, {} failed; {uids}{keywords}\n",
            printable(&self.mailbox),
            self.done,
            size(self.bytes),
            self.skipped,
            self.verified,
            self.failed,
        ))
    }
}

/// Fails with exit 1 where some letter was not found again as it was.
fn judge(failed: usize) -> Result<(), Failure> {
    match failed {
        0 => Ok(()),
        count => Err(Failure::new(Exit::Found, format!("{count} messages failed"))),
    }
}

pub fn import(options: &Import) -> Result<(), Failure> {
    let mut failed = 0;
    for source in sources(options)? {
        let report = import_mailbox(options, source)?;
        report.print("imported", options.json)?;
        failed += report.failed;
    }
    judge(failed)
}

fn sources(options: &Import) -> Result<Vec<Source>, Failure> {
    let path = &options.path;
    let failure = |error| unreadable(path, error);
    if !fs::metadata(path).map_err(failure)?.is_dir() {
        return Ok(vec![of_mbox(path, options.mailbox.clone())]);
    }
    if path.join("cur").is_dir() {
        return maildir::mailboxes(path);
    }
    let mut sources = Vec::new();
    for entry in fs::read_dir(path).map_err(failure)? {
        let file = entry.map_err(failure)?.path();
        if file.extension().is_some_and(|it| it == "mbox") {
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let name = maildir::name_of(&format!(".{stem}")).ok_or_else(|| {
                let text = format!("{}: not the name of a mailbox", file.display());
                Failure::new(Exit::Data, text)
            })?;
            sources.push(of_mbox(&file, name));
        }
    }
    if sources.is_empty() {
        let text = format!("{}: neither a Maildir nor a directory of mboxes", path.display());
        return Err(Failure::new(Exit::Data, text));
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}

fn of_mbox(path: &Path, name: String) -> Source {
    Source { name, uid_validity: uid_validity_of(path), letters: Letters::Mbox(path.to_owned()) }
}

/// The same for the same place: by it a second import goes on where the first one was.
pub fn uid_validity_of(path: &Path) -> u32 {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // Not above what a clock of today gives out.
    (xxh3_128(path.as_os_str().as_encoded_bytes()) as u32 & 0x3fff_ffff).max(1)
}

pub fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Exit::InputOutput, format!("{}: {error}", path.display()))
}

fn import_mailbox(options: &Import, source: Source) -> Result<Report, Failure> {
    let Source { name, uid_validity, letters } = source;
    let place = &options.place;
    let (account, mailbox) = (options.account.clone(), name.clone());
    let opened = opened(place, &Request::MailboxOpen { account, mailbox, uid_validity })?;
    let keeps_uids = opened.uid_validity == uid_validity;
    let from = if keeps_uids { opened.uid_next } else { 1 };
    let mut report = Report { mailbox: name.clone(), keeps_uids, ..Report::default() };
    // By the UID here.
    let mut expected: HashMap<u32, u128> = HashMap::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    let all = match &letters {
        Letters::Maildir(entries) => Some(entries.len()),
        Letters::Mbox(_) => None,
    };
    let mut send = |batch: &mut Vec<Letter>, report: &mut Report| -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let hashes = batch.iter().map(|it| (xxh3_128(&it.content), it.content.len() as u64));
        let hashes: Vec<(u128, u64)> = hashes.collect();
        let (account, mailbox) = (options.account.clone(), name.clone());
        let letters = std::mem::take(batch);
        let request = Request::MailboxImport { account, mailbox, uid_validity, letters };
        ask(place, &request, &mut |line| {
            let Line::Imported(uids) = line else { return Ok(()) };
            for (uid, (hash, bytes)) in uids.into_iter().zip(&hashes) {
                match uid {
                    0 => report.skipped += 1,
                    uid => {
                        report.done += 1;
                        report.bytes += bytes;
                        expected.insert(uid, *hash);
                    }
                }
            }
            Ok(())
        })
    };
    let mut read_count = 0;
    for letter in letters.read(from)? {
        let letter = letter?;
        read_count += 1;
        batch_bytes += letter.content.len();
        batch.push(letter);
        if batch_bytes >= BATCH_BYTES || batch.len() >= BATCH_LETTERS {
            send(&mut batch, &mut report)?;
            batch_bytes = 0;
        }
    }
    send(&mut batch, &mut report)?;
    report.skipped += all.map_or(0, |all| all - read_count);
    verify(options, &name, &mut report, &expected)?;
    Ok(report)
}

/// Reads back what was imported.
fn verify(
    options: &Import,
    name: &str,
    report: &mut Report,
    expected: &HashMap<u32, u128>,
) -> Result<(), Failure> {
    let Some(first) = expected.keys().min() else { return Ok(()) };
    let account = options.account.clone();
    each_letter(&options.place, &account, name, *first, |_, letter| {
        let is_same = expected.get(&letter.uid) == Some(&xxh3_128(&letter.content));
        report.verified += usize::from(is_same && !letter.is_lost);
        Ok(())
    })?;
    report.failed = expected.len() - report.verified;
    Ok(())
}

fn opened(place: &Place, request: &Request) -> Result<OpenedView, Failure> {
    let mut opened = OpenedView::default();
    ask(place, request, &mut |line| {
        if let Line::Opened(view) = line {
            opened = view;
        }
        Ok(())
    })?;
    Ok(opened)
}

/// Gives every letter of a mailbox from a UID on to `on_letter`, in the order of UIDs.
fn each_letter(
    place: &Place,
    account: &str,
    mailbox: &str,
    from: u32,
    mut on_letter: impl FnMut(OpenedView, Letter) -> Result<(), Failure>,
) -> Result<OpenedView, Failure> {
    let mut next = from;
    let mut opened = OpenedView::default();
    loop {
        let mut count = 0;
        let (account, mailbox) = (account.to_owned(), mailbox.to_owned());
        ask(place, &Request::MailboxExport { account, mailbox, from: next }, &mut |line| {
            match line {
                Line::Opened(view) => opened = view,
                Line::Letter(letter) => {
                    count += 1;
                    next = letter.uid + 1;
                    on_letter(opened, letter)?;
                }
                _ => {}
            }
            Ok(())
        })?;
        if count == 0 {
            return Ok(opened);
        }
    }
}

pub fn export(options: &Export) -> Result<(), Failure> {
    let mut views = Vec::new();
    let request = Request::MailboxList { account: options.account.clone() };
    ask(&options.place, &request, &mut |line| {
        if let Line::Mailbox(view) = line {
            views.push(view);
        }
        Ok(())
    })?;
    if let Some(wanted) = &options.mailbox {
        views.retain(|view| view.name == *wanted || view.name.eq_ignore_ascii_case(wanted));
        if views.is_empty() {
            let text = format!("{}: no such mailbox", printable(wanted));
            return Err(Failure::new(Exit::Unavailable, text));
        }
    }
    let make = |error| unreadable(&options.path, error);
    fs::create_dir_all(&options.path).map_err(make)?;
    let mut failed = 0;
    for view in views {
        let report = match options.format {
            Format::Maildir => export_maildir(options, &view)?,
            Format::Mbox => export_mbox(options, &view)?,
        };
        report.print("exported", options.json)?;
        failed += report.failed;
    }
    judge(failed)
}

fn export_maildir(options: &Export, view: &MailboxView) -> Result<Report, Failure> {
    let mut writer = maildir::Writer::open(&options.path, &view.name, view.uid_validity)?;
    let mut report = Report { mailbox: view.name.clone(), keeps_uids: true, ..Report::default() };
    report.skipped = writer.count();
    let (account, from) = (&options.account, writer.next_uid());
    let opened = each_letter(&options.place, account, &view.name, from, |_, letter| {
        if letter.is_lost {
            report.failed += 1;
            return Ok(());
        }
        report.verified += usize::from(writer.write(&letter)?);
        report.done += 1;
        report.bytes += letter.content.len() as u64;
        Ok(())
    })?;
    report.failed += report.done - report.verified;
    report.keywords_left_out = writer.left_out();
    writer.end(opened.uid_next)?;
    Ok(report)
}

fn export_mbox(options: &Export, view: &MailboxView) -> Result<Report, Failure> {
    let mut report = Report { mailbox: view.name.clone(), ..Report::default() };
    let mut writer = mbox::Writer::open(&options.path, &view.name)?;
    each_letter(&options.place, &options.account, &view.name, 1, |_, letter| {
        if letter.is_lost {
            report.failed += 1;
            return Ok(());
        }
        writer.write(&letter)?;
        report.done += 1;
        report.bytes += letter.content.len() as u64;
        Ok(())
    })?;
    report.verified = writer.end()?;
    report.failed += report.done - report.verified;
    Ok(report)
}

/// With the lines of mail on disk: LF, where they end in CRLF.
pub fn to_lf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    for (index, octet) in content.iter().enumerate() {
        if *octet != b'\r' || content.get(index + 1) != Some(&b'\n') {
            out.push(*octet);
        }
    }
    out
}

/// With the lines of mail on the wire: each ends in CRLF.
pub fn to_crlf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 30);
    for octet in content {
        if *octet == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(*octet);
    }
    out
}

/// What goes to the server at once, one letter more at the most.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_LETTERS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_wire_here_and_those_of_files_there() {
        for (files, wire) in [
            (&b"a\nb\n"[..], &b"a\r\nb\r\n"[..]),
            (b"", b""),
            (b"\n\n", b"\r\n\r\n"),
            (b"a\rb", b"a\rb"),
        ] {
            assert_eq!(to_crlf(files), wire);
            assert_eq!(to_lf(wire), files);
            assert_eq!(to_crlf(wire), wire);
        }
    }
}
