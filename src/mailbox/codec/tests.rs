use super::*;

fn place(slot: u16) -> Location {
    Location { slot, block: 2, epoch_low: 3, in_frame: 64, record_bytes: 500 }
}

fn message(uid: u32) -> Message {
    Message {
        uid,
        modseq: MODSEQ_MAX,
        date: InternalDate { unix_s: 1_700_000_000, zone: -14 },
        saved_s: u32::MAX,
        flags: SystemFlags::SEEN.with(SystemFlags::DELETED),
        keywords: 1 << 63 | 5,
        body: BodyId(77),
    }
}

fn body(chunks: &[u16]) -> Body {
    let chunks = chunks.iter().map(|slot| place(*slot)).collect();
    Body { id: BodyId(77), place: place(1), bytes: 4_000_000_000, chunks }
}

fn uids() -> NumberSet {
    [(1, 3), (5, 5), (7, u32::MAX)].into_iter().collect()
}

/// One of each.
fn operations() -> Vec<Operation> {
    let (account, mailbox) = (AccountId(3), MailboxId(4));
    vec![
        Operation::AccountAdded { account, name: "zoë@example.test".into() },
        Operation::AccountRemoved { account, at_s: 9 },
        Operation::QuotaSet { account, quota: Quota { bytes: 1 << 40, messages: 7 } },
        Operation::SecretSet { account, secret: "$argon2id$v=19$x".into() },
        Operation::Subscribed { account, name: "Entwürfe".into(), is_subscribed: true },
        Operation::Subscribed { account, name: "x".into(), is_subscribed: false },
        Operation::MailboxCreated {
            mailbox,
            account,
            name: "INBOX".into(),
            uid_validity: 7,
            special_uses: [SpecialUse::Sent, SpecialUse::All].into_iter().collect(),
        },
        Operation::MailboxRenamed { mailbox, name: "a/b".into() },
        Operation::MailboxDeleted { mailbox, at_s: 10 },
        Operation::SpecialUseSet { mailbox, special_uses: SpecialUses(255) },
        Operation::Appended { mailbox, message: message(1), key: Some(DeliveryKey(1 << 127)) },
        Operation::Appended { mailbox, message: message(2), key: None },
        Operation::FlagsChanged(FlagsChanged {
            mailbox,
            modseq: 1,
            change: FlagChange::Remove,
            flags: SystemFlags::FLAGGED,
            keywords: 6,
            uids: uids(),
        }),
        Operation::Expunged { mailbox, modseq: 8, at_s: 5, uids: uids() },
        Operation::Copied {
            source: MailboxId(9),
            target: mailbox,
            is_move: true,
            copies: vec![
                Copy { source_uid: 5, message: message(8), body: body(&[]) },
                Copy { source_uid: 3, message: message(9), body: body(&[4, 5]) },
            ],
        },
        Operation::KeywordAdded { mailbox, bit: 63, keyword: "$Junk".into() },
    ]
}

#[test]
fn operations_read_back_and_no_part_of_one_passes_for_whole() {
    for operation in operations() {
        let mut payload = Vec::new();
        operation.write(&mut payload);
        let (kind, id) = operation.kind_and_id();
        let read = |payload: &[u8]| Operation::read(kind, id, payload, place(1));
        assert_eq!(read(&payload), Ok(Some(operation.clone())));
        let ends_in_text = matches!(
            operation,
            Operation::AccountAdded { .. }
                | Operation::SecretSet { .. }
                | Operation::Subscribed { .. }
                | Operation::MailboxCreated { .. }
                | Operation::MailboxRenamed { .. }
                | Operation::KeywordAdded { .. }
        );
        for end in 0..payload.len() {
            // A shorter name is one too; the checksum judges that.
            let cut = read(&payload[..end]);
            assert!(cut == Err(Malformed) || ends_in_text, "{operation:?} cut at {end}");
        }
        if !ends_in_text {
            payload.push(0);
            assert_eq!(read(&payload), Err(Malformed), "{operation:?} and more");
        }
        payload[0] = VERSION + 1;
        assert_eq!(read(&payload), Err(Malformed), "{operation:?} of another version");
    }
}

#[test]
fn a_body_has_its_octets_or_says_where_they_are() {
    let check = |octets: &[u8], bytes: u32, chunks: &[u16], expected: bool| {
        let chunks: Vec<Location> = chunks.iter().map(|slot| place(*slot)).collect();
        let body = BodyPayload { octets, bytes, chunks: chunks.clone() };
        let mut payload = Vec::new();
        body.write_front(&mut payload);
        let front = payload.len();
        payload.extend_from_slice(octets);
        let read = read_body(&payload);
        assert_eq!(read, if expected { Ok(body.clone()) } else { Err(Malformed) });
        assert!((0..front).all(|end| read_body(&payload[..end]).is_err()));
        let placed = Body { id: BodyId(5), place: place(9), bytes, chunks };
        let operation = Operation::read(kind::BODY, 5, &payload, place(9));
        let placed = expected.then_some(Some(Operation::BodyPlaced(placed))).ok_or(Malformed);
        assert_eq!(operation, placed);
    };
    check(b"Subject: x\r\n\r\n", 14, &[], true);
    check(b"Subject: x\r\n\r\n", 15, &[], false);
    check(b"Delivered-To: x\r\n", 600_000, &[1, 2, 3], true);
    check(b"", 1, &[1], true);
    check(b"too long", 7, &[1], false);
}

#[test]
fn what_no_writer_writes_is_malformed() {
    let read = |kind: u8, payload: &[u8]| Operation::read(kind, 4, payload, place(1));
    assert_eq!(read(kind::ENVELOPE, b""), Ok(None), "not ours");
    // A bit too many, a keyword without a name, an unknown action.
    assert_eq!(read(kind::KEYWORD, &[VERSION, 64, b'x']), Err(Malformed));
    assert_eq!(read(kind::KEYWORD, &[VERSION, 1]), Err(Malformed));
    assert_eq!(read(kind::MAILBOX, &[VERSION, 9, 0, 0]), Err(Malformed));
    assert_eq!(read(kind::ACCOUNT, &[VERSION, 9, 0, 0]), Err(Malformed));
    let long = [&[VERSION, account::ADDED][..], &[b'a'; ACCOUNT_NAME_BYTES_MAX + 1]].concat();
    assert_eq!(read(kind::ACCOUNT, &long), Err(Malformed));
    let expunge = |ranges: &[(u32, u32)]| {
        let mut payload = vec![VERSION, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        payload.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
        for (first, end) in ranges {
            payload.extend_from_slice(&first.to_le_bytes());
            payload.extend_from_slice(&end.to_le_bytes());
        }
        read(kind::EXPUNGE, &payload)
    };
    assert!(expunge(&[(1, 2), (4, 4)]).is_ok());
    for bad in [&[(0, 1)][..], &[(2, 1)], &[(1, 2), (3, 4)], &[(5, 6), (1, 2)]] {
        assert_eq!(expunge(bad), Err(Malformed), "{bad:?}");
    }
    let mut flags = vec![VERSION, 1, 0, 0];
    flags.extend_from_slice(&(MODSEQ_MAX + 1).to_le_bytes());
    flags.extend_from_slice(&[0; 12]);
    assert_eq!(read(kind::FLAGS, &flags), Err(Malformed), "64 bits");
}
