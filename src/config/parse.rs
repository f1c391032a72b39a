//! From a TOML file to a `Config`, naming file, line and key of whatever is wrong.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::table::{Checked, Table};
use super::{BareNewline, Config, Durability, Families, Headers, LogFormat, Route};
use super::{credentials, egress, listener, mailboxes, retry, rules, tls, values};
use crate::limits::{RECIPIENTS_MAX, SHARDS_MAX};
use crate::mail::address::is_domain;
use crate::mail::{AddressRef, Utf8};
use crate::proto::message::removal::is_field_name;

/// Why a configuration is refused: one line, `FILE:LINE: KEY: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: String,
    /// 1-based; 0 when the file as a whole is meant.
    pub line: usize,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and parses a file, and the files that it names: rules, certificates, keys, passwords.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let mut config = Config::parse(&read_file(path)?, &path.display().to_string())?;
        if let Some(path) = &config.delivery.rules_path {
            config.delivery.rules = rules::load(path)?;
        }
        config.load_tls()?;
        super::credentials::load(&mut config.credentials)?;
        egress::load(&mut config.sources)?;
        Ok(config)
    }

    /// Parses `text`; what it does not say has its default. `file` is for messages. No other
    /// file is read: the shipped rules stand in for one of rules, and there are no certificates.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        read_document(text, file, read)
    }
}

/// The text of a file.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|error| ConfigError {
            file,
            line: line_of(error.as_bytes(), error.utf8_error().valid_up_to()),
            message: "not UTF-8".to_owned(),
        }),
        Err(error) => {
            Err(ConfigError { file, line: 0, message: format!("cannot be read: {error}") })
        }
    }
}

/// What `read` makes of a TOML text; what is wrong gets its file and line.
pub(super) fn read_document<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(&DeTable<'_>) -> Checked<T>,
) -> Result<T, ConfigError> {
    let error = |offset: usize, message: String| ConfigError {
        file: file.to_owned(),
        line: line_of(text.as_bytes(), offset),
        message,
    };
    let document = DeTable::parse(text).map_err(|wrong| {
        let span = wrong.span().unwrap_or(0..0);
        let mut message = wrong.message().replace('\n', ", ");
        if let (DUPLICATE_KEY, Some(key)) = (wrong.message(), text.get(span.clone())) {
            message = format!("{}: has a value already; remove one of the two", key.trim());
        }
        error(span.start, message)
    })?;
    read(document.get_ref()).map_err(|wrong| error(wrong.offset, wrong.message))
}

/// The line that holds the octet at `offset`, 1-based.
fn line_of(text: &[u8], offset: usize) -> usize {
    text[..offset.min(text.len())].iter().filter(|octet| **octet == b'\n').count() + 1
}

fn read(document: &DeTable<'_>) -> Checked<Config> {
    let mut config = Config::default();
    let root = Table::new("", 0, document);
    root.text("hostname", &mut config.hostname, "a host name such as mx.example", |name| {
        is_domain(name) && name.is_ascii()
    })?;
    root.number("node", &mut config.node, 0, u16::MAX)?;
    root.path("data_dir", &mut config.data_dir)?;
    root.optional_text("user", &mut config.user)?;
    root.optional_text("group", &mut config.group)?;
    root.parsed("smarthost", values::NEXT_HOP_FORMS, |text| {
        config.smarthost = Some(values::parse_next_hop(text)?);
        Some(())
    })?;
    root.table("shards", |it| read_shards(it, &mut config))?;
    config.listeners = root.tables("listener", listener::read)?;
    root.table("reception", |it| read_reception(it, &mut config))?;
    mailboxes::read(&root, &mut config)?;
    root.table("access", |it| super::access::read(it, &mut config.access))?;
    root.table("journal", |it| read_journal(it, &mut config))?;
    root.table("queue", |it| read_queue(it, &mut config))?;
    retry::read(&root, &mut config)?;
    root.table("delivery", |it| read_delivery(it, &mut config))?;
    root.table("dns", |it| super::dns::read(it, &mut config.dns))?;
    root.table("tls_reports", |it| super::tls_reports::read(it, &mut config.tls_reports))?;
    root.table("verify", |it| super::verify::read(it, &mut config.verify))?;
    super::acme::read(&root, &mut config)?;
    tls::read(&root, &mut config)?;
    config.routes = root.tables("route", read_route)?;
    credentials::read(&root, &mut config)?;
    egress::read(&root, &mut config)?;
    root.table("metrics", |it| it.address("listen", &mut config.metrics.listen))?;
    root.table("log", |it| {
        it.optional_path("path", &mut config.log.path)?;
        it.choice("format", &mut config.log.format, LOG_FORMATS)?;
        it.boolean("outcomes", &mut config.log.outcomes)
    })?;
    root.finish()?;
    check_together(&root, &config)?;
    Ok(config)
}

