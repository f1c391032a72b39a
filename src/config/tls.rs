//! `[[certificate]]`, `[tls]`, `[delivery.tls]` and `[[tls_policy]]`: who we are to clients and
//! servers, and what servers must show before mail goes to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::explain::Out;
use super::parse::ConfigError;
use super::table::{Checked, Table};
use super::{Config, ListenerTls, NextHop, read_identity};
use crate::limits::CERTIFICATES_MAX;
use crate::proto::classify::NamePattern;
use crate::tls::client::{Contexts, Demand, Level};
use crate::tls::identity::{Identity, IdentityError};
use crate::tls::{Version, roots_from_pem, server};

/// `[[certificate]]`: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, and those that lead from it to its CA.
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// `[tls]`: how our servers speak TLS. They do where there is a certificate: `[[certificate]]`,
/// `[acme]` or `self_signed`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    pub version_min: Version,
    /// CAs of clients, in PEM: with them clients are asked for a certificate. Trace fields say
    /// whether it stands up; nobody is refused for it.
    pub client_ca: Option<PathBuf>,
    /// Names and IP addresses, lower case, of a certificate that vouches for itself. The start
    /// makes it where there is none; it is kept in `data_dir`. Clients cannot verify it.
    pub self_signed: Vec<String>,
    /// Made of the files by `Config::load`; `None` without a certificate.
    pub context: Option<server::Context>,
}

/// `[delivery.tls]`: how our clients speak TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryTls {
    /// `level` and `version_min`: what is asked of a server where no `[[tls_policy]]` says.
    pub demand: Arc<Demand>,
    /// Whether TLSA records of hosts are gone by, where `[dns]` says that a validator is there.
    pub dane: bool,
    /// Whether MTA-STS policies of domains are gone by, where mail goes to their MX hosts.
    pub mta_sts: bool,
    /// Where the web servers with these policies listen; 443 but in tests.
    pub mta_sts_port: u16,
    /// CAs that may vouch for servers, in PEM; those of this machine by default.
    pub ca: Option<PathBuf>,
    /// What is shown to servers that ask for a certificate.
    pub certificate: Option<Certificate>,
    /// Made of the files by `Config::load`.
    pub contexts: Contexts,
}

impl Default for DeliveryTls {
    fn default() -> Self {
        Self {
            demand: Arc::default(),
            dane: true,
            mta_sts: true,
            mta_sts_port: HTTPS_PORT,
            ca: None,
            certificate: None,
            contexts: Contexts::default(),
        }
    }
}

/// `[[tls_policy]]`: what is asked of the servers of some domains; the first that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsPolicy {
    /// Of the recipient.
    pub domain: NamePattern,
    pub demand: Arc<Demand>,
    pub dane: bool,
    pub mta_sts: bool,
}

/// Whether what a domain and its hosts publish may ask for more than is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedCounts {
    pub dane: bool,
    pub mta_sts: bool,
}

impl Config {
    /// What is asked of a server before mail to `domain` goes to it.
    pub fn demand_of(&self, domain: &str) -> &Arc<Demand> {
        match self.tls_policy_of(domain) {
            Some((_, policy)) => &policy.demand,
            None => &self.delivery.tls.demand,
        }
    }

    /// Whether what `domain` publishes counts: not where TLS is not used, nor where it is said for
    /// whom certificates have to be.
    pub fn published_of(&self, domain: &str) -> PublishedCounts {
        let demand = self.demand_of(domain);
        let is_open = demand.level != Level::None && demand.names.is_empty();
        let (dane, mta_sts) = match self.tls_policy_of(domain) {
            Some((_, policy)) => (policy.dane, policy.mta_sts),
            None => (self.delivery.tls.dane, self.delivery.tls.mta_sts),
        };
        PublishedCounts { dane: dane && is_open, mta_sts: mta_sts && is_open }
    }

    /// The `[[tls_policy]]` that says so, and its position.
    pub fn tls_policy_of(&self, domain: &str) -> Option<(usize, &TlsPolicy)> {
        self.tls_policies.iter().enumerate().find(|(_, policy)| policy.domain.matches(domain))
    }

