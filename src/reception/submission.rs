//! Clients that log in to send their mail (RFC 6409): who they are, and what they may say they are.

use std::sync::Arc;

use super::{Inner, Terms};
use crate::auth::{self, Authenticator, Exchange, Origin, Realm, Step};
use crate::config::Protocol;
use crate::mail::{Account, Accounts, AddressRef, QueueId, Reply, status};
use crate::proto::message::date::write_date;
use crate::proto::sasl::Mechanism;
use crate::routing::local::Local;

/// What a session knows of its client.
#[derive(Default)]
pub(super) struct Submission {
    /// AUTH under way.
    exchange: Option<Box<Exchange>>,
    /// Once the client has logged in.
    pub account: Option<Arc<Account>>,
}

/// What a client says of who it is.
pub(super) enum Said {
    Auth { mechanism: Mechanism, initial_response: Option<Box<[u8]>> },
    Response(Box<[u8]>),
}

/// What follows.
pub(super) enum Next {
    /// A challenge, base64.
    Challenge(String),
    /// The answer to AUTH.
    Answer(Reply),
}

impl Submission {
    /// Whether the client has logged in, and the account is gone or has another password since.
    pub fn is_over(&self, inner: &Inner) -> bool {
        self.account.as_ref().is_some_and(|account| inner.accounts.borrow().is_over(account))
    }

    /// Goes on with AUTH. Suspends while a password is checked.
    pub async fn go_on(
        &mut self,
        inner: &Inner,
        terms: &Terms,
        client: std::net::IpAddr,
        said: Said,
    ) -> Next {
        let step = match said {
            Said::Auth { mechanism, initial_response } => {
                let domain = terms.config.mailboxes.domains.first().map(|it| it.as_str().into());
                let realm = Realm { accounts: inner.accounts.borrow().clone(), domain };
                let authenticator: &Authenticator = &inner.authenticator;
                let format = terms.config.log.format;
                let origin = Origin { client, protocol: Protocol::Submission, format };
                let exchange = Exchange::new(authenticator, &realm, origin, mechanism);
                let exchange = self.exchange.insert(Box::new(exchange));
                exchange.begin(initial_response.as_deref()).await
            }
            Said::Response(response) => {
                let exchange = self.exchange.as_mut().expect("a challenge was sent");
                exchange.step(&response).await
            }
        };
        let checked = match step {
            Step::Challenge(base64) => return Next::Challenge(base64),
            Step::Done(checked) => checked,
        };
        self.exchange = None;
        let numbers = &inner.metrics.reception;
        match checked {
            Ok(account) => {
                numbers.logins.add(1);
                self.account = Some(account);
                Next::Answer(WELCOME)
            }
            Err(refusal) => {
                match refusal {
                    auth::Refusal::Credentials => numbers.logins_refused.add(1),
                    auth::Refusal::TooManyFailures { .. } => numbers.logins_limited.add(1),
                    auth::Refusal::Busy | auth::Refusal::Cancelled | auth::Refusal::Malformed => {}
                }
                Next::Answer(answer(refusal))
            }
        }
    }
}

fn answer(refusal: auth::Refusal) -> Reply {
    match refusal {
        auth::Refusal::Credentials => {
            Reply::new(535, status::WRONG_CREDENTIALS, "Wrong name or password")
        }
        auth::Refusal::TooManyFailures { .. } | auth::Refusal::Busy => {
            Reply::with_text(454, status::AUTHENTICATION_FAILED_FOR_NOW, refusal.to_string())
        }
        auth::Refusal::Cancelled => {
            Reply::new(501, status::AUTHENTICATION_REQUIRED, "Authentication was given up")
        }
        auth::Refusal::Malformed => {
            Reply::new(501, status::SYNTAX_ERROR, "Not what the mechanism says")
        }
    }
}

/// Whether mail of an account may have this reverse-path: its name, with a detail or without, or an
/// alias that leads to it alone. The null one may be everybody's: reports on reading have it (RFC
/// 8098 §3).
pub(super) fn may_say(
    local: &Local,
    accounts: &Accounts,
    account: &Account,
    reverse_path: Option<AddressRef<'_>>,
) -> bool {
    let Some(reverse_path) = reverse_path else { return true };
    match local.resolve(accounts, reverse_path.as_str()) {
        Some(Ok(targets)) => match targets.as_slice() {
            [only] => only.account.as_ref().is_some_and(|it| it.name == account.name),
            _ => false,
        },
        _ => false,
    }
}

/// Header fields that a message has to have and does not (RFC 6409 §8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub date: bool,
    pub message_id: bool,
}

impl Missing {
    /// Appends the fields.
    pub fn write(self, unix_ms: u64, id: QueueId, hostname: &str, out: &mut Vec<u8>) {
        if self.date {
            out.extend_from_slice(b"Date: ");
            write_date(unix_ms, out);
            out.extend_from_slice(b"\r\n");
        }
        if self.message_id {
            let field = format!("Message-ID: <{id}.{unix_ms}@{hostname}>\r\n");
            out.extend_from_slice(field.as_bytes());
        }
    }
}

const WELCOME: Reply = Reply::new(235, status::AUTHENTICATED, "Authenticated");
pub(super) const NOT_YOURS: Reply = Reply::new(
    550,
    status::DELIVERY_NOT_AUTHORIZED,
    "The reverse-path does not belong to the account that is logged in",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Alias, Config};
    use crate::mail::Utf8;

    #[test]
    fn a_reverse_path_is_of_the_account_or_leads_to_it_alone() {
        let mut config = Config::embedded();
        config.mailboxes.domains = vec!["a.test".into()];
        let alias = |address: &str, to: &[&str]| Alias {
            address: address.into(),
            to: to.iter().map(|it| (*it).into()).collect(),
        };
        config.aliases = vec![
            alias("sales@a.test", &["ann@a.test"]),
            alias("all@a.test", &["ann@a.test", "bob@a.test"]),
            alias("out@a.test", &["ann@far.test"]),
        ];
        let local = Local::new(&config);
        let account = |(id, name): (u64, &str)| Account {
            name: name.into(),
            id,
            partition: 0,
            secret: None,
            revision: 0,
        };
        let both = [(1, "ann@a.test"), (2, "bob@a.test")];
        let accounts: Accounts = both.into_iter().map(account).collect();
        let ann = account(both[0]);
        let check = |path: &str, expected: bool| {
            let parsed = AddressRef::parse(path.as_bytes(), Utf8::Refused).expect("an address");
            assert_eq!(may_say(&local, &accounts, &ann, Some(parsed)), expected, "{path}");
        };
        for own in ["ann@a.test", "Ann@A.test", "ann+news@a.test", "\"ann\"@a.test"] {
            check(own, true);
        }
        check("sales@a.test", true);
        check("sales+x@a.test", true);
        for other in ["bob@a.test", "all@a.test", "out@a.test", "nobody@a.test", "ann@far.test"] {
            check(other, false);
        }
        assert!(may_say(&local, &accounts, &ann, None));
    }

    #[test]
    fn what_is_missing_is_added() {
        let id = QueueId { node: 0, shard: 1, message: 33 };
        let check = |missing: Missing, expected: &str| {
            let mut out = Vec::new();
            missing.write(1000, id, "mx.test", &mut out);
            assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
        };
        check(Missing::default(), "");
        check(
            Missing { date: true, message_id: false },
            "Date: Thu, 1 Jan 1970 00:00:01 +0000\r\n",
        );
        check(Missing { date: false, message_id: true }, "Message-ID: <0.1.11.1000@mx.test>\r\n");
    }
}
