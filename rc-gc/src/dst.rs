//! Values without a size of their own: `Gc<[T]>`, `Gc<str>`, `Gc<dyn Trait>`.
//!
//! ```text
//! +------------------+-----------+----------
//! | *mut T (wide) 16 | header 16 | value ...          shape 1 of a pool, or LARGE
//! +------------------+-----------+----------
//! ```
//!
//! The wide pointer before the header lets the vtable's functions, which get an address only, find
//! length or trait vtable. A `Gc<T>` that is *coerced* to `Gc<dyn Trait>` ([`coerce!`]) needs none:
//! its header has the vtable of the type it was made with. An array of `MaybeUninit`s that is
//! coerced to a slice and then given its type ([`become_slice`]) has neither: its length goes into
//! the side box.
//!
//! What can be turned into such a handle is in `convert`. It does not know how handles are counted.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::gc::{Gc, first_word};
use crate::header::{Obj, Vtable, run, run_off};
use crate::heap::Inner;
use crate::pools::{Place, SHAPE_STEP};
use crate::side::side_or_new;
use crate::thread;
use crate::trace::{Trace, Tracer};

const _: () = assert!(size_of::<*mut dyn std::any::Any>() == SHAPE_STEP);
const _: () = assert!(size_of::<*mut [u8]>() == SHAPE_STEP);

/// The vtable of objects with a wide pointer before the header.
pub(crate) struct VtableOf<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized + Trace> VtableOf<T> {
    pub(crate) const WIDE: &'static Vtable = &Vtable {
        trace: trace_wide::<T>,
        drop: drop_wide::<T>,
        drop_run: drop_run_wide::<T>,
        finalize: finalize_wide::<T>,
        name: std::any::type_name::<T>,
        wide: true,
    };
}

/// Where the wide pointer of the value at `value` is kept.
///
/// # Safety
/// `value` is that of an object made by `make`, or room for one.
unsafe fn wide_slot<T: ?Sized>(value: *const u8) -> *const *mut T {
    // SAFETY: by contract there are a header and 16 bytes before the value.
    unsafe { value.sub(size_of::<crate::header::Header>() + SHAPE_STEP) }.cast()
}

/// # Safety
/// `value` is that of a live object made by `make::<T>`.
unsafe fn wide<T: ?Sized>(value: *const u8) -> *mut T {
    // SAFETY: by contract.
    let slot = unsafe { wide_slot::<T>(value) };
    // SAFETY: written by `make`.
    unsafe { slot.read() }
}

/// # Safety
/// As for `wide`, of the first of `objects` and all with its last word.
unsafe fn trace_wide<T: ?Sized + Trace>(objects: &[Obj], tracer: &mut Tracer) -> usize {
    run(objects, |value| {
        // SAFETY: by contract.
        let value = unsafe { wide::<T>(value) };
        // SAFETY: the value is whole.
        unsafe { &*value }.trace(tracer);
    })
}

/// # Safety
/// As for `trace_wide`; the values are not used afterwards.
unsafe fn drop_run_wide<T: ?Sized>(objects: &mut &[Obj]) {
    // SAFETY: by contract.
    run_off(objects, |value| unsafe { drop_wide::<T>(value) });
}

/// # Safety
/// As for `wide`; the value is not used afterwards.
unsafe fn drop_wide<T: ?Sized>(value: *mut u8) {
    // SAFETY: by contract.
    let value = unsafe { wide::<T>(value) };
    // SAFETY: by contract.
    unsafe { value.drop_in_place() };
}

/// # Safety
/// As for `wide`.
unsafe fn finalize_wide<T: ?Sized + Trace>(value: *const u8) {
    // SAFETY: by contract.
    let value = unsafe { wide::<T>(value) };
    // SAFETY: the value is whole.
    unsafe { &*value }.finalize_hook();
}

