//! What became of every message, as clients, next hops and the log were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use ringpost_sim::journal::kind;
use ringpost_sim::journal::tap::Tap;
use ringpost_sim::mail::envelope::Notify;
use ringpost_sim::mail::{Class, Envelope, EnvelopeFlags, QueueId, Recipient, Stream, TlsTag};
use ringpost_sim::queue::codec;
use ringpost_sim::rng::Rng;

use crate::truth::ensure;

type Checked = Result<(), String>;
/// Shard and message.
type Id = (usize, u64);

/// A message that a client has sent, or tried to.
struct Mail {
    content: std::ops::Range<usize>,
    recipients: Vec<Fate>,
    /// The client was answered 250.
    accepted: Option<Id>,
}

/// What became of one recipient.
#[derive(Clone, Default)]
struct Fate {
    wants_success: bool,
    /// So many times a next hop took the message for it.
    taken: u32,
    /// Reports with this action that came back to the reverse-path.
    failed: u32,
    relayed: u32,
}

/// The recipients of a message that are settled.
#[derive(Default)]
struct Settled {
    is_all: bool,
    addresses: BTreeSet<String>,
}

#[derive(Default)]
pub struct Ledger {
    mails: Vec<Mail>,
    /// Settled as far as the process knows, or was known to be durable when it began.
    settled: BTreeMap<Id, Settled>,
    /// The log says so, so it is durable.
    told: BTreeSet<(Id, String)>,
    /// Under which message an address is served that others lead on to.
    onward: BTreeMap<String, QueueId>,
    pub counts: Counts,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    pub accepted: u64,
    pub refused: u64,
    pub attempts: u64,
    pub relayed: u64,
    pub twice: u64,
    pub failed: u64,
    pub reports: u64,
    /// Recipients that led on to another address.
    pub onward: u64,
}

impl Ledger {
    /// A message that nobody has sent before, and its content.
    pub fn new_mail(&mut self, rng: &mut Rng, now_ms: u64, domains: usize) -> (usize, Envelope) {
        let mark = self.mails.len();
        let bytes_max = match rng.below(100) {
            0..60 => 2_000,
            60..92 => 40_000,
            92..98 => 200_000,
            _ => CONTENT_BYTES_MAX,
        };
        let bytes = 1 + rng.below(bytes_max);
        let start = rng.below(CONTENT_STARTS);
        let recipient_count = if rng.percent(75) { 1 } else { rng.between(2, 6) };
        let notify = |rng: &mut Rng| match rng.below(8) {
            0 => Notify(Notify::SUCCESS | Notify::FAILURE | Notify::DELAY),
            1 => Notify(Notify::FAILURE),
            _ => Notify::DEFAULT,
        };
        let recipients = (0..recipient_count).map(|index| Recipient {
            address: format!("r{index}.m{mark}@d{}.test", rng.below(domains)).into(),
            original_recipient: None,
            notify: notify(rng),
        });
        let recipients: Vec<Recipient> = recipients.collect();
        let fates = recipients.iter().map(|recipient| Fate {
            wants_success: recipient.notify.wants_success(),
            ..Fate::default()
        });
        self.mails.push(Mail {
            content: start..start + bytes,
            recipients: fates.collect(),
            accepted: None,
        });
        let release_ms = if rng.percent(12) { now_ms + rng.below(8_000) as u64 } else { 0 };
        let class = if rng.percent(20) { Class::Transactional } else { Class::Bulk };
        let envelope = Envelope {
            reverse_path: format!("m{mark}@{SENDERS}").into(),
            recipients,
            flags: EnvelopeFlags::default(),
            accepted_ms: now_ms,
            release_ms,
            stream: Stream {
                tenant: ["", "acme", "b"][rng.below(3)].into(),
                campaign: ["", "spring"][rng.below(2)].into(),
                class,
                tls: TlsTag::ALL[mark % TlsTag::ALL.len()],
            },
            envelope_id: None,
            client: None,
            header_prefix: format!("Received: by sim; {mark}\r\n").into_bytes(),
            content_bytes: 0,
            content_hash: 0,
        };
        (mark, envelope)
    }

