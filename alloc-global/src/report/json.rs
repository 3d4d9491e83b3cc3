//! JSON: everything that a report knows, for programs to read.
//!
//! 1. `version` is 1. It changes when a field changes its meaning or goes away; fields may be added
//!    without that.
//! 2. Addresses are texts in hexadecimal: JavaScript's numbers are exact to 2^53 only.
//! 3. What was not switched on is `null`, not empty; but `time_line` is an empty list then.
//!
//! Frames and pools, of which there are many, are tables: a site's `frames` are places in `profile.frames`,
//! `profile.never_freed` are places in `profile.sites`, and a pool's row follows `heatmap.columns`.
//!
//! No unsafe here.

use super::frame::{Frame, Symbols};
use super::model::*;
use super::stacks::{Call, Resolved};
use crate::untracked;
use crate::{
    ArenaMap, BetterClass, ClassStats, HeatMap, Memory, Module, Pin, PoolMap, Rounding,
    RoundingSite, Rss, RssPart, Site, Snapshot, Stats,
};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything in a report as JSON. Of a profile some 1.1 KB a call site, all of them.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, Report};
///
/// let text = report::json(&Report::of_process(), &NoSymbols);
/// assert!(text.contains("\"version\":1"));
/// ```
pub fn json(report: &Report, symbols: &dyn Symbols) -> String {
    untracked(|| {
        let sites: Vec<&Site> =
            report.snapshot.iter().flat_map(|snapshot| &snapshot.sites).collect();
        value(report, &sites, symbols).to_string()
    })
}

/// The report with these of its call sites. Everything else, and what is estimated from them, is of
/// all.
pub(super) fn value(report: &Report, sites: &[&Site], symbols: &dyn Symbols) -> Value {
    let resolved = Resolved::of_sites(sites, report, symbols);
    let pins = report.pins.as_ref();
    let pins =
        pins.map(|pins| pins.iter().map(|pin| self::pin(pin, &resolved)).collect::<Vec<_>>());
    json!({
        "format": "poolalloc-report",
        "version": 1,
        "program": report.program,
        "pid": report.pid,
        "started_ms": since_1970(report.started),
        "taken_ms": since_1970(report.taken),
        "stats": stats(&report.stats),
        "memory": memory(&report.memory),
        "classes": list(report.classes.as_deref(), class),
        "requested": list(report.requested.as_deref(), requested),
        "rounding": list(report.rounding.as_deref(), rounding),
        "profile": report.snapshot.as_ref().map(|snapshot| profile(snapshot, sites, &resolved)),
        "mappings": report.mappings.iter().map(mapping).collect::<Vec<_>>(),
        "heatmap": report.heatmap.as_ref().map(heatmap),
        "pins": pins,
        "rss": report.rss.as_ref().map(rss),
        "latency": list(report.latency.as_deref(), latency),
        "gc": report.gc.as_ref().map(gc),
        "time_line": report.time_line.iter().map(time_point).collect::<Vec<_>>(),
        "tool_ns": report.tool_ns,
    })
}

fn list<T>(items: Option<&[T]>, one: fn(&T) -> Value) -> Value {
    items.map_or(Value::Null, |items| items.iter().map(one).collect())
}

