//! What a thread does to the allocator on its way out.
//!
//! Destructors of thread-local values run before, between and after the allocator's own. The
//! threads here are POSIX threads that touch the allocator only when a case does
//! (`tests::raw_thread` says in which order glibc calls what). A constructor that runs before
//! anything has allocated makes the key [`early`], whose number is lower than that of any key the
//! allocator makes later; [`late`] is made after it. So the destructors below run on both sides of
//! the allocator's, whichever of the two ways it uses. The last two of the four rounds over keys
//! find its cache long gone.
//!
//! Each case compares the counters before and after: a block that is lost with a cache shows as live.
//! No unsafe here.

use std::cell::RefCell;
use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use alloc_global::{PoolAlloc, stats};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;
use tests::raw_thread::{self, Key, ROUNDS, at_thread_exit};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("raw_threads_that_only_allocate_leave_nothing", plain),
        Case::new("a_thread_that_only_frees_leaves_nothing", only_frees),
        Case::new("key_destructors_allocate_in_all_four_rounds", four_rounds),
        Case::new("the_allocator_may_be_first_used_in_a_key_destructor", first_use_in_round::<0>),
        Case::new("the_allocator_may_be_first_used_in_the_last_round", first_use_in_round::<3>),
        Case::new("a_destructor_older_than_the_cache_runs_after_it", older_than_cache),
        Case::new("a_thousand_nested_destructors_allocate_and_free", nested),
        Case::new("thread_locals_of_std_allocate_and_free_in_drop", std_locals),
        Case::new("all_orders_at_once_in_many_waves", everything),
        Case::new("calls_of_threads_without_a_cache_are_counted_to_the_last", counted),
    ])
}

static EARLY: OnceLock<Key> = OnceLock::new();
static LATE: OnceLock<Key> = OnceLock::new();

/// Runs before `main` and before anything has allocated.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static MAKE_EARLY_KEY: extern "C" fn() = {
    extern "C" fn make() {
        EARLY.get_or_init(|| Key::new(round));
    }
    make
};

fn early() -> Key {
    *EARLY.get().expect("the constructor ran")
}

fn late() -> Key {
    *LATE.get_or_init(|| Key::new(round))
}

/// Calls of [`round`] since the start.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Blocks that destructors leave to whoever comes next.
static STASH: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// One value in two words: which key (0 early, 1 late), the rounds to come, and how many of them stay idle.
fn ticket(key: usize, rounds: usize, idle: usize) -> usize {
    1 + key + 2 * rounds + 32 * idle
}

/// Destructor of both keys: allocates, frees, leaves blocks behind, and sets its value again for
/// the next round.
extern "C" fn round(value: *mut c_void) {
    let ticket_number = value.addr() - 1;
    let (key, rounds, idle) = (ticket_number % 2, ticket_number / 2 % 16, ticket_number / 32);
    // Ordering: counted; read after the joins.
    CALLS.fetch_add(1, Ordering::Relaxed);
    if idle == 0 {
        use_the_allocator(ticket_number as u64);
    }
    if rounds > 1 {
        let key = if key == 0 { early() } else { late() };
        key.set(ticket(ticket_number % 2, rounds - 1, idle.saturating_sub(1)));
    }
}

/// Allocates small and large blocks, frees some, leaves some, frees some that another thread left.
fn use_the_allocator(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut own: Vec<Block> = (0..20).map(|_| block(&mut rng)).collect();
    for at in (0..own.len()).step_by(3) {
        assert!(own[at].resize(rng.usize(1..2_000)));
    }
    let left = own.split_off(10);
    drop(own);
    let mut stash = STASH.lock().expect("no panic");
    let theirs: Vec<Block> = {
        let from = stash.len().saturating_sub(12);
        stash.drain(from..).collect()
    };
    stash.extend(left);
    drop(stash);
    drop(theirs);
}

