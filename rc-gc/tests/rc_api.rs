//! What `Rc` and its `Weak` offer, for `Gc`: each method and trait once, with the meaning it has there.

use std::any::Any;
use std::borrow::{Borrow, Cow};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::error::Error;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::hash::Hash;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;

use rc_gc::{CloneToGc, Finalize, Gc, Heap, Trace, Weak, coerce};

#[test]
fn it_has_the_traits_of_rc() {
    fn has<T>()
    where
        T: Clone + fmt::Debug + fmt::Display + fmt::Pointer + Ord + Hash + Default + Unpin,
        T: Borrow<u8> + AsRef<u8> + From<u8> + From<Box<u8>> + UnwindSafe + RefUnwindSafe,
    {
    }
    has::<Rc<u8>>();
    has::<Gc<u8>>();
    // `Arc` has this one, `Rc` not.
    fn has_error<T: Error + Unpin>() {}
    has_error::<Gc<fmt::Error>>();
    fn unsized_has<T: Clone + fmt::Debug + fmt::Pointer + Ord + Hash + Unpin>() {}
    unsized_has::<Gc<str>>();
    unsized_has::<Gc<[u8]>>();
    unsized_has::<Gc<Path>>();
    fn unpin<T: Unpin>() {}
    unpin::<Gc<std::marker::PhantomPinned>>();
    unpin::<Gc<dyn Any>>();
    fn weak_has<T: Clone + fmt::Debug + Default>() {}
    weak_has::<Weak<u8>>();
    #[cfg(unix)]
    {
        fn fd<T: std::os::fd::AsFd + std::os::fd::AsRawFd>() {}
        fd::<Gc<std::fs::File>>();
    }
}

#[test]
fn values_are_compared_hashed_and_shown_as_themselves() {
    let (two, three) = (Gc::new(2), Gc::new(3));
    assert!(two < three && two != three && two == Gc::new(2) && two <= two);
    assert_eq!(two.cmp(&three), std::cmp::Ordering::Less);
    assert_eq!(format!("{two} {two:?} {:?}", Gc::downgrade(&two)), "2 2 (Weak)");
    assert_eq!(format!("{two:p}"), format!("{:p}", Gc::as_ptr(&two)));
    let set = HashSet::from([Gc::<str>::from("a"), Gc::from("b")]);
    assert!(set.contains("a") && !set.contains("c"));
    let error: Gc<fmt::Error> = Gc::default();
    assert!(error.source().is_none() && error.to_string() == fmt::Error.to_string());
}

#[test]
fn handles_are_counted_as_rc_counts_them() {
    let gc = Gc::new(Cell::new(1));
    let other = Gc::clone(&gc);
    let weak = Gc::downgrade(&gc);
    assert_eq!((Gc::strong_count(&gc), Gc::weak_count(&gc)), (2, 1));
    assert_eq!((weak.strong_count(), weak.weak_count()), (2, 1));
    assert!(Gc::ptr_eq(&gc, &other) && !Gc::ptr_eq(&gc, &Gc::new(Cell::new(1))));
    let raw = Gc::into_raw(other);
    assert_eq!(raw, Gc::as_ptr(&gc));
    // SAFETY: from `into_raw`, which still is counted.
    unsafe { Gc::increment_strong_count(raw) };
    assert_eq!(Gc::strong_count(&gc), 3);
    // SAFETY: two are counted for the pointer.
    unsafe { Gc::decrement_strong_count(raw) };
    // SAFETY: one is.
    let other = unsafe { Gc::from_raw(raw) };
    other.set(5);
    assert_eq!((gc.get(), Gc::strong_count(&gc)), (5, 2));
    drop((gc, other));
    assert!(weak.upgrade().is_none());
    assert_eq!((weak.strong_count(), weak.weak_count()), (0, 0));
}

