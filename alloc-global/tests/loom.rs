//! Every interleaving of the lock, and of threads that hand blocks to each other over it.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p alloc-global --test loom --release`; empty otherwise. The lock's source is
//! the real one, with loom's atomics and a futex made of loom's mutex and condition variable. Bins and arenas
//! are the real ones too; what loom watches is that only the holder of their lock comes near them.
#![cfg(loom)]

#[path = "../src/lock.rs"]
mod lock;
#[path = "../src/turn.rs"]
mod turn;

mod primitive {
    //! Loom's versions of what the lock is made of.

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
        arenas.add_chunk(MappedChunk::map(&OsPages, 1).unwrap());
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
