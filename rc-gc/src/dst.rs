//! Values without a size of their own: `Gc<[T]>`, `Gc<str>`, `Gc<dyn Trait>`.
//!
//! ```text
//! +------------------+-----------+----------
//! | *mut T (wide) 16 | header 16 | value ...          shape 1 of a pool, or LARGE
//! +------------------+-----------+----------
//! ```
//!
//! The wide pointer before the header lets the vtable's functions, which get an address only, find
//! length or trait vtable. A `Gc<T>` that is *coerced* to `Gc<dyn Trait>` ([`coerce!`]) needs none: its
//! header has the vtable of the type it was made with.
//!
//! It does not know how handles are counted.

use std::alloc::Layout;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::gc::{Gc, LEAF_DEPTH, first_word};
use crate::header::{FINALIZER, LEAF, Obj, Vtable};
use crate::pools::{Place, SHAPE_STEP};
use crate::thread;
use crate::trace::{Trace, Tracer};

const _: () = assert!(size_of::<*mut dyn std::any::Any>() == SHAPE_STEP);
const _: () = assert!(size_of::<*mut [u8]>() == SHAPE_STEP);

/// The vtable of objects with a wide pointer before the header.
struct VtableOf<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized + Trace> VtableOf<T> {
    const WIDE: &'static Vtable = &Vtable {
        trace: trace_wide::<T>,
        drop: drop_wide::<T>,
        finalize: finalize_wide::<T>,
        name: std::any::type_name::<T>,
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
/// As for `wide`.
unsafe fn trace_wide<T: ?Sized + Trace>(value: *const u8, tracer: &mut Tracer) {
    // SAFETY: by contract.
    let value = unsafe { wide::<T>(value) };
    // SAFETY: the value is whole.
    unsafe { &*value }.trace(tracer);
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

/// Makes an object on the thread's heap by moving bytes.
///
/// # Safety
/// `from` points to a value of `layout` that is moved out when `widen` is called, and `widen` gives a
/// pointer to the same value at another address. Also if this unwinds: no panic comes before the move.
unsafe fn make<T: ?Sized + Trace>(
    from: *const u8,
    layout: Layout,
    flags: u32,
    widen: impl FnOnce(*mut u8) -> *mut T,
) -> Gc<T> {
    // SAFETY: the thread's heap lives at least as long as its objects, and this makes one.
    let heap = unsafe { thread::current().as_ref() };
    let room = heap.allocate(Place::of(layout.size(), layout.align(), true), layout);
    // SAFETY: memory for an object, ours alone.
    let obj = unsafe { Obj::at(room.header) };
    let mark = heap.birth() | room.mark | flags;
    // SAFETY: the header is ours to write.
    unsafe { obj.init(mark, first_word(flags), VtableOf::<T>::WIDE) };
    let value = obj.value().as_ptr();
    let wide = widen(value);
    // SAFETY: room for an object with a wide pointer.
    let slot = unsafe { wide_slot::<T>(value) }.cast_mut();
    // SAFETY: 16 bytes, aligned to 8, ours.
    unsafe { slot.write(wide) };
    // SAFETY: by contract and by `place`: distinct, `size` bytes each.
    unsafe { from.copy_to_nonoverlapping(value, layout.size()) };
    // SAFETY: not null: `value` with other metadata.
    let wide = unsafe { NonNull::new_unchecked(wide) };
    // SAFETY: the count of 1 is this handle's.
    let gc = unsafe { Gc::from_value(wide) };
    heap.resume_deferred();
    gc
}

impl<T: ?Sized + Trace + 'static> From<Box<T>> for Gc<T> {
    /// Moves the value out of its box; also for trait objects, slices and `str`.
    fn from(value: Box<T>) -> Gc<T> {
        let layout = Layout::for_value(&*value);
        let from = Box::into_raw(value);
        let moved = Moved { from, layout };
        // Whether a value behind `dyn` has a finalizer is asked by calling it.
        // SAFETY: moved out: `moved` frees the box only.
        let gc = unsafe {
            make::<T>(from.cast(), layout, FINALIZER, |at| {
                // The metadata of `from` at the address, and with the provenance, of `at`.
                with_address(from, at)
            })
        };
        drop(moved);
        gc
    }
}

/// A box whose value was moved out.
struct Moved<T: ?Sized> {
    from: *mut T,
    layout: Layout,
}

impl<T: ?Sized> Drop for Moved<T> {
    fn drop(&mut self) {
        if self.layout.size() != 0 {
            // SAFETY: from `Box::into_raw`, of this layout, its value moved out.
            unsafe { std::alloc::dealloc(self.from.cast(), self.layout) };
        }
    }
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

/// Flags of a slice of `T`.
fn slice_flags<T: Trace>() -> u32 {
    if T::holds_gc(LEAF_DEPTH) { 0 } else { LEAF }
}

impl<T: Trace + 'static> From<Vec<T>> for Gc<[T]> {
    /// Moves the elements; the vector's memory is freed.
    fn from(mut values: Vec<T>) -> Gc<[T]> {
        let len = values.len();
        let layout = Layout::for_value(&values[..]);
        let from = values.as_ptr().cast();
        let widen = |at: *mut u8| {
            // SAFETY: 0 elements; the others are moved out by `make`.
            unsafe { values.set_len(0) };
            std::ptr::slice_from_raw_parts_mut(at.cast::<T>(), len)
        };
        // SAFETY: moved out: `widen` has the vector forget its elements.
        unsafe { make(from, layout, slice_flags::<T>(), widen) }
    }
}

impl<T: Trace + 'static, const N: usize> From<[T; N]> for Gc<[T]> {
    fn from(values: [T; N]) -> Gc<[T]> {
        Gc::from(Vec::from(values))
    }
}

