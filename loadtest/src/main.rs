//! ringpost's load generator: a source and a sink of mail, and whole runs with an audit.
//!
//! `source` sends, `sink` receives, `relay` puts a server between them, measures it and proves
//! that nothing was lost; with `--peer` another server does the same work in the same run.
//! `backlog`, `limits` and `mixed` are scenarios with sinks that are dead, slow or strict, `mx` one
//! with a name server; `tls` measures what TLS costs, `mailbox` what a server of mailboxes does.
#![deny(unsafe_code)]

mod audit;
mod failure;
mod ids;
mod latency;
mod message;
mod relay;
mod scenario;
mod sink;
mod source;
mod stop;
mod units;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures mail servers.
#[derive(Parser)]
#[command(name = "ringpost-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Source(source::Options),
    Sink(sink::Options),
    Relay(Box<relay::Options>),
    Backlog(Box<scenario::backlog::Options>),
    Limits(Box<scenario::limits::Options>),
    Mailbox(Box<scenario::mailbox::Options>),
    Mixed(Box<scenario::mixed::Options>),
    Mx(Box<scenario::mx::Options>),
    Tls(Box<scenario::tls::Options>),
    Audit(audit::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where the terminal is gone nobody can read it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Source(options) => source::run(options),
        Command::Sink(options) => sink::run(options),
        Command::Relay(options) => relay::run(*options),
        Command::Backlog(options) => scenario::backlog::run(*options),
        Command::Limits(options) => scenario::limits::run(*options),
        Command::Mailbox(options) => scenario::mailbox::run(*options),
        Command::Mixed(options) => scenario::mixed::run(*options),
        Command::Mx(options) => scenario::mx::run(*options),
        Command::Tls(options) => scenario::tls::run(*options),
        Command::Audit(options) => audit::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringpost-loadtest: {failure}");
            failure.exit_code()
        }
    }
}

const EX_USAGE: u8 = 64;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn relay_makes_command_lines_that_source_and_sink_take() {
        let line = "ringpost-loadtest relay --size 2KiB:5,4KiB:1 --recipients 3 --bdat \
                    --eml mail --reply rcpt@a.test:450:5% --latency a.test=20ms --kill 2 \
                    --drop-after-dot 5% --source-cores 0 --sink-cores 1 --domains a.test,b.test";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid");
        let Command::Relay(options) = cli.command else { panic!("a relay run") };
        for arguments in [options.source_arguments(), options.sink_arguments()] {
            let line = [vec!["ringpost-loadtest".to_owned()], arguments].concat();
            assert!(Cli::try_parse_from(&line).is_ok(), "{line:?}");
        }
    }
}
