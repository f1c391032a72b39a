//! Who somebody is: passwords, the SASL exchanges that carry them, and limits on failures.
//!
//! **Owns** the text that stands for a password at rest, the threads that hash, which passwords
//! were right lately, how often who was wrong, and what the log says of that.
//! **Uses** `mail::account`, `proto::sasl`, the hashes of `tls`, `event`, `runtime`.
//! **Holds** that no executor hashes a password, that a name that nobody has costs what one costs
//! that somebody has, that a password that was right costs no hash a second time, that a flood of
//! refusals does not fill the log, and that no stranger can keep the owner of an account out of it
//! for ever.
//! **Start reading** at `Authenticator::check_password`, then `failures`.

mod exchange;
mod failures;
mod hashing;
mod recent;
mod refusals;
mod salt_key;
mod secret;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use exchange::{Exchange, Step};
pub use refusals::Origin;
pub use salt_key::{SaltKey, salt_key};
pub use secret::{Secret, make_secret};

use crate::event::LogSink;
use crate::limits::{AUTH_REMEMBERED_MAX, PASSWORD_BYTES_MAX};
use crate::mail::account::{Account, Accounts};
use crate::mail::client::ClientKey;
use crate::proto::sasl::digest::Hashes;
use crate::runtime::{clock, timer};
use crate::tls::digest::{hmac_sha256, sha256};
use failures::{Attempt, Failures, Later, NameKey};
use hashing::Hashing;
use recent::Recent;
use refusals::Allowance;

/// Whom names may mean.
#[derive(Clone, Default)]
pub struct Realm {
    pub accounts: Arc<Accounts>,
    /// Of a name without one.
    pub domain: Option<Box<str>>,
}

impl Realm {
    /// The whole name in lower case. What is not UTF-8 is the name of nobody.
    fn full_name(&self, name: &[u8]) -> String {
        let mut name = String::from_utf8_lossy(name).to_lowercase();
        if let Some(domain) = &self.domain
            && !name.contains('@')
        {
            name.push('@');
            name.push_str(domain);
        }
        name
    }
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Wrong name or password; which one is not told.
    Credentials,
    /// There were too many failures: nothing was checked, nor will be for so long.
    TooManyFailures { wait: Duration },
    /// Too many passwords wait to be checked, or it took too long. Trying again later may help.
    Busy,
    /// The client gave up.
    Cancelled,
    /// What came is not base64, or not what the mechanism wants. Nothing was checked.
    Malformed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Credentials => f.write_str("Wrong name or password"),
            Refusal::TooManyFailures { wait } => {
                write!(f, "Too many failures; try again in {} seconds", wait.as_secs() + 1)
            }
            Refusal::Busy => f.write_str("Too many logins at once; try again later"),
            Refusal::Cancelled => f.write_str("Authentication was given up"),
            Refusal::Malformed => f.write_str("Not what the mechanism says"),
        }
    }
}

/// Checks passwords, for every shard. Clones are the same.
///
/// What shards share here is behind one lock. It is held for a look into a table, by executors
/// alone and never by a thread that hashes, and it is taken at a login, not for mail.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

struct Inner {
    hashing: Hashing,
    /// Of this process: what is remembered under it is worth nothing elsewhere.
    key: [u8; 32],
    salt_key: SaltKey,
    /// Where refused logins are told of.
    log: Option<LogSink>,
    state: Mutex<State>,
}

struct State {
    failures: Failures,
    /// Passwords that were right, and ones that were wrong from the same client.
    right: Recent<Mac, ()>,
    wrong: Recent<Mac, ()>,
    /// Lines of the log.
    allowance: Allowance,
}

/// Stands for a password of an account, under the key of the process.
type Mac = [u8; 32];

impl Authenticator {
    /// Hashes on at most `thread_max` threads of its own; they are there while somebody waits. By
    /// `salt_key` a name that nobody has gets its salt. Refused logins go to `log`.
    pub fn new(thread_max: usize, salt_key: SaltKey, log: Option<LogSink>) -> Self {
        let mut key = [0; 32];
        clock::fill_random(&mut key);
        let state = Mutex::new(State {
            failures: Failures::new(),
            right: Recent::new(AUTH_REMEMBERED_MAX),
            wrong: Recent::new(AUTH_REMEMBERED_MAX),
            allowance: Allowance::default(),
        });
        let hashing = Hashing::new(thread_max);
        Self { inner: Arc::new(Inner { hashing, key, salt_key, log, state }) }
    }

    /// Passwords that were hashed so far.
    pub fn hash_count(&self) -> u64 {
        self.inner.hashing.count()
    }

