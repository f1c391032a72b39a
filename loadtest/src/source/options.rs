//! The command line of the source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::audit::SEQUENCE_END;
use crate::failure::Failure;
use crate::ids::RunId;
use crate::units::{self, Cores, SizeMix};

/// Sends messages to an SMTP server and measures it.
///
/// Closed loop: each connection sends its next message when the last one was answered. Open loop
/// (--rate): messages are due at fixed times whatever the server does, and the transaction latency
/// counts from the intended time, so a stalled server cannot hide what it kept waiting.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Address of the SMTP server.
    #[arg(long, default_value = "127.0.0.1:2525")]
    pub target: SocketAddr,
    /// Connections, held open through the run.
    #[arg(long, default_value_t = 20)]
    pub connections: usize,
    /// Messages to send; each is tried once, refused ones count. Default without --duration: 10000.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Time after which no new message is begun.
    #[arg(long, value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Message size, or a mix with weights: 2KiB:50,4KiB:30,100KiB:20.
    #[arg(long, default_value = "4KiB")]
    pub size: SizeMix,
    /// Sends the .eml files of a directory, in turn, instead of generated messages.
    #[arg(long, value_name = "DIR")]
    pub eml: Option<PathBuf>,
    /// Messages on one connection before it is closed and opened again.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub messages_per_connection: u64,
    /// Waits for the reply to each command (no RFC 2920 pipelining).
    #[arg(long)]
    pub no_pipelining: bool,
    /// Sends content with BDAT (RFC 3030); with pipelining a message is one send, one round trip.
    #[arg(long)]
    pub bdat: bool,
    /// Says STARTTLS; any certificate will do.
    #[arg(long)]
    pub tls: bool,
    /// Open loop: messages a second over all connections.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Recipients of each message.
    #[arg(long, default_value_t = 1)]
    pub recipients: u16,
    /// Domains of the recipients, in turn.
    #[arg(long, value_delimiter = ',', default_value = "sink.test")]
    pub domains: Vec<String>,
    /// Instead of each domain D that many: d0.D, d1.D, and so on.
    #[arg(long, default_value_t = 1)]
    pub domain_count: usize,
    /// A header field that generated messages begin with: "X-Class: transactional". Repeatable.
    #[arg(long, value_name = "FIELD")]
    pub field: Vec<String>,
    /// Reverse-path of each message.
    #[arg(long, default_value = "source@source.test")]
    pub reverse_path: String,
    /// Longest wait for a reply.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    pub reply_timeout: Duration,
    /// How long a connection tries to reach a server that does not answer.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    pub patience: Duration,
    /// Cores to run on, one thread each; all by default.
    #[arg(long)]
    pub cores: Option<Cores>,
    /// Identity of the run in X-Ringpost-Load; random by default.
    #[arg(long)]
    pub run: Option<RunId>,
    /// Sequence number of the first message.
    #[arg(long, default_value_t = 0)]
    pub first_sequence: u64,
    /// Records the accepted ids in this file, for an audit against the sink's.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// The same with the time of each 250; no audit reads this.
    #[arg(long, value_name = "FILE")]
    pub record_times: Option<PathBuf>,
    /// No line each second on standard error.
    #[arg(long)]
    pub quiet: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

impl Options {
    /// What the command line says when it says nothing but the target.
    pub fn to(target: SocketAddr) -> Self {
        let line = <Line as clap::Parser>::parse_from(["source"]);
        Self { target, ..line.options }
    }

    /// Refuses values that cannot be run.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |text: &str| Err(Failure::usage(text));
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return wrong("--connections is 1 to 50000");
        }
        if self.recipients == 0 || self.recipients > RECIPIENTS_MAX {
            return wrong("--recipients is 1 to 5000");
        }
        if self.domains.is_empty() || self.domain_count == 0 {
            return wrong("--domains needs a domain and --domain-count is at least 1");
        }
        let line_count = self.domains.len() * self.domain_count * usize::from(self.recipients);
        if line_count > RECIPIENT_LINES_MAX {
            return wrong("domains times recipients is at most 1000000");
        }
        if self.messages_per_connection == 0 {
            return wrong("--messages-per-connection is at least 1");
        }
        if self.rate.is_some_and(|rate| !(0.001..=10_000_000.0).contains(&rate)) {
            return wrong("--rate is 0.001 to 10000000 messages a second");
        }
        let message_count = self.messages.unwrap_or(0);
        if self.first_sequence.checked_add(message_count).is_none_or(|end| end > SEQUENCE_END / 2) {
            return wrong("sequence numbers end at 2^47");
        }
        Ok(())
    }
}

const CONNECTIONS_MAX: usize = 50_000;
const RECIPIENTS_MAX: u16 = 5_000;
const RECIPIENT_LINES_MAX: usize = 1_000_000;
