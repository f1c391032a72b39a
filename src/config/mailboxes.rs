//! `[mailboxes]` and `[[alias]]`: whose mail stays here, and under which other names it comes.

use std::collections::HashMap;
use std::time::Duration;

use super::explain::Out;
use super::table::{Checked, Table};
use super::values::{write_duration, write_size};
use super::{Config, Protocol};
use crate::limits::{ALIAS_DEPTH_MAX, ALIAS_TARGETS_MAX, LOCAL_DOMAINS_MAX};
use crate::mail::address::{AddressRef, Utf8, is_domain};

/// `[mailboxes]`
#[derive(Clone, Debug, PartialEq)]
pub struct Mailboxes {
    /// Local domains, lower case; without one there is no local mail.
    pub domains: Vec<String>,
    /// What begins the detail of a local-part (RFC 5233): `user+detail`. Empty for none.
    pub detail_separator: String,
    pub over_quota: OverQuota,
    /// Octets that an account may hold which has no quota of its own; 0 for no limit.
    pub quota: u64,
    /// How long expunged messages are kept.
    pub undelete: Duration,
    /// Sessions of one account over all its clients.
    pub sessions_per_account_max: usize,
    /// Most disk one partition may take.
    pub bytes_max: u64,
}

/// What a client hears of mail for an account that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverQuota {
    /// 452 4.2.2: it tries again.
    #[default]
    Defer,
    /// 552 5.2.2: the reverse-path gets a DSN.
    Refuse,
}

/// `[[alias]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// `name@local.test`, or `@local.test` for all that is nobody's there; lower case.
    pub address: String,
    /// Where its mail goes instead: accounts, other aliases, or mailboxes elsewhere.
    pub to: Vec<String>,
}

impl Default for Mailboxes {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            detail_separator: "+".to_owned(),
            over_quota: OverQuota::default(),
            quota: 0,
            undelete: Duration::from_secs(7 * 86_400),
            sessions_per_account_max: 50,
            bytes_max: 1 << 40,
        }
    }
}

pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    root.table("mailboxes", |it| read_mailboxes(it, &mut config.mailboxes))?;
    config.aliases = root.tables("alias", read_alias)?;
    Ok(())
}

fn read_mailboxes(table: &Table<'_, '_>, mailboxes: &mut Mailboxes) -> Checked<()> {
    table.list("domains", &mut mailboxes.domains, "\"example.test\"", |text| {
        is_domain(text).then(|| text.to_lowercase())
    })?;
    let right = "a printable character such as \"+\" that is none of @ . \" and no letter or \
                 digit, or \"\" for none";
    table.parsed("detail_separator", right, |text| {
        is_separator(text).then(|| text.clone_into(&mut mailboxes.detail_separator))
    })?;
    table.choice("over_quota", &mut mailboxes.over_quota, OVER_QUOTA)?;
    table.size("quota", &mut mailboxes.quota, 0, 1 << 50)?;
    table.duration("undelete", &mut mailboxes.undelete, Duration::ZERO)?;
    let sessions_max = &mut mailboxes.sessions_per_account_max;
    table.number("sessions_per_account_max", sessions_max, 1, 100_000)?;
    table.size("bytes_max", &mut mailboxes.bytes_max, 32 << 20, 1 << 42)
}

fn is_separator(text: &str) -> bool {
    let mut octets = text.bytes();
    match (octets.next(), octets.next()) {
        (None, _) => true,
        (Some(octet), None) => {
            octet.is_ascii_graphic() && !octet.is_ascii_alphanumeric() && !b"@.\"".contains(&octet)
        }
        _ => false,
    }
}

fn read_alias(table: &Table<'_, '_>) -> Checked<Alias> {
    let mut address = String::new();
    let right = "\"name@example.test\", or \"@example.test\" for all that is nobody's";
    table.parsed("address", right, |text| {
        let is_one = text.strip_prefix('@').map_or_else(|| is_address(text), is_domain);
        is_one.then(|| address = text.to_lowercase())
    })?;
    if address.is_empty() {
        return Err(table.missing("address"));
    }
    let mut to = Vec::new();
    table.list("to", &mut to, "\"name@example.test\"", |text| {
        is_address(text).then(|| text.to_owned())
    })?;
    if to.is_empty() {
        return Err(table.missing("to"));
    }
    if to.len() > ALIAS_TARGETS_MAX {
        return Err(table.refused("to", &format!("more than {ALIAS_TARGETS_MAX}")));
    }
    Ok(Alias { address, to })
}

