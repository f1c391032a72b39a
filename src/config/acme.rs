//! `[acme]`: certificates that this server gets by itself (RFC 8555, RFC 8737).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

use super::Config;
use super::explain::Out;
use super::parse::ConfigError;
use super::table::{Checked, Table};
use super::tls::{load_roots, make_identity, roots_of_machine};
use crate::limits::ACME_NAMES_MAX;
use crate::tls::client::Contexts;
use crate::tls::identity::Identity;

/// `[acme]`
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// Where the server says what else it has: an https URL.
    pub directory: String,
    /// Host names that the certificate is for, lower case; `hostname` where none is given.
    pub names: Vec<String>,
    /// URLs at which the server may reach the operator, such as `mailto:postmaster@example.test`.
    pub contact: Vec<String>,
    /// Where the server's question for our names comes in, on port 443 of each name.
    pub listen: SocketAddr,
    /// CAs that may vouch for the server itself, in PEM; those of this machine by default.
    pub ca: Option<PathBuf>,
    /// Made of the files by `Config::load`.
    pub contexts: Contexts,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory: String::new(),
            names: Vec::new(),
            contact: Vec::new(),
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), HTTPS),
            ca: None,
            contexts: Contexts::default(),
        }
    }
}

impl Config {
    /// Where the certificate is, and its key with it.
    pub fn acme_identity_path(&self) -> PathBuf {
        self.data_dir.join("acme").join("identity.pem")
    }

    /// Who we are by `[acme]`: until a certificate has come, and where the one that came cannot be
    /// read any more, somebody whom only we vouch for.
    pub(super) fn load_acme(&mut self) -> Result<Option<Identity>, ConfigError> {
        let path = self.acme_identity_path();
        let Some(acme) = &mut self.acme else { return Ok(None) };
        let roots = match &acme.ca {
            Some(path) => load_roots(path, "acme.ca")?,
            None => roots_of_machine("acme.ca")?,
        };
        acme.contexts = Contexts::new(roots, None, []);
        let came = read_identity(&path).map(Ok);
        came.unwrap_or_else(|| make_identity(&acme.names, "acme.names")).map(Some)
    }
}

/// A certificate that came earlier; `None` where there is none that is whole.
pub fn read_identity(path: &Path) -> Option<Identity> {
    let pem = std::fs::read(path).ok()?;
    Identity::from_pem(&pem, &pem).ok()
}

pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let hostname = config.hostname.to_ascii_lowercase();
    root.table("acme", |table| {
        let mut acme = Acme::default();
        table.text("directory", &mut acme.directory, "an https URL", |text| {
            text.parse::<http::Uri>().is_ok_and(|url| {
                url.scheme_str() == Some("https") && url.host().is_some_and(|it| !it.is_empty())
            })
        })?;
        if acme.directory.is_empty() {
            return Err(table.missing("directory"));
        }
        table.list("names", &mut acme.names, "\"mx.example.test\"", |text| {
            matches!(ServerName::try_from(text), Ok(ServerName::DnsName(_)))
                .then(|| text.to_ascii_lowercase())
        })?;
        if acme.names.len() > ACME_NAMES_MAX {
            let message = format!("acme.names: more than {ACME_NAMES_MAX}");
            return Err(table.wrong_at(&[&["names"]], message));
        }
        if acme.names.is_empty() {
            acme.names.push(hostname);
        }
        table.list("contact", &mut acme.contact, "\"mailto:postmaster@example.test\"", |text| {
            text.starts_with("mailto:").then(|| text.to_owned())
        })?;
        let mut listen = Some(acme.listen);
        table.address("listen", &mut listen)?;
        acme.listen = listen.unwrap_or(acme.listen);
        table.optional_path("ca", &mut acme.ca)?;
        let mut terms_are_accepted = false;
        table.boolean("accept_terms", &mut terms_are_accepted)?;
        if !terms_are_accepted {
            let message = "acme.accept_terms: say true if you agree to the terms of the server";
            return Err(table.wrong_at(&[&["accept_terms"]], message.to_owned()));
        }
        config.acme = Some(acme);
        Ok(())
    })
}

