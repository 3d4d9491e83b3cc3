//! The private heap against the plain model: any calls, on a source that refuses any run of requests.
//!
//! Every invariant is verified after each call; at the end nothing is live, and no page is lost. No
//! unsafe here.
#![no_main]

use alloc_core::{FailingPages, Heap, OsPages};
use libfuzzer_sys::fuzz_target;
use tests::heap::Memory;
use tests::program::Program;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[first, refused], calls)) = bytes.split_first_chunk() else { return };
    let pages = FailingPages::new(OsPages, first.into(), refused.into());
    let heap = Heap::new(&pages);
    Program::decode(calls).run(Memory(&heap), &mut || heap.check().map_err(str::to_owned));
    assert_eq!(heap.usage().live_blocks, 0);
    heap.trim();
    heap.check().expect("invariants after trim");
    drop(heap);
    assert_eq!(pages.mapped_bytes(), 0, "pages not given back");
});