fn is_address(text: &str) -> bool {
    AddressRef::parse(text.as_bytes(), Utf8::Allowed).is_ok() && text.contains('@')
}

/// What single values cannot tell.
pub(super) fn check(root: &Table<'_, '_>, config: &Config) -> Checked<()> {
    let mailboxes = &config.mailboxes;
    let wrong = |path: &[&str], message: String| Err(root.wrong_at(&[path], message));
    if mailboxes.domains.len() > LOCAL_DOMAINS_MAX {
        let message = format!("mailboxes.domains: more than {LOCAL_DOMAINS_MAX}");
        return wrong(&["mailboxes", "domains"], message);
    }
    let mut domains: Vec<&String> = mailboxes.domains.iter().collect();
    domains.sort_unstable();
    if let Some(twice) = domains.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("mailboxes.domains: {} stands there twice", twice[0]);
        return wrong(&["mailboxes", "domains"], message);
    }
    let mut addresses = std::collections::HashSet::new();
    for (index, alias) in config.aliases.iter().enumerate() {
        let path = ["alias", &index.to_string(), "address"];
        let domain = alias.address.rsplit('@').next().unwrap_or_default();
        if domains.binary_search_by(|it| it.as_str().cmp(domain)).is_err() {
            let message =
                format!("alias.address: {domain} is not one of mailboxes.domains; add it there");
            return wrong(&path, message);
        }
        if !addresses.insert(&alias.address) {
            let message = format!("alias.address: {} has an [[alias]] already", alias.address);
            return wrong(&path, message);
        }
    }
    if let Err((index, problem)) = Chains::new(config).check() {
        let path = ["alias", &index.to_string(), "to"];
        return wrong(&path, format!("alias.to: {problem}"));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        check_protocol(root, config, (index, listener.protocol))?;
    }
    Ok(())
}

/// Aliases and how far they lead.
struct Chains<'c> {
    config: &'c Config,
    by_address: HashMap<&'c str, usize>,
    /// By position: how many aliases the longest chain has that begins there, once that is known.
    lengths: Vec<Option<usize>>,
}

impl<'c> Chains<'c> {
    fn new(config: &'c Config) -> Self {
        let addresses = config.aliases.iter().enumerate();
        let by_address = addresses.map(|(index, alias)| (alias.address.as_str(), index));
        Self { config, by_address: by_address.collect(), lengths: vec![None; config.aliases.len()] }
    }

    /// Finds one that leads back to itself or too far, by its position.
    fn check(mut self) -> Result<(), (usize, String)> {
        for index in 0..self.lengths.len() {
            self.length(index, &mut Vec::new()).map_err(|problem| (index, problem))?;
        }
        Ok(())
    }

    fn length(&mut self, index: usize, path: &mut Vec<usize>) -> Result<usize, String> {
        if let Some(length) = self.lengths[index] {
            return Ok(length);
        }
        let aliases = &self.config.aliases;
        if let Some(first) = path.iter().position(|it| *it == index) {
            let names =
                path[first..].iter().chain([&index]).map(|it| aliases[*it].address.as_str());
            return Err(format!("a loop: {}", names.collect::<Vec<_>>().join(" -> ")));
        }
        let too_far = || format!("more than {ALIAS_DEPTH_MAX} aliases one after the other");
        if path.len() >= ALIAS_DEPTH_MAX {
            return Err(too_far());
        }
        path.push(index);
        let mut length = 1;
        for target in &aliases[index].to {
            // One that stands in its own list is the account of that name.
            let next = self.alias_of(target).filter(|next| *next != index);
            if let Some(next) = next {
                length = length.max(1 + self.length(next, path)?);
            }
        }
        path.pop();
        if length > ALIAS_DEPTH_MAX {
            return Err(too_far());
        }
        self.lengths[index] = Some(length);
        Ok(length)
    }

    /// The alias that mail for an address goes by, that of its name without a detail included.
    fn alias_of(&self, address: &str) -> Option<usize> {
        let address = address.to_lowercase();
        let (local_part, domain) = address.rsplit_once('@')?;
        let separator = self.config.mailboxes.detail_separator.chars().next();
        let base = separator.and_then(|it| local_part.split_once(it)).map(|(base, _)| base);
        let base = base.map(|base| format!("{base}@{domain}"));
        let names = [Some(&address), base.as_ref()].into_iter().flatten();
        names.into_iter().find_map(|name| self.by_address.get(name.as_str()).copied())
    }
}

