use super::super::codec::{BodyId, BodyPayload, Quota, SpecialUses};
use super::super::items::Cursor;
use super::super::plan::{Delivered, Delivery, Expunging, Part, Refusal, Target};
use super::*;
use crate::journal::Location;
use crate::limits::{KEYWORDS_MAX, VANISHED_RANGES_MAX};
use crate::proto::imap::flag::{Flags, SystemFlags};
use crate::proto::imap::mailbox::MailboxName;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;

/// A partition, and the log that it came from.
#[derive(Default)]
struct Driver {
    partition: Partition,
    log: Vec<Logged>,
    next_id: u64,
    now_s: u32,
}

enum Logged {
    Record { kind: u8, id: u64, payload: Vec<u8>, place: Location },
    Items(Vec<u8>),
}

type Done<T> = Result<T, Refusal>;

impl Driver {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn place(&self) -> Location {
        let block = self.log.len() as u16;
        Location { slot: 1, block, epoch_low: 1, in_frame: 64, record_bytes: 100 }
    }

    /// Logs and applies, as a store does.
    fn apply(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            let mut payload = Vec::new();
            let place = self.place();
            if let Operation::BodyPlaced(body) = &operation {
                let octets = vec![b'x'; body.bytes as usize];
                let (bytes, chunks) = (body.bytes, body.chunks.clone());
                BodyPayload { octets: &octets, bytes, chunks }.write_front(&mut payload);
                payload.extend_from_slice(&octets);
            } else {
                operation.write(&mut payload);
            }
            let (kind, id) = operation.kind_and_id();
            self.partition.apply(&operation);
            self.log.push(Logged::Record { kind, id, payload, place });
        }
    }

    fn account(&mut self, name: &str) -> Done<(AccountId, MailboxId)> {
        let ids = (AccountId(self.id()), MailboxId(self.id()));
        let operations = self.partition.plan_account(ids, name, None, self.now_s)?;
        self.apply(operations);
        Ok(ids)
    }

    fn mailbox(&mut self, account: AccountId, name: &str) -> Done<MailboxId> {
        let id = MailboxId(self.id());
        let (uses, now_s) = (SpecialUses::default(), self.now_s);
        let operations = self.partition.plan_mailbox(id, account, &named(name), uses, now_s)?;
        self.apply(operations);
        Ok(id)
    }

    fn delete(&mut self, mailbox: MailboxId) -> Done<()> {
        let operations = self.partition.plan_deletion(mailbox, self.now_s)?;
        self.apply(operations);
        Ok(())
    }

    fn rename(&mut self, account: AccountId, from: &str, to: &str) -> Done<()> {
        let operations = self.partition.plan_rename(account, &named(from), &named(to))?;
        self.apply(operations);
        Ok(())
    }

    fn deliver(
        &mut self,
        mailboxes: &[MailboxId],
        flags: &Flags,
        key: Option<DeliveryKey>,
    ) -> Done<Vec<Delivered>> {
        let mut deliveries = Vec::new();
        let mut bodies = Vec::new();
        for mailbox in mailboxes {
            let (flags, prefix, to) = (flags.clone(), Vec::new(), Target::Mailbox(*mailbox));
            deliveries.push(Delivery {
                to,
                prefix,
                date: InternalDate { unix_s: self.now_s, zone: 5 },
                flags,
                key,
            });
            bodies.push(BodyId(self.id()));
        }
        let planned = self.partition.plan_deliveries(&deliveries, 10, &bodies, self.now_s);
        for (body, told) in bodies.iter().zip(&planned.told) {
            if matches!(told, Ok(Delivered::As { .. })) {
                let (place, bytes) = (self.place(), 10 + body.0 as u32 % 7);
                let body = Body { id: *body, place, bytes, chunks: Vec::new() };
                self.apply(vec![Operation::BodyPlaced(body)]);
            }
        }
        self.apply(planned.operations);
        planned.told.into_iter().collect()
    }

    fn quota(&mut self, account: AccountId, bytes: u64, messages: u32) {
        let planned = self.partition.plan_quota(account, Quota { bytes, messages });
        self.apply(planned.expect("there"));
    }

    fn append(&mut self, mailbox: MailboxId) -> u32 {
        match self.deliver(&[mailbox], &Flags::default(), None).as_deref() {
            Ok([Delivered::As { uid, .. }]) => *uid,
            other => panic!("{other:?}"),
        }
    }

    fn flags(
        &mut self,
        mailbox: MailboxId,
        uids: &NumberSet,
        change: FlagChange,
        flags: &Flags,
    ) -> Done<Part> {
        let planned = self.partition.plan_flags(mailbox, uids, (change, flags), None)?;
        self.apply(planned.operations);
        Ok(planned.told)
    }

    fn expunge(&mut self, mailbox: MailboxId, which: Expunging<'_>) -> Done<Part> {
        let planned = self.partition.plan_expunge(mailbox, which, 1, self.now_s)?;
        self.apply(planned.operations);
        Ok(planned.told)
    }

    fn copy(
        &mut self,
        source: MailboxId,
        target: MailboxId,
        uids: &NumberSet,
        is_move: bool,
    ) -> Done<Part> {
        let planned = self.partition.plan_copy(source, target, uids, is_move, self.now_s)?;
        self.apply(planned.operations);
        Ok(planned.told)
    }

    fn restore(&mut self, source: MailboxId, target: MailboxId, uids: &NumberSet) -> Done<Part> {
        let planned = self.partition.plan_restore(source, target, uids, self.now_s)?;
        self.apply(planned.operations);
        Ok(planned.told)
    }

    /// What the log says from this record on.
    fn undelete(&mut self, source: MailboxId, name: &str) -> Done<(MailboxId, Part)> {
        let new = MailboxId(self.id());
        let planned = self.partition.plan_undeleted(new, source, &named(name), self.now_s)?;
        self.apply(planned.operations);
        Ok((planned.told, self.restore(source, planned.told, &set(&[(1, 999)]))?))
    }

    fn replay(&self, from: usize) -> Partition {
        let mut partition = Partition::default();
        for logged in &self.log[from..] {
            match logged {
                Logged::Record { kind, id, payload, place } => {
                    let operation = Operation::read(*kind, *id, payload, *place);
                    partition.apply(&operation.expect("whole").expect("ours"));
                }
                Logged::Items(payload) => partition.apply_items(payload).expect("whole"),
            }
        }
        partition.end_replay();
        partition
    }
}

