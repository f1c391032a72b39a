//! What goes over the control socket: one line of JSON asks, lines of JSON answer.
//!
//! The answer ends with `End` or `Error`; a stream that ends before is cut off.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::explain::Way;
use crate::delivery::verify::Verification;
use crate::delivery::view::RuleSuspension;
use crate::mailbox::codec::Quota;
use crate::queue::survey::{Ages, SurveyBy};
use crate::queue::{Conditions, StandingOrder};
use crate::shard::ask::{QueueStats, QueuedMessage};
use crate::shard::mail_order::{AccountView, DeletedView, Letter, MailboxView, OpenedView};

/// The one line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// At most `count_max` messages behind `after`, by shard, then by age.
    QueueList {
        after: Option<String>,
        count_max: usize,
    },
    QueueShow {
        id: String,
    },
    QueueStats,
    /// The rows with the most tasks, `count_max` of them.
    QueueSurvey {
        by: SurveyBy,
        count_max: usize,
    },
    /// What there is to say of mail to a domain, or of the one message.
    Explain {
        /// A domain, or a queue id.
        subject: String,
    },
    /// Carries out an order on what all conditions take; at least one, or `all`.
    QueueSteer {
        order: SteerOrder,
        which: Which,
        dry_run: bool,
    },
    /// Mail that all conditions take waits until it is resumed; at least one condition, or `all`.
    Suspend {
        mail: Conditions,
        all: bool,
        /// Ends by itself after so many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
        note: String,
        dry_run: bool,
    },
    /// Lifts the suspension of this number, or those with just these conditions, or `all` of them.
    Resume {
        number: Option<u32>,
        mail: Conditions,
        all: bool,
        dry_run: bool,
    },
    Suspensions,
    /// Asks the hosts of these addresses for their mailboxes; the answers come as they are there.
    Verify {
        addresses: Vec<String>,
        /// Whatever earlier deliveries tell.
        fresh: bool,
    },
    Reload,
    /// A new account; without a secret nobody logs in.
    AccountAdd {
        name: String,
        secret: Option<String>,
        #[serde(default)]
        quota: AccountQuota,
    },
    AccountRemove {
        name: String,
    },
    /// Passwords are checked against this secret from now on.
    AccountPassword {
        name: String,
        secret: String,
    },
    AccountQuota {
        name: String,
        quota: AccountQuota,
    },
    AccountList,
    MailboxList {
        account: String,
    },
    MailboxCreate {
        account: String,
        mailbox: String,
        #[serde(default)]
        special_uses: Vec<String>,
    },
    MailboxRename {
        account: String,
        mailbox: String,
        to: String,
    },
    MailboxDelete {
        account: String,
        mailbox: String,
    },
    /// What can be brought back into the mailboxes of an account.
    MailboxDeleted {
        account: String,
    },
    /// Brings it back, into the mailbox of this name or of another.
    MailboxUndelete {
        account: String,
        mailbox: String,
        #[serde(default)]
        to: Option<String>,
    },
    /// It has these and no others from now on.
    MailboxSpecialUses {
        account: String,
        mailbox: String,
        special_uses: Vec<String>,
    },
    /// A mailbox for letters from elsewhere, where it had this UIDVALIDITY.
    MailboxOpen {
        account: String,
        mailbox: String,
        uid_validity: u32,
    },
    /// Letters for an opened mailbox, all or none.
    MailboxImport {
        account: String,
        mailbox: String,
        uid_validity: u32,
        letters: Vec<Letter>,
    },
    /// Some letters from this UID on.
    MailboxExport {
        account: String,
        mailbox: String,
        from: u32,
    },
}

/// What the first octets of a request with letters are: it may be long.
pub const IMPORT_BEGINS: &[u8] = b"{\"ask\":\"mailbox-import\"";

/// How much an account may hold; 0 for no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountQuota {
    pub bytes: u64,
    pub messages: u32,
}

impl From<&AccountQuota> for Quota {
    fn from(quota: &AccountQuota) -> Self {
        Quota { bytes: quota.bytes, messages: quota.messages }
    }
}

/// Which queued messages are meant. Conditions that are there all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// One message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub mail: Conditions,
    /// Those with this reverse-path: a pattern, or `<>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_path: Option<String>,
    /// Seconds since acceptance, or the release where that is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub younger_than_s: Option<u64>,
    /// Everything.
    pub all: bool,
}

impl Which {
    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        let Self { id, mail, reverse_path, older_than_s, younger_than_s, all: _ } = self;
        id.is_none()
            && mail.is_empty()
            && reverse_path.is_none()
            && older_than_s.is_none()
            && younger_than_s.is_none()
    }
}

