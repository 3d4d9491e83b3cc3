//! The allocator works before `main`, in static initialisers, after `main`, and in destructors of
//! the main thread.
//!
//! The program's constructors (`.init_array`, the first of them before the standard library's own)
//! and destructors (`.fini_array`, atexit) run in every process of this binary, the parent too.
//! What they find goes into [`FOUND`]; a process whose last destructor finds anything missing or
//! damaged ends with code 70. No unsafe here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};

use alloc_global::{PoolAlloc, stats};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::process::{at_exit, leave};
use tests::{invariants, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Bits of the places that were reached and found everything in order.
static FOUND: AtomicU32 = AtomicU32::new(0);
const FIRST_CONSTRUCTOR: u32 = 1;
const CONSTRUCTOR: u32 = 2;
const STATIC: u32 = 4;
const MAIN_LOCAL: u32 = 8;
const ATEXIT_BEFORE_MAIN: u32 = 16;
const ATEXIT: u32 = 32;
const THREAD_IN_ATEXIT: u32 = 64;
const ALL_BUT_MAIN: u32 = FIRST_CONSTRUCTOR | CONSTRUCTOR | ATEXIT_BEFORE_MAIN;
const ALL: u32 = 127;

/// Blocks made before `main`, freed in `main` and after it.
static KEPT: Mutex<Vec<Block>> = Mutex::new(Vec::new());

fn found(place: u32) {
    // Ordering: one thread at a time runs here; the bits carry no other data.
    FOUND.fetch_or(place, Ordering::Relaxed);
}

/// Uses every call of the face, small and large; true when all is well.
fn works(seed: u64) -> bool {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut blocks: Vec<Block> = (1..200)
        .map(|n| Block::new(rng.usize(1..1_500), 1 << (n % 7), n).expect("memory"))
        .collect();
    let resized = blocks.iter_mut().all(|block| block.resize(rng.usize(1..1_500)));
    let text: BTreeMap<String, u64> = (0..50).map(|n| (format!("key {n}"), n)).collect();
    let kept = blocks.split_off(150);
    let intact = blocks.iter().all(Block::intact);
    drop(blocks);
    let Ok(mut stash) = KEPT.lock() else { return false };
    let intact_before = stash.iter().all(Block::intact);
    stash.truncate(20);
    stash.extend(kept);
    let counts = stats().allocs > 200;
    resized && intact && intact_before && counts && text.len() == 50 && invariants().is_ok()
}

#[used]
#[unsafe(link_section = ".init_array.00001")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        at_exit(atexit_before_main);
        if works(1) {
            found(FIRST_CONSTRUCTOR);
        }
    }
    first
};

#[used]
#[unsafe(link_section = ".init_array")]
static USUAL: extern "C" fn() = {
    extern "C" fn usual() {
        if works(2) {
            found(CONSTRUCTOR);
        }
    }
    usual
};

/// Registered before anything else, so called after every other handler.
extern "C" fn atexit_before_main() {
    if works(3) {
        found(ATEXIT_BEFORE_MAIN);
    }
}

/// The very last: what it finds is the process's exit code, unless that was a failure already.
#[used]
#[unsafe(link_section = ".fini_array.00001")]
static LAST: extern "C" fn() = {
    extern "C" fn last() {
        let expected = EXPECTED.load(Ordering::Relaxed);
        let missing = expected & !FOUND.load(Ordering::Relaxed);
        if !works(4) || missing != 0 {
            eprintln!("not reached, or not in order: {missing:#b}");
            leave(70);
        }
    }
    last
};
static EXPECTED: AtomicU32 = AtomicU32::new(ALL_BUT_MAIN);

fn main() -> ExitCode {
    cases::main(&[
        Case::new("constructors_and_destructors_of_the_program_allocate", constructors),
        Case::new("a_static_initialiser_allocates", static_initialiser),
        Case::new("destructors_of_the_main_thread_and_atexit_handlers_allocate", main_thread),
        Case::new("exit_may_be_called_while_threads_allocate", exit_under_load),
    ])
}

fn constructors() {
    let before = FOUND.load(Ordering::Relaxed);
    assert_eq!(before, FIRST_CONSTRUCTOR | CONSTRUCTOR, "constructors ran before main");
    assert!(works(5));
}

static TABLE: LazyLock<BTreeMap<String, Block>> = LazyLock::new(|| {
    (0..500_usize)
        .map(|n| (format!("entry {n}"), Block::new(n + 1, 8, n as u64).expect("memory")))
        .collect()
});

fn static_initialiser() {
    assert_eq!(TABLE.len(), 500);
    TABLE.values().for_each(Block::verify);
    found(STATIC);
    EXPECTED.store(ALL_BUT_MAIN | STATIC, Ordering::Relaxed);
}

struct OfMain(Vec<Block>);

impl Drop for OfMain {
    fn drop(&mut self) {
        self.0.iter().for_each(Block::verify);
        self.0.truncate(3);
        if works(6) {
            found(MAIN_LOCAL);
        }
    }
}

thread_local! {
    static LOCAL: RefCell<Option<OfMain>> = const { RefCell::new(None) };
}

extern "C" fn handler() {
    if works(7) {
        found(ATEXIT);
    }
    raw_thread::run(2, &|index| {
        if works(8 + index as u64) {
            found(THREAD_IN_ATEXIT);
        }
    });
}

fn main_thread() {
    static_initialiser();
    let blocks = (1..30).map(|n| Block::new(n * 31, 16, n as u64).expect("memory"));
    LOCAL.with(|local| *local.borrow_mut() = Some(OfMain(blocks.collect())));
    at_exit(handler);
    EXPECTED.store(ALL, Ordering::Relaxed);
}

fn exit_under_load() {
    for seed in 0..4 {
        std::thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut live: Vec<Block> = Vec::new();
            loop {
                live.push(Block::new(rng.usize(1..2_000), 8, 1).expect("memory"));
                if live.len() > 100 {
                    live.swap_remove(rng.usize(..100));
                }
            }
        });
    }
    // Not a wait for a result: any moment of their work will do.
    std::thread::sleep(std::time::Duration::from_millis(30));
    at_exit(handler);
    std::process::exit(0);
}
