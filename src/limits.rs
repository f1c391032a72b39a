//! Every bound of the system, the unit in the name. Operators change the ones `config` offers;
//! these are the hard ends behind them.

// ---- runtime ----

/// Read buffer a shard lends to whichever session reads next.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Resolution of every deadline and timer.
pub const TIMER_TICK_MS: u64 = 10;
/// Messages waiting in the inbox of a shard; a full inbox refuses, the sender keeps the message.
pub const INBOX_MESSAGES_MAX: usize = 4096;
/// Shards of one process.
pub const SHARDS_MAX: usize = 256;

// ---- mail and proto ----

/// Longest command line including CRLF (RFC 5321 §4.5.3.1.4), with room for extensions.
pub const COMMAND_LINE_BYTES_MAX: usize = 4096;
/// Longest local-part (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest domain (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Longest path without its angle brackets (RFC 5321 §4.5.3.1.3 says 256 with them).
pub const PATH_BYTES_MAX: usize = 254;
/// Recipients of one mail transaction that a configuration may allow.
pub const RECIPIENTS_MAX: usize = 2000;

/// Aliases that are followed one after the other.
pub const ALIAS_DEPTH_MAX: usize = 16;
/// Addresses that one address may stand for.
pub const ALIAS_TARGETS_MAX: usize = 1000;

/// Rules of one file by which replies are judged.
pub const REPLY_RULES_MAX: usize = 4096;
/// Distinct plain texts of these rules: one bit each on the stack of whoever judges.
pub const REPLY_TEXTS_MAX: usize = 8192;
/// Expressions of these rules; each becomes a table of its own.
pub const REPLY_EXPRESSIONS_MAX: usize = 1024;
/// Longest table of one expression.
pub const REPLY_EXPRESSION_BYTES_MAX: usize = 1024 * 1024;
/// Longest plain text or expression of a rule.
pub const REPLY_PATTERN_BYTES_MAX: usize = 512;
/// Folded octets of a reply's text that are looked at.
pub const REPLY_TEXT_JUDGED_BYTES_MAX: usize = 1024;

/// Times that a server may have a password hashed.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

