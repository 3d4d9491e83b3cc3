//! Objects that are allocated first and filled later: `new_uninit`, `new_zeroed`, `assume_init`.
//!
//! Until then the object is one of `MaybeUninit<T>`: a leaf, of which nothing is traced and nothing
//! dropped. `assume_init` gives it the flags and the vtable of its new type.
//!
//! It does not know what those flags mean.

use std::alloc::Layout;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::ptr::NonNull;

use crate::collector::is_tracing;
use crate::convert::slice_flags;
use crate::dst;
use crate::gc::{Gc, type_flags};
use crate::header::{LEAF, Obj, TYPED, VtableOf};
use crate::large;
use crate::trace::Trace;

impl<T: Trace + 'static> Gc<T> {
    /// An object without a value: write one with [`get_mut`](Gc::get_mut), then
    /// [`assume_init`](Gc::assume_init).
    ///
    /// ```
    /// use rc_gc::Gc;
    ///
    /// let mut five = Gc::<u32>::new_uninit();
    /// Gc::get_mut(&mut five).unwrap().write(5);
    /// // SAFETY: just written.
    /// let five = unsafe { five.assume_init() };
    /// assert_eq!(*five, 5);
    /// ```
    pub fn new_uninit() -> Gc<MaybeUninit<T>> {
        Gc::new(MaybeUninit::uninit())
    }

    /// An object without a value, its memory all zero.
    pub fn new_zeroed() -> Gc<MaybeUninit<T>> {
        Gc::new(MaybeUninit::zeroed())
    }

    /// A new object whose value never moves again.
    pub fn pin(value: T) -> Pin<Gc<T>> {
        // SAFETY: an object's value stays where it is until it is dropped. What moves it out, `try_unwrap`
        // and the like, needs a `Gc`, which a `Pin` does not give out unless `T: Unpin`.
        unsafe { Pin::new_unchecked(Gc::new(value)) }
    }
}

impl<T: Trace + 'static> Gc<[T]> {
    /// A slice of `len` elements without values.
    ///
    /// # Panics
    /// If it would be larger than memory can be.
    ///
    /// ```
    /// use rc_gc::Gc;
    ///
    /// let mut squares = Gc::<[usize]>::new_uninit_slice(4);
    /// for (index, square) in Gc::get_mut(&mut squares).unwrap().iter_mut().enumerate() {
    ///     square.write(index * index);
    /// }
    /// // SAFETY: all four written.
    /// let squares = unsafe { squares.assume_init() };
    /// assert_eq!(*squares, [0, 1, 4, 9]);
    /// ```
    pub fn new_uninit_slice(len: usize) -> Gc<[MaybeUninit<T>]> {
        Gc::slice_with(len, |_, _| {})
    }

    /// A slice of `len` elements without values, their memory all zero.
    ///
    /// # Panics
    /// If it would be larger than memory can be.
    pub fn new_zeroed_slice(len: usize) -> Gc<[MaybeUninit<T>]> {
        // SAFETY: memory of that many bytes, the object's.
        Gc::slice_with(len, |at, size| unsafe { at.write_bytes(0, size) })
    }

    fn slice_with(len: usize, prepare: impl FnOnce(*mut u8, usize)) -> Gc<[MaybeUninit<T>]> {
        let layout = Layout::array::<T>(len).ok().filter(large::fits).expect("capacity overflow");
        let place = |at: *mut u8| {
            prepare(at, layout.size());
            std::ptr::slice_from_raw_parts_mut(at.cast::<MaybeUninit<T>>(), len)
        };
        // SAFETY: any bytes are a `MaybeUninit`.
        unsafe { dst::make(dst::here(), layout, LEAF, place) }
    }
}

impl<T: Trace + 'static> Gc<MaybeUninit<T>> {
    /// The same object, as one with a value.
    ///
    /// # Safety
    ///
    /// The value was written. If there are other handles, they must not be used to overwrite it.
    pub unsafe fn assume_init(self) -> Gc<T> {
        let obj = self.obj();
        let this = ManuallyDrop::new(self);
        let value = this.value_ptr().cast::<T>();
        let wide = obj.vtable().wide;
        let vtable = if wide { dst::VtableOf::<T>::WIDE } else { VtableOf::<T>::SIZED };
        if needs_type(obj) {
            let flags = flags_now(obj, type_flags::<T>());
            // SAFETY: the object's heap.
            unsafe { this.heap().clear_candidate(obj) };
            // SAFETY: no candidate; it has been a leaf, or the likes of it, so never DEAD while it
            // has handles. The value is there by contract.
            unsafe { obj.retype(flags, vtable) };
        }
        // SAFETY: the count of the handle just forgotten.
        unsafe { Gc::from_value(value) }
    }
}