/// All that a partition is: the same for the same, and short in the message of a failed test.
fn told(partition: &Partition) -> Vec<(String, u128)> {
    let mut keys: Vec<DeliveryKey> = partition.keys.known.iter().copied().collect();
    keys.sort_unstable();
    let mut told = vec![
        ("modseq".to_owned(), partition.modseq.into()),
        ("uid_validity".to_owned(), partition.uid_validity.into()),
        (format!("{} keys", keys.len()), hash(format!("{keys:?}").as_bytes())),
    ];
    let mut next = Some(Cursor::Accounts(AccountId(0)));
    while let Some(cursor) = next {
        let (payload, after) = partition.next_item(cursor);
        told.push((format!("{cursor:?}"), hash(&payload)));
        next = after;
    }
    told
}

fn hash(octets: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(octets)
}

/// The header says what a look at every message says.
fn check_headers(partition: &Partition) {
    for mailbox in partition.mailboxes.values() {
        let entries: Vec<Entry> = mailbox.entries(0..u32::MAX).collect();
        let status = mailbox.status();
        let is_unseen = |entry: &&Entry| !entry.flags.has(SystemFlags::SEEN);
        assert_eq!(status.exists as usize, entries.len());
        assert_eq!(status.unseen as usize, entries.iter().filter(is_unseen).count());
        let first_unseen = entries.iter().position(|entry| is_unseen(&entry));
        assert_eq!(status.first_unseen, first_unseen.map(|position| position as u32 + 1));
        assert_eq!(status.bytes, entries.iter().map(|entry| u64::from(entry.bytes)).sum::<u64>());
        assert!(entries.is_sorted_by(|one, other| one.uid < other.uid));
        assert!(entries.iter().all(|entry| entry.uid < status.uid_next));
        assert!(entries.iter().all(|entry| entry.modseq <= status.highest_modseq));
        for entry in &entries {
            assert_eq!(partition.bodies.bytes(entry.body), entry.bytes);
        }
    }
}

fn named(name: &str) -> MailboxName {
    MailboxName::parse(name.as_bytes()).expect("a name")
}

fn set(ranges: &[(u32, u32)]) -> NumberSet {
    ranges.iter().copied().collect()
}

fn flags(system: SystemFlags, keywords: &[&str]) -> Flags {
    let mut flags = Flags { system, keywords: Vec::new() };
    keywords.iter().for_each(|keyword| flags.add_keyword(keyword));
    flags
}

