//! Bounds: stacks for deep structures, threads that end, heaps that end before their objects, how much
//! garbage is kept, who collects.

use std::cell::{OnceCell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

use rc_gc::{Finalize, Gc, Generation, Heap, Mode, Thresholds, Trace};

#[derive(Trace)]
struct Link {
    next: RefCell<Option<Gc<Link>>>,
}

fn link(next: Option<Gc<Link>>) -> Gc<Link> {
    Gc::new(Link { next: RefCell::new(next) })
}

fn in_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 10).spawn(f).unwrap().join().unwrap();
}

#[test]
fn a_chain_of_ten_million_drops_and_is_collected_in_a_stack_of_256_kib() {
    in_small_stack(|| {
        let chain = || (0..10_000_000).fold(link(None), |next, _| link(Some(next)));
        rc_gc::disable();
        drop(chain());
        assert_eq!(rc_gc::stats().live, 0);
        let first = chain();
        let mut last = first.clone();
        while let Some(next) = { last.next.borrow().clone() } {
            last = next;
        }
        *last.next.borrow_mut() = Some(first.clone());
        drop((first, last));
        assert_eq!(rc_gc::collect(), 10_000_001);
        assert_eq!(rc_gc::stats().live, 0);
        assert!(rc_gc::stats().mapped_bytes <= 4 << 20, "memory goes back");
    });
}

#[test]
fn chains_of_large_finalized_and_watched_objects_drop_in_a_small_stack() {
    #[derive(Trace)]
    #[gc(finalize)]
    struct Big(RefCell<Option<Gc<Big>>>, [u64; 100]);
    impl Finalize for Big {
        fn finalize(&self) {
            assert_eq!(self.1, [7; 100]);
        }
    }
    in_small_stack(|| {
        let mut head = None;
        for _ in 0..100_000 {
            let big = Gc::new(Big(RefCell::new(head), [7; 100]));
            Gc::downgrade(&big);
            head = Some(big);
        }
        assert_eq!(rc_gc::stats().large, 100_000);
        drop(head);
        assert_eq!(rc_gc::stats().live, 0);
        let ring = Gc::new(Big(RefCell::default(), [7; 100]));
        *ring.0.borrow_mut() = Some(ring.clone());
        drop(ring);
        assert_eq!(rc_gc::collect_generation(Generation::Young), 1);
        rc_gc::check().unwrap();
    });
}

static DROPS: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Trace)]
struct Held {
    me: RefCell<Option<Gc<Held>>>,
    #[gc(skip)]
    _counted: Counted,
}

fn held() -> Gc<Held> {
    Gc::new(Held { me: RefCell::default(), _counted: Counted })
}

/// Uses everything once more while thread-locals are torn down.
struct AtExit(OnceCell<Gc<Held>>);

impl Drop for AtExit {
    fn drop(&mut self) {
        let first = self.0.take().unwrap();
        assert!(first.me.borrow().is_none());
        let second = held();
        *second.me.borrow_mut() = Some(first.clone());
        let weak = Gc::downgrade(&second);
        rc_gc::collect();
        assert!(weak.upgrade().is_some());
        drop((first, second));
        assert!(weak.upgrade().is_none());
    }
}

#[test]
fn a_thread_that_ends_collects_its_cycles_and_later_handles_stay_valid() {
    thread_local!(static LATE: AtExit = const { AtExit(OnceCell::new()) });
    for heap_first in [false, true] {
        let before = DROPS.load(Ordering::Relaxed);
        std::thread::spawn(move || {
            if heap_first {
                drop(held());
            }
            // Destructors run in the order of registration: either may be the first to go.
            LATE.with(|late| late.0.set(held()).ok());
            let ring = held();
            *ring.me.borrow_mut() = Some(ring.clone());
        })
        .join()
        .unwrap();
        let dropped = DROPS.load(Ordering::Relaxed) - before;
        assert_eq!(dropped, 3 + usize::from(heap_first));
    }
}

