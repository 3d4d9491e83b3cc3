//! [`Trace`] for types of the standard library.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::{Trace, Tracer};

/// Types that own no handles.
macro_rules! leaves {
    ($($t:ty),* $(,)?) => {$(
        // SAFETY: owns no handle.
        unsafe impl Trace for $t {
            #[inline]
            fn trace(&self, _: &mut Tracer) {}
            #[inline]
            fn holds_gc(_: u32) -> bool {
                false
            }
        }
    )*};
}

leaves!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64,
    String,
    &'static str,
);

// SAFETY: owns no handle.
unsafe impl Trace for str {
    #[inline]
    fn trace(&self, _: &mut Tracer) {}
}

// SAFETY: passes on to the value, once.
unsafe impl<T: Trace> Trace for Option<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        if let Some(value) = self {
            value.trace(tracer);
        }
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        T::holds_gc(depth)
    }
}

// SAFETY: passes on to each element, once.
unsafe impl<T: Trace> Trace for [T] {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        self.iter().for_each(|value| value.trace(tracer));
    }
}

// SAFETY: passes on to each element, once.
unsafe impl<T: Trace, const N: usize> Trace for [T; N] {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        self.iter().for_each(|value| value.trace(tracer));
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        N != 0 && T::holds_gc(depth)
    }
}

// SAFETY: passes on to each element, once.
unsafe impl<T: Trace> Trace for Vec<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        self.iter().for_each(|value| value.trace(tracer));
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        depth == 0 || T::holds_gc(depth - 1)
    }
}

// SAFETY: passes on to the value, once.
unsafe impl<T: Trace + ?Sized> Trace for Box<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        (**self).trace(tracer);
    }
}

// SAFETY: passes on to the contents, once; a borrowed cell reports nothing, which is less.
unsafe impl<T: Trace> Trace for RefCell<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        if let Ok(value) = self.try_borrow() {
            value.trace(tracer);
        }
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        T::holds_gc(depth)
    }
}

// SAFETY: passes on to the contents, once.
unsafe impl<T: Trace> Trace for Cell<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        // SAFETY: nothing writes to the cell while this borrow lasts: tracing runs no user code.
        let value = unsafe { &*self.as_ptr() };
        value.trace(tracer);
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        T::holds_gc(depth)
    }
}

// SAFETY: passes on to each key and value, once; the hasher is left out, which is less.
unsafe impl<K: Trace, V: Trace, S> Trace for HashMap<K, V, S> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        self.iter().for_each(|(key, value)| {
            key.trace(tracer);
            value.trace(tracer);
        });
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        depth == 0 || K::holds_gc(depth - 1) || V::holds_gc(depth - 1)
    }
}
