use super::*;
use crate::journal::Location;
use crate::mailbox::codec::{AccountId, Body, BodyId, MailboxId, Message, Operation};
use crate::mailbox::{InternalDate, Partition};
use crate::proto::imap::flag::SystemFlags;

const MAILBOX: MailboxId = MailboxId(2);

/// A mailbox, what a client was told of it as plain UIDs, and the view that says the same.
struct Model {
    partition: Partition,
    told: Vec<u32>,
    view: View,
}

impl Model {
    fn new() -> Model {
        let mut partition = Partition::default();
        let (account, name) = (AccountId(1), "INBOX".into());
        partition.apply(&Operation::MailboxCreated {
            mailbox: MAILBOX,
            account,
            name,
            uid_validity: 1,
            special_uses: Default::default(),
        });
        let view = View::of(partition.mailbox(MAILBOX).expect("there"));
        Model { partition, told: Vec::new(), view }
    }

    fn mailbox(&self) -> &Mailbox {
        self.partition.mailbox(MAILBOX).expect("there")
    }

    fn append(&mut self, skipped: u32) {
        let place = Location { slot: 1, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 100 };
        let body = Body { id: BodyId(7), place, bytes: 10, chunks: Vec::new() };
        self.partition.apply(&Operation::BodyPlaced(body));
        let uid = self.mailbox().uid_next + skipped;
        let (flags, body) = (SystemFlags::default(), BodyId(7));
        let date = InternalDate::utc(0);
        let message = Message { uid, modseq: 2, date, saved_s: 0, flags, keywords: 0, body };
        self.partition.apply(&Operation::Appended { mailbox: MAILBOX, message, key: None });
    }

    fn expunge(&mut self, uids: &NumberSet) {
        let uids: NumberSet = uids
            .iter()
            .filter(|uid| self.mailbox().find(*uid).is_some())
            .map(|it| (it, it))
            .collect();
        let (mailbox, modseq, at_s) = (MAILBOX, 3, 0);
        self.partition.apply(&Operation::Expunged { mailbox, modseq, at_s, uids: uids.clone() });
        self.view.on_vanished(&uids);
    }

    fn tell_new(&mut self) {
        let end = self.view.uid_end();
        let new: Vec<u32> = self.mailbox().uids().iter().copied().filter(|it| *it >= end).collect();
        let mailbox = self.partition.mailbox(MAILBOX).expect("there");
        assert_eq!(self.view.tell_new(mailbox), !new.is_empty());
        self.told.extend(new);
    }

    fn tell_gone(&mut self, count_max: u32) {
        let (told, mailbox) = (&mut self.told, self.partition.mailbox(MAILBOX).expect("there"));
        self.view.tell_gone(mailbox, count_max, |number, uid| {
            assert_eq!(told.remove(number as usize - 1), uid);
        });
    }

    fn check(&self) {
        let mailbox = self.mailbox();
        assert_eq!(self.view.exists(mailbox) as usize, self.told.len());
        assert_eq!(self.view.uid(mailbox, 0), None);
        assert_eq!(self.view.uid(mailbox, self.told.len() as u32 + 1), None);
        for (index, uid) in self.told.iter().enumerate() {
            let number = index as u32 + 1;
            assert_eq!(self.view.uid(mailbox, number), Some(*uid));
            assert_eq!(self.view.number(mailbox, *uid), Some(number));
        }
        for uid in 0..mailbox.uid_next + 2 {
            assert_eq!(self.view.number(mailbox, uid).is_some(), self.told.contains(&uid), "{uid}");
        }
        let gone = self.told.iter().filter(|uid| mailbox.find(**uid).is_none());
        assert!(self.view.gone().iter().eq(gone.copied()));
    }