fn hex(address: u64) -> String {
    format!("{address:#x}")
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Every counter, by the name of its field.
fn stats(stats: &Stats) -> Value {
    let rows = stats.rows().map(|(name, value)| (name.replace(' ', "_"), value.into()));
    Value::Object(rows.collect())
}

fn memory(memory: &Memory) -> Value {
    json!({
        "mapped": memory.mapped,
        "live": memory.live,
        "cached": memory.cached,
        "free_blocks": memory.free_blocks,
        "free_pools": memory.free_pools,
        "given_back": memory.given_back,
        "metadata": memory.metadata,
        "rounding": memory.rounding,
        "fallback_live": memory.fallback_live,
        "fallback_cached": memory.fallback_cached,
        "fallback_free": memory.fallback_free,
        "due_in_ms": memory.due_in_ms,
    })
}

fn class(class: &ClassStats) -> Value {
    json!({
        "size": class.size,
        "allocs": class.allocs,
        "deallocs": class.deallocs,
        "live_blocks": class.live_blocks,
        "live_bytes": class.live_bytes,
        "cached_blocks": class.cached_blocks,
        "free_blocks": class.free_blocks,
        "pools": class.pools,
    })
}

fn requested(requested: &Requested) -> Value {
    json!({
        "size": requested.size,
        "class_size": requested.class_size,
        "blocks": requested.blocks,
        "blocks_error": requested.blocks_error,
    })
}

fn rounding(class: &Rounding) -> Value {
    let better = |class: &Option<BetterClass>| {
        class.map(|class| {
            json!({
                "size": class.size,
                "saved_bytes": class.saved_bytes,
                "saved_bytes_error": class.saved_bytes_error,
            })
        })
    };
    let site = |site: &RoundingSite| {
        let stack: Vec<String> = site.stack.iter().map(|&address| hex(address)).collect();
        json!({
            "stack": stack,
            "lost_bytes": site.lost_bytes,
            "lost_bytes_error": site.lost_bytes_error,
        })
    };
    json!({
        "class_size": class.class_size,
        "blocks": class.blocks,
        "requested_bytes": class.requested_bytes,
        "lost_bytes": class.lost_bytes,
        "lost_bytes_error": class.lost_bytes_error,
        "additional": better(&class.additional),
        "other": better(&class.other),
        "sites": class.sites.iter().map(site).collect::<Vec<_>>(),
    })
}

fn profile(snapshot: &Snapshot, sites: &[&Site], resolved: &Resolved) -> Value {
    let mut frames = Frames::default();
    let numbered = sites.iter().enumerate();
    let leaks = numbered.filter(|(_, site)| site.is_never_freed());
    let never_freed: Vec<usize> = leaks.map(|(place, _)| place).collect();
    let sites: Vec<Value> =
        sites.iter().map(|site| self::site(site, frames.places(resolved.calls(site)))).collect();
    let totals = snapshot.totals();
    json!({
        "rate": snapshot.rate,
        "taken_ms": since_1970(snapshot.taken),
        "duration_ms": u64::try_from(snapshot.duration.as_millis()).unwrap_or(u64::MAX),
        "tool_bytes": snapshot.tool_bytes,
        "stats": stats(&snapshot.stats),
        "estimated": {
            "allocs": totals.allocs,
            "alloc_bytes": totals.alloc_bytes,
            "alloc_bytes_error": totals.alloc_bytes_error,
            "live_blocks": totals.live,
            "live_bytes": totals.live_bytes,
            "live_blocks_error": totals.live_error,
            "live_bytes_error": totals.live_bytes_error,
        },
        "dropped": {
            "stacks": snapshot.dropped.stacks,
            "blocks": snapshot.dropped.blocks,
            "truncated": snapshot.dropped.truncated,
            "corrupt": snapshot.dropped.corrupt,
        },
        "frames": frames.rows,
        "sites": sites,
        "never_freed": never_freed,
        "modules": snapshot.modules.iter().map(module).collect::<Vec<_>>(),
    })
}

/// Frames, each once.
#[derive(Default)]
struct Frames {
    rows: Vec<Value>,
    places: HashMap<Call, usize>,
}

impl Frames {
    fn places(&mut self, calls: Vec<Call>) -> Vec<usize> {
        calls.into_iter().map(|call| self.place(call)).collect()
    }

    fn place(&mut self, call: Call) -> usize {
        let next = self.rows.len();
        let Call { address, frame } = call.clone();
        let place = *self.places.entry(call).or_insert(next);
        if place == next {
            let Frame { function, file, line, column } = frame;
            self.rows.push(json!({
                "address": hex(address),
                "function": (!function.is_empty()).then_some(function),
                "file": file,
                "line": line,
                "column": column,
            }));
        }
        place
    }
}

fn site(site: &Site, frames: Vec<usize>) -> Value {
    let totals = site.totals();
    json!({
        "stack": site.stack.iter().map(|&address| hex(address)).collect::<Vec<_>>(),
        "frames": frames,
        "truncated": site.truncated,
        "region": site.region,
        "thread": site.thread,
        "allocs": site.allocs,
        "alloc_bytes": site.alloc_bytes,
        "alloc_bytes_error": totals.alloc_bytes_error,
        "live_blocks": site.live,
        "live_blocks_error": totals.live_error,
        "live_bytes": site.live_bytes,
        "live_bytes_error": totals.live_bytes_error,
        "live_requested_bytes": site.live_requested_bytes,
        "live_lost_bytes": site.live_lost_bytes,
        "most": {"bytes": site.most.bytes, "blocks": site.most.blocks},
        "at_peak": {"bytes": site.at_peak.bytes, "blocks": site.at_peak.blocks},
        "temporary": site.temporary,
        "samples": site.samples,
        "live_samples": site.live_samples,
        "lifetimes_log2_us": site.lifetimes.counts.to_vec(),
    })
}

fn module(module: &Module) -> Value {
    json!({
        "start": hex(module.start),
        "end": hex(module.end),
        "bias": hex(module.bias),
        "path": module.path,
        "build_id": module.build_id,
    })
}

fn mapping(mapping: &Mapping) -> Value {
    json!({
        "start": hex(mapping.start),
        "end": hex(mapping.end),
        "offset": hex(mapping.offset),
        "path": mapping.path,
    })
}

fn heatmap(heatmap: &HeatMap) -> Value {
    let pool = |pool: &PoolMap| {
        json!([
            pool.state.name(),
            pool.class_size,
            pool.owner,
            pool.live,
            pool.cached,
            pool.capacity,
            pool.age_ms,
        ])
    };
    let arena = |arena: &ArenaMap| {
        let pools: Vec<Value> = arena.pools.iter().map(pool).collect();
        json!({ "start": hex(arena.start), "pools": pools })
    };
    json!({
        "columns":
            ["state", "class_size", "owner", "live", "cached", "capacity", "age_ms"],
        "arenas": heatmap.arenas.iter().map(arena).collect::<Vec<_>>(),
    })
}

fn pin(pin: &Pin, resolved: &Resolved) -> Value {
    json!({
        "site": resolved.pin_name(pin),
        "stack": pin.stack.iter().map(|&address| hex(address)).collect::<Vec<_>>(),
        "threads": pin.threads,
        "arenas": pin.arenas,
        "blocks": pin.blocks,
        "bytes": pin.bytes,
        "would_return_bytes": pin.would_return_bytes,
    })
}

fn rss(rss: &Rss) -> Value {
    let part =
        |part: &RssPart| json!({ "name": part.name, "bytes": part.bytes, "setting": part.setting });
    json!({
        "resident": rss.resident,
        "parts": rss.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

fn latency(latency: &Latency) -> Value {
    let histogram: &Histogram<u64> = &latency.histogram;
    let mut quantiles = Map::new();
    for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999] {
        let value = histogram.value_at_quantile(quantile);
        quantiles.insert(quantile.to_string(), json!(value));
    }
    let recorded: Vec<[u64; 2]> = histogram
        .iter_recorded()
        .map(|step| [step.value_iterated_to(), step.count_at_value()])
        .collect();
    json!({
        "path": latency.path,
        "count": histogram.len(),
        "mean_ns": histogram.mean(),
        "min_ns": histogram.min(),
        "max_ns": histogram.max(),
        "quantiles_ns": quantiles,
        "recorded_ns": recorded,
    })
}

fn gc(gc: &GcReport) -> Value {
    let kind =
        |kind: &GcType| json!({ "name": kind.name, "objects": kind.objects, "bytes": kind.bytes });
    let generation = |generation: &GcGeneration| {
        json!({
            "collections": generation.collections,
            "pause_p50_ns": generation.pause_p50_ns,
            "pause_p99_ns": generation.pause_p99_ns,
            "pause_max_ns": generation.pause_max_ns,
            "candidates": generation.candidates,
            "freed": generation.freed,
            "retained": generation.retained,
        })
    };
    json!({
        "types": gc.types.iter().map(kind).collect::<Vec<_>>(),
        "generations": gc.generations.iter().map(generation).collect::<Vec<_>>(),
    })
}

fn time_point(point: &TimePoint) -> Value {
    json!({
        "ms": point.ms,
        "live_bytes": point.live_bytes,
        "mapped_bytes": point.mapped_bytes,
        "resident_bytes": point.resident_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{NoSymbols, testing};
    use super::*;

    fn read(report: &Report) -> Value {
        serde_json::from_str(&json(report, &testing::symbols)).expect("JSON")
    }

    /// Every text that looks like an address, and every number that is none but could be taken for one.
    fn visit(value: &Value, see: &mut impl FnMut(&Value)) {
        see(value);
        match value {
            Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
            Value::Object(fields) => fields.values().for_each(|field| visit(field, see)),
            _ => {}
        }
    }

    #[test]
    fn it_says_what_it_is_and_numbers_are_exact_in_javascript() {
        let value = read(&testing::report());
        assert_eq!((&value["format"], &value["version"]), (&json!("poolalloc-report"), &json!(1)));
        visit(&value, &mut |value| {
            assert!(value.as_u64().is_none_or(|number| number < 1 << 53), "{value}");
        });
        for address in [
            &value["profile"]["modules"][0]["start"],
            &value["profile"]["sites"][0]["stack"][0],
            &value["heatmap"]["arenas"][0]["start"],
            &value["mappings"][0]["offset"],
        ] {
            let text = address.as_str().expect("a text").strip_prefix("0x").expect("hexadecimal");
            u64::from_str_radix(text, 16).expect("hexadecimal");
        }
    }

    #[test]
    fn sites_point_into_the_table_of_frames() {
        let report = testing::report();
        let value = read(&report);
        let profile = &value["profile"];
        let site = &profile["sites"][2];
        let names: Vec<&str> = site["frames"]
            .as_array()
            .expect("places")
            .iter()
            .filter_map(|place| profile["frames"][place.as_u64()? as usize]["function"].as_str())
            .collect();
        let expected = [
            "server::cache::Entry::new",
            "server::cache::insert",
            "server::handle",
            "server::main",
        ];
        assert_eq!(names, expected);
        assert_eq!(site["stack"].as_array().expect("addresses").len(), 5, "the stack is whole");
        let snapshot = report.snapshot.as_ref().expect("a snapshot");
        let places: Vec<&crate::Site> = profile["never_freed"]
            .as_array()
            .expect("places")
            .iter()
            .filter_map(|place| snapshot.sites.get(place.as_u64()? as usize))
            .collect();
        let leaks = snapshot.leaks().into_iter().map(|site| &site.stack);
        assert!(!places.is_empty() && places.iter().map(|site| &site.stack).eq(leaks));
        let frames = profile["frames"].as_array().expect("frames");
        let distinct: std::collections::HashSet<&Value> = frames.iter().collect();
        assert_eq!(distinct.len(), frames.len(), "each once");
    }

    #[test]
    fn sums_in_the_file_are_those_of_the_report() {
        let report = testing::report();
        let value = read(&report);
        let stats = &value["stats"];
        assert_eq!(stats["live_bytes"], report.stats.live_bytes);
        assert_eq!(stats["realloc_bytes_copied"], report.stats.realloc_bytes_copied);
        assert_eq!(stats.as_object().map(Map::len), Some(report.stats.rows().count()));
        let sites = value["profile"]["sites"].as_array().expect("sites");
        let sum: f64 =
            sites.iter().map(|site| site["live_bytes"].as_f64().expect("a number")).sum();
        let estimated = value["profile"]["estimated"]["live_bytes"].as_f64().expect("a number");
        assert!((sum - estimated).abs() < 1.0);
        for (latency, row) in
            report.latency.expect("paths").iter().zip(value["latency"].as_array().expect("paths"))
        {
            let cells = row["recorded_ns"].as_array().expect("cells").iter();
            let count: u64 = cells.map(|cell| cell[1].as_u64().expect("a count")).sum();
            assert_eq!(count, latency.histogram.len());
            assert_eq!(row["quantiles_ns"]["0.99"], latency.histogram.value_at_quantile(0.99));
        }
    }

    #[test]
    fn what_was_not_switched_on_is_null() {
        let value: Value = serde_json::from_str(&json(&Report::empty(), &NoSymbols)).expect("JSON");
        for part in [
            "classes",
            "requested",
            "rounding",
            "profile",
            "heatmap",
            "pins",
            "rss",
            "latency",
            "gc",
        ] {
            assert!(value[part].is_null(), "{part}");
        }
        assert_eq!(value["time_line"], json!([]));
    }

    #[test]
    fn errors_are_those_of_the_sites_and_not_of_the_rate() {
        let one = Site {
            stack: vec![1],
            live: 1.0,
            live_bytes: 1e8,
            samples: 1,
            live_samples: 1,
            ..Site::default()
        };
        let mixed = Site { live_variance: 9.0, live_bytes_variance: 1e6, ..one.clone() };
        let mut report = testing::report();
        for rate in [1, 512 << 10, 1 << 30] {
            let mut snapshot = testing::snapshot(vec![one.clone(), mixed.clone()]);
            snapshot.rate = rate;
            report.snapshot = Some(snapshot);
            let profile = &read(&report)["profile"];
            assert_eq!(profile["sites"][0]["live_bytes_error"], 0.0, "in for sure");
            assert_eq!(profile["sites"][1]["live_bytes_error"], 1e3);
            let estimated = &profile["estimated"];
            assert_eq!(estimated["live_bytes_error"], 1e3);
            assert_eq!(estimated["live_blocks_error"], 3.0);
        }
        let (value, rounding) = (read(&report), report.rounding.expect("classes"));
        assert_eq!(value["rounding"][0]["lost_bytes_error"], rounding[0].lost_bytes_error);
        let site = &rounding[0].sites[0];
        assert_eq!(value["rounding"][0]["sites"][0]["lost_bytes_error"], site.lost_bytes_error);
        let error = report.requested.expect("sizes")[0].blocks_error;
        assert!(error > 0.0 && value["requested"][0]["blocks_error"] == error);
    }
}