/// A listener of this protocol, at this position, has what it needs.
fn check_protocol(
    root: &Table<'_, '_>,
    config: &Config,
    (index, protocol): (usize, Protocol),
) -> Checked<()> {
    let position = index.to_string();
    let wrong = |key: &str, message: String| {
        Err(root.wrong_at(&[&["listener", &position, key]], format!("listener.{key}: {message}")))
    };
    let name = protocol.as_str();
    if !SERVED.contains(&protocol) {
        return wrong("protocol", format!("{name} is not served by this version"));
    }
    if protocol == Protocol::Smtp {
        return Ok(());
    }
    if config.mailboxes.domains.is_empty() {
        return wrong("protocol", format!("{name} needs mailboxes.domains; add at least one"));
    }
    let reads = matches!(protocol, Protocol::Imap | Protocol::Pop3);
    let stream = &config.listeners[index].stream;
    for (key, is_there) in [
        ("tenant", !stream.tenant.is_empty()),
        ("campaign", !stream.campaign.is_empty()),
        ("class", stream.class != Default::default()),
    ] {
        if reads && is_there {
            return wrong(key, format!("nothing comes in by {name}; remove it"));
        }
    }
    Ok(())
}

pub(super) fn explain(config: &Config, out: &mut Out) {
    let it = &config.mailboxes;
    out.table("[mailboxes]");
    out.plain("domains", format_args!("{:?}", it.domains));
    out.text("detail_separator", Some(&it.detail_separator));
    out.choice("over_quota", it.over_quota, OVER_QUOTA);
    out.text("quota", Some(&write_size(it.quota)));
    out.text("undelete", Some(&write_duration(it.undelete)));
    out.plain("sessions_per_account_max", it.sessions_per_account_max);
    out.text("bytes_max", Some(&write_size(it.bytes_max)));
    for alias in &config.aliases {
        out.table("[[alias]]");
        out.text("address", Some(&alias.address));
        out.plain("to", format_args!("{:?}", alias.to));
    }
}

const OVER_QUOTA: &[(&str, OverQuota)] =
    &[("defer", OverQuota::Defer), ("refuse", OverQuota::Refuse)];
