//! One certificate, from the account to the file.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus,
};

use super::http_client::Client;
use super::{Trouble, serves};
use crate::config::{Acme, Config};
use crate::runtime::{clock, whole_file};
use crate::tls::challenge::Challenges;
use crate::tls::identity::Identity;

/// Gets a certificate and writes it where `Config::acme_identity_path` says. Blocks for as long as
/// the CA takes, some minutes at most.
pub fn obtain(config: &Config, acme: &Acme, challenges: &Challenges) -> Result<(), Trouble> {
    let path = config.acme_identity_path();
    let directory = path.parent().expect("it has a directory");
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let key = rcgen::KeyPair::generate()?;
    let chain = without_waiting(async {
        let account = account(acme, directory).await?;
        chain(&account, acme, &key, challenges).await
    })?;
    let pem = key.serialize_pem() + &chain;
    let identity = Identity::from_pem(pem.as_bytes(), pem.as_bytes())
        .map_err(|error| Trouble(format!("what came is no certificate of ours: {error}")))?;
    if !serves(&identity, &acme.names, clock::unix_ms() as i64 / 1000) {
        return Err(Trouble("the certificate that came is for other names or too old".to_owned()));
    }
    whole_file::replace(&path, pem.as_bytes())?;
    Ok(())
}

/// Runs a future all of whose requests block.
fn without_waiting<T>(future: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(Trouble("the library waits for something".to_owned())),
    }
}

/// The account that was made before, or another one.
async fn account(acme: &Acme, directory: &Path) -> Result<Account, Trouble> {
    let path = directory.join("account.json");
    let client = || Account::builder_with_http(Box::new(Client { tls: acme.contexts.web() }));
    if let Some(credentials) = read_account(&path, &acme.directory) {
        return Ok(client().from_credentials(credentials).await?);
    }
    let contact: Vec<&str> = acme.contact.iter().map(|it| &**it).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = client().create(&wanted, acme.directory.clone(), None).await?;
    whole_file::replace(&path, &serde_json::to_vec(&credentials)?)?;
    Ok(account)
}

/// `None` where there is none with this server that can be read: another one is made then.
fn read_account(path: &Path, server: &str) -> Option<AccountCredentials> {
    let text = std::fs::read(path).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let is_there = value["directory"] == server;
    serde_json::from_value(value).ok().filter(|_| is_there)
}

/// The certificate of `key` and what leads from it to its CA, in PEM.
async fn chain(
    account: &Account,
    acme: &Acme,
    key: &rcgen::KeyPair,
    challenges: &Challenges,
) -> Result<String, Trouble> {
    let names: Vec<Identifier> = acme.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut answers = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => return Err(Trouble(format!("the authorization for {name} is {status:?}"))),
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge
            .ok_or_else(|| Trouble(format!("the CA does not offer tls-alpn-01 for {name}")))?;
        let authorization = challenge.key_authorization();
        answers.push(challenges.answer(&name, authorization.digest().as_ref())?);
        // A CA that asks its question at once says here what came of it.
        challenge.set_ready().await.map_err(|error| Trouble(format!("{name}: {error}")))?;
    }
    until(&mut order, OrderStatus::Ready).await?;
    drop(answers);
    let mut request = rcgen::CertificateParams::new(acme.names.clone())?;
    request.distinguished_name = rcgen::DistinguishedName::new();
    order.finalize_csr(request.serialize_request(key)?.der()).await?;
    until(&mut order, OrderStatus::Valid).await?;
    order.certificate().await?.ok_or_else(|| Trouble("the CA has no certificate".to_owned()))
}

/// Asks how the order stands until it stands so.
async fn until(order: &mut Order, wanted: OrderStatus) -> Result<(), Trouble> {
    let end = Instant::now() + STEP_TIME_MAX;
    loop {
        let state = order.refresh().await?;
        match (state.status, &state.error) {
            (status, _) if status == wanted || status == OrderStatus::Valid => return Ok(()),
            (OrderStatus::Invalid, error) => {
                let error = error.clone().map(|problem| Trouble(problem.to_string()));
                let nothing = || Trouble("the CA calls the order invalid".to_owned());
                return Err(why_invalid(order).await.or(error).unwrap_or_else(nothing));
            }
            _ if Instant::now() >= end => {
                return Err(Trouble("the CA takes too long".to_owned()));
            }
            _ => std::thread::sleep(POLL),
        }
    }
}

/// What the CA says of the question that was not answered as it should be.
async fn why_invalid(order: &mut Order) -> Option<Trouble> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|it| it.error.as_ref()) {
            return Some(Trouble(format!("{name}: {problem}")));
        }
    }
    None
}

/// For the CA to ask its questions, and to make the certificate.
const STEP_TIME_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_secs(1);
