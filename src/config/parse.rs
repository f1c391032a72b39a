//! From a TOML file to a `Config`, naming file, line and key of whatever is wrong.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values;
use super::{BareNewline, Config, Durability, Listener, LogFormat, Route};
use crate::limits::{RECIPIENTS_MAX, SHARDS_MAX};
use crate::mail::address::is_domain;

/// Why a configuration is refused: one line, `FILE:LINE: KEY: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: String,
    /// 1-based.
    pub line: usize,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong, at an offset of the text.
struct Wrong {
    offset: usize,
    message: String,
}

type Checked<T> = Result<T, Wrong>;

impl Config {
    /// Parses `text`; what it does not say has its default. `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        let error = |offset: usize, message: String| ConfigError {
            file: file.to_owned(),
            line: text[..offset.min(text.len())].matches('\n').count() + 1,
            message,
        };
        let document = DeTable::parse(text).map_err(|wrong| {
            let offset = wrong.span().map_or(0, |span| span.start);
            error(offset, wrong.message().replace('\n', ", "))
        })?;
        read(document.get_ref()).map_err(|wrong| error(wrong.offset, wrong.message))
    }
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
    root.parsed("smarthost", "\"smtp://ADDRESS:PORT\"", |text| {
        config.smarthost = Some(values::parse_next_hop(text)?);
        Some(())
    })?;
    root.table("shards", |it| read_shards(it, &mut config))?;
    config.listeners = root.tables("listener", read_listener)?;
    root.table("reception", |it| read_reception(it, &mut config))?;
    root.table("journal", |it| read_journal(it, &mut config))?;
    root.table("queue", |it| read_queue(it, &mut config))?;
    root.table("delivery", |it| read_delivery(it, &mut config))?;
    config.routes = root.tables("route", read_route)?;
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
    let wrong = |key: &str, message: &str| root.wrong_at(key, message.to_owned());
    if config.listeners.is_empty() {
        return Err(wrong("listener", "no [[listener]]; add one with address = \"ADDRESS:PORT\""));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        if config.listeners[..index].contains(listener) {
            return Err(wrong("listener", "two [[listener]] tables with one address"));
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        if config.routes[..index].iter().any(|earlier| earlier.domain == route.domain) {
            let message = format!("two [[route]] tables for {}", route.domain);
            return Err(wrong("route", &message));
        }
    }
    if config.queue.retry_wait_min > config.queue.retry_wait_max {
        return Err(wrong("queue", "queue.retry_wait_min is above queue.retry_wait_max"));
    }
    if config.journal.bytes_max < 4 * config.journal.segment_bytes {
        return Err(wrong("journal", "journal.bytes_max must hold four segments at the least"));
    }
    if config.reception.message_bytes_max > config.journal.bytes_max / 4 {
        let message = "reception.message_bytes_max is above a quarter of journal.bytes_max";
        return Err(wrong("reception", message));
    }
    Ok(())
}

fn read_shards(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let shards = &mut config.shards;
    table.cores("cores", &mut shards.cores)?;
    table.optional_number("count", &mut shards.count, 1, SHARDS_MAX)?;
    table.optional_number("control_core", &mut shards.control_core, 0, 1023)?;
    table.duration("drain", &mut shards.drain, Duration::ZERO)
}

