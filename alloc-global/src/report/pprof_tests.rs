//! Profiles read back with the published schema, by another implementation of protocol buffers.
//!
//! The structures below are `profile.proto` of pprof, field by field. No unsafe here.

use super::super::testing::{self, named};
use super::*;
use crate::Module;
use flate2::read::GzDecoder;
use prost::Message as _;
use std::collections::HashSet;
use std::io::Read;

#[derive(Clone, PartialEq, prost::Message)]
struct Proto {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<ProtoMapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "7")]
    drop_frames: i64,
    #[prost(int64, tag = "8")]
    keep_frames: i64,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
    #[prost(int64, tag = "4")]
    num_unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProtoMapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
    #[prost(bool, tag = "5")]
    is_folded: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
    #[prost(int64, tag = "3")]
    column: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
    #[prost(int64, tag = "5")]
    start_line: i64,
}

impl Proto {
    fn read(report: &Report, symbols: &dyn Symbols) -> Proto {
        Proto::parse(&pprof(report, symbols))
    }

    fn parse(gzipped: &[u8]) -> Proto {
        let mut bytes = Vec::new();
        GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("gzip");
        let proto = Proto::decode(bytes.as_slice()).expect("protocol buffers");
        // Nothing that the schema does not know: what was read is all that was written.
        assert_eq!(proto.encoded_len(), bytes.len());
        proto.check();
        proto
    }

    fn text(&self, place: i64) -> &str {
        &self.string_table[usize::try_from(place).expect("a place in the table")]
    }

