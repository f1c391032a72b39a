//! Where the mail of domains goes, as far as it was found out: asked once, believed for its time.
//! `Pure.`

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::discovery::Discovery;
use super::wanted::Published;
use crate::config::{NextHop, NextHopProtocol};
use crate::limits::{DISCOVERIES_MAX, DOMAINS_KNOWN_MAX};
use crate::mail::Reply;
use crate::queue::FlowId;
use crate::routing::Place;
use crate::routing::mx::Plan;

/// What is to be found out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Who takes the mail of a domain.
    Mx(Rc<str>),
    /// The same for a domain that a next hop names.
    MxOf(Arc<str>),
    /// The addresses of a host that a next hop names.
    Host { protocol: NextHopProtocol, host: Arc<str>, port: u16 },
}

/// What is known of where mail goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// To this place. To be looked at anew at a moment, in monotonic milliseconds.
    To { place: Place, published: Published, until_ms: u64 },
    /// Nowhere: for good or for now, as the reply says.
    Refused(Reply),
    /// Somebody asks the DNS.
    Asked,
}

/// What is known, and what is being asked.
#[derive(Default)]
pub(super) struct Directory {
    entries: HashMap<Question, Entry>,
    plans: HashMap<Place, Known>,
    /// Questions that wait for others to end.
    waiting: VecDeque<Question>,
    asking_count: usize,
    /// Counts reloads: what was asked before counts no more.
    epoch: u64,
}

struct Entry {
    found: Option<Found>,
    /// Monotonic milliseconds since which it is being asked.
    asked_since_ms: Option<u64>,
    /// It is not asked before, monotonic milliseconds: the DNS failed a moment ago.
    again_ms: u64,
    /// Flows that wait for that.
    flows: Vec<FlowId>,
    /// When flows waited, monotonic milliseconds; the last few times.
    waits: VecDeque<(u64, u64)>,
}

struct Found {
    result: Result<Place, Reply>,
    /// The hosts are the domain's for certain.
    is_vouched_for: bool,
    published: Published,
    until_ms: u64,
}

/// The hosts of a place, and until when that holds in monotonic milliseconds.
#[derive(Clone)]
pub(super) struct Known {
    pub plan: Rc<Plan>,
    pub until_ms: u64,
}

/// A question that may go out now; `answer` is to be told what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asking {
    pub question: Question,
    epoch: u64,
}

impl Question {
    /// What a next hop needs to know for mail to a domain in lower case; `None` where it is known.
    pub fn of(next_hop: &NextHop, domain: &Rc<str>) -> Option<Self> {
        Some(match next_hop {
            NextHop::Address { .. }
            | NextHop::Socket(_)
            | NextHop::Maildir(_)
            | NextHop::Mailboxes => return None,
            NextHop::Mx(None) => Question::Mx(domain.clone()),
            NextHop::Mx(Some(domain)) => Question::MxOf(domain.clone()),
            NextHop::Host { protocol, host, port } => {
                Question::Host { protocol: *protocol, host: host.clone(), port: *port }
            }
        })
    }

    /// The name that the DNS is asked for.
    pub fn name(&self) -> &str {
        match self {
            Question::Mx(domain) => domain,
            Question::MxOf(domain) => domain,
            Question::Host { host, .. } => host,
        }
    }

    /// What a plan that was found is the plan of.
    fn place(&self, plan: &Plan) -> Place {
        match self {
            Question::Mx(_) | Question::MxOf(_) => {
                Place::Exchanges(plan.roll_up_key.as_str().into())
            }
            Question::Host { protocol, host, port } => {
                Place::Host { protocol: *protocol, host: host.clone(), port: *port }
            }
        }
    }

    /// Whether a plan cannot have been made up by somebody between us and the DNS: it was
    /// authenticated, or a certificate for the name in question is all that counts.
    fn vouches_for(&self, plan: &Plan) -> bool {
        let is_itself = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(self.name());
        plan.authenticated || plan.hosts.iter().all(|host| is_itself(&host.name))
    }

