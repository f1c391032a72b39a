//! The journal's core without a disk: `cargo bench --bench journal`.
//!
//! What the disk adds is measured by `ringpost doctor` and by `ringpost-loadtest relay`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::journal::core::{Append, Core, Effect, Start, StartSlot};
use ringpost::journal::format::{Record, StoreId, kind};

const SEGMENT_BYTES: u64 = 64 << 20;

fn core() -> Core {
    let slot = StartSlot { capacity: SEGMENT_BYTES, epoch: 0, counts: false };
    let mut core = Core::new(Start {
        store: StoreId([7; 16]),
        shard: 0,
        slots: vec![slot; 8],
        last_seq: 0,
        next_seq: 1,
        next_epoch: 1,
        next_message_id: 1,
        slots_max: 8,
    });
    core.begin();
    core
}

/// Completes what is under way, as a disk of no latency would.
fn complete(core: &mut Core) {
    loop {
        let effects = core.take_effects();
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            if let Effect::Write { tag, buffer, .. } = effect {
                core.on_durable(tag, buffer);
            }
        }
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for (name, content_bytes, batch) in
        [("append 4 KiB, 64 a frame", 4096, 64), ("append 64 KiB, 8 a frame", 65536, 8)]
    {
        let envelope = vec![1; 300];
        let content = vec![2; content_bytes];
        group.throughput(Throughput::Bytes((batch * content_bytes) as u64));
        group.bench_function(name, |bencher| {
            let mut core = core();
            bencher.iter(|| {
                let mut locations = Vec::with_capacity(batch);
                for _ in 0..batch {
                    let id = core.next_message_id();
                    let (envelope, content) = ([envelope.as_slice()], [content.as_slice()]);
                    let record = |kind, payload| Record { kind, flags: 0, id, aux: 0, payload };
                    let records =
                        [record(kind::ENVELOPE, &envelope), record(kind::CONTENT, &content)];
                    let appended = core.append(black_box(&records), Append::Message, 1);
                    let appended = appended.expect("segments come back");
                    core.pin(appended.first);
                    locations.push(appended.first);
                }
                core.submit();
                complete(&mut core);
                for location in locations {
                    core.unpin(location);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