    fn types(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|t| (self.text(t.r#type), self.text(t.unit))).collect()
    }

    fn function(&self, id: u64) -> &Function {
        self.function.iter().find(|function| function.id == id).expect("a known function")
    }

    /// The names of a sample's frames, the innermost first.
    fn names(&self, sample: &Sample) -> Vec<String> {
        let lines = sample.location_id.iter().flat_map(|&id| {
            let location = self.location.iter().find(|l| l.id == id).expect("a known location");
            let named = |line: &Line| self.text(self.function(line.function_id).name).to_owned();
            match location.line.is_empty() {
                true => vec![format!("{:#x}", location.address)],
                false => location.line.iter().map(named).collect(),
            }
        });
        lines.collect()
    }

    /// What the schema's comments and `CheckValid` of the reference implementation demand.
    fn check(&self) {
        assert_eq!(self.string_table[0], "");
        let distinct: HashSet<&String> = self.string_table.iter().collect();
        assert_eq!(distinct.len(), self.string_table.len(), "each text once");
        for sample in &self.sample {
            assert_eq!(sample.value.len(), self.sample_type.len());
            assert!(sample.value.iter().all(|&value| value >= 0));
            assert!(!sample.location_id.is_empty());
            self.names(sample);
            for label in &sample.label {
                self.text(label.key);
                assert!(label.str == 0 || label.num == 0, "one of the two");
                assert!(label.num_unit == 0 || label.str == 0);
            }
        }
        let unique = |ids: Vec<u64>| {
            assert!(ids.iter().all(|&id| id != 0));
            assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        };
        unique(self.mapping.iter().map(|mapping| mapping.id).collect());
        unique(self.location.iter().map(|location| location.id).collect());
        unique(self.function.iter().map(|function| function.id).collect());
        for location in &self.location {
            let mapping = self.mapping.iter().find(|m| m.id == location.mapping_id);
            assert_eq!(mapping.is_none(), location.mapping_id == 0);
            if let Some(mapping) = mapping {
                let range = mapping.memory_start..mapping.memory_limit;
                assert!(range.contains(&location.address));
            }
        }
        for function in &self.function {
            self.text(function.name);
            self.text(function.filename);
        }
        self.comment.iter().for_each(|&comment| assert!(!self.text(comment).is_empty()));
    }
}

#[test]
fn types_period_and_default_are_those_of_gos_heap_profile() {
    let report = testing::report();
    let proto = Proto::read(&report, &testing::symbols);
    let expected = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    assert_eq!(proto.types(), expected);
    assert_eq!(proto.text(proto.default_sample_type), "inuse_space");
    let period_type = proto.period_type.as_ref().expect("a type of period");
    assert_eq!((proto.text(period_type.r#type), proto.text(period_type.unit)), ("space", "bytes"));
    let snapshot = report.snapshot.as_ref().expect("a snapshot");
    assert_eq!(proto.period, 524_288);
    assert_eq!(proto.duration_nanos, i64::try_from(snapshot.duration.as_nanos()).expect("fits"));
    assert_eq!(proto.time_nanos, since_1970(snapshot.taken));
    assert!(proto.comment.iter().any(|&comment| proto.text(comment).contains("524288 bytes")));
}

#[test]
fn handlers_differ_in_what_is_shown_first() {
    use super::super::handlers;
    let report = testing::report();
    let answers = [
        (handlers::heap(&report, &testing::symbols), "inuse_space"),
        (handlers::allocs(&report, &testing::symbols), "alloc_space"),
    ];
    for ((kind, bytes), default) in answers {
        let proto = Proto::parse(&bytes);
        assert_eq!(
            (kind, proto.text(proto.default_sample_type)),
            ("application/octet-stream", default)
        );
        assert!(!proto.sample.is_empty());
    }
}

#[test]
fn samples_hold_the_sites_values_stacks_and_labels() {
    let report = testing::report();
    let sites = &report.snapshot.as_ref().expect("a snapshot").sites;
    let proto = Proto::read(&report, &testing::symbols);
    assert_eq!(proto.sample.len(), sites.len());
    for (sample, site) in proto.sample.iter().zip(sites) {
        let values = [site.allocs, site.alloc_bytes, site.live, site.live_bytes];
        assert_eq!(sample.value, values.map(|value| value.round() as i64));
        let label = |key: &str| sample.label.iter().find(|label| proto.text(label.key) == key);
        let mean = label("bytes").expect("the mean size");
        assert_eq!(mean.num, (site.alloc_bytes / site.allocs).round() as i64);
        assert_eq!(label("thread").map_or("", |label| proto.text(label.str)), site.thread);
        assert_eq!(label("region").map_or("", |label| proto.text(label.str)), site.region);
    }
    let names = proto.names(&proto.sample[0]);
    assert_eq!(names[0], "alloc::vec::Vec<T,A>::push", "the allocator's own frames are gone");
    assert_eq!(names.last().map(String::as_str), Some("server::main"), "the runtime's too");
    let cut = proto.sample.iter().zip(sites).find(|(_, site)| site.truncated).expect("one");
    assert_eq!(proto.names(cut.0).last().map(String::as_str), Some(CUT));
    let without = proto.sample.iter().zip(sites).find(|(_, site)| site.stack.is_empty());
    assert_eq!(proto.names(without.expect("one").0), [NO_STACK]);
}

#[test]
fn lines_of_one_location_are_its_inlined_calls_innermost_first() {
    let report = testing::report();
    let proto = Proto::read(&report, &testing::symbols);
    let inlined =
        proto.location.iter().find(|location| location.address == 0x55d0_0000_3000).expect("one");
    let names: Vec<&str> =
        inlined.line.iter().map(|line| proto.text(proto.function(line.function_id).name)).collect();
    assert_eq!(names, ["server::cache::Entry::new", "server::cache::insert"]);
    assert_eq!((inlined.line[0].line, inlined.line[0].column), (21, 9));
    let file = proto.function(inlined.line[0].function_id).filename;
    assert_eq!(proto.text(file), "src/cache.rs");
}

#[test]
fn mappings_have_offsets_and_build_ids_and_say_whether_symbols_are_known() {
    let report = testing::report();
    for (symbols, known) in
        [(&testing::symbols as &dyn Symbols, true), (&super::super::NoSymbols, false)]
    {
        let proto = Proto::read(&report, symbols);
        let own = &proto.mapping[0];
        assert_eq!(proto.text(own.filename), "/usr/bin/server");
        assert_eq!(proto.text(own.build_id), "0123456789abcdef");
        assert_eq!((own.memory_start, own.memory_limit), (0x55d0_0000_2000, 0x55d0_0010_0000));
        assert_eq!(own.file_offset, 0x1000, "of the executable part, not of the module");
        assert_eq!(own.has_functions, known);
        assert_eq!(own.has_inline_frames, known);
        let other = &proto.mapping[1];
        assert_eq!(proto.text(other.filename), "/lib/libc.so.6");
        assert_eq!((other.memory_start, other.file_offset), (0x7f00_0000_0000, 0));
        let lines = proto.location.iter().filter(|location| location.address != 0);
        assert!(lines.clone().count() > 5);
        assert_eq!(lines.clone().any(|location| !location.line.is_empty()), known);
    }
}

#[test]
fn a_file_that_the_system_knows_by_another_path_has_its_mapping() {
    let mut report = testing::report();
    report.mappings.push(Mapping {
        start: 0x7f00_0000_1000,
        end: 0x7f00_0010_0000,
        offset: 0x26000,
        path: "/usr/lib/libc.so.6".to_owned(),
    });
    let proto = Proto::read(&report, &testing::symbols);
    let library = &proto.mapping[1];
    assert_eq!((library.memory_start, library.file_offset), (0x7f00_0000_1000, 0x26000));
    assert_eq!(proto.text(library.build_id), "fedcba9876543210");
    assert_eq!(proto.text(library.filename), "/lib/libc.so.6");
}

#[test]
fn a_report_without_a_snapshot_is_a_profile_without_samples() {
    let mut report = testing::report();
    report.snapshot = None;
    let proto = Proto::read(&report, &testing::symbols);
    assert_eq!(proto.sample.len(), 0);
    assert_eq!(proto.types().len(), 4);
}

#[test]
fn estimates_that_are_no_numbers_do_no_harm() {
    let mut snapshot = testing::snapshot(vec![Site {
        stack: vec![1],
        allocs: f64::NAN,
        alloc_bytes: f64::INFINITY,
        live: -4.0,
        live_bytes: 1e300,
        ..Site::default()
    }]);
    snapshot.modules = vec![Module { start: 0, end: 2, ..Module::default() }];
    let report = Report { snapshot: Some(snapshot), ..Report::empty() };
    let proto = Proto::read(&report, &|a: &[u64]| vec![vec![named("f")]; a.len()]);
    assert_eq!(proto.sample[0].value, [0, i64::MAX, 0, i64::MAX]);
}
