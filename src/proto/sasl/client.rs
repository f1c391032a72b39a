//! The client's half of an exchange: which mechanism, and what it says to a server's challenges.

use std::sync::Arc;

use super::digest::{Digest, Hashes};
use super::scram::client::{ClientExchange, Recipe};
use super::{Credentials, Mechanism};

/// Mechanisms that a server offers, of those that are known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    plain: bool,
    login: bool,
    scram_sha256: bool,
}

impl Offer {
    /// Adds the mechanism of this name; others count for nothing.
    pub fn add(&mut self, name: &str) {
        match Mechanism::from_name(name) {
            Some(Mechanism::Plain) => self.plain = true,
            Some(Mechanism::Login) => self.login = true,
            Some(Mechanism::ScramSha256) => self.scram_sha256 = true,
            None => {}
        }
    }

    /// The one that tells a server the least. Without ASCII a password would have to be prepared
    /// for SCRAM (RFC 4013); the others take it as it is.
    fn best(self, credentials: &Credentials) -> Option<Mechanism> {
        let is_ascii = credentials.name.is_ascii() && credentials.password.is_ascii();
        match self {
            Offer { scram_sha256: true, .. } if is_ascii => Some(Mechanism::ScramSha256),
            Offer { plain: true, .. } => Some(Mechanism::Plain),
            Offer { login: true, .. } => Some(Mechanism::Login),
            _ => None,
        }
    }
}

/// What follows a challenge.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    /// The password is to be salted; then `on_salted`.
    Salt(Recipe),
    /// The server does not keep to the mechanism, or is none that knows the password.
    Broken,
}

/// An exchange under way.
pub struct Exchange {
    credentials: Arc<Credentials>,
    hashes: Hashes,
    state: State,
}

enum State {
    /// The server has all that it needs.
    Said,
    LoginName,
    LoginPassword,
    ScramChallenge(ClientExchange),
    /// Until the password is salted.
    ScramSalt(ClientExchange),
    ScramFinal(ClientExchange),
    Broken,
}

/// How an exchange begins.
pub struct Beginning {
    pub mechanism: Mechanism,
    /// What may be sent along with its name.
    pub first: Option<Vec<u8>>,
    pub exchange: Exchange,
}

impl Exchange {
    /// `None` where the server offers nothing that is known here. `nonce` as `ClientExchange` wants
    /// it.
    pub fn begin(
        offer: Offer,
        credentials: &Arc<Credentials>,
        nonce: &str,
        hashes: Hashes,
    ) -> Option<Beginning> {
        let mechanism = offer.best(credentials)?;
        let Credentials { authorization_id, name, password } = &**credentials;
        let (first, state) = match mechanism {
            Mechanism::Plain => {
                let message = [authorization_id.as_str(), name, password].join("\0");
                (Some(message.into_bytes()), State::Said)
            }
            Mechanism::Login => (None, State::LoginName),
            Mechanism::ScramSha256 => {
                let exchange = ClientExchange::new(name, nonce);
                (Some(exchange.first().into_bytes()), State::ScramChallenge(exchange))
            }
        };
        let credentials = credentials.clone();
        Some(Beginning { mechanism, first, exchange: Exchange { credentials, hashes, state } })
    }

    /// The server says something, decoded, and waits for an answer.
    pub fn on_challenge(&mut self, challenge: &[u8]) -> Step {
        let (step, state) = match std::mem::replace(&mut self.state, State::Broken) {
            // What it says is a prompt for a human being.
            State::LoginName => {
                let name = self.credentials.name.as_bytes();
                (Step::Send(name.to_vec()), State::LoginPassword)
            }
            State::LoginPassword => {
                let password = self.credentials.password.as_bytes();
                (Step::Send(password.to_vec()), State::Said)
            }
            State::ScramChallenge(mut exchange) => match exchange.on_challenge(challenge) {
                Ok(recipe) => (Step::Salt(recipe), State::ScramSalt(exchange)),
                Err(_) => (Step::Broken, State::Broken),
            },
            State::ScramFinal(exchange) => match exchange.on_final(challenge) {
                Ok(()) => (Step::Send(Vec::new()), State::Said),
                Err(_) => (Step::Broken, State::Broken),
            },
            State::Said | State::ScramSalt(_) | State::Broken => (Step::Broken, State::Broken),
        };
        self.state = state;
        step
    }

