//! MTA-STS policies (RFC 8461): who has them, how they are had, and when they are had anew.
//!
//! One thread keeps those of the process and speaks to web servers through `web`; shards ask it
//! when they find out where the mail of a domain goes, and remember its answer with that.

mod file;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::dns::Resolver;
use crate::event::notice;
use crate::limits::{STS_FAILURES_MAX, STS_POLICIES_MAX, STS_POLICY_BYTES_MAX};
use crate::mail::TlsFailure;
use crate::proto::dns::{Kind, Name, Record};
use crate::proto::mta_sts::{Mode, Policy, announced_id};
use crate::runtime::inbox::{InboxSender, inbox};
use crate::runtime::sync::join_all;
use crate::runtime::timer::{self, Deadline};
use crate::runtime::{clock, task, thread, whole_file};
use crate::web::{Failure, Method, Request, Response, Web};

pub use file::{Kept, read as read_file, write as write_file};

/// A policy, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StsPolicy {
    /// A-labels, lower case.
    pub domain: Box<str>,
    /// Under which it was announced.
    pub id: Box<str>,
    pub policy: Policy,
}

impl StsPolicy {
    /// Why a host gets no mail.
    pub fn exclusion(&self, host: &str) -> String {
        format!("The MTA-STS policy of {} does not name its MX host {host}", self.domain)
    }
}

/// A policy that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsFailure {
    pub failure: TlsFailure,
    pub reason: Box<str>,
}

/// What holds for the mail of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StsFound {
    /// Never of mode `none`.
    pub policy: Option<Arc<StsPolicy>>,
    /// A policy was announced and could not be had just now.
    pub failure: Option<StsFailure>,
    /// How long that holds.
    pub ttl: Duration,
}

/// The way to the policies of the process, for each shard. Clones are the same.
#[derive(Clone)]
pub struct Policies {
    /// Bounded by what shards find out at the same time.
    words: Sender<Word>,
}

/// What the thread is told.
enum Word {
    /// What is known of a domain?
    Find { domain: Box<str>, answer: InboxSender<Option<Kept>> },
    /// It is to be had from the domain's web server.
    /// Nothing is answered where that cannot even be tried.
    Fetch { fetch: Box<Fetch>, answer: InboxSender<Option<Fetched>> },
    /// That is what came of it.
    Done { domain: Box<str>, id: Box<str>, result: Result<Response, Failure> },
    /// The file is written, or is not.
    Written(io::Result<()>),
}

type Fetched = Result<Kept, StsFailure>;
/// A domain, and the id under which it announces its policy.
type Announced = (Box<str>, Box<str>);
type Waiting = Vec<InboxSender<Option<Fetched>>>;

/// Where a policy is to be had.
struct Fetch {
    domain: Box<str>,
    id: Box<str>,
    /// Of the web server, which has its name by the domain's.
    addresses: Vec<SocketAddr>,
    tls: Arc<ClientConfig>,
}

/// Nobody can say now: too much is being had, or the process is about to end.
#[derive(Debug)]
pub(super) struct Silent;

impl Policies {
    /// Reads the file in `data_dir` and starts the thread that keeps what is had from now on. A
    /// file that cannot be read is reported on standard error, and forgotten.
    pub fn start(data_dir: &Path, web: Web) -> io::Result<Policies> {
        let path = data_dir.join(FILE_NAME);
        let kept = restore(&path);
        let (words, heard) = channel();
        let policies = Policies { words };
        let table = Table {
            path,
            web,
            words: policies.words.clone(),
            kept,
            failures: HashMap::new(),
            under_way: HashMap::new(),
            is_changed: false,
            is_writing: false,
            is_failing: false,
        };
        thread::spawn("mta-sts", None, move || table.run(&heard))?;
        Ok(policies)
    }

    async fn ask<T: Send>(
        &self,
        make: impl FnOnce(InboxSender<T>) -> Word,
        time_max: Duration,
    ) -> Result<T, Silent> {
        let (sender, mut answer) = inbox(1);
        self.words.send(make(sender)).map_err(|_| Silent)?;
        let deadline = Deadline::default();
        timer::timeout(&deadline, time_max, answer.recv()).await.map_err(|timer::Elapsed| Silent)
    }