impl<T: Trace + Clone + 'static> From<&[T]> for Gc<[T]> {
    /// Clones the elements.
    fn from(values: &[T]) -> Gc<[T]> {
        Gc::from(values.to_vec())
    }
}

impl<T: Trace + 'static> FromIterator<T> for Gc<[T]> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Gc<[T]> {
        Gc::from(Vec::from_iter(values))
    }
}

impl<T: Trace + 'static> Default for Gc<[T]> {
    fn default() -> Self {
        Gc::from(Vec::new())
    }
}

impl From<&str> for Gc<str> {
    /// Copies the text.
    fn from(text: &str) -> Gc<str> {
        // SAFETY: bytes may be copied.
        unsafe {
            make(text.as_ptr(), Layout::for_value(text), LEAF, |at| {
                std::ptr::slice_from_raw_parts_mut(at, text.len()) as *mut str
            })
        }
    }
}

impl From<String> for Gc<str> {
    fn from(text: String) -> Gc<str> {
        Gc::from(text.as_str())
    }
}

impl From<Cow<'_, str>> for Gc<str> {
    fn from(text: Cow<'_, str>) -> Gc<str> {
        Gc::from(&*text)
    }
}

impl Default for Gc<str> {
    fn default() -> Self {
        Gc::from("")
    }
}

impl<T, const N: usize> TryFrom<Gc<[T]>> for Gc<[T; N]> {
    type Error = Gc<[T]>;

    /// The same object as an array.
    ///
    /// # Errors
    /// The handle again, if it has another length.
    fn try_from(slice: Gc<[T]>) -> Result<Self, Self::Error> {
        if Gc::is_dead(&slice) || slice.len() != N {
            return Err(slice);
        }
        let value = Gc::into_value(slice).cast::<[T; N]>();
        // SAFETY: `N` elements; the count of the handle just given up.
        Ok(unsafe { Gc::from_value(value) })
    }
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
    use super::*;
    use std::any::Any;
    use std::rc::Rc;

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
