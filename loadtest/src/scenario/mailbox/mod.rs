//! `ringpost-loadtest mailbox`: what a server of mailboxes does, beside another that does the same.
//!
//! **Owns** the scenario: accounts and letters, clients by IMAP, LMTP and POP3, rounds, the audit.
//! **Uses** `relay::accounting` for CPU and memory, `audit`, `message`, `latency`.
//! **Holds** that both servers get the same letters in the same mailboxes and the same commands,
//! and that an answer that is not what has to come fails the run.
//! **Start reading** at `run`, then `rounds::Stage` and `work`.

mod clients;
mod crew;
mod host;
mod idle;
mod large;
mod letters;
mod report;
mod rounds;
mod scanner;
mod work;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use self::host::{DOMAIN, Host, Peering};
use self::report::Report;
use self::rounds::Stage;
use super::handshakes::Certificate;
use super::{judge, print};
use crate::failure::Failure;
use crate::relay::files::server_program;
use crate::stop;
use crate::units;

/// Measures a server of mailboxes: LMTP, IMAP and POP3, with --peer beside another server that has
/// the same letters in the same mailboxes and gets the same commands from the same clients.
///
/// In --rounds rounds of --round-time each the servers take turns; who goes first changes with each
/// round. A rate is that of all clients together, a ratio the median of those of the rounds, and
/// above 1 where ringpost is better. lmtp: deliveries over --connections connections to --accounts
/// accounts, each answered once it is durable. fetch and search: commands that --readers sessions
/// say in turn, each in a mailbox of --mailbox-messages; answers are compared with what is there.
/// pop3: messages retrieved, by sessions that log in, count and list first. mixed: all of that at
/// once. push: the time from LMTP's answer to the EXISTS of a session in IDLE. idle: proportional
/// memory (PSS) of all processes, for each of the sessions in IDLE under TLS.
///
/// The peer is durable as shipped: Dovecot syncs each message before it answers (mail_fsync =
/// optimized); see tuning/peers/dovecot. It has no full text index, as it is shipped.
///
/// --messages measures one large mailbox instead: SELECT, FETCH 1:* FLAGS, and listings of 1000
/// messages at random places, warm and after restarts with the page cache dropped before each
/// listing (as root).
///
/// Must hold: each accepted message is in its mailbox once; nothing else is. With at least 3
/// rounds of 3 s: ratio.lmtp_per_s is at least 5, ratio.fetch_per_s and ratio.search_per_s 2,
/// ratio.idle_bytes 10; the p99 of push is below 5 ms. A session in IDLE takes at most 25 KB. With
/// --messages 1000000: SELECT takes below 1 ms warm and 20 ms cold, a cold listing 20 ms, each at
/// the p50. What was not judged is named in not_judged.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// The server beside: only Dovecot so far.
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Runs one of the two alone.
    #[arg(long, value_enum)]
    pub only: Option<Side>,
    /// What to measure; all of it by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Rounds of each part.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Time of a round with each server.
    #[arg(long, value_parser = units::duration, default_value = "5s")]
    pub round_time: Duration,
    /// Connections that deliver.
    #[arg(long, default_value_t = 20)]
    pub connections: usize,
    /// Accounts that are delivered to.
    #[arg(long, default_value_t = 100)]
    pub accounts: usize,
    /// Octets of a message, about.
    #[arg(long, value_parser = units::size, default_value = "4KiB")]
    pub size: u64,
    /// Sessions that read, each an account of its own.
    #[arg(long, default_value_t = 8)]
    pub readers: usize,
    /// Messages in the mailbox of a reader.
    #[arg(long, default_value_t = 2000)]
    pub mailbox_messages: u64,
    /// Sessions in IDLE under TLS.
    #[arg(long, default_value_t = 2000)]
    pub idle_sessions: usize,
    /// The same with the peer.
    #[arg(long, default_value_t = 200)]
    pub peer_idle_sessions: usize,
    /// Accounts that wait for what is delivered to them.
    #[arg(long, default_value_t = 10)]
    pub push_sessions: usize,
    /// Measures one mailbox of so many messages instead.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Dovecot's storage: mdbox, sdbox or maildir.
    #[arg(long, default_value = "mdbox")]
    pub peer_storage: String,
    /// Lets Dovecot hibernate sessions in IDLE, which it is not shipped to do.
    #[arg(long)]
    pub peer_hibernates: bool,
    /// Mailboxes and logs of the run, in a directory of its own below this one: on the disk that is
    /// to be measured.
    #[arg(long, value_name = "DIR", default_value = "ringpost-loadtest-work")]
    pub data: PathBuf,
    /// The ringpost to run; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Leaves the directory for looking into it; it stays after a failure as well.
    #[arg(long)]
    pub keep: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Dovecot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    Ours,
    Peer,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Lmtp,
    Fetch,
    Search,
    Pop3,
    Mixed,
    Push,
    Idle,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    stop::catch_signals();
    check(&options)?;
    // What the hard limit is, a container may have set; too few connections fail the run.
    let _ = ringpost::runtime::rlimit::raise(ringpost::runtime::rlimit::Resource::OpenFiles);
    let directory = options.data.join(format!("mailbox-{}", std::process::id()));
    let unusable = |error: std::io::Error| {
        Failure::cannot_create(format!("cannot use {}: {error}", directory.display()))
    };
    fs::create_dir_all(&directory).map_err(unusable)?;
    let directory = directory.canonicalize().map_err(unusable)?;
    let mut report = Report::new(&options);
    let done = measure(&options, &directory, &mut report);
    if options.keep || done.is_err() || !report.broken.is_empty() {
        eprintln!("mailboxes and logs of this run: {}", directory.display());
    } else {
        // What cannot be removed is in a directory that the user named.
        let _ = fs::remove_dir_all(&directory);
        let _ = fs::remove_dir(&options.data);
    }
    done?;
    report.judge(&options);
    print(&report, options.json);
    judge(&report.broken)
}

