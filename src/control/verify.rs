//! Verification of addresses: which shard asks, how many at once, and what is known without asking.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::mpsc;

use super::asking;
use super::socket::{Out, Stop};
use super::wire::Line;
use super::{ANSWER_WAIT, Control};
use crate::delivery::known::Known;
use crate::delivery::verify::{Verification, of_known};
use crate::limits::VERIFICATIONS_AT_ONCE_MAX;
use crate::shard::ask::Ask;

/// Answers for each of `addresses`, in the order in which they are known.
pub(super) fn answer(
    addresses: &[String],
    fresh: bool,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    let (reply, answers) = mpsc::channel::<Verification>();
    let mut under_way = 0;
    for address in addresses {
        if !fresh && let Some((known, seconds_ago)) = known(address, control)? {
            let verification = of_known(address, known, seconds_ago);
            out.line_now(&Line::Verification(Box::new(verification)))?;
            continue;
        }
        while under_way >= VERIFICATIONS_AT_ONCE_MAX {
            wait(&answers, &mut under_way, control, out)?;
        }
        let ask = Ask::Verify { address: address.as_str().into(), reply: reply.clone() };
        asking::tell(&*control.shards, shard_of(address, control), ask, ANSWER_WAIT)?;
        under_way += 1;
    }
    while under_way > 0 {
        wait(&answers, &mut under_way, control, out)?;
    }
    Ok(())
}

fn wait(
    answers: &mpsc::Receiver<Verification>,
    under_way: &mut usize,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    // Each ends by itself in the time that the configuration allows it.
    let time_max = control.config().verify.timeout + ANSWER_WAIT;
    let verification = answers.recv_timeout(time_max).map_err(|_| {
        Stop::Refused(format!("no verdict within {time_max:?}: a shard is overloaded or hung"))
    })?;
    *under_way -= 1;
    Ok(out.line_now(&Line::Verification(Box::new(verification)))?)
}

/// The latest that any shard knows.
fn known(address: &str, control: &Control) -> Result<Option<(Known, u64)>, Stop> {
    let make = |reply| Ask::KnownMailbox { address: address.into(), reply };
    let mut latest: Option<(Known, u64)> = None;
    for (_, known) in asking::ask_all(&*control.shards, ANSWER_WAIT, make) {
        if let Some((known, seconds_ago)) = known?
            && latest.is_none_or(|(_, of_latest)| seconds_ago < of_latest)
        {
            latest = Some((known, seconds_ago));
        }
    }
    Ok(latest)
}

/// One shard asks for all mailboxes of a domain, so that its answers from the DNS serve again.
fn shard_of(address: &str, control: &Control) -> usize {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain).to_lowercase();
    let mut hasher = DefaultHasher::new();
    domain.hash(&mut hasher);
    let numbers = control.shards.numbers();
    numbers[(hasher.finish() % numbers.len() as u64) as usize]
}