/// Parts inside one another, the outermost counted, that are told apart in a message.
pub const MIME_DEPTH_MAX: usize = 64;
/// Parts of one message that are told apart.
pub const MIME_PARTS_MAX: usize = 10_000;
/// Longest boundary that counts; RFC 2046 §5.1.1 says 70.
pub const MIME_BOUNDARY_BYTES_MAX: usize = 256;
/// Octets of one header field that are kept while a message is scanned.
pub const MIME_FIELD_BYTES_MAX: usize = 128 * 1024;
/// Octets of all header fields that are kept while a message is scanned.
pub const MIME_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Longest datagram we ask an upstream for: it passes every path unfragmented (RFC 9715 §3.2 says
/// at most 1,400).
pub const DNS_DATAGRAM_BYTES: u16 = 1232;
/// Longest datagram that is read all the same; a longer one is a loss.
pub const DNS_DATAGRAM_BYTES_MAX: usize = 4096;
/// Upstreams that a configuration may name.
pub const DNS_UPSTREAMS_MAX: usize = 8;
/// Aliases followed for one question.
pub const DNS_ALIASES_MAX: usize = 10;
/// Queries sent for one question, over all upstreams, attempts and aliases.
pub const DNS_TRIES_MAX: u32 = 40;
/// Questions of a shard on their way; more are refused.
pub const DNS_QUESTIONS_MAX: usize = 2048;

/// MX hosts of one domain whose addresses are asked for, the best first.
pub const MX_HOSTS_MAX: usize = 10;
/// Addresses of one MX host that are tried, and of all hosts of a domain.
pub const MX_HOST_ADDRESSES_MAX: usize = 6;
pub const MX_ADDRESSES_MAX: usize = 30;
/// Octets of a header section that HEADER.FIELDS and SEARCH HEADER look at.
pub const IMAP_FIELDS_BYTES_MAX: usize = 1024 * 1024;
/// Octets of the summary of a message that is written down; longer ones are made when asked for.
pub const SUMMARY_BYTES_MAX: usize = 64 * 1024;
/// Octets of summaries in the memory of a partition, and of those that wait to be written down.
pub const SUMMARIES_BYTES_MAX: usize = 32 * 1024 * 1024;
pub const SUMMARIES_WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Blocks of summaries of a mailbox that are looked for on disk, and of all mailboxes of a
/// partition whose places are in memory.
pub const SUMMARY_BLOCKS_MAX: usize = 1 << 18;
/// Message-IDs of a References field that threads are made by: the last ones.
pub const IMAP_REFERENCES_MAX: usize = 128;
/// Octets of a text that SORT compares.
pub const IMAP_SORT_KEY_BYTES_MAX: usize = 256;
/// Octets of one IMAP command with its literals but without messages; clients send long sets whole.
pub const IMAP_COMMAND_BYTES_MAX: usize = 64 * 1024;
/// The same before authentication.
pub const IMAP_COMMAND_BYTES_EARLY_MAX: usize = 8 * 1024;
/// Commands in a row that make no sense, before the session ends.
pub const IMAP_FAULTS_MAX: u32 = 20;
/// Such commands, and logins that are refused, before a session ends that has not logged in.
pub const IMAP_FAULTS_EARLY_MAX: u32 = 10;
pub const IMAP_LOGINS_REFUSED_MAX: u32 = 10;
/// Octets of all patterns of one LIST.
pub const IMAP_PATTERNS_BYTES_MAX: usize = 8 * 1024;
/// Search keys inside one another.
pub const IMAP_SEARCH_DEPTH_MAX: usize = 64;

// ---- journal and queue ----

/// Content up to this size stands beside its envelope in one frame; larger content becomes chunk
/// records of this size.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Longest frame, header and padding included.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// What compaction puts into one frame, one large record more at the most: it delays nobody.
pub const SURVIVORS_FRAME_BYTES_MAX: usize = 256 * 1024;
/// Frames being written at once; the next one fills meanwhile.
pub const FRAMES_IN_FLIGHT_MAX: usize = 2;
/// Free segments kept ready; new mail leaves all but one of them to outcomes, compaction and
/// checkpoints.
pub const SPARE_SLOTS_MIN: usize = 5;
/// Names that a survey of the queue tells apart on a shard.
pub const SURVEY_ROWS_MAX: usize = 100_000;
/// Standing orders to suspend mail: each flow is compared with all of them.
pub const STANDING_ORDERS_MAX: usize = 1000;

// ---- mailboxes ----

/// Local domains of one configuration.
pub const LOCAL_DOMAINS_MAX: usize = 10_000;
/// Partitions of one data directory.
pub const PARTITIONS_MAX: usize = SHARDS_MAX;

/// Longest name of an account: an address.
pub const ACCOUNT_NAME_BYTES_MAX: usize = LOCAL_PART_BYTES_MAX + 1 + DOMAIN_BYTES_MAX;
/// Longest text that a password is checked against.
pub const ACCOUNT_SECRET_BYTES_MAX: usize = 1024;
/// Longest name of a mailbox, its superiors included.
pub const MAILBOX_NAME_BYTES_MAX: usize = 512;
/// Mailboxes of one account, and names that it is subscribed to.
pub const MAILBOXES_MAX: usize = 10_000;
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Keywords of one mailbox: each is a bit of every message.
pub const KEYWORDS_MAX: usize = 64;
pub const KEYWORD_BYTES_MAX: usize = 128;
/// Ranges of expunged UIDs that a mailbox remembers with their mod-sequence; of older ones it only
/// knows that they are gone.
pub const VANISHED_RANGES_MAX: usize = 2048;
/// Expunged messages that a partition keeps for a while; the oldest go first.
pub const EXPUNGED_KEPT_MAX: usize = 1 << 20;
/// Deleted mailboxes of a partition that can be brought back by name; the oldest are forgotten
/// first.
pub const DELETED_MAILBOXES_MAX: usize = 1 << 14;
/// Deliveries that a partition would know again. A repeat comes from a process that died before it
/// had settled the recipient, so from what was in flight: far fewer.
pub const DELIVERY_KEYS_MAX: usize = 1 << 16;
/// Content that goes to another shard's partition in one memo.
pub const POST_PIECE_BYTES_MAX: usize = 64 * 1024;
/// Octets of such content that a shard has under way; more wait for their turn.
pub const POST_BYTES_UNDER_WAY_MAX: usize = 8 * 1024 * 1024;
/// Messages that one step of a command looks at: larger commands are several records, between which
/// others get their turn.
pub const MAILBOX_MESSAGES_AT_ONCE: usize = 16 * 1024;
/// Messages of one MULTIAPPEND: their records are one frame.
pub const APPENDS_AT_ONCE_MAX: usize = 1000;
/// What one record about messages names or lists; larger commands are several records.
pub const MAILBOX_RECORD_BYTES_MAX: usize = 512 * 1024;

// ---- tls ----

/// Sessions of servers that the clients of one demand keep to resume them.
pub const TLS_SESSIONS_KEPT_MAX: usize = 1024;
/// Certificates of our servers: each handshake looks at them one by one.
pub const CERTIFICATES_MAX: usize = 64;

// ---- acme ----

/// Names of the certificate that this server gets by itself: as many as CAs take.
pub const ACME_NAMES_MAX: usize = 100;
/// Octets of one response of a CA.
pub const ACME_RESPONSE_BYTES_MAX: usize = 1024 * 1024;
/// Questions of a CA that are answered at the same time, each on a thread of its own.
pub const ACME_QUESTIONS_AT_ONCE_MAX: usize = 16;

// ---- web ----

/// HTTPS requests under way at the same time, each on a thread of its own.
pub const WEB_THREADS_MAX: usize = 16;
/// HTTPS requests that wait for one of them to end; more are refused.
pub const WEB_REQUESTS_WAITING_MAX: usize = 4096;
/// Octets of status line and header fields of one HTTP response.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one HTTP response.
pub const HTTP_FIELDS_MAX: usize = 64;
/// Interim (1xx) responses before the one that counts.
pub const HTTP_INTERIM_RESPONSES_MAX: usize = 8;

// ---- auth ----

/// Longest password, in octets.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Longest response of a client in a SASL exchange, in base64.
pub const SASL_RESPONSE_BYTES_MAX: usize = 4096;
/// Memory in KiB that a stored hash may ask for, and passes over it.
pub const PASSWORD_HASH_KIB_MAX: u32 = 256 * 1024;
pub const PASSWORD_HASH_PASSES_MAX: u32 = 16;
/// Threads that hash passwords, each with the memory that a hash takes.
pub const AUTH_THREADS_MAX: usize = 4;
/// Passwords that wait to be hashed; more are refused for now. Some seconds' worth.
pub const AUTH_WAITING_MAX: usize = 256;
/// Clients, names, passwords that were right and passwords that were wrong that are remembered, of
/// each so many; half of them at least.
pub const AUTH_REMEMBERED_MAX: usize = 1 << 16;
/// Octets of a name in a line of the log about a refused login.
pub const AUTH_LOGGED_NAME_BYTES_MAX: usize = 256;
/// Clients that have logged in under one name that are remembered.
pub const AUTH_CLIENTS_OF_NAME_MAX: usize = 8;

/// Questions of a shard for Maildirs that wait for one another; more are not asked.
pub const MAILDIR_LOOKUPS_MAX: usize = 64;

// ---- delivery ----

/// Deliveries of a shard into mailboxes or Maildirs at the same time, to one place: each has one
/// piece of content in memory.
pub const LOCAL_DELIVERIES_MAX: usize = 64;
/// Threads of a shard that write into Maildirs.
pub const MAILDIR_THREADS: usize = 4;

/// Domains of a shard whose MX hosts are being found out at the same time; more wait.
pub const DISCOVERIES_MAX: usize = 64;
/// Domains of which a shard remembers where their mail goes.
pub const DOMAINS_KNOWN_MAX: usize = 100_000;
/// Mailboxes of which a shard remembers how the last delivery ended; a power of two. 8 bytes each.
pub const KNOWN_MAILBOXES_MAX: usize = 1 << 16;
/// Addresses that one client of the control socket has verified at the same time.
pub const VERIFICATIONS_AT_ONCE_MAX: usize = 64;
/// Domains for which the protection of one connection is counted.
pub const TLS_DOMAINS_COUNTED_MAX: usize = 16;
/// Policies whose sessions a shard, or the process, counts for reports: a few hundred bytes each.
pub const TLS_POLICIES_COUNTED_MAX: usize = 4096;
/// Failures of one policy that its report tells apart; more are in its sum alone.
pub const TLS_FAILURES_TOLD_APART_MAX: usize = 32;
/// TLS reports that wait to be sent; the oldest go for more.
pub const TLS_REPORTS_PENDING_MAX: usize = 2 * TLS_POLICIES_COUNTED_MAX;
/// TLS reports that are being sent at the same time.
pub const TLS_REPORTS_AT_ONCE_MAX: usize = 8;
/// Receivers of TLS reports that a domain may name; more are not looked at.
pub const TLS_REPORT_RECEIVERS_MAX: usize = 4;
/// TLS reports that a directory holds; the oldest go for more.
pub const TLS_REPORT_FILES_MAX: usize = 10_000;
/// Files of TLS reports that wait to be written.
pub const TLS_REPORT_FILES_WAITING_MAX: usize = 32;
/// Hosts of a place that a message is offered to in one attempt.
pub const MESSAGE_HOSTS_MAX: usize = 5;
/// Hosts that a shard remembers as failing; more are all forgotten.
pub const HOST_FAILURES_MAX: usize = 10_000;
/// MTA-STS policies that are remembered; more replace the one that ends first.
pub const STS_POLICIES_MAX: usize = 20_000;
/// Octets of a policy (RFC 8461 §3.2 suggests this).
pub const STS_POLICY_BYTES_MAX: usize = 64 * 1024;
/// Policies that could not be had, as far as that is remembered; more are all forgotten.
pub const STS_FAILURES_MAX: usize = 20_000;
/// Next hops that are remembered for broken TLS; more replace the one that ends first.
pub const TLS_BROKEN_HOSTS_MAX: usize = 4096;
/// Salted passwords for next hops that a shard remembers; more are all forgotten.
pub const SALTED_PASSWORDS_MAX: usize = 64;
/// Records of long windows that wait to be written; more are handed in again later.
pub const LEASE_RECORDS_WAITING_MAX: usize = 1024;
/// Suspensions and slowdowns by rules that a shard remembers; more replace the one that ends first.
pub const SUSPENSIONS_MAX: usize = 4096;
/// Spans of time for which a line remembers why it waited; older ones run together.
pub const WAIT_SPANS_MAX: usize = 64;
/// Closed lines whose past is kept for those that come after them; more are all forgotten.
pub const LINE_HISTORIES_MAX: usize = 4096;

// Each discovery asks for MX, then for both kinds of addresses of each host; others ask too.
const _: () = assert!(DISCOVERIES_MAX * 2 * MX_HOSTS_MAX < DNS_QUESTIONS_MAX);
const _: () = assert!(COMMAND_LINE_BYTES_MAX <= READ_BUFFER_BYTES);
// An envelope with all its recipients and a whole buffer of content fit one frame.
const _: () = assert!(CHUNK_BYTES_MAX + RECIPIENTS_MAX * (PATH_BYTES_MAX + 16) < FRAME_BYTES_MAX);
// One list does not fill a message by itself.
const _: () = assert!(ALIAS_TARGETS_MAX <= RECIPIENTS_MAX);
// Two of the longest records about messages fit a frame, with whatever is small beside them.
const _: () = assert!(2 * MAILBOX_RECORD_BYTES_MAX <= FRAME_BYTES_MAX);
// What a checkpoint says of one account, or of one mailbox but for its messages, fits one record.
const _: () = assert!(SUBSCRIPTIONS_MAX * (MAILBOX_NAME_BYTES_MAX + 2) < FRAME_BYTES_MAX - 4096);
const _: () = assert!(VANISHED_RANGES_MAX * 16 + KEYWORDS_MAX * 256 < MAILBOX_RECORD_BYTES_MAX);