    /// What holds for mail to a domain; its web server is asked where a policy is announced that is
    /// not known. Suspends for the DNS, and at most for `FETCH_TIME_MAX` for the web server.
    pub(super) async fn of_domain(
        &self,
        domain: &Name,
        resolver: &Resolver,
        port: u16,
        tls: Arc<ClientConfig>,
    ) -> Result<StsFound, Silent> {
        let (announced, ttl) = match domain.prefixed("_mta-sts") {
            Some(name) => {
                let found = resolver.lookup(&name, Kind::Txt).await;
                let records = found.result.as_ref().map(|answer| answer.records.as_slice());
                (announced_id(records.unwrap_or_default()).map(Box::<str>::from), found.ttl)
            }
            None => (None, Duration::MAX),
        };
        let find = |answer| Word::Find { domain: domain.as_str().into(), answer };
        let kept = self.ask(find, FIND_TIME_MAX).await?;
        let now_s = clock::unix_ms() / 1000;
        let step = next_step(kept, announced.as_deref(), now_s);
        let (kept, id) = match (step, announced) {
            (Step::Use(kept), _) => return Ok(found(kept, None, ttl, now_s)),
            (Step::Refresh(kept), Some(id)) => {
                let (policies, resolver) = (self.clone(), resolver.clone());
                let domain = domain.clone();
                task::spawn(async move {
                    // What is had is there the next time; what is not is tried again by then.
                    let _ = policies.fetch(&domain, id, &resolver, port, tls).await;
                });
                return Ok(found(Some(kept), None, ttl, now_s));
            }
            (Step::Fetch(kept), Some(id)) => (kept, id),
            (Step::Refresh(_) | Step::Fetch(_), None) => unreachable!("nothing was announced"),
        };
        match self.fetch(domain, id, resolver, port, tls).await? {
            Ok(fetched) => Ok(found(Some(fetched), None, ttl, now_s)),
            Err(failure) => Ok(found(kept, Some(failure), ttl.min(FAILED_FOR), now_s)),
        }
    }

    async fn fetch(
        &self,
        domain: &Name,
        id: Box<str>,
        resolver: &Resolver,
        port: u16,
        tls: Arc<ClientConfig>,
    ) -> Result<Fetched, Silent> {
        let addresses = match web_server(domain, resolver, port).await {
            Ok(addresses) => addresses,
            Err(failure) => return Ok(Err(failure)),
        };
        let fetch = Box::new(Fetch { domain: domain.as_str().into(), id, addresses, tls });
        let fetch = |answer| Word::Fetch { fetch, answer };
        self.ask(fetch, FETCH_TIME_MAX + FIND_TIME_MAX).await?.ok_or(Silent)
    }
}

/// Asks the web server of a domain for its policy, whatever is known or announced.
///
/// Suspends for the DNS, and at most for half a minute for the web server.
pub async fn look(
    domain: &Name,
    resolver: &Resolver,
    port: u16,
    tls: Arc<ClientConfig>,
) -> Result<Policy, StsFailure> {
    let addresses = web_server(domain, resolver, port).await?;
    let request = request(domain.as_str(), addresses, tls)?;
    let result = Web::default().ask(request).await;
    policy_of(result).unwrap_or_else(|| Err(no_answer("it was not asked")))
}

/// Where the web server with the policy of a domain is.
async fn web_server(
    domain: &Name,
    resolver: &Resolver,
    port: u16,
) -> Result<Vec<SocketAddr>, StsFailure> {
    let host = domain.prefixed("mta-sts");
    let host = host.ok_or_else(|| no_answer("the name of its web server is too long"))?;
    let kinds = [Kind::Aaaa, Kind::A];
    let found = join_all(kinds.map(|kind| resolver.lookup(&host, kind)).into()).await;
    let addresses = found.iter().filter_map(|it| it.result.as_ref().ok());
    let addresses = addresses.flat_map(|answer| &answer.records).filter_map(|it| match it {
        Record::Address(address) => Some(SocketAddr::new(*address, port)),
        _ => None,
    });
    let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
    match addresses.is_empty() {
        true => Err(no_answer("its web server has no address")),
        false => Ok(addresses),
    }
}

fn request(
    domain: &str,
    addresses: Vec<SocketAddr>,
    tls: Arc<ClientConfig>,
) -> Result<Request, StsFailure> {
    let host = ServerName::try_from(format!("mta-sts.{domain}"));
    Ok(Request {
        method: Method::Get,
        host: host.map_err(|_| no_answer("its web server has no usable name"))?,
        addresses,
        path: "/.well-known/mta-sts.txt".to_owned(),
        tls,
        body_bytes_max: STS_POLICY_BYTES_MAX,
        time_max: FETCH_TIME_MAX,
    })
}

