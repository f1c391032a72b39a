//! `[[credentials]]`: who we are to next hops that want to know.

use std::sync::Arc;

use super::explain::Out;
use super::login::{Form, Login};
use super::parse::ConfigError;
use super::table::{Checked, Table};
use super::tls::LEVELS;
use super::{Config, NextHop, values};
use crate::tls::client::{Demand, Level};

/// `[[credentials]]`: name and password for one next hop.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    /// As `smarthost` or a `[[route]]` says it: an address or a host. Each once.
    pub next_hop: NextHop,
    pub login: Login,
    /// What a server must show at the least before it is told the password.
    pub level: Level,
}

impl Config {
    /// Who we are to a next hop, where it wants to know, and the position of what says so.
    pub fn credentials_of(&self, next_hop: &NextHop) -> Option<(usize, &Credentials)> {
        self.credentials.iter().enumerate().find(|(_, it)| it.next_hop == *next_hop)
    }

    /// What is asked of a server before mail to `domain` goes to `next_hop`: what the domain wants,
    /// and what the password wants. `None` for MX hosts.
    pub fn demand_to(&self, next_hop: Option<&NextHop>, domain: &str) -> Arc<Demand> {
        if next_hop.is_some_and(NextHop::stays_here) {
            return Arc::new(Demand { level: Level::None, ..Demand::default() });
        }
        let demand = self.demand_of(domain);
        let credentials = next_hop.and_then(|next_hop| self.credentials_of(next_hop));
        match credentials {
            Some((_, credentials)) => credentials.raise(demand),
            None => demand.clone(),
        }
    }
}

impl Credentials {
    /// The demand, or a stricter one.
    pub(super) fn raise(&self, demand: &Arc<Demand>) -> Arc<Demand> {
        if demand.level >= self.level {
            return demand.clone();
        }
        Arc::new(Demand { level: self.level, ..(**demand).clone() })
    }
}

/// Reads the passwords that stand in files.
pub(super) fn load(all: &mut [Credentials]) -> Result<(), ConfigError> {
    all.iter_mut().try_for_each(|credentials| LOGIN.load(&mut credentials.login, "credentials"))
}

pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    config.credentials = root.tables("credentials", read_one)?;
    for (index, credentials) in config.credentials.iter().enumerate() {
        let next_hop = &credentials.next_hop;
        if config.credentials[..index].iter().any(|it| it.next_hop == *next_hop) {
            let message = format!("credentials.next_hop: {next_hop} has [[credentials]] already");
            let path = ["credentials", &index.to_string(), "next_hop"];
            return Err(root.wrong_at(&[&path], message));
        }
    }
    Ok(())
}

fn read_one(table: &Table<'_, '_>) -> Checked<Credentials> {
    let mut next_hop = None;
    table.parsed("next_hop", "\"smtp://HOST:PORT\" or \"smtp://ADDRESS:PORT\"", |text| {
        let hop = values::parse_next_hop(text)?;
        let is_server = matches!(hop, NextHop::Address { .. } | NextHop::Host { .. });
        is_server.then(|| next_hop = Some(hop))
    })?;
    let next_hop = next_hop.ok_or_else(|| table.missing("next_hop"))?;
    let login = LOGIN.read(table)?.ok_or_else(|| table.missing(LOGIN.username))?;
    let mut level = Level::Verify;
    table.choice("level", &mut level, LEVELS)?;
    Ok(Credentials { next_hop, login, level })
}

pub(super) fn explain(config: &Config, out: &mut Out) {
    for credentials in &config.credentials {
        out.table("[[credentials]]");
        out.text("next_hop", Some(&credentials.next_hop.to_string()));
        LOGIN.explain(&credentials.login, out);
        out.choice("level", credentials.level, LEVELS);
    }
}

