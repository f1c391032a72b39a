//! Rounds in which the servers take turns, and the audit behind them.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clients::Imap;
use super::crew::{self, Member, Tally, Work};
use super::host::Host;
use super::letters::Letters;
use super::report::{Report, counted_as, summaries};
use super::work::{self, Deliveries, Place};
use super::{Options, Part, load_account, reader_account};
use crate::audit::{self, DeliveryId};
use crate::failure::Failure;
use crate::ids::RunId;
use crate::relay::accounting::FlushCounter;

/// The servers of a run and what they are owed.
pub struct Stage {
    pub options: Options,
    pub hosts: Vec<Host>,
    pub places: Vec<Arc<Place>>,
    pub letters: Arc<Letters>,
    pub run: RunId,
    directory: PathBuf,
    /// Latencies, by server.
    tallies: Vec<Tally>,
    mixed_tallies: Vec<Tally>,
}

type Client = Pin<Box<dyn Future<Output = io::Result<()>>>>;

impl Stage {
    pub fn new(options: &Options, hosts: Vec<Host>, directory: &Path) -> Self {
        let places = hosts.iter().map(|host| Arc::new(Place::new(host))).collect();
        let tallies = || hosts.iter().map(|_| Tally::default()).collect();
        Self {
            options: options.clone(),
            places,
            letters: Arc::new(Letters::new(options.size as usize)),
            run: RunId::random(),
            directory: directory.to_owned(),
            tallies: tallies(),
            mixed_tallies: tallies(),
            hosts,
        }
    }

    /// All parts, then the audit.
    pub fn measure(&mut self, report: &mut Report) -> Result<(), Failure> {
        let parts = match self.options.parts.as_slice() {
            [] => vec![
                Part::Lmtp,
                Part::Fetch,
                Part::Search,
                Part::Pop3,
                Part::Mixed,
                Part::Push,
                Part::Idle,
            ],
            parts => parts.to_vec(),
        };
        let reads = [Part::Fetch, Part::Search, Part::Pop3, Part::Mixed];
        if parts.iter().any(|part| reads.contains(part)) {
            for index in 0..self.hosts.len() {
                self.fill_readers(index)?;
            }
        }
        for part in parts {
            match part {
                Part::Idle => {
                    for index in 0..self.hosts.len() {
                        super::idle::measure(self, index, report)?;
                    }
                }
                part => self.rounds(part, report)?,
            }
        }
        for index in 0..self.hosts.len() {
            let is_peer = self.is_peer(index);
            let side = report.side(is_peer);
            side.latency = summaries(&self.tallies[index]);
            side.mixed_latency = summaries(&self.mixed_tallies[index]);
            self.audit(index, report)?;
        }
        report.compare();
        Ok(())
    }

    /// Opens each mailbox of the peer once, one by one. Dovecot makes mailboxes when they are first
    /// used, and its LMTP server may die of several deliveries that make the same one.
    pub fn begin_mailboxes(&self) -> Result<(), Failure> {
        let Some(index) = (0..self.hosts.len()).find(|index| self.is_peer(*index)) else {
            return Ok(());
        };
        let names = [self.load_accounts(self.options.accounts), self.reader_accounts()].concat();
        let (names, place) = (Arc::new(names), self.places[index].clone());
        let open_all = move |member: Member| {
            let (names, place) = (names.clone(), place.clone());
            async move {
                member.ready().await;
                for (_, name) in names.iter() {
                    let mut imap = Imap::open(place.imap, None, false, name).await?;
                    imap.command("SELECT INBOX").await?;
                }
                Ok(())
            }
        };
        crew::run(1, FILL_TIME_MAX, &self.hosts[index].group, || Ok(()), open_all).map(drop)
    }

    pub fn is_peer(&self, index: usize) -> bool {
        self.hosts[index].name == "dovecot"
    }

    pub fn stop(mut self) -> Result<(), Failure> {
        self.hosts.iter_mut().try_for_each(Host::stop)
    }

    /// Accounts that are delivered to, with their numbers.
    pub fn load_accounts(&self, count: usize) -> Vec<(u16, String)> {
        (0..count).map(|index| (index as u16, load_account(index))).collect()
    }

    fn reader_accounts(&self) -> Vec<(u16, String)> {
        let number = |index| (self.options.accounts + index) as u16;
        (0..self.options.readers).map(|index| (number(index), reader_account(index))).collect()
    }

    pub fn deliveries(
        &self,
        index: usize,
        accounts: Vec<(u16, String)>,
        count: Option<u64>,
    ) -> Arc<Deliveries> {
        Deliveries::new(&self.places[index], &self.letters, self.run, accounts, count)
    }

    /// Delivers a count of messages as fast as the server takes them.
    pub fn fill(
        &self,
        index: usize,
        accounts: Vec<(u16, String)>,
        count: u64,
    ) -> Result<Work, Failure> {
        let deliveries = self.deliveries(index, accounts, Some(count));
        let (connections, group) = (self.options.connections, &self.hosts[index].group);
        crew::run(
            connections,
            FILL_TIME_MAX,
            group,
            || Ok(()),
            move |member| work::deliver(member, deliveries.clone()),
        )
    }

    fn fill_readers(&self, index: usize) -> Result<(), Failure> {
        let messages = self.options.mailbox_messages;
        let count = messages * self.options.readers as u64;
        let work = self.fill(index, self.reader_accounts(), count)?;
        let name = self.hosts[index].name;
        eprintln!("{name:<9} filled with {count} messages, {:.0}/s", count as f64 / work.seconds);
        let place = self.places[index].clone();
        let group = &self.hosts[index].group;
        crew::run(
            self.options.readers,
            FILL_TIME_MAX,
            group,
            || Ok(()),
            move |member| {
                let name = reader_account(member.index);
                work::flag(member, place.clone(), name, messages)
            },
        )
        .map(drop)
    }

