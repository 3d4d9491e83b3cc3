//! Call stacks with names: every address resolved once, what says nothing cut off at both ends.
//!
//! 1. A stack is never cut to nothing: where all of it is the allocator's, all of it stays.
//! 2. Sites whose stacks look the same after that are one: readers such as DHAT's refuse a stack
//!    that comes twice.
//! 3. A stack that could not be had is one frame that says so, and a cut one ends in a frame that says so.
//!
//! No unsafe here.

use super::frame::{Frame, Symbols};
use super::model::Report;
use crate::{Pin, Site, Snapshot};
use std::collections::HashMap;
use std::hash::Hash;

/// Name of the frame that stands for a stack that could not be had.
pub(super) const NO_STACK: &str = "[no stack]";

/// Name of the outermost frame of a stack whose walk was cut.
pub(super) const CUT: &str = "[cut]";

/// A frame at its address; an address that nothing is known of has a frame without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) address: u64,
    pub(super) frame: Frame,
}

impl Call {
    fn made_up(name: &str) -> Call {
        Call { address: 0, frame: Frame { function: name.to_owned(), ..Frame::default() } }
    }

    /// The name of the function, or its address.
    pub(super) fn name(&self) -> String {
        if self.frame.function.is_empty() {
            format!("{:#x}", self.address)
        } else {
            self.frame.function.clone()
        }
    }
}

/// The frames at every address of a snapshot.
pub(super) struct Resolved(HashMap<u64, Place>);

/// What an address stands for.
struct Place {
    /// Inlined calls, the innermost first, less those of the allocator and of the runtime, unless
    /// there are no others.
    frames: Vec<Frame>,
    /// Whether the allocator's calls were among the innermost.
    machinery: bool,
    /// Whether any call is left without them.
    rest: bool,
    /// Whether all calls are the standard library's or the allocator's, so that further out more of
    /// the allocator's may follow.
    standard: bool,
    /// Whether the runtime begins here: what lies outside of it is the runtime's.
    runtime: bool,
    /// Whether the program's last calls are here too.
    last: bool,
}

impl Place {
    fn new(mut frames: Vec<Frame>) -> Place {
        let inner = frames.iter().take_while(|frame| frame.is_standard()).count();
        let allocators = frames.iter().take(inner).rposition(Frame::is_machinery);
        let runtime = frames.iter().position(Frame::is_outermost);
        let machinery = allocators.map_or(0, |last| last + 1);
        // The calls between the program's last and the runtime's first hand over a closure.
        let last = runtime.and_then(|runtime| {
            let before = frames.iter().take(runtime).rposition(|frame| !frame.is_standard())?;
            Some(before + 1)
        });
        let place = Place {
            machinery: machinery > 0,
            rest: machinery < frames.len(),
            standard: inner == frames.len() && inner > 0,
            runtime: runtime.is_some(),
            last: last.is_some(),
            frames: Vec::new(),
        };
        frames.truncate(last.unwrap_or(frames.len()));
        if place.rest {
            frames.drain(..machinery);
        }
        Place { frames, ..place }
    }
}

impl Resolved {
    pub(super) fn new(snapshot: &Snapshot, symbols: &dyn Symbols) -> Resolved {
        let stacks = snapshot.sites.iter().map(|site| site.stack.as_slice());
        Resolved::of_stacks(stacks, symbols)
    }

    /// Of the sites and the pins of a report: symbols are asked once.
    pub(super) fn of_report(report: &Report, symbols: &dyn Symbols) -> Resolved {
        let sites = report.snapshot.iter().flat_map(|snapshot| &snapshot.sites);
        Resolved::with_pins(sites, report, symbols)
    }

    /// The same of some of its sites.
    pub(super) fn of_sites(sites: &[&Site], report: &Report, symbols: &dyn Symbols) -> Resolved {
        Resolved::with_pins(sites.iter().copied(), report, symbols)
    }