impl<T: Trace> VtableOf<[T]> {
    /// Of an object with its length in the side box.
    const COUNTED: &'static Vtable = &Vtable {
        trace: trace_counted::<T>,
        drop: drop_counted::<T>,
        drop_run: drop_run_counted::<T>,
        finalize: finalize_counted::<T>,
        name: std::any::type_name::<[T]>,
        wide: false,
    };
}

/// Gives an object whose handles are slices of values that were written the flags and the vtable of
/// those slices.
///
/// # Safety
/// `value` is the whole value of an object that is neither DEAD nor a candidate, as a handle has
/// it; `flags` are those of `[T]`.
pub(crate) unsafe fn become_slice<T: Trace>(value: NonNull<[T]>, flags: u32) {
    // SAFETY: the pointer of a handle.
    let obj = unsafe { Obj::of(value) };
    let vtable = if obj.vtable().wide {
        // From a box of an array the slot has an address only; a slice's has the length already.
        // SAFETY: an object with room for a wide pointer.
        let slot = unsafe { wide_slot::<[T]>(value.as_ptr().cast()) }.cast_mut();
        // SAFETY: 16 bytes, aligned to 8, of this object alone.
        unsafe { slot.write(value.as_ptr()) };
        VtableOf::<[T]>::WIDE
    } else {
        // SAFETY: a handle keeps the object.
        unsafe { side_or_new(obj) }.len.set(value.len());
        VtableOf::<[T]>::COUNTED
    };
    // SAFETY: by contract; both vtables find the length where it was just put.
    unsafe { obj.retype(flags, vtable) };
}

/// # Safety
/// `value` is that of an object that went through `become_slice::<T>`, its side box not yet given back.
unsafe fn counted<T>(value: *const u8) -> *mut [T] {
    // SAFETY: by contract: not null.
    let at = unsafe { NonNull::new_unchecked(value.cast_mut()) };
    // SAFETY: the value of an object.
    let obj = unsafe { Obj::of(at) };
    let len = obj.side().map_or(0, |side| side.len.get());
    std::ptr::slice_from_raw_parts_mut(value.cast_mut().cast(), len)
}

/// # Safety
/// As for `counted`, of the first of `objects`; the value is alive. (No other is like it: each has
/// a side box.)
unsafe fn trace_counted<T: Trace>(objects: &[Obj], tracer: &mut Tracer) -> usize {
    run(objects, |value| {
        // SAFETY: by contract.
        let value = unsafe { counted::<T>(value) };
        // SAFETY: the value is whole.
        unsafe { &*value }.trace(tracer);
    })
}

/// # Safety
/// As for `trace_counted`; the value is not used afterwards.
unsafe fn drop_run_counted<T>(objects: &mut &[Obj]) {
    // SAFETY: by contract.
    run_off(objects, |value| unsafe { drop_counted::<T>(value) });
}

/// # Safety
/// As for `counted`; the value is alive, and not used afterwards.
unsafe fn drop_counted<T>(value: *mut u8) {
    // SAFETY: by contract.
    let value = unsafe { counted::<T>(value) };
    // SAFETY: by contract.
    unsafe { value.drop_in_place() };
}

/// # Safety
/// As for `counted`; the value is alive.
unsafe fn finalize_counted<T: Trace>(value: *const u8) {
    // SAFETY: by contract.
    let value = unsafe { counted::<T>(value) };
    // SAFETY: the value is whole.
    unsafe { &*value }.finalize_hook();
}

/// The thread's heap, for an object that is made there at once.
pub(crate) fn here<'a>() -> &'a Inner {
    // SAFETY: the thread's heap lives at least as long as its objects, and the caller makes one.
    unsafe { thread::current().as_ref() }
}

