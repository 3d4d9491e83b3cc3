//! pprof's format: protocol buffers, gzipped.
//!
//! The conventions are those of Go's heap profile, which every reader knows:
//!
//! | field | value |
//! |---|---|
//! | sample types | `alloc_objects` count, `alloc_space` bytes, `inuse_objects` count, `inuse_space` bytes |
//! | default sample type | `inuse_space` |
//! | period | `space` bytes: the sampling rate |
//! | label `bytes` | mean size of a block of the sample |
//!
//! Values are unbiased already. Addresses are return addresses less one, as the format wants them.
//! Where symbols are known they are inside; where not, a reader finds them by build identifier, and
//! the mapping's offset in the file.
//!
//! No unsafe here.

use super::frame::{Frame, Symbols};
use super::model::{Mapping, Report};
use super::protobuf::Message;
use super::stacks::{CUT, NO_STACK, Resolved, whole};
use crate::untracked;
use crate::{Dropped, Site, Snapshot};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The profile of a report in pprof's format, gzipped; without a snapshot, a profile without samples.
///
/// Opens in `go tool pprof`, speedscope, Parca, Pyroscope and Polar Signals.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, example};
///
/// let bytes = report::pprof(&example::report(), &NoSymbols);
/// assert_eq!(bytes[..2], [0x1f, 0x8b]);
/// ```
pub fn pprof(report: &Report, symbols: &dyn Symbols) -> Vec<u8> {
    profile(report, symbols, "inuse_space")
}

/// As [`pprof`], with another sample type to show first.
pub(super) fn profile(report: &Report, symbols: &dyn Symbols, default: &str) -> Vec<u8> {
    untracked(|| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to a vector does not fail.
        let _ = gzip.write_all(&message(report, symbols, default));
        gzip.finish().unwrap_or_default()
    })
}

