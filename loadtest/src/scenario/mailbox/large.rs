//! One mailbox of very many messages.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringpost::runtime::clock;

use super::clients::Imap;
use super::crew::{self, Member};
use super::load_account;
use super::report::{Large, Report, Spread};
use super::rounds::{FILL_TIME_MAX, Stage};
use super::work::{self, Place};
use crate::failure::Failure;
use crate::latency::Latencies;
use crate::relay::accounting::Group;

/// Fills the mailbox of the first account and measures it, on each server.
pub fn measure(stage: &mut Stage, messages: u64, report: &mut Report) -> Result<(), Failure> {
    for index in 0..stage.hosts.len() {
        let name = stage.hosts[index].name;
        let work = stage.fill(index, stage.load_accounts(1), messages)?;
        let mut large =
            Large { messages, fill_per_s: messages as f64 / work.seconds, ..Large::default() };
        eprintln!("{name:<9} filled with {messages} messages, {:.0}/s", large.fill_per_s);
        let place = stage.places[index].clone();
        let mut pages = Pages::of(messages);
        let select = Asked { text: "SELECT INBOX".to_owned(), count: messages };
        // Warm.
        let group = &stage.hosts[index].group;
        let taken = timed(group, &place, &vec![select.clone(); 1 + SELECTS])?;
        large.select_warm = spread(&taken[1..]);
        let listed =
            (0..LISTS_WARM).map(|_| Ok(timed(group, &place, &[select.clone(), pages.next()])?[1]));
        large.list_1000_warm = spread(&listed.collect::<Result<Vec<_>, Failure>>()?);
        // Flags of all, with an eye on the server's memory.
        large.memory_bytes = group.memory().proportional_bytes;
        let (taken, peak) = flags(group, &place, &select)?;
        (large.flags_ms, large.flags_per_s) = (ms(taken), messages as f64 / taken.as_secs_f64());
        large.flags_memory_bytes = peak.saturating_sub(large.memory_bytes);
        // Cold: what the server has read itself it may keep, the kernel has nothing.
        let (mut restarts, mut selected, mut listed) = (Vec::new(), Vec::new(), Vec::new());
        large.page_cache_dropped = true;
        for _ in 0..RESTARTS {
            stage.hosts[index].stop()?;
            large.page_cache_dropped &= drop_page_cache();
            restarts.push(stage.hosts[index].start()?);
            let group = &stage.hosts[index].group;
            large.page_cache_dropped &= drop_page_cache();
            selected.push(timed(group, &place, std::slice::from_ref(&select))?[0]);
            for _ in 0..LISTS_COLD {
                large.page_cache_dropped &= drop_page_cache();
                listed.push(timed(group, &place, &[select.clone(), pages.next()])?[1]);
            }
        }
        large.list_1000_first_ms = listed.iter().step_by(LISTS_COLD).copied().map(ms).collect();
        (large.restart, large.select_cold) = (spread(&restarts), spread(&selected));
        large.list_1000_cold = spread(&listed);
        report.side(stage.is_peer(index)).large = Some(large);
    }
    Ok(())
}

/// Places of listings: each a thousand messages that stand together, in random order, none twice
/// before all were there.
struct Pages {
    messages: u64,
    shuffled: Vec<u64>,
    next: usize,
}

impl Pages {
    fn of(messages: u64) -> Self {
        let mut shuffled: Vec<u64> = (0..(messages / LISTED).max(1)).collect();
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, clock::random_u64() as usize % (at + 1));
        }
        Self { messages, shuffled, next: 0 }
    }

    fn next(&mut self) -> Asked {
        let page = self.shuffled[self.next % self.shuffled.len()];
        self.next += 1;
        let count = LISTED.min(self.messages);
        let (first, last) = (page * LISTED + 1, page * LISTED + count);
        let items = "UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE";
        Asked { text: format!("FETCH {first}:{last} ({items})"), count }
    }
}

/// A command, and of how many messages its answer tells.
#[derive(Clone)]
struct Asked {
    text: String,
    count: u64,
}

/// How long the flags of all messages take, and the most memory meanwhile.
fn flags(group: &Group, place: &Arc<Place>, select: &Asked) -> Result<(Duration, u64), Failure> {
    let flags = Asked { text: "FETCH 1:* (FLAGS)".to_owned(), ..*select };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::SeqCst) {
                peak = peak.max(group.memory().proportional_bytes);
                std::thread::sleep(MEMORY_PERIOD);
            }
            peak
        });
        let taken = timed(group, place, &[select.clone(), flags]);
        done.store(true, Ordering::SeqCst);
        let peak = watch.join().map_err(|_| Failure::system("a thread ended in a panic"))?;
        Ok((taken?[1], peak))
    })
}

/// How long each command takes in one session of the mailbox's account.
fn timed(group: &Group, place: &Arc<Place>, asked: &[Asked]) -> Result<Vec<Duration>, Failure> {
    let taken: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let (place, asked): (_, Arc<[Asked]>) = (place.clone(), asked.into());
    let of_client = taken.clone();
    let client = move |member: Member| {
        let (place, asked, taken) = (place.clone(), asked.clone(), of_client.clone());
        async move {
            let mut imap = Imap::open(place.imap, None, false, &load_account(0)).await?;
            member.ready().await;
            for Asked { text, count } in asked.iter() {
                let since = Instant::now();
                let answer = imap.command(text).await?;
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(since.elapsed());
                let told =
                    if answer.fetched > 0 { answer.fetched } else { answer.exists.unwrap_or(0) };
                work::expect(text, told, *count)?;
            }
            Ok(())
        }
    };
    crew::run(1, FILL_TIME_MAX, group, || Ok(()), client)?;
    let taken = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(taken)
}

fn spread(taken: &[Duration]) -> Spread {
    let mut latencies = Latencies::new();
    taken.iter().for_each(|taken| latencies.record(*taken));
    latencies.summary().into()
}

/// Whether the kernel has forgotten what it read.
fn drop_page_cache() -> bool {
    let is_synced = Command::new("sync").status().is_ok_and(|status| status.success());
    is_synced && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const SELECTS: usize = 200;
const LISTED: u64 = 1000;
const LISTS_WARM: usize = 20;
/// Restarts with nothing in the page cache, and listings after each.
const RESTARTS: usize = 3;
const LISTS_COLD: usize = 8;
const MEMORY_PERIOD: Duration = Duration::from_millis(20);