    /// Reads the files that are named, and makes the contexts of them.
    pub(super) fn load_tls(&mut self) -> Result<(), ConfigError> {
        let identities = self.certificates.iter().map(|it| load_identity(it, "certificate"));
        let mut identities = identities.collect::<Result<Vec<_>, _>>()?;
        identities.extend(self.load_acme()?);
        identities.extend(self.load_self_signed()?);
        let client_roots =
            self.tls.client_ca.as_ref().map(|path| load_roots(path, "tls.client_ca"));
        let client_roots = client_roots.transpose()?;
        if !identities.is_empty() {
            let context = server::Context::new(identities, self.tls.version_min, client_roots);
            let context = context.map_err(|error| ConfigError {
                file: "[tls]".to_owned(),
                line: 0,
                message: error.to_string(),
            })?;
            self.tls.context = Some(context);
        }
        let tls = &mut self.delivery.tls;
        let policies = self.tls_policies.iter().map(|policy| &policy.demand);
        let of_domains: Vec<&Arc<Demand>> = policies.chain([&tls.demand]).collect();
        let of_passwords = self.credentials.iter().flat_map(|credentials| {
            of_domains.iter().map(|demand| credentials.raise(demand)).collect::<Vec<_>>()
        });
        let of_passwords: Vec<Arc<Demand>> = of_passwords.collect();
        let said = of_domains.into_iter().chain(&of_passwords);
        let is_verified = said.clone().any(|it| it.level == Level::Verify);
        // What the domains publish may ask for more, and so may a message.
        let demands = said.flat_map(|it| {
            let more = [it.raised(Level::Required), it.raised(Level::Verify)];
            more.into_iter().chain([Demand::clone(it), it.with_require_tls()])
        });
        let demands: Vec<Demand> = demands.collect();
        let roots = match &tls.ca {
            Some(path) => load_roots(path, "delivery.tls.ca")?,
            None if is_verified => roots_of_machine("delivery.tls.ca")?,
            // Without any there is a warning where MTA-STS is gone by: no policy can be had. Mail
            // under REQUIRETLS fails.
            None => roots_of_machine("delivery.tls.ca").unwrap_or_else(|_| RootCertStore::empty()),
        };
        let identity = tls.certificate.as_ref().map(|it| load_identity(it, "delivery.tls"));
        tls.contexts = Contexts::new(roots, identity.transpose()?, &demands);
        Ok(())
    }

    /// Where the certificate of `tls.self_signed` is kept, and its key with it.
    pub fn self_signed_path(&self) -> PathBuf {
        self.data_dir.join("self-signed.pem")
    }

    /// The certificate that is kept, if it is whole and for all of `tls.self_signed`.
    pub fn read_self_signed(&self) -> Option<Identity> {
        let is_for = |identity: &Identity, name: &String| {
            ServerName::try_from(&**name).is_ok_and(|name| identity.is_for(&name))
        };
        read_identity(&self.self_signed_path())
            .filter(|identity| self.tls.self_signed.iter().all(|name| is_for(identity, name)))
    }

    /// Until one is kept, one that is gone with the process.
    fn load_self_signed(&self) -> Result<Option<Identity>, ConfigError> {
        let names = &self.tls.self_signed;
        if names.is_empty() {
            return Ok(None);
        }
        let kept = self.read_self_signed().map(Ok);
        kept.unwrap_or_else(|| make_identity(names, "tls.self_signed")).map(Some)
    }

    /// Whether TLSA records count for the mail of any domain.
    pub fn goes_by_tlsa(&self) -> bool {
        self.delivery.tls.dane || self.tls_policies.iter().any(|policy| policy.dane)
    }

    /// Whether web servers are asked for MTA-STS policies.
    pub fn asks_web(&self) -> bool {
        let mut hops = self.routes.iter().map(|route| &route.next_hop).chain(&self.smarthost);
        let policies = self.tls_policies.iter().map(|policy| policy.mta_sts);
        let is_wanted = policies.chain([self.delivery.tls.mta_sts]).any(|it| it);
        is_wanted && hops.any(|hop| *hop == NextHop::Mx(None))
    }
}

fn load_identity(certificate: &Certificate, table: &str) -> Result<Identity, ConfigError> {
    let Certificate { chain, key } = certificate;
    let chain_pem = read_pem(chain, &format!("{table}.chain"))?;
    let key_pem = read_pem(key, &format!("{table}.key"))?;
    Identity::from_pem(&chain_pem, &key_pem).map_err(|error| {
        let (path, name) = match error {
            IdentityError::Chain(_) => (chain, "chain"),
            IdentityError::Key(_) | IdentityError::Mismatch => (key, "key"),
        };
        wrong(path, &format!("{table}.{name}"), &error.to_string())
    })
}

