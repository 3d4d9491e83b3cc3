//! Two small workloads. No unsafe here.

use std::hint::black_box;

use crate::workload::{Kind, Outcome, Scale, Workload, timed};

pub(crate) static ALL: &[Workload] = &[
    Workload {
        name: "pair-64",
        kind: Kind::Micro,
        about: "a block of 64 bytes is made and dropped",
        unit: "pair",
        run: pair,
    },
    Workload {
        name: "vector-growth",
        kind: Kind::Large,
        about: "vectors grow by pushing to 1 MiB",
        unit: "vector",
        run: growth,
    },
];

fn pair(scale: &Scale) -> Outcome {
    let units: u64 = if scale.quick { 2_000_000 } else { 20_000_000 };
    let (seconds, cpu_seconds) = timed(|| {
        for i in 0..units {
            black_box(Box::new([i; 8]));
        }
    });
    Outcome { units, checksum: scale.seed, seconds, cpu_seconds, extra: Vec::new() }
}

fn growth(scale: &Scale) -> Outcome {
    let units: u64 = if scale.quick { 100 } else { 1000 };
    let mut checksum = 0_u64;
    let (seconds, cpu_seconds) = timed(|| {
        for i in 0..units {
            let mut vector = Vec::new();
            for value in 0..131_072_u64 {
                vector.push(black_box(value));
            }
            checksum = checksum.wrapping_mul(31).wrapping_add(vector[(i * 7) as usize]);
        }
    });
    Outcome { units, checksum, seconds, cpu_seconds, extra: vec![("rss_after_idle", 4096.0)] }
}