    fn rounds(&mut self, part: Part, report: &mut Report) -> Result<(), Failure> {
        for round in 0..self.options.rounds {
            let mut order: Vec<usize> = (0..self.hosts.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let counter = FlushCounter::of(&self.directory);
                let flushes_before = counter.read();
                let work = self.round(index, part)?;
                let flushes = counter.read().zip(flushes_before).map(|(after, is)| after - is);
                self.hosts[index].check_alive()?;
                let parts: &[Part] = match part {
                    Part::Mixed => &[Part::Lmtp, Part::Fetch, Part::Search, Part::Pop3],
                    _ => &[part],
                };
                let side = report.side(self.is_peer(index));
                for counted in parts {
                    let count = work.tally.count(counted_as(*counted));
                    let mut name = format!("{counted:?}").to_lowercase();
                    if part == Part::Mixed {
                        name.insert_str(0, "mixed_");
                    }
                    let host = self.hosts[index].name;
                    eprintln!(
                        "round {:2}  {host:<9} {name:<12} {:9.0}/s",
                        round + 1,
                        count as f64 / work.seconds
                    );
                    let flushes = flushes.filter(|_| *counted == Part::Lmtp);
                    let cpu = (part != Part::Mixed).then_some(work.cpu);
                    let rates = side.parts.entry(name).or_default();
                    rates.add(count, &work, cpu, flushes);
                }
                match part {
                    Part::Mixed => self.mixed_tallies[index].add(&work.tally),
                    _ => self.tallies[index].add(&work.tally),
                }
            }
        }
        Ok(())
    }

    /// One part with one server.
    fn round(&self, index: usize, part: Part) -> Result<Work, Failure> {
        let (options, place) = (&self.options, &self.places[index]);
        let (messages, readers) = (options.mailbox_messages, options.readers);
        let deliveries = self.deliveries(index, self.load_accounts(options.accounts), None);
        let place = place.clone();
        let client = move |part: Part, member: Member| -> Client {
            let reader = reader_account(member.index % readers);
            let place = place.clone();
            match part {
                Part::Lmtp => Box::pin(work::deliver(member, deliveries.clone())),
                Part::Fetch => Box::pin(work::fetch(member, place, reader, messages)),
                Part::Search => Box::pin(work::search(member, place, reader, messages)),
                Part::Pop3 => Box::pin(work::pop3(member, place, reader, messages)),
                Part::Push => Box::pin(work::push(member, deliveries.clone())),
                Part::Mixed | Part::Idle => unreachable!("made of others, or measured apart"),
            }
        };
        let count = match part {
            Part::Lmtp => options.connections,
            Part::Push => options.push_sessions,
            Part::Mixed => 4 * readers,
            _ => readers,
        };
        let group = &self.hosts[index].group;
        crew::run(
            count,
            options.round_time,
            group,
            || Ok(()),
            move |member| {
                let parts = [Part::Fetch, Part::Search, Part::Pop3, Part::Lmtp];
                let part = match part {
                    Part::Mixed => parts[member.index / readers],
                    part => part,
                };
                client(part, member)
            },
        )
    }

    /// Whether each accepted message is in its mailbox once, and nothing else is.
    fn audit(&self, index: usize, report: &mut Report) -> Result<(), Failure> {
        let found: Arc<Mutex<Vec<DeliveryId>>> = Arc::default();
        let accounts = [self.load_accounts(self.options.accounts), self.reader_accounts()].concat();
        let accounts = Arc::new(accounts);
        let (place, run) = (self.places[index].clone(), self.run);
        let (of_clients, of_all) = (found.clone(), accounts.clone());
        let group = &self.hosts[index].group;
        crew::run(
            AUDITORS.min(accounts.len()),
            FILL_TIME_MAX,
            group,
            || Ok(()),
            move |member| {
                let (place, found, accounts) = (place.clone(), of_clients.clone(), of_all.clone());
                async move {
                    member.ready().await;
                    let own =
                        accounts.iter().skip(member.index).step_by(AUDITORS.min(accounts.len()));
                    for (number, name) in own {
                        let mut imap = Imap::open(place.imap, None, false, name).await?;
                        let sequences = work::sequences(&mut imap, run).await?;
                        let ids =
                            sequences.iter().map(|sequence| DeliveryId::new(*sequence, *number));
                        found.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                    }
                    Ok(())
                }
            },
        )?;
        let take = |ids: &Mutex<Vec<DeliveryId>>| {
            std::mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let audit = audit::compare(take(&self.places[index].accepted), take(&found));
        let name = self.hosts[index].name;
        let side = report.side(self.is_peer(index));
        (side.accepted, side.lost) = (audit.accepted, audit.lost);
        (side.duplicated, side.foreign) = (audit.duplicated, audit.in_doubt);
        if audit.lost + audit.duplicated + audit.in_doubt > 0 {
            report.broken.push(format!(
                "{name}: {} accepted messages are missing, {} twice there, {} nobody is owed",
                audit.lost, audit.duplicated, audit.in_doubt
            ));
        }
        Ok(())
    }
}

/// A million messages on a slow server.
pub const FILL_TIME_MAX: Duration = Duration::from_secs(4 * 3600);
const AUDITORS: usize = 8;