    pub fn content(&self, mark: usize) -> &'static [u8] {
        &noise()[self.mails[mark].content.clone()]
    }

    /// The client was answered 250.
    pub fn on_accepted(&mut self, mark: usize, id: QueueId) {
        self.counts.accepted += 1;
        self.mails[mark].accepted = Some((id.shard.into(), id.message));
    }

    /// Whether these recipients may be tried: none of them is settled.
    pub fn on_attempt(&mut self, id: QueueId, addresses: &[&str]) -> Checked {
        self.counts.attempts += 1;
        for address in addresses {
            let fate = parse(address).map(|(index, mark)| &self.mails[mark].recipients[index]);
            ensure(fate.is_none_or(|fate| fate.failed == 0), || {
                format!("{address} is tried though its reverse-path was told that it Failed")
            })?;
        }
        for address in addresses.iter().filter(|address| address.starts_with(ONWARD)) {
            let known = *self.onward.entry((*address).to_owned()).or_insert(id);
            ensure(known == id, || format!("{address} is queued twice: as {known} and as {id}"))?;
        }
        let settled = self.settled.get(&(id.shard.into(), id.message));
        let Some(settled) = settled else { return Ok(()) };
        let again = addresses.iter().find(|it| settled.is_all || settled.addresses.contains(**it));
        ensure(again.is_none(), || format!("{id}: {again:?} is settled and tried again"))
    }

    /// Whether what is sent of a client's message is what the client sent.
    pub fn check_content(&self, reverse_path: &str, content: &[u8]) -> Checked {
        let Some((_, mark)) = parse(&format!("r0.{reverse_path}")) else { return Ok(()) };
        ensure(content == self.content(mark), || format!("the content of mail {mark} differs"))
    }

    /// The process knows that a recipient is settled.
    pub fn on_settled(&mut self, id: QueueId, address: &str) {
        let settled = self.settled.entry((id.shard.into(), id.message)).or_default();
        settled.addresses.insert(address.to_owned());
    }

    /// A next hop took a message for a recipient.
    pub fn on_taken(&mut self, address: &str) {
        if let Some((index, mark)) = parse(address) {
            let fate = &mut self.mails[mark].recipients[index];
            fate.taken += 1;
            self.counts.relayed += 1;
            self.counts.twice += u64::from(fate.taken > 1);
        }
    }

    /// A reverse-path got a report.
    pub fn on_report(&mut self, report: &str) -> Checked {
        self.counts.reports += 1;
        let mut address = None;
        for line in report.lines() {
            if let Some(recipient) = line.strip_prefix("Final-Recipient: rfc822;") {
                address = parse(recipient.trim());
            } else if let Some(action) = line.strip_prefix("Action: ")
                && let Some((index, mark)) = address.take()
            {
                let fate = &mut self.mails[mark].recipients[index];
                match action.trim() {
                    "failed" => fate.failed += 1,
                    "relayed" | "delivered" => {
                        ensure(fate.taken > 0, || "a report of success comes too early".into())?;
                        fate.relayed += 1;
                    }
                    "delayed" => {}
                    other => return Err(format!("a report says {other}")),
                }
                self.counts.failed += u64::from(action.trim() == "failed");
            }
        }
        Ok(())
    }

    /// The log has these lines: what they say is durable.
    pub fn on_lines(&mut self, lines: &[u8]) -> Checked {
        for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            let line: serde_json::Value =
                serde_json::from_slice(line).map_err(|error| error.to_string())?;
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            if ["relayed", "failed"].contains(&&*word("outcome")) {
                let id: QueueId = word("id").parse().map_err(|_| "a line without an id")?;
                self.told.insert(((id.shard.into(), id.message), word("recipient")));
            }
        }
        Ok(())
    }

    /// A shard has recovered what `tap` was given up to `last_seq`, and `queued` of it is queued.
    pub fn on_recovered(
        &mut self,
        shard: usize,
        tap: &Tap,
        last_seq: u64,
        queued: &BTreeSet<u64>,
    ) -> Checked {
        let settled = settled(tap, last_seq);
        for ((at, id), address) in self.told.iter().filter(|((at, _), _)| *at == shard) {
            let holds = settled.get(id);
            let holds = holds.is_some_and(|it| it.is_all || it.addresses.contains(address));
            ensure(holds, || format!("{address} of message {at}/{id}: its logged end is gone"))?;
        }
        for mail in &self.mails {
            if let Some((at, id)) = mail.accepted
                && at == shard
            {
                let is_over = settled.get(&id).is_some_and(|it| it.is_all);
                let is_there = queued.contains(&id) || is_over;
                ensure(is_there, || format!("message {shard}/{id} was answered 250 and is lost"))?;
            }
        }
        self.settled.retain(|(at, _), _| *at != shard);
        self.settled.extend(settled.into_iter().map(|(id, settled)| ((shard, id), settled)));
        Ok(())
    }

    /// Everything has drained: whoever was answered 250 has every recipient served, or knows.
    pub fn judge(&self) -> Checked {
        for (mark, mail) in self.mails.iter().enumerate().filter(|(_, it)| it.accepted.is_some()) {
            for (index, fate) in mail.recipients.iter().enumerate() {
                ensure(fate.taken > 0 || fate.failed > 0, || {
                    format!("recipient {index} of mail {mark} got nothing, and nobody was told")
                })?;
                ensure(!fate.wants_success || fate.relayed + fate.failed > 0, || {
                    format!("nobody was told that recipient {index} of mail {mark} was relayed")
                })?;
            }
        }
        Ok(())
    }
}

