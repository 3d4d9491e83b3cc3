//! `PoolAlloc` as the allocator of the fuzzer itself, against the plain model: alloc, alloc_zeroed,
//! realloc, dealloc.
//!
//! The programs of one process share its heap and caches. What the thread caches is given back now
//! and then, as the first byte says, so that blocks take the whole way. No unsafe here.
#![no_main]

use alloc_global::{PoolAlloc, stats, thread_flush, trim};
use libfuzzer_sys::fuzz_target;
use tests::block::Process;
use tests::invariants;
use tests::program::Program;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fuzz_target!(|bytes: &[u8]| {
    let Some((&every, calls)) = bytes.split_first() else { return };
    let program = Program::decode(calls);
    let before = stats();
    let mut steps = 0u32;
    program.run(Process, &mut || {
        steps += 1;
        match every {
            1..16 if steps.is_multiple_of(every.into()) => thread_flush(),
            16..32 if steps.is_multiple_of(every.into()) => drop(trim()),
            _ => {}
        }
        // The whole process is verified: less often than the private heap.
        if steps.is_multiple_of(8) { invariants() } else { Ok(()) }
    });
    let after = stats();
    assert_eq!(after.live_blocks, before.live_blocks, "{after}");
    assert_eq!(after.live_bytes, before.live_bytes, "{after}");
});
