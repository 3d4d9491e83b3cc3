//! Threads that live shortly: the next one has the memory of the last. One test, for it counts what
//! the process asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rc_gc::{Gc, Generation, Heap, Mode, Trace, Weak};

/// Counts the large blocks: heaps are among them, and what `std` needs for a thread is not.
struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: as `System`, to which all is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Relaxed: read when the threads have been joined.
        LARGE.fetch_add(usize::from(layout.size() >= 4096), Relaxed);
        // SAFETY: by contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: by contract.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOC: Counting = Counting;

#[derive(Trace)]
struct Ring(RefCell<Option<Gc<Ring>>>, u64);

thread_local!(static KEPT: RefCell<Vec<Gc<Ring>>> = const { RefCell::new(Vec::new()) });

/// A thread's work: what its heap is told must not reach the next.
fn work(seed: u64) {
    let stats = rc_gc::stats();
    assert_eq!((stats.live, stats.generations), Default::default(), "as new");
    assert_eq!((rc_gc::mode(), rc_gc::is_enabled()), (Mode::Automatic, true));
    let rings: Vec<Gc<Ring>> = (0..20)
        .map(|number| {
            let ring = Gc::new(Ring(RefCell::default(), seed + number));
            *ring.0.borrow_mut() = Some(ring.clone());
            ring
        })
        .collect();
    let weak: Vec<Weak<Ring>> = rings.iter().map(Gc::downgrade).collect();
    assert_eq!(Gc::generation(&rings[0]), Generation::Young);
    assert!((0..).zip(&rings).all(|(number, ring)| ring.1 == seed + number));
    rc_gc::set_mode(Mode::Manual);
    rc_gc::disable();
    rc_gc::check().unwrap();
    match seed % 3 {
        0 => KEPT.set(rings),
        1 => drop(rings),
        _ => {
            drop(rings);
            assert_eq!(rc_gc::collect(), 20);
            assert!(weak[0].upgrade().is_none());
        }
    }
    let heap = Heap::new();
    let apart = Gc::new_in(seed, &heap);
    drop(heap);
    assert_eq!(*apart, seed);
}

fn threads(number: u64) {
    for seed in 0..number {
        std::thread::spawn(move || work(seed)).join().unwrap();
    }
}

#[test]
fn the_next_thread_has_the_memory_of_the_last() {
    threads(4);
    let before = LARGE.load(Relaxed);
    let many = if cfg!(miri) { 5 } else { 100 };
    threads(many);
    // One heap is kept, and a thread makes two, its own and the other.
    let made = LARGE.load(Relaxed) - before;
    assert!(made <= many as usize, "{made} for {many}");

    // Where several end at once, one of them is kept.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..many / 5).for_each(|seed| threads(thread + seed % 3)));
        }
    });
    // With `verify` every object is a block of the global allocator.
    assert!(rc_gc::trim() > 0 || cfg!(feature = "verify"));
    assert_eq!(rc_gc::trim(), 0);
    let before = LARGE.load(Relaxed);
    threads(1);
    assert!(LARGE.load(Relaxed) > before);
}