/// What an operator does to queued messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SteerOrder {
    Retry {
        /// Whatever rules for replies said of the way.
        force: bool,
    },
    Hold,
    Release,
    Bounce {
        /// Nobody is told.
        quiet: bool,
    },
    /// To a next hop, `smtp://192.0.2.1:25`; without one to where routes lead.
    Reroute {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// To `transactional` or `bulk`.
    Class {
        to: String,
    },
}

/// As the log says it.
impl fmt::Display for SteerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SteerOrder::Retry { force: false } => f.write_str("retry"),
            SteerOrder::Retry { force: true } => f.write_str("retry by force"),
            SteerOrder::Hold => f.write_str("hold"),
            SteerOrder::Release => f.write_str("release"),
            SteerOrder::Bounce { quiet: false } => f.write_str("bounce"),
            SteerOrder::Bounce { quiet: true } => f.write_str("bounce quietly"),
            SteerOrder::Reroute { to: Some(to) } => write!(f, "reroute to {to}"),
            SteerOrder::Reroute { to: None } => f.write_str("reroute to default"),
            SteerOrder::Class { to } => write!(f, "class {to}"),
        }
    }
}

/// `id=0.1.3K7 tenant=acme older-than=3600s`, or `all`.
impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, mail, reverse_path, older_than_s, younger_than_s, all: _ } = self;
        let age = |seconds: &Option<u64>| seconds.map(|seconds| format!("{seconds}s"));
        let mut said = Vec::new();
        for (name, value) in [
            ("id", id.clone()),
            ("reverse-path", reverse_path.clone()),
            ("older-than", age(older_than_s)),
            ("younger-than", age(younger_than_s)),
        ] {
            said.extend(value.map(|value| format!("{name}={value}")));
        }
        if !mail.is_empty() || said.is_empty() {
            said.push(mail.to_string());
        }
        f.write_str(&said.join(" "))
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    Message(QueuedMessage),
    Stats {
        shard: usize,
        stats: QueueStats,
    },
    /// A row of a survey.
    Row {
        name: String,
        ages: Ages,
    },
    Verification(Box<Verification>),
    /// The way of mail to a domain.
    Way(Box<Way>),
    /// Tasks that an order was for, and those it was carried out on, so far. The last of these
    /// lines says what came of it.
    Steered {
        matched: usize,
        done: usize,
    },
    /// A suspension: a new one, one that was lifted, or one that stands.
    Suspension(StandingOrder),
    /// What a rule for replies holds back or slows down.
    RuleSuspension(RuleSuspension),
    Account(AccountView),
    Mailbox(MailboxView),
    Deleted(DeletedView),
    Opened(OpenedView),
    /// The UIDs of imported letters; 0 for one that was imported before.
    Imported(Vec<u32>),
    Letter(Letter),
    /// Words for the operator.
    Note(String),
    /// The answer is not complete, or was refused; the last line.
    Error(String),
    /// The answer is complete; the last line.
    End,
}

impl Request {
    /// Understands one line, without its line feed. The error is for the client.
    pub fn parse(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
    }
}

impl Line {
    /// Appends the line with its line feed.
    pub fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("strings and numbers have a JSON form");
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_whole_or_refused() {
        let request = Request::QueueList { after: None, count_max: 3 };
        let line = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(Request::parse(&line), Ok(request));
        assert_eq!(Request::parse(b"{\"ask\":\"queue-stats\"}"), Ok(Request::QueueStats));
        let (account, mailbox) = ("a@b".to_owned(), "c".to_owned());
        let letters = vec![Letter { content: b"\xff\r\n".to_vec(), ..Letter::default() }];
        let request = Request::MailboxImport { account, mailbox, uid_validity: 1, letters };
        let line = serde_json::to_vec(&request).expect("JSON");
        assert!(line.starts_with(IMPORT_BEGINS));
        assert_eq!(Request::parse(&line), Ok(request));
        for line in ["", "{}", "queue-stats", "{\"ask\":\"x\"}", "{\"ask\":\"queue-show\"}"] {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn what_was_selected_is_said_in_a_line() {
        let mut which = Which { all: true, ..Which::default() };
        assert!(which.is_empty() && which.to_string() == "all");
        which.mail.tenant = Some("acme".into());
        assert!(!which.is_empty() && which.to_string() == "tenant=acme");
        (which.id, which.reverse_path) = (Some("0.1.2".into()), Some("<>".into()));
        which.older_than_s = Some(60);
        assert_eq!(which.to_string(), "id=0.1.2 reverse-path=<> older-than=60s tenant=acme");
    }

    #[test]
    fn a_line_feed_in_text_does_not_end_a_line() {
        let mut out = Vec::new();
        Line::Note("a\nb".into()).write(&mut out);
        assert_eq!(out, b"{\"note\":\"a\\nb\"}\n");
    }
}