fn block(rng: &mut fastrand::Rng) -> Block {
    let size = if rng.u32(0..8) == 0 { rng.usize(513..6_000) } else { rng.usize(1..=512) };
    Block::new(size, 1 << rng.u32(0..=4), rng.u64(..)).expect("memory")
}

/// Frees what destructors left behind, the stash's own memory too.
fn empty_stash() {
    *STASH.lock().expect("no panic") = Vec::new();
}

/// What heaps may keep while nothing is live: per heap (4) and class (64) an empty pool and the one
/// they last carved blocks from, of 16 KiB each, and an arena that these do not fill
/// (docs/memory.md).
const KEPT: u64 = 4 * 64 * 2 * (16 << 10) + (1 << 20);

/// Runs `wave` a few times and checks that nothing is live that was not before, and memory stays
/// bounded: by what heaps keep, and once trimmed by nearly nothing.
fn leaves_nothing(waves: usize, wave: impl Fn()) {
    wave();
    empty_stash();
    let before = stats();
    for _ in 0..waves {
        wave();
    }
    empty_stash();
    let after = stats();
    assert_eq!(after.live_blocks, before.live_blocks, "{after}");
    assert_eq!(after.live_bytes, before.live_bytes, "{after}");
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
    assert!(after.allocs > before.allocs, "the wave did nothing");
    assert!(after.mapped_bytes <= before.mapped_bytes + KEPT, "{after}");
    alloc_global::trim();
    let trimmed = stats();
    assert!(trimmed.mapped_bytes <= 2 << 20, "{trimmed}");
    invariants().expect("invariants");
}

fn plain() {
    leaves_nothing(50, || raw_thread::run(8, &|index| use_the_allocator(index as u64)));
}

fn only_frees() {
    leaves_nothing(50, || {
        let mut rng = fastrand::Rng::with_seed(8);
        STASH.lock().expect("no panic").extend((0..800).map(|_| block(&mut rng)));
        raw_thread::run(8, &|_| {
            let theirs: Vec<Block> = {
                let mut stash = STASH.lock().expect("no panic");
                // Taking the whole vector allocates nothing; splitting it would.
                let whole = std::mem::take(&mut *stash);
                drop(stash);
                whole
            };
            drop(theirs);
        });
    });
}

fn four_rounds() {
    let calls = || CALLS.load(Ordering::Relaxed);
    let late_key = late();
    leaves_nothing(40, || {
        let before = calls();
        raw_thread::run(8, &|index| {
            early().set(ticket(0, ROUNDS, 0));
            late_key.set(ticket(1, ROUNDS, 0));
            use_the_allocator(index as u64);
        });
        assert_eq!(calls() - before, 8 * 2 * ROUNDS, "destructors were not called in four rounds");
    });
}

fn first_use_in_round<const IDLE: usize>() {
    let late_key = late();
    leaves_nothing(40, || {
        raw_thread::run(8, &|_| {
            early().set(ticket(0, ROUNDS, IDLE));
            late_key.set(ticket(1, ROUNDS, IDLE));
        });
    });
}

/// As [`round`], for destructors that are called once.
extern "C" fn once(value: *mut c_void) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    use_the_allocator(value.addr() as u64);
}

fn older_than_cache() {
    leaves_nothing(100, || {
        raw_thread::run(8, &|index| {
            // Registered first, so called last: after whatever the allocator registers on its first use.
            at_thread_exit(once, 1 + index);
            use_the_allocator(index as u64);
            // Registered last, so called first.
            at_thread_exit(once, 100 + index);
        });
    });
}

/// Blocks that one nested destructor leaves to the next one of the same thread.
static HANDED_ON: Mutex<Vec<Block>> = Mutex::new(Vec::new());

extern "C" fn nest(value: *mut c_void) {
    let depth = value.addr();
    CALLS.fetch_add(1, Ordering::Relaxed);
    let mut handed = HANDED_ON.lock().expect("no panic");
    handed.pop();
    if depth > 1 {
        handed.push(Block::new(depth % 700 + 1, 8, depth as u64).expect("memory"));
        drop(handed);
        at_thread_exit(nest, depth - 1);
    }
}