    fn with_pins<'s>(
        sites: impl Iterator<Item = &'s Site>,
        report: &'s Report,
        symbols: &dyn Symbols,
    ) -> Resolved {
        let pins = report.pins.iter().flatten().map(|pin| pin.stack.as_slice());
        Resolved::of_stacks(sites.map(|site| site.stack.as_slice()).chain(pins), symbols)
    }

    fn of_stacks<'s>(stacks: impl Iterator<Item = &'s [u64]>, symbols: &dyn Symbols) -> Resolved {
        let mut addresses: Vec<u64> = stacks.flatten().copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let places = symbols.resolve(&addresses).into_iter().map(Place::new);
        Resolved(addresses.into_iter().zip(places).collect())
    }

    /// What an address stands for, the innermost inlined call first; empty if nothing is known.
    pub(super) fn at(&self, address: u64) -> &[Frame] {
        self.0.get(&address).map_or(&[], |place| place.frames.as_slice())
    }

    /// The addresses of a stack that say something about the program.
    pub(super) fn trim<'s>(&self, stack: &'s [u64]) -> &'s [u64] {
        let places = || stack.iter().map(|address| self.0.get(address));
        let mut begin = 0;
        for (number, place) in places().enumerate() {
            let Some(place) = place else { break };
            if place.machinery {
                begin = if place.rest { number } else { number + 1 };
            }
            if !place.standard {
                break;
            }
        }
        let mut end = stack.len();
        if let Some(runtime) = places().position(|place| place.is_some_and(|p| p.runtime)) {
            let last = places().nth(runtime).flatten().is_some_and(|place| place.last);
            end = if last { runtime + 1 } else { runtime };
            let standard = |end: usize| places().nth(end).flatten().is_some_and(|p| p.standard);
            while !last && end > begin + 1 && standard(end - 1) {
                end -= 1;
            }
        }
        // Invariant 1.
        let kept = [stack.get(begin..end), stack.get(..end)];
        kept.into_iter().flatten().find(|kept| !kept.is_empty()).unwrap_or(stack)
    }

    fn calls_of(&self, stack: &[u64]) -> Vec<Call> {
        let mut calls = Vec::new();
        for &address in self.trim(stack) {
            let frames = self.at(address);
            if frames.is_empty() {
                calls.push(Call { address, frame: Frame::default() });
            }
            calls.extend(frames.iter().map(|frame| Call { address, frame: frame.clone() }));
        }
        calls
    }

    /// The call site of a pin by its name, where there is one.
    pub(super) fn pin_name(&self, pin: &Pin) -> String {
        let calls = self.calls_of(&pin.stack);
        naming(&calls).map_or_else(
            || pin.holder(),
            |call| match call.frame.place() {
                Some(place) => format!("{} ({place})", call.name()),
                None => call.name(),
            },
        )
    }

    /// The calls of a site, the innermost first.
    pub(super) fn calls(&self, site: &Site) -> Vec<Call> {
        let mut calls = self.calls_of(&site.stack);
        if calls.is_empty() {
            calls.push(Call::made_up(NO_STACK));
        } else if site.truncated {
            calls.push(Call::made_up(CUT));
        }
        calls
    }

    /// Sites summed by what `key` makes of their calls, in the order in which they first appear.
    /// The first one's stack, region and thread stand for all.
    pub(super) fn merged<K: Clone + Eq + Hash>(
        &self,
        sites: &[Site],
        mut key: impl FnMut(Vec<Call>) -> K,
    ) -> Vec<(K, Site)> {
        let mut places: HashMap<K, usize> = HashMap::new();
        let mut merged: Vec<(K, Site)> = Vec::new();
        for site in sites {
            let key = key(self.calls(site));
            match places.get(&key).and_then(|&place| merged.get_mut(place)) {
                Some((_, sum)) => add(sum, site),
                None => {
                    places.insert(key.clone(), merged.len());
                    merged.push((key, site.clone()));
                }
            }
        }
        merged
    }
}

fn add(sum: &mut Site, site: &Site) {
    sum.allocs += site.allocs;
    sum.alloc_bytes += site.alloc_bytes;
    sum.alloc_bytes_variance += site.alloc_bytes_variance;
    sum.live += site.live;
    sum.live_variance += site.live_variance;
    sum.live_bytes += site.live_bytes;
    sum.live_bytes_variance += site.live_bytes_variance;
    sum.live_requested_bytes += site.live_requested_bytes;
    sum.live_lost_bytes += site.live_lost_bytes;
    // Not at one moment: the sum is at least the maximum of the sum.
    sum.most.bytes += site.most.bytes;
    sum.most.blocks += site.most.blocks;
    sum.at_peak.bytes += site.at_peak.bytes;
    sum.at_peak.blocks += site.at_peak.blocks;
    sum.temporary += site.temporary;
    sum.samples += site.samples;
    sum.live_samples += site.live_samples;
    for (count, other) in sum.lifetimes.counts.iter_mut().zip(site.lifetimes.counts) {
        *count += other;
    }
}

/// The call that names a site on one line: the first that is not the standard library's, else the
/// innermost.
pub(super) fn naming(calls: &[Call]) -> Option<&Call> {
    calls.iter().find(|call| !call.frame.is_standard()).or(calls.first())
}

/// An estimate as a count. What is not a number counts nothing.
pub(super) fn whole(value: f64) -> u64 {
    // A cast saturates, and makes 0 of what is not a number.
    value.round() as u64
}