/// What the records of a tap up to `last_seq` settle, by message.
fn settled(tap: &Tap, last_seq: u64) -> BTreeMap<u64, Settled> {
    let mut settled: BTreeMap<u64, Settled> = BTreeMap::new();
    let mut recipients: BTreeMap<u64, Vec<Recipient>> = BTreeMap::new();
    tap.visit(|logged| {
        if logged.seq > last_seq {
            return;
        }
        match logged.kind {
            kind::ENVELOPE => {
                if let Ok((envelope, _)) = codec::read_envelope(&logged.payload) {
                    recipients.insert(logged.id, envelope.recipients);
                }
            }
            kind::STATE => {
                let Ok(state) = codec::read_state(&logged.payload) else { return };
                for group in state.groups.iter().filter(|group| group.state.is_final()) {
                    for index in &group.recipient_indexes {
                        let address = recipients[&logged.id][usize::from(*index)].address.clone();
                        settled.entry(logged.id).or_default().addresses.insert(address.into());
                    }
                }
            }
            _ => settled.entry(logged.id).or_default().is_all = true,
        }
    });
    // A message of which every recipient is settled by its STATEs needs no RETIRED.
    for (id, settled) in &mut settled {
        let all = recipients.get(id).into_iter().flatten();
        settled.is_all |= all.clone().count() > 0
            && all.map(|it| &*it.address).all(|it| settled.addresses.contains(it));
    }
    settled
}

/// `r3.m17@d1.test`: recipient 3 of mail 17, or what it leads on to.
fn parse(address: &str) -> Option<(usize, usize)> {
    let (local, _) = address.strip_prefix(ONWARD).unwrap_or(address).split_once('@')?;
    let (recipient, mail) = local.split_once('.')?;
    Some((recipient.strip_prefix('r')?.parse().ok()?, mail.strip_prefix('m')?.parse().ok()?))
}

/// Whether a recipient stands for another address: those of every sixth mail do.
pub fn leads_on(address: &str) -> bool {
    !address.starts_with(ONWARD) && parse(address).is_some_and(|(_, mark)| mark % 6 == 0)
}

/// Text that content is cut from: lines without anything to be careful of.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut rng = Rng::new(2);
        let octet = |index: usize, rng: &mut Rng| match index % 64 {
            62 => b'\r',
            63 => b'\n',
            _ => b'a' + rng.below(26) as u8,
        };
        (0..CONTENT_STARTS + CONTENT_BYTES_MAX).map(|index| octet(index, &mut rng)).collect()
    })
}

/// In front of an address: what that leads on to.
pub const ONWARD: &str = "on-";
/// Domain of the reverse-paths.
pub const SENDERS: &str = "senders.test";
const CONTENT_STARTS: usize = 64 * 1024;
const CONTENT_BYTES_MAX: usize = 700_000;
