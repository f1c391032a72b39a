//! What an upstream may answer: no panic, and nothing believed that is not within its bounds. The
//! first octet says whether the rest is a message, or what follows the question of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::dns::{Answered, Kind, Name, Query, Reading, Transport};

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let kinds = [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Txt, Kind::Tlsa, Kind::Ptr, Kind::Other(33)];
    let kind = kinds[usize::from(choice >> 1) % kinds.len()];
    let name = Name::parse("mail.a.test").expect("a name");
    let query = Query::new(&name, kind, true, &[0x5a; 34]);
    let message = match (choice & 1, rest.split_at_checked(10)) {
        (1, Some((header, rest))) => {
            // Past the checks of id and question.
            let mut message = query.bytes()[..2].to_vec();
            message.extend_from_slice(header);
            message[2] = message[2] & !0x78 | 0x80;
            message[4..6].copy_from_slice(&[0, 1]);
            let question_end = query.bytes().len() - 11;
            message.extend_from_slice(&query.bytes()[12..question_end]);
            message.extend_from_slice(rest);
            message
        }
        _ => rest.to_vec(),
    };
    for transport in [Transport::Udp, Transport::Tcp] {
        let Reading::Answered(response) = query.read(&message, transport) else { continue };
        match response.answered {
            Answered::Records { records, canonical } => {
                assert!(!records.is_empty());
                assert_eq!(canonical.is_some(), response.alias_count > 0);
                for record in records {
                    assert!(record.heap_bytes() <= 10 * message.len() + 1024);
                    assert!(!record.to_string().contains('\n'));
                }
            }
            Answered::Alias(target) => {
                assert_eq!(Name::parse(target.as_str()), Some(target));
            }
            Answered::NoData | Answered::NoDomain => {}
        }
    }
});