/// Estimates as counts whose sum is the sum of the estimates, rounded once.
pub(super) fn whole_sums(values: impl Iterator<Item = f64>) -> impl Iterator<Item = u64> {
    let mut sum = 0.0;
    values.map(move |value| {
        let before = whole(sum);
        sum += if value.is_finite() { value.max(0.0) } else { 0.0 };
        whole(sum) - before
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, named};
    use super::*;

    fn site(stack: &[u64]) -> Site {
        Site { stack: stack.to_vec(), live: 1.0, live_bytes: 8.0, ..Site::default() }
    }

    fn names(stack: &[u64]) -> Vec<String> {
        let snapshot = testing::snapshot(vec![site(stack)]);
        let symbols = |addresses: &[u64]| -> Vec<Vec<Frame>> {
            let frames = |address: &u64| match address {
                1 => vec![named("__rust_alloc")],
                2 => vec![
                    named("alloc::raw_vec::RawVec<T>::grow"),
                    named("alloc::vec::Vec<T>::push"),
                ],
                3 => vec![named("inlined"), named("parse")],
                4 => vec![named("std::sys::backtrace::__rust_begin_short_backtrace")],
                5 => vec![named("_start")],
                7 => vec![named("std::thread::local::LocalKey<T>::with"), named("alloc_global::f")],
                8 => vec![named("core::ops::function::FnOnce::call_once")],
                9 => vec![
                    named("main"),
                    named("core::ops::function::FnOnce::call_once"),
                    named("std::sys::backtrace::__rust_begin_short_backtrace"),
                ],
                6 => {
                    vec![named("main"), named("std::sys::backtrace::__rust_begin_short_backtrace")]
                }
                _ => vec![],
            };
            addresses.iter().map(frames).collect()
        };
        let resolved = Resolved::new(&snapshot, &symbols);
        resolved.calls(&snapshot.sites[0]).iter().map(Call::name).collect()
    }

    #[test]
    fn both_ends_are_cut_off_and_inlined_calls_are_kept() {
        let whole = names(&[1, 2, 3, 0x99, 4, 5]);
        assert_eq!(whole, ["alloc::vec::Vec<T>::push", "inlined", "parse", "0x99"]);
        assert_eq!(names(&[3]), ["inlined", "parse"]);
        assert_eq!(names(&[3, 6, 5]), ["inlined", "parse", "main"]);
        // What the allocator calls of the library is the allocator's too.
        assert_eq!(names(&[7, 1, 2, 3]), ["alloc::vec::Vec<T>::push", "inlined", "parse"]);
        assert_eq!(names(&[8, 7, 3]), ["inlined", "parse"]);
        // The hand-over to the program is the runtime's.
        assert_eq!(names(&[3, 8, 4, 5]), ["inlined", "parse"]);
        assert_eq!(names(&[3, 9, 5]), ["inlined", "parse", "main"]);
        // Without the runtime in sight it may be the program's own.
        assert_eq!(names(&[3, 8]).len(), 3);
    }

    #[test]
    fn a_stack_is_never_cut_to_nothing() {
        assert_eq!(names(&[1]), ["__rust_alloc"]);
        assert_eq!(names(&[1, 4, 5]), ["__rust_alloc"]);
        assert_eq!(names(&[4, 5]).len(), 2);
        assert_eq!(names(&[]), [NO_STACK]);
    }

    #[test]
    fn a_cut_walk_says_so() {
        let mut one = site(&[7]);
        one.truncated = true;
        let snapshot = testing::snapshot(vec![one]);
        let resolved = Resolved::new(&snapshot, &super::super::NoSymbols);
        let calls = resolved.calls(&snapshot.sites[0]);
        assert_eq!(calls.iter().map(Call::name).collect::<Vec<_>>(), ["0x7", CUT]);
    }

    #[test]
    fn symbols_that_answer_too_little_leave_addresses() {
        let snapshot = testing::snapshot(vec![site(&[1, 2])]);
        let resolved = Resolved::new(&snapshot, &|_: &[u64]| vec![vec![named("one")]]);
        let calls = resolved.calls(&snapshot.sites[0]);
        assert_eq!(calls.iter().map(Call::name).collect::<Vec<_>>(), ["one", "0x2"]);
    }

    #[test]
    fn sites_that_look_the_same_are_one() {
        let snapshot = testing::snapshot(vec![site(&[1]), site(&[2]), site(&[1])]);
        let resolved = Resolved::new(&snapshot, &super::super::NoSymbols);
        let merged = resolved.merged(&snapshot.sites, |calls| calls);
        assert_eq!(merged.len(), 2);
        assert_eq!((merged[0].1.live, merged[0].1.live_bytes), (2.0, 16.0));
        assert_eq!(merged[1].1.live, 1.0);
    }

    #[test]
    fn rounded_parts_sum_to_the_rounded_sum() {
        let parts = [0.4, 0.4, 0.4, 0.4, f64::NAN, -3.0, 1.5, f64::INFINITY, 0.9];
        let whole: Vec<u64> = whole_sums(parts.into_iter()).collect();
        assert_eq!(whole.iter().sum::<u64>(), 4);
        assert_eq!((super::whole(f64::NAN), super::whole(-1.0), super::whole(2.5)), (0, 0, 3));
    }
}