/// Whose sessions this server has.
const SERVED: &[Protocol] =
    &[Protocol::Smtp, Protocol::Submission, Protocol::Lmtp, Protocol::Imap, Protocol::Pop3];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::PROTOCOLS;

    fn parse(text: &str) -> Result<Config, String> {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:25\"\n{text}");
        let config = Config::parse(&text, "f").map_err(|error| error.to_string())?;
        assert_eq!(Config::parse(&config.explain(), "again"), Ok(config.clone()));
        Ok(config)
    }

    #[test]
    fn the_tables_are_read_and_written_back() {
        let config = parse("").expect("valid");
        assert_eq!((config.mailboxes, config.aliases), (Mailboxes::default(), Vec::new()));
        let config = parse(
            "[mailboxes]\ndomains = [\"A.test\", \"b.test\"]\ndetail_separator = \"\"\n\
             over_quota = \"refuse\"\nquota = \"1GiB\"\nundelete = \"1d\"\n\
             sessions_per_account_max = 7\nbytes_max = \"2GiB\"\n\
             [[alias]]\naddress = \"Info@a.test\"\nto = [\"x@a.test\", \"\\\"y z\\\"@c.test\"]\n\
             [[alias]]\naddress = \"@B.test\"\nto = [\"x@a.test\"]",
        );
        let config = config.expect("valid");
        let expected = Mailboxes {
            domains: vec!["a.test".to_owned(), "b.test".to_owned()],
            detail_separator: String::new(),
            over_quota: OverQuota::Refuse,
            quota: 1 << 30,
            undelete: Duration::from_secs(86_400),
            sessions_per_account_max: 7,
            bytes_max: 2 << 30,
        };
        assert_eq!(config.mailboxes, expected);
        let to = vec!["x@a.test".to_owned(), "\"y z\"@c.test".to_owned()];
        let expected = Alias { address: "info@a.test".to_owned(), to };
        assert_eq!(config.aliases[0], expected);
        assert_eq!(config.aliases[1].address, "@b.test");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(&format!("f:{line}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        let one = "[mailboxes]\ndomains = [\"a.test\"]\n";
        check("[mailboxes]\ndomains = [\"a b\"]", 4, "mailboxes.domains: found \"a b\"");
        check("[mailboxes]\ndomains = [\"a.test\", \"A.test\"]", 4, "a.test stands there twice");
        for separator in ["++", "@", "a", ".", " "] {
            let text = format!("[mailboxes]\ndetail_separator = \"{separator}\"");
            check(&text, 4, "mailboxes.detail_separator: found");
        }
        check("[mailboxes]\nover_quota = \"x\"", 4, "expected \"defer\" or \"refuse\"");
        check("[mailboxes]\nquota = 5", 4, "mailboxes.quota: found 5; expected a size");
        check("[mailboxes]\nsessions_per_account_max = 0", 4, "found 0");
        check("[mailboxes]\ndomain = []", 4, "mailboxes.domain: unknown key");
        check("[[alias]]\nto = [\"a@a.test\"]", 3, "alias.address: missing");
        let alias = |text: &str| format!("{one}[[alias]]\n{text}");
        check(&alias("address = \"x@a.test\""), 5, "alias.to: missing");
        check(&alias("address = \"x\"\nto = [\"a@a.test\"]"), 6, "alias.address: found \"x\"");
        check(&alias("address = \"x@a.test\"\nto = [\"y\"]"), 7, "alias.to: found \"y\"");
        check(&alias("address = \"@b.test\"\nto = [\"a@a.test\"]"), 6, "b.test is not one of");
        let twice = "[[alias]]\naddress = \"x@a.test\"\nto = [\"a@a.test\"]\n".repeat(2);
        check(&format!("{one}{twice}"), 9, "x@a.test has an [[alias]] already");
    }

    #[test]
    fn aliases_that_lead_nowhere_are_refused() {
        let read = |aliases: &[(&str, &str)]| {
            let mut text = "[mailboxes]\ndomains = [\"a.test\"]\n".to_owned();
            for (address, to) in aliases {
                text += &format!("[[alias]]\naddress = \"{address}@a.test\"\nto = [{to}]\n");
            }
            parse(&text)
        };
        let one = |to: &str| format!("\"{to}@a.test\"");
        let problem = |aliases: &[(&str, &str)]| read(aliases).expect_err("refused");
        let (x, y) = (one("x"), one("Y+detail"));
        let expected = "f:7: alias.to: a loop: x@a.test -> y@a.test -> x@a.test";
        assert_eq!(problem(&[("x", &y), ("y", &x)]), expected);
        let list = format!("{}, {x}", one("z"));
        assert!(problem(&[("x", &y), ("y", &list)]).contains("a loop"));
        // What stands in its own list is an account, and so may be what a catch-all leads to.
        let own = format!("{x}, \"x@far.test\"");
        assert!(read(&[("x", &own), ("y", &x), ("", &y)]).is_ok());
        assert!(read(&[("", &one("nobody"))]).is_ok());
        let names: Vec<String> = (0..=ALIAS_DEPTH_MAX).map(|at| format!("x{at}")).collect();
        let targets: Vec<String> = names[1..].iter().map(|name| one(name)).collect();
        let chain = names.iter().map(String::as_str).zip(targets.iter().map(String::as_str));
        let mut chain: Vec<(&str, &str)> = chain.collect();
        assert_eq!(chain.len(), ALIAS_DEPTH_MAX);
        assert!(read(&chain).is_ok());
        chain.push((&names[ALIAS_DEPTH_MAX], &x));
        assert!(problem(&chain).contains("more than 16 aliases one after the other"));
        chain.reverse();
        assert!(problem(&chain).contains("more than 16 aliases one after the other"));
    }

    #[test]
    fn a_listener_is_refused_whose_protocol_has_not_what_it_needs() {
        let check = |protocol: &str, text: &str, expected: &str| {
            let text = format!(
                "[[listener]]\naddress = \"127.0.0.1:25\"\nprotocol = \"{protocol}\"\n{text}"
            );
            let error = Config::parse(&text, "f").expect_err(&text).to_string();
            assert!(error.starts_with("f:3: listener.protocol: "), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        check("http", "", "found \"http\"; expected \"smtp\" or \"submission\" or");
        for (name, protocol) in PROTOCOLS {
            if SERVED.contains(protocol) && *protocol != Protocol::Smtp {
                check(name, "", "needs mailboxes.domains");
            }
            if !SERVED.contains(protocol) {
                check(name, "[mailboxes]\ndomains = [\"a.test\"]", "is not served");
            }
        }
        assert_eq!(parse("protocol = \"smtp\"").expect("valid").listeners.len(), 1);
    }
}
