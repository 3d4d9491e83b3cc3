//! The collector's part of the reports of PoolAlloc: types and generations, in JSON, HTML, text and
//! Prometheus' text. No unsafe here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use alloc_global::PoolAlloc;
use alloc_global::report::{self, GcType, NoSymbols, Report};
use rc_gc::{Gc, Heap, Trace};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

#[derive(Trace)]
struct Knot(RefCell<Vec<Gc<Knot>>>);

#[derive(Trace)]
struct Wide([u64; 100]);

fn row<'a>(types: &'a [GcType], name: &str) -> Option<&'a GcType> {
    types.iter().find(|kind| kind.name.ends_with(name))
}

/// Collections of garbage and of what is held: 10 rings, half of them kept.
fn rings() -> Vec<Gc<Knot>> {
    let ring = |_| {
        let knot = Gc::new(Knot(RefCell::default()));
        knot.0.borrow_mut().push(knot.clone());
        knot
    };
    let mut rings: Vec<_> = (0..10).map(ring).collect();
    // The clone and its drop make the rest candidates.
    drop(rings.clone());
    rings.truncate(5);
    rings
}

#[test]
fn types_count_live_objects_of_all_heaps_of_the_thread() {
    assert_eq!(rc_gc::report(), report::GcReport::default());
    let kept = rings();
    let wide = Gc::new(Wide([1; 100]));
    let gone = Gc::new(Wide([2; 100]));
    let weak = Gc::downgrade(&gone);
    drop(gone);
    let heap = Heap::new();
    let apart = Gc::new_in(Knot(RefCell::default()), &heap);
    let text: Gc<str> = Gc::from("text");
    let types = rc_gc::report().types;
    assert_eq!(row(&types, "::Knot").unwrap().objects, 11);
    assert_eq!(row(&types, "::Wide").unwrap().objects, 1);
    assert!(row(&types, "::Wide").unwrap().bytes >= 816);
    assert_eq!(types.iter().find(|kind| kind.name == "str").unwrap().objects, 1);
    assert!(types.is_sorted_by(|a, b| a.bytes >= b.bytes));
    assert_eq!(rc_gc::collect(), 5);
    drop(heap);
    // Its heap has ended; the object is there.
    assert_eq!(row(&rc_gc::report().types, "::Knot").unwrap().objects, 6);
    let objects = rc_gc::report().types.iter().map(|kind| kind.objects).sum::<u64>();
    assert_eq!(objects, 8);
    drop((apart, wide, weak, text, kept));
    rc_gc::collect();
    assert!(rc_gc::report().types.is_empty());
    rc_gc::check().unwrap();
}

#[test]
fn reports_in_every_format_have_types_and_generations() {
    let kept = rings();
    rc_gc::register_report();
    assert_eq!(rc_gc::collect(), 5);
    let old = rc_gc::report().generations[2];
    assert_eq!((old.collections, old.candidates, old.freed, old.retained), (1, 10, 5, 5));
    let report = Report::gather();
    let old = report.gc.as_ref().unwrap().generations[2];
    // Heaps of other tests may have ended meanwhile.
    assert!(old.collections >= 1 && old.freed >= 5 && old.retained >= 5, "{old:?}");
    assert!(old.pause_max_ns != 0 && old.pause_p50_ns <= old.pause_p99_ns);
    assert!(old.pause_p99_ns <= old.pause_max_ns);

    let json = report::json(&report, &NoSymbols);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let gc = &json["gc"];
    assert!(gc["types"][0]["name"].as_str().unwrap().ends_with("::Knot"), "{gc}");
    assert_eq!(gc["types"][0]["objects"], 5);
    assert_eq!(gc["generations"][2]["freed"], old.freed);
    assert_eq!(gc["generations"][2]["retained"], old.retained);
    assert_eq!(gc["generations"][2]["pause_max_ns"], old.pause_max_ns);
    let page = report::html(&report, &NoSymbols);
    assert!(page.contains("report::Knot") && page.contains("pause_p99_ns"));
    let text = report::text(&report, &NoSymbols);
    let line = text.lines().find(|line| line.starts_with("collector: 5 objects live, "));
    assert!(line.is_some_and(|line| line.ends_with("report::Knot")), "{text}");
    // The fields of the oldest generation's row, from the right.
    let numbers = [old.retained, old.freed, old.candidates].map(|number| number.to_string());
    let is_row = |line: &str| line.split_whitespace().rev().take(3).eq(&numbers);
    assert!(text.lines().any(is_row), "{text}");
    let metrics = report::prometheus(&report);
    let line = format!("poolalloc_gc_retained_total{{generation=\"2\"}} {}", old.retained);
    assert!(metrics.lines().any(|other| other == line), "{metrics}");

    // Another thread has no heap, and its own report says so.
    let other = std::thread::spawn(rc_gc::report).join().unwrap();
    assert_eq!(other, report::GcReport::default());
    drop(kept);
}

#[test]
fn what_a_heap_did_is_in_reports_after_it_has_ended() {
    rc_gc::register_report();
    let freed = |report: &Report| {
        report.gc.as_ref().unwrap().generations.get(2).map_or(0, |generation| generation.freed)
    };
    let before = freed(&Report::gather());
    let live = std::thread::spawn(|| {
        let kept = rings();
        assert_eq!(rc_gc::collect(), 5);
        drop(kept);
        assert_eq!(rc_gc::collect(), 5);
    });
    live.join().unwrap();
    let after = Report::gather();
    assert!(freed(&after) >= before + 10, "{:?}", after.gc);
    let pause = after.gc.as_ref().unwrap().generations[2].pause_max_ns;
    assert!(pause > 0, "pauses went with it");
}

/// Reports from its drop.
#[derive(Trace)]
#[gc(drop)]
struct Teller(RefCell<Option<Gc<Teller>>>, #[gc(skip)] Rc<Cell<u64>>);

impl Drop for Teller {
    fn drop(&mut self) {
        let types = rc_gc::report().types;
        self.1.set(self.1.get() + 1 + 100 * types.iter().map(|kind| kind.objects).sum::<u64>());
    }
}

#[test]
fn a_drop_inside_a_collection_may_report_and_sees_what_is_alive() {
    let told = Rc::new(Cell::new(0));
    let kept = Gc::new(7);
    for _ in 0..3 {
        let teller = Gc::new(Teller(RefCell::default(), told.clone()));
        *teller.0.borrow_mut() = Some(teller.clone());
    }
    assert_eq!(rc_gc::collect(), 3);
    assert_eq!(told.get(), 303);
    drop(kept);
    rc_gc::check().unwrap();
}
