//! One shard from its journal to its end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::ask::{self, Ask, Progress, QueueStats};
use super::mail_order;
use super::memo::Memo;
use crate::access::{self, Access};
use crate::auth::Authenticator;
use crate::config::{Config, Durability, Protocol};
use crate::delivery::lease::store::RecordStore;
use crate::delivery::sts::Policies;
use crate::delivery::tls_reports::ReportStore;
use crate::delivery::{Delivery, Neighbourhood};
use crate::event::LogSink;
use crate::event::notice;
use crate::journal::{Journal, JournalConfig, OpenError, Owner, Recovery};
use crate::mail::Accounts;
use crate::mailbox::codec::Quota;
use crate::mailbox::{self, OpenedPartition, PartitionError, Post, Stores};
use crate::metrics::Metrics;
use crate::queue::{Flow, Mode, Obstacles, Order, Queue, Recovered, StandingOrders, Steered};
use crate::reception::Reception;
use crate::runtime::inbox::{Inbox, InboxSender};
use crate::runtime::net::BoundListener;
use crate::runtime::{clock, task, timer};

/// The way to every shard, this one included.
pub(super) struct Neighbours {
    /// Where this one stands among `senders`.
    pub place: usize,
    /// How many of them, the first ones, accept mail.
    pub serving_count: usize,
    pub senders: Vec<InboxSender<Memo>>,
    /// All that have mailboxes, whatever shard has them.
    pub accounts: Arc<Accounts>,
}

/// What a shard found when it opened its journal.
pub struct Opened {
    pub message_count: usize,
    pub malformed_count: usize,
    /// Messages that are held because they may be settled.
    pub doubtful_count: usize,
    /// It accepts mail, or has some to deliver. Otherwise the shard has ended.
    pub is_needed: bool,
    pub recovery: Recovery,
    /// Those that it has.
    pub partitions: Vec<OpenedPartition>,
}

/// Why a shard does not start. Nothing was changed.
pub enum OpenFailure {
    Queue(OpenError),
    Partition(u16, PartitionError),
}

/// What a shard is given to start with.
pub(super) struct Start {
    pub config: Arc<Config>,
    /// Of its journal, and in its queue ids.
    pub number: usize,
    /// It accepts mail; otherwise it only delivers what its journal holds.
    pub serves: bool,
    /// Each with the position of its `[[listener]]`.
    pub listeners: Vec<(usize, BoundListener)>,
    pub inbox: Inbox<Memo>,
    pub log: LogSink,
    /// Where limits of minutes and more outlive the process.
    pub lease_records: RecordStore,
    pub policies: Policies,
    /// Where reports on TLS outlive the process.
    pub tls_reports: ReportStore,
    pub authenticator: Authenticator,
    pub suspensions: Arc<StandingOrders>,
    /// Partitions of mailboxes that are this shard's.
    pub partitions: Vec<u16>,
    /// Told once all journals are open, or why one is not.
    pub opened: Sender<Result<Opened, OpenFailure>>,
    /// Told the others when every shard's journal is open.
    pub gate: Inbox<Neighbours>,
}

