//! The feature `report`: what the collector tells the reports of `PoolAlloc`.
//!
//! ```text
//! heaps of the thread ─► every live object ─► by vtable ─► by name  ─┐
//!                     └► counters, tables of pauses ─► sums          ├─► GcReport
//! heaps of any thread, as they are freed ──────────────► sums        ─┘
//! ```
//!
//! Only headers are read: no user code runs, and no heap is changed. What is collected on the way
//! is in the global allocator's memory. It does not know what becomes of a report. No unsafe here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

use alloc_global::report::{GcGeneration, GcReport, GcType};

use crate::generations::Generation;
use crate::header::Vtable;
use crate::heap::Inner;
use crate::stats::{GenerationStats, Pauses};
use crate::thread;

/// Live objects and the bytes of their blocks.
#[derive(Clone, Copy, Default)]
struct Sum {
    objects: u64,
    bytes: u64,
}

/// What collections of several heaps did.
struct Done {
    /// How many heaps.
    heaps: usize,
    generations: [GcGeneration; 3],
    pauses: [Pauses; 3],
}

impl Done {
    const fn nothing() -> Done {
        const NONE: GcGeneration = GcGeneration {
            collections: 0,
            candidates: 0,
            freed: 0,
            retained: 0,
            pause_p50_ns: 0,
            pause_p99_ns: 0,
            pause_max_ns: 0,
        };
        Done { heaps: 0, generations: [NONE; 3], pauses: [const { Pauses::none() }; 3] }
    }

    fn add(&mut self, heap: &Inner) {
        self.heaps += 1;
        let all = [Generation::Young, Generation::Middle, Generation::Old];
        let to = self.generations.iter_mut().zip(&mut self.pauses);
        for (((to, pauses), from), generation) in to.zip(heap.counters.all()).zip(all) {
            let GenerationStats { collections, visited, collected, .. } = from;
            to.collections += collections;
            to.candidates += visited;
            to.freed += collected;
            to.retained += visited.saturating_sub(collected);
            heap.counters.add_pauses(generation, pauses);
        }
    }

    fn merge(&mut self, other: &Done) {
        self.heaps += other.heaps;
        for (to, from) in self.generations.iter_mut().zip(&other.generations) {
            to.collections += from.collections;
            to.candidates += from.candidates;
            to.freed += from.freed;
            to.retained += from.retained;
        }
        self.pauses.iter_mut().zip(&other.pauses).for_each(|(to, from)| to.merge(from));
    }

    /// What it says in a report: nothing where there was no heap.
    fn generations(&self) -> Vec<GcGeneration> {
        if self.heaps == 0 {
            return Vec::new();
        }
        let all = self.generations.iter().zip(&self.pauses);
        all.map(|(generation, pauses)| GcGeneration {
            pause_p50_ns: pauses.percentile(0.5),
            pause_p99_ns: pauses.percentile(0.99),
            pause_max_ns: pauses.percentile(1.0),
            ..*generation
        })
        .collect()
    }
}

/// Heaps that were freed since [`register_report`].
static FREED: Mutex<Done> = Mutex::new(Done::nothing());

/// Whether anybody wants to know.
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// A heap is about to be freed, or kept for the next one of the thread.
pub(crate) fn note_freed(heap: &Inner) {
    // Relaxed: from some moment on; nothing else is read for it.
    if REGISTERED.load(Relaxed)
        && let Some(mut freed) = freed()
    {
        freed.add(heap);
    }
}

/// The sums of heaps that were freed. They are locked for some thousand additions at most, except
/// in a child of fork, where the lock may be that of a thread which is not there: then there are
/// none.
fn freed() -> Option<MutexGuard<'static, Done>> {
    for _ in 0..1000 {
        match FREED.try_lock() {
            Ok(freed) => return Some(freed),
            Err(TryLockError::Poisoned(freed)) => return Some(freed.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// What lives in the calling thread's heaps, and what their collections did: the thread's own, each
/// [`Heap`](crate::Heap), and heaps that ended but whose objects are still held. Empty in a thread
/// that has none.
///
/// Types are those that objects were made with (of `Gc::from(Box<dyn Trait>)`, the trait), the most
/// bytes first; bytes are those of blocks, with the header. Generations are the youngest first;
/// `candidates` are the objects that collections looked at, `retained` those among them that they
/// left.
///
/// Costs a few nanoseconds for each object, and a cache miss in a heap that is larger than the
/// caches: it reads every header. Changes nothing, and may be called at any time, also from a
/// `Drop` during a collection, where what is dead already is not counted.
///
/// ```
/// use rc_gc::Gc;
///
/// let text = Gc::new(String::from("text"));
/// let report = rc_gc::report();
/// assert_eq!((report.types[0].name.as_str(), report.types[0].objects), ("alloc::string::String", 1));
/// assert_eq!(report.generations.len(), 3);
/// # drop(text);
/// ```
pub fn report() -> GcReport {
    let mut done = Done::nothing();
    let types = live(|heap| done.add(heap));
    GcReport { types, generations: done.generations() }
}

/// Live objects of the calling thread's heaps by type; calls `f` with each heap.
fn live(mut f: impl FnMut(&Inner)) -> Vec<GcType> {
    let mut by_vtable: HashMap<*const Vtable, (&'static Vtable, Sum)> = HashMap::new();
    thread::for_each_heap(|heap| {
        f(heap);
        heap.for_each_sized(|obj, size| {
            if obj.is_alive() {
                let vtable = obj.vtable();
                let (_, sum) = by_vtable.entry(vtable).or_insert_with(|| (vtable, Sum::default()));
                sum.objects += 1;
                sum.bytes += size as u64;
            }
        });
    });
    by_name(by_vtable.into_values())
}

/// A type may have several vtables.
fn by_name(all: impl Iterator<Item = (&'static Vtable, Sum)>) -> Vec<GcType> {
    let mut names: HashMap<&'static str, Sum> = HashMap::new();
    for (vtable, sum) in all {
        let to = names.entry((vtable.name)()).or_default();
        to.objects += sum.objects;
        to.bytes += sum.bytes;
    }
    let row = |(name, sum): (&str, Sum)| GcType {
        name: name.to_owned(),
        objects: sum.objects,
        bytes: sum.bytes,
    };
    let mut types: Vec<GcType> = names.into_iter().map(row).collect();
    types.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    types
}

/// Makes what the collector has to tell the `gc` part of `PoolAlloc`'s reports from now on, for the
/// whole process.
///
/// Live objects are those of the thread that makes the report, as in [`report()`]. Collections are
/// those of that thread's heaps and of all heaps, of whatever thread, that were freed since this
/// was called: so a report that is written at the end of the process, after the thread's heap has
/// ended, has what that heap did. What the heaps of other threads do is not in it as long as these
/// live.
pub fn register_report() {
    // Relaxed: see `note_freed`.
    REGISTERED.store(true, Relaxed);
    alloc_global::report::set_gc_source(report_of_process);
}

fn report_of_process() -> GcReport {
    let mut done = Done::nothing();
    let types = live(|heap| done.add(heap));
    if let Some(freed) = freed() {
        done.merge(&freed);
    }
    GcReport { types, generations: done.generations() }
}