    /// The account of a name, if this is its password, which `command` said. A refusal is logged.
    /// Suspends as `check` does.
    pub async fn check_password(
        &self,
        realm: &Realm,
        origin: Origin,
        command: &str,
        (name, password): (&[u8], &[u8]),
    ) -> Result<Arc<Account>, Refusal> {
        let checked = self.check(realm, origin.client, name, password).await;
        checked.inspect_err(|refusal| self.log(&origin, (name, command), *refusal))
    }

    fn log(&self, origin: &Origin, said: (&[u8], &str), refusal: Refusal) {
        if let Some(sink) = &self.inner.log {
            let take = || self.state().allowance.take(clock::coarse_ms());
            refusals::log(sink, take, origin, said, refusal);
        }
    }

    /// The account of a name, if this is its password.
    ///
    /// Suspends while the password is hashed, unless it was right lately, and before that for some
    /// seconds where failures came before. Dropped midway, the attempt counts as failed.
    async fn check(
        &self,
        realm: &Realm,
        client: IpAddr,
        name: &[u8],
        password: &[u8],
    ) -> Result<Arc<Account>, Refusal> {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(Refusal::Credentials);
        }
        let name = realm.full_name(name);
        let client = ClientKey::new(client);
        let attempt = self.begin(client, &name).await?;
        let account = realm.accounts.get(&name);
        let text = account.and_then(|account| account.secret.as_deref());
        let mac = self.mac(&[name.as_bytes(), text.unwrap_or_default().as_bytes(), password]);
        // One client's mistakes tell nobody else about themselves.
        let of_client = self.mac(&[&mac, &client.to_bytes()]);
        let (was_right, was_wrong) = {
            let mut state = self.state();
            (state.right.get(&mac).is_some(), state.wrong.get(&of_client).is_some())
        };
        if was_wrong {
            // A program that repeats an old password guesses nothing.
            attempt.withdraw();
            return Err(Refusal::Credentials);
        }
        let is_right = if was_right {
            Ok(true)
        } else {
            // A name that nobody has, or that cannot log in, costs as much.
            let secret = text.and_then(Secret::parse).unwrap_or_else(Secret::of_nobody);
            self.inner.hashing.verify(secret.password, password).await
        };
        match (is_right, account) {
            (Ok(true), Some(account)) => {
                self.state().right.put(mac, ());
                attempt.succeed();
                Ok(account.clone())
            }
            (Ok(_), _) => {
                self.state().wrong.put(of_client, ());
                Err(Refusal::Credentials)
            }
            (Err(hashing::Busy), _) => {
                attempt.withdraw();
                Err(Refusal::Busy)
            }
        }
    }

    /// Begins an attempt. Waits first where failures came before, or while as many are under way
    /// as may be.
    async fn begin(&self, client: ClientKey, name: &str) -> Result<Begun<'_>, Refusal> {
        let name = NameKey::new(&self.mac(&[name.as_bytes()]));
        let end_ms = clock::coarse_ms() + TURN_WAIT_MS;
        let (attempt, delay) = loop {
            let begun = self.state().failures.begin(client, name, clock::coarse_ms());
            match begun {
                Ok(begun) => break begun,
                Err(Later::After(wait)) => return Err(Refusal::TooManyFailures { wait }),
                Err(Later::UnderWay) if clock::coarse_ms() >= end_ms => return Err(Refusal::Busy),
                Err(Later::UnderWay) => timer::sleep(TURN_LOOK).await,
            }
        };
        let begun = Begun { authenticator: self, attempt, is_over: false };
        if !delay.is_zero() {
            timer::sleep(delay).await;
        }
        Ok(begun)
    }

    fn mac(&self, parts: &[&[u8]]) -> Mac {
        let mut message = Vec::new();
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        hmac_sha256(&self.inner.key, &message)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that was begun. Dropped, it was wrong.
struct Begun<'a> {
    authenticator: &'a Authenticator,
    attempt: Attempt,
    is_over: bool,
}

impl Begun<'_> {
    fn succeed(mut self) {
        self.is_over = true;
        self.authenticator.state().failures.succeed(&self.attempt, clock::coarse_ms());
    }

    fn withdraw(mut self) {
        self.is_over = true;
        self.authenticator.state().failures.withdraw(&self.attempt);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.authenticator.state().failures.fail(&self.attempt);
        }
    }
}

/// Longest wait for attempts of neighbours to be over, and between two looks.
const TURN_WAIT_MS: u64 = 20_000;
const TURN_LOOK: Duration = Duration::from_millis(50);
const HASHES: Hashes = Hashes { sha256, hmac_sha256 };

#[cfg(test)]
mod tests;