/// Runs the shard to its end.
pub(super) async fn run(start: Start) {
    let Start {
        config,
        number,
        serves,
        listeners,
        mut inbox,
        log,
        lease_records,
        policies,
        tls_reports,
        authenticator,
        suspensions,
        partitions,
        opened,
        mut gate,
    } = start;
    let mut recovered = Recovered::default();
    let journal_config = JournalConfig::of(&config, Owner::Shard(number as u16));
    let result = Journal::open(&journal_config, &mut recovered);
    let (journal, recovery) = match result {
        Ok(result) => result,
        Err(error) => {
            // Whoever waits for it turns it into the exit of the process.
            let _ = opened.send(Err(OpenFailure::Queue(error)));
            return;
        }
    };
    let mut stores = Vec::new();
    let mut opened_partitions = Vec::new();
    for partition in partitions {
        match mailbox::open_partition(&config, partition) {
            Ok((store, found)) => {
                stores.push((partition, store));
                opened_partitions.push(found);
            }
            Err(error) => {
                let _ = opened.send(Err(OpenFailure::Partition(partition, error)));
                return;
            }
        }
    }
    let stores: Stores = stores.into_iter().collect();
    let report = Opened {
        message_count: recovered.message_count(),
        malformed_count: recovered.malformed_count(),
        doubtful_count: recovered.doubtful_count(),
        is_needed: serves || recovered.message_count() + recovered.malformed_count() > 0,
        recovery,
        partitions: opened_partitions,
    };
    if !report.is_needed {
        journal.close().await;
        let _ = opened.send(Ok(report));
        return;
    }
    let metrics = Rc::new(Metrics::default());
    let queue = Queue::start(
        number as u16,
        config.clone(),
        journal.clone(),
        recovered,
        metrics.clone(),
        log.clone(),
    );
    journal.begin();
    if opened.send(Ok(report)).is_err() {
        return;
    }
    let Neighbours { place, serving_count, senders, accounts } = gate.recv().await;
    let shard_count = senders.len();
    let (of_delivery, of_post) = (senders.clone(), senders.clone());
    let neighbourhood = Neighbourhood {
        shard: place,
        shard_count,
        send: Rc::new(move |to, memo| of_delivery[to].try_send(Memo::Delivery(memo)).is_ok()),
        records: lease_records,
        policies,
        tls_reports,
    };
    let carry = Rc::new(move |to: usize, memo| {
        of_post[to].try_send(Memo::Mailbox(memo)).map_err(|memo| match memo {
            Memo::Mailbox(memo) => memo,
            _ => unreachable!("what was sent comes back"),
        })
    });
    let post = Post::start(stores.clone(), place, serving_count, shard_count, carry);
    let delivery = Delivery::start(
        config.clone(),
        queue.clone(),
        post.clone(),
        metrics.clone(),
        neighbourhood,
        suspensions,
    );
    let of_access = senders.clone();
    let send = Rc::new(move |to: usize, memo| {
        senders[to].try_send(Memo::Client(memo)).map_err(|memo| match memo {
            Memo::Client(memo) => memo,
            _ => unreachable!("what was sent comes back"),
        })
    });
    let reception = Reception::start(
        config.clone(),
        delivery.resolver(),
        (queue.clone(), post.clone()),
        authenticator.clone(),
        metrics.clone(),
        (place, serving_count),
        send,
    );
    delivery.set_accounts(accounts.clone());
    reception.set_accounts(accounts.clone());
    let setting = access::Setting {
        stores: stores.clone(),
        authenticator,
        shard: place,
        shard_count: serving_count,
        send: Rc::new(move |to, memo| {
            of_access[to].try_send(Memo::Access(memo)).map_err(|memo| match memo {
                Memo::Access(memo) => memo,
                _ => unreachable!("what was sent comes back"),
            })
        }),
    };
    let access = Access::start(config.clone(), accounts, metrics.clone(), setting);
    for (position, listener) in listeners {
        let of_config = &config.listeners[position];
        match of_config.protocol {
            Protocol::Imap | Protocol::Pop3 => access.listen(listener.attach(), of_config),
            Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => {
                reception.listen(listener.attach(), of_config);
            }
        }
    }
    let mut this = Shard {
        number,
        config,
        journal,
        queue,
        stores,
        post,
        delivery,
        reception,
        access,
        metrics,
    };
    this.set_default_quota();
    loop {
        match inbox.recv().await {
            Memo::Client(memo) => this.reception.on_memo(memo),
            Memo::Access(memo) => this.access.on_memo(memo),
            Memo::Delivery(memo) => this.delivery.on_memo(memo),
            Memo::Mailbox(memo) => this.post.on_memo(memo),
            Memo::Arrived { listener, stream } => {
                this.reception.take(stream.attach(), &this.config.listeners[listener]);
            }
            Memo::Ask(Ask::Drain { time_max }) => {
                // Other shards may still need answers while this one drains.
                let (reception, delivery) = (this.reception.clone(), this.delivery.clone());
                let post = this.post.clone();
                let access = this.access.clone();
                let listeners = this.config.listeners.clone();
                task::spawn(async move {
                    loop {
                        match inbox.recv().await {
                            Memo::Client(memo) => reception.on_memo(memo),
                            Memo::Access(memo) => access.on_memo(memo),
                            Memo::Delivery(memo) => delivery.on_memo(memo),
                            Memo::Mailbox(memo) => post.on_memo(memo),
                            Memo::Arrived { listener, stream } => {
                                reception.take(stream.attach(), &listeners[listener]);
                            }
                            Memo::Ask(_) => {}
                        }
                    }
                });
                return this.drain(time_max).await;
            }
            Memo::Ask(ask) => this.on_ask(ask),
        }
    }
}

/// One of each.
struct Shard {
    number: usize,
    config: Arc<Config>,
    journal: Journal,
    queue: Queue,
    stores: Stores,
    post: Post,
    delivery: Delivery,
    reception: Reception,
    access: Access,
    metrics: Rc<Metrics>,
}

