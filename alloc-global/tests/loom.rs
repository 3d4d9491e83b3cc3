//! Every interleaving of the lock, and of threads that hand blocks to each other over it: heaps and
//! the depot.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p alloc-global --test loom --release`; empty
//! otherwise. The lock's source is the real one, with loom's atomics and a futex made of loom's
//! mutex and condition variable. Bins and arenas are the real ones too; what loom watches is that
//! only the holder of their lock comes near them.
#![cfg(loom)]

#[expect(dead_code, reason = "no model forks")]
#[path = "../src/lock.rs"]
mod lock;
#[expect(dead_code, reason = "who a thread is, is for the model to say")]
#[path = "../src/owner.rs"]
mod owner;
#[expect(dead_code, reason = "who asked is a hint, which no model needs")]
#[path = "../src/shelf.rs"]
mod shelf;
#[path = "../src/turn.rs"]
mod turn;

mod primitive {
    //! Loom's versions of what the lock is made of.

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

    /// The owner's fence: the kernel puts a full one into its thread, wherever that is at the time.
    pub(crate) fn light_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    /// The other side's fence.
    pub(crate) fn heavy_fence() -> bool {
        loom::sync::atomic::fence(Ordering::SeqCst);
        true
    }

    /// No spinning: a model has no time.
    pub(crate) fn spin(mut look: impl FnMut() -> bool) -> bool {
        look()
    }

    /// A cell whose accesses loom checks for races.
    #[derive(Debug)]
    pub(crate) struct Watched(loom::cell::UnsafeCell<u8>);

    impl Watched {
        pub(crate) fn new() -> Self {
            Watched(loom::cell::UnsafeCell::new(0))
        }

        pub(crate) fn touch(&self) {
            // Loom reports any access that this one does not come after.
            self.0.with_mut(|_| ());
        }
    }

    pub(crate) mod futex {
        //! The kernel's promise: a waiter sleeps only if the word still holds the value, and looking and
        //! falling asleep are one step for those who wake.

        use super::{AtomicU32, Ordering};
        use loom::sync::{Condvar, Mutex};

        loom::lazy_static! {
            static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
        }

        pub(crate) fn wait(word: &AtomicU32, value: u32) {
            let asleep = QUEUE.0.lock().unwrap();
            // SeqCst: the kernel's own look at the word.
            if word.load(Ordering::SeqCst) == value {
                drop(QUEUE.1.wait(asleep).unwrap());
            }
        }

        pub(crate) fn wake_one(_word: &AtomicU32) {
            drop(QUEUE.0.lock().unwrap());
            QUEUE.1.notify_one();
        }
    }
}

use alloc_core::{Arenas, Bin, Block, MappedChunk, OsPages, SizeClass};
use lock::Lock;
use loom::sync::Arc;
use std::mem::MaybeUninit;

const OWNER: u8 = 0;

fn class() -> SizeClass {
    SizeClass::of(512, 8).unwrap()
}

/// A bin over arenas, as `shared` has them for one heap and class.
struct Heap {
    bin: Lock<Bin>,
    arenas: Lock<Arenas>,
}

impl Heap {
    fn new() -> Arc<Heap> {
        let mut arenas = Arenas::new();
        // SAFETY: the system's pages stay until they are given back.
        unsafe { arenas.add_chunk(MappedChunk::map(&OsPages, 1).unwrap()) };
        Arc::new(Heap { bin: Lock::new(Bin::new()), arenas: Lock::new(arenas) })
    }

    fn take(&self, count: usize) -> Vec<Block> {
        let mut out = vec![MaybeUninit::uninit(); count];
        let mut taken = self.bin.lock().take(&mut out);
        if taken == 0 {
            let pool = self.arenas.lock().take_pool().unwrap();
            let mut bin = self.bin.lock();
            // SAFETY: just taken; one class and owner here.
            unsafe { bin.add_pool(pool, class(), OWNER) };
            taken = bin.take(&mut out);
        }
        // SAFETY: the last `taken` were written.
        out[count - taken..].iter().map(|block| unsafe { block.assume_init() }).collect()
    }