#[test]
fn uids_are_never_used_again_and_uid_validity_never_comes_again() {
    let mut driver = Driver { now_s: 1000, ..Driver::default() };
    let (account, inbox) = driver.account("Jo@example.test").expect("room");
    assert_eq!(driver.account("jo@EXAMPLE.test"), Err(Refusal::Exists));
    assert_eq!([driver.append(inbox), driver.append(inbox)], [1, 2]);
    let all = set(&[(1, u32::MAX)]);
    driver.expunge(inbox, Expunging::All(&all)).expect("there");
    assert_eq!(driver.append(inbox), 3);
    let mut validities = vec![driver.partition.mailbox(inbox).expect("there").uid_validity];
    for _ in 0..3 {
        let mailbox = driver.mailbox(account, "a").expect("room");
        validities.push(driver.partition.mailbox(mailbox).expect("there").uid_validity);
        assert_eq!(driver.append(mailbox), 1);
        driver.delete(mailbox).expect("there");
        assert_eq!(driver.delete(mailbox), Err(Refusal::NoSuchMailbox));
    }
    assert_eq!(validities, [1000, 1001, 1002, 1003], "within one second");
    driver.now_s = 500;
    driver.account("other").expect("room");
    assert_eq!(driver.partition.uid_validity, 1004, "though the clock went back");
    assert_eq!(driver.delete(inbox), Err(Refusal::IsInbox));
    // What stood in frames that cannot be read may have been given out.
    let mut damaged = driver.replay(0);
    damaged.pass_over(100);
    assert_eq!(damaged.mailbox(inbox).map(|inbox| inbox.uid_next), Some(104));
    assert_eq!(damaged.modseq, driver.partition.modseq + 100);
    let again = driver.replay(0);
    assert_eq!(again.mailbox(inbox).map(|inbox| inbox.uid_next), Some(4));
    assert_eq!(told(&again), told(&driver.partition));
}

#[test]
fn a_mod_sequence_is_of_one_command_and_of_what_it_changed() {
    let mut driver = Driver::default();
    let (_, inbox) = driver.account("jo").expect("room");
    (0..4).for_each(|_| assert!(driver.append(inbox) > 0));
    let modseqs = |driver: &Driver| {
        let mailbox = driver.partition.mailbox(inbox).expect("there");
        let modseqs = mailbox.entries(0..u32::MAX).map(|entry| entry.modseq);
        (modseqs.collect::<Vec<_>>(), mailbox.status().highest_modseq)
    };
    assert_eq!(modseqs(&driver), (vec![2, 3, 4, 5], 5));
    let seen = flags(SystemFlags::SEEN, &[]);
    let two = set(&[(2, 3), (9, 9)]);
    let part = driver.flags(inbox, &two, FlagChange::Add, &seen).expect("there");
    assert_eq!((part.uids, modseqs(&driver)), (set(&[(2, 3)]), (vec![2, 6, 6, 5], 6)));
    let logged = driver.log.len();
    driver.flags(inbox, &two, FlagChange::Add, &seen).expect("there");
    assert_eq!(driver.log.len(), logged, "nothing to say");
    let all = set(&[(1, u32::MAX)]);
    driver.flags(inbox, &all, FlagChange::Add, &seen).expect("there");
    assert_eq!(modseqs(&driver), (vec![7, 6, 6, 7], 7));
    // UNCHANGEDSINCE leaves alone what was changed later.
    let remove = (FlagChange::Remove, &seen);
    let planned = driver.partition.plan_flags(inbox, &all, remove, Some(6)).expect("there");
    assert_eq!(planned.told.modified, set(&[(1, 1), (4, 4)]));
    assert_eq!(planned.told.uids, set(&[(2, 3)]));
}

#[test]
fn expunged_uids_are_told_from_a_mod_sequence_on() {
    let mut driver = Driver::default();
    let (_, inbox) = driver.account("jo").expect("room");
    let count = 2 * VANISHED_RANGES_MAX as u32 + 20;
    (0..count).for_each(|_| assert!(driver.append(inbox) > 0));
    let gone = |driver: &Driver, since| {
        driver.partition.mailbox(inbox).expect("there").vanished_since(since)
    };
    // The first has 2.
    let start = u64::from(count) + 1;
    driver.expunge(inbox, Expunging::All(&set(&[(2, 4), (6, 6)]))).expect("there");
    driver.expunge(inbox, Expunging::All(&set(&[(5, 5), (6, 6)]))).expect("there");
    assert_eq!(gone(&driver, start), set(&[(2, 6)]));
    assert_eq!(gone(&driver, start + 1), set(&[(5, 5)]));
    assert!(gone(&driver, start + 2).is_empty());
    // Every other one: as many ranges as are remembered.
    let odd = (5..5 + VANISHED_RANGES_MAX as u32).map(|uid| (2 * uid + 1, 2 * uid + 1));
    let odd: NumberSet = odd.collect();
    driver.expunge(inbox, Expunging::All(&odd)).expect("there");
    assert_eq!(gone(&driver, start + 2), odd, "whole still");
    assert_eq!(gone(&driver, start + 1), odd.union(&set(&[(2, 6)])), "by what is not there");
    assert_eq!(told(&driver.replay(0)), told(&driver.partition));
}

