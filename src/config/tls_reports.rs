//! `[tls_reports]`: reports on TLS with MX hosts (RFC 8460).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::explain::Out;
use super::table::{Checked, Table};
use super::values::write_duration;
use crate::mail::address::{AddressRef, Utf8};

/// `[tls_reports]`
#[derive(Clone, Debug, PartialEq)]
pub struct TlsReports {
    /// Where reports are written as JSON; in `data_dir` where nothing is said and nothing is sent.
    pub directory: Option<PathBuf>,
    /// Whether they go to whoever asks for them in the DNS.
    pub send: bool,
    /// Who reports; the host name by default.
    pub organization: Option<String>,
    /// A mailbox for questions; the postmaster of the host name by default.
    pub contact: Option<String>,
    /// Mailbox of the From field.
    pub from: Option<String>,
    /// Of the messages; the null one by default.
    pub reverse_path: Option<String>,
    /// How much time a report is about, counted from 1970 on.
    pub interval: Duration,
}

impl Default for TlsReports {
    fn default() -> Self {
        Self {
            directory: None,
            send: false,
            organization: None,
            contact: None,
            from: None,
            reverse_path: None,
            interval: Duration::from_secs(86_400),
        }
    }
}

impl TlsReports {
    /// Whether reports are written as files.
    pub fn is_written(&self) -> bool {
        self.directory.is_some() || !self.send
    }

    /// Where they are.
    pub fn directory(&self, data_dir: &Path) -> Option<PathBuf> {
        let directory = self.directory.clone().unwrap_or_else(|| data_dir.join("tls-reports"));
        self.is_written().then_some(directory)
    }

    pub fn organization<'a>(&'a self, hostname: &'a str) -> &'a str {
        self.organization.as_deref().unwrap_or(hostname)
    }

    pub fn contact(&self, hostname: &str) -> String {
        self.contact.clone().unwrap_or_else(|| format!("postmaster@{hostname}"))
    }
}

pub(super) fn read(table: &Table<'_, '_>, reports: &mut TlsReports) -> Checked<()> {
    table.optional_path("directory", &mut reports.directory)?;
    table.boolean("send", &mut reports.send)?;
    table.optional_text("organization", &mut reports.organization)?;
    table.optional_text("contact", &mut reports.contact)?;
    let fields = [("from", &mut reports.from), ("reverse_path", &mut reports.reverse_path)];
    for (key, field) in fields {
        table.parsed(key, "a mailbox such as tls-reports@example.test", |text| {
            let address = AddressRef::parse(text.as_bytes(), Utf8::Refused).ok()?;
            (!address.domain().is_empty()).then(|| *field = Some(text.to_owned()))
        })?;
    }
    table.duration("interval", &mut reports.interval, Duration::from_secs(1))?;
    if reports.send {
        for (key, is_there) in [
            ("organization", reports.organization.is_some()),
            ("contact", reports.contact.is_some()),
            ("from", reports.from.is_some()),
        ] {
            if !is_there {
                return Err(table.missing(key));
            }
        }
    }
    Ok(())
}

pub(super) fn explain(reports: &TlsReports, out: &mut Out) {
    out.table("[tls_reports]");
    out.path("directory", reports.directory.as_deref());
    out.plain("send", reports.send);
    out.text("organization", reports.organization.as_deref());
    out.text("contact", reports.contact.as_deref());
    out.text("from", reports.from.as_deref());
    out.text("reverse_path", reports.reverse_path.as_deref());
    out.text("interval", Some(&write_duration(reports.interval)));
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<TlsReports, String> {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:25\"\n[tls_reports]\n{text}");
        let config = Config::parse(&text, "f").map_err(|error| error.to_string())?;
        let again = Config::parse(&config.explain(), "again").expect("valid");
        assert_eq!(again.tls_reports, config.tls_reports, "what is shown is read back");
        Ok(config.tls_reports)
    }

    #[test]
    fn the_table_is_read_and_what_is_wrong_is_named() {
        let data_dir = Path::new("/d");
        let written = parse("").expect("valid");
        assert_eq!(written.directory(data_dir), Some("/d/tls-reports".into()));
        assert_eq!(written.contact("mx.test"), "postmaster@mx.test");
        let who =
            "send = true\norganization = \"Us\"\ncontact = \"c@us.test\"\nfrom = \"t@us.test\"";
        assert_eq!(parse(who).expect("valid").directory(data_dir), None);
        let both = parse(&format!("{who}\ndirectory = \"/r\"\ninterval = \"2s\"")).expect("valid");
        assert_eq!(both.directory(data_dir), Some("/r".into()));
        for (text, expected) in [
            ("send = true", ":3: tls_reports.organization: missing"),
            ("send = true\norganization = \"x\"", ":3: tls_reports.contact: missing"),
            ("from = \"x\"", ":4: tls_reports.from: found \"x\""),
            ("interval = \"0s\"", ":4: tls_reports.interval: "),
            ("sent = true", ":4: tls_reports.sent: unknown key"),
        ] {
            let error = parse(text).expect_err("wrong");
            assert!(error.contains(expected), "{error}");
        }
    }
}
