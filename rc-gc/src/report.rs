//! The feature `report`: what the collector tells the reports of `PoolAlloc`.
//!
//! ```text
//! heaps of the thread ─► every live object ─► by vtable ─► by name  ─┐
//!                     └► counters, tables of pauses ─► sums          ├─► GcReport
//! ```
//!
//! Only headers are read: no user code runs, and no heap is changed. What is collected on the way is in the global
//! allocator's memory. It does not know what becomes of a report. No unsafe here.

use std::collections::HashMap;

use alloc_global::report::{GcGeneration, GcReport, GcType};

use crate::generations::Generation;
use crate::header::Vtable;
use crate::stats::Pauses;
use crate::thread;

/// Live objects and the bytes of their blocks.
#[derive(Clone, Copy, Default)]
struct Sum {
    objects: u64,
    bytes: u64,
}

/// What lives in the calling thread's heaps, and what their collections did: the thread's own, each
/// [`Heap`](crate::Heap), and heaps that ended but whose objects are still held. Empty in a thread that has none.
///
/// Types are those that objects were made with (of `Gc::from(Box<dyn Trait>)`, the trait), the most bytes first;
/// bytes are those of blocks, with the header. Generations are the youngest first; `candidates` are the objects that
/// collections looked at, `retained` those among them that they left.
///
/// Costs a few nanoseconds for each object, and a cache miss in a heap that is larger than the caches: it reads every
/// header. Changes nothing, and may be called at any time, also from a `Drop` during a collection, where what is dead
/// already is not counted.
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
    let mut by_vtable: HashMap<*const Vtable, (&'static Vtable, Sum)> = HashMap::new();
    let mut pauses = [const { Pauses::none() }; 3];
    let mut generations = Vec::new();
    thread::for_each_heap(|heap| {
        heap.for_each_sized(|obj, size| {
            if obj.is_alive() {
                let vtable = obj.vtable();
                let (_, sum) = by_vtable.entry(vtable).or_insert_with(|| (vtable, Sum::default()));
                sum.objects += 1;
                sum.bytes += size as u64;
            }
        });
        generations.resize(3, GcGeneration::default());
        let all = [Generation::Young, Generation::Middle, Generation::Old];
        let stats = heap.counters.all();
        for (((to, from), pauses), generation) in
            generations.iter_mut().zip(stats).zip(&mut pauses).zip(all)
        {
            to.collections += from.collections;
            to.candidates += from.visited;
            to.freed += from.collected;
            to.retained += from.visited.saturating_sub(from.collected);
            heap.counters.add_pauses(generation, pauses);
        }
    });
    for (generation, pauses) in generations.iter_mut().zip(&pauses) {
        generation.pause_p50_ns = pauses.percentile(0.5);
        generation.pause_p99_ns = pauses.percentile(0.99);
        generation.pause_max_ns = pauses.percentile(1.0);
    }
    GcReport { types: by_name(by_vtable.into_values()), generations }
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

/// Makes [`report`] the `gc` part of `PoolAlloc`'s reports from now on, for the whole process.
///
/// A report tells of the heaps of the thread that makes it. One that is written at the end of the process comes after
/// the thread's heap has ended: it has what is still held then.
pub fn register_report() {
    alloc_global::report::set_gc_source(report);
}