#[test]
fn a_copy_has_the_body_and_keywords_by_name_and_lives_on() {
    let mut driver = Driver::default();
    let (account, inbox) = driver.account("jo").expect("room");
    let other = driver.mailbox(account, "other").expect("room");
    driver.append(other);
    driver
        .flags(other, &set(&[(1, 1)]), FlagChange::Add, &flags(SystemFlags(0), &["$Other"]))
        .expect("there");
    let marked = flags(SystemFlags::FLAGGED, &["$Junk", "$Other"]);
    driver.deliver(&[inbox, inbox], &marked, None).expect("room");
    let part = driver.copy(inbox, other, &set(&[(1, 9)]), false).expect("there");
    assert_eq!((part.uids, part.target_uids), (set(&[(1, 2)]), set(&[(2, 3)])));
    let mailbox = |driver: &Driver, id| driver.partition.mailbox(id).expect("there").clone();
    let copied = mailbox(&driver, other).find(2).expect("a copy");
    let names = mailbox(&driver, other).keyword_names(copied.keywords);
    assert_eq!(names, ["$Other".into(), "$Junk".into()]);
    assert_eq!(copied.flags, SystemFlags::FLAGGED);
    let body = driver.partition.body_of(inbox, 1);
    driver.copy(inbox, other, &set(&[(1, 1)]), true).expect("there");
    assert_eq!(driver.partition.body_of(inbox, 1), None, "moved, not expunged");
    assert_eq!(driver.partition.body_of(other, 4), body);
    assert_eq!(mailbox(&driver, inbox).vanished_since(0), set(&[(1, 1)]));
    assert_eq!(driver.partition.bodies.count(), 3);
    // An expunged message is readable for a while; its body goes with the last that has it.
    driver.now_s = 50;
    driver.expunge(other, Expunging::All(&set(&[(2, 2)]))).expect("there");
    assert_eq!(driver.partition.body_of(other, 2), body);
    let mut release = |before_s, count| driver.partition.release_expunged(before_s, count);
    assert_eq!(release(49, 9), (vec![], false));
    assert_eq!(release(50, 9), (vec![], false), "another copy has it");
    assert_eq!(driver.partition.body_of(other, 2), None);
    driver.delete(other).expect("there");
    assert_eq!(driver.partition.expunged_count(), 3);
    let (released, is_more) = driver.partition.release_expunged(50, 2);
    assert_eq!((released.len(), is_more), (1, true));
    let (released, is_more) = driver.partition.release_expunged(50, 2);
    assert_eq!((released.len(), is_more), (1, false));
    check_headers(&driver.partition);
}

#[test]
fn a_second_delivery_is_known_by_its_key() {
    let mut driver = Driver::default();
    let (_, inbox) = driver.account("jo").expect("room");
    let key = |number| Some(DeliveryKey(number));
    let none = Flags::default();
    let first = driver.deliver(&[inbox], &none, key(7)).expect("room");
    assert_eq!(first, [Delivered::As { uid_validity: 1, uid: 1 }]);
    assert_eq!(driver.deliver(&[inbox], &none, key(7)), Ok(vec![Delivered::Before]));
    let twice = driver.deliver(&[inbox, inbox], &none, key(8)).expect("room");
    assert_eq!(twice[1], Delivered::Before, "within one message");
    assert_eq!(driver.partition.message_count(), 2);
    assert!(driver.replay(0).has_delivered(DeliveryKey(8)));
    // The window moves on.
    let mut keys = Keys::default();
    for number in 0..DELIVERY_KEYS_MAX as u128 + 2 {
        keys.add(DeliveryKey(number));
        keys.add(DeliveryKey(number));
    }
    assert!(!keys.known.contains(&DeliveryKey(1)) && keys.known.contains(&DeliveryKey(2)));
    let (mut from, next) = keys.from(0, 3);
    assert_eq!((from.next(), next), (key(2), Some(5)));
}