fn measure(
    options: &Options,
    directory: &std::path::Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let certificate = Certificate::make(directory)?;
    let mut hosts = Vec::new();
    if options.only != Some(Side::Peer) {
        let program = server_program(options.server.as_deref())?;
        let accounts = accounts(options);
        hosts.push(Host::ringpost(&program, &directory.join("ours"), &certificate, &accounts)?);
    }
    if options.peer.is_some() && options.only != Some(Side::Ours) {
        let (storage, hibernates) = (options.peer_storage.clone(), options.peer_hibernates);
        let peering = Peering { storage, hibernates };
        hosts.push(Host::dovecot(&directory.join("peer"), &certificate, &peering)?);
    }
    let mut stage = Stage::new(options, hosts, directory);
    stage.begin_mailboxes()?;
    match options.messages {
        Some(messages) => large::measure(&mut stage, messages, report)?,
        None => stage.measure(report)?,
    }
    stage.stop()
}

fn check(options: &Options) -> Result<(), Failure> {
    if options.only == Some(Side::Peer) && options.peer.is_none() {
        return Err(Failure::usage("--only peer needs --peer"));
    }
    if options.readers == 0 || options.push_sessions > options.accounts || options.accounts == 0 {
        return Err(Failure::usage(
            "--readers and --accounts are at least 1, --push-sessions at most --accounts",
        ));
    }
    if options.mailbox_messages < letters::COUNT {
        return Err(Failure::usage(format!("--mailbox-messages is at least {}", letters::COUNT)));
    }
    Ok(())
}

/// All accounts of a run.
fn accounts(options: &Options) -> Vec<String> {
    let loads = (0..options.accounts).map(load_account);
    loads.chain((0..options.readers).map(reader_account)).collect()
}

/// One that is delivered to.
fn load_account(index: usize) -> String {
    format!("load{index}@{DOMAIN}")
}

/// One that is read.
fn reader_account(index: usize) -> String {
    format!("reader{index}@{DOMAIN}")
}