impl Shard {
    /// Answers go to whoever asked, who may have given up waiting.
    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Snapshot(reply) => {
                self.update_journal_numbers();
                self.access.update_numbers();
                self.queue.update_gauges();
                let is_durable = self.config.journal.durability != Durability::None;
                let partitions = self.stores.iter();
                let partitions =
                    partitions.map(|(number, store)| store.numbers(number, is_durable)).collect();
                let _ = reply.send(self.metrics.snapshot(partitions));
            }
            Ask::QueueStats(reply) => {
                let _ = reply.send(QueueStats::from(self.queue.stats()));
            }
            Ask::QueueSurvey { by, reply } => {
                let (queue, delivery) = (self.queue.clone(), self.delivery.clone());
                task::spawn(async move {
                    let _ = reply.send(queue.survey(by, &delivery).await);
                });
            }
            Ask::QueueNumbers { after, count_max, reply } => {
                let queue = self.queue.clone();
                task::spawn(async move {
                    let _ = reply.send(queue.numbers(after, count_max).await);
                });
            }
            Ask::QueueShow { messages, reply } => {
                let (queue, delivery) = (self.queue.clone(), self.delivery.clone());
                task::spawn(async move {
                    let _ = reply.send(ask::show(&queue, &delivery, messages).await);
                });
            }
            Ask::Way { domain, stream, next_hop, reply } => {
                let (domain, stream) = (domain.into(), stream.into());
                let delivery = self.delivery.clone();
                task::spawn(async move {
                    let flow = Flow { domain, stream, next_hop };
                    let _ = reply.send(delivery.way_of(&flow).await);
                });
            }
            Ask::RuleSuspensions(reply) => {
                let _ = reply.send(self.delivery.suspensions());
            }
            Ask::QueueSteer { selection, order, mode, reply } => {
                let retry = matches!(order, Order::Retry(_)) && mode == Mode::CarryOut;
                if retry {
                    self.delivery.forget_failures();
                }
                let lifts = retry && order == Order::Retry(Obstacles::Lifted);
                let (queue, delivery) = (self.queue.clone(), self.delivery.clone());
                let shard = self.number;
                task::spawn(async move {
                    let mut next_ms = 0;
                    let mut go_on = |steered| {
                        let now_ms = clock::coarse_ms();
                        if now_ms < next_ms {
                            return true;
                        }
                        next_ms = now_ms + PROGRESS_PERIOD_MS;
                        reply.send(Progress { shard, steered, finished: false }).is_ok()
                    };
                    if lifts {
                        delivery.lift(&selection, || go_on(Steered::default())).await;
                    }
                    let steered = queue.steer(&selection, &order, mode, &delivery, go_on).await;
                    let _ = reply.send(Progress { shard, steered, finished: true });
                });
            }
            Ask::KnownMailbox { address, reply } => {
                let _ = reply.send(self.delivery.known_mailbox(&address));
            }
            Ask::Verify { address, reply } => {
                let delivery = self.delivery.clone();
                task::spawn(async move {
                    let _ = reply.send(delivery.verify(&address).await);
                });
            }
            Ask::Accounts(accounts) => {
                // One more account ends nobody's login.
                let may_end_logins = accounts.len() <= self.reception.accounts().len();
                self.delivery.set_accounts(accounts.clone());
                self.reception.set_accounts(accounts.clone());
                self.access.set_accounts(accounts);
                if may_end_logins {
                    timer::wake_all();
                }
            }
            Ask::Mail { partition, order, reply } => {
                let Some(store) = self.post.owner_is_here(partition) else { return };
                task::spawn(async move {
                    let _ = reply.send(mail_order::carry_out(&store, partition, order).await);
                });
            }
            Ask::Suspend(suspensions) => self.delivery.suspend(suspensions),
            Ask::Reload(config) => {
                self.queue.reload(config.clone());
                self.delivery.reload(config.clone());
                self.reception.reload(config.clone(), self.delivery.resolver());
                self.access.reload(config.clone());
                self.config = config;
                self.set_default_quota();
            }
            Ask::Drain { .. } => unreachable!("the dispatch loop ends at it"),
        }
    }

    fn set_default_quota(&self) {
        let quota = Quota { bytes: self.config.mailboxes.quota, messages: 0 };
        self.stores.iter().for_each(|(_, store)| store.set_default_quota(quota));
    }

    /// No new transactions; replies to end of data are awaited; then everything is made durable.
    async fn drain(self, deadline: Duration) {
        let end = clock::now() + deadline;
        self.reception.drain();
        self.access.drain();
        self.delivery.drain();
        let sessions_gone = self.reception.drained(end).await & self.access.drained(end).await;
        let connections_gone = self.delivery.drained(end).await;
        self.delivery.end_tls_reports(end.max(clock::now() + LAST_WORDS)).await;
        self.queue.drain();
        self.queue.flushed().await;
        self.queue.checkpoint_at_stop().await;
        // Others may still have mail for these partitions.
        self.post.quiet(end.max(clock::now() + LAST_WORDS)).await;
        self.stores.close().await;
        self.journal.close().await;
        if !(sessions_gone && connections_gone) {
            notice!("ringpost: shard {}: cut sessions that were still open", self.number);
        }
    }

    fn update_journal_numbers(&self) {
        let (counters, space) = (self.journal.counters(), self.journal.space());
        let numbers = &self.metrics.journal;
        numbers.frames.set(counters.frames);
        // One data sync for each frame and each segment header.
        let flushes = counters.frames + counters.segments_activated;
        let durable = self.config.journal.durability != Durability::None;
        numbers.flushes.set(if durable { flushes } else { 0 });
        numbers.records.set(counters.records);
        numbers.bytes.set(counters.bytes);
        numbers.checkpoints.set(counters.checkpoints);
        numbers.moved_bytes.set(counters.moved_bytes);
        numbers.segments.set(space.slots as u64);
        numbers.segments_free.set(space.slots_free as u64);
    }
}

/// Time that is left for counts of TLS to be saved, and for what other shards ask for, whatever
/// else took long.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often whoever gave an order hears how far it is.
const PROGRESS_PERIOD_MS: u64 = 200;
