//! The session before its login (RFC 9051 §6.1 and §6.2).

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::answer;
use crate::access::{Access, Arrival, Connection, Entrance, SHUTTING_DOWN};
use crate::auth::{Exchange, Refusal, Step};
use crate::config::Protocol;
use crate::limits::{IMAP_FAULTS_EARLY_MAX, IMAP_LOGINS_REFUSED_MAX};
use crate::mail::Account;
use crate::proto::imap::command::{Command, Tag};
use crate::proto::imap::reader::{Event, Reader};
use crate::proto::imap::response::{
    Code, Condition, PlainCode, write_continuation, write_tagged, write_untagged,
};
use crate::proto::sasl::Mechanism;
use crate::runtime::clock;

/// Serves a client until it has logged in, leaves, goes too far or takes too long.
pub async fn greet(access: Access, connection: Connection, entrance: Rc<Entrance>) {
    let mut stranger = Stranger {
        began_ms: clock::coarse_ms(),
        access,
        connection,
        entrance,
        reader: Reader::default(),
        exchange: None,
        fault_count: 0,
        refused_count: 0,
    };
    let capabilities = stranger.capabilities();
    let text = format!("{} ready", stranger.access.config().hostname);
    let code = Code::Capability(&capabilities);
    write_untagged(Condition::Ok, Some(&code), &text, &mut stranger.connection.out);
    loop {
        match stranger.log_in().await {
            Ok(Login { tag, account }) => {
                let arrival = Arrival::Imap { tag: tag.clone() };
                match stranger.access.settle(stranger.connection, account, arrival).await {
                    Ok(()) => return,
                    Err(back) => stranger.connection = *back,
                }
                let code = Some(PlainCode::Unavailable);
                let text = "Mailboxes cannot be had right now";
                stranger.refuse(&tag, Condition::No, code, text);
            }
            Err(Ending::Broken) => return,
            Err(Ending::Over) => break,
            Err(Ending::Bye(text)) => {
                write_untagged(Condition::Bye, None, text, &mut stranger.connection.out);
                break;
            }
        }
    }
    // The client may be gone already.
    let _ = stranger.connection.close().await;
}

/// A client that nobody knows yet.
struct Stranger {
    access: Access,
    connection: Connection,
    entrance: Rc<Entrance>,
    reader: Reader,
    /// The AUTHENTICATE under way.
    exchange: Option<(Tag, Box<Exchange>)>,
    began_ms: u64,
    fault_count: u32,
    refused_count: u32,
}

/// A command that was right. All that came before it has been answered.
struct Login {
    tag: Tag,
    account: Arc<Account>,
}

enum Ending {
    Broken,
    Over,
    Bye(&'static str),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Interrupted => Ending::Bye(SHUTTING_DOWN),
            io::ErrorKind::TimedOut => Ending::Bye("It took too long to log in"),
            _ => Ending::Broken,
        }
    }
}

impl Stranger {
    /// Goes on up to the next right login.
    async fn log_in(&mut self) -> Result<Login, Ending> {
        loop {
            let (input, out) = self.connection.input_and_out();
            let (taken, event) = self.reader.next(input, out);
            let login = match event {
                Event::NeedInput => {
                    self.connection.consume(taken);
                    self.wait().await?;
                    continue;
                }
                Event::Command { tag, command } => {
                    self.connection.consume(taken);
                    self.on_command(tag, command).await?
                }
                Event::Response(response) => {
                    self.connection.consume(taken);
                    let (tag, mut exchange) = self.exchange.take().expect("a challenge was sent");
                    let step = exchange.step(&response).await;
                    self.on_step(tag, exchange, step)?
                }
                Event::Append(append) => {
                    self.connection.consume(taken);
                    self.reader.refuse_append();
                    self.refuse(&append.tag, Condition::Bad, None, LOG_IN_FIRST);
                    self.on_fault()?;
                    None
                }
                Event::Refused => {
                    self.connection.consume(taken);
                    self.exchange = None;
                    self.on_fault()?;
                    None
                }
                Event::AppendNext(_) | Event::Content(_) | Event::AppendEnd | Event::Done => {
                    unreachable!("nothing of the kind was begun")
                }
            };
            if let Some(login) = login {
                self.connection.flush().await?;
                return Ok(login);
            }
        }
    }

    async fn wait(&mut self) -> Result<(), Ending> {
        let timeout = self.access.config().access.login_timeout;
        let passed_ms = clock::coarse_ms().saturating_sub(self.began_ms);
        let left = timeout.saturating_sub(Duration::from_millis(passed_ms));
        self.connection.flush().await?;
        let access = &self.access;
        self.connection.read(left, || access.is_draining()).await?;
        Ok(())
    }