/// What is to be done for a domain.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// That is what holds.
    Use(Option<Kept>),
    /// The same, and it is to be had anew by the way.
    Refresh(Kept),
    /// What is announced is to be had; what is known holds where that fails.
    Fetch(Option<Kept>),
}

/// A policy holds for its time, whatever became of its announcement (RFC 8461 §5.1); it is had
/// anew once a day, at the latest in the middle of its time, so that nobody can wait for its end.
fn next_step(kept: Option<Kept>, announced: Option<&str>, now_s: u64) -> Step {
    let kept = kept.filter(|kept| now_s < kept.ends_s());
    match (kept, announced) {
        (kept, None) => Step::Use(kept),
        (Some(kept), Some(id)) if *kept.policy.id == *id => {
            let max_age_s = u64::from(kept.policy.policy.max_age_s);
            let is_old = now_s >= kept.fetched_s + REFRESH_AFTER_S.min(max_age_s / 2);
            if is_old { Step::Refresh(kept) } else { Step::Use(Some(kept)) }
        }
        (kept, Some(_)) => Step::Fetch(kept),
    }
}

fn found(kept: Option<Kept>, failure: Option<StsFailure>, ttl: Duration, now_s: u64) -> StsFound {
    let left = kept.as_ref().map_or(u64::MAX, |kept| kept.ends_s().saturating_sub(now_s));
    let policy = kept.map(|kept| kept.policy).filter(|it| it.policy.mode != Mode::None);
    StsFound { policy, failure, ttl: ttl.min(Duration::from_secs(left)) }
}

/// What the thread keeps.
struct Table {
    path: PathBuf,
    web: Web,
    /// For those who tell it what came of something.
    words: Sender<Word>,
    kept: HashMap<Box<str>, Kept>,
    /// By domain: the id of what could not be had, until when it is not tried again, in monotonic
    /// milliseconds, and why.
    failures: HashMap<Box<str>, (Box<str>, u64, StsFailure)>,
    /// Who waits for what is being had.
    under_way: HashMap<Announced, Waiting>,
    is_changed: bool,
    is_writing: bool,
    is_failing: bool,
}

impl Table {
    /// For the life of the process.
    fn run(mut self, heard: &Receiver<Word>) {
        while let Ok(word) = heard.recv() {
            match word {
                Word::Find { domain, answer } => {
                    // Whoever asked may have gone, here and below.
                    let _ = answer.try_send(self.kept.get(&domain).cloned());
                }
                Word::Fetch { fetch, answer } => self.on_fetch(*fetch, answer),
                Word::Done { domain, id, result } => self.on_done(domain, id, result),
                Word::Written(result) => self.on_written(result),
            }
            self.write_what_changed();
        }
    }

    fn on_fetch(&mut self, fetch: Fetch, answer: InboxSender<Option<Fetched>>) {
        let Fetch { domain, id, addresses, tls } = fetch;
        if let Some((failed_id, until_ms, failure)) = self.failures.get(&domain)
            && *failed_id == id
            && clock::monotonic_ms() < *until_ms
        {
            let _ = answer.try_send(Some(Err(failure.clone())));
            return;
        }
        let key = (domain, id);
        if let Some(waiting) = self.under_way.get_mut(&key) {
            waiting.push(answer);
            return;
        }
        let request = match request(&key.0, addresses, tls) {
            Ok(request) => request,
            Err(failure) => {
                let _ = answer.try_send(Some(Err(failure)));
                return;
            }
        };
        self.under_way.insert(key.clone(), vec![answer]);
        let words = self.words.clone();
        self.web.submit(request, move |result| {
            let (domain, id) = key;
            let _ = words.send(Word::Done { domain, id, result });
        });
    }

    fn on_done(&mut self, domain: Box<str>, id: Box<str>, result: Result<Response, Failure>) {
        let key = (domain, id);
        let waiting = self.under_way.remove(&key).unwrap_or_default();
        let (domain, id) = key;
        let fetched = match policy_of(result) {
            // That is no fault of the domain's.
            None => None,
            Some(Ok(policy)) => {
                let fetched_s = clock::unix_ms() / 1000;
                let policy = StsPolicy { domain: domain.clone(), id, policy }.into();
                let kept = Kept { policy, fetched_s };
                self.keep(kept.clone());
                self.failures.remove(&domain);
                Some(Ok(kept))
            }
            Some(Err(failure)) => {
                if self.failures.len() >= STS_FAILURES_MAX {
                    self.failures.clear();
                }
                let until_ms = clock::monotonic_ms() + FAILED_FOR.as_millis() as u64;
                self.failures.insert(domain, (id, until_ms, failure.clone()));
                Some(Err(failure))
            }
        };
        for answer in waiting {
            let _ = answer.try_send(fetched.clone());
        }
    }