    /// A name in the configuration that leads nowhere is a mistake there: mail waits for its end,
    /// it does not fail (RFC 3463 X.3.5).
    fn refusal(&self, reply: Reply) -> Reply {
        match self {
            Question::MxOf(_) | Question::Host { .. } if reply.is_permanent() => {
                let text = format!("next hop {}: {}", self.name(), reply.text);
                Reply::with_text(451, crate::mail::status::BAD_CONFIGURATION, text)
            }
            _ => reply,
        }
    }
}

impl Directory {
    /// What is known. Where nothing is, the flow waits for the answer, and what is past its time is
    /// asked anew while it still holds for a while: see `poll_asking`.
    pub fn find(&mut self, question: &Question, flow: Option<FlowId>, now_ms: u64) -> Answer {
        if self.entries.len() >= DOMAINS_KNOWN_MAX && !self.entries.contains_key(question) {
            self.make_room(now_ms);
        }
        let entry = self.entries.entry(question.clone()).or_insert_with(Entry::new);
        let is_past = entry.found.as_ref().is_none_or(|found| found.until_ms <= now_ms);
        if is_past && entry.asked_since_ms.is_none() && now_ms >= entry.again_ms {
            entry.asked_since_ms = Some(now_ms);
            self.waiting.push_back(question.clone());
        }
        match &entry.found {
            Some(Found { result: Ok(place), published, until_ms, .. })
                if now_ms < until_ms + GRACE_MS =>
            {
                let until_ms = (*until_ms).max(now_ms + AGAIN_MS);
                Answer::To { place: place.clone(), published: published.clone(), until_ms }
            }
            Some(Found { result: Err(reply), until_ms, .. }) if now_ms < *until_ms => {
                Answer::Refused(reply.clone())
            }
            _ => {
                entry.flows.extend(flow);
                Answer::Asked
            }
        }
    }

    /// The place that mail goes to and what was found beside it, if that is known. Asks nobody.
    pub fn place(&self, question: &Question) -> Option<(Place, Published)> {
        let found = self.entries.get(question)?.found.as_ref()?;
        Some((found.result.as_ref().ok()?.clone(), found.published.clone()))
    }

    /// Whether the place is the domain's for certain: no, where it is not known.
    pub fn is_vouched_for(&self, question: &Question) -> bool {
        let found = self.entries.get(question).and_then(|entry| entry.found.as_ref());
        found.is_some_and(|found| found.is_vouched_for)
    }

    /// What is known of a question, and until when in monotonic milliseconds.
    pub fn known(&self, question: &Question) -> Option<(&Result<Place, Reply>, &Published, u64)> {
        let found = self.entries.get(question)?.found.as_ref()?;
        Some((&found.result, &found.published, found.until_ms))
    }

    /// When flows waited for answers to a question, monotonic milliseconds.
    pub fn waits(&self, question: &Question, now_ms: u64) -> Vec<(u64, u64)> {
        let Some(entry) = self.entries.get(question) else { return Vec::new() };
        let now = entry.asked_since_ms.filter(|_| !entry.flows.is_empty());
        let now = now.map(|since_ms| (since_ms, now_ms));
        entry.waits.iter().copied().chain(now).collect()
    }

    /// The hosts of a place.
    pub fn plan(&self, place: &Place) -> Option<&Known> {
        self.plans.get(place)
    }

    /// The next question to ask, if one may go out now.
    pub fn poll_asking(&mut self) -> Option<Asking> {
        if self.asking_count == DISCOVERIES_MAX {
            return None;
        }
        let question = self.waiting.pop_front()?;
        self.asking_count += 1;
        Some(Asking { question, epoch: self.epoch })
    }