/// Somebody whom only we vouch for. `key` says where the names are from.
pub(super) fn make_identity(names: &[String], key: &str) -> Result<Identity, ConfigError> {
    Identity::self_signed(names).map_err(|error| ConfigError {
        file: key.to_owned(),
        line: 0,
        message: error.to_string(),
    })
}

pub(super) fn load_roots(path: &Path, key: &str) -> Result<RootCertStore, ConfigError> {
    roots_from_pem(&read_pem(path, key)?).map_err(|text| wrong(path, key, &text))
}

/// `key` names a file that could stand in for them.
pub(super) fn roots_of_machine(key: &str) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConfigError {
            file: key.to_owned(),
            line: 0,
            message: "this machine has no CA certificates, by which servers are verified; install \
                      them (ca-certificates) or name a file"
                .to_owned(),
        });
    }
    Ok(roots)
}

fn read_pem(path: &Path, key: &str) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| wrong(path, key, &format!("cannot be read: {error}")))
}

fn wrong(path: &Path, key: &str, text: &str) -> ConfigError {
    ConfigError { file: path.display().to_string(), line: 0, message: format!("{key}: {text}") }
}

pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    config.certificates = root.tables("certificate", |table| {
        let certificate = read_certificate(table)?;
        certificate.ok_or_else(|| table.missing("chain"))
    })?;
    if config.certificates.len() > CERTIFICATES_MAX {
        let message = format!("certificate: more than {CERTIFICATES_MAX}; use names or a wildcard");
        return Err(root.wrong_at(&[&["certificate"]], message));
    }
    root.table("tls", |it| {
        it.choice("version_min", &mut config.tls.version_min, VERSIONS)?;
        it.optional_path("client_ca", &mut config.tls.client_ca)?;
        let names = &mut config.tls.self_signed;
        it.list("self_signed", names, "\"localhost\" or \"127.0.0.1\"", |text| {
            ServerName::try_from(text).is_ok().then(|| text.to_ascii_lowercase())
        })
    })?;
    let default = config.delivery.tls.clone();
    config.tls_policies = root.tables("tls_policy", |table| read_policy(table, &default))?;
    let is_implicit = |tls| tls == ListenerTls::Implicit;
    let listener = config.listeners.iter().position(|listener| is_implicit(listener.tls));
    let has_none = config.certificates.is_empty()
        && config.acme.is_none()
        && config.tls.self_signed.is_empty();
    if let (Some(index), true) = (listener, has_none) {
        let message = "listener.tls: \"implicit\" needs a [[certificate]], [acme] or \
                       tls.self_signed";
        let key: &[&str] = &["listener", &index.to_string(), "tls"];
        return Err(root.wrong_at(&[key], message.to_owned()));
    }
    Ok(())
}

/// `[delivery.tls]`
pub(super) fn read_delivery(table: &Table<'_, '_>, tls: &mut DeliveryTls) -> Checked<()> {
    let mut demand = (*tls.demand).clone();
    table.choice("level", &mut demand.level, LEVELS)?;
    table.choice("version_min", &mut demand.version_min, VERSIONS)?;
    tls.demand = Arc::new(demand);
    table.boolean("dane", &mut tls.dane)?;
    table.boolean("mta_sts", &mut tls.mta_sts)?;
    table.number("mta_sts_port", &mut tls.mta_sts_port, 1, u16::MAX)?;
    table.optional_path("ca", &mut tls.ca)?;
    tls.certificate = read_certificate(table)?;
    Ok(())
}

/// `chain` and `key`, or neither.
fn read_certificate(table: &Table<'_, '_>) -> Checked<Option<Certificate>> {
    let (mut chain, mut key) = (None, None);
    table.optional_path("chain", &mut chain)?;
    table.optional_path("key", &mut key)?;
    match (chain, key) {
        (Some(chain), Some(key)) => Ok(Some(Certificate { chain, key })),
        (Some(_), None) => Err(table.missing("key")),
        (None, Some(_)) => Err(table.missing("chain")),
        (None, None) => Ok(None),
    }
}