/// Makes an object on a heap.
///
/// # Safety
/// `place` writes a value of `layout` to the address it is given, and gives the pointer to it there. It
/// does not panic.
pub(crate) unsafe fn make<T: ?Sized + Trace>(
    heap: &Inner,
    layout: Layout,
    flags: u32,
    place: impl FnOnce(*mut u8) -> *mut T,
) -> Gc<T> {
    let room = heap.allocate(Place::of(layout.size(), layout.align(), true), layout);
    // SAFETY: memory for an object, ours alone.
    let obj = unsafe { Obj::at(room.header) };
    let mark = room.mark | flags;
    // SAFETY: the header is ours to write.
    unsafe { obj.init(mark, first_word(flags), VtableOf::<T>::WIDE) };
    let value = obj.value().as_ptr();
    let wide = place(value);
    // SAFETY: room for an object with a wide pointer.
    let slot = unsafe { wide_slot::<T>(value) }.cast_mut();
    // SAFETY: 16 bytes, aligned to 8, ours.
    unsafe { slot.write(wide) };
    // SAFETY: not null: `value` with other metadata.
    let wide = unsafe { NonNull::new_unchecked(wide) };
    // SAFETY: the count of 1 is this handle's.
    let gc = unsafe { Gc::from_value(wide) };
    heap.resume_deferred();
    gc
}

/// `make` for a value whose bytes are copied from `from`.
///
/// # Safety
/// The value at `from` may be copied, or is not used as a value afterwards, even if this unwinds.
pub(crate) unsafe fn make_copy<T: ?Sized + Trace>(
    heap: &Inner,
    from: *const T,
    layout: Layout,
    flags: u32,
) -> Gc<T> {
    let place = |at: *mut u8| {
        // SAFETY: by contract and by `make`: distinct, `size` bytes each.
        unsafe { from.cast::<u8>().copy_to_nonoverlapping(at, layout.size()) };
        // The metadata of `from` at the address, and with the provenance, of `at`.
        with_address(from.cast_mut(), at)
    };
    // SAFETY: the value of `from`, moved or copied.
    unsafe { make(heap, layout, flags, place) }
}

/// `of` with the address and provenance of `at`.
fn with_address<T: ?Sized>(of: *mut T, at: *mut u8) -> *mut T {
    let mut wide = of;
    // SAFETY: a pointer, wide or not, begins with its address: what `ptr::set_ptr_value` did, and
    // what the tests below this module verify for slices and trait objects.
    unsafe { (&raw mut wide).cast::<*mut u8>().write(at) };
    debug_assert!(std::ptr::addr_eq(wide, at));
    wide
}