const LOGIN: Form = Form {
    username: "username",
    password: "password",
    password_file: "password_file",
    // As much as a server of ours takes.
    bytes_max: 1024,
};

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";

    fn credentials(more: &str) -> String {
        format!("[[credentials]]\nnext_hop = \"smtp://Mail.test:587\"\nusername = \"u\"\n{more}\n")
    }

    #[test]
    fn every_error_names_its_line_and_key_and_none_shows_a_password() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = Config::parse(&format!("{text}\n{LISTENER}"), "f").expect_err(text);
            let shown = error.to_string();
            assert!(shown.starts_with(&format!("f:{line}: ")), "{text}\n{shown}");
            assert!(shown.contains(expected) && !shown.contains("4711"), "{text}\n{shown}");
        };
        check("[[credentials]]", 1, "credentials.next_hop: missing");
        check("[[credentials]]\nnext_hop = \"mx\"", 2, "credentials.next_hop: found \"mx\"");
        let hop = "[[credentials]]\nnext_hop = \"smtp://a.test:25\"";
        check(hop, 1, "credentials.username: missing");
        check(&format!("{hop}\nusername = \"\""), 3, "credentials.username: found \"\"");
        check(&credentials(""), 1, "credentials.password_file: missing");
        check(&credentials("password = 4711"), 4, "credentials.password: no text");
        check(&credentials("password = \"4711\\u0000\""), 4, "credentials.password: is empty, too");
        check(&credentials("password = \"\""), 4, "credentials.password: is empty, too");
        let both = credentials("password_file = \"f\"\npassword = \"4711\"");
        check(&both, 5, "credentials.password: stands in password_file too");
        let unknown = credentials("password = \"4711\"\nlevel = \"maybe\"");
        check(&unknown, 5, "credentials.level: found \"maybe\"");
        let one = credentials("password = \"4711\"");
        check(&[&*one, &one].concat(), 6, "smtp://mail.test:587 has [[credentials]] already");
    }

    #[test]
    fn what_was_read_is_explained_without_its_password_and_reads_back() {
        let parse = |text: &str| Config::parse(&format!("{text}{LISTENER}"), "f").expect("valid");
        let config = parse(&credentials("password_file = \"p\"\nlevel = \"required\""));
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config.clone()));
        let config = parse(&credentials("password = \"4711\""));
        assert_eq!(config.credentials[0].login.credentials.password, "4711");
        assert!(!config.explain().contains("4711") && !format!("{config:?}").contains("4711"));
    }

    #[test]
    fn a_password_asks_for_more_than_the_domain_does_and_never_for_less() {
        let config = |level: &str, of_domain: &str| {
            let text = credentials(&format!("password = \"p\"\nlevel = \"{level}\""));
            let policy = format!("[[tls_policy]]\ndomain = \"a.test\"\nlevel = \"{of_domain}\"\n");
            Config::parse(&format!("{text}{policy}{LISTENER}"), "f").expect("valid")
        };
        let hop = |text: &str| values::parse_next_hop(text).expect("a next hop");
        let (right, other) = (hop("smtp://mail.test:587"), hop("smtp://mail.test:588"));
        let level = |config: &Config, next_hop: Option<&NextHop>| {
            config.demand_to(next_hop, "a.test").level
        };
        let strict = config("verify", "none");
        assert_eq!(level(&strict, Some(&right)), Level::Verify);
        assert_eq!(level(&strict, Some(&other)), Level::None);
        assert_eq!(level(&strict, None), Level::None);
        assert_eq!(level(&config("required", "opportunistic"), Some(&right)), Level::Required);
        assert_eq!(level(&config("none", "required"), Some(&right)), Level::Required);
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        let file = directory.path().join("ringpost.toml");
        let text = credentials(&format!("password_file = {path:?}\nlevel = \"none\""));
        std::fs::write(&file, format!("{text}{LISTENER}")).expect("written");
        let load = |content: &[u8]| {
            std::fs::write(&path, content).expect("written");
            let config = Config::load(&file).map_err(|error| error.to_string())?;
            Ok::<_, String>(config.credentials[0].login.credentials.password.clone())
        };
        assert_eq!(load(b" 47 11 \r\nmore\n"), Ok(" 47 11 ".to_owned()));
        assert_eq!(load(b"4711"), Ok("4711".to_owned()));
        let shown = path.display();
        let expected = "credentials.password_file: its first line is empty, too long or holds NUL";
        assert_eq!(load(b"\nx\n"), Err(format!("{shown}:1: {expected}")));
        assert_eq!(load(b"\xff\n"), Err(format!("{shown}:1: not UTF-8")));
        std::fs::remove_file(&path).expect("removed");
        let error = Config::load(&file).expect_err("missing").to_string();
        assert!(error.starts_with(&format!("{shown}: cannot be read")), "{error}");
    }
}
