//! Criterion's micro benches: the system's allocator and `PoolAlloc` side by side.
//!
//! `cargo bench -p bench`, or `cargo bench -p bench -- batch` for some of them.
//!
//! A process has one global allocator, so both are called through `GlobalAlloc` directly. That
//! shows the allocators' own work; what a program gains, where calls go through `Box` and `Vec`
//! and other memory is in play, is what `cargo run --release -p bench` shows.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use alloc_global::PoolAlloc;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Blocks of a batch, and blocks live at once.
const MANY: usize = 10_000;
/// The size of blocks where sizes do not vary.
const SIZE: usize = 64;
const ALIGN: usize = 8;
/// Where growing blocks begin and end; 13 doublings.
const SMALLEST: usize = 16;
const LARGEST: usize = 128 << 10;

static POOL: PoolAlloc = PoolAlloc::new();

/// An allocator with one instance in this process.
trait Contender: GlobalAlloc + Sized + 'static {
    const NAME: &'static str;
    fn instance() -> &'static Self;
}

impl Contender for System {
    const NAME: &'static str = "system";
    fn instance() -> &'static System {
        &System
    }
}

impl Contender for PoolAlloc {
    const NAME: &'static str = "pool";
    fn instance() -> &'static PoolAlloc {
        &POOL
    }
}

/// A live block of `A`.
///
/// 1. `start` is a block that `A::instance()` made, not freed since.
/// 2. `layout` is what it was made with; its size is not 0.
struct Block<A: Contender> {
    start: NonNull<u8>,
    layout: Layout,
    allocator: PhantomData<A>,
}

impl<A: Contender> Block<A> {
    #[inline(always)]
    fn new(size: usize) -> Block<A> {
        let layout = Layout::from_size_align(size.max(1), ALIGN).expect("a small size");
        // SAFETY: the size is not 0.
        let start = unsafe { A::instance().alloc(layout) };
        // The compiler may remove a pair of calls whose block nobody sees.
        let start = NonNull::new(black_box(start)).expect("memory for a small block");
        // SAFETY: the block is live, and has a byte.
        unsafe { start.write(1) };
        Block { start, layout, allocator: PhantomData }
    }

    fn grow(&mut self, size: usize) {
        assert!(size > 0);
        // SAFETY: invariants 1 and 2; the size is neither 0 nor near `isize::MAX`.
        let start = unsafe { A::instance().realloc(self.start.as_ptr(), self.layout, size) };
        self.start = NonNull::new(black_box(start)).expect("memory for a block");
        self.layout = Layout::from_size_align(size, ALIGN).expect("a small size");
    }
}

impl<A: Contender> Drop for Block<A> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: invariants 1 and 2; nobody uses the block after `drop`.
        unsafe { A::instance().dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// The sizes of the mixed benches: most small, each multiple of 8 up to 256 with some odd ones.
fn sizes() -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..1024).map(|_| random.usize(1..=256).min(random.usize(1..=256))).collect()
}

/// A permutation of `0..MANY`.
fn shuffled() -> Vec<usize> {
    let mut order: Vec<usize> = (0..MANY).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    order
}

fn pair<A: Contender>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function(A::NAME, |bencher| bencher.iter(|| drop(Block::<A>::new(SIZE))));
}

fn pair_sizes<A: Contender>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let sizes = sizes();
    group.bench_function(A::NAME, |bencher| {
        bencher.iter(|| sizes.iter().for_each(|&size| drop(Block::<A>::new(size))));
    });
}

/// Makes `MANY` blocks, then frees them in the order of `order`.
fn batch<A: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, order: &[usize]) {
    let mut blocks: Vec<Option<Block<A>>> = Vec::with_capacity(MANY);
    group.bench_function(A::NAME, |bencher| {
        bencher.iter(|| {
            blocks.extend((0..MANY).map(|_| Some(Block::new(SIZE))));
            for &place in order {
                blocks[place] = None;
            }
            blocks.clear();
        });
    });
}

/// Replaces one of `MANY` live blocks of mixed sizes by another.
fn replace<A: Contender>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let sizes = sizes();
    let mut next = sizes.iter().cycle().map(|&size| Block::<A>::new(size));
    let mut blocks: Vec<Block<A>> = next.by_ref().take(MANY).collect();
    let mut random = fastrand::Rng::with_seed(3);
    group.bench_function(A::NAME, |bencher| {
        bencher.iter(|| {
            for block in next.by_ref().take(sizes.len()) {
                blocks[random.usize(0..MANY)] = block;
            }
        });
    });
}

/// Doubles a block from `SMALLEST` to `LARGEST`, as a growing vector does.
fn growth<A: Contender>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function(A::NAME, |bencher| {
        bencher.iter(|| {
            let mut block = Block::<A>::new(SMALLEST);
            let mut size = SMALLEST;
            while size < LARGEST {
                size *= 2;
                block.grow(size);
            }
        });
    });
}

fn benches(criterion: &mut Criterion) {
    let forward: Vec<usize> = (0..MANY).collect();
    let reversed: Vec<usize> = (0..MANY).rev().collect();
    let random = shuffled();

    let mut group = criterion.benchmark_group("pair");
    group.throughput(Throughput::Elements(1));
    pair::<System>(&mut group);
    pair::<PoolAlloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("pair-sizes");
    group.throughput(Throughput::Elements(1024));
    pair_sizes::<System>(&mut group);
    pair_sizes::<PoolAlloc>(&mut group);
    group.finish();

    let orders =
        [("batch-in-order", forward), ("batch-reversed", reversed), ("batch-random", random)];
    for (name, order) in orders {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(MANY as u64));
        batch::<System>(&mut group, &order);
        batch::<PoolAlloc>(&mut group, &order);
        group.finish();
    }

    let mut group = criterion.benchmark_group("replace-random");
    group.throughput(Throughput::Elements(1024));
    replace::<System>(&mut group);
    replace::<PoolAlloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("growth");
    group.throughput(Throughput::Elements((LARGEST / SMALLEST).ilog2().into()));
    growth::<System>(&mut group);
    growth::<PoolAlloc>(&mut group);
    group.finish();
}

criterion_group! {
    name = micro;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = benches
}
criterion_main!(micro);
