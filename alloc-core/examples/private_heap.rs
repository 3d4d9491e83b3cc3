//! A private heap without any global allocator of ours: a map and its values live in it, and all their
//! memory goes back at once.
//!
//! `cargo run -p alloc-core --example private_heap --features allocator-api2`. No unsafe here.

use alloc_core::{Heap, OsPages};
use allocator_api2::boxed::Box;
use hashbrown::{DefaultHashBuilder, HashMap};

fn main() {
    let heap = Heap::new(OsPages);
    let mut squares = HashMap::with_hasher_in(DefaultHashBuilder::default(), &heap);
    for number in 0..100_000u64 {
        squares.insert(number, Box::new_in([number, number * number, 0], &heap));
    }
    for number in (0..100_000).step_by(3) {
        squares.remove(&number);
    }
    let usage = heap.usage();
    println!("{} values, {} blocks in {} pools", squares.len(), usage.live_blocks, usage.pools);
    println!("{:>9} bytes live", usage.live);
    println!("{:>9} bytes free", usage.free);
    println!("{:>9} bytes of metadata", usage.metadata);
    println!("{:>9} bytes of rounding", usage.rounding);
    println!("{:>9} bytes mapped", usage.mapped);

    drop(squares);
    println!("{:>9} bytes handed back by trim", heap.trim());
    assert_eq!(heap.check(), Ok(()));
    assert_eq!(heap.usage().mapped, 0);
}