    async fn on_command(&mut self, tag: Tag, command: Command) -> Result<Option<Login>, Ending> {
        match command {
            Command::Capability => {
                let capabilities = self.capabilities();
                let out = &mut self.connection.out;
                out.extend_from_slice(format!("* CAPABILITY {capabilities}\r\n").as_bytes());
                self.accept(&tag, "Capability completed");
            }
            Command::Noop => self.accept(&tag, "NOOP completed"),
            Command::Id(_) => {
                self.connection.out.extend_from_slice(answer::ID);
                self.accept(&tag, "ID completed");
            }
            Command::Logout => {
                let out = &mut self.connection.out;
                write_untagged(Condition::Bye, None, "Logging out", out);
                self.accept(&tag, "Logout completed");
                return Err(Ending::Over);
            }
            Command::StartTls => self.start_tls(&tag).await?,
            Command::Login { .. } | Command::Authenticate { .. }
                if !self.connection.peer.may_say_password() =>
            {
                let text = "Not before STARTTLS";
                self.refuse(&tag, Condition::No, Some(PlainCode::PrivacyRequired), text);
            }
            Command::Login { name, password } => {
                self.connection.flush().await?;
                let from = (&self.connection.peer, Protocol::Imap);
                let checked = self.access.check_password(from, "LOGIN", (&name, &password)).await;
                return self.on_checked(tag, checked);
            }
            Command::Authenticate { mechanism, initial_response } => {
                return self.authenticate(tag, &mechanism, initial_response).await;
            }
            _ => {
                self.refuse(&tag, Condition::Bad, None, LOG_IN_FIRST);
                self.on_fault()?;
            }
        }
        Ok(None)
    }

    async fn authenticate(
        &mut self,
        tag: Tag,
        mechanism: &str,
        initial_response: Option<Box<str>>,
    ) -> Result<Option<Login>, Ending> {
        let known = Mechanism::from_name(mechanism);
        let Some(known) = known.filter(|known| MECHANISMS.contains(known)) else {
            let code = Some(PlainCode::Cannot);
            self.refuse(&tag, Condition::No, code, "There is no such mechanism");
            return Ok(None);
        };
        self.connection.flush().await?;
        let from = (&self.connection.peer, Protocol::Imap);
        let mut exchange = Box::new(self.access.exchange(from, known));
        let step = exchange.begin(initial_response.as_deref().map(str::as_bytes)).await;
        self.on_step(tag, exchange, step)
    }

    fn on_step(
        &mut self,
        tag: Tag,
        exchange: Box<Exchange>,
        step: Step,
    ) -> Result<Option<Login>, Ending> {
        match step {
            Step::Challenge(base64) => {
                write_continuation(&base64, &mut self.connection.out);
                self.reader.expect_response(tag.clone());
                self.exchange = Some((tag, exchange));
                Ok(None)
            }
            Step::Done(checked) => {
                self.access.count_login(&checked);
                self.on_checked(tag, checked)
            }
        }
    }

    fn on_checked(
        &mut self,
        tag: Tag,
        checked: Result<Arc<Account>, Refusal>,
    ) -> Result<Option<Login>, Ending> {
        let refusal = match checked {
            Ok(account) => return Ok(Some(Login { tag, account })),
            Err(refusal) => refusal,
        };
        let (condition, code) = match refusal {
            Refusal::Credentials => (Condition::No, Some(PlainCode::AuthenticationFailed)),
            Refusal::TooManyFailures { .. } => (Condition::No, Some(PlainCode::Limit)),
            Refusal::Busy => (Condition::No, Some(PlainCode::Unavailable)),
            Refusal::Cancelled | Refusal::Malformed => (Condition::Bad, None),
        };
        self.refuse(&tag, condition, code, &refusal.to_string());
        self.refused_count += 1;
        if self.refused_count >= IMAP_LOGINS_REFUSED_MAX {
            return Err(Ending::Bye("Too many attempts to log in"));
        }
        Ok(None)
    }

    /// Nothing that was said in the clear outlives the handshake (RFC 9051 §6.2.1).
    async fn start_tls(&mut self, tag: &Tag) -> Result<(), Ending> {
        if self.connection.peer.protection.is_some() || !self.access.offers_tls(&self.entrance) {
            self.refuse(tag, Condition::Bad, None, "TLS is on, or not to be had");
            return Ok(());
        }
        self.accept(tag, "Begin TLS");
        self.connection.flush().await?;
        self.reader = Reader::default();
        // Whoever does not agree on TLS hears nothing in the clear.
        self.access.start_tls(&mut self.connection).await.map_err(|_| Ending::Broken)
    }

    /// What the client may do now.
    fn capabilities(&self) -> String {
        let mut capabilities = String::from(answer::CAPABILITIES_EARLY);
        let peer = &self.connection.peer;
        if peer.protection.is_none() && self.access.offers_tls(&self.entrance) {
            capabilities.push_str(" STARTTLS");
        }
        capabilities.push_str(match peer.may_say_password() {
            true => " AUTH=PLAIN AUTH=SCRAM-SHA-256",
            false => " LOGINDISABLED",
        });
        capabilities
    }

    fn on_fault(&mut self) -> Result<(), Ending> {
        self.fault_count += 1;
        match self.fault_count < IMAP_FAULTS_EARLY_MAX {
            true => Ok(()),
            false => Err(Ending::Bye("Too many commands that make no sense")),
        }
    }

    fn accept(&mut self, tag: &Tag, text: &str) {
        write_tagged(tag, Condition::Ok, None, text, &mut self.connection.out);
    }

    fn refuse(&mut self, tag: &Tag, condition: Condition, code: Option<PlainCode>, text: &str) {
        let code = code.map(Code::Plain);
        write_tagged(tag, condition, code.as_ref(), text, &mut self.connection.out);
    }
}

const LOG_IN_FIRST: &str = "Log in first";
/// As `capabilities` names them.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::ScramSha256];