pub(super) fn explain(acme: &Acme, out: &mut Out) {
    out.table("[acme]");
    out.text("directory", Some(&acme.directory));
    out.plain("names", format_args!("{:?}", acme.names));
    out.plain("contact", format_args!("{:?}", acme.contact));
    out.text("listen", Some(&acme.listen.to_string()));
    out.path("ca", acme.ca.as_deref());
    out.plain("accept_terms", true);
}

const HTTPS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let listener = "[[listener]]\naddress = \"127.0.0.1:25\"\n";
        let text = format!("hostname = \"MX.test\"\n{listener}[acme]\n{text}");
        Config::parse(&text, "f").map_err(|error| error.to_string())
    }

    const LEAST: &str = "directory = \"https://ca.test/dir\"\naccept_terms = true\n";

    #[test]
    fn the_table_is_read_and_what_is_wrong_is_named() {
        let config = parse(LEAST).expect("valid");
        let acme = config.acme.clone().expect("there");
        assert_eq!((&*acme.names, acme.listen.port()), (&["mx.test".to_owned()][..], 443));
        assert_eq!(Config::parse(&config.explain(), "again"), Ok(config));
        let with = |more: &str| parse(&format!("{LEAST}{more}")).map(drop);
        assert_eq!(with("names = [\"a.test\", \"B.test\"]\nlisten = \"127.0.0.1:4443\""), Ok(()));
        for (result, expected) in [
            (parse("accept_terms = true").map(drop), ":4: acme.directory: missing"),
            (
                parse("directory = \"http://ca.test/\"").map(drop),
                ":5: acme.directory: found \"http://ca.test/\"",
            ),
            (
                parse("directory = \"https://ca.test/dir\"").map(drop),
                ":4: acme.accept_terms: say true",
            ),
            (with("names = [\"*.a.test\"]"), ":7: acme.names: found \"*.a.test\""),
            (with("names = [\"192.0.2.1\"]"), ":7: acme.names: found \"192.0.2.1\""),
            (with("contact = [\"me\"]"), ":7: acme.contact: found \"me\""),
            (with("port = 443"), ":7: acme.port: unknown key"),
        ] {
            let error = result.expect_err(expected);
            assert!(error.contains(expected), "{error}\nfor {expected}");
        }
    }

    #[test]
    fn the_example_is_valid() {
        let config = Config::parse(include_str!("../../tuning/acme.toml"), "acme.toml");
        assert_eq!(config.expect("valid").acme.map(|acme| acme.contact.len()), Some(1));
    }

    #[test]
    fn a_certificate_that_is_missing_or_damaged_is_stood_in_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = parse(LEAST).expect("valid");
        config.data_dir = directory.path().to_owned();
        let name = ServerName::try_from("mx.test").expect("a name");
        let load = |config: &mut Config| {
            config.acme.as_mut().expect("there").ca = Some(directory.path().join("ca.pem"));
            config.load_acme().map(|it| it.expect("somebody"))
        };
        let (chain, key, ca) = crate::tls::identity::tests::certificate(&["other.test"]);
        std::fs::write(directory.path().join("ca.pem"), ca).expect("written");
        assert!(load(&mut config).expect("made").is_for(&name));
        let path = config.acme_identity_path();
        std::fs::create_dir(path.parent().expect("a directory")).expect("made");
        for end in [0, 100, chain.len() - 2] {
            std::fs::write(&path, &format!("{key}{chain}")[..key.len() + end]).expect("written");
            assert!(load(&mut config).expect("made").is_for(&name), "cut at {end}");
        }
        std::fs::write(&path, format!("{key}{chain}")).expect("written");
        assert!(!load(&mut config).expect("read").is_for(&name));
    }
}