impl<T: Trace + 'static> Gc<[MaybeUninit<T>]> {
    /// The same object, as a slice of values.
    ///
    /// An array that was [coerced](crate::coerce) to a slice keeps its length in a box, as if it
    /// had a `Weak`.
    ///
    /// # Safety
    ///
    /// All elements were written. If there are other handles, they must not be used to overwrite them.
    pub unsafe fn assume_init(self) -> Gc<[T]> {
        let obj = self.obj();
        let this = ManuallyDrop::new(self);
        let value = this.value_ptr().as_ptr() as *mut [T];
        // SAFETY: from a handle: not null.
        let value = unsafe { NonNull::new_unchecked(value) };
        if needs_type(obj) {
            // SAFETY: as above.
            unsafe { this.heap().clear_candidate(obj) };
            // SAFETY: as above; a handle to a slice of `MaybeUninit`s is one to the whole object.
            unsafe { dst::become_slice(value, flags_now(obj, slice_flags::<T>())) };
        }
        // SAFETY: the count of the handle just forgotten.
        unsafe { Gc::from_value(value) }
    }
}

/// Whether an object of `MaybeUninit`s has yet to get the type of its values. One that has it and
/// is a leaf may be one of `MaybeUninit`s again: an array of them was what had been left out at
/// first.
fn needs_type(obj: Obj) -> bool {
    !obj.has(TYPED) || obj.has(LEAF)
}