/// What single values cannot tell.
fn check_together(root: &Table<'_, '_>, config: &Config) -> Checked<()> {
    let wrong = |paths: &[&[&str]], message: &str| root.wrong_at(paths, message.to_owned());
    if config.listeners.is_empty() {
        return Err(wrong(&[], "no [[listener]]; add one with address = \"ADDRESS:PORT\""));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        if config.listeners[..index].iter().any(|it| it.address.is_same_place(&listener.address)) {
            let path = ["listener", &index.to_string(), "address"];
            return Err(wrong(&[&path], "listener.address: another [[listener]] has it already"));
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        if config.routes[..index].iter().any(|earlier| earlier.domain == route.domain) {
            let message = format!("route.domain: {} has a [[route]] already", route.domain);
            return Err(wrong(&[&["route", &index.to_string(), "domain"]], &message));
        }
    }
    let headers = config.reception.headers.entries();
    for (index, (key, name)) in headers.iter().enumerate() {
        let Some(name) = name else { continue };
        let mut earlier = headers[..index].iter().filter_map(|(_, earlier)| *earlier);
        if earlier.any(|earlier| earlier.eq_ignore_ascii_case(name)) {
            let message = format!("reception.headers.{key}: {name} has another meaning already");
            return Err(wrong(&[&["reception", "headers", key]], &message));
        }
    }
    if config.reception.headers.release.is_some() && config.reception.hold_max.is_zero() {
        let message = "reception.headers.release: hold_max is zero; raise it";
        let paths: [&[_]; 2] = [&["reception", "headers", "release"], &["reception", "hold_max"]];
        return Err(wrong(&paths, message));
    }
    if config.queue.retry_wait_min > config.queue.retry_wait_max {
        let message = "queue.retry_wait_min: above retry_wait_max; make it at most that";
        return Err(wrong(&[&["queue", "retry_wait_min"], &["queue", "retry_wait_max"]], message));
    }
    if config.delivery.probe_wait_min > config.delivery.probe_wait_max {
        let message = "delivery.probe_wait_min: above probe_wait_max; make it at most that";
        let paths: [&[_]; 2] = [&["delivery", "probe_wait_min"], &["delivery", "probe_wait_max"]];
        return Err(wrong(&paths, message));
    }
    if config.journal.bytes_max < 8 * config.journal.segment_bytes {
        let message = "journal.bytes_max: less than eight times segment_bytes; raise it";
        return Err(wrong(&[&["journal", "bytes_max"], &["journal", "segment_bytes"]], message));
    }
    if config.reception.message_bytes_max > config.journal.bytes_max / 4 {
        let message = "reception.message_bytes_max: above a quarter of journal.bytes_max; \
                       lower the one or raise the other";
        let paths: [&[_]; 2] = [&["reception", "message_bytes_max"], &["journal", "bytes_max"]];
        return Err(wrong(&paths, message));
    }
    mailboxes::check(root, config)
}

fn read_shards(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let shards = &mut config.shards;
    table.cores("cores", &mut shards.cores)?;
    table.optional_number("count", &mut shards.count, 1, SHARDS_MAX)?;
    table.optional_number("control_core", &mut shards.control_core, 0, 1023)?;
    table.duration("drain", &mut shards.drain, Duration::ZERO)
}

fn read_route(table: &Table<'_, '_>) -> Checked<Route> {
    let mut domain = String::new();
    table.text(
        "domain",
        &mut domain,
        "a domain such as example.test or *.example.test",
        |text| is_domain(text.strip_prefix("*.").unwrap_or(text)),
    )?;
    if domain.is_empty() {
        return Err(table.missing("domain"));
    }
    let mut next_hop = None;
    table.parsed("next_hop", values::NEXT_HOP_FORMS, |text| {
        next_hop = Some(values::parse_next_hop(text)?);
        Some(())
    })?;
    let next_hop = next_hop.ok_or_else(|| table.missing("next_hop"))?;
    Ok(Route { domain: domain.to_ascii_lowercase(), next_hop })
}

fn read_reception(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let reception = &mut config.reception;
    table.list("relay_networks", &mut reception.relay_networks, "\"10.0.0.0/8\"", |text| {
        values::parse_network(text)
    })?;
    table.size("message_bytes_max", &mut reception.message_bytes_max, 1 << 10, 1 << 40)?;
    table.number("recipients_max", &mut reception.recipients_max, 1, RECIPIENTS_MAX)?;
    table.number("errors_max", &mut reception.errors_max, 1, u32::MAX)?;
    table.duration("idle_timeout", &mut reception.idle_timeout, ONE_SECOND)?;
    table.duration("content_timeout", &mut reception.content_timeout, ONE_SECOND)?;
    table.number("sessions_max", &mut reception.sessions_max, 1, usize::MAX)?;
    table.number("sessions_per_client_max", &mut reception.sessions_per_client_max, 1, 1 << 31)?;
    table.number(
        "messages_per_session_max",
        &mut reception.messages_per_session_max,
        1,
        u32::MAX,
    )?;
    table.number("received_fields_max", &mut reception.received_fields_max, 1, 1000)?;
    table.choice("bare_newline", &mut reception.bare_newline, BARE_NEWLINES)?;
    table.boolean("refuse_null_mx", &mut reception.refuse_null_mx)?;
    table.duration("hold_max", &mut reception.hold_max, Duration::ZERO)?;
    table.table("headers", |it| read_headers(it, &mut reception.headers))
}

fn read_headers(table: &Table<'_, '_>, headers: &mut Headers) -> Checked<()> {
    let fields = [
        ("tenant", &mut headers.tenant),
        ("campaign", &mut headers.campaign),
        ("class", &mut headers.class),
        ("release", &mut headers.release),
    ];
    for (key, field) in fields {
        table.parsed(key, "the name of a header field such as X-Tenant", |text| {
            is_field_name(text).then(|| *field = Some(text.to_owned()))
        })?;
    }
    Ok(())
}

fn read_journal(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let journal = &mut config.journal;
    table.size("segment_bytes", &mut journal.segment_bytes, 4 << 20, 128 << 20)?;
    table.size("bytes_max", &mut journal.bytes_max, 32 << 20, 1 << 50)?;
    table.size("min_free_bytes", &mut journal.min_free_bytes, 0, 1 << 50)?;
    table.choice("durability", &mut journal.durability, DURABILITIES)
}

fn read_queue(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let queue = &mut config.queue;
    table.duration("retry_wait_min", &mut queue.retry_wait_min, Duration::from_millis(100))?;
    table.duration("retry_wait_max", &mut queue.retry_wait_max, Duration::from_millis(100))?;
    table.duration("lifetime", &mut queue.lifetime, ONE_SECOND)?;
    table.parsed("double_bounce", "a mailbox such as postmaster@mx.example", |text| {
        let mailbox = AddressRef::parse(text.as_bytes(), Utf8::Refused).ok()?;
        queue.double_bounce = Some(mailbox.as_str().to_owned());
        Some(())
    })?;
    let per_minute = &mut queue.notifications_per_minute;
    table.number("notifications_per_minute", per_minute, 1, 1_000_000)?;
    let mut cache_bytes = queue.content_cache_bytes as u64;
    table.size("content_cache_bytes", &mut cache_bytes, 0, 1 << 40)?;
    queue.content_cache_bytes = cache_bytes as usize;
    table.number("messages_max", &mut queue.messages_max, 1, u32::MAX as usize - 1)
}

fn read_delivery(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let delivery = &mut config.delivery;
    table.parsed("ehlo_name", "a host name such as mx.example", |name| {
        (is_domain(name) && name.is_ascii()).then(|| delivery.ehlo_name = Some(name.to_owned()))
    })?;
    table.number("connections_max", &mut delivery.connections_max, 1, 10_000)?;
    table.number("connections_start", &mut delivery.connections_start, 1, 10_000)?;
    table.number("failures_dead", &mut delivery.failures_dead, 1, 1000)?;
    let tenth = Duration::from_millis(100);
    table.duration("probe_wait_min", &mut delivery.probe_wait_min, tenth)?;
    table.duration("probe_wait_max", &mut delivery.probe_wait_max, tenth)?;
    table.number(
        "messages_per_connection_max",
        &mut delivery.messages_per_connection_max,
        1,
        u32::MAX,
    )?;
    table.duration("idle_timeout", &mut delivery.idle_timeout, Duration::ZERO)?;
    table.duration("connect_timeout", &mut delivery.connect_timeout, ONE_SECOND)?;
    table.duration("command_timeout", &mut delivery.command_timeout, ONE_SECOND)?;
    table.duration("content_timeout", &mut delivery.content_timeout, ONE_SECOND)?;
    table.duration("end_of_data_timeout", &mut delivery.end_of_data_timeout, ONE_SECOND)?;
    table.optional_path("rules", &mut delivery.rules_path)?;
    table.number("mx_port", &mut delivery.mx_port, 1, u16::MAX)?;
    table.choice("address_families", &mut delivery.address_families, FAMILIES)?;
    table.table("tls", |it| tls::read_delivery(it, &mut delivery.tls))
}

pub(super) const FAMILIES: &[(&str, Families)] = &[
    ("ipv6-first", Families::Ipv6First),
    ("ipv4-first", Families::Ipv4First),
    ("ipv6-only", Families::Ipv6Only),
    ("ipv4-only", Families::Ipv4Only),
];
pub(super) const LOG_FORMATS: &[(&str, LogFormat)] =
    &[("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const BARE_NEWLINES: &[(&str, BareNewline)] =
    &[("refuse", BareNewline::Refuse), ("normalise", BareNewline::Normalise)];
pub(super) const DURABILITIES: &[(&str, Durability)] = &[
    ("fdatasync", Durability::Fdatasync),
    ("dsync", Durability::Dsync),
    ("none", Durability::None),
];
/// What the TOML parser says of a key that comes twice.
const DUPLICATE_KEY: &str = "duplicate key";
const ONE_SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::client::Contexts;

    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";

    fn check(text: &str, line: usize, expected: &str) {
        let text = format!("{text}\n{LISTENER}");
        let error = Config::parse(&text, "ringpost.toml").expect_err(&text);
        let shown = error.to_string();
        let start = format!("ringpost.toml:{line}: ");
        assert!(shown.starts_with(&start) && shown.contains(expected), "{text}\n{shown}");
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        check("hostnam = \"x\"", 1, "hostnam: unknown key; known here: hostname, node, ");
        check("\n[reception]\nfoo = 1", 3, "reception.foo: unknown key");
        check("hostname = \"two words\"", 1, "hostname: found \"two words\"; expected a host name");
        check("hostname = 5", 1, "hostname: found 5; expected");
        check("node = 70000", 1, "node: found 70000; expected a whole number from 0 to 65535");
        check("node = -1", 1, "node: found -1");
        check("smarthost = \"mx.example\"", 1, "smarthost: found \"mx.example\"; expected");
        check(
            "[reception]\nidle_timeout = 5",
            2,
            "reception.idle_timeout: found 5; expected a dur",
        );
        check("[reception]\n\nmessage_bytes_max = \"5MB\"", 3, "expected a size such as");
        check("[reception]\nrelay_networks = [\"10.0.0.0/8\",\n\"x\"]", 3, "found \"x\"");
        check("[reception]\nbare_newline = \"keep\"", 2, "expected \"refuse\" or \"normalise\"");
        check("[shards]\ncores = \"3-1\"", 2, "shards.cores: found \"3-1\"");
        check("[shards]\ncores = [0, 0]", 2, "shards.cores: found a list");
        check("[shards]\ncount = 0", 2, "shards.count: found 0");
        check("[[route]]\ndomain = \"a.test\"", 1, "route.next_hop: missing");
        check("[[route]]\nnext_hop = \"smtp://[::1]:25\"", 1, "route.domain: missing");
        check(
            "[log]\noutcomes = \"yes\"",
            2,
            "log.outcomes: found \"yes\"; expected true or false",
        );
        check("log = 1", 1, "log: found 1; expected a table [log]");
        check("x = 1 2", 1, "");
        check(
            "[queue]\nretry_wait_max = \"1h\"\nretry_wait_min = \"2h\"",
            3,
            "above retry_wait_max",
        );
        check(
            "[reception.headers]\ntenant = \"X Tenant\"",
            2,
            "reception.headers.tenant: found \"X Tenant\"; expected the name of a header field",
        );
        check(
            "[reception.headers]\ntenant = \"X-A\"\nclass = \"x-a\"",
            3,
            "reception.headers.class: x-a has another meaning already",
        );
        check(
            "[reception]\nhold_max = \"0s\"\n[reception.headers]\nrelease = \"X-A\"",
            4,
            "hold_max is zero",
        );
        check("[[listener]]\naddress = \"[::1]:26\"\ntenant = \"\"", 3, "listener.tenant: found");
        check(
            "[[listener]]\naddress = \"[::1]:26\"\nclass = \"urgent\"",
            3,
            "listener.class: found",
        );
        check("[queue]\ndouble_bounce = \"root\"", 2, "queue.double_bounce: found \"root\"");
        check("[journal]\nbytes_max = \"64MiB\"", 2, "eight times segment_bytes");
        check("[journal]\nsegment_bytes = \"128MiB\"\nbytes_max = \"256MiB\"", 3, "eight times");
        check("[reception]\nmessage_bytes_max = \"1TiB\"", 2, "above a quarter of journal");
        // Only one key of the two is in the file: that is the one to look at.
        check("[queue]\n\nretry_wait_max = \"1m\"", 3, "queue.retry_wait_min: above");
        check(
            "[journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"32MiB\"",
            3,
            "reception.message_bytes_max: above",
        );
        check("node = 1\n\nnode = 1", 3, "node: has a value already");
        check("[log]\noutcomes = true\n[log]", 3, "log: has a value already");
        check("[log]\n\"format\" = \"text\"\nformat = \"text\"", 3, "format: has a value");
        check("route = 5", 1, "route: found 5; expected tables [[route]]");
        check("route = [\n1]", 2, "route: found 1; expected tables [[route]]");
        check("node = 1.5", 1, "node: found a fraction; expected a whole number");
        check("node = 2020-01-01", 1, "node: found a date");
        check("[shards]\ndrain = \"400d\"", 2, "shards.drain: found \"400d\"");
        check("[reception]\nidle_timeout = \"10ms\"", 2, "at least 1s");
        check("[reception]\nmessage_bytes_max = \"1B\"", 2, "from 1KiB to 1TiB");
        check("[reception]\nrecipients_max = 2001", 2, "a whole number from 1 to 2000");
        check("[metrics]\nlisten = \"localhost:80\"", 2, "metrics.listen: found");
        check("[[listener]]\naddress = \"[::1]:26\"\nbacklog = 5", 3, "listener.backlog: unknown");
        check("[delivery]\nprobe_wait_min = \"1h\"", 2, "delivery.probe_wait_min: above");
        check("[delivery]\nehlo_name = \"a\\r\\nb\"", 2, "expected a host name");
        check(LISTENER, 5, "another [[listener]] has it");
        let route = "[[route]]\ndomain = \"a.test\"\nnext_hop = \"smtp://[::1]:25\"\n";
        check(&[route, route].concat(), 5, "route.domain: a.test has a [[route]] already");
        let error = Config::parse("", "f").expect_err("no listener");
        assert_eq!(
            error.to_string(),
            "f:1: no [[listener]]; add one with address = \"ADDRESS:PORT\""
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ringpost.toml");
        let shown = |path: &Path| Config::load(path).expect_err("refused").to_string();
        assert_eq!(
            shown(&path),
            format!("{}: cannot be read: No such file or directory (os error 2)", path.display())
        );
        std::fs::write(&path, b"# one\n# \xff\n").expect("written");
        assert_eq!(shown(&path), format!("{}:2: not UTF-8", path.display()));
    }

    #[test]
    fn the_effective_configuration_reads_back() {
        let text = format!(
            "hostname = \"mx.test\"\nsmarthost = \"smtp://localhost:26\"\n\
             [shards]\ncores = [1, 0]\ncount = 4\n[log]\nformat = \"json\"\npath = \"a \\\"b\"\n\
             [[route]]\ndomain = \"*.A.test\"\nnext_hop = \"lmtp://[::1]:24\"\n\
             [reception]\nrelay_networks = [\"10.0.0.0/8\", \"::1\"]\nhold_max = \"1d\"\n\
             [reception.headers]\ntenant = \"X-Tenant\"\nrelease = \"X-Send-At\"\n\
             [[listener]]\naddress = \"[::1]:25\"\ntenant = \"acme\"\ncampaign = \"a b\"\n\
             class = \"transactional\"\n\
             [queue]\ndouble_bounce = \"postmaster@mx.test\"\n{LISTENER}"
        );
        let parsed = Config::parse(&text, "f").expect("valid");
        assert_eq!(Config::parse(&parsed.explain(), "f"), Ok(parsed));
        let embedded = Config::embedded();
        assert_eq!(Config::parse(&embedded.explain(), "f"), Ok(embedded));
    }

    /// All but what is made of files.
    fn check_reads_back(mut config: Config) {
        config.delivery.tls.contexts = Contexts::default();
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config));
    }

    #[test]
    fn the_example_of_core_pinning_is_valid_and_gives_no_reason_to_warn() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/pinning.toml");
        let config = Config::load(Path::new(path)).expect("valid");
        assert_eq!(config.shards.cores, Some(vec![2, 3, 4, 5, 6, 7]));
        assert_eq!(config.warnings(), Vec::<String>::new());
        check_reads_back(config);
    }

    #[test]
    fn the_example_of_limits_is_valid_and_gives_no_reason_to_warn() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/limits.toml");
        let config = Config::load(Path::new(path)).expect("valid");
        assert_eq!((config.pools.len(), config.limits.len()), (2, 3));
        assert_eq!(config.warnings(), Vec::<String>::new());
        check_reads_back(config);
    }

    #[test]
    fn the_example_of_delivery_by_mx_is_valid_and_gives_no_reason_to_warn() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/mx.toml");
        let config = Config::load(Path::new(path)).expect("valid");
        assert_eq!(config.smarthost, Some(crate::config::NextHop::Mx(None)));
        // A machine may be without the CAs by which web servers are known.
        assert!(config.warnings().iter().all(|it| it.contains("no CA certificates")));
        check_reads_back(config);
    }

    #[test]
    fn no_prefix_of_a_configuration_makes_the_parser_panic() {
        let text = Config::embedded().explain();
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            // Whether a prefix is valid does not matter here.
            let _ = Config::parse(&text[..end], "f");
        }
    }
}