fn read_policy(table: &Table<'_, '_>, default: &DeliveryTls) -> Checked<TlsPolicy> {
    let mut domain = None;
    table.parsed("domain", "a domain with at most one *, such as *.example.test", |text| {
        domain = Some(NamePattern::parse(text)?);
        Some(())
    })?;
    let domain = domain.ok_or_else(|| table.missing("domain"))?;
    let (mut dane, mut mta_sts) = (default.dane, default.mta_sts);
    table.boolean("dane", &mut dane)?;
    table.boolean("mta_sts", &mut mta_sts)?;
    let mut demand = (*default.demand).clone();
    table.choice("level", &mut demand.level, LEVELS)?;
    table.choice("version_min", &mut demand.version_min, VERSIONS)?;
    table.list("names", &mut demand.names, "\"mx.example.test\"", |text| {
        ServerName::try_from(text.to_ascii_lowercase()).ok()
    })?;
    if !demand.names.is_empty() && demand.level != Level::Verify {
        let message = "tls_policy.names: looked at by level \"verify\" only".to_owned();
        return Err(table.wrong_at(&[&["names"]], message));
    }
    Ok(TlsPolicy { domain, demand: Arc::new(demand), dane, mta_sts })
}

pub(super) fn explain_certificates(config: &Config, out: &mut Out) {
    for certificate in &config.certificates {
        out.table("[[certificate]]");
        explain_certificate(certificate, out);
    }
    out.table("[tls]");
    out.choice("version_min", config.tls.version_min, VERSIONS);
    out.path("client_ca", config.tls.client_ca.as_deref());
    out.plain("self_signed", format_args!("{:?}", config.tls.self_signed));
}

pub(super) fn explain_delivery(config: &Config, out: &mut Out) {
    let tls = &config.delivery.tls;
    out.table("[delivery.tls]");
    out.choice("level", tls.demand.level, LEVELS);
    out.choice("version_min", tls.demand.version_min, VERSIONS);
    out.plain("dane", tls.dane);
    out.plain("mta_sts", tls.mta_sts);
    out.plain("mta_sts_port", tls.mta_sts_port);
    out.path("ca", tls.ca.as_deref());
    if let Some(certificate) = &tls.certificate {
        explain_certificate(certificate, out);
    }
    for policy in &config.tls_policies {
        out.table("[[tls_policy]]");
        out.text("domain", Some(&policy.domain.to_string()));
        out.choice("level", policy.demand.level, LEVELS);
        out.choice("version_min", policy.demand.version_min, VERSIONS);
        out.plain("dane", policy.dane);
        out.plain("mta_sts", policy.mta_sts);
        let names: Vec<_> = policy.demand.names.iter().map(|name| name.to_str()).collect();
        if !names.is_empty() {
            out.plain("names", format_args!("{names:?}"));
        }
    }
}

fn explain_certificate(certificate: &Certificate, out: &mut Out) {
    out.path("chain", Some(&certificate.chain));
    out.path("key", Some(&certificate.key));
}

const HTTPS_PORT: u16 = 443;
const VERSIONS: &[(&str, Version)] = &[by_version(Version::Tls12), by_version(Version::Tls13)];
pub(super) const LEVELS: &[(&str, Level)] = &[
    by_level(Level::None),
    by_level(Level::Opportunistic),
    by_level(Level::Required),
    by_level(Level::Verify),
];

const fn by_version(version: Version) -> (&'static str, Version) {
    (version.as_str(), version)
}

