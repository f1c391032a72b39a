//! Who takes ready tasks to the next hops: what delivery does, without its sockets.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use ringpost_sim::Bug;
use ringpost_sim::config::NextHop;
use ringpost_sim::delivery::lease::cell::Kind;
use ringpost_sim::delivery::lease::{Leases, SiteKey, SiteLease, Token};
use ringpost_sim::mail::{
    Envelope, EnvelopeFlags, Outcome, Recipient, RecipientOutcome, Reply, ReplyClass, status,
};
use ringpost_sim::queue::ledger::{NoLine, Waiting};
use ringpost_sim::queue::{
    Announcement, Attempt, Flow, LineId, Message, Prepared, Queue, Remote, Sites, Task, audit,
};
use ringpost_sim::runtime::{clock, executor, task, timer};

use super::ledger::{ONWARD, leads_on};
use super::world::{Event, Mood, World};
use crate::peers::Time;
use crate::truth::ensure;

/// Delivery of one shard.
pub struct Relay {
    pub world: Rc<World>,
    pub shard: usize,
    pub queue: Queue,
    pub leases: Leases,
    sites: Vec<Site>,
}

/// A next hop as this shard sees it.
struct Site {
    line: LineId,
    lease: Rc<SiteLease>,
    connections: Cell<usize>,
    /// It is left alone until then, in microseconds.
    alone_until: Cell<Time>,
}

/// A task, and the lease under which it may go.
struct Work {
    task: Task,
    lease: Option<Token>,
}

/// What a next hop says to a message.
struct Answer {
    /// One for each recipient; none where the connection breaks first.
    replies: Option<Vec<Reply>>,
    /// Recipients, by their position, for which it takes the message.
    taken: Vec<usize>,
    /// It has seen the end of data.
    has_end: bool,
}

impl Relay {
    pub fn start(world: Rc<World>, shard: usize, queue: Queue, leases: Leases) -> Rc<Relay> {
        let site = |site: &super::world::Site| Site {
            line: queue.open_line(),
            lease: leases.of_site(&SiteKey { hop: site.hop(), source: None }),
            connections: Cell::new(0),
            alone_until: Cell::new(0),
        };
        let sites = world.sites.iter().map(site).collect();
        let relay = Rc::new(Relay { world, shard, queue, leases, sites });
        task::spawn(relay.clone().run());
        task::spawn(relay.clone().run_upkeep());
        task::spawn(relay.clone().run_news());
        relay
    }

    pub fn lines(&self) -> Vec<LineId> {
        self.sites.iter().map(|site| site.line).collect()
    }

    pub fn connection_count(&self) -> usize {
        self.sites.iter().map(|site| site.connections.get()).sum()
    }

    /// Sites left alone are tried at once.
    pub fn forget_failures(&self) {
        self.sites.iter().for_each(|site| site.alone_until.set(0));
    }

    async fn run(self: Rc<Self>) {
        loop {
            match self.queue.next_announcement().await {
                Announcement::Flow(id) => {
                    if let Some(flow) = self.queue.flow(id) {
                        let site = self.world.site_of(&flow.domain, flow.next_hop.as_ref());
                        self.queue.assign(id, self.sites[site].line);
                    }
                }
                Announcement::Line(line) => {
                    let site = self.sites.iter().position(|site| site.line == line);
                    self.attend(site.expect("a line of ours"));
                }
            }
        }
    }

    async fn run_upkeep(self: Rc<Self>) {
        loop {
            timer::sleep(UPKEEP_PERIOD).await;
            (0..self.sites.len()).for_each(|site| self.attend(site));
        }
    }

    async fn run_news(self: Rc<Self>) {
        loop {
            self.leases.next_news().await;
            (0..self.sites.len()).for_each(|site| self.attend(site));
        }
    }

