//! What the journal costs without a disk: building frames, and reading a segment back.
//!
//!     cargo bench --bench journal

use std::hint::black_box;
use std::io;
use std::ops::DerefMut;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use ringpost::journal::core::{Core, Effect, Start};
use ringpost::journal::format::StoreId;
use ringpost::journal::recovery::{Ground, Replay, Replayed, SegmentSource, recover};
use ringpost::journal::{Append, Record, kind};
use ringpost::runtime::aligned::AlignedBuffer;

/// A core whose writes are durable at once. Messages are settled as they come.
struct Loop {
    core: Core,
    /// What was written to the first slot, when it is kept.
    image: Option<Vec<u8>>,
    in_frame: usize,
}

impl Loop {
    fn new() -> Self {
        let ground = Ground::blank(&[SEGMENT_BYTES as u64; SLOTS]);
        let core = Core::new(Start { store: STORE, shard: 0, ground, slots_max: SLOTS });
        Self { core, image: None, in_frame: 0 }
    }

    /// One message and the end of it.
    fn message(&mut self, envelope: &[u8], content: &[u8]) {
        let id = self.core.next_message_id();
        let (envelope, content) = ([envelope], [content]);
        let record = |kind, payload| Record { kind, flags: 0, id, aux: 0, payload };
        let records = [record(kind::ENVELOPE, &envelope), record(kind::CONTENT, &content)];
        let appended = self.core.append(&records, Append::Message, id).expect("there is room");
        self.core.pin(appended.first, appended.first.record_bytes.into());
        self.core.append(&[record(kind::RETIRED, &[])], Append::Settle, id).expect("there is room");
        self.in_frame += 1;
        if self.in_frame == MESSAGES_PER_FRAME {
            self.in_frame = 0;
            self.core.submit();
            self.perform();
            if self.core.checkpoint_is_due() {
                self.core.begin_checkpoint(id).expect("there is room");
                self.core.end_checkpoint(id).expect("there is room");
                self.core.submit();
                self.perform();
            }
        }
        self.core.unpin(appended.first, appended.first.record_bytes.into());
    }

    fn perform(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                let Effect::Write { tag, slot, offset, buffer, bytes } = effect else { continue };
                if let Some(image) = self.image.as_mut().filter(|_| slot == 0) {
                    let start = offset as usize;
                    image[start..start + bytes].copy_from_slice(&buffer[..bytes]);
                }
                self.core.on_durable(tag, buffer);
            }
        }
    }
}

/// Counts records.
struct Count(u64);

impl Replay for Count {
    fn visit(&mut self, _record: Replayed<'_>) {
        self.0 += 1;
    }

    fn restart(&mut self) {
        self.0 = 0;
    }
}

/// One slot in memory.
struct Memory(Vec<u8>);

impl SegmentSource for Memory {
    fn capacities(&self) -> Vec<u64> {
        vec![self.0.len() as u64]
    }

    fn read(&mut self, _slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        Box::new(AlignedBuffer::new(bytes))
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.measurement_time(Duration::from_secs(3));
    for content_bytes in [4 * 1024, 64 * 1024] {
        let (envelope, content) = (vec![1; ENVELOPE_BYTES], vec![2; content_bytes]);
        group.throughput(Throughput::Bytes((ENVELOPE_BYTES + content_bytes) as u64));
        let mut messages = Loop::new();
        group.bench_function(BenchmarkId::from_parameter(content_bytes), |bencher| {
            bencher.iter(|| messages.message(black_box(&envelope), black_box(&content)));
        });
    }
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    group.throughput(Throughput::Bytes(SEGMENT_BYTES as u64));
    for content_bytes in [4 * 1024, 64 * 1024] {
        let (envelope, content) = (vec![1; ENVELOPE_BYTES], vec![2; content_bytes]);
        let mut messages = Loop::new();
        messages.image = Some(vec![0; SEGMENT_BYTES]);
        while messages.core.counters.segments_activated < 2 {
            messages.message(&envelope, &content);
        }
        let mut memory = Memory(messages.image.take().expect("kept above"));
        group.bench_function(BenchmarkId::from_parameter(content_bytes), |bencher| {
            bencher.iter(|| {
                let mut records = Count(0);
                let found = recover(&STORE, &mut memory, &mut records);
                assert!(found.is_ok());
                records.0
            });
        });
    }
    group.finish();
}

const STORE: StoreId = StoreId([7; 16]);
/// The size of a segment as configured by default.
const SEGMENT_BYTES: usize = 64 * 1024 * 1024;
const SLOTS: usize = 16;
const ENVELOPE_BYTES: usize = 300;
const MESSAGES_PER_FRAME: usize = 8;

criterion_group!(benches, append, recovery);
criterion_main!(benches);