const fn by_level(level: Level) -> (&'static str, Level) {
    (level.as_str(), level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::identity::tests::certificate;

    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";

    #[test]
    fn every_error_names_its_line_and_key() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = Config::parse(&format!("{text}\n{LISTENER}"), "f").expect_err(text);
            let shown = error.to_string();
            assert!(shown.starts_with(&format!("f:{line}: ")), "{text}\n{shown}");
            assert!(shown.contains(expected), "{text}\n{shown}");
        };
        check("[[certificate]]", 1, "certificate.chain: missing");
        check("[[certificate]]\nchain = \"a\"", 1, "certificate.key: missing");
        check("[[certificate]]\nkey = \"a\"", 1, "certificate.chain: missing");
        check("[tls]\nversion_min = \"1.1\"", 2, "expected \"1.2\" or \"1.3\"");
        check("[tls]\nself_signed = [\"a b\"]", 2, "tls.self_signed: found \"a b\"");
        check("[delivery.tls]\nlevel = \"maybe\"", 2, "delivery.tls.level: found \"maybe\"");
        check("[delivery.tls]\nchain = \"a\"", 1, "delivery.tls.key: missing");
        check("[[tls_policy]]\nlevel = \"verify\"", 1, "tls_policy.domain: missing");
        let policy = |more: &str| format!("[[tls_policy]]\ndomain = \"*\"\n{more}");
        check(&policy("names = [\"a b\"]\nlevel = \"verify\""), 3, "found \"a b\"");
        check(&policy("names = [\"a.test\"]"), 3, "looked at by level \"verify\" only");
        let implicit = "[[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"";
        check(implicit, 3, "needs a [[certificate]]");
    }

    #[test]
    fn what_was_read_is_explained_and_reads_back() {
        let text = format!(
            "[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n[tls]\nversion_min = \"1.3\"\n\
             client_ca = \"clients.pem\"\nself_signed = [\"A.test\", \"::1\"]\n\
             [delivery.tls]\nlevel = \"required\"\nca = \"ca.pem\"\n\
             mta_sts = false\nmta_sts_port = 8443\n\
             chain = \"b.pem\"\nkey = \"b.key\"\n[[tls_policy]]\ndomain = \"*.A.test\"\n\
             level = \"verify\"\nnames = [\"MX.a.test\", \"192.0.2.1\"]\n\
             [[tls_policy]]\ndomain = \"old.test\"\nlevel = \"none\"\n\
             [[tls_policy]]\ndomain = \"new.test\"\nmta_sts = true\ndane = false\n\
             [[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"\n{LISTENER}"
        );
        let config = Config::parse(&text, "f").expect("valid");
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config.clone()));
        assert_eq!(config.tls.self_signed, ["a.test", "::1"]);
        let level = |domain: &str| config.demand_of(domain).level;
        assert_eq!(level("x.a.test"), Level::Verify);
        assert_eq!(level("OLD.test"), Level::None);
        assert_eq!(level("else.test"), Level::Required);
        assert_eq!(config.demand_of("x.a.test").names.len(), 2);
        let published = |domain: &str| {
            let counts = config.published_of(domain);
            (counts.dane, counts.mta_sts)
        };
        assert_eq!(published("else.test"), (true, false));
        assert_eq!(published("new.test"), (false, true));
        assert_eq!(published("old.test"), (false, false), "TLS is not used");
        assert_eq!(published("x.a.test"), (false, false), "it is said whom to trust");
        assert!(!config.asks_web(), "no mail goes by MX");
        let by_mx = text.replace("[[certificate]]", "smarthost = \"mx\"\n[[certificate]]");
        assert!(Config::parse(&by_mx, "f").expect("valid").asks_web());
    }

    #[test]
    fn a_bad_file_is_named_with_its_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let (chain, key, ca) = certificate(&["mx.test"]);
        let (_, other_key, _) = certificate(&["mx.test"]);
        let files = [("chain", &chain), ("key", &key), ("ca", &ca), ("other", &other_key)];
        for (name, text) in files {
            std::fs::write(path(name), text).expect("written");
        }
        let load = |chain: &str, key: &str, extra: &str| {
            let (chain, key) = (path(chain), path(key));
            let file = path("ringpost.toml");
            let certificate = format!("[[certificate]]\nchain = {chain:?}\nkey = {key:?}\n");
            std::fs::write(&file, format!("{LISTENER}{certificate}{extra}")).expect("written");
            Config::load(&file).map(|config| config.tls.context.is_some())
        };
        assert_eq!(load("chain", "key", ""), Ok(true));
        let check = |result: Result<bool, ConfigError>, name: &str, expected: &str| {
            let shown = result.expect_err(expected).to_string();
            assert_eq!(shown, format!("{}: {expected}", path(name).display()));
        };
        let missing = "cannot be read: No such file or directory (os error 2)";
        check(load("none", "key", ""), "none", &format!("certificate.chain: {missing}"));
        check(load("chain", "none", ""), "none", &format!("certificate.key: {missing}"));
        let mismatch = "certificate.key: is not the key of the certificate";
        check(load("chain", "other", ""), "other", mismatch);
        let no_certificate = "holds no certificate (PEM, -----BEGIN CERTIFICATE-----)";
        check(load("key", "key", ""), "key", &format!("certificate.chain: {no_certificate}"));
        let client_ca = format!("[tls]\nclient_ca = {:?}\n", path("key"));
        let expected = format!("tls.client_ca: {no_certificate}");
        check(load("chain", "key", &client_ca), "key", &expected);
        let ca = format!("[delivery.tls]\nca = {:?}\n", path("key"));
        let expected = format!("delivery.tls.ca: {no_certificate}");
        check(load("chain", "key", &ca), "key", &expected);
        let good = format!(
            "[tls]\nclient_ca = {ca:?}\n[delivery.tls]\nlevel = \"verify\"\nca = {ca:?}\n\
             chain = {:?}\nkey = {:?}\n",
            path("chain"),
            path("key"),
            ca = path("ca"),
        );
        assert_eq!(load("chain", "key", &good), Ok(true));
    }
}