#[test]
fn weak_pointers_go_through_raw_ones_and_are_compared_by_object() {
    let gc = Gc::new(String::from("text"));
    let weak = Gc::downgrade(&gc);
    let raw = weak.clone().into_raw();
    assert_eq!(raw, weak.as_ptr());
    // SAFETY: from `into_raw`.
    let back = unsafe { Weak::from_raw(raw) };
    assert!(back.ptr_eq(&weak) && !back.ptr_eq(&Weak::new()));
    assert_eq!(*back.upgrade().expect("alive"), "text");
    drop((back, weak));
    assert_eq!(Gc::weak_count(&gc), 0);
    let never = Weak::<String>::default();
    assert!(never.upgrade().is_none() && never.ptr_eq(&Weak::new()));
    assert_eq!((never.strong_count(), never.weak_count()), (0, 0));
    let raw = never.into_raw();
    // SAFETY: from `into_raw`.
    assert!(unsafe { Weak::from_raw(raw) }.upgrade().is_none());
    const NEVER: Weak<u8> = Weak::new();
    assert!(NEVER.upgrade().is_none());
}

#[test]
fn a_sole_handle_gives_its_value_away() {
    let text = || Gc::new(String::from("text"));
    assert_eq!(Gc::try_unwrap(text()), Ok("text".into()));
    assert_eq!(Gc::into_inner(text()), Some("text".into()));
    assert_eq!(Gc::unwrap_or_clone(text()), "text");
    let (a, weak) = (text(), Gc::downgrade(&text()));
    let b = a.clone();
    assert!(weak.upgrade().is_none());
    let a = Gc::try_unwrap(a).expect_err("shared");
    assert_eq!(Gc::unwrap_or_clone(a.clone()), "text");
    assert_eq!(Gc::into_inner(a), None);
    let weak = Gc::downgrade(&b);
    // As with `Rc`, a `Weak` does not keep the value.
    assert_eq!(Gc::try_unwrap(b), Ok("text".into()));
    assert!(weak.upgrade().is_none());
    assert_eq!(rc_gc::stats().live, 2, "the memory that two `Weak`s lead to");
}

#[test]
fn get_mut_and_make_mut_see_to_it_that_nobody_else_looks() {
    let mut a = Gc::new(vec![1]);
    Gc::get_mut(&mut a).expect("sole").push(2);
    let weak = Gc::downgrade(&a);
    assert!(Gc::get_mut(&mut a).is_none(), "a `Weak` might be upgraded");
    Gc::make_mut(&mut a).push(3);
    assert!(weak.upgrade().is_none(), "the value moved");
    let b = a.clone();
    Gc::make_mut(&mut a).push(4);
    assert_eq!((&**a, &**b), (&[1, 2, 3, 4][..], &[1, 2, 3][..]));

    let mut text: Gc<str> = Gc::from("text");
    let at = Gc::as_ptr(&text);
    Gc::make_mut(&mut text).make_ascii_uppercase();
    assert!(&*text == "TEXT" && std::ptr::addr_eq(at, Gc::as_ptr(&text)));
    let shared = text.clone();
    Gc::make_mut(&mut text).make_ascii_lowercase();
    assert_eq!((&*text, &*shared), ("text", "TEXT"));
    let mut slice: Gc<[String]> = Gc::from(["a".into(), "b".into()]);
    let weak = Gc::downgrade(&slice);
    Gc::make_mut(&mut slice)[0].push('x');
    assert!(weak.upgrade().is_none() && *slice == ["ax", "b"]);
}