    fn give(&self, mut blocks: Vec<Block>) {
        // SAFETY: taken from this heap, each once.
        let given = unsafe { self.bin.lock().give(&mut blocks, class(), OWNER) };
        assert!(given.fault.is_none() && given.others == 0);
        if !given.emptied.is_empty() {
            // SAFETY: from these arenas.
            unsafe { given.emptied.put_back(&mut self.arenas.lock(), 0) };
        }
    }

    /// Everything is back: no block out, all invariants hold.
    fn end(&self) {
        let bin = self.bin.lock();
        assert_eq!(bin.out(), 0);
        bin.check(class(), OWNER).unwrap();
        drop(bin);
        let mut arenas = self.arenas.lock();
        arenas.check().unwrap();
        // SAFETY: no block is out.
        unsafe { arenas.unmap_all(&OsPages) };
    }
}

/// Blocks may be sent to other threads, as any allocation may.
struct Sent(Vec<Block>);

// SAFETY: the receiver is the only one to use them.
unsafe impl Send for Sent {}

#[test]
fn the_lock_excludes_and_no_wakeup_is_lost() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let count = Arc::new(Lock::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let count = Arc::clone(&count);
                loom::thread::spawn(move || *count.lock() += 1)
            })
            .collect();
        *count.lock() += 1;
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*count.lock(), 3);
    });
}

#[test]
fn two_threads_free_while_a_third_allocates() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let heap = Heap::new();
        let mut blocks = heap.take(4);
        let frees: Vec<_> = [blocks.split_off(2), blocks]
            .map(|blocks| {
                let (heap, sent) = (Arc::clone(&heap), Sent(blocks));
                loom::thread::spawn(move || {
                    let Sent(blocks) = { sent };
                    heap.give(blocks);
                })
            })
            .into();
        let mine = heap.take(2);
        assert!(mine[0] != mine[1]);
        for thread in frees {
            thread.join().unwrap();
        }
        heap.give(mine);
        heap.end();
    });
}

/// Slots of a shelf: more than a model fills.
const SLOTS: usize = 8;

/// A shelf of a depot with its slots, and addresses in place of blocks.
struct Depot {
    shelf: shelf::Shelf,
    slots: shelf::Slots<SLOTS>,
}

impl Depot {
    fn give(&self, numbers: std::ops::Range<usize>) -> usize {
        let block = |number| Block::new(std::ptr::without_provenance_mut(16 * number)).unwrap();
        let blocks: Vec<_> = numbers.map(|number| MaybeUninit::new(block(number))).collect();
        // SAFETY: addresses, which nobody looks behind.
        unsafe { self.shelf.give(&self.slots, 3, &blocks) }
    }

    fn numbers(out: &[MaybeUninit<Block>]) -> Vec<usize> {
        // SAFETY: the callers pass what the shelf wrote.
        out.iter().map(|block| unsafe { block.assume_init() }.addr().get() / 16).collect()
    }

    fn take(&self, count: usize) -> Vec<usize> {
        let mut out = vec![MaybeUninit::uninit(); count];
        let taken = self.shelf.take(&self.slots, &mut out);
        Depot::numbers(&out[..taken])
    }
}

#[test]
fn a_block_that_is_passed_on_reaches_one_thread_or_the_sweep() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let depot = Depot { shelf: shelf::Shelf::new(), slots: shelf::Slots::new() };
        let depot = Arc::new(depot);
        assert_eq!(depot.give(1..3), 2);
        let giver = {
            let depot = Arc::clone(&depot);
            loom::thread::spawn(move || depot.give(3..5))
        };
        let taker = {
            let depot = Arc::clone(&depot);
            loom::thread::spawn(move || depot.take(2))
        };
        let mut out = [MaybeUninit::uninit(); SLOTS];
        let swept = depot.shelf.take_oldest(&depot.slots, shelf::Stock::sweep, &mut out);
        let mut seen = Depot::numbers(&out[..swept]);
        let given = giver.join().unwrap();
        seen.extend(taker.join().unwrap());
        assert!(given > 0, "there is room for one at least");
        seen.extend(depot.take(SLOTS));
        seen.sort_unstable();
        assert_eq!(seen, (1..3 + given).collect::<Vec<_>>());
    });
}