#[test]
fn what_was_expunged_can_be_brought_back_for_a_while() {
    let mut driver = Driver { now_s: 77, ..Driver::default() };
    let (account, inbox) = driver.account("jo").expect("room");
    let (_, of_other) = driver.account("al").expect("room");
    let other = driver.mailbox(account, "other").expect("room");
    let marked = flags(SystemFlags::FLAGGED.with(SystemFlags::DELETED), &["$Junk"]);
    driver.deliver(&[inbox, inbox], &marked, None).expect("room");
    let body = driver.partition.body_of(inbox, 2);
    driver.now_s = 99;
    driver.expunge(inbox, Expunging::Deleted).expect("there");
    let all = set(&[(1, 9)]);
    let foreign = driver.restore(inbox, of_other, &all).map(|part| part.uids);
    assert_eq!(foreign, Err(Refusal::NoSuchMailbox));
    driver.quota(account, 0, 1);
    let full = driver.restore(inbox, other, &all).map(|part| part.uids);
    assert_eq!(full, Err(Refusal::OverQuota));
    let part = driver.restore(inbox, other, &set(&[(2, 9)])).expect("there");
    assert_eq!((part.uids, part.target_uids), (set(&[(2, 2)]), set(&[(1, 1)])));
    let entry = driver.partition.mailboxes[&other].find(1).expect("brought back");
    assert_eq!((entry.date, entry.saved_s), (InternalDate { unix_s: 77, zone: 5 }, 99));
    assert_eq!((entry.flags, entry.keywords), (SystemFlags::FLAGGED, 0));
    assert_eq!(driver.partition.release_expunged(99, 9).0.len(), 1);
    assert_eq!(driver.partition.body_of(other, 1), body, "it lives on");
    let late = driver.restore(inbox, other, &all).expect("there");
    assert!(late.uids.is_empty());
    check_headers(&driver.partition);
}

#[test]
fn a_deleted_mailbox_can_be_brought_back_for_a_while() {
    let mut driver = Driver { now_s: 77, ..Driver::default() };
    let (account, _) = driver.account("jo").expect("room");
    let (foreign, _) = driver.account("al").expect("room");
    let work = driver.mailbox(account, "work").expect("room");
    let uses = driver.partition.plan_special_use(work, SpecialUses(8)).expect("there");
    driver.apply(uses);
    driver.deliver(&[work, work, work], &flags(SystemFlags::SEEN, &["x"]), None).expect("room");
    driver.expunge(work, Expunging::All(&set(&[(1, 1)]))).expect("there");
    let uid_validity = driver.partition.mailboxes[&work].uid_validity;
    driver.now_s = 90;
    driver.delete(work).expect("there");
    let deleted: Vec<(MailboxId, Deleted)> =
        driver.partition.deleted_of(account).map(|(id, it)| (id, it.clone())).collect();
    let (name, special_uses) = ("work".into(), SpecialUses(8));
    assert_eq!(deleted, [(work, Deleted { account, name, special_uses, at_s: 90 })]);
    assert_eq!(driver.partition.deleted_of(foreign).count(), 0);
    let kept: Vec<u32> = driver.partition.expunged_from(work, 2).map(|(uid, _)| uid).collect();
    assert_eq!(kept, [2, 3]);

    let (back, part) = driver.undelete(work, "work").expect("room");
    let both = (set(&[(2, 3)]), set(&[(1, 2)]));
    assert_eq!((part.uids, part.target_uids), both, "what had been expunged is not among it");
    let mailbox = &driver.partition.mailboxes[&back];
    assert!(mailbox.uid_validity > uid_validity, "UIDs are others");
    assert_eq!((&*mailbox.name, mailbox.special_uses), ("work", SpecialUses(8)));
    let entry = mailbox.find(1).expect("brought back");
    assert_eq!((entry.flags, entry.keywords), (SystemFlags::SEEN, 0));
    let (again, part) = driver.undelete(work, "work").expect("there");
    assert!(again == back && part.uids.is_empty(), "nothing comes twice");
    let (other, part) = driver.undelete(work, "other").expect("room");
    assert_eq!((part.uids, part.target_uids), both);
    let uses = driver.partition.mailboxes[&other].special_uses;
    assert_eq!(uses, SpecialUses(0), "another mailbox is for that");
    assert_eq!(told(&driver.replay(0)), told(&driver.partition));

    driver.partition.release_expunged(90, 9);
    assert_eq!(driver.undelete(work, "late").map(drop), Err(Refusal::NoSuchMailbox));
    assert_eq!(driver.partition.mailboxes[&back].uids(), [1, 2], "it lives on");
    check_headers(&driver.partition);
}