    /// Opens a connection where ready tasks want one.
    fn attend(self: &Rc<Self>, number: usize) {
        let site = &self.sites[number];
        let ready = self.queue.ready_count(site.line);
        if ready == 0 {
            return site.lease.wish_nothing();
        }
        let (open, now) = (site.connections.get(), executor::now_us());
        let is_alone = now < site.alone_until.get();
        if is_alone && executor::percent(2) {
            return self.put_off(number);
        }
        if self.world.is_stopping.get() || is_alone || open >= CONNECTIONS_MAX || ready <= 2 * open
        {
            return;
        }
        let mut slot = None;
        if site.lease.is_limited(Kind::Connection) {
            slot = self.leases.take(&site.lease, Kind::Connection, 0);
            if slot.is_none() {
                return;
            }
        }
        let mut opening = None;
        if site.lease.is_limited(Kind::Opening) {
            opening = self.leases.take(&site.lease, Kind::Opening, 0);
            if opening.is_none() {
                return slot.into_iter().for_each(Token::put_back);
            }
        }
        site.connections.set(open + 1);
        let relay = self.clone();
        task::spawn(async move {
            relay.connect(number, slot, opening).await;
            let open = relay.sites[number].connections.get();
            relay.sites[number].connections.set(open - 1);
            relay.attend(number);
        });
    }

    /// What waits for a site that is left alone waits by the clock.
    fn put_off(&self, number: usize) {
        while let Some(task) = self.queue.take(self.sites[number].line) {
            let (_, task_number) = audit::due_ms(&self.queue, &self.shard().tap, task);
            self.shard().put_off.borrow_mut().insert((audit::message(task), task_number));
            let wait = Duration::from_millis(500 + executor::below(1_000) as u64);
            self.queue.put_back_until(task, wait);
        }
    }

    fn shard(&self) -> &super::world::Shard {
        &self.world.shards[self.shard]
    }

    async fn connect(self: &Rc<Self>, number: usize, slot: Option<Token>, opening: Option<Token>) {
        let (world, site) = (&self.world, &self.sites[number]);
        let there = executor::now_us() + 1 + executor::below(20_000) as u64;
        let back = there + 1 + executor::below(20_000) as u64;
        if world.sites[number].mood.get() == Mood::Dead {
            timer::sleep_until_us(back).await;
            let alone = 500_000 + executor::below(1_500_000) as u64;
            site.alone_until.set(executor::now_us() + alone);
            // One task tells why; the leases count as used for a while.
            if let Some(task) = self.queue.take(site.line) {
                self.fail(task).await;
            }
            return;
        }
        let connection = world.connect(number);
        world.at(there, Event::Accepted { site: number, connection });
        timer::sleep_until_us(back).await;
        opening.into_iter().for_each(Token::finish);
        let is_sound = self.serve(number).await;
        let now = executor::now_us();
        if !is_sound {
            // Behind what is still under way; dropped, the slot is in use for a while longer.
            return world.disconnect(connection, now + 1);
        }
        let there = now + 1 + executor::below(20_000) as u64;
        world.disconnect(connection, there);
        timer::sleep_until_us(there + 1 + executor::below(20_000) as u64).await;
        slot.into_iter().for_each(Token::finish);
    }

    async fn fail(&self, task: Task) {
        let message = match self.queue.load(task).await {
            Ok(message) => message,
            Err(error) => return self.world.check(Err(format!("{error}"))),
        };
        let reply = Reply::new(421, status::NO_ANSWER, "Cannot connect");
        let replies = vec![reply; message.recipient_indexes.len()];
        let attempt = Attempt::without_session("simulated".into());
        self.settle(task, &message, replies, attempt, None);
    }

