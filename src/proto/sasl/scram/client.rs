//! The client's half of SCRAM-SHA-256: its proof is worth nothing to whoever does not know the
//! password already, and the server has to prove that it knows it too.

use std::num::NonZeroU32;

use super::{Fault, attribute, is_nonce, text};
use crate::limits::SCRAM_ITERATIONS_MAX;
use crate::proto::sasl::base64;
use crate::proto::sasl::digest::{Digest, Hashes, is_equal};

/// What the server says the password is to be hashed with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// Not empty.
    pub salt: Vec<u8>,
    /// `ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX`.
    pub iterations: NonZeroU32,
}

/// PBKDF2 with HMAC-SHA-256 (`Hi` of RFC 5802 §2.2) in slices, so that nobody has to stand still
/// while it is worked out.
pub struct Salting {
    password: Vec<u8>,
    hmac_sha256: fn(&[u8], &[u8]) -> Digest,
    iterations_left: u32,
    last: Digest,
    sum: Digest,
}

impl Salting {
    /// `password` is ASCII, which RFC 4013 leaves as it is.
    pub fn new(password: &str, recipe: &Recipe, hashes: Hashes) -> Self {
        assert!(password.is_ascii());
        let password = password.as_bytes().to_vec();
        let first = [&recipe.salt[..], &[0, 0, 0, 1]].concat();
        let last = (hashes.hmac_sha256)(&password, &first);
        let iterations_left = recipe.iterations.get() - 1;
        let hmac_sha256 = hashes.hmac_sha256;
        Self { password, hmac_sha256, iterations_left, last, sum: last }
    }

    /// Goes on for at most `iterations`; the salted password once there are none left.
    pub fn go_on(&mut self, iterations: u32) -> Option<Digest> {
        let count = iterations.min(self.iterations_left);
        for _ in 0..count {
            self.last = (self.hmac_sha256)(&self.password, &self.last);
            self.sum.iter_mut().zip(self.last).for_each(|(sum, octet)| *sum ^= octet);
        }
        self.iterations_left -= count;
        (self.iterations_left == 0).then_some(self.sum)
    }
}

/// An exchange under way.
pub struct ClientExchange {
    /// The first message without its header.
    bare: String,
    nonce: String,
    challenge: String,
    /// Of the challenge: ours, and the server's behind it.
    whole_nonce: String,
    /// What the server has to say to prove itself; once the proof was sent.
    expected: Option<Digest>,
}

impl ClientExchange {
    /// `name` is ASCII; `nonce` at least 18 random octets in base64 or the like, without commas.
    pub fn new(name: &str, nonce: &str) -> Self {
        assert!(name.is_ascii());
        assert!(is_nonce(nonce) && nonce.len() >= 24);
        let name = name.replace('=', "=3D").replace(',', "=2C");
        Self {
            bare: format!("n={name},r={nonce}"),
            nonce: nonce.into(),
            challenge: String::new(),
            whole_nonce: String::new(),
            expected: None,
        }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("{HEADER}{}", self.bare)
    }

    /// Reads `r=nonce,s=salt,i=iterations`.
    pub fn on_challenge(&mut self, message: &[u8]) -> Result<Recipe, Fault> {
        let challenge = text(message)?;
        let mut attributes = challenge.split(',');
        let nonce = attribute(attributes.next(), "r=")?;
        let salt = base64::decode(attribute(attributes.next(), "s=")?.as_bytes());
        let salt = salt.filter(|salt| !salt.is_empty()).ok_or(Fault::Malformed)?;
        let iterations: NonZeroU32 =
            attribute(attributes.next(), "i=")?.parse().map_err(|_| Fault::Malformed)?;
        if !is_nonce(nonce) {
            return Err(Fault::Malformed);
        }
        // The server must have added something to ours.
        if nonce.strip_prefix(self.nonce.as_str()).is_none_or(str::is_empty) {
            return Err(Fault::Mismatch);
        }
        if !(ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations.get()) {
            return Err(Fault::Iterations);
        }
        self.whole_nonce = nonce.into();
        self.challenge = challenge.into();
        Ok(Recipe { salt, iterations })
    }

    /// The second message, given what `Salting` made of the password. Only after `on_challenge`.
    pub fn proof(&mut self, salted: &Digest, hashes: Hashes) -> String {
        assert!(!self.challenge.is_empty());
        let mut without_proof = "c=".to_owned();
        base64::encode(HEADER.as_bytes(), &mut without_proof);
        without_proof.push_str(",r=");
        without_proof.push_str(&self.whole_nonce);
        let signed = [self.bare.as_str(), &self.challenge, &without_proof].join(",");
        let client_key = (hashes.hmac_sha256)(salted, b"Client Key");
        let stored_key = (hashes.sha256)(&client_key);
        let mut proof = (hashes.hmac_sha256)(&stored_key, signed.as_bytes());
        proof.iter_mut().zip(client_key).for_each(|(octet, key)| *octet ^= key);
        let server_key = (hashes.hmac_sha256)(salted, b"Server Key");
        self.expected = Some((hashes.hmac_sha256)(&server_key, signed.as_bytes()));
        let mut message = without_proof + ",p=";
        base64::encode(&proof, &mut message);
        message
    }