fn nested() {
    let calls = || CALLS.load(Ordering::Relaxed);
    leaves_nothing(10, || {
        let before = calls();
        raw_thread::run(4, &|_| at_thread_exit(nest, 1_000));
        assert_eq!(calls() - before, 4_000);
        let mut handed = HANDED_ON.lock().expect("no panic");
        *handed = Vec::new();
    });
}

/// Allocates when made, more when dropped, and touches another thread-local that may be made or
/// gone by then.
struct Local(&'static str, Vec<Block>);

thread_local! {
    static FIRST: RefCell<Option<Local>> = const { RefCell::new(None) };
    static SECOND: RefCell<Option<Local>> = const { RefCell::new(None) };
    static LAZY: RefCell<Vec<Block>> = RefCell::new(vec![Block::new(40, 8, 1).expect("memory")]);
}

impl Local {
    fn new(name: &'static str) -> Self {
        Local(name, (1..50).map(|n| Block::new(n * 13, 8, n as u64).expect("memory")).collect())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.1.truncate(10);
        self.1.push(Block::new(self.0.len(), 1, 9).expect("memory"));
        // Gone or not, both are fine; made anew in a destructor, it is dropped in turn.
        let _ =
            LAZY.try_with(|lazy| lazy.borrow_mut().push(Block::new(300, 8, 2).expect("memory")));
        use_the_allocator(self.0.len() as u64);
    }
}

fn set_locals() {
    FIRST.with(|slot| *slot.borrow_mut() = Some(Local::new("first")));
    SECOND.with(|slot| *slot.borrow_mut() = Some(Local::new("the second")));
}

fn std_locals() {
    leaves_nothing(40, || {
        raw_thread::run(8, &|_| set_locals());
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(set_locals)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

fn everything() {
    let late_key = late();
    assert!(early().number() < late_key.number());
    leaves_nothing(100, || {
        raw_thread::run(8, &|index| {
            if index % 2 == 0 {
                at_thread_exit(once, 1 + index);
            }
            early().set(ticket(0, ROUNDS, index % ROUNDS));
            set_locals();
            late_key.set(ticket(1, ROUNDS, (index + 2) % ROUNDS));
            at_thread_exit(once, 50 + index);
        });
    });
}

/// Calls of `realloc` that each thread makes after its cache is gone.
static CALLS_EACH: AtomicUsize = AtomicUsize::new(0);
static ORPHAN: OnceLock<Key> = OnceLock::new();

/// Does nothing but set its value again, until the last round.
extern "C" fn resize_last(value: *mut c_void) {
    match value.addr() {
        1 => {
            // Ordering: set before the threads began.
            for _ in 0..CALLS_EACH.load(Ordering::Relaxed) {
                let mut block = Block::new(40, 8, 1).expect("memory");
                assert!(block.resize(400));
            }
        }
        rounds => ORPHAN.get().expect("made by the case").set(rounds - 1),
    }
}

fn counted() {
    const EACH: usize = 150_000;
    let key = *ORPHAN.get_or_init(|| Key::new(resize_last));
    let wave = |each: usize| {
        CALLS_EACH.store(each, Ordering::Relaxed);
        let before = stats();
        raw_thread::run(8, &|index| {
            use_the_allocator(index as u64);
            key.set(ROUNDS);
        });
        let done = stats() - before;
        (done.allocs, done.orphan_allocs)
    };
    wave(0);
    empty_stash();
    let (idle, _) = wave(0);
    empty_stash();
    let (busy, orphans) = wave(EACH);
    empty_stash();
    assert_eq!(orphans as usize, 2 * 8 * EACH, "a block each, and one to move into");
    assert_eq!((busy - idle) as usize, 8 * EACH, "a realloc is no allocation");
}
