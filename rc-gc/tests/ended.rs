//! Heaps that have ended while objects of theirs are held: a `Heap` dropped, a thread at its exit.
//! Their cycles go too.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

use rc_gc::{Finalize, Gc, Heap, Trace, Weak};

#[derive(Trace)]
struct Node {
    links: RefCell<Vec<Gc<Node>>>,
    /// What the collector does not see.
    #[gc(skip)]
    hidden: RefCell<Option<Gc<Node>>>,
    #[gc(skip)]
    #[expect(dead_code, reason = "dropped")]
    tell: Tell,
}

/// Counts drops.
struct Tell(Rc<Cell<u32>>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn node(heap: &Heap, dropped: &Rc<Cell<u32>>) -> Gc<Node> {
    let (links, hidden) = (RefCell::default(), RefCell::default());
    let tell = Tell(dropped.clone());
    Gc::new_in(Node { links, hidden, tell }, heap)
}

/// Linked in both directions.
fn list(length: usize, heap: &Heap, dropped: &Rc<Cell<u32>>) -> Vec<Gc<Node>> {
    let all: Vec<_> = (0..length).map(|_| node(heap, dropped)).collect();
    for pair in all.windows(2) {
        pair[0].links.borrow_mut().push(pair[1].clone());
        pair[1].links.borrow_mut().push(pair[0].clone());
    }
    all
}

#[test]
fn a_cycle_goes_with_the_last_handle_from_outside() {
    let dropped = Rc::default();
    for handles in 1..20 {
        let heap = Heap::new();
        let mut all = list(50, &heap, &dropped);
        all.truncate(handles);
        drop(heap);
        for left in (0..handles).rev() {
            assert_eq!(dropped.take(), 0);
            drop(all.pop());
            assert_eq!(dropped.get(), if left == 0 { 50 } else { 0 });
        }
        dropped.set(0);
    }
}

#[test]
fn so_does_one_whose_last_handle_is_dropped_in_another_drop_or_in_a_collection() {
    let dropped = Rc::default();
    let heap = Heap::new();
    // A plain object that holds a cycle; a cycle that holds another where the collector does not see it.
    let (holder, ring) = (node(&heap, &dropped), list(2, &heap, &dropped));
    holder.links.borrow_mut().extend(ring);
    let (keeper, ring) = (list(2, &heap, &dropped), list(2, &heap, &dropped));
    *keeper[0].hidden.borrow_mut() = ring.first().cloned();
    drop((ring, heap));
    assert_eq!(dropped.get(), 0);
    drop(holder);
    assert_eq!(dropped.get(), 3);
    drop(keeper);
    assert_eq!(dropped.get(), 7);
}

#[test]
fn large_objects_too() {
    #[derive(Trace)]
    struct Large(
        RefCell<Option<Gc<Large>>>,
        [u64; 100],
        #[gc(skip)]
        #[expect(dead_code, reason = "dropped")]
        Tell,
    );
    let (heap, dropped) = (Heap::new(), Rc::default());
    let make = || Gc::new_in(Large(RefCell::default(), [1; 100], Tell(Rc::clone(&dropped))), &heap);
    let (a, b) = (make(), make());
    *a.0.borrow_mut() = Some(b.clone());
    *b.0.borrow_mut() = Some(a.clone());
    assert_eq!(b.1, [1; 100]);
    drop(heap);
    drop(b);
    assert_eq!(dropped.get(), 0);
    drop(a);
    assert_eq!(dropped.get(), 2);
}

#[test]
fn what_a_finalizer_resurrects_into_a_cycle_is_collected_all_the_same() {
    #[derive(Trace)]
    #[gc(finalize)]
    struct Phoenix(
        RefCell<Option<Gc<Phoenix>>>,
        RefCell<Weak<Phoenix>>,
        #[gc(skip)]
        #[expect(dead_code, reason = "dropped")]
        Tell,
    );
    impl Finalize for Phoenix {
        fn finalize(&self) {
            *self.0.borrow_mut() = self.1.borrow().upgrade();
        }
    }
    let (heap, dropped) = (Heap::new(), Rc::default());
    let phoenix = Phoenix(RefCell::default(), RefCell::default(), Tell(Rc::clone(&dropped)));
    let phoenix = Gc::new_in(phoenix, &heap);
    *phoenix.1.borrow_mut() = Gc::downgrade(&phoenix);
    drop(heap);
    drop(phoenix);
    assert_eq!(dropped.get(), 1);
}

/// For the ends of threads.
#[derive(Trace)]
struct Told(
    RefCell<Option<Gc<Told>>>,
    #[gc(skip)]
    #[expect(dead_code, reason = "dropped")]
    Number,
);

/// Says its number when it is dropped.
struct Number(u32, Sender<u32>);

impl Drop for Number {
    fn drop(&mut self) {
        self.1.send(self.0).unwrap();
    }
}

fn ring(number: u32, sender: &Sender<u32>) -> Gc<Told> {
    let make = |number| Gc::new(Told(RefCell::default(), Number(number, sender.clone())));
    let (a, b) = (make(number), make(number + 1));
    *a.0.borrow_mut() = Some(b.clone());
    *b.0.borrow_mut() = Some(a.clone());
    a
}

/// Runs what is in it at the end of the thread.
struct AtExit(RefCell<Vec<Box<dyn FnOnce()>>>);

impl Drop for AtExit {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|act| act());
    }
}

thread_local!(static AT_EXIT: AtExit = const { AtExit(RefCell::new(Vec::new())) });

#[test]
fn cycles_in_thread_locals_go_in_any_order_of_destructors_and_such_as_are_made_there() {
    for first in [false, true] {
        let (sender, receiver) = channel();
        let to = sender.clone();
        let run = move || {
            if first {
                AT_EXIT.with(|_| ());
            }
            let (kept, other) = (ring(0, &to), ring(2, &to));
            AT_EXIT.with(|at_exit| {
                let mut acts = at_exit.0.borrow_mut();
                acts.push(Box::new(move || drop(kept)));
                acts.push(Box::new(|| {
                    rc_gc::check().unwrap();
                    rc_gc::collect();
                    rc_gc::check().unwrap();
                }));
                acts.push(Box::new(move || drop(other)));
                acts.push(Box::new(move || drop(ring(4, &to))));
            });
        };
        std::thread::spawn(run).join().unwrap();
        drop(sender);
        let mut told: Vec<u32> = receiver.iter().collect();
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3, 4, 5], "{first}");
    }
}