    /// Messages of a set, from a UID on, in both ways.
    fn check_walk(&self, uids: &NumberSet, uid_from: u32) {
        let mailbox = self.mailbox();
        let walked = self.view.walk(mailbox, uids, uid_from);
        let expected = self.told.iter().enumerate();
        let expected = expected.filter(|(_, uid)| uids.contains(**uid) && **uid >= uid_from);
        let expected = expected.map(|(index, uid)| Known {
            number: index as u32 + 1,
            uid: *uid,
            entry: mailbox.find(*uid),
        });
        assert!(walked.eq(expected), "{uids:?} from {uid_from}");
    }
}

fn random(state: &mut u64, below: u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % u64::from(below)) as u32
}

#[test]
fn a_view_keeps_its_numbers_whatever_happens() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..200 {
        let mut model = Model::new();
        for _ in 0..40 {
            let mut some = NumberSet::default();
            for _ in 0..random(&mut state, 4) {
                let first = 1 + random(&mut state, model.mailbox().uid_next + 2);
                some.insert_range(first, first + random(&mut state, 5));
            }
            match random(&mut state, 6) {
                0 | 1 => (0..random(&mut state, 6)).for_each(|skipped| model.append(skipped % 3)),
                2 => model.expunge(&some),
                3 => model.tell_new(),
                4 => model.tell_gone(random(&mut state, 4)),
                _ => {
                    let from = random(&mut state, model.mailbox().uid_next + 1);
                    model.check_walk(&some, from);
                }
            }
            model.check();
        }
        model.tell_gone(u32::MAX);
        assert!(!model.view.has_gone());
        model.check();
    }
}

#[test]
fn a_set_of_a_command_means_what_the_client_knows() {
    let mut model = Model::new();
    (0..5).for_each(|_| model.append(1));
    let check = |model: &Model, numbering, set: &[u8], expected: Result<&[u8], NoSuchNumber>| {
        let set = SequenceSet::parse(set).expect("a set");
        let uids = model.view.resolve(model.mailbox(), numbering, &set).map(|uids| {
            let mut text = Vec::new();
            uids.write(&mut text);
            text
        });
        assert_eq!(uids.as_deref(), expected.as_deref());
    };
    check(&model, Numbering::Uid, b"*", Ok(b""));
    check(&model, Numbering::Sequence, b"*", Err(NoSuchNumber));
    // UIDs 2, 4, 6, 8, 10.
    model.tell_new();
    model.append(0);
    check(&model, Numbering::Uid, b"*:*", Ok(b"10"));
    check(&model, Numbering::Uid, b"4:*", Ok(b"4:10"));
    check(&model, Numbering::Uid, b"11:12", Ok(b""));
    check(&model, Numbering::Uid, b"200:*", Ok(b"10"));
    check(&model, Numbering::Sequence, b"2,4:*", Ok(b"4,8:10"));
    check(&model, Numbering::Sequence, b"6", Err(NoSuchNumber));
    check(&model, Numbering::Sequence, b"1:6", Err(NoSuchNumber));
    check(&model, Numbering::Sequence, b"6:*", Ok(b"10"));
    let known = |set: &[u8]| {
        let set = SequenceSet::parse(set).expect("a set");
        let uids = model.view.resolve_known(model.mailbox(), Numbering::Sequence, &set);
        (model.view.count_of(model.mailbox(), &uids), uids)
    };
    assert_eq!(known(b"6:*"), (1, [(10, 10)].into_iter().collect()));
    assert_eq!(known(b"2:3,7"), (2, [(4, 6)].into_iter().collect()));
    assert_eq!(known(b"7"), (0, NumberSet::default()));
    model.expunge(&[(4, 10)].into_iter().collect());
    check(&model, Numbering::Sequence, b"2,4:*", Ok(b"4,8:10"));
    let uids = |uids: &[u32]| uids.iter().map(|uid| (*uid, *uid)).collect();
    assert_eq!(model.view.take_gone(1), uids(&[4]));
    assert_eq!(model.view.exists(model.mailbox()), 4);
    assert_eq!(model.view.take_gone(9), uids(&[6, 8, 10]));
    check(&model, Numbering::Sequence, b"*", Ok(b"2"));
}