/// The profile, not compressed.
fn message(report: &Report, symbols: &dyn Symbols, default: &str) -> Vec<u8> {
    let mut profile = Profile::default();
    profile.strings.add("");
    let types = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    for (name, unit) in types {
        let value_type = profile.strings.value_type(name, unit);
        profile.message.message(1, &value_type);
    }
    let mut taken = report.taken;
    if let Some(snapshot) = &report.snapshot {
        taken = snapshot.taken;
        profile.mappings = mappings(report, snapshot);
        let resolved = Resolved::new(snapshot, symbols);
        snapshot.sites.iter().for_each(|site| profile.sample(site, &resolved));
        profile.finish_mappings();
        let duration = i64::try_from(snapshot.duration.as_nanos()).unwrap_or(i64::MAX);
        profile.message.int(10, duration);
        profile.message.uint(12, snapshot.rate);
        profile.comments(report, snapshot);
    }
    profile.message.int(9, since_1970(taken));
    let period_type = profile.strings.value_type("space", "bytes");
    profile.message.message(11, &period_type);
    let default = profile.strings.add(default);
    profile.message.uint(14, default);
    for text in &profile.strings.texts {
        profile.message.text(6, text);
    }
    profile.message.into_bytes()
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A text is written once, and known by its place.
#[derive(Default)]
struct Strings {
    texts: Vec<String>,
    places: HashMap<String, u64>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u64 {
        if let Some(&place) = self.places.get(text) {
            return place;
        }
        let place = self.texts.len() as u64;
        self.texts.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }

    fn value_type(&mut self, name: &str, unit: &str) -> Message {
        let mut message = Message::default();
        message.uint(1, self.add(name));
        message.uint(2, self.add(unit));
        message
    }
}

/// A mapping with what is known of its file.
struct Mapped {
    mapping: Mapping,
    build_id: String,
    /// Whether any of its addresses was given a function, so that a reader need not look for more.
    symbols: bool,
}

/// The executable mappings; a module of which none is known stands for itself, from its first address on.
fn mappings(report: &Report, snapshot: &Snapshot) -> Vec<Mapped> {
    let mut mapped = Vec::new();
    for module in &snapshot.modules {
        // By address: the system and the loader may know a file by different paths.
        let inside = |mapping: &&Mapping| (module.start..module.end).contains(&mapping.start);
        let before = mapped.len();
        let found = report.mappings.iter().filter(inside);
        let found = found.map(|found| Mapping { path: module.path.clone(), ..found.clone() });
        let with = |mapping| Mapped { mapping, build_id: module.build_id.clone(), symbols: false };
        mapped.extend(found.map(with));
        if mapped.len() == before {
            let (start, end, path) = (module.start, module.end, module.path.clone());
            mapped.push(with(Mapping { start, end, offset: 0, path }));
        }
    }
    mapped
}

#[derive(Default)]
struct Profile {
    message: Message,
    strings: Strings,
    mappings: Vec<Mapped>,
    /// Locations by address and, for made-up frames, name.
    locations: HashMap<(u64, &'static str), u64>,
    functions: HashMap<(String, String), u64>,
}

impl Profile {
    fn sample(&mut self, site: &Site, resolved: &Resolved) {
        let stack = resolved.trim(&site.stack);
        let mut locations: Vec<u64> = Vec::with_capacity(stack.len() + 1);
        for &address in stack {
            locations.push(self.location(address, "", resolved.at(address)));
        }
        let made_up = match (stack.is_empty(), site.truncated) {
            (true, _) => Some(NO_STACK),
            (false, true) => Some(CUT),
            (false, false) => None,
        };
        if let Some(name) = made_up {
            let frame = Frame { function: name.to_owned(), ..Frame::default() };
            locations.push(self.location(0, name, &[frame]));
        }
        let values = [site.allocs, site.alloc_bytes, site.live, site.live_bytes];
        let mut sample = Message::default();
        sample.packed(1, locations.into_iter());
        sample.packed(2, values.into_iter().map(|value| whole(value).min(i64::MAX as u64)));
        let mean = if site.allocs > 0.0 { whole(site.alloc_bytes / site.allocs) } else { 0 };
        let mut number = Message::default();
        number.uint(1, self.strings.add("bytes"));
        number.uint(3, mean);
        number.uint(4, self.strings.add("bytes"));
        sample.message(3, &number);
        for (key, text) in [("thread", &site.thread), ("region", &site.region)] {
            if !text.is_empty() {
                let mut label = Message::default();
                label.uint(1, self.strings.add(key));
                label.uint(2, self.strings.add(text));
                sample.message(3, &label);
            }
        }
        self.message.message(2, &sample);
    }

    fn location(&mut self, address: u64, made_up: &'static str, frames: &[Frame]) -> u64 {
        let next = self.locations.len() as u64 + 1;
        let id = *self.locations.entry((address, made_up)).or_insert(next);
        if id != next {
            return id;
        }
        let holds = |mapped: &Mapped| (mapped.mapping.start..mapped.mapping.end).contains(&address);
        let place = self.mappings.iter().position(holds);
        let mut location = Message::default();
        location.uint(1, id);
        location.uint(2, place.map_or(0, |place| place as u64 + 1));
        location.uint(3, address);
        for frame in frames {
            let mut line = Message::default();
            line.uint(1, self.function(frame));
            line.uint(2, frame.line.unwrap_or(0).into());
            line.uint(3, frame.column.unwrap_or(0).into());
            location.message(4, &line);
        }
        if let Some(mapped) = place.and_then(|place| self.mappings.get_mut(place)) {
            mapped.symbols |= !frames.is_empty();
        }
        self.message.message(4, &location);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let file = frame.file.clone().unwrap_or_default();
        let next = self.functions.len() as u64 + 1;
        let id = *self.functions.entry((frame.function.clone(), file)).or_insert(next);
        if id == next {
            let name = self.strings.add(&frame.function);
            let file = self.strings.add(frame.file.as_deref().unwrap_or(""));
            let mut function = Message::default();
            function.uint(1, id);
            function.uint(2, name);
            function.uint(3, name);
            function.uint(4, file);
            self.message.message(5, &function);
        }
        id
    }

    /// The program's own file is the first mapping, as readers expect.
    fn finish_mappings(&mut self) {
        for (place, mapped) in self.mappings.iter().enumerate() {
            let mut mapping = Message::default();
            mapping.uint(1, place as u64 + 1);
            mapping.uint(2, mapped.mapping.start);
            mapping.uint(3, mapped.mapping.end);
            mapping.uint(4, mapped.mapping.offset);
            mapping.uint(5, self.strings.add(&mapped.mapping.path));
            mapping.uint(6, self.strings.add(&mapped.build_id));
            for field in 7..=10 {
                mapping.uint(field, mapped.symbols.into());
            }
            self.message.message(3, &mapping);
        }
    }

    fn comments(&mut self, report: &Report, snapshot: &Snapshot) {
        let Dropped { stacks, blocks, truncated, corrupt } = snapshot.dropped;
        let watched = match snapshot.rate {
            0 => "nothing was watched".to_owned(),
            1 => "every block was traced: counts are exact".to_owned(),
            rate => format!("sampled, one in {rate} bytes on average: counts are estimates"),
        };
        let comments = [
            format!("{} (process {})", report.program, report.pid),
            watched,
            format!(
                "exact counters: {} allocations, {} blocks live, {} bytes live",
                report.stats.allocs, report.stats.live_blocks, report.stats.live_bytes
            ),
            format!(
                "dropped: {stacks} stacks, {blocks} blocks; walks cut: {truncated}, corrupt: {corrupt}"
            ),
            format!("the profile itself: {} bytes, {} ns", snapshot.tool_bytes, report.tool_ns),
        ];
        let places: Vec<u64> = comments.iter().map(|text| self.strings.add(text)).collect();
        self.message.packed(13, places.into_iter());
    }
}

#[cfg(test)]
#[path = "pprof_tests.rs"]
mod tests;
