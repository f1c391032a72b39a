use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::config::{LogFormat, Protocol};
use crate::proto::sasl::base64;
use crate::proto::sasl::scram::client::{ClientExchange, Recipe, Salting};
use crate::proto::sasl::{Mechanism, digest::Digest};
use crate::runtime::executor;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

const ORIGIN: Origin = Origin { client: CLIENT, protocol: Protocol::Imap, format: LogFormat::Text };

static SECRET: LazyLock<String> = LazyLock::new(|| make_secret("correct horse"));

fn realm(secret: Option<&str>) -> Realm {
    let account = |name: &str, secret: Option<&str>| Account {
        name: name.into(),
        id: 7,
        partition: 0,
        secret: secret.map(Box::from),
        revision: 0,
    };
    let accounts = [account("a@x.test", secret), account("closed@x.test", None)];
    Realm { accounts: Arc::new(accounts.into_iter().collect()), domain: Some("x.test".into()) }
}

fn run<F: Future<Output = ()> + 'static>(body: impl FnOnce(Authenticator) -> F + Send + 'static) {
    let body = || body(Authenticator::new(2, [7; 32], None));
    let thread = executor::spawn("auth-test", None, body).expect("a thread");
    thread.join().expect("no panic outside a task").expect("a ring");
}

async fn check(
    authenticator: &Authenticator,
    realm: &Realm,
    name: &str,
    password: &str,
) -> Result<(), Refusal> {
    let (name, password) = (name.as_bytes(), password.as_bytes());
    let checked = authenticator.check(realm, CLIENT, name, password).await;
    checked.map(|account| assert_eq!((&*account.name, account.id), ("a@x.test", 7)))
}

#[test]
fn the_right_password_alone_opens_and_is_hashed_once() {
    run(|it| async move {
        let known = realm(Some(&SECRET));
        for (name, password, expected) in [
            ("a@x.test", "correct horse", Ok(())),
            ("A", "correct horse", Ok(())),
            ("A@X.test", "correct horse", Ok(())),
            ("a@x.test", "incorrect", Err(Refusal::Credentials)),
            ("a@x.test", "incorrect", Err(Refusal::Credentials)),
            ("a@y.test", "correct horse", Err(Refusal::Credentials)),
            ("closed", "correct horse", Err(Refusal::Credentials)),
            ("a", "", Err(Refusal::Credentials)),
            ("a", &"x".repeat(2000), Err(Refusal::Credentials)),
        ] {
            assert_eq!(check(&it, &known, name, password).await, expected, "{name} {password}");
        }
        assert_eq!(it.hash_count(), 4, "right, wrong, nobody, and one without a password");
        let changed = realm(Some(&make_secret("battery staple")));
        let refused = check(&it, &changed, "a", "correct horse").await;
        assert_eq!(refused, Err(Refusal::Credentials), "it was right before");
        assert_eq!(check(&it, &changed, "a", "battery staple").await, Ok(()));
        assert_eq!(check(&it, &known, "a", "correct horse").await, Ok(()), "as if changed back");
        assert_eq!(it.hash_count(), 6);
        let gone = Realm { accounts: Arc::default(), ..known };
        assert_eq!(check(&it, &gone, "a", "correct horse").await, Err(Refusal::Credentials));
    });
}

#[test]
fn guesses_are_refused_after_a_number_and_the_owner_is_not_where_it_was_before() {
    run(|it| async move {
        let known = realm(Some(&SECRET));
        let other_client = IpAddr::from([192, 0, 2, 2]);
        let owner = it.check(&known, other_client, b"a", b"correct horse").await;
        assert!(owner.is_ok());
        let mut refused_count = 0;
        for number in 0..60 {
            // Whoever goes away before the answer has guessed all the same.
            let guess = format!("guess {number}");
            let checked = pin!(check(&it, &known, "a", &guess));
            let polled = checked.poll(&mut Context::from_waker(Waker::noop()));
            let too_many = |it: &_| matches!(it, Poll::Ready(Err(Refusal::TooManyFailures { .. })));
            refused_count += usize::from(too_many(&polled));
        }
        assert_eq!(refused_count, 40);
        let last = check(&it, &known, "a", "correct horse").await;
        assert!(
            matches!(last, Err(Refusal::TooManyFailures { .. })),
            "right, but a guess too many"
        );
        let owner = it.check(&known, other_client, b"a", b"correct horse").await;
        assert!(owner.is_ok());
    });
}

fn text(octets: &[u8]) -> String {
    let mut text = String::new();
    base64::encode(octets, &mut text);
    text
}

fn exchange(it: &Authenticator, realm: &Realm, mechanism: Mechanism) -> Exchange {
    Exchange::new(it, realm, ORIGIN, mechanism)
}

fn opened(step: &Step) -> Option<&str> {
    match step {
        Step::Done(Ok(account)) => Some(&account.name),
        _ => None,
    }
}

