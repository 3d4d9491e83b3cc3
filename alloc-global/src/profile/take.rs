//! Taking a snapshot: the tables as plain data.
//!
//! No unsafe here.

use super::local::{NAMES, untracked};
use super::modules;
use super::record::{self, TABLES};
use super::sites::WEIGHT_ONE;
use super::snapshot::{Dropped, Lifetimes, Peak, Site, Snapshot};
use super::tables::Known;
use crate::{scope, thread, watch};
use std::time::{Duration, SystemTime};

/// The thread of the site of all that had no room.
pub(crate) const OTHER: &str = "[other]";

impl Snapshot {
    /// Takes a snapshot of the running program.
    ///
    /// Exact in itself: all counts are of one moment. Events that are recorded meanwhile wait for
    /// as long as it takes to walk the live blocks and the sites, some nanoseconds each; all else
    /// goes on. What this allocates is not in the profile.
    ///
    /// Where blocks are sampled, the end of a small block is noted when it leaves the cache of the
    /// thread that freed it. Those in the calling thread's cache are noted here; freed blocks that
    /// lie in other threads' caches, at most 512 of a size class in each, still count as live if
    /// they are samples. [`thread_flush`](crate::thread_flush) in those threads ends that.
    ///
    /// In the child of a fork, what the parent had recorded before is in its snapshots too.
    ///
    /// Where the program was built without frame pointers, its unwind tables say where callers are,
    /// at some 8 ns a frame; without glibc 2.35 on x86-64, and on the stacks of coroutines, it is
    /// the C library's unwinder that says it, at microseconds a stack.
    ///
    /// ```
    /// let snapshot = alloc_global::Snapshot::take();
    /// for site in snapshot.sites.iter().take(10) {
    ///     println!("{:.0} bytes live in {:.0} blocks", site.live_bytes, site.live);
    /// }
    /// ```
    pub fn take() -> Snapshot {
        untracked(|| {
            // Neither allocates nor frees: a look into the table of live blocks for each.
            thread::for_each_own_cached(watch::forget);
            thread::for_each_own_mid(watch::forget);
            let stats = crate::stats();
            let taken = SystemTime::now();
            let mut sites = Vec::new();
            TABLES.for_each(|known| sites.push(site(&known)));
            sites.sort_by(|a: &Site, b: &Site| {
                let order = b.live_bytes.total_cmp(&a.live_bytes);
                order
                    .then(b.alloc_bytes.total_cmp(&a.alloc_bytes))
                    .then_with(|| a.stack.cmp(&b.stack))
            });
            let [stacks, blocks, truncated, corrupt] = TABLES.dropped();
            let (rate, duration) = record::rate_and_duration();
            Snapshot {
                stats,
                rate,
                sites,
                modules: modules::loaded(),
                dropped: Dropped { stacks, blocks, truncated, corrupt },
                tool_bytes: record::tool_bytes() as u64,
                taken,
                duration: Duration::from_micros(duration),
            }
        })
    }
}

/// A snapshot of what one measurement of the calling thread noted, and of nothing else.
pub(crate) fn snapshot_of(noted: &scope::Sites) -> Snapshot {
    untracked(|| {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let mut dropped = Dropped::default();
        let mut sites = Vec::new();
        for (stack, counts) in noted.iter() {
            if stack.is_empty() {
                dropped.stacks += counts.allocs;
            }
            sites.push(Site {
                // Inside the call, not after it.
                stack: stack.iter().map(|address| *address as u64 - 1).collect(),
                thread: thread.clone(),
                allocs: counts.allocs as f64,
                alloc_bytes: counts.alloc_bytes as f64,
                live: counts.live as f64,
                live_bytes: counts.live_bytes as f64,
                live_requested_bytes: counts.live_bytes as f64,
                samples: counts.allocs,
                live_samples: counts.live,
                ..Site::default()
            });
        }
        sites.sort_by(|a: &Site, b: &Site| {
            let order = b.live_bytes.total_cmp(&a.live_bytes);
            order.then(b.alloc_bytes.total_cmp(&a.alloc_bytes)).then_with(|| a.stack.cmp(&b.stack))
        });
        Snapshot {
            stats: crate::stats(),
            rate: 1,
            sites,
            modules: modules::loaded(),
            dropped,
            tool_bytes: noted.bytes(),
            taken: SystemTime::now(),
            duration: Duration::ZERO,
        }
    })
}

impl Peak {
    fn of((bytes, weight): (u64, u64)) -> Peak {
        Peak { bytes: bytes as f64, blocks: weight as f64 / WEIGHT_ONE as f64 }
    }
}

/// What the tables know of a site, in blocks and bytes.
fn site(known: &Known<'_>) -> Site {
    let blocks = |weight: u64| weight as f64 / WEIGHT_ONE as f64;
    let tally = &known.tally;
    let mut lifetimes = Lifetimes::default();
    for (count, weight) in lifetimes.counts.iter_mut().zip(&tally.counted.lifetimes) {
        *count = blocks(*weight);
    }
    let (region, thread) = match known.place {
        Some(place) => (NAMES.get(place.region), NAMES.get(place.thread)),
        None => (String::new(), OTHER.to_owned()),
    };
    Site {
        stack: known.stack.iter().map(|address| *address as u64 - 1).collect(),
        truncated: known.cut,
        region,
        thread,
        allocs: blocks(tally.freed_blocks().wrapping_add(tally.live)),
        alloc_bytes: tally.counted.bytes.wrapping_add(tally.live_bytes) as f64,
        alloc_bytes_variance: tally.counted.variance + tally.live_bytes_variance,
        live: blocks(tally.live),
        live_variance: tally.live_variance,
        live_bytes: tally.live_bytes as f64,
        live_bytes_variance: tally.live_bytes_variance,
        live_requested_bytes: tally.live_requested as f64,
        live_lost_bytes: tally.live_lost as f64,
        most: Peak::of(tally.counted.most),
        at_peak: Peak::of(tally.counted.at_peak),
        temporary: blocks(tally.counted.temporary),
        samples: tally.counted.samples + tally.live_samples,
        live_samples: tally.live_samples,
        lifetimes,
    }
}
