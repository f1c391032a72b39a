//! What a relay run is made of, and the command lines of its source and sink.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::round::Side;
use crate::sink::behaviour::{LatencyRule, ReplyRule};
use crate::units::{self, Cores, SizeMix};

/// Puts a server between source and sink, measures it, and audits that nothing was lost.
///
/// Source, server and sink are processes of their own, each in a control group of its own where
/// the kernel allows it. A round starts everything afresh: sink, server, a warm-up, the measured
/// run, the wait until the sink has everything, the audit. With --peer the same work is done by
/// the peer, interleaved, and ratios are taken round by round.
///
/// What the figures mean:
///
/// accepted_per_s: messages answered 250 in a second while relaying goes on, as in real life.
/// relayed_per_s: recipients at the sink in a second, from the first message to the last arrival.
/// cpu_us_per_relayed: CPU of all processes and threads of the server from the first message until
/// the sink had everything and 200 ms more, over relayed recipients: the whole cost.
/// cpu_us_per_accepted: the same until the last 250, over accepted messages. It includes the
/// relaying done by then; a server that postpones it looks cheaper here, so judge by the former.
/// p50_us to max_us: from the last octet of content to its 250; with --rate from the intended start
/// of the message. flushes_per_message: flush requests of the disk under --work-dir (sysfs), the
/// same count for every server; other writers on that disk count too. rss_bytes: largest
/// proportional memory (PSS) seen. lost: accepted and not at the sink when nothing came for
/// --settle; a sink that refuses for good makes losses of its own. duplicated: receptions beyond
/// the first of a recipient.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Connections of the source.
    #[arg(long, default_value_t = 20)]
    pub connections: usize,
    /// Length of the measured run; 10s without --messages.
    #[arg(long, value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Messages of the measured run.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Messages of the peer's run; --messages by default.
    #[arg(long)]
    pub peer_messages: Option<u64>,
    /// Message size, or a mix with weights: 2KiB:50,4KiB:30,100KiB:20.
    #[arg(long, default_value = "4KiB", value_parser = units::checked::<SizeMix>)]
    pub size: String,
    /// Sends the .eml files of a directory, in turn, instead of generated messages.
    #[arg(long, value_name = "DIR")]
    pub eml: Option<PathBuf>,
    /// Messages on one connection before the source closes it.
    #[arg(long)]
    pub messages_per_connection: Option<u64>,
    /// The source waits for the reply to each command.
    #[arg(long)]
    pub no_pipelining: bool,
    /// The source sends content with BDAT.
    #[arg(long)]
    pub bdat: bool,
    /// Open loop: messages a second.
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
    /// Latency of the sink; see `sink --help`. Repeatable.
    #[arg(long, value_parser = units::checked::<LatencyRule>)]
    pub latency: Vec<String>,
    /// Refusals of the sink; see `sink --help`. Servers then retry within seconds. Repeatable.
    #[arg(long, value_parser = units::checked::<ReplyRule>)]
    pub reply: Vec<String>,
    /// Share of messages at whose first content the sink resets the connection.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    pub drop_before_dot: f64,
    /// Share of messages after which the sink resets the connection without a reply.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    pub drop_after_dot: f64,
    /// Stores what the sink receives and compares every octet with what was sent (slow).
    #[arg(long)]
    pub verify: bool,
    /// Kills the server with SIGKILL that many times at random moments and starts it again, 0.2 s
    /// after it serves on average, or as --duration says for all of them. The run goes on until all
    /// of them are done.
    #[arg(long, default_value_t = 0)]
    pub kill: u32,
    /// Does the same work with another server as well: postfix.
    #[arg(long, value_parser = ["postfix"])]
    pub peer: Option<String>,
    /// Runs the peer alone, to tune it.
    #[arg(long, requires = "peer")]
    pub peer_only: bool,
    /// Rounds; with a peer each round is one run of either. Default: 3, with --kill 1.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Messages before the measured run; 20 for each connection by default.
    #[arg(long)]
    pub warmup: Option<u64>,
    /// The run is over when nothing has come to the sink for this long.
    #[arg(long, value_parser = units::duration, default_value = "15s")]
    pub settle: Duration,
    /// The ringpost to run; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Configuration of ringpost instead of a generated one; needs --server-address and
    /// --sink-address as they stand in the file.
    #[arg(long, value_name = "FILE", requires_all = ["server_address", "sink_address"])]
    pub server_config: Option<PathBuf>,
    /// Where a server with --server-config listens.
    #[arg(long)]
    pub server_address: Option<SocketAddr>,
    /// Where the sink listens; a free port by default.
    #[arg(long)]
    pub sink_address: Option<SocketAddr>,
    /// Cores of the server; all by default, as for source and sink.
    #[arg(long)]
    pub server_cores: Option<Cores>,
    /// Cores of the source.
    #[arg(long)]
    pub source_cores: Option<Cores>,
    /// Cores of the sink.
    #[arg(long)]
    pub sink_cores: Option<Cores>,
    /// Queues and logs of the run; on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = "ringpost-loadtest-work")]
    pub work_dir: PathBuf,
    /// Leaves the work directory for looking into it.
    #[arg(long)]
    pub keep: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Whose figures come first, and who is compared with it.
    pub fn sides(&self) -> (Side, Option<Side>) {
        match (self.peer.is_some(), self.peer_only) {
            (_, true) => (Side::Postfix, None),
            (true, false) => (Side::Ringpost, Some(Side::Postfix)),
            (false, false) => (Side::Ringpost, None),
        }
    }

    pub fn round_count(&self) -> usize {
        self.rounds.unwrap_or(if self.kill > 0 { 1 } else { ROUNDS_DEFAULT })
    }

    /// Length of the run; with kills the longest one, because they end it.
    pub fn run_duration(&self) -> Option<Duration> {
        match (self.duration, self.messages) {
            (duration, _) if self.kill > 0 => {
                Some(duration.unwrap_or(DURATION_DEFAULT) + KILL_TIME_MAX * self.kill)
            }
            (Some(duration), _) => Some(duration),
            (None, Some(_)) => None,
            (None, None) => Some(DURATION_DEFAULT),
        }
    }

    /// Mean time from a restart to the next kill: many kills come quickly after one another.
    pub fn kill_pause(&self) -> Duration {
        match self.duration {
            Some(duration) => duration / self.kill.max(1),
            None => (DURATION_DEFAULT / self.kill.max(1)).max(KILL_PAUSE_MIN),
        }
    }

    pub fn warmup_count(&self) -> u64 {
        self.warmup.unwrap_or(self.connections as u64 * 20)
    }

    /// Whether the sink makes servers try again.
    pub fn is_sink_difficult(&self) -> bool {
        !self.reply.is_empty() || self.drop_before_dot > 0.0 || self.drop_after_dot > 0.0
    }

    /// Arguments of the source, but for where, how many and which ids.
    pub fn source_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["source".to_owned(), "--json".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        add("connections", self.connections.to_string());
        add("size", self.size.clone());
        add("recipients", self.recipients.to_string());
        add("domains", self.domains.join(","));
        add("domain-count", self.domain_count.to_string());
        if let Some(directory) = &self.eml {
            add("eml", directory.display().to_string());
        }
        if let Some(count) = self.messages_per_connection {
            add("messages-per-connection", count.to_string());
        }
        if let Some(cores) = &self.source_cores {
            add("cores", cores.to_string());
        }
        if self.kill > 0 {
            add("patience", "60s".to_owned());
        }
        let flags = [(self.no_pipelining, "--no-pipelining"), (self.bdat, "--bdat")];
        arguments.extend(flags.iter().filter(|flag| flag.0).map(|flag| flag.1.to_owned()));
        arguments
    }

    /// Arguments of the sink, but for where and which ids.
    pub fn sink_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["sink".to_owned(), "--json".to_owned(), "--quiet".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        for latency in &self.latency {
            add("latency", latency.clone());
        }
        for reply in &self.reply {
            add("reply", reply.clone());
        }
        add("drop-before-dot", self.drop_before_dot.to_string());
        add("drop-after-dot", self.drop_after_dot.to_string());
        if let Some(cores) = &self.sink_cores {
            add("cores", cores.to_string());
        }
        arguments
    }
}

const ROUNDS_DEFAULT: usize = 3;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Enough for connections to come back and for some messages between two kills.
const KILL_PAUSE_MIN: Duration = Duration::from_millis(200);
/// A server that needs longer from a kill to its greeting does not get through its kills.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
