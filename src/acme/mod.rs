//! ACME: the certificate that this server gets for its own names (RFC 8555), by TLS-ALPN-01.
//!
//! **Owns** the thread that asks for one where none is there or where it grows old, the one that
//! answers the CA's questions for our names, and the files in `data_dir/acme`.
//! **Uses** `limits`, `config`, `tls`, `web`, `runtime`; the protocol itself is the library's.
//! **Holds** that mail goes on whatever comes of it, that a certificate is replaced whole and with
//! its key or not at all, and that a CA is not asked again and again for what it refused.
//! **Start reading** at `attend`, then `order::obtain`.

mod http_client;
mod order;
mod responder;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::config::{Acme, Config, read_identity};
use crate::event::notice;
use crate::runtime::{clock, thread};
use crate::tls::challenge::Challenges;
use crate::tls::identity::Identity;

/// Why there is no certificate.
#[derive(Debug)]
pub struct Trouble(String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble(error.to_string())
    }
}

/// Starts the threads, which live as long as the process.
///
/// `config` gives the configuration in force. `renew` is called when the files have changed: it
/// brings what they hold into force.
pub fn start(
    listener: TcpListener,
    config: impl Fn() -> Arc<Config> + Send + 'static,
    renew: impl Fn() -> Result<(), String> + Send + 'static,
) -> io::Result<()> {
    let challenges = Challenges::default();
    let context = challenges.context().map_err(io::Error::other)?;
    let asked = challenges.clone();
    thread::spawn("acme-answers", None, move || responder::serve(&listener, &asked, &context))?;
    thread::spawn("acme", None, move || attend(&challenges, config, renew)).map(drop)
}

/// Asks for a certificate whenever one is wanted.
fn attend(
    challenges: &Challenges,
    config: impl Fn() -> Arc<Config>,
    renew: impl Fn() -> Result<(), String>,
) {
    let mut failures = 0;
    let mut tried: Option<(Acme, Instant)> = None;
    loop {
        let config = config();
        if let Some(acme) = &config.acme
            && is_wanted(&config, acme)
            // A configuration that was read again is a reason to try at once.
            && tried.as_ref().is_none_or(|(with, next)| with != acme || *next <= Instant::now())
        {
            let result =
                order::obtain(&config, acme, challenges).and_then(|()| renew().map_err(Trouble));
            let wait = match result {
                Ok(()) => {
                    notice!("ringpost: acme: a certificate for {} came", acme.names.join(", "));
                    failures = 0;
                    RETRY_WAIT_MIN
                }
                Err(trouble) => {
                    let wait = wait_after(failures);
                    let wait_s = wait.as_secs();
                    notice!("ringpost: acme: no certificate: {trouble}; trying in {wait_s} s");
                    failures += 1;
                    wait
                }
            };
            tried = Some((acme.clone(), Instant::now() + wait));
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// Between tries: doubled with each failure, and spread by an eighth.
fn wait_after(failures: u32) -> Duration {
    let wait = RETRY_WAIT_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_WAIT_MAX);
    let spread_ms = wait.as_millis() as u64 / 8;
    wait - Duration::from_millis(clock::random_u64() % spread_ms.max(1))
}

/// Whether there is no certificate for all names, or a third of its time is left at most.
fn is_wanted(config: &Config, acme: &Acme) -> bool {
    let identity = read_identity(&config.acme_identity_path());
    identity.is_none_or(|identity| !serves(&identity, &acme.names, clock::unix_ms() as i64 / 1000))
}

/// Whether a certificate is for all names and has more than a third of its time left.
fn serves(identity: &Identity, names: &[String], now_s: i64) -> bool {
    let is_for = |name: &String| match ServerName::try_from(&**name) {
        Ok(name) => identity.is_for(&name),
        Err(_) => false,
    };
    let is_young = identity.validity().is_some_and(|(begin, end)| (end - begin) / 3 < end - now_s);
    is_young && names.iter().all(is_for)
}

/// How often the certificate is looked at: a file of a few kilobytes.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// CAs allow for a handful of failures an hour.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(300);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(12 * 3600);