/// Turns a `Gc<T>` into a `Gc<dyn Trait>` or `Gc<[T]>`, as the context asks for; with `weak:`
/// before it, a `Weak<T>` into a `Weak<dyn Trait>`. The object stays the same.
///
/// (On stable Rust only the standard library's own pointers do this by themselves.)
///
/// ```
/// use rc_gc::{Gc, Trace, Weak, coerce};
///
/// trait Shape: Trace { fn area(&self) -> f64; }
/// #[derive(Trace)]
/// struct Square(f64);
/// impl Shape for Square { fn area(&self) -> f64 { self.0 * self.0 } }
///
/// let square = Gc::new(Square(3.0));
/// let weak: Weak<dyn Shape> = coerce!(weak: Gc::downgrade(&square));
/// let shape: Gc<dyn Shape> = coerce!(square);
/// assert_eq!(shape.area(), 9.0);
/// assert!(weak.upgrade().is_some());
/// ```
///
/// Where a cell may hold different types, one after the other too, it is the cell that holds a
/// `Box<dyn Trait>`; where each object keeps its type, its cell is coerced with it:
///
/// ```
/// # use rc_gc::{Gc, Trace, coerce};
/// # use std::cell::RefCell;
/// # trait Shape: Trace { fn grow(&mut self); fn area(&self) -> f64; }
/// # #[derive(Trace)]
/// # struct Square(f64);
/// # impl Shape for Square { fn grow(&mut self) { self.0 += 1.0 } fn area(&self) -> f64 { self.0 * self.0 } }
/// let shape: Gc<RefCell<dyn Shape>> = coerce!(Gc::new(RefCell::new(Square(3.0))));
/// shape.borrow_mut().grow();
/// assert_eq!(shape.borrow().area(), 16.0);
/// ```
#[macro_export]
macro_rules! coerce {
    (weak: $weak:expr) => {{
        let value = $crate::Weak::into_value($weak);
        // SAFETY: the pointer of a `Weak` just forgotten, coerced by the compiler.
        unsafe { $crate::Weak::from_value(value) }
    }};
    ($gc:expr) => {{
        let value = $crate::Gc::into_value($gc);
        // SAFETY: the pointer of a handle just forgotten, coerced by the compiler.
        unsafe { $crate::Gc::from_value(value) }
    }};
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_wide_pointer_begins_with_its_address() {
        let mut numbers = [1u16, 2, 3];
        let mut other = [7u16, 8, 9];
        let slice: *mut [u16] = &raw mut numbers;
        let moved = with_address(slice, (&raw mut other).cast());
        // SAFETY: three numbers at `other`.
        assert_eq!(unsafe { &*moved }, [7, 8, 9]);
        let mut five = 5u64;
        let mut six = 6u64;
        let any: *mut dyn Any = &raw mut five;
        let moved = with_address(any, (&raw mut six).cast());
        // SAFETY: a `u64` at `six`.
        assert_eq!(unsafe { &*moved }.downcast_ref(), Some(&6u64));
    }

    #[test]
    fn slices_strings_and_boxes_keep_their_contents_and_drop_each_once() {
        let rc = Rc::new(());
        #[derive(rc_gc::Trace)]
        struct Token {
            #[gc(skip)]
            _rc: Rc<()>,
        }
        for len in [0, 1, 3, 50, 1000] {
            let tokens: Gc<[Token]> = (0..len).map(|_| Token { _rc: rc.clone() }).collect();
            assert_eq!((tokens.len(), Rc::strong_count(&rc)), (len, len + 1));
            drop(tokens);
            assert_eq!(Rc::strong_count(&rc), 1);
            let text = "x".repeat(len);
            assert_eq!(*Gc::<str>::from(text.as_str()), *text);
        }
        let boxed: Gc<dyn Trace> = Gc::from(Box::new(Token { _rc: rc.clone() }) as Box<dyn Trace>);
        assert_eq!(Rc::strong_count(&rc), 2);
        drop(boxed);
        let boxed: Gc<[u8]> = Gc::from(vec![1, 2].into_boxed_slice());
        assert_eq!(*boxed, [1, 2]);
        let array: Gc<[u8; 2]> = boxed.try_into().unwrap();
        assert_eq!(*array, [1, 2]);
        assert_eq!(Rc::strong_count(&rc), 1);
        drop(array);
        assert_eq!(rc_gc::stats().live, 0);
        rc_gc::check().unwrap();
    }

    #[test]
    fn alignments_from_1_to_1024_are_kept() {
        macro_rules! aligned {
            ($($n:literal)*) => {$({
                #[derive(Clone, Copy)]
                #[repr(align($n))]
                struct Aligned(u8);
                leaf!(Aligned);
                let one = Gc::new(Aligned(1));
                let boxed: Gc<Aligned> = Gc::from(Box::new(Aligned(2)));
                let many: Gc<[Aligned]> = Gc::from(vec![Aligned(3); 3]);
                assert_eq!((one.0, boxed.0, many[2].0), (1, 2, 3));
                for at in [Gc::as_ptr(&one).addr(), Gc::as_ptr(&boxed).addr(), many.as_ptr().addr()] {
                    assert!(at.is_multiple_of($n), "{at:x} {}", $n);
                }
            })*};
        }
        macro_rules! leaf {
            ($t:ty) => {
                // SAFETY: owns no handle.
                unsafe impl Trace for $t {
                    fn trace(&self, _: &mut Tracer) {}
                }
            };
        }
        aligned!(1 2 4 8 16 32 64 128 256 512 1024);
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    }
}