#[test]
fn an_account_holds_what_it_may_and_no_more() {
    let mut driver = Driver::default();
    let (account, inbox) = driver.account("jo").expect("room");
    let (_, of_other) = driver.account("al").expect("room");
    let other = driver.mailbox(account, "other").expect("room");
    driver.quota(account, 0, 2);
    assert_eq!([driver.append(inbox), driver.append(other)], [1, 1]);
    assert_eq!(driver.partition.usage(account).messages, 2);
    // One recipient is full, which is nothing to the other.
    let both = driver.deliver(&[inbox, of_other], &Flags::default(), Some(DeliveryKey(1)));
    assert_eq!(both, Err(Refusal::OverQuota));
    let exists = |driver: &Driver, id| driver.partition.mailboxes[&id].status().exists;
    assert_eq!((exists(&driver, inbox), exists(&driver, of_other)), (1, 1));
    let one = set(&[(1, 1)]);
    let refused = driver.copy(inbox, other, &one, false).map(|part| part.uids);
    assert_eq!(refused, Err(Refusal::OverQuota));
    let from_other = driver.copy(of_other, inbox, &one, true).map(|part| part.uids);
    assert_eq!(from_other, Err(Refusal::OverQuota));
    driver.copy(inbox, other, &one, true).expect("within the account");
    driver.expunge(other, Expunging::All(&one)).expect("there");
    assert_eq!(driver.append(inbox), 2);
    let bytes = driver.partition.usage(account).bytes;
    driver.quota(account, bytes + 9, 0);
    let refused = driver.deliver(&[inbox], &Flags::default(), None);
    assert_eq!(refused, Err(Refusal::OverQuota), "ten octets more");
    driver.quota(account, bytes + 10, 0);
    assert_eq!(driver.append(inbox), 3);
    assert_eq!(told(&driver.replay(0)), told(&driver.partition));
}

#[test]
fn names_move_together_or_not_at_all() {
    let mut driver = Driver::default();
    let (account, _) = driver.account("jo").expect("room");
    for name in ["a", "a/b", "a/b/c", "ab", "x/b"] {
        driver.mailbox(account, name).expect("room");
    }
    let names = |driver: &Driver| {
        let account = driver.partition.account(account).expect("there");
        account.mailboxes.keys().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(driver.mailbox(account, "a"), Err(Refusal::Exists));
    assert_eq!(driver.rename(account, "a", "x"), Err(Refusal::Exists), "x/b is there");
    assert_eq!(driver.rename(account, "a", "a"), Err(Refusal::Exists));
    assert_eq!(driver.rename(account, "inbox", "y"), Err(Refusal::IsInbox));
    assert_eq!(driver.rename(account, "none", "y"), Err(Refusal::NoSuchMailbox));
    driver.rename(account, "a", "a/b").expect("below itself");
    assert_eq!(names(&driver), ["INBOX", "a/b", "a/b/b", "a/b/b/c", "ab", "x/b"]);
    driver.rename(account, "a/b", "a").expect("and back");
    assert_eq!(names(&driver), ["INBOX", "a", "a/b", "a/b/c", "ab", "x/b"]);
    assert_eq!(told(&driver.replay(0)), told(&driver.partition));
}

#[test]
fn a_mailbox_has_so_many_keywords_and_no_more() {
    let mut driver = Driver::default();
    let (_, inbox) = driver.account("jo").expect("room");
    driver.append(inbox);
    let one = set(&[(1, 1)]);
    for number in 0..KEYWORDS_MAX {
        let keyword = flags(SystemFlags(0), &[&format!("k{number}")]);
        driver.flags(inbox, &one, FlagChange::Add, &keyword).expect("room");
    }
    let mut add = |keyword| {
        let keyword = flags(SystemFlags(0), &[keyword]);
        driver.flags(inbox, &one, FlagChange::Add, &keyword).map(|_| ())
    };
    assert_eq!(add("K63"), Ok(()), "in any case");
    assert_eq!(add("more"), Err(Refusal::TooManyKeywords));
    assert_eq!(
        driver.partition.mailbox(inbox).and_then(|it| it.find(1)).map(|it| it.keywords),
        Some(u64::MAX)
    );
}

/// Chance for tests: the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(end)) as u32
    }

    fn uids(&mut self, next: u32) -> NumberSet {
        (0..1 + self.below(3))
            .map(|_| {
                let first = 1 + self.below(next);
                (first, first + self.below(6))
            })
            .collect()
    }

    fn of<T: std::marker::Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// Something happens to some mailbox; what is refused does not.
