//! Fields taken out of a header section: cut anywhere, what stays and what is found is the same as
//! by a line at a time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::message::removal::{FieldNames, FieldRemoval, Found};

fn run(names: &FieldNames, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Found>) {
    let mut removal = FieldRemoval::new(names.clone());
    let mut kept = Vec::new();
    for piece in pieces {
        removal.feed(piece, |piece| kept.extend_from_slice(piece));
    }
    let found = removal.finish(|piece| kept.extend_from_slice(piece));
    (kept, found)
}

/// What stays, by whole lines.
fn reference(names: &FieldNames, input: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut is_removing = false;
    let mut lines = input.split_inclusive(|octet| *octet == b'\n');
    for line in lines.by_ref() {
        if line.starts_with(b"\r") {
            kept.extend_from_slice(line);
            break;
        }
        if !(is_removing && line.starts_with(b" ") || is_removing && line.starts_with(b"\t")) {
            let colon = line.iter().position(|octet| *octet == b':');
            is_removing = colon.is_some_and(|colon| {
                let before = &line[..colon];
                let name = before.trim_ascii_end();
                names.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(name))
                    && before.len() - name.len() <= 16
                    && !before.contains(&b'\r')
            });
        }
        if !is_removing {
            kept.extend_from_slice(line);
        }
    }
    for line in lines {
        kept.extend_from_slice(line);
    }
    kept
}

fuzz_target!(|input: &[u8]| {
    let [cut, input @ ..] = input else { return };
    let names: FieldNames = ["X-Tenant", "X-T", "Class"].map(Box::from).into();
    let whole = run(&names, &[input]);
    assert_eq!(whole.0, reference(&names, input));
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(&names, &[&input[..cut], &input[cut..]]), whole);
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&names, &octets), whole);
});
