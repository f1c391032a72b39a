//! One mailbox of very many messages.

use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clients::Imap;
use super::crew::{self, Member};
use super::load_account;
use super::report::{Large, Report};
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
        let group = &stage.hosts[index].group;
        // Warm.
        let warm = Arc::new(Mutex::new(Latencies::new()));
        let of_client = warm.clone();
        one_session(group, &place, move |mut imap| {
            let warm = of_client.clone();
            async move {
                select(&mut imap, messages).await?;
                for _ in 0..SELECTS {
                    let since = Instant::now();
                    select(&mut imap, messages).await?;
                    warm.lock().unwrap_or_else(PoisonError::into_inner).record(since.elapsed());
                }
                Ok(())
            }
        })?;
        large.select_warm = warm.lock().unwrap_or_else(PoisonError::into_inner).summary().into();
        large.list_1000_warm_ms = ms(list(group, &place, messages)?);
        // Flags of all, with an eye on the server's memory.
        large.memory_bytes = group.memory().proportional_bytes;
        let (taken, peak) = flags(group, &place, messages)?;
        (large.flags_ms, large.flags_per_s) = (ms(taken), messages as f64 / taken.as_secs_f64());
        large.flags_memory_bytes = peak.saturating_sub(large.memory_bytes);
        // Cold.
        stage.hosts[index].stop()?;
        large.page_cache_dropped = drop_page_cache();
        large.restart_ms = ms(stage.hosts[index].start()?);
        let group = &stage.hosts[index].group;
        let taken = Arc::new(Mutex::new(Duration::ZERO));
        let of_client = taken.clone();
        one_session(group, &place, move |mut imap| {
            let taken = of_client.clone();
            async move {
                let since = Instant::now();
                select(&mut imap, messages).await?;
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = since.elapsed();
                Ok(())
            }
        })?;
        large.select_cold_ms = ms(*taken.lock().unwrap_or_else(PoisonError::into_inner));
        large.list_1000_cold_ms = ms(list(group, &place, messages)?);
        report.side(stage.is_peer(index)).large = Some(large);
    }
    Ok(())
}

async fn select(imap: &mut Imap, messages: u64) -> io::Result<()> {
    work::expect("SELECT", imap.command("SELECT INBOX").await?.exists.unwrap_or(0), messages)
}

/// How long a listing of a thousand messages in the middle takes.
fn list(group: &Group, place: &Arc<Place>, messages: u64) -> Result<Duration, Failure> {
    timed(group, place, messages, |messages| {
        let page = LISTED.min(messages);
        let first = (messages - page) / 2 + 1;
        let items = "UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE";
        (format!("FETCH {first}:{} ({items})", first + page - 1), page)
    })
}

/// How long the flags of all messages take, and the most memory meanwhile.
fn flags(group: &Group, place: &Arc<Place>, messages: u64) -> Result<(Duration, u64), Failure> {
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
        let taken =
            timed(group, place, messages, |messages| ("FETCH 1:* (FLAGS)".to_owned(), messages));
        done.store(true, Ordering::SeqCst);
        let peak = watch.join().map_err(|_| Failure::system("a thread ended in a panic"))?;
        Ok((taken?, peak))
    })
}

/// How long a FETCH takes in a session that has selected the mailbox.
fn timed(
    group: &Group,
    place: &Arc<Place>,
    messages: u64,
    command: impl Fn(u64) -> (String, u64) + Copy + Send + Sync + 'static,
) -> Result<Duration, Failure> {
    let taken = Arc::new(Mutex::new(Duration::ZERO));
    let of_client = taken.clone();
    one_session(group, place, move |mut imap| {
        let taken = of_client.clone();
        async move {
            select(&mut imap, messages).await?;
            let (text, count) = command(messages);
            let since = Instant::now();
            let answer = imap.command(&text).await?;
            *taken.lock().unwrap_or_else(PoisonError::into_inner) = since.elapsed();
            work::expect(&text, answer.fetched, count)
        }
    })?;
    let taken = *taken.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(taken)
}

/// Runs one session of the mailbox's account.
fn one_session<F>(
    group: &Group,
    place: &Arc<Place>,
    session: impl Fn(Imap) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Failure>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let place = place.clone();
    let client = move |member: Member| {
        let (place, session) = (place.clone(), session.clone());
        async move {
            let imap = Imap::open(place.imap, None, false, &load_account(0)).await?;
            member.ready().await;
            session(imap).await
        }
    };
    crew::run(1, FILL_TIME_MAX, group, || Ok(()), client).map(drop)
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
const MEMORY_PERIOD: Duration = Duration::from_millis(20);
