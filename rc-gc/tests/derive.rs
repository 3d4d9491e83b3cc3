//! The shapes that `#[derive(Trace)]` takes, and that what it reports is exactly what is there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;

use rc_gc as renamed;
use rc_gc::{Gc, Trace};

/// A place for a handle that makes a cycle.
type Slot = RefCell<Option<Box<dyn Trace>>>;

#[derive(Trace)]
struct Owner(Slot);

/// Whether an object that holds itself through `wrap` is collected.
fn collected<C: Trace + 'static>(wrap: impl FnOnce(Gc<Owner>) -> C) -> bool {
    let owner = Gc::new(Owner(RefCell::default()));
    let wrapped = wrap(owner.clone());
    *owner.0.borrow_mut() = Some(Box::new(wrapped));
    drop(owner);
    rc_gc::collect() == 1
}

#[derive(Trace)]
struct Unit;

#[derive(Trace)]
struct Tuple(u8, Gc<Owner>, Unit);

#[derive(Trace)]
struct Generic<'a, T, const N: usize = 2> {
    name: &'a str,
    values: [Option<T>; N],
    all: HashMap<String, Vec<T>>,
}

#[derive(Trace)]
enum Shapes<T> {
    Nothing,
    Tuple(T, u8),
    Named { first: u8, second: T },
}

#[derive(Trace)]
enum Never {}

#[derive(Trace)]
#[gc(crate = renamed)]
struct Renamed(Gc<Owner>);

/// `T` need not be `Trace`: it is in no reported field.
#[derive(Trace)]
struct Marked<T, U> {
    owner: Gc<Owner>,
    marker: PhantomData<T>,
    #[gc(skip)]
    _unseen: U,
}

#[derive(Trace)]
struct Projected<I: Iterator> {
    item: Option<I::Item>,
    other: Vec<<I as Iterator>::Item>,
}

#[derive(Trace)]
#[gc(bound = "Option<T>: Trace")]
struct Bounded<T>(Option<T>)
where
    T: Clone;

#[derive(Trace)]
struct Tail<T: ?Sized> {
    head: u32,
    tail: T,
}

#[derive(Trace)]
struct Slice {
    head: u32,
    tail: [Gc<Owner>],
}

/// An expression tree whose type contains itself.
#[derive(Trace)]
struct Tree {
    leaf: Option<Gc<Owner>>,
    children: Vec<Tree>,
    only: Option<Box<Tree>>,
}

#[derive(Trace)]
#[gc(drop)]
struct Dropped(Gc<Owner>);

impl Drop for Dropped {
    fn drop(&mut self) {
        assert!(Gc::is_dead(&self.0));
    }
}

#[test]
fn cycles_through_every_shape_are_collected() {
    assert!(collected(|o| Tuple(1, o, Unit)));
    assert!(collected(|o| Generic::<_> {
        name: "generic",
        values: [None, Some(o)],
        all: HashMap::new(),
    }));
    assert!(collected(|o| Generic {
        name: "generic",
        values: [],
        all: HashMap::from([(String::new(), vec![o])]),
    }));
    assert!(collected(|o| Shapes::Tuple(o, 1)));
    assert!(collected(|o| Shapes::Named { first: 1, second: o }));
    assert!(collected(|o| (Shapes::Nothing::<u8>, None::<Never>, o)));
    assert!(collected(Renamed));
    struct NotTrace;
    assert!(collected(|owner| Marked {
        owner,
        marker: PhantomData::<NotTrace>,
        _unseen: NotTrace
    }));
    type Owners = std::vec::IntoIter<Gc<Owner>>;
    assert!(collected(|o| Projected::<Owners> { item: Some(o), other: Vec::new() }));
    assert!(collected(|o| Projected::<Owners> { item: None, other: vec![o] }));
    assert!(collected(|o| Bounded(Some(o))));
    assert!(collected(|o| {
        let inner = Tree { leaf: Some(o), children: Vec::new(), only: None };
        let middle = Tree { leaf: None, children: vec![inner], only: None };
        Tree { leaf: None, children: Vec::new(), only: Some(Box::new(middle)) }
    }));
    assert!(collected(Dropped));
}

#[test]
fn types_without_a_size_are_looked_into() {
    assert!(collected(|tail| Tail { head: 1, tail }));
    assert!(collected(|o| Box::new(Tail { head: 1, tail: [o] }) as Box<Tail<[Gc<Owner>]>>));
    let tail: Gc<Tail<dyn Trace>> = rc_gc::coerce!(Gc::new(Tail { head: 7, tail: Unit }));
    assert_eq!(tail.head, 7);
    fn traced<T: Trace + ?Sized>() {}
    traced::<Slice>();
    traced::<Tail<dyn Trace>>();
    let slice = |slice: &Slice| (slice.head, slice.tail.len());
    assert_eq!(size_of_val(&slice), 0);
}

#[test]
fn what_holds_no_handle_is_a_leaf() {
    fn leaf<T: Trace>() -> bool {
        !T::holds_gc(3)
    }
    assert!(leaf::<Unit>() && leaf::<Never>() && leaf::<Shapes<Vec<u8>>>());
    assert!(leaf::<Generic<'static, String>>() && leaf::<Projected<std::vec::IntoIter<u8>>>());
    assert!(!leaf::<Tuple>() && !leaf::<Shapes<Gc<u8>>>() && !leaf::<Tree>());
    let shown = Generic::<u8, 1> { name: "", values: [None], all: HashMap::new() };
    let shapes = [Shapes::Nothing, Shapes::Tuple(1, 2), Shapes::Named { first: 1, second: 2 }];
    assert!(!Gc::is_tracked(&Gc::new(shown)) && !Gc::is_tracked(&Gc::new(shapes)));
}

#[test]
fn a_skipped_field_keeps_what_it_holds() {
    #[derive(Trace)]
    struct Skipping {
        #[gc(skip)]
        _hidden: Gc<Owner>,
        seen: Gc<Owner>,
    }
    let mut held = None;
    assert!(!collected(|o| {
        held = Some(Gc::downgrade(&o));
        Skipping { _hidden: o.clone(), seen: o }
    }));
    let owner = held.and_then(|held| held.upgrade()).expect("held by the skipped field");
    drop(owner.0.take());
    drop(owner);
    assert_eq!(rc_gc::stats().live, 0);
}
