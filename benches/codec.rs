//! The codec: what an appender pays for a record, and what recovery pays for a batch.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwal::bench_support::{decode_batch, encode_batch, encode_record, record_bytes};

const SIZES: [usize; 4] = [16, 256, 4096, 65_536];
const BATCH_BYTES: usize = 1 << 20;

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode record");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for size in SIZES {
        let (payload, mut out) = (vec![7; size], vec![0; record_bytes(size)]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| encode_record(black_box(1), black_box(&payload), &mut out));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("check batch of 1 MiB");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for size in SIZES {
        let count = u32::try_from(BATCH_BYTES / record_bytes(size)).unwrap_or(1);
        let bytes = encode_batch(&vec![7; size], count);
        assert_eq!(decode_batch(&bytes), Some(count));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("records of", size), |b| b.iter(|| decode_batch(black_box(&bytes))));
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