#[test]
fn a_heap_that_is_dropped_collects_and_what_is_held_outlives_it() {
    let heap = Heap::new();
    let kept = Gc::new_in(Link { next: RefCell::default() }, &heap);
    let ring = Gc::new_in(Link { next: RefCell::default() }, &heap);
    *ring.next.borrow_mut() = Some(ring.clone());
    // An edge into the other heap counts as held from outside.
    let outer = link(Some(kept.clone()));
    drop(ring);
    assert_eq!(heap.stats().live, 2);
    assert_eq!(rc_gc::stats().live, 1);
    drop(heap);
    *kept.next.borrow_mut() = Some(link(None));
    drop(outer);
    assert_eq!(rc_gc::stats().live, 1);
    assert!(kept.next.borrow().is_some());
    drop(kept);
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn a_ring_across_two_heaps_is_not_collected_and_not_broken() {
    let (one, two) = (Heap::new(), Heap::new());
    let a = Gc::new_in(Link { next: RefCell::default() }, &one);
    let b = Gc::new_in(Link { next: RefCell::new(Some(a.clone())) }, &two);
    *a.next.borrow_mut() = Some(b.clone());
    let weak = Gc::downgrade(&a);
    drop((a, b));
    assert_eq!((one.collect(), two.collect(), rc_gc::collect()), (0, 0, 0));
    let a = weak.upgrade().unwrap();
    a.next.borrow_mut().take();
    drop((a, weak));
    assert_eq!((one.stats().live, two.stats().live), (0, 0));
    one.check().unwrap();
    two.check().unwrap();
}

#[test]
fn modes_say_who_collects() {
    std::thread::spawn(|| {
        let ring = || {
            let a = link(None);
            *a.next.borrow_mut() = Some(a.clone());
        };
        let rings = |n: usize| (0..n).for_each(|_| ring());
        rc_gc::set_thresholds(Thresholds { young: 100, ..Thresholds::DEFAULT });
        rings(10_000);
        assert!(rc_gc::stats().live < 1_000);
        rc_gc::collect();
        rc_gc::set_mode(Mode::AtSafepoint);
        rings(1_000);
        assert_eq!(rc_gc::stats().live, 1_000);
        assert_eq!((rc_gc::safepoint(), rc_gc::safepoint()), (1_000, 0));
        rc_gc::set_mode(Mode::Manual);
        rings(1_000);
        assert_eq!((rc_gc::safepoint(), rc_gc::stats().live), (0, 1_000));
        rc_gc::set_mode(Mode::Automatic);
        rc_gc::disable();
        rings(10_000);
        assert_eq!(rc_gc::stats().live, 11_000);
        rc_gc::enable();
        assert!(rc_gc::is_enabled());
        assert_eq!(rc_gc::collect(), 11_000);
        rc_gc::check().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn garbage_kept_is_bounded_whatever_generation_it_dies_in() {
    // Rings that live for a while among many that stay: dead ones are old when they die.
    std::thread::spawn(|| {
        let ring = || {
            let (a, b) = (link(None), link(None));
            *a.next.borrow_mut() = Some(b.clone());
            *b.next.borrow_mut() = Some(a.clone());
            a
        };
        let mut kept: Vec<Gc<Link>> = (0..20_000).map(|_| ring()).collect();
        let mut most = 0;
        for step in 0..400_000usize {
            kept[step * 7919 % 20_000] = ring();
            most = most.max(rc_gc::stats().live);
        }
        // 40,000 are reachable; a quarter more, and eight young budgets.
        assert!(most < 40_000 * 5 / 4 + 9 * 2048 + 33_000, "{most}");
    })
    .join()
    .unwrap();
}

#[test]
fn large_garbage_is_collected_for_its_bytes_though_objects_are_few() {
    #[derive(Trace)]
    struct Page {
        bytes: [u8; 1 << 16],
        itself: RefCell<Option<Gc<Page>>>,
    }
    std::thread::spawn(|| {
        // Each dies after a while: young ones at once, others when they are old.
        let mut kept: Vec<Option<Gc<Page>>> = (0..16).map(|_| None).collect();
        let mut most = 0;
        for step in 0..3_000usize {
            let page = Gc::new(Page { bytes: [0; 1 << 16], itself: RefCell::new(None) });
            *page.itself.borrow_mut() = Some(page.clone());
            assert_eq!(page.bytes[step % 1000], 0);
            if step % 10 == 0 {
                kept[step / 10 % 16] = Some(page);
            }
            most = most.max(rc_gc::stats().large);
        }
        // 1,000 of them are 64 MiB; in number they are half of what starts a collection of small objects.
        assert!(most < 1_000, "{most}");
        kept.clear();
        rc_gc::collect();
        assert_eq!(rc_gc::stats().live, 0);
        rc_gc::check().unwrap();
    })
    .join()
    .unwrap();
}