fn step(driver: &mut Driver, chance: &mut Chance) {
    driver.now_s += chance.below(3);
    let accounts: Vec<AccountId> = driver.partition.accounts.keys().copied().collect();
    let mailboxes: Vec<MailboxId> = driver.partition.mailboxes.keys().copied().collect();
    if accounts.is_empty() || (accounts.len() < 3 && chance.below(20) == 0) {
        let _ = driver.account(chance.of(&["jo", "al", "bo"]));
        return;
    }
    let account = chance.of(&accounts);
    let mailbox = chance.of(&mailboxes);
    let name = chance.of(&["a", "a/b", "b", "c", "a/b/c"]);
    let uids = chance.uids(driver.partition.mailboxes[&mailbox].uid_next);
    let change = chance.of(&[FlagChange::Replace, FlagChange::Add, FlagChange::Remove]);
    let some_flags = flags(
        SystemFlags(chance.below(32) as u8),
        &["$Junk", "$NotJunk", "x"][..chance.below(4) as usize],
    );
    match chance.below(40) {
        0 => drop(driver.mailbox(account, name)),
        1 => drop(driver.delete(mailbox)),
        2 => drop(driver.rename(account, name, chance.of(&["a", "d", "c/x"]))),
        3 => {
            let subscribed = driver.partition.plan_subscription(account, &named(name), true);
            driver.apply(subscribed.unwrap_or_default());
        }
        4 => {
            let left = driver.partition.plan_subscription(account, &named(name), false);
            driver.apply(left.expect("there"));
        }
        29 => {
            let secret = chance.of(&["one", "two"]);
            driver.apply(driver.partition.plan_secret(account, secret).expect("there"));
        }
        5 => {
            let uses = SpecialUses(chance.below(256) as u8);
            driver.apply(driver.partition.plan_special_use(mailbox, uses).expect("there"));
        }
        6 if accounts.len() > 1 && chance.below(4) == 0 => {
            let removed = driver.partition.plan_account_removal(account, driver.now_s);
            driver.apply(removed.expect("there"));
        }
        7..11 => drop(driver.expunge(mailbox, Expunging::All(&uids))),
        11 => drop(driver.expunge(mailbox, Expunging::Deleted)),
        12 => drop(driver.expunge(mailbox, Expunging::DeletedOf(&uids))),
        13..16 => drop(driver.copy(mailbox, chance.of(&mailboxes), &uids, false)),
        16..19 => drop(driver.copy(mailbox, chance.of(&mailboxes), &uids, true)),
        19..26 => drop(driver.flags(mailbox, &uids, change, &some_flags)),
        28 => drop(driver.restore(mailbox, chance.of(&mailboxes), &uids)),
        30 => {
            let deleted: Vec<MailboxId> = driver.partition.deleted.keys().copied().collect();
            if !deleted.is_empty() {
                drop(driver.undelete(chance.of(&deleted), name));
            }
        }
        27 => driver.quota(account, chance.of(&[0, 400]), chance.of(&[0, 30])),
        26 => {
            // Compaction moves a body.
            let mut handles = Vec::new();
            driver.partition.bodies.visit(0, u32::MAX, |handle| handles.push(handle));
            if !handles.is_empty() {
                let body = driver.partition.bodies.body(chance.of(&handles));
                let moved = Body { place: driver.place(), ..body };
                driver.apply(vec![Operation::BodyPlaced(moved)]);
            }
        }
        _ => {
            let targets = [mailbox, chance.of(&mailboxes)];
            let count = 1 + chance.below(2) as usize;
            let key = DeliveryKey(chance.below(60).into());
            let key = (chance.below(2) == 0).then_some(key);
            drop(driver.deliver(&targets[..count], &some_flags, key));
        }
    }
}

#[test]
fn replay_from_any_checkpoint_gives_the_same_state() {
    let mut messages_seen = 0;
    for seed in 1..=12 {
        let mut driver = Driver { now_s: 1000, ..Driver::default() };
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ seed);
        // Where checkpoints begin whose end has come.
        let mut begins = vec![0];
        for _ in 0..3 {
            (0..chance.below(300)).for_each(|_| step(&mut driver, &mut chance));
            let begin = driver.log.len();
            let mut next = Some(Cursor::Start);
            while let Some(cursor) = next {
                (0..chance.below(4)).for_each(|_| step(&mut driver, &mut chance));
                // One item at a time, so that much happens between.
                let (payload, after) = driver.partition.next_item(cursor);
                driver.log.push(Logged::Items(payload));
                next = after;
            }
            (0..chance.below(40)).for_each(|_| step(&mut driver, &mut chance));
            begins.push(begin);
            check_headers(&driver.partition);
            for begin in &begins {
                let again = driver.replay(*begin);
                check_headers(&again);
                assert_eq!(told(&again), told(&driver.partition), "seed {seed} from {begin}");
            }
        }
        messages_seen += driver.partition.message_count();
    }
    assert!(messages_seen > 200, "{messages_seen}");
}