    /// Serves a connection until there is nothing left to do; false when it broke.
    async fn serve(self: &Rc<Self>, number: usize) -> bool {
        let site = &self.sites[number];
        let mut messages_left = 1 + executor::below(30);
        let mut patience = 5;
        while messages_left > 0 && !self.world.is_stopping.get() && !site.lease.is_to_close() {
            let Some(Work { task, lease }) = self.take(site) else {
                patience -= 1;
                if patience == 0 {
                    break;
                }
                timer::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let (due_ms, _) = audit::due_ms(&self.queue, &self.shard().tap, task);
            let now_ms = clock::unix_ms();
            let is_due = due_ms <= now_ms || self.world.is_hurried.get();
            self.world.check(ensure(is_due, || {
                format!("{task:?} is tried {} ms before its time", due_ms - now_ms)
            }));
            if executor::percent(3) {
                self.put_back(Work { task, lease });
                continue;
            }
            messages_left -= 1;
            match self.queue.load(task).await {
                Ok(message) => {
                    if !self.deliver(number, Work { task, lease }, message).await {
                        return false;
                    }
                }
                Err(error) => self.world.check(Err(format!("cannot be read back: {error}"))),
            }
        }
        true
    }

    fn take(&self, site: &Site) -> Option<Work> {
        if !site.lease.is_limited(Kind::Message) {
            return Some(Work { task: self.queue.take(site.line)?, lease: None });
        }
        let ready = self.queue.ready_count(site.line);
        if ready == 0 {
            return None;
        }
        let lease = self.leases.take(&site.lease, Kind::Message, ready.min(5) as u32)?;
        match self.queue.take(site.line) {
            Some(task) => Some(Work { task, lease: Some(lease) }),
            None => {
                lease.put_back();
                None
            }
        }
    }

    fn put_back(&self, work: Work) {
        self.queue.put_back(work.task);
        if self.world.bug == Bug::PutsBackTwice {
            self.queue.put_back(work.task);
        }
        work.lease.into_iter().for_each(Token::put_back);
    }

    /// One message; false when the connection broke.
    async fn deliver(&self, number: usize, work: Work, message: Rc<Message>) -> bool {
        let (world, Work { task, mut lease }) = (&self.world, work);
        let content = self.content(&message).await;
        let envelope = &message.envelope;
        let recipients = message.recipient_indexes.iter();
        let addresses = recipients.map(|it| &*envelope.recipients[usize::from(*it)].address);
        let addresses: Vec<&str> = addresses.collect();
        let is_report = envelope.flags.has(EnvelopeFlags::NOTIFICATION);
        {
            let is_released = envelope.release_ms <= clock::unix_ms() || world.has_released.get();
            world.check(ensure(is_released, || format!("{} goes before its release", message.id)));
            let mut ledger = world.ledger.borrow_mut();
            world.check(ledger.on_attempt(message.id, &addresses));
            if !is_report {
                world.check(ledger.check_content(&envelope.reverse_path, &content));
            }
        }
        if let Some(onward) = self.lead_on(&message, &content).await {
            lease.into_iter().for_each(Token::put_back);
            let replies = vec![Reply::new(250, status::OK, "sent on"); addresses.len()];
            world.ledger.borrow_mut().counts.onward += addresses.len() as u64;
            let attempt = Attempt::without_session("simulated".into());
            self.settle(task, &message, replies, attempt, onward);
            return true;
        }
        let mood = world.sites[number].mood.get();
        let answer = self.answer(mood, addresses.len(), is_report);
        let spread = match (mood, answer.replies.is_some()) {
            (_, false) => 450_000,
            (Mood::Slow, _) => 300_000,
            _ => 20_000,
        };
        let mail = executor::now_us() + 1 + executor::below(spread) as u64;
        let end = mail + 1 + executor::below(spread) as u64;
        world.at(mail, Event::Mail { site: number });
        if answer.has_end {
            let report = (is_report && !answer.taken.is_empty())
                .then(|| String::from_utf8_lossy(&content).into_owned());
            let taken = answer.taken.iter().map(|index| addresses[*index].to_owned()).collect();
            world.at(end, Event::End { site: number, taken, report });
        }
        if world.bug == Bug::ReturnsEarly {
            lease.take().into_iter().for_each(Token::finish);
        }
        timer::sleep_until_us(end + 1 + executor::below(20_000) as u64).await;
        let is_sound = answer.replies.is_some();
        let in_doubt = !is_sound && answer.has_end;
        let lost = || Reply::new(421, status::BAD_CONNECTION, "The connection was lost");
        let replies = answer.replies.unwrap_or_else(|| vec![lost(); addresses.len()]);
        if is_sound {
            lease.into_iter().for_each(Token::finish);
        } else {
            // In use for a while longer.
            drop(lease);
        }
        let remote = Remote {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            host: None,
            delivers: false,
            offers_dsn: false,
        };
        let attempt = Attempt::without_session("simulated".into());
        let attempt = Attempt { remote: Some(remote), in_doubt, ..attempt };
        self.settle(task, &message, replies, attempt, None);
        if world.bug == Bug::SendsAgain && executor::percent(5) {
            world.check(world.ledger.borrow_mut().on_attempt(message.id, &addresses));
        }
        is_sound
    }

    /// The message for the addresses that its recipients stand for, as where aliases lead on to
    /// others. `None` where they are served themselves; `Some(None)` where it is queued already.
    async fn lead_on(&self, message: &Message, content: &[u8]) -> Option<Option<Prepared>> {
        let envelope = &message.envelope;
        let recipients = message.recipient_indexes.iter();
        let recipients = recipients.map(|index| &envelope.recipients[usize::from(*index)]);
        // An alias is one whenever it is looked at.
        let is_served = |it: &Recipient| !leads_on(&it.address) || it.notify.wants_success();
        let is_report = envelope.flags.has(EnvelopeFlags::NOTIFICATION);
        if is_report || recipients.clone().any(is_served) {
            return None;
        }
        let recipients = recipients.map(|recipient| Recipient {
            address: format!("{ONWARD}{}", recipient.address).into(),
            ..recipient.clone()
        });
        let recipients = recipients.collect();
        let mut draft = self.queue.begin(0).ok()?;
        let mut rest = content;
        while !rest.is_empty() {
            let taken = draft.append(rest);
            rest = &rest[taken..];
            draft.room().await.ok()?;
        }
        let envelope = Envelope { recipients, ..Envelope::clone(envelope) };
        if self.world.bug == Bug::SendsOnApart {
            draft.commit(envelope).await.ok()?;
            timer::sleep(Duration::from_millis(executor::below(50) as u64)).await;
            return Some(None);
        }
        draft.prepare(envelope).await.ok().map(Some)
    }

    async fn content(&self, message: &Message) -> Vec<u8> {
        let mut content = Vec::new();
        for index in 0..message.content.chunk_count() {
            match self.queue.load_chunk(message, index).await {
                Ok(chunk) => content.extend_from_slice(&chunk),
                Err(error) => self.world.check(Err(format!("cannot be read back: {error}"))),
            }
        }
        content
    }

    fn answer(&self, mood: Mood, recipient_count: usize, is_report: bool) -> Answer {
        let (breaks, defers, refuses) = match mood {
            Mood::Well if self.world.is_draining.get() => (0, 0, 0),
            Mood::Well | Mood::Slow => (1, 2, 2),
            Mood::Defers => (2, 75, 2),
            Mood::Refuses => (1, 10, 50),
            Mood::Breaks => (60, 5, 2),
            Mood::Dead => (100, 0, 0),
        };
        let reply = |code: u16| match code {
            250 => Reply::new(250, status::OTHER_TRANSIENT, "taken"),
            450 => Reply::new(450, status::OTHER_TRANSIENT, "later"),
            code => Reply::new(code, status::MAIL_SYSTEM_FULL, "never"),
        };
        let codes = (0..recipient_count).map(|_| match executor::below(100) {
            chance if chance < defers => 450,
            // Of a report that is Failed nobody is told.
            chance if chance < defers + refuses && !is_report => 550,
            _ => 250,
        });
        let codes: Vec<u16> = codes.collect();
        let taken: Vec<usize> = (0..recipient_count).filter(|index| codes[*index] == 250).collect();
        let has_end = !taken.is_empty();
        if executor::percent(breaks) {
            // Before the end of data, or after it: then it is taken or not.
            let has_end = has_end && executor::percent(50);
            let taken = if executor::percent(50) { taken } else { Vec::new() };
            return Answer { replies: None, taken, has_end };
        }
        Answer { replies: Some(codes.into_iter().map(reply).collect()), taken, has_end }
    }

    fn settle(
        &self,
        task: Task,
        message: &Rc<Message>,
        replies: Vec<Reply>,
        attempt: Attempt,
        onward: Option<Prepared>,
    ) {
        let outcomes = message.recipient_indexes.iter().zip(replies).map(|(index, reply)| {
            let (outcome, class) = match reply.code {
                250 => (Outcome::Relayed, None),
                400..500 => (Outcome::Delayed, Some(ReplyClass::Other)),
                _ => (Outcome::Failed, Some(ReplyClass::Other)),
            };
            if outcome != Outcome::Delayed {
                let address = &message.envelope.recipients[usize::from(*index)].address;
                self.world.ledger.borrow_mut().on_settled(message.id, address);
            }
            RecipientOutcome { recipient_index: *index, outcome, reply, class }
        });
        let outcomes = outcomes.collect();
        self.queue.settle_and_send_on(task, message, outcomes, attempt, onward);
    }
}

impl Sites for Relay {
    fn site_of(&self, flow: &Flow) -> Option<String> {
        let site = self.world.site_of(&flow.domain, flow.next_hop.as_ref());
        Some(NextHop::to_string(&self.world.sites[site].next_hop))
    }

    fn waiting_of(&self, _: &Flow) -> Rc<dyn Waiting> {
        Rc::new(NoLine)
    }
}

/// Of a shard to a next hop.
const CONNECTIONS_MAX: usize = 3;
const UPKEEP_PERIOD: Duration = Duration::from_millis(50);
