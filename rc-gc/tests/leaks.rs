//! What leaks by design, and only that. Apart from the other tests, so that those can run under
//! LeakSanitizer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{Sender, TryRecvError, channel};

use rc_gc::{Finalize, Gc, Heap, Trace, Weak};

#[derive(Trace)]
struct Link {
    next: RefCell<Option<Gc<Link>>>,
}

#[test]
fn a_leaked_borrow_leaks_what_it_hides_and_nothing_else() {
    let ring = || {
        let a = Gc::new(Link { next: RefCell::new(None) });
        *a.next.borrow_mut() = Some(a.clone());
        a
    };
    let (a, b) = (ring(), ring());
    std::mem::forget(a.next.borrow_mut());
    drop((a, b));
    assert_eq!((rc_gc::collect(), rc_gc::collect(), rc_gc::stats().live), (1, 0, 1));
}

#[test]
fn a_count_of_2_to_the_30_stays_and_the_object_is_never_freed() {
    let dropped = Rc::new(());
    #[derive(Trace)]
    struct Token {
        #[gc(skip)]
        _rc: Rc<()>,
        me: RefCell<Option<Gc<Token>>>,
    }
    let a = Gc::new(Token { _rc: dropped.clone(), me: RefCell::default() });
    *a.me.borrow_mut() = Some(a.clone());
    for _ in 0..(1u32 << 30) {
        std::mem::forget(a.clone());
    }
    let many = Gc::strong_count(&a);
    assert!(many >= 1 << 30);
    for _ in 0..1000 {
        drop(a.clone());
    }
    assert_eq!(Gc::strong_count(&a), Gc::strong_count(&a.clone()));
    drop(a);
    assert_eq!(rc_gc::collect(), 0);
    assert_eq!(Rc::strong_count(&dropped), 2);
    rc_gc::check().unwrap();
}

#[test]
fn a_leaked_borrow_in_garbage_keeps_no_other_garbage() {
    let pair = || {
        let (a, b) = (
            Gc::new(Link { next: RefCell::new(None) }),
            Gc::new(Link { next: RefCell::new(None) }),
        );
        *a.next.borrow_mut() = Some(b.clone());
        *b.next.borrow_mut() = Some(a.clone());
        a
    };
    let a = pair();
    let weak = Gc::downgrade(&a);
    std::mem::forget(a.next.borrow_mut());
    drop((a, pair()));
    assert_eq!((rc_gc::collect(), rc_gc::collect(), rc_gc::stats().live), (2, 0, 2));
    // What the borrow hides holds the ring: alive, and usable but for that cell.
    let a = weak.upgrade().expect("it is held");
    assert!(a.next.try_borrow().is_err() && Gc::strong_count(&a) == 2);
    drop(pair());
    assert_eq!(rc_gc::collect(), 2);
    rc_gc::check().unwrap();
}

#[test]
fn a_thread_that_ends_with_leaked_handles_drops_the_rest_and_frees_nothing_that_is_held() {
    #[derive(Trace)]
    struct Telling(#[gc(skip)] Tell, RefCell<Option<Gc<Telling>>>);
    struct Tell(u32, Sender<u32>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.1.send(self.0).unwrap();
        }
    }
    let (sender, receiver) = channel();
    let held = std::thread::spawn(move || {
        let ring = |number| {
            let ring = Gc::new(Telling(Tell(number, sender.clone()), RefCell::default()));
            *ring.1.borrow_mut() = Some(ring.clone());
            ring
        };
        drop(ring(1));
        let leaked: &'static Gc<Telling> = Box::leak(Box::new(ring(2)));
        // Read after the end of the thread and its heap.
        std::ptr::from_ref(&leaked.0.0).expose_provenance()
    });
    let number = std::ptr::with_exposed_provenance::<u32>(held.join().unwrap());
    assert_eq!((receiver.recv(), receiver.try_recv()), (Ok(1), Err(TryRecvError::Empty)));
    // SAFETY: leaked with its object, which nobody else looks at any more.
    assert_eq!(unsafe { number.read() }, 2);
}

