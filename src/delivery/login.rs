//! Saying to next hops who we are.

use super::Inner;
use crate::config::Credentials;
use crate::limits::SALTED_PASSWORDS_MAX;
use crate::mail::{Protection, Reply, status};
use crate::proto::sasl::base64;
use crate::proto::sasl::digest::{Digest, Hashes};
use crate::proto::sasl::scram::client::{Recipe, Salting};
use crate::routing::Place;
use crate::runtime::{clock, task};
use crate::tls;
use crate::tls::client::Level;

/// Passwords as servers want them salted: working one out takes milliseconds.
#[derive(Default)]
pub(super) struct SaltedPasswords {
    /// Looked through from the front: there are as many as servers that were told a password.
    known: Vec<(Box<str>, Recipe, Digest)>,
}

impl SaltedPasswords {
    fn find(&self, password: &str, recipe: &Recipe) -> Option<Digest> {
        let known = self.known.iter().find(|it| *it.0 == *password && it.1 == *recipe);
        known.map(|(_, _, salted)| *salted)
    }

    fn note(&mut self, password: &str, recipe: &Recipe, salted: Digest) {
        if self.known.len() >= SALTED_PASSWORDS_MAX {
            self.known.clear();
        }
        self.known.push((password.into(), recipe.clone(), salted));
    }
}

impl Inner {
    /// Who we are at a place, where it wants to know.
    pub(super) fn credentials_for(&self, place: &Place) -> Option<Credentials> {
        let config = self.config.borrow();
        // Without credentials no next hop has to be made.
        if config.credentials.is_empty() {
            return None;
        }
        let (_, credentials) = config.credentials_of(&place.next_hop()?)?;
        Some(credentials.clone())
    }

    /// What a server asks for in place of a password. Others get their turn meanwhile.
    pub(super) async fn salted(&self, password: &str, recipe: &Recipe) -> Digest {
        if let Some(salted) = self.salted_passwords.borrow().find(password, recipe) {
            return salted;
        }
        let mut salting = Salting::new(password, recipe, HASHES);
        loop {
            if let Some(salted) = salting.go_on(ITERATIONS_AT_ONCE) {
                self.salted_passwords.borrow_mut().note(password, recipe, salted);
                return salted;
            }
            task::yield_now().await;
        }
    }
}

/// Whether a password may be said in a session that is protected like this.
pub(super) fn may_be_told(level: Level, protection: Option<&Protection>) -> bool {
    match level {
        Level::None | Level::Opportunistic => true,
        Level::Required => protection.is_some(),
        Level::Verify => protection.is_some_and(|it| it.verified_by.is_some()),
    }
}

/// A nonce of 144 random bits.
pub(super) fn nonce() -> String {
    let octets: Vec<u8> = (0..3).flat_map(|_| clock::random_u64().to_be_bytes()).collect();
    let mut nonce = String::new();
    base64::encode(&octets[..18], &mut nonce);
    nonce
}

/// What becomes of mail that its next hop does not take from us: it waits, whatever the reply code.
pub(super) fn refusal(reply: &Reply) -> Reply {
    let text = match reply.is_remote {
        true => format!("AUTH was refused: {reply}"),
        false => format!("AUTH came to nothing: {}", reply.text),
    };
    Reply::with_text(451, status::CREDENTIALS_REFUSED, text)
}

pub(super) const HASHES: Hashes =
    Hashes { sha256: tls::digest::sha256, hmac_sha256: tls::digest::hmac_sha256 };
pub(super) const NOT_PROTECTED: Reply = Reply::new(
    451,
    status::CREDENTIALS_REFUSED,
    "The session is not protected enough to say the password",
);
/// About a fifth of a millisecond.
const ITERATIONS_AT_ONCE: u32 = 128;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::mail::VerifiedBy;

    #[test]
    fn salted_passwords_are_remembered_each_for_its_recipe_and_have_a_bound() {
        let recipe = |salt: usize| Recipe {
            salt: salt.to_be_bytes().to_vec(),
            iterations: NonZeroU32::new(4096).expect("not 0"),
        };
        let mut passwords = SaltedPasswords::default();
        passwords.note("a", &recipe(0), [1; 32]);
        passwords.note("a", &recipe(1), [2; 32]);
        assert_eq!(passwords.find("a", &recipe(0)), Some([1; 32]));
        assert_eq!(passwords.find("a", &recipe(1)), Some([2; 32]));
        assert_eq!(passwords.find("b", &recipe(0)), None);
        for salt in 2..3 * SALTED_PASSWORDS_MAX {
            passwords.note("a", &recipe(salt), [3; 32]);
            assert!(passwords.known.len() <= SALTED_PASSWORDS_MAX);
        }
    }

    #[test]
    fn a_password_is_told_only_where_its_level_is_kept() {
        let verified =
            Protection { version: "TLSv1.3", cipher: "X", verified_by: Some(VerifiedBy::Ca) };
        let unverified = Protection { verified_by: None, ..verified };
        for (level, clear, tls, known) in [
            (Level::None, true, true, true),
            (Level::Opportunistic, true, true, true),
            (Level::Required, false, true, true),
            (Level::Verify, false, false, true),
        ] {
            let told = [None, Some(&unverified), Some(&verified)].map(|it| may_be_told(level, it));
            assert_eq!(told, [clear, tls, known], "{level:?}");
        }
    }
}
