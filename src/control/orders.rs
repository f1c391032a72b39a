//! Orders of an operator on queued mail: understood, carried out, and logged in one line each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asking;
use super::socket::{Out, Stop, parse_id};
use super::wire::{Line, SteerOrder, Which};
use super::{Control, StandError};
use crate::config::{LogFormat, parse_next_hop};
use crate::event::{Format, OrderRecord};
use crate::queue::selection::parse_class;
use crate::queue::{
    Conditions, Mode, Obstacles, Order, Reports, ReversePathPattern, Selection, StandingOrder,
    Steered,
};
use crate::runtime::clock;
use crate::shard::ask::Ask;

/// Carries out an order, and shows how far it is.
pub fn steer(
    order: &SteerOrder,
    which: &Which,
    dry_run: bool,
    by: &str,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    check_said(!which.is_empty(), which.all)?;
    let id = which.id.as_deref().map(|text| parse_id(text, control)).transpose()?;
    let reverse_path = which.reverse_path.as_deref().map(ReversePathPattern::parse);
    let now_ms = clock::unix_ms();
    let ago = |seconds: u64| now_ms.saturating_sub(seconds.saturating_mul(1000));
    let selection = Arc::new(Selection {
        message: id.map(|id| id.message),
        flows: which.mail.parse().map_err(Stop::Refused)?,
        reverse_path: reverse_path.transpose().map_err(Stop::Refused)?,
        before_ms: which.older_than_s.map(ago),
        from_ms: which.younger_than_s.map(ago),
    });
    let shards = match id {
        Some(id) => vec![usize::from(id.shard)],
        None => control.shards.numbers(),
    };
    let mode = if dry_run { Mode::Count } else { Mode::CarryOut };
    let order_of = parse_order(order).map_err(Stop::Refused)?;
    let mut carry_out = |progress: &mut Steered| {
        let mut shown = Instant::now();
        let make = |reply| {
            let (selection, order) = (selection.clone(), order_of.clone());
            Ask::QueueSteer { selection, order, mode, reply }
        };
        asking::follow(&*control.shards, &shards, SILENCE_MAX, make, |steered| {
            *progress = steered;
            if shown.elapsed() < SHOW_PERIOD {
                return Ok(());
            }
            shown = Instant::now();
            let Steered { matched, done } = steered;
            out.line_now(&Line::Steered { matched, done }).map_err(Stop::from)
        })
    };
    let mut progress = Steered::default();
    let result = carry_out(&mut progress);
    if !dry_run {
        let Steered { matched, done } = *result.as_ref().unwrap_or(&progress);
        let end = result.as_ref().err().map_or(String::new(), |stop| format!("; ended by: {stop}"));
        let came_of_it = format!("{done} of {matched} tasks{end}");
        log(control, by, &order.to_string(), &which.to_string(), &came_of_it);
    }
    let Steered { matched, done } = result?;
    Ok(out.line(&Line::Steered { matched, done })?)
}

fn parse_order(order: &SteerOrder) -> Result<Order, String> {
    Ok(match order {
        SteerOrder::Retry { force: false } => Order::Retry(Obstacles::Respected),
        SteerOrder::Retry { force: true } => Order::Retry(Obstacles::Lifted),
        SteerOrder::Hold => Order::Hold,
        SteerOrder::Release => Order::Release,
        SteerOrder::Bounce { quiet: false } => Order::Bounce(Reports::Wanted),
        SteerOrder::Bounce { quiet: true } => Order::Bounce(Reports::Suppressed),
        SteerOrder::Reroute { to: None } => Order::Reroute(None),
        SteerOrder::Reroute { to: Some(to) } => {
            let next_hop = parse_next_hop(to).ok_or_else(|| {
                format!("to: found {to:?}; expected smtp://ADDRESS:PORT or lmtp://ADDRESS:PORT")
            })?;
            Order::Reroute(Some(next_hop))
        }
        SteerOrder::Class { to } => Order::Class(parse_class(to)?),
    })
}

/// A suspension as it is asked for.
pub struct Suspend<'a> {
    pub mail: &'a Conditions,
    pub all: bool,
    pub seconds: Option<u64>,
    pub note: &'a str,
}