    fn keep(&mut self, kept: Kept) {
        let domain = &kept.policy.domain;
        if self.kept.len() >= STS_POLICIES_MAX && !self.kept.contains_key(domain) {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.ends_s());
            let first = first.map(|(domain, _)| domain.clone());
            first.and_then(|domain| self.kept.remove(&domain));
        }
        self.kept.insert(domain.clone(), kept);
        self.is_changed = true;
    }

    /// On a thread of its own, so that a slow disk keeps nobody waiting; what changes meanwhile is
    /// written after it.
    fn write_what_changed(&mut self) {
        if !self.is_changed || self.is_writing {
            return;
        }
        let now_s = clock::unix_ms() / 1000;
        self.kept.retain(|_, kept| now_s < kept.ends_s());
        let text = write_file(self.kept.values());
        let (path, words) = (self.path.clone(), self.words.clone());
        let started = thread::spawn("mta-sts-file", None, move || {
            let _ = words.send(Word::Written(whole_file::replace(&path, text.as_bytes())));
        });
        (self.is_writing, self.is_changed) = (started.is_ok(), started.is_err());
    }

    fn on_written(&mut self, result: io::Result<()>) {
        self.is_writing = false;
        if let Err(error) = &result
            && !self.is_failing
        {
            notice!(
                "ringpost: cannot write {}: {error}: a restart forgets MTA-STS policies",
                self.path.display()
            );
        }
        self.is_failing = result.is_err();
    }
}

/// What a web server's answer holds (RFC 8461 §3.3); `None` where it was not asked.
fn policy_of(result: Result<Response, Failure>) -> Option<Result<Policy, StsFailure>> {
    let error = match result {
        Ok(response) => return Some(read_response(&response)),
        Err(Failure::Busy) => return None,
        Err(error) => error,
    };
    let failure = match error {
        Failure::Certificate(_) => TlsFailure::StsWebpkiInvalid,
        Failure::TooLarge => TlsFailure::StsPolicyInvalid,
        _ => TlsFailure::StsPolicyFetchError,
    };
    Some(Err(StsFailure { failure, reason: error.to_string().into() }))
}

fn read_response(response: &Response) -> Result<Policy, StsFailure> {
    let failed = |failure, reason: String| StsFailure { failure, reason: reason.into() };
    if response.status != 200 {
        let reason = format!("HTTP status {}", response.status);
        return Err(failed(TlsFailure::StsPolicyFetchError, reason));
    }
    let media_type = response.content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("text/plain") {
        let reason = format!("its media type is {media_type:?}, not \"text/plain\"");
        return Err(failed(TlsFailure::StsPolicyInvalid, reason));
    }
    let policy = Policy::parse(&response.body);
    policy.map_err(|error| failed(TlsFailure::StsPolicyInvalid, error.to_string()))
}

fn no_answer(reason: &str) -> StsFailure {
    StsFailure { failure: TlsFailure::StsPolicyFetchError, reason: reason.into() }
}

fn restore(path: &Path) -> HashMap<Box<str>, Kept> {
    let problem = match fs::read_to_string(path) {
        Ok(text) => match read_file(&text) {
            Ok(kept) => {
                let now_s = clock::unix_ms() / 1000;
                let kept = kept.into_iter().filter(|kept| now_s < kept.ends_s());
                let kept = kept.take(STS_POLICIES_MAX);
                return kept.map(|kept| (kept.policy.domain.clone(), kept)).collect();
            }
            Err(problem) => problem,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return HashMap::new(),
        Err(error) => error.to_string(),
    };
    notice!(
        "ringpost: {}: {problem}: no MTA-STS policy is remembered; they are asked for anew",
        path.display()
    );
    HashMap::new()
}

const FILE_NAME: &str = "mta-sts.json";
/// The thread looks into a table.
const FIND_TIME_MAX: Duration = Duration::from_secs(5);
/// How long mail waits for a policy; RFC 8461 §3.3 suggests a minute.
const FETCH_TIME_MAX: Duration = Duration::from_secs(30);
/// What could not be had is not tried again for so long (RFC 8461 §3.3).
const FAILED_FOR: Duration = Duration::from_secs(300);
const REFRESH_AFTER_S: u64 = 86_400;
/// Addresses of a web server that are tried.
const ADDRESSES_MAX: usize = 4;

#[cfg(test)]
mod tests;