    /// What to send now that the password is salted. Only after `Step::Salt`.
    pub fn on_salted(&mut self, salted: &Digest) -> Vec<u8> {
        let State::ScramSalt(mut exchange) = std::mem::replace(&mut self.state, State::Broken)
        else {
            panic!("the password was to be salted");
        };
        let message = exchange.proof(salted, self.hashes);
        self.state = State::ScramFinal(exchange);
        message.into_bytes()
    }

    /// Whether the server may call it a success: with SCRAM only once it has proved itself.
    pub fn may_succeed(&self) -> bool {
        matches!(self.state, State::Said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sasl::digest::reference::HASHES;

    const NONCE: &str = "0123456789abcdefghijklmn";

    fn begin(offered: &[&str], password: &str) -> Option<Beginning> {
        let mut offer = Offer::default();
        offered.iter().for_each(|name| offer.add(name));
        let (authorization_id, name) = (String::new(), "user".to_owned());
        let credentials = Credentials { authorization_id, name, password: password.into() };
        Exchange::begin(offer, &credentials.into(), NONCE, HASHES)
    }

    #[test]
    fn the_mechanism_that_tells_the_least_is_taken() {
        let best = |offered: &[&str], password| begin(offered, password).map(|it| it.mechanism);
        let all = ["LOGIN", "plain", "SCRAM-SHA-256", "XOAUTH2"];
        assert_eq!(best(&all, "secret"), Some(Mechanism::ScramSha256));
        assert_eq!(best(&all, "geh\u{e9}im"), Some(Mechanism::Plain));
        assert_eq!(best(&["LOGIN", "PLAIN"], "secret"), Some(Mechanism::Plain));
        assert_eq!(best(&["LOGIN"], "secret"), Some(Mechanism::Login));
        assert_eq!(best(&["SCRAM-SHA-256"], "geh\u{e9}im"), None);
        assert_eq!(best(&["CRAM-MD5", "SCRAM-SHA-256-PLUS"], "secret"), None);
    }

    #[test]
    fn plain_says_all_at_once_and_login_one_after_the_other() {
        let Beginning { first, mut exchange, .. } = begin(&["PLAIN"], "secret").expect("known");
        assert_eq!(first.as_deref(), Some(&b"\0user\0secret"[..]));
        assert!(exchange.may_succeed());
        assert_eq!(exchange.on_challenge(b""), Step::Broken);
        assert!(!exchange.may_succeed());
        let Beginning { first, mut exchange, .. } = begin(&["LOGIN"], "secret").expect("known");
        assert_eq!(first, None);
        assert!(!exchange.may_succeed());
        assert_eq!(exchange.on_challenge(b"Username:"), Step::Send(b"user".to_vec()));
        assert!(!exchange.may_succeed());
        assert_eq!(exchange.on_challenge(b"whatever"), Step::Send(b"secret".to_vec()));
        assert!(exchange.may_succeed());
        assert_eq!(exchange.on_challenge(b""), Step::Broken);
    }

    #[test]
    fn scram_succeeds_only_with_a_server_that_proves_itself() {
        let begin = || begin(&["SCRAM-SHA-256"], "secret").expect("known").exchange;
        let challenge = format!("r={NONCE}abc,s=c2FsdA==,i=4096");
        let mut exchange = begin();
        assert!(!exchange.may_succeed());
        assert!(matches!(exchange.on_challenge(challenge.as_bytes()), Step::Salt(_)));
        assert!(!exchange.may_succeed());
        let proof = exchange.on_salted(&[7; 32]);
        assert!(proof.starts_with(b"c=biws,r=") && !exchange.may_succeed());
        assert_eq!(exchange.on_challenge(b"v=AAAA"), Step::Broken);
        assert!(!exchange.may_succeed());
        let mut exchange = begin();
        assert_eq!(exchange.on_challenge(b"nonsense"), Step::Broken);
        assert_eq!(exchange.on_challenge(challenge.as_bytes()), Step::Broken);
    }
}
