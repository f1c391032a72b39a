//! Memory of sessions that wait in IDLE.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringpost::runtime::timer;

use super::clients::Imap;
use super::crew;
use super::load_account;
use super::report::Report;
use super::rounds::{FILL_TIME_MAX, Stage};
use crate::failure::Failure;

/// Proportional memory of all processes with the sessions less that before, for each session. The
/// server is started anew: what others left free would hide what these need.
pub fn measure(stage: &mut Stage, index: usize, report: &mut Report) -> Result<(), Failure> {
    stage.hosts[index].stop()?;
    stage.hosts[index].start()?;
    let sessions = match stage.is_peer(index) {
        true => stage.options.peer_idle_sessions,
        false => stage.options.idle_sessions,
    };
    // What the first sessions bring about once is none of any session's.
    let first = WARM_UP_SESSIONS.min(sessions);
    with_sessions(stage, index, first)?;
    std::thread::sleep(SETTLED_AFTER);
    let before = stage.hosts[index].group.memory().proportional_bytes;
    let with = with_sessions(stage, index, sessions)?;
    let bytes = with.saturating_sub(before) as f64 / sessions as f64;
    let name = stage.hosts[index].name;
    eprintln!("{name:<9} {sessions} sessions in IDLE under TLS, {bytes:.0} octets each");
    let side = report.side(stage.is_peer(index));
    (side.idle_bytes, side.idle_sessions) = (Some(bytes), sessions);
    Ok(())
}

/// Memory while so many sessions are in IDLE.
fn with_sessions(stage: &Stage, index: usize, sessions: usize) -> Result<u64, Failure> {
    let (host, accounts) = (&stage.hosts[index], stage.options.accounts);
    let imaps = host.imaps;
    let logged_in = Arc::new(AtomicUsize::new(0));
    let mut bytes = 0;
    let measured = || {
        std::thread::sleep(SETTLED_AFTER);
        bytes = host.group.memory().proportional_bytes;
        Ok(())
    };
    crew::run(sessions, FILL_TIME_MAX, &host.group, measured, move |member| {
        let logged_in = logged_in.clone();
        async move {
            // A few at a time: thousands of handshakes and passwords at once are none of this.
            while member.index >= logged_in.load(Ordering::SeqCst) + LOGINS_AT_A_TIME {
                timer::sleep(TURN_PERIOD).await;
            }
            let name = load_account(member.index % accounts);
            let mut imap = Imap::open(imaps, Some(source(member.index)), true, &name).await?;
            logged_in.fetch_add(1, Ordering::SeqCst);
            imap.command("SELECT INBOX").await?;
            imap.idle().await?;
            member.ready().await;
            Ok(())
        }
    })?;
    Ok(bytes)
}

/// An address of loopback has ports for some ten thousand connections.
fn source(index: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, (index / SESSIONS_A_SOURCE + 1) as u8).into()
}

const WARM_UP_SESSIONS: usize = 20;
const SESSIONS_A_SOURCE: usize = 1000;
const LOGINS_AT_A_TIME: usize = 4;
const TURN_PERIOD: Duration = Duration::from_millis(10);
/// Longer than any time after which a server puts a session to sleep.
const SETTLED_AFTER: Duration = Duration::from_secs(6);