#[test]
fn heaps_and_finalizers_in_thread_locals_end_in_any_order() {
    /// Says its number when it is dropped.
    struct Tell(u32, Sender<u32>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.1.send(self.0).unwrap();
        }
    }
    #[derive(Trace)]
    #[gc(finalize)]
    struct Saved(
        RefCell<Option<Gc<Saved>>>,
        Weak<Saved>,
        #[gc(skip)]
        #[expect(dead_code, reason = "dropped")]
        Tell,
    );
    impl Finalize for Saved {
        fn finalize(&self) {
            // The thread's heap ends: what is saved now goes with the thread-local, or at once.
            if let Some(me) = self.1.upgrade() {
                SAVED.try_with(|saved| saved.borrow_mut().push(me)).ok();
            }
            drop(Gc::new([1u8; 100]));
        }
    }
    thread_local! {
        static HEAP: RefCell<Option<Heap>> = const { RefCell::new(None) };
        static SAVED: RefCell<Vec<Gc<Saved>>> = const { RefCell::new(Vec::new()) };
    }
    let saved = |number, sender: &Sender<u32>, heap: Option<&Heap>| {
        let value =
            |me: &Weak<Saved>| Saved(RefCell::default(), me.clone(), Tell(number, sender.clone()));
        let saved = match heap {
            None => Gc::new_cyclic(value),
            Some(heap) => Gc::new_in(value(&Weak::new()), heap),
        };
        *saved.0.borrow_mut() = Some(saved.clone());
        saved
    };
    for order in 0..6u32 {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // Destructors run in the order of first use.
            for step in
                [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order as usize]
            {
                match step {
                    0 => HEAP.with_borrow_mut(|heap| *heap = Some(Heap::new())),
                    1 => SAVED.with_borrow_mut(|saved| saved.clear()),
                    _ => drop(Gc::new(1)),
                }
            }
            HEAP.with_borrow(|heap| drop(saved(1, &sender, heap.as_ref())));
            drop(saved(2, &sender, None));
            // Holds itself no more: goes when the thread-local does.
            let kept = saved(3, &sender, None);
            kept.0.take();
            SAVED.with_borrow_mut(|saved| saved.push(kept));
        })
        .join()
        .unwrap();
        let mut told: Vec<u32> = receiver.try_iter().collect();
        told.sort_unstable();
        // What the finalizer saved into a thread-local that was gone, or that goes by handles in a
        // ring, may leak: 2.
        told.retain(|number| *number != 2);
        assert_eq!(told, [1, 3], "{order}");
    }
}

#[test]
fn a_large_structure_of_a_heap_that_ended_is_not_gone_over_for_each_handle_and_leaks() {
    thread_local! {
        static TRACED: Cell<u64> = const { Cell::new(0) };
        static DROPPED: Cell<u64> = const { Cell::new(0) };
    }
    struct Node(RefCell<Vec<Gc<Node>>>);
    // SAFETY: reports its handles once each.
    unsafe impl Trace for Node {
        fn trace(&self, tracer: &mut rc_gc::Tracer) {
            TRACED.set(TRACED.get() + 1);
            self.0.trace(tracer);
        }
    }
    impl Drop for Node {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() + 1);
        }
    }
    let list = |length| {
        let heap = Heap::new();
        let all: Vec<_> =
            (0..length).map(|_| Gc::new_in(Node(RefCell::default()), &heap)).collect();
        for pair in all.windows(2) {
            pair[0].0.borrow_mut().push(pair[1].clone());
            pair[1].0.borrow_mut().push(pair[0].clone());
        }
        all
    };
    // A hundred handles to a hundred objects are little work.
    drop(list(100));
    assert_eq!(DROPPED.take(), 100);
    drop(list(10_000));
    // Twice for each object that a collection looks at, a million in all, and one collection more.
    let traced = TRACED.get();
    assert!((10_000..2 * ((1 << 20) + 30_000)).contains(&traced), "{traced}");
    assert_eq!(DROPPED.get(), 0);
}