    /// Takes what came of a question. Returns the flows that waited for it: they know where to go
    /// now, or why not. `retry_wait` is how long a failure of the DNS is believed.
    pub fn answer(
        &mut self,
        asking: &Asking,
        discovery: Discovery,
        retry_wait: Duration,
        now_ms: u64,
    ) -> Vec<FlowId> {
        if asking.epoch != self.epoch {
            return Vec::new();
        }
        self.asking_count -= 1;
        let question = &asking.question;
        let Some(entry) = self.entries.get_mut(question) else { return Vec::new() };
        let ms = |length: Duration| length.as_millis().min(u128::from(u64::MAX / 4)) as u64;
        let ttl_ms = ms(discovery.ttl).clamp(TTL_MS_MIN, TTL_MS_MAX);
        let published = discovery.published;
        let result = discovery.result.map_err(|reply| question.refusal(reply));
        let found = match result {
            Ok(plan) => {
                let (place, is_vouched_for) = (question.place(&plan), question.vouches_for(&plan));
                let until_ms = now_ms + ttl_ms;
                self.plans.insert(place.clone(), Known { plan: Rc::new(plan), until_ms });
                let is_vouched_for = is_vouched_for || published.is_enforced();
                Found { result: Ok(place), is_vouched_for, published, until_ms }
            }
            Err(reply) => {
                let ms = if reply.is_permanent() { ttl_ms } else { ms(retry_wait) };
                let (is_vouched_for, until_ms) = (false, now_ms + ms);
                Found { result: Err(reply), is_vouched_for, published, until_ms }
            }
        };
        let holds = |before: &Found| before.result.is_ok() && now_ms < before.until_ms + GRACE_MS;
        if found.result.as_ref().is_err_and(Reply::is_transient)
            && entry.found.as_ref().is_some_and(holds)
        {
            // What was found before is used a while longer.
            entry.again_ms = now_ms + AGAIN_MS;
        } else {
            entry.found = Some(found);
        }
        let since_ms = entry.asked_since_ms.take().unwrap_or(now_ms);
        let flows = std::mem::take(&mut entry.flows);
        if !flows.is_empty() {
            entry.waits.push_back((since_ms, now_ms));
            if entry.waits.len() > WAITS_MAX {
                entry.waits.pop_front();
            }
        }
        flows
    }

    /// Forgets what is over, and the hosts of places that `is_used` does not know.
    pub fn sweep(&mut self, now_ms: u64, is_used: impl Fn(&Place) -> bool) {
        self.entries.retain(|_, entry| entry.is_kept(now_ms));
        self.plans.retain(|place, known| now_ms < known.until_ms + GRACE_MS || is_used(place));
    }

    /// What was refused is to be asked anew.
    pub fn forget_refusals(&mut self) {
        for entry in self.entries.values_mut() {
            entry.again_ms = 0;
            if entry.found.as_ref().is_some_and(|found| found.result.is_err()) {
                entry.found = None;
            }
        }
    }

    /// Domains of which something is remembered.
    pub fn domain_count(&self) -> usize {
        self.entries.len()
    }

    /// All is to be asked anew, also what is being asked. Flows that wait are forgotten.
    pub fn clear(&mut self) {
        let epoch = self.epoch + 1;
        // The hosts of connections that are to be opened are needed until the answers are there.
        let plans = std::mem::take(&mut self.plans);
        *self = Self { epoch, plans, ..Self::default() };
    }

    fn make_room(&mut self, now_ms: u64) {
        self.entries.retain(|_, entry| entry.is_kept(now_ms));
        if self.entries.len() >= DOMAINS_KNOWN_MAX {
            self.entries.retain(|_, entry| entry.asked_since_ms.is_some());
        }
    }
}

impl Entry {
    fn new() -> Self {
        let (flows, waits) = (Vec::new(), VecDeque::new());
        Self { found: None, asked_since_ms: None, again_ms: 0, flows, waits }
    }

    fn is_kept(&self, now_ms: u64) -> bool {
        let holds = |found: &Found| now_ms < found.until_ms + GRACE_MS;
        self.asked_since_ms.is_some() || self.found.as_ref().is_some_and(holds)
    }
}

/// A discovery is believed at least and at most so long, whatever the DNS says: mail need not
/// follow faster, and a host that was given up is noticed within a day.
const TTL_MS_MIN: u64 = 30_000;
const TTL_MS_MAX: u64 = 86_400_000;
/// How long what is past its time is used while it is asked anew.
const GRACE_MS: u64 = 60_000;
/// When what is past its time is looked at again, and asked again after a failure.
const AGAIN_MS: u64 = 5_000;
const WAITS_MAX: usize = 4;

#[cfg(test)]
mod tests;
