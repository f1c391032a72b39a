//! The server's half of a SASL exchange (RFC 4422), whatever protocol carries it.

use std::sync::Arc;

use super::secret::Secret;
use super::{Authenticator, HASHES, Origin, Realm, Refusal};
use crate::limits::SASL_RESPONSE_BYTES_MAX;
use crate::mail::account::Account;
use crate::mail::client::ClientKey;
use crate::proto::sasl::login::{self, Login};
use crate::proto::sasl::scram::{self, ClientFirst};
use crate::proto::sasl::{Credentials, Mechanism, base64, plain};
use crate::runtime::clock;
use crate::tls::digest::hmac_sha256;

/// An exchange under way. Octets come and go as base64, as the protocols write it.
pub struct Exchange {
    authenticator: Authenticator,
    realm: Realm,
    origin: Origin,
    mechanism: Mechanism,
    /// As the client said it, once it has.
    name: Box<str>,
    state: State,
}

/// What follows a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this, base64; the answer is the next response.
    Challenge(String),
    /// The exchange is over.
    Done(Result<Arc<Account>, Refusal>),
}

enum State {
    Plain,
    Login(Login),
    ScramFirst,
    ScramFinal(Box<ScramFinal>),
    /// The client knows that we know its password; it answers with nothing.
    ScramOver(Arc<Account>),
    Over,
}

struct ScramFinal {
    exchange: scram::Exchange,
    /// In full.
    name: String,
    /// `None` for a name that nobody has: no proof fits.
    account: Option<Arc<Account>>,
}

impl Exchange {
    /// Names mean what they mean in `realm` now.
    pub fn new(
        authenticator: &Authenticator,
        realm: &Realm,
        origin: Origin,
        mechanism: Mechanism,
    ) -> Self {
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::Login(Login::default()),
            Mechanism::ScramSha256 => State::ScramFirst,
        };
        let (authenticator, realm, name) = (authenticator.clone(), realm.clone(), "".into());
        Self { authenticator, realm, origin, mechanism, name, state }
    }

    /// Begins with what the client sent along with the name of the mechanism; `=` stands for
    /// nothing (RFC 4954 §4). May suspend as `step` does.
    pub async fn begin(&mut self, initial_response: Option<&[u8]>) -> Step {
        match (initial_response, &self.state) {
            (Some(b"="), _) => self.step(b"").await,
            (Some(response), _) => self.step(response).await,
            (None, State::Login(login)) => challenge(login.first_challenge().as_bytes()),
            (None, _) => challenge(b""),
        }
    }

    /// Goes on with what answers a challenge; `*` gives up. A refusal is logged.
    ///
    /// Suspends while a password is checked, see `Authenticator::check`. After `Step::Done`, or
    /// dropped midway, the exchange is good for nothing.
    pub async fn step(&mut self, response: &[u8]) -> Step {
        let step = self.go_on(response).await;
        if let Step::Done(Err(refusal)) = &step {
            let said = (self.name.as_bytes(), self.mechanism.as_str());
            self.authenticator.log(&self.origin, said, *refusal);
        }
        step
    }

    async fn go_on(&mut self, response: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        if response == b"*" {
            return Step::Done(Err(Refusal::Cancelled));
        }
        if response.len() > SASL_RESPONSE_BYTES_MAX {
            return Step::Done(Err(Refusal::Malformed));
        }
        let Some(message) = base64::decode(response) else {
            return Step::Done(Err(Refusal::Malformed));
        };
        match state {
            State::Plain => match plain::parse(&message) {
                Some(credentials) => Step::Done(self.check(credentials).await),
                None => Step::Done(Err(Refusal::Malformed)),
            },
            State::Login(mut login) => match login.step(&message) {
                login::Step::Challenge(text) => {
                    self.state = State::Login(login);
                    challenge(text.as_bytes())
                }
                login::Step::Credentials(credentials) => Step::Done(self.check(credentials).await),
                login::Step::Malformed => Step::Done(Err(Refusal::Malformed)),
            },
            State::ScramFirst => match ClientFirst::parse(&message) {
                Ok(first) => self.scram_challenge(first),
                Err(_) => Step::Done(Err(Refusal::Malformed)),
            },
            State::ScramFinal(last) => match self.scram_final(*last, &message).await {
                Ok((account, proof)) => {
                    self.state = State::ScramOver(account);
                    challenge(proof.as_bytes())
                }
                Err(refusal) => Step::Done(Err(refusal)),
            },
            State::ScramOver(account) if message.is_empty() => Step::Done(Ok(account)),
            State::ScramOver(_) | State::Over => Step::Done(Err(Refusal::Malformed)),
        }
    }

    async fn check(&mut self, credentials: Credentials) -> Result<Arc<Account>, Refusal> {
        let Credentials { authorization_id, name, password } = credentials;
        self.name = name.as_str().into();
        let (name, password) = (name.as_bytes(), password.as_bytes());
        let client = self.origin.client;
        let account = self.authenticator.check(&self.realm, client, name, password).await?;
        let is_itself = self.acts_as_itself(&authorization_id, &account.name);
        is_itself.then_some(account).ok_or(Refusal::Credentials)
    }

    /// Nobody acts as somebody else here. `name` is in full.
    fn acts_as_itself(&self, authorization_id: &str, name: &str) -> bool {
        authorization_id.is_empty() || self.realm.full_name(authorization_id.as_bytes()) == name
    }

    fn scram_challenge(&mut self, first: ClientFirst) -> Step {
        self.name = first.name.as_str().into();
        let name = self.realm.full_name(first.name.as_bytes());
        let account = self.realm.accounts.get(&name).cloned();
        let text = account.as_ref().and_then(|account| account.secret.as_deref());
        let secret = text.and_then(Secret::parse).unwrap_or_else(|| {
            // Asked twice, it is told the same salt twice, as of a name that somebody has.
            let salt_key = &self.authenticator.inner.salt_key;
            Secret::of_name_of_nobody(hmac_sha256(salt_key, name.as_bytes()))
        });
        let is_itself = self.acts_as_itself(&first.authorization_id, &name);
        let exchange = first.challenge(secret.scram, &nonce());
        let step = challenge(exchange.challenge().as_bytes());
        // Who wants to act as another one is told so as if the proof were wrong.
        let account = account.filter(|_| is_itself);
        self.state = State::ScramFinal(Box::new(ScramFinal { exchange, name, account }));
        step
    }

    async fn scram_final(
        &self,
        last: ScramFinal,
        message: &[u8],
    ) -> Result<(Arc<Account>, String), Refusal> {
        let ScramFinal { exchange, name, account } = last;
        let client = ClientKey::new(self.origin.client);
        let attempt = self.authenticator.begin(client, &name).await?;
        let proof = match exchange.finish(message, HASHES) {
            Ok(proof) => proof,
            Err(scram::Fault::Proof) => return Err(Refusal::Credentials),
            Err(_) => {
                attempt.withdraw();
                return Err(Refusal::Malformed);
            }
        };
        let account = account.ok_or(Refusal::Credentials)?;
        attempt.succeed();
        Ok((account, proof))
    }
}

fn challenge(octets: &[u8]) -> Step {
    let mut text = String::new();
    base64::encode(octets, &mut text);
    Step::Challenge(text)
}

/// 144 random bits.
fn nonce() -> String {
    let mut octets = [0; 18];
    clock::fill_random(&mut octets);
    let mut nonce = String::new();
    base64::encode(&octets, &mut nonce);
    nonce
}