/// The flags of an object's new type. While edges are followed none becomes a leaf: the collector
/// may be looking at it.
fn flags_now(obj: Obj, flags: u32) -> u32 {
    if is_tracing() && !obj.has(LEAF) { flags & !LEAF } else { flags }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(rc_gc::Trace)]
    struct Knot(
        RefCell<Vec<Gc<Knot>>>,
        #[gc(skip)]
        #[expect(dead_code, reason = "counted")]
        Rc<()>,
    );

    fn knots(rc: &Rc<()>) -> Vec<Gc<Knot>> {
        let mut one = Gc::<Knot>::new_uninit();
        // A `Weak` puts the vtable elsewhere; gone before `get_mut`.
        drop(Gc::downgrade(&one));
        Gc::get_mut(&mut one).unwrap().write(Knot(RefCell::default(), rc.clone()));
        let mut boxed: Gc<MaybeUninit<Knot>> = Gc::from(Box::new(MaybeUninit::uninit()));
        Gc::get_mut(&mut boxed).unwrap().write(Knot(RefCell::default(), rc.clone()));
        // SAFETY: written.
        vec![unsafe { one.assume_init() }, unsafe { boxed.assume_init() }]
    }

    #[test]
    fn what_was_filled_later_is_dropped_once_and_collected() {
        let rc = Rc::new(());
        drop(knots(&rc));
        assert_eq!((Rc::strong_count(&rc), rc_gc::stats().live), (1, 0));
        let knot = knots(&rc).swap_remove(0);
        knot.0.borrow_mut().push(knot.clone());
        assert!(Gc::is_tracked(&knot));
        drop(knot);
        assert_eq!((rc_gc::collect(), Rc::strong_count(&rc)), (1, 1));
        // Never filled: nothing is dropped.
        drop(Gc::<Knot>::new_uninit());
        // SAFETY: a number of zeroes.
        assert_eq!(unsafe { *Gc::<[u64; 90]>::new_zeroed().assume_init() }, [0; 90]);
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }

    #[test]
    fn what_was_behind_a_trait_before_it_was_filled_is_dropped_and_collected_too() {
        trait Object: Trace + std::any::Any {}
        impl<T: Trace + 'static> Object for T {}
        fn behind<T: Trace + 'static>(value: T) -> Gc<T> {
            let object: Gc<dyn Object> = Gc::from(Box::new(value) as Box<dyn Object>);
            // A candidate, as no leaf is.
            drop(object.clone());
            let any: Gc<dyn std::any::Any> = crate::coerce!(object);
            any.downcast().unwrap()
        }
        let rc = Rc::new(());
        let knot = || {
            let mut knot = behind(MaybeUninit::<Knot>::uninit());
            Gc::get_mut(&mut knot).unwrap().write(Knot(RefCell::default(), rc.clone()));
            // SAFETY: written.
            unsafe { knot.assume_init() }
        };
        drop(knot());
        assert_eq!((Rc::strong_count(&rc), rc_gc::stats().live), (1, 0));
        let ring = knot();
        ring.0.borrow_mut().push(ring.clone());
        rc_gc::check().unwrap();
        drop(ring);
        assert_eq!((rc_gc::collect(), Rc::strong_count(&rc)), (1, 1));
        let array: Raw = crate::coerce!(behind([const { MaybeUninit::<Knot>::uninit() }; 3]));
        drop(filled(array, &rc));
        assert_eq!((Rc::strong_count(&rc), rc_gc::stats().live), (1, 0));
        // And one of what is a leaf with its type, too.
        let mut number = behind(MaybeUninit::<u64>::uninit());
        drop(number.clone());
        Gc::get_mut(&mut number).unwrap().write(7);
        // SAFETY: written.
        let number = unsafe { number.assume_init() };
        drop(number.clone());
        assert!(*number == 7 && !Gc::is_tracked(&number));
        rc_gc::check().unwrap();
    }

    #[test]
    fn an_array_that_is_made_first_and_filled_later_is_dropped_once_and_collected() {
        let rc = Rc::new(());
        let array = || {
            // SAFETY: an array of what need not be written.
            let array = unsafe { Gc::<[MaybeUninit<Knot>; 3]>::new_uninit().assume_init() };
            let raw: Raw = crate::coerce!(array);
            filled(raw, &rc)
        };
        drop(array());
        assert_eq!((Rc::strong_count(&rc), rc_gc::stats().live), (1, 0));
        let ring = array();
        let holder = Gc::new(Knot(RefCell::default(), rc.clone()));
        ring[0].0.borrow_mut().push(holder.clone());
        assert!(Gc::is_tracked(&ring));
        drop(ring);
        assert_eq!((Rc::strong_count(&rc), Gc::strong_count(&holder)), (2, 1));
        // One `MaybeUninit` in another.
        // SAFETY: what need not be written.
        let mut one = unsafe { Gc::<MaybeUninit<Knot>>::new_uninit().assume_init() };
        Gc::get_mut(&mut one).unwrap().write(Knot(RefCell::default(), rc.clone()));
        // SAFETY: written.
        let one = unsafe { one.assume_init() };
        one.0.borrow_mut().push(one.clone());
        drop(one);
        assert_eq!((rc_gc::collect(), Rc::strong_count(&rc)), (1, 2));
        rc_gc::check().unwrap();
    }

    #[test]
    fn slices_filled_later_are_dropped_once_and_collected() {
        let rc = Rc::new(());
        for len in [0, 1, 5, 100] {
            let mut slice = Gc::<[Knot]>::new_uninit_slice(len);
            for knot in Gc::get_mut(&mut slice).unwrap() {
                knot.write(Knot(RefCell::default(), rc.clone()));
            }
            // SAFETY: written.
            let slice = unsafe { slice.assume_init() };
            assert_eq!(Rc::strong_count(&rc), len + 1);
            if len == 0 {
                continue;
            }
            let holder = Gc::new(Knot(RefCell::default(), rc.clone()));
            slice[0].0.borrow_mut().push(holder.clone());
            let weak = Gc::downgrade(&slice);
            drop(slice);
            assert_eq!(Rc::strong_count(&rc), 2);
            assert!(weak.upgrade().is_none());
            drop(holder);
            assert_eq!(Rc::strong_count(&rc), 1);
        }
        // SAFETY: zeroes are numbers.
        let zeroes = unsafe { Gc::<[u32]>::new_zeroed_slice(300).assume_init() };
        assert_eq!(*zeroes, [0; 300]);
        drop(zeroes);
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }

    type Raw = Gc<[MaybeUninit<Knot>]>;

    /// Arrays as slices: small and large, from a value and from a box.
    fn arrays() -> [Raw; 5] {
        fn array<const N: usize>() -> Gc<[MaybeUninit<Knot>; N]> {
            Gc::new([const { MaybeUninit::uninit() }; N])
        }
        fn boxed<const N: usize>() -> Gc<[MaybeUninit<Knot>; N]> {
            Gc::from(Box::new([const { MaybeUninit::uninit() }; N]))
        }
        let (none, small, large) = (array::<0>(), array::<3>(), array::<100>());
        let (small_box, large_box) = (boxed::<3>(), boxed::<100>());
        let small: Raw = crate::coerce!(small);
        let large: Raw = crate::coerce!(large);
        let small_box: Raw = crate::coerce!(small_box);
        let large_box: Raw = crate::coerce!(large_box);
        [crate::coerce!(none), small, large, small_box, large_box]
    }

    fn filled(mut slice: Raw, rc: &Rc<()>) -> Gc<[Knot]> {
        for knot in Gc::get_mut(&mut slice).unwrap() {
            knot.write(Knot(RefCell::default(), rc.clone()));
        }
        // SAFETY: written.
        unsafe { slice.assume_init() }
    }

    #[test]
    fn arrays_that_became_slices_are_dropped_once_with_and_without_weaks() {
        let rc = Rc::new(());
        for with_weak in [false, true] {
            for slice in arrays() {
                let (len, mut slice) = (slice.len(), filled(slice, &rc));
                assert_eq!((slice.len(), Rc::strong_count(&rc)), (len, len + 1));
                // The fast way out does not apply: nothing is unique with a `Weak`.
                let weak = with_weak.then(|| Gc::downgrade(&slice));
                assert_eq!(Gc::weak_count(&slice), usize::from(with_weak));
                assert_eq!(Gc::get_mut(&mut slice).is_some(), !with_weak);
                drop(slice);
                assert_eq!(Rc::strong_count(&rc), 1);
                assert!(weak.is_none_or(|weak| weak.upgrade().is_none()));
            }
        }
        // A `Weak` of the time before the values sees them; the last handle is one without a type.
        for raw in arrays() {
            let (len, early, other) = (raw.len(), Gc::downgrade(&raw), raw.clone());
            let mut raw = raw;
            assert!(Gc::get_mut(&mut raw).is_none());
            drop((early, other));
            let slice = filled(raw, &rc);
            let weak = Gc::downgrade(&slice);
            assert_eq!(weak.upgrade().unwrap().len(), len);
            drop((slice, weak));
            assert_eq!(Rc::strong_count(&rc), 1);
        }
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }

    type Ring = RefCell<Option<Gc<[Member]>>>;

    #[derive(rc_gc::Trace)]
    struct Member(
        Ring,
        #[gc(skip)]
        #[expect(dead_code, reason = "counted")]
        Rc<()>,
    );

    /// A slice whose last element holds it, made of an array.
    fn ring(mut slice: Gc<[MaybeUninit<Member>]>, rc: &Rc<()>) -> Gc<[Member]> {
        for member in Gc::get_mut(&mut slice).unwrap() {
            member.write(Member(RefCell::default(), rc.clone()));
        }
        // SAFETY: written.
        let slice = unsafe { slice.assume_init() };
        *slice.last().unwrap().0.borrow_mut() = Some(slice.clone());
        assert!(Gc::is_tracked(&slice));
        slice
    }

    #[test]
    fn cycles_through_arrays_that_became_slices_are_collected() {
        let rc = Rc::new(());
        let small = Gc::new([const { MaybeUninit::uninit() }; 3]);
        let large = Gc::new([const { MaybeUninit::uninit() }; 100]);
        let boxed: Gc<[MaybeUninit<Member>; 3]> =
            Gc::from(Box::new([const { MaybeUninit::uninit() }; 3]));
        let arrays: [Gc<[MaybeUninit<Member>]>; 3] =
            [crate::coerce!(small), crate::coerce!(large), crate::coerce!(boxed)];
        for array in arrays {
            let slice = ring(array, &rc);
            let weak = Gc::downgrade(&slice);
            assert_eq!(rc_gc::collect(), 0);
            drop(slice);
            assert!(weak.upgrade().is_some());
            assert_eq!((rc_gc::collect(), Rc::strong_count(&rc)), (1, 1));
            assert!(weak.upgrade().is_none());
        }
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }
}