#[test]
fn a_thread_exits_while_another_frees_into_its_pools() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let heap = Heap::new();
        let leaving = {
            let heap = Arc::clone(&heap);
            loom::thread::spawn(move || {
                let mut cached = heap.take(3);
                let sent = Sent(cached.split_off(1));
                let other = {
                    let heap = Arc::clone(&heap);
                    loom::thread::spawn(move || {
                        let Sent(blocks) = { sent };
                        heap.give(blocks);
                    })
                };
                // The exit: what the cache holds goes back.
                heap.give(cached);
                other
            })
        };
        leaving.join().unwrap().join().unwrap();
        heap.end();
    });
}

#[test]
fn owner_and_others_never_have_their_turn_at_once() {
    loom::model(|| {
        let shared = Arc::new((turn::Turn::new(), primitive::Watched::new()));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    if shared.0.claim() {
                        shared.1.touch();
                        shared.0.unclaim();
                    }
                })
            })
            .collect();
        if shared.0.enter() {
            shared.1.touch();
            assert!(!shared.0.enter(), "not twice");
            shared.0.leave();
        }
        for other in others {
            other.join().unwrap();
        }
        assert!(shared.0.enter());
        shared.1.touch();
    });
}

/// A cache as its owners see it, and the kernel's knowledge of the one thread number of the model.
struct Cached {
    owner: owner::Owner,
    /// Touched by whoever may use the cache.
    used: primitive::Watched,
    /// Whether the cache waits for a thread.
    idle: Lock<bool>,
    /// Whether a thread of that number lives.
    alive: primitive::AtomicBool,
    asking: owner::Asking,
}

/// The number of every thread of the model: the kernel gives it anew as soon as its thread is gone.
const NUMBER: u64 = 7;

impl Cached {
    fn new() -> Arc<Cached> {
        Arc::new(Cached {
            owner: owner::Owner::new(),
            used: primitive::Watched::new(),
            idle: Lock::new(true),
            alive: primitive::AtomicBool::new(false),
            asking: owner::Asking::new(),
        })
    }

    fn leave_idle(&self) {
        *self.idle.lock() = true;
    }

    /// A thread's life with the cache, if it gets it. Without `leaves` it ends where nobody sees it end.
    fn live(&self, leaves: bool) {
        use primitive::Ordering::{Acquire, Release};
        // Acquire: the kernel: a number is given anew after its thread is gone.
        self.alive.swap(true, Acquire);
        if std::mem::take(&mut *self.idle.lock()) {
            self.owner.set(NUMBER);
            self.used.touch();
            if leaves {
                self.owner.leave();
                self.used.touch();
                self.leave_idle();
            }
        }
        // Release: pairs with the Acquires of who asks, and of who is next.
        self.alive.store(false, Release);
    }

    /// Looks whether the cache is that of a dead thread, and empties it then.
    fn ask(&self) {
        if self.asking.begin(1) {
            // Acquire: the kernel: a thread that is gone has done all that it did.
            let is_dead = |_| !self.alive.load(primitive::Ordering::Acquire);
            if self.owner.take_if_dead(is_dead) {
                self.used.touch();
                self.leave_idle();
            }
            self.asking.end();
        }
    }
}

#[test]
fn the_cache_of_a_dead_thread_is_taken_once_and_that_of_a_living_one_never() {
    for leaves in [[true, true], [false, true], [true, false]] {
        let mut model = loom::model::Builder::new();
        // With three it would not see what two threads that ask at once can do.
        model.preemption_bound = Some(5);
        model.check(move || {
            let cached = Cached::new();
            let lives = {
                let cached = Arc::clone(&cached);
                loom::thread::spawn(move || leaves.map(|leaves| cached.live(leaves)))
            };
            let other = {
                let cached = Arc::clone(&cached);
                loom::thread::spawn(move || cached.ask())
            };
            cached.ask();
            lives.join().unwrap();
            other.join().unwrap();
            // All are dead: one look more, and the cache waits for a thread whatever went before.
            cached.ask();
            assert!(*cached.idle.lock(), "the cache is lost");
            assert_eq!(cached.owner.get(), 0);
        });
    }
}