fn read_listener(table: &Table<'_, '_>) -> Checked<Listener> {
    let mut address = None;
    table.address("address", &mut address)?;
    let address = address.ok_or_else(|| table.missing("address"))?;
    Ok(Listener { address })
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
    table.parsed("next_hop", "\"smtp://ADDRESS:PORT\" or \"lmtp://ADDRESS:PORT\"", |text| {
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
    table.choice("bare_newline", &mut reception.bare_newline, BARE_NEWLINES)
}

fn read_journal(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let journal = &mut config.journal;
    table.size("segment_bytes", &mut journal.segment_bytes, 4 << 20, 128 << 20)?;
    table.size("bytes_max", &mut journal.bytes_max, 16 << 20, 1 << 50)?;
    table.size("min_free_bytes", &mut journal.min_free_bytes, 0, 1 << 50)?;
    table.choice("durability", &mut journal.durability, DURABILITIES)
}

fn read_queue(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let queue = &mut config.queue;
    table.duration("retry_wait_min", &mut queue.retry_wait_min, Duration::from_millis(100))?;
    table.duration("retry_wait_max", &mut queue.retry_wait_max, Duration::from_millis(100))?;
    table.duration("lifetime", &mut queue.lifetime, ONE_SECOND)?;
    let mut cache_bytes = queue.content_cache_bytes as u64;
    table.size("content_cache_bytes", &mut cache_bytes, 0, 1 << 40)?;
    queue.content_cache_bytes = cache_bytes as usize;
    table.number("messages_max", &mut queue.messages_max, 1, u32::MAX as usize - 1)
}

fn read_delivery(table: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let delivery = &mut config.delivery;
    table.optional_text("ehlo_name", &mut delivery.ehlo_name)?;
    table.number("connections_max", &mut delivery.connections_max, 1, 10_000)?;
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
    table.duration("end_of_data_timeout", &mut delivery.end_of_data_timeout, ONE_SECOND)
}

pub(super) const LOG_FORMATS: &[(&str, LogFormat)] =
    &[("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const BARE_NEWLINES: &[(&str, BareNewline)] =
    &[("refuse", BareNewline::Refuse), ("normalise", BareNewline::Normalise)];
pub(super) const DURABILITIES: &[(&str, Durability)] = &[
    ("fdatasync", Durability::Fdatasync),
    ("dsync", Durability::Dsync),
    ("none", Durability::None),
];
const ONE_SECOND: Duration = Duration::from_secs(1);

/// A table under reading: every key that was asked for is known, the rest is not.
struct Table<'t, 'i> {
    /// Empty for the root, else with a dot at the end.
    prefix: String,
    offset: usize,
    entries: Vec<Entry<'t, 'i>>,
}

struct Entry<'t, 'i> {
    key: &'t str,
    offset: usize,
    value: &'t DeValue<'i>,
    value_offset: usize,
    known: Cell<bool>,
}

impl<'t, 'i> Table<'t, 'i> {
    fn new(prefix: &str, offset: usize, table: &'t DeTable<'i>) -> Self {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref().as_ref(),
            offset: key.span().start,
            value: value.get_ref(),
            value_offset: value.span().start,
            known: Cell::new(false),
        });
        Self { prefix: prefix.to_owned(), offset, entries: entries.collect() }
    }

    fn entry(&self, key: &str) -> Option<&Entry<'t, 'i>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        entry.known.set(true);
        Some(entry)
    }

    /// Refuses what nobody asked for.
    fn finish(&self) -> Checked<()> {
        match self.entries.iter().find(|entry| !entry.known.get()) {
            Some(entry) => Err(Wrong {
                offset: entry.offset,
                message: format!("{}{}: unknown key", self.prefix, entry.key),
            }),
            None => Ok(()),
        }
    }

    fn wrong_at(&self, key: &str, message: String) -> Wrong {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        Wrong { offset: entry.map_or(self.offset, |entry| entry.offset), message }
    }

    fn missing(&self, key: &str) -> Wrong {
        let message = format!("{}{key}: missing", self.prefix);
        Wrong { offset: self.offset, message }
    }

    fn wrong(&self, entry: &Entry<'_, '_>, right: &str) -> Wrong {
        let found = describe(entry.value);
        let message = format!("{}{}: found {found}; expected {right}", self.prefix, entry.key);
        Wrong { offset: entry.value_offset, message }
    }

    fn table(&self, key: &str, read: impl FnOnce(&Table<'_, '_>) -> Checked<()>) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let DeValue::Table(table) = entry.value else {
            return Err(self.wrong(entry, &format!("a table [{key}]")));
        };
        let table = Table::new(&format!("{key}."), entry.offset, table);
        read(&table)?;
        table.finish()
    }

    fn tables<T>(&self, key: &str, read: impl Fn(&Table<'_, '_>) -> Checked<T>) -> Checked<Vec<T>> {
        let Some(entry) = self.entry(key) else { return Ok(Vec::new()) };
        let right = format!("tables [[{key}]]");
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong(entry, &right));
        };
        let mut values = Vec::new();
        for value in array.iter() {
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.wrong(entry, &right));
            };
            let table = Table::new(&format!("{key}."), value.span().start, table);
            values.push(read(&table)?);
            table.finish()?;
        }
        Ok(values)
    }

    /// A string that `parse` understands.
    fn parsed(
        &self,
        key: &str,
        right: &str,
        mut parse: impl FnMut(&str) -> Option<()>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        match entry.value {
            DeValue::String(text) if parse(text).is_some() => Ok(()),
            _ => Err(self.wrong(entry, right)),
        }
    }

    fn text(
        &self,
        key: &str,
        field: &mut String,
        right: &str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Checked<()> {
        self.parsed(key, right, |text| is_valid(text).then(|| text.clone_into(field)))
    }

    fn optional_text(&self, key: &str, field: &mut Option<String>) -> Checked<()> {
        self.parsed(key, "a text that is not empty", |text| {
            (!text.is_empty()).then(|| *field = Some(text.to_owned()))
        })
    }

    fn path(&self, key: &str, field: &mut PathBuf) -> Checked<()> {
        self.parsed(key, "a path", |text| (!text.is_empty()).then(|| *field = text.into()))
    }

    fn optional_path(&self, key: &str, field: &mut Option<PathBuf>) -> Checked<()> {
        self.parsed(key, "a path", |text| (!text.is_empty()).then(|| *field = Some(text.into())))
    }

    fn address(&self, key: &str, field: &mut Option<SocketAddr>) -> Checked<()> {
        self.parsed(key, "\"ADDRESS:PORT\" such as \"127.0.0.1:2525\" or \"[::1]:25\"", |text| {
            *field = Some(text.parse().ok()?);
            Some(())
        })
    }

    fn duration(&self, key: &str, field: &mut Duration, min: Duration) -> Checked<()> {
        let right = format!(
            "a duration such as \"30s\", \"5m\", \"2h\" or \"5d\", at least {}",
            values::write_duration(min)
        );
        self.parsed(key, &right, |text| {
            let duration = values::parse_duration(text)?;
            (duration >= min && duration <= DURATION_MAX).then(|| *field = duration)
        })
    }

    fn size(&self, key: &str, field: &mut u64, min: u64, max: u64) -> Checked<()> {
        let (least, most) = (values::write_size(min), values::write_size(max));
        let right = format!("a size such as \"25MiB\", from {least} to {most}");
        self.parsed(key, &right, |text| {
            let size = values::parse_size(text)?;
            (min..=max).contains(&size).then(|| *field = size)
        })
    }

    fn number<T>(&self, key: &str, field: &mut T, min: T, max: T) -> Checked<()>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<u64>,
    {
        let mut value = None;
        self.optional_number(key, &mut value, min, max)?;
        if let Some(value) = value {
            *field = value;
        }
        Ok(())
    }

    fn optional_number<T>(&self, key: &str, field: &mut Option<T>, min: T, max: T) -> Checked<()>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<u64>,
    {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let number = integer(entry.value).and_then(|it| T::try_from(it).ok());
        match number {
            Some(number) if number >= min && number <= max => {
                *field = Some(number);
                Ok(())
            }
            _ => Err(self.wrong(entry, &format!("a whole number from {min} to {max}"))),
        }
    }

    fn boolean(&self, key: &str, field: &mut bool) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        match entry.value {
            DeValue::Boolean(value) => {
                *field = *value;
                Ok(())
            }
            _ => Err(self.wrong(entry, "true or false")),
        }
    }

    fn choice<T: Copy>(&self, key: &str, field: &mut T, choices: &[(&str, T)]) -> Checked<()> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.parsed(key, &names.join(" or "), |text| {
            let (_, value) = choices.iter().find(|(name, _)| *name == text)?;
            *field = *value;
            Some(())
        })
    }

    fn list<T>(
        &self,
        key: &str,
        field: &mut Vec<T>,
        example: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let right = format!("a list of texts such as [{example}]");
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong(entry, &right));
        };
        field.clear();
        for item in array.iter() {
            let value = match item.get_ref() {
                DeValue::String(text) => parse(text),
                _ => None,
            };
            match value {
                Some(value) => field.push(value),
                None => return Err(self.wrong_item(entry, item, &right)),
            }
        }
        Ok(())
    }

    fn cores(&self, key: &str, field: &mut Option<Vec<usize>>) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let right = "\"auto\", a set such as \"0-3,8\", or a list such as [0, 1]";
        *field = match entry.value {
            DeValue::String(text) if text.as_ref() == "auto" => None,
            DeValue::String(text) => {
                Some(values::parse_core_set(text).ok_or_else(|| self.wrong(entry, right))?)
            }
            DeValue::Array(array) => {
                let numbers = array.iter().map(|item| integer(item.get_ref()));
                let listed: Option<Vec<String>> =
                    numbers.map(|number| number.map(|it| it.to_string())).collect();
                let set = listed.and_then(|it| values::parse_core_set(&it.join(",")));
                Some(set.ok_or_else(|| self.wrong(entry, right))?)
            }
            _ => return Err(self.wrong(entry, right)),
        };
        Ok(())
    }

    fn wrong_item(&self, entry: &Entry<'_, '_>, item: &Spanned<DeValue<'_>>, right: &str) -> Wrong {
        let found = describe(item.get_ref());
        let message = format!("{}{}: found {found}; expected {right}", self.prefix, entry.key);
        Wrong { offset: item.span().start, message }
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", text.as_ref()),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(_) => "a fraction".to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A year: what is longer is a mistake, and sums of durations stay far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

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
        check("hostnam = \"x\"", 1, "hostnam: unknown key");
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
        check("listener = 1\nx = [", 2, "");
        check("[queue]\nretry_wait_min = \"2h\"\nretry_wait_max = \"1h\"", 1, "retry_wait_min is");
        check("[journal]\nbytes_max = \"64MiB\"", 1, "four segments");
        check(LISTENER, 1, "two [[listener]]");
        let error = Config::parse("", "f").expect_err("no listener");
        assert_eq!(
            error.to_string(),
            "f:1: no [[listener]]; add one with address = \"ADDRESS:PORT\""
        );
    }

    #[test]
    fn the_effective_configuration_reads_back() {
        let text = format!(
            "hostname = \"mx.test\"\nsmarthost = \"smtp://localhost:26\"\n\
             [shards]\ncores = [1, 0]\ncount = 4\n[log]\nformat = \"json\"\npath = \"a \\\"b\"\n\
             [[route]]\ndomain = \"*.A.test\"\nnext_hop = \"lmtp://[::1]:24\"\n\
             [reception]\nrelay_networks = [\"10.0.0.0/8\", \"::1\"]\n{LISTENER}"
        );
        let parsed = Config::parse(&text, "f").expect("valid");
        assert_eq!(Config::parse(&parsed.explain(), "f"), Ok(parsed));
        let embedded = Config::embedded();
        assert_eq!(Config::parse(&embedded.explain(), "f"), Ok(embedded));
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
