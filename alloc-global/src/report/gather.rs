//! Gathering: everything that is known about this process, as one report, without symbols.
//!
//! What is allocated on the way is not in the profile.
//!
//! Unsafe only to call the source of the report on garbage collection.

use super::model::{GcReport, Latency, Report, Requested, TimePoint};
use crate::{Snapshot, clock, latency, profile, time_line};
use core::sync::atomic::{AtomicPtr, Ordering};
use hdrhistogram::Histogram;

/// Rows of requested sizes in a report.
const SIZES: usize = 512;

/// Where the report on garbage collection comes from; null = nowhere.
static GC_SOURCE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// What [`set_gc_source`] takes.
pub type GcSource = fn() -> GcReport;

/// Names the function that reports on garbage collection, for the `gc` part of reports; the last
/// one named counts.
///
/// It is called on the thread that makes a report.
pub fn set_gc_source(source: GcSource) {
    // Release: pairs with the Acquire in `gc`. A function pointer as a pointer: Rust's are alike on
    // every supported platform.
    GC_SOURCE.store(source as *mut (), Ordering::Release);
}

impl Report {
    /// Everything that is known about this process now.
    ///
    /// The profile is there if blocks were sampled or traced, latencies if calls were timed, the
    /// time line if `POOLALLOC_REPORT` or [`start_time_line`](super::start_time_line) asked for it.
    /// Walks all pools while other threads wait at their slow paths: milliseconds per GiB of
    /// arenas. With a profile all call sites and, twice, all live blocks on record are copied
    /// besides: some 2 us a call site, 413 ms were measured at 213,000 of them. It names no call
    /// site: the formats do, by the symbols that they are given.
    ///
    /// ```
    /// use alloc_global::DebugInfo;
    /// use alloc_global::report::{self, Report};
    ///
    /// let report = Report::gather();
    /// assert!(report.heatmap.is_some() && report.rss.is_some());
    /// let page: String = report::html(&report, &DebugInfo);
    /// # assert!(page.starts_with("<!DOCTYPE html>") || page.starts_with("<!doctype html>"));
    /// ```
    pub fn gather() -> Report {
        // Before anything else: what a report takes would fill arenas that are nearly empty.
        let first = |report: &mut Report| report.pins = Some(crate::pins::pins_by_stack());
        gather_with(first, |report| {
            report.requested = report.snapshot.as_ref().map(|_| requested());
            report.rounding = report.snapshot.as_ref().map(|_| crate::rounding());
            report.classes = Some(crate::class_stats());
            report.rss = Some(crate::explain_rss());
            report.latency = latencies();
            report.time_line = time_line(report);
            report.heatmap = Some(crate::heatmap());
            report.gc = gc();
        })
    }

    /// What [`pprof`](super::pprof), [`dhat`](super::dhat) and [`folded`](super::folded) write: the
    /// profile beside what [`of_process`](Report::of_process) knows. For what asks every few
    /// seconds.
    ///
    /// ```
    /// use alloc_global::report::{self, NoSymbols, Report};
    ///
    /// let bytes = report::pprof(&Report::gather_profile(), &NoSymbols);
    /// ```
    pub fn gather_profile() -> Report {
        gather_with(|_| {}, |_| {})
    }

    /// What [`prometheus`](super::prometheus) writes: no heat map, no pins, no requested sizes, no
    /// time line.
    ///
    /// ```
    /// use alloc_global::report::{self, Report};
    ///
    /// let text = report::prometheus(&Report::gather_metrics());
    /// assert!(text.contains("poolalloc_class_blocks"));
    /// ```
    pub fn gather_metrics() -> Report {
        let first = |_: &mut Report| {};
        gather_with(first, |report| {
            report.classes = Some(crate::class_stats());
            report.rss = Some(crate::explain_rss());
            report.latency = latencies();
            report.gc = gc();
        })
    }
}

/// A report with the profile, if there is one, and what `first` adds before it and `more` after it.
fn gather_with(first: impl FnOnce(&mut Report), more: impl FnOnce(&mut Report)) -> Report {
    crate::untracked(|| {
        let begin = clock::nanoseconds();
        let mut report = Report::of_process();
        first(&mut report);
        // Before the others: what they take is in the counters that the snapshot is held against.
        report.snapshot = Some(Snapshot::take()).filter(|snapshot| snapshot.rate != 0);
        more(&mut report);
        report.tool_ns = clock::nanoseconds().saturating_sub(begin);
        report
    })
}

fn requested() -> Vec<Requested> {
    profile::requested(SIZES)
        .into_iter()
        .map(|(size, class_size, blocks)| Requested {
            size,
            class_size,
            blocks: blocks.sum,
            blocks_error: blocks.error(),
        })
        .collect()
}

/// `None` where nothing was timed.
fn latencies() -> Option<Vec<Latency>> {
    let mut all = Vec::new();
    for (path, name) in latency::Path::ALL {
        // From 1 ns to a quarter of an hour, two digits: always valid.
        let Ok(mut histogram) = Histogram::new_with_bounds(1, 1_000_000_000_000, 2) else {
            continue;
        };
        latency::for_each(path, |nanoseconds, count| {
            // Within the bounds after the clamp: no error.
            let _ = histogram.record_n(nanoseconds.clamp(1, 1_000_000_000_000), count);
        });
        if !histogram.is_empty() {
            all.push(Latency { path: name, histogram });
        }
    }
    if all.is_empty() { None } else { Some(all) }
}

fn gc() -> Option<GcReport> {
    // Acquire: pairs with the Release in `set_gc_source`.
    let source = GC_SOURCE.load(Ordering::Acquire);
    if source.is_null() {
        return None;
    }
    // SAFETY: only ever set from a function of this type.
    let source = unsafe { core::mem::transmute::<*mut (), GcSource>(source) };
    Some(source())
}

/// The points taken, and the present.
fn time_line(report: &Report) -> Vec<TimePoint> {
    let mut points = Vec::with_capacity(512);
    let age = report.taken.duration_since(report.started).unwrap_or_default();
    // Saturates after some hundred million years.
    let (age, now) = (u64::try_from(age.as_millis()).unwrap_or(u64::MAX), clock::milliseconds());
    time_line::for_each(|[ms, live_bytes, mapped_bytes, resident_bytes]| {
        let ms = age.saturating_sub(now.saturating_sub(ms));
        points.push(TimePoint { ms, live_bytes, mapped_bytes, resident_bytes });
    });
    if !points.is_empty() {
        points.push(TimePoint {
            ms: age,
            live_bytes: report.stats.live_bytes,
            mapped_bytes: report.stats.mapped_bytes,
            resident_bytes: report.rss.as_ref().map_or(0, |rss| rss.resident),
        });
    }
    points
}
