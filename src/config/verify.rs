//! `[verify]`: how mailboxes are asked for.

use std::time::Duration;

use super::explain::Out;
use super::table::{Checked, Table};
use super::values::write_duration;
use crate::mail::address::{AddressRef, Utf8};

/// `[verify]`
#[derive(Clone, Debug, PartialEq)]
pub struct Verify {
    /// The reverse-path of a question; empty for the null one, `postmaster` of the own host name
    /// where absent.
    pub reverse_path: Option<String>,
    /// Longest time for one address, questions to the DNS and the wait for leases of its site
    /// included; 80 seconds at most.
    pub timeout: Duration,
}

impl Default for Verify {
    fn default() -> Self {
        Self { reverse_path: None, timeout: Duration::from_secs(60) }
    }
}

impl Verify {
    /// Ready for MAIL.
    pub fn reverse_path(&self, hostname: &str) -> String {
        self.reverse_path.clone().unwrap_or_else(|| format!("postmaster@{hostname}"))
    }
}

pub(super) fn read(table: &Table<'_, '_>, verify: &mut Verify) -> Checked<()> {
    table.parsed("reverse_path", "a mailbox such as probe@example.test, or nothing", |text| {
        let is_one = text.is_empty() || AddressRef::parse(text.as_bytes(), Utf8::Refused).is_ok();
        is_one.then(|| verify.reverse_path = Some(text.to_owned()))
    })?;
    table.duration("timeout", &mut verify.timeout, Duration::from_secs(1))?;
    if verify.timeout > TIMEOUT_MAX {
        let message = format!("verify.timeout: above {}", write_duration(TIMEOUT_MAX));
        return Err(table.wrong_at(&[&["timeout"]], message));
    }
    Ok(())
}

/// Whoever asks over the control socket waits for 90 seconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(80);

pub(super) fn explain(verify: &Verify, out: &mut Out) {
    out.table("[verify]");
    out.text("reverse_path", verify.reverse_path.as_deref());
    out.text("timeout", Some(&write_duration(verify.timeout)));
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Verify, String> {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:25\"\n[verify]\n{text}");
        let config = Config::parse(&text, "f").map_err(|error| error.to_string())?;
        let again = Config::parse(&config.explain(), "again").expect("valid");
        assert_eq!(again.verify, config.verify, "what is shown is read back");
        Ok(config.verify)
    }

    #[test]
    fn the_table_is_read_and_what_is_wrong_is_named() {
        let verify = parse("reverse_path = \"\"\ntimeout = \"5s\"").expect("valid");
        assert_eq!((verify.reverse_path("mx.test"), verify.timeout.as_secs()), (String::new(), 5));
        assert_eq!(parse("").expect("valid").reverse_path("mx.test"), "postmaster@mx.test");
        for (text, expected) in [
            ("reverse_path = \"a b\"", ":4: verify.reverse_path: found \"a b\""),
            ("timeout = \"0s\"", ":4: verify.timeout: "),
            ("timeout = \"81s\"", ":4: verify.timeout: above 80s"),
            ("wait = 1", ":4: verify.wait: unknown key"),
        ] {
            let error = parse(text).expect_err("wrong");
            assert!(error.contains(expected), "{error}");
        }
    }
}