pub fn suspend(
    words: &Suspend<'_>,
    dry_run: bool,
    by: &str,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    check_said(!words.mail.is_empty(), words.all)?;
    if dry_run {
        return count(words.mail, control, out);
    }
    let now_ms = clock::unix_ms();
    let length_ms = words.seconds.map(|seconds| seconds.saturating_mul(1000));
    let mut suspension = StandingOrder {
        number: 0,
        mail: words.mail.clone(),
        since_ms: now_ms,
        until_ms: length_ms.map(|length_ms| now_ms.saturating_add(length_ms)),
        by: by.to_owned(),
        note: words.note.to_owned(),
    };
    let added = control.change_suspensions(|suspensions| {
        let added = suspensions.add(suspension.clone());
        added.map_err(|error| StandError::Refused(error.to_string()))
    });
    let mail = words.mail.to_string();
    let came_of_it = match &added {
        Ok(number) => format!("suspension {number}"),
        Err(error) => error.to_string(),
    };
    log(control, by, "suspend", &mail, &came_of_it);
    suspension.number = added.map_err(|error| Stop::Refused(error.to_string()))?;
    Ok(out.line(&Line::Suspension(suspension))?)
}

/// Which suspensions are to be lifted.
pub struct Resume<'a> {
    pub number: Option<u32>,
    pub mail: &'a Conditions,
    pub all: bool,
}

impl Resume<'_> {
    fn lifts(&self, suspension: &StandingOrder) -> bool {
        match self.number {
            Some(number) => suspension.number == number,
            None => self.all || suspension.mail == *self.mail,
        }
    }
}

pub fn resume(
    words: &Resume<'_>,
    dry_run: bool,
    by: &str,
    control: &Control,
    out: &mut Out,
) -> Result<(), Stop> {
    let says_something = words.number.is_some() || !words.mail.is_empty();
    check_said(says_something, words.all)?;
    if words.number.is_some() && !words.mail.is_empty() {
        return Err(Stop::Refused("a number takes no other condition".into()));
    }
    let said = match words.number {
        Some(number) => format!("number={number}"),
        None => words.mail.to_string(),
    };
    let lifted = if dry_run {
        let now_ms = clock::unix_ms();
        let standing = control.suspensions();
        let standing = standing.iter().filter(|it| it.stands(now_ms) && words.lifts(it));
        Ok(standing.cloned().collect())
    } else {
        control.change_suspensions(|suspensions| Ok(suspensions.remove(|it| words.lifts(it))))
    };
    let came_of_it = match &lifted {
        Ok(lifted) => format!("{} suspensions lifted", lifted.len()),
        Err(error) => error.to_string(),
    };
    if !dry_run {
        log(control, by, "resume", &said, &came_of_it);
    }
    let lifted = lifted.map_err(|error| Stop::Refused(error.to_string()))?;
    if lifted.is_empty() && !words.all {
        let text = format!(
            "no suspension of {said} stands by order; ringpost queue suspensions shows all, and \
             ringpost queue retry --force lifts those by rule"
        );
        return Err(Stop::Refused(text));
    }
    for suspension in lifted {
        out.line(&Line::Suspension(suspension))?;
    }
    Ok(())
}

/// How many tasks a suspension makes wait.
fn count(mail: &Conditions, control: &Control, out: &mut Out) -> Result<(), Stop> {
    let flows = mail.parse().map_err(Stop::Refused)?;
    let selection = Arc::new(Selection { flows, ..Selection::default() });
    let make = |reply| Ask::QueueSteer {
        selection: selection.clone(),
        order: Order::Hold,
        mode: Mode::Count,
        reply,
    };
    let shards = control.shards.numbers();
    let Steered { matched, done } =
        asking::follow(&*control.shards, &shards, SILENCE_MAX, make, |_| Ok::<(), Stop>(()))?;
    Ok(out.line(&Line::Steered { matched, done })?)
}

/// Everything is meant only when that is said.
fn check_said(condition: bool, all: bool) -> Result<(), Stop> {
    match (condition, all) {
        (false, false) => Err(Stop::Refused("say which messages, or --all".into())),
        (true, true) => Err(Stop::Refused("--all takes no other condition".into())),
        _ => Ok(()),
    }
}

fn log(control: &Control, by: &str, order: &str, mail: &str, result: &str) {
    let record = OrderRecord { time_ms: clock::unix_ms(), by, order, mail, result };
    let format = match control.config().log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let mut line = Vec::new();
    record.write(format, &mut line);
    control.log.append(line);
}

/// Longest time without a sign of a shard that carries out an order.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How often a client sees how far its order is.
const SHOW_PERIOD: Duration = Duration::from_millis(500);