#[test]
fn text_and_slices_come_from_what_they_come_from_for_rc() {
    assert_eq!(&*Gc::<str>::from("a"), "a");
    assert_eq!(&*Gc::<str>::from(&mut *String::from("a")), "a");
    assert_eq!(&*Gc::<str>::from(String::from("a")), "a");
    assert_eq!(&*Gc::<str>::from(Box::<str>::from("a")), "a");
    assert_eq!(&*Gc::<str>::from(Cow::Borrowed("a")), "a");
    assert_eq!(&*Gc::<str>::from(Cow::<str>::Owned("a".into())), "a");
    assert_eq!(&*Gc::<[u8]>::from(Gc::<str>::from("ab")), b"ab");
    assert_eq!(&*Gc::<CStr>::from(c"a"), c"a");
    assert_eq!(&*Gc::<CStr>::from(CString::from(c"a")), c"a");
    assert_eq!(&*Gc::<OsStr>::from(OsStr::new("a")), "a");
    assert_eq!(&*Gc::<OsStr>::from(OsString::from("a")), "a");
    assert_eq!(&*Gc::<Path>::from(Path::new("a/b")), Path::new("a/b"));
    assert_eq!(&*Gc::<Path>::from(PathBuf::from("a/b")), Path::new("a/b"));
    assert_eq!(*Gc::<[u8]>::from(&[1, 2][..]), [1, 2]);
    assert_eq!(*Gc::<[u8]>::from(&mut [1, 2][..]), [1, 2]);
    assert_eq!(*Gc::<[u8]>::from([1, 2]), [1, 2]);
    assert_eq!(*Gc::<[u8]>::from(vec![1, 2]), [1, 2]);
    assert_eq!(*Gc::<[u8]>::from(Cow::Borrowed(&[1, 2][..])), [1, 2]);
    assert_eq!(*Gc::<[u8]>::from_iter([1, 2]), [1, 2]);
    assert!(Gc::<str>::default().is_empty() && Gc::<[u8]>::default().is_empty());
    assert!(Gc::<CStr>::default().is_empty() && Pin::<Gc<str>>::default().is_empty());
    let array: Result<Gc<[u8; 2]>, _> = Gc::<[u8]>::from([1, 2]).try_into();
    assert_eq!(*array.expect("two"), [1, 2]);
    let array: Result<Gc<[u8; 3]>, _> = Gc::<[u8]>::from([1, 2]).try_into();
    assert_eq!(*array.expect_err("not three"), [1, 2]);
    assert_eq!(*Gc::pin(5), 5);
    rc_gc::check().unwrap();
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn slices_that_panic_while_they_are_cloned_leave_nothing() {
    struct Bomb(Rc<Cell<u32>>);
    // SAFETY: owns no handle.
    unsafe impl Trace for Bomb {
        fn trace(&self, _: &mut rc_gc::Tracer) {}
    }
    impl Clone for Bomb {
        fn clone(&self) -> Self {
            self.0.set(self.0.get() + 1);
            assert!(self.0.get() != 3, "the third");
            Bomb(self.0.clone())
        }
    }
    let count = Rc::new(Cell::new(0));
    let bombs = [(); 5].map(|()| Bomb(count.clone()));
    let clone = std::panic::AssertUnwindSafe(|| Gc::<[Bomb]>::from(&bombs[..]));
    assert!(std::panic::catch_unwind(clone).is_err());
    drop(bombs);
    assert_eq!((Rc::strong_count(&count), rc_gc::stats().live), (1, 0));
}

#[test]
fn coerced_handles_are_the_same_object_and_come_back() {
    trait Shape: Trace {
        fn area(&self) -> f64;
    }
    #[derive(Trace)]
    struct Square(f64);
    impl Shape for Square {
        fn area(&self) -> f64 {
            self.0 * self.0
        }
    }
    let square = Gc::new(Square(2.0));
    let shape: Gc<dyn Shape> = coerce!(square.clone());
    assert!(shape.area() == 4.0 && Gc::strong_count(&square) == 2);
    assert!(std::ptr::addr_eq(Gc::as_ptr(&shape), Gc::as_ptr(&square)));
    let upcast: Gc<dyn Trace> = coerce!(shape);
    assert!(Gc::type_name(&upcast).ends_with("Square"));
    let any: Gc<dyn Any> = coerce!(square);
    let any = any.downcast::<u8>().expect_err("no u8");
    assert_eq!(any.downcast::<Square>().expect("a square").area(), 4.0);
    let slice: Gc<[u8]> = coerce!(Gc::new([1, 2, 3]));
    assert_eq!(slice.len(), 3);
    let boxed: Gc<dyn Shape> = Gc::from(Box::new(Square(3.0)) as Box<dyn Shape>);
    assert_eq!(boxed.area(), 9.0);
}

#[cfg(feature = "serde")]
#[test]
fn serde_writes_the_value_and_reads_a_new_object() {
    let both: (Gc<u32>, Gc<str>) = serde_json::from_str("[5, \"text\"]").expect("JSON");
    assert_eq!((*both.0, &*both.1), (5, "text"));
    let slice: Gc<[Gc<u32>]> = serde_json::from_str("[1, 2]").expect("JSON");
    assert_eq!((slice.len(), *slice[1]), (2, 2));
    let shared = (both.1.clone(), both.1, slice);
    assert_eq!(serde_json::to_string(&shared).expect("values"), "[\"text\",\"text\",[1,2]]");
    assert!(serde_json::from_str::<Gc<u32>>("true").is_err());
}

#[test]
fn make_mut_stays_in_the_heap_of_the_object() {
    let heap = Heap::new();
    let mut number = Gc::new_in(1u64, &heap);
    let other = number.clone();
    *Gc::make_mut(&mut number) = 2;
    assert_eq!((*number, *other, heap.stats().live), (2, 1, 2));
    // A slice and text get there by being cloned from one that is there.
    fn in_heap<T: ?Sized + CloneToGc>(mut one: Gc<T>) {
        let before = rc_gc::stats().live;
        let other = one.clone();
        Gc::make_mut(&mut one);
        assert!(!Gc::ptr_eq(&one, &other));
        assert_eq!(rc_gc::stats().live, before);
    }
    let array = Gc::new_in([String::from("a"), String::from("b")], &heap);
    let slice: Gc<[String]> = coerce!(array);
    in_heap(slice);
    assert_eq!(heap.stats().live, 2);
    let bytes: Gc<[u8]> = coerce!(Gc::new_in(*b"text", &heap));
    let bytes = Gc::into_raw(bytes);
    let text = std::str::from_utf8(b"text").map(|_| bytes as *const str).unwrap();
    // SAFETY: the same object, whose bytes are text.
    in_heap(unsafe { Gc::from_raw(text) });
    drop((number, other));
    assert_eq!((heap.stats().live, rc_gc::stats().live), (0, 0));
}

#[test]
fn make_mut_with_a_clone_that_panics_changes_nothing() {
    struct Bomb(Rc<()>);
    // SAFETY: owns no handle.
    unsafe impl Trace for Bomb {
        fn trace(&self, _: &mut rc_gc::Tracer) {}
    }
    impl Clone for Bomb {
        fn clone(&self) -> Self {
            panic!("no clone")
        }
    }
    let rc = Rc::new(());
    let mut one = Gc::new(Bomb(rc.clone()));
    let other = one.clone();
    let make = std::panic::AssertUnwindSafe(|| drop(Gc::make_mut(&mut one).0.clone()));
    assert!(std::panic::catch_unwind(make).is_err());
    assert!(Gc::ptr_eq(&one, &other));
    assert_eq!((Gc::strong_count(&one), rc_gc::stats().live, Rc::strong_count(&rc)), (2, 1, 2));
    drop(other);
    assert_eq!(Rc::strong_count(&Gc::make_mut(&mut one).0), 2);
    drop(one);
    assert_eq!((rc_gc::stats().live, Rc::strong_count(&rc)), (0, 1));
    rc_gc::check().unwrap();
}

#[test]
fn a_value_that_make_mut_moves_is_not_finalized_again() {
    thread_local!(static SAVED: RefCell<Option<Gc<Once>>> = const { RefCell::new(None) });
    #[derive(Clone, Trace)]
    #[gc(finalize)]
    struct Once(Weak<Once>, Rc<Cell<u32>>);
    impl Finalize for Once {
        fn finalize(&self) {
            self.1.set(self.1.get() + 1);
            SAVED.set(self.0.upgrade());
        }
    }
    let count = Rc::new(Cell::new(0));
    drop(Gc::new_cyclic(|me| Once(me.clone(), count.clone())));
    let mut once = SAVED.take().expect("resurrected");
    assert_eq!(count.get(), 1);
    let before = Gc::as_ptr(&once);
    Gc::make_mut(&mut once).0 = Weak::new();
    assert_ne!(Gc::as_ptr(&once), before, "it moved: there was a `Weak`");
    drop(once);
    assert_eq!(count.get(), 1);
    // One that has not been is, wherever it went.
    let mut once = Gc::new(Once(Weak::new(), count.clone()));
    let weak = Gc::downgrade(&once);
    Gc::make_mut(&mut once);
    drop((once, weak));
    assert_eq!((count.get(), rc_gc::stats().live), (2, 0));
}