#[test]
fn what_a_checkpoint_says_is_read_whole_or_not_at_all() {
    let mut driver = Driver { now_s: 1000, ..Driver::default() };
    let mut chance = Chance(7);
    (0..200).for_each(|_| step(&mut driver, &mut chance));
    let (payload, after) = driver.partition.next_items(Cursor::Start);
    assert_eq!(after, None);
    assert_eq!(Partition::default().apply_items(&payload), Ok(()));
    for end in 0..payload.len() {
        assert!(Partition::default().apply_items(&payload[..end]).is_err(), "cut at {end}");
    }
}

/// As the fuzz target does, with less patience.
#[test]
fn damaged_records_are_malformed_or_harmless() {
    let mut driver = Driver { now_s: 1000, ..Driver::default() };
    let mut chance = Chance(11);
    (0..120).for_each(|_| step(&mut driver, &mut chance));
    let (items, _) = driver.partition.next_items(Cursor::Start);
    driver.log.insert(60, Logged::Items(items));
    for _ in 0..400 {
        let mut partition = Partition::default();
        for logged in &driver.log {
            let (Logged::Items(payload) | Logged::Record { payload, .. }) = logged;
            let mut payload = payload.clone();
            if chance.below(4) == 0 && !payload.is_empty() {
                let at = chance.below(payload.len() as u32) as usize;
                payload[at] = chance.of(&[0, 1, 255, payload[at] ^ 1]);
            }
            match logged {
                Logged::Items(_) => drop(partition.apply_items(&payload)),
                Logged::Record { kind, id, place, .. } => {
                    if let Ok(Some(operation)) = Operation::read(*kind, *id, &payload, *place) {
                        partition.apply(&operation);
                    }
                }
            }
        }
        partition.end_replay();
        let mut ids = 1_u64 << 40..;
        let mut mend = || partition.mend(driver.now_s, || ids.next().expect("endless"));
        mend();
        assert_eq!(mend(), []);
        // What it says of itself it understands.
        let mut again = Partition::default();
        let mut next = Some(Cursor::Start);
        while let Some(cursor) = next {
            let (payload, after) = partition.next_items(cursor);
            again.apply_items(&payload).expect("what was written");
            next = after;
        }
        assert_eq!(again.message_count(), partition.message_count());
        assert_eq!(again.expunged_count(), partition.expunged_count());
    }
}

#[test]
fn numbers_that_nobody_gives_out_are_malformed() {
    let item = |tag: u8, value: &[u8]| {
        let mut payload = vec![0, 0, 0, 0, 1, 0, 0, 0, tag];
        payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
        payload.extend_from_slice(value);
        Partition::default().apply_items(&payload)
    };
    assert_eq!(item(1, &[&1_u64.to_le_bytes()[..], &[0; 4]].concat()), Ok(()));
    assert!(item(1, &[&u64::MAX.to_le_bytes()[..], &[0; 4]].concat()).is_err(), "64 bits");
    let range = [&[1, 0, 0, 0][..], &[255; 4], &[0; 4]].concat();
    assert_eq!(item(5, &[&[7, 0, 0, 0, 0, 0, 0, 0], &range[..]].concat()), Ok(()));
    assert!(item(5, &[&[0; 8], &range[..]].concat()).is_err(), "mailbox 0");
    let account = [&[1, 0, b'x'][..], &[0; 12], &[0; 2], &[0; 2]].concat();
    assert_eq!(item(3, &[&[255; 8], &account[..]].concat()), Ok(()));
    assert!(item(3, &[&[0; 8], &account[..]].concat()).is_err(), "account 0");
    assert!(item(9, &[]).is_err());
    // The highest number there is does not make the next checkpoint overflow.
    let mut partition = Partition::default();
    partition.add_account(AccountId(u64::MAX), "x");
    assert_eq!(partition.next_items(Cursor::Start).1, None);
    let place = Location { slot: 1, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 9 };
    let body = Operation::read(crate::journal::kind::BODY, 0, &[1; 12], place);
    assert!(body.is_err(), "body 0");
}

#[test]
fn a_message_costs_no_more_than_it_says() {
    let mut driver = Driver::default();
    let (_, inbox) = driver.account("jo").expect("room");
    let count = 1 << 14;
    for _ in 0..count {
        driver.append(inbox);
        driver.log.clear();
    }
    let bytes = driver.partition.memory_bytes() / count;
    assert!((60..=82).contains(&bytes), "{bytes}");
}
