//! DHAT's format, version 2: JSON that `dh_view.html` of Valgrind (3.17 or later) and the Firefox
//! Profiler open.
//!
//! 1. No two program points have the same frames: the viewer refuses a file in which two have.
//! 2. Every frame but the root reads `0xADDRESS: function (file:line:column)`, the shape that the
//!    Firefox Profiler parses.
//! 3. Where lifetimes are known, all fields that go with them are there; where not, none of them.
//!
//! *Max* of a point is the most bytes that its sites had, each at its own moment; *At t-gmax* is
//! what they had when the process had most, which is known to 64 KiB a thread. When that was is not
//! known: its time is the end, and `mode` says so. Blocks that are still live have no lifetime yet.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::model::Report;
use super::stacks::{Call, Resolved, whole};
use crate::untracked;
use crate::{Lifetimes, Module, Site, Snapshot};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Blocks that lived no longer than this count as short-lived, in microseconds.
const SHORT_US: u64 = 100;

/// The profile of a report in DHAT's format.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, example};
///
/// let text = report::dhat(&example::report(), &NoSymbols);
/// assert!(text.contains("\"dhatFileVersion\":2"));
/// ```
pub fn dhat(report: &Report, symbols: &dyn Symbols) -> String {
    untracked(|| {
        let mut frames = Frames::new();
        let mut points = Vec::new();
        let mut lifetimes = false;
        let mut mode = "poolalloc".to_owned();
        let mut end = report.taken.duration_since(report.started).unwrap_or_default();
        if let Some(snapshot) = &report.snapshot {
            let resolved = Resolved::new(snapshot, symbols);
            let key = |calls: Vec<Call>| frames.add(calls, &snapshot.modules);
            let merged = resolved.merged(&snapshot.sites, key);
            lifetimes = known(snapshot);
            points = merged.iter().map(|(frames, site)| point(frames, site, lifetimes)).collect();
            mode = describe(snapshot, lifetimes);
            end = snapshot.duration;
        }
        let mut file = Map::new();
        let mut set = |name: &str, value: Value| file.insert(name.to_owned(), value);
        set("dhatFileVersion", json!(2));
        set("mode", json!(mode));
        set("verb", json!("Allocated"));
        set("bklt", json!(lifetimes));
        set("bkacc", json!(false));
        set("tu", json!("µs"));
        set("Mtu", json!("s"));
        if lifetimes {
            set("tuth", json!(SHORT_US));
            set("tg", json!(micros(end)));
        }
        set("cmd", json!(report.program));
        set("pid", json!(report.pid));
        set("te", json!(micros(end)));
        set("pps", Value::Array(points));
        set("ftbl", json!(frames.texts));
        Value::Object(file).to_string()
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Whether the profile knows lifetimes: of some freed block, or of none because none was freed.
fn known(snapshot: &Snapshot) -> bool {
    let counted = |site: &Site| site.lifetimes.counts.iter().any(|&count| count > 0.0);
    let unfreed = |site: &Site| site.live >= site.allocs;
    let sites = &snapshot.sites;
    !sites.is_empty() && (sites.iter().any(counted) || sites.iter().all(unfreed))
}

fn describe(snapshot: &Snapshot, lifetimes: bool) -> String {
    let watched = match snapshot.rate {
        0 => "nothing watched".to_owned(),
        1 => "every block".to_owned(),
        rate => format!("estimates from samples, one in {rate} bytes"),
    };
    let maxima =
        if lifetimes { "; t-gmax is to 64 KiB a thread, and its time not kept" } else { "" };
    format!("poolalloc ({watched}{maxima})")
}

/// One program point.
fn point(frames: &[usize], site: &Site, lifetimes: bool) -> Value {
    let mut point = Map::new();
    let mut set = |name: &str, value: u64| point.insert(name.to_owned(), json!(value));
    set("tb", whole(site.alloc_bytes));
    set("tbk", whole(site.allocs));
    if lifetimes {
        set("tl", whole(sum(&site.lifetimes)));
        // The viewer wants no maximum below what is.
        set("mb", whole(site.most.bytes.max(site.live_bytes)));
        set("mbk", whole(site.most.blocks));
        set("gb", whole(site.at_peak.bytes));
        set("gbk", whole(site.at_peak.blocks));
        set("eb", whole(site.live_bytes));
        set("ebk", whole(site.live));
    }
    point.insert("fs".to_owned(), json!(frames));
    Value::Object(point)
}

/// All lifetimes together, in microseconds: each as the middle of its power of two.
fn sum(lifetimes: &Lifetimes) -> f64 {
    let powers = (0..).map(|i: i32| 1.5 * 2f64.powi(i));
    lifetimes.counts.iter().zip(powers).map(|(count, middle)| count * middle).sum()
}

/// The table of frames: each text once, the root first.
struct Frames {
    texts: Vec<String>,
    places: HashMap<String, usize>,
}

impl Frames {
    fn new() -> Frames {
        Frames { texts: vec!["[root]".to_owned()], places: HashMap::new() }
    }

    /// The places of these calls' frames.
    fn add(&mut self, calls: Vec<Call>, modules: &[Module]) -> Vec<usize> {
        calls.iter().map(|call| self.place(text(call, modules))).collect()
    }

    fn place(&mut self, text: String) -> usize {
        let next = self.texts.len();
        let place = *self.places.entry(text.clone()).or_insert(next);
        if place == next {
            self.texts.push(text);
        }
        place
    }
}

/// Invariant 2. Line 0 and column 0 are DWARF's for what is not known.
fn text(call: &Call, modules: &[Module]) -> String {
    let frame = &call.frame;
    let module = modules.iter().find(|module| (module.start..module.end).contains(&call.address));
    let module = module.map(|module| module.path.as_str()).filter(|path| !path.is_empty());
    let file = frame.file.as_deref().or(module).unwrap_or("???");
    let function = if frame.function.is_empty() { "???" } else { &frame.function };
    let (line, column) = (frame.line.unwrap_or(0), frame.column.unwrap_or(0));
    let text = format!("{:#x}: {function} ({file}:{line}:{column})", call.address);
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
#[path = "dhat_tests.rs"]
mod tests;
