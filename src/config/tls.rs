//! `[[certificate]]`, `[tls]` and `[delivery.tls]`: who we are to clients and servers, and what
//! servers must show before mail goes to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;

use super::explain::Out;
use super::parse::ConfigError;
use super::table::{Checked, Table};
use super::{Config, ListenerTls};
use crate::limits::CERTIFICATES_MAX;
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

/// `[tls]`: how our servers speak TLS. They do where there is a `[[certificate]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    pub version_min: Version,
    /// CAs of clients, in PEM: with them clients are asked for a certificate. Trace fields say
    /// whether it stands up; nobody is refused for it.
    pub client_ca: Option<PathBuf>,
    /// Made of the files by `Config::load`; `None` without a certificate.
    pub context: Option<server::Context>,
}

/// `[delivery.tls]`: how our clients speak TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryTls {
    /// `level` and `version_min`: what is asked of a server.
    pub demand: Arc<Demand>,
    /// CAs that may vouch for servers, in PEM; those of this machine by default.
    pub ca: Option<PathBuf>,
    /// What is shown to servers that ask for a certificate.
    pub certificate: Option<Certificate>,
    /// Made of the files by `Config::load`.
    pub contexts: Contexts,
}

impl Config {
    /// Reads the files that are named, and makes the contexts of them.
    pub(super) fn load_tls(&mut self) -> Result<(), ConfigError> {
        let identities = self.certificates.iter().map(|it| load_identity(it, "certificate"));
        let identities = identities.collect::<Result<Vec<_>, _>>()?;
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
        if *tls == DeliveryTls::default() {
            return Ok(());
        }
        let demands = [&*tls.demand];
        let roots = match &tls.ca {
            Some(path) => load_roots(path, "delivery.tls.ca")?,
            None if demands.iter().any(|it| it.level == Level::Verify) => roots_of_machine()?,
            None => RootCertStore::empty(),
        };
        let identity = tls.certificate.as_ref().map(|it| load_identity(it, "delivery.tls"));
        tls.contexts = Contexts::new(roots, identity.transpose()?, demands);
        Ok(())
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

fn load_roots(path: &Path, key: &str) -> Result<RootCertStore, ConfigError> {
    roots_from_pem(&read_pem(path, key)?).map_err(|text| wrong(path, key, &text))
}

fn roots_of_machine() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConfigError {
            file: "delivery.tls.ca".to_owned(),
            line: 0,
            message:
                "this machine has no CA certificates, by which level \"verify\" goes; install \
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
        it.optional_path("client_ca", &mut config.tls.client_ca)
    })?;
    let is_implicit = |tls| tls == ListenerTls::Implicit;
    let listener = config.listeners.iter().position(|listener| is_implicit(listener.tls));
    if let (Some(index), true) = (listener, config.certificates.is_empty()) {
        let message = "listener.tls: \"implicit\" needs a [[certificate]]".to_owned();
        return Err(root.wrong_at(&[&["listener", &index.to_string(), "tls"]], message));
    }
    Ok(())
}

/// `[delivery.tls]`
pub(super) fn read_delivery(table: &Table<'_, '_>, tls: &mut DeliveryTls) -> Checked<()> {
    let mut demand = (*tls.demand).clone();
    table.choice("level", &mut demand.level, LEVELS)?;
    table.choice("version_min", &mut demand.version_min, VERSIONS)?;
    tls.demand = Arc::new(demand);
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

pub(super) fn explain_certificates(config: &Config, out: &mut Out) {
    for certificate in &config.certificates {
        out.table("[[certificate]]");
        explain_certificate(certificate, out);
    }
    out.table("[tls]");
    out.choice("version_min", config.tls.version_min, VERSIONS);
    out.path("client_ca", config.tls.client_ca.as_deref());
}

pub(super) fn explain_delivery(config: &Config, out: &mut Out) {
    let tls = &config.delivery.tls;
    out.table("[delivery.tls]");
    out.choice("level", tls.demand.level, LEVELS);
    out.choice("version_min", tls.demand.version_min, VERSIONS);
    out.path("ca", tls.ca.as_deref());
    if let Some(certificate) = &tls.certificate {
        explain_certificate(certificate, out);
    }
}

fn explain_certificate(certificate: &Certificate, out: &mut Out) {
    out.path("chain", Some(&certificate.chain));
    out.path("key", Some(&certificate.key));
}

const VERSIONS: &[(&str, Version)] = &[("1.2", Version::Tls12), ("1.3", Version::Tls13)];
const LEVELS: &[(&str, Level)] = &[
    ("none", Level::None),
    ("opportunistic", Level::Opportunistic),
    ("required", Level::Required),
    ("verify", Level::Verify),
];

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
        check("[delivery.tls]\nlevel = \"maybe\"", 2, "delivery.tls.level: found \"maybe\"");
        check("[delivery.tls]\nchain = \"a\"", 1, "delivery.tls.key: missing");
        let implicit = "[[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"";
        check(implicit, 3, "needs a [[certificate]]");
    }

    #[test]
    fn what_was_read_is_explained_and_reads_back() {
        let text = format!(
            "[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n[tls]\nversion_min = \"1.3\"\n\
             client_ca = \"clients.pem\"\n[delivery.tls]\nlevel = \"required\"\nca = \"ca.pem\"\n\
             chain = \"b.pem\"\nkey = \"b.key\"\n\
             [[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"\n{LISTENER}"
        );
        let config = Config::parse(&text, "f").expect("valid");
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config));
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
