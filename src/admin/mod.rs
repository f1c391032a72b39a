//! The program's command line: serve, check, queue, account, mailbox, deliver, explain, verify,
//! reload, doctor, dns, fsck.
//!
//! **Owns** what an operator types and reads, and the exit codes (sysexits.h).
//! **Uses** `config`, `shard` to start, `control` to speak to a running server.
//! **Holds** that whatever goes wrong is one clear line on standard error with the right exit code.
//! **Start reading** at `run`, then `serve::serve`.

mod account;
mod check;
mod client;
mod deliver;
mod dns;
mod doctor;
mod exit;
mod explain;
mod finding;
mod fsck;
mod mailbox;
pub mod maildir;
pub mod mbox;
mod orders;
mod queue;
mod serve;
mod survey;
mod transfer;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::event::notice;
use exit::{Exit, Failure};

/// A mail transfer agent that keeps one complete mail system on every core.
#[derive(Parser)]
#[command(name = "ringpost", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server. Without a file: loopback, high ports, ./ringpost-data. The default.
    Serve(Source),
    /// Checks a configuration and prints the effective one.
    Check(Source),
    /// Shows what is queued in a running server.
    #[command(subcommand)]
    Queue(Box<queue::Command>),
    /// Accounts: who has mailboxes here.
    #[command(subcommand)]
    Account(account::Command),
    /// The mailboxes of an account.
    #[command(subcommand)]
    Mailbox(mailbox::Command),
    /// Delivers a message from standard input into mailboxes of a running server; exits as pipes of
    /// mail do (67 no such mailbox, 75 try again).
    Deliver(deliver::Options),
    /// Says where mail goes, what holds for it, and where the time of a queued message went.
    Explain(explain::Options),
    /// Makes a running server read its configuration and open its log anew, as SIGHUP does.
    Reload(client::Place),
    /// Reads the journals of a server that does not run, by a reader of its own, and judges them.
    Fsck(fsck::Options),
    /// Looks at this machine: io_uring, limits, cores, disk, ports, clock.
    Doctor(doctor::Options),
    /// Asks the hosts of addresses whether their mailboxes exist; sends no message.
    Verify(verify::Options),
    /// Checks the DNS records by which a domain's mail reaches this server, or asks for records.
    Dns(dns::Options),
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
struct Source {
    /// TOML file; without one the embedded default.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    fn load(&self) -> Result<Arc<Config>, Failure> {
        let config = match &self.config {
            Some(path) => Config::load(path),
            None => Config::embedded().with_certificates_anew(),
        };
        config.map(Arc::new).map_err(|error| Failure::new(Exit::Config, error))
    }
}

/// Runs the program with its arguments, the first being its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Where the terminal is gone nobody can read it.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command.unwrap_or(Command::Serve(Source::default())) {
        Command::Serve(source) => serve::serve(source),
        Command::Check(source) => check::check(&source),
        Command::Queue(command) => queue::run(&command),
        Command::Account(command) => account::run(&command),
        Command::Mailbox(command) => mailbox::run(&command),
        Command::Deliver(options) => deliver::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Reload(place) => client::reload(&place),
        Command::Fsck(options) => fsck::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Dns(options) => dns::run(&options),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            notice!("ringpost: {}", failure.text);
            failure.exit.into()
        }
    };
    notice::finish();
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