    /// Reads `v=signature`, the server's proof. Only after `proof`.
    pub fn on_final(&self, message: &[u8]) -> Result<(), Fault> {
        let signature = attribute(text(message)?.split(',').next(), "v=")?;
        let signature = base64::decode(signature.as_bytes()).ok_or(Fault::Malformed)?;
        let signature = Digest::try_from(signature).map_err(|_| Fault::Malformed)?;
        let expected = self.expected.as_ref().expect("the proof was sent");
        if is_equal(&signature, expected) { Ok(()) } else { Err(Fault::Proof) }
    }
}

/// No channel binding, nobody else to act as.
const HEADER: &str = "n,,";
/// RFC 7677 §4: with fewer a password would be found out too easily by who only plays the server.
const ITERATIONS_MIN: u32 = 4096;
const _: () = assert!(ITERATIONS_MIN <= SCRAM_ITERATIONS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sasl::digest::reference::HASHES;
    use crate::proto::sasl::scram::{ClientFirst, Verifier};

    /// The exchange of RFC 7677 §3; its nonce is shorter than ours are.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn exchange() -> ClientExchange {
        let mut exchange = ClientExchange::new("user", "0123456789abcdefghijklmn");
        exchange.bare = format!("n=user,r={NONCE}");
        exchange.nonce = NONCE.into();
        exchange
    }

    fn salted(password: &str, recipe: &Recipe, slice: u32) -> Digest {
        let mut salting = Salting::new(password, recipe, HASHES);
        loop {
            if let Some(salted) = salting.go_on(slice) {
                return salted;
            }
        }
    }

    #[test]
    fn the_exchange_of_the_standard() {
        let mut exchange = exchange();
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let recipe = exchange.on_challenge(CHALLENGE.as_bytes()).expect("a recipe");
        let whole = salted("pencil", &recipe, u32::MAX);
        assert_eq!(whole, salted("pencil", &recipe, 1000), "slices change nothing");
        assert_eq!(
            exchange.proof(&whole, HASHES),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(exchange.on_final(last.as_bytes()), Ok(()));
        for (at, octet) in last.bytes().enumerate() {
            let mut wrong = last.as_bytes().to_vec();
            wrong[at] = if octet == b'A' { b'B' } else { b'A' };
            assert!(exchange.on_final(&wrong).is_err(), "changed at {at}");
            assert!(exchange.on_final(&last.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(exchange.on_final(b"e=invalid-proof"), Err(Fault::Malformed));
    }

    #[test]
    fn our_two_halves_understand_one_another() {
        let nonce = "0123456789abcdefghijklmn";
        let recipe =
            Recipe { salt: b"salt".to_vec(), iterations: NonZeroU32::new(4096).expect("not 0") };
        let (name, of_server) = ("a,b=c", salted("secret", &recipe, 500));
        let verifier = Verifier::from_salted_password(
            &of_server,
            recipe.salt.clone(),
            recipe.iterations,
            HASHES,
        );
        let mut client = ClientExchange::new(name, nonce);
        let first = ClientFirst::parse(client.first().as_bytes()).expect("a first message");
        assert_eq!(first.name, name);
        let server = first.challenge(verifier, "abcdefghijklmnopqrstuvwx");
        let asked = client.on_challenge(server.challenge().as_bytes());
        assert_eq!(asked.as_ref(), Ok(&recipe));
        let proof = client.proof(&of_server, HASHES);
        let last = server.finish(proof.as_bytes(), HASHES).expect("the right password");
        assert_eq!(client.on_final(last.as_bytes()), Ok(()));
    }

    #[test]
    fn a_challenge_that_weakens_the_password_or_is_another_ones_is_refused() {
        let check = |challenge: &str, expected: Fault| {
            let found = exchange().on_challenge(challenge.as_bytes());
            assert_eq!(found, Err(expected), "{challenge}");
        };
        check("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", Fault::Mismatch);
        check("r=other%hvYDpWUa2RaTCAfuxFIlj,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", Fault::Mismatch);
        check(&CHALLENGE.replace("4096", "4095"), Fault::Iterations);
        check(&CHALLENGE.replace("4096", "100000000"), Fault::Iterations);
        for wrong in ["i=0", "i=-1", "i=", "i=99999999999", "j=4096"] {
            check(&CHALLENGE.replace("i=4096", wrong), Fault::Malformed);
        }
        check(&CHALLENGE.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""), Fault::Malformed);
        check(&format!("m=x,{CHALLENGE}"), Fault::Malformed);
        check("", Fault::Malformed);
        for end in 0..CHALLENGE.len() {
            // Whether a prefix means something does not matter here.
            let _ = exchange().on_challenge(&CHALLENGE.as_bytes()[..end]);
        }
    }
}