#[test]
fn plain_and_login_carry_name_and_password() {
    run(|it| async move {
        let realm = realm(Some(&SECRET));
        let begin = |mechanism| exchange(&it, &realm, mechanism);
        let message = text(b"\0a\0correct horse");
        let step = begin(Mechanism::Plain).begin(Some(message.as_bytes())).await;
        assert_eq!(opened(&step), Some("a@x.test"));
        let mut plain = begin(Mechanism::Plain);
        assert_eq!(plain.begin(None).await, Step::Challenge(String::new()));
        assert_eq!(opened(&plain.step(message.as_bytes()).await), Some("a@x.test"));
        assert_eq!(plain.step(message.as_bytes()).await, Step::Done(Err(Refusal::Malformed)));
        for (message, expected) in [
            (text(b"\0a\0wrong"), Refusal::Credentials),
            (text(b"b@x.test\0a\0correct horse"), Refusal::Credentials),
            (text(b"\0a"), Refusal::Malformed),
            ("=".into(), Refusal::Malformed),
            ("*".into(), Refusal::Cancelled),
            ("no base64".into(), Refusal::Malformed),
            (text(&[b'x'; 4000]), Refusal::Malformed),
        ] {
            let step = begin(Mechanism::Plain).begin(Some(message.as_bytes())).await;
            assert_eq!(step, Step::Done(Err(expected)), "{message}");
        }
        let itself = text(b"A@x.test\0a\0correct horse");
        let step = begin(Mechanism::Plain).begin(Some(itself.as_bytes())).await;
        assert_eq!(opened(&step), Some("a@x.test"), "acts as itself");
        let mut login = begin(Mechanism::Login);
        assert_eq!(login.begin(None).await, Step::Challenge(text(b"Username:")));
        assert_eq!(login.step(text(b"a").as_bytes()).await, Step::Challenge(text(b"Password:")));
        assert_eq!(opened(&login.step(text(b"correct horse").as_bytes()).await), Some("a@x.test"));
        let mut login = begin(Mechanism::Login);
        let step = login.begin(Some(text(b"a").as_bytes())).await;
        assert_eq!(step, Step::Challenge(text(b"Password:")));
        assert_eq!(login.step(b"*").await, Step::Done(Err(Refusal::Cancelled)));
    });
}

/// The client's half; the message that follows the challenge, which it returns too.
async fn scram(exchange: &mut Exchange, name: &str, password: &str) -> (String, Step) {
    let mut client = ClientExchange::new(name, "0123456789abcdefghijklmn");
    let Step::Challenge(challenge) =
        exchange.begin(Some(text(client.first().as_bytes()).as_bytes())).await
    else {
        panic!("a challenge for every name");
    };
    let challenge = base64::decode(challenge.as_bytes()).expect("base64");
    let recipe = client.on_challenge(&challenge).expect("a recipe");
    let proof = client.proof(&salted(password, &recipe), HASHES);
    let step = exchange.step(text(proof.as_bytes()).as_bytes()).await;
    if let Step::Challenge(proof) = &step {
        let proof = base64::decode(proof.as_bytes()).expect("base64");
        client.on_final(&proof).expect("the server knows the password");
    }
    let salt = text(&recipe.salt);
    (salt, step)
}

fn salted(password: &str, recipe: &Recipe) -> Digest {
    assert_eq!(Some(recipe.iterations), NonZeroU32::new(16_384));
    Salting::new(password, recipe, HASHES).go_on(u32::MAX).expect("no iteration is left")
}

#[test]
fn scram_opens_with_a_proof_and_tells_nothing_of_names() {
    run(|it| async move {
        let realm = realm(Some(&SECRET));
        let begin = || exchange(&it, &realm, Mechanism::ScramSha256);
        let mut right = begin();
        let (salt, step) = scram(&mut right, "a", "correct horse").await;
        assert!(matches!(step, Step::Challenge(_)));
        assert_eq!(opened(&right.step(b"").await), Some("a@x.test"));
        let (again, step) = scram(&mut begin(), "a", "wrong").await;
        assert_eq!((&again, step), (&salt, Step::Done(Err(Refusal::Credentials))));
        let (nobody, step) = scram(&mut begin(), "nobody", "x").await;
        assert_eq!(step, Step::Done(Err(Refusal::Credentials)));
        let (again, _) = scram(&mut begin(), "nobody", "y").await;
        assert_eq!(again, nobody);
        let restarted = Authenticator::new(2, [7; 32], None);
        let mut exchange = exchange(&restarted, &realm, Mechanism::ScramSha256);
        let (again, _) = scram(&mut exchange, "nobody", "z").await;
        assert_eq!(again, nobody, "in another process too");
        assert_eq!((nobody == salt, nobody.len()), (false, salt.len()));
        let mut unfinished = begin();
        let (_, step) = scram(&mut unfinished, "a", "correct horse").await;
        assert!(matches!(step, Step::Challenge(_)));
        let step = unfinished.step(text(b"x").as_bytes()).await;
        assert_eq!(step, Step::Done(Err(Refusal::Malformed)));
        assert_eq!(it.hash_count(), 0, "nothing is hashed for it here");
    });
}
