//! Objects that are allocated first and filled later: `new_uninit`, `new_zeroed`, `assume_init`.
//!
//! Until then the object is one of `MaybeUninit<T>`: a leaf, of which nothing is traced and nothing
//! dropped. `assume_init` gives it the flags and the vtable of its new type.
//!
//! It does not know what those flags mean.

use std::alloc::Layout;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;

use crate::convert::slice_flags;
use crate::dst;
use crate::gc::{Gc, type_flags};
use crate::header::{LEAF, VtableOf};
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
        let layout = Layout::array::<T>(len).expect("capacity overflow");
        let place = |at: *mut u8| {
            prepare(at, layout.size());
            std::ptr::slice_from_raw_parts_mut(at.cast::<MaybeUninit<T>>(), len)
        };
        // SAFETY: any bytes are a `MaybeUninit`.
        unsafe { dst::make(layout, LEAF, place) }
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
        let value = ManuallyDrop::new(self).value_ptr().cast::<T>();
        let wide = obj.vtable().wide;
        let vtable = if wide { dst::VtableOf::<T>::WIDE } else { VtableOf::<T>::SIZED };
        if obj.has(LEAF) {
            // SAFETY: a leaf, so never DEAD while it has handles; the value is there by contract.
            unsafe { obj.retype(type_flags::<T>(), vtable) };
        }
        // SAFETY: the count of the handle just forgotten.
        unsafe { Gc::from_value(value) }
    }
}

impl<T: Trace + 'static> Gc<[MaybeUninit<T>]> {
    /// The same object, as a slice of values.
    ///
    /// # Safety
    ///
    /// All elements were written. If there are other handles, they must not be used to overwrite them.
    pub unsafe fn assume_init(self) -> Gc<[T]> {
        let obj = self.obj();
        let value = ManuallyDrop::new(self).value_ptr().as_ptr() as *mut [T];
        // An array that was coerced to a slice does not know its length: it stays a leaf, which leaks at
        // worst (cycles through it; and its elements, if it has a `Weak`).
        if obj.has(LEAF) && obj.vtable().wide {
            // SAFETY: as above; the wide pointer before the header has the same length.
            unsafe { obj.retype(slice_flags::<T>(), dst::VtableOf::<[T]>::WIDE) };
        }
        // SAFETY: from a handle: not null.
        let value = unsafe { std::ptr::NonNull::new_unchecked(value) };
        // SAFETY: the count of the handle just forgotten.
        unsafe { Gc::from_value(value) }
    }
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
        let array = Gc::new([const { MaybeUninit::<String>::uninit() }; 2]);
        let mut slice: Gc<[MaybeUninit<String>]> = crate::coerce!(array);
        for text in Gc::get_mut(&mut slice).unwrap() {
            text.write("text".into());
        }
        // SAFETY: written.
        let slice = unsafe { slice.assume_init() };
        assert_eq!(*slice, ["text", "text"]);
        drop(slice);
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }
}
