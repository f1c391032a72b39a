//! Records of mailboxes and what a checkpoint says: nothing panics, what reads back is written the
//! same, and a partition takes in whatever it is given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::journal::Location;
use ringpost::mailbox::Partition;
use ringpost::mailbox::codec::{Operation, read_body};
use ringpost::mailbox::items::Cursor;

/// Records one behind the other: type, number, length of the payload in two octets, payload. Type
/// 0 is a payload of ITEMS.
fuzz_target!(|records: &[u8]| {
    let place = Location { slot: 1, block: 2, epoch_low: 3, in_frame: 64, record_bytes: 100 };
    let mut partition = Partition::default();
    let mut rest = records;
    while let [kind, id, low, high, more @ ..] = rest {
        let bytes = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (payload, after) = more.split_at(bytes);
        rest = after;
        if *kind == 0 {
            let _ = partition.apply_items(payload);
            continue;
        }
        let id = u64::from(*id).max(1);
        let Ok(Some(operation)) = Operation::read(*kind, id, payload, place) else { continue };
        let mut again = Vec::new();
        match &operation {
            Operation::BodyPlaced(_) => {
                let body = read_body(payload).expect("read before");
                body.write_front(&mut again);
                again.extend_from_slice(body.octets);
            }
            operation => operation.write(&mut again),
        }
        assert_eq!(Operation::read(*kind, id, &again, place), Ok(Some(operation.clone())));
        partition.apply(&operation);
    }
    partition.end_replay();
    // Above all that a record of one octet and most of what items can say.
    let mut ids = 1 << 62..;
    let mends = partition.mend(1, || ids.next().expect("endless"));
    for mend in &mends {
        let mut written = Vec::new();
        mend.operation.write(&mut written);
        let (kind, id) = mend.operation.kind_and_id();
        assert_eq!(Operation::read(kind, id, &written, place), Ok(Some(mend.operation.clone())));
    }
    // What it says of itself it understands.
    let mut other = Partition::default();
    let mut next = Some(Cursor::Start);
    while let Some(cursor) = next {
        let (payload, after) = partition.next_items(cursor);
        other.apply_items(&payload).expect("what was written");
        next = after;
    }
    assert_eq!(other.message_count(), partition.message_count());
});
