//! The feature `verify`: checks that implementations of `Trace` keep their contract. No unsafe here.
//!
//! | obligation of `Trace` | how a breach is seen |
//! |---|---|
//! | 1 only owned handles | a handle is reported by two objects; more edges than handles |
//! | 2 each at most once | the address of a handle is reported twice |
//! | 3 the same each time | the second pass sees another number of edges |
//! | 4 no user code | a handle is cloned or dropped while tracing |
//!
//! A breach panics out of the collection with the type's name; nothing is freed then. With this
//! feature every object comes from the global allocator, so that AddressSanitizer sees each of them.
//! Without it all of this is empty.

use crate::header::Obj;

/// Of what one collection sees.
#[cfg(feature = "verify")]
#[derive(Default)]
pub(crate) struct Verify {
    handles: std::collections::HashSet<usize>,
    edges: std::collections::HashMap<usize, usize>,
}

#[cfg(feature = "verify")]
impl Verify {
    pub(crate) fn new() -> Self {
        Verify::default()
    }

    /// First pass: `obj` reported the handles at `handles`.
    pub(crate) fn first(&mut self, obj: Obj, handles: &[usize]) {
        let name = (obj.vtable().name)();
        for handle in handles {
            assert!(
                self.handles.insert(*handle),
                "rc-gc verify: Trace of {name} reports a handle that was reported before"
            );
        }
        self.edges.insert(obj.header().addr().get(), handles.len());
    }

    /// Second pass, over the same objects.
    pub(crate) fn second(&self, obj: Obj, handles: &[usize]) {
        let name = (obj.vtable().name)();
        let before = self.edges.get(&obj.header().addr().get());
        assert!(
            before == Some(&handles.len()),
            "rc-gc verify: Trace of {name} does not report the same handles twice"
        );
    }

    /// An edge leads to `target`, of whose handles `left` are unexplained: or more, where there are more
    /// than can be counted down.
    pub(crate) fn edge(target: Obj, left: u32) {
        assert!(
            left != 0 || target.count() >= crate::header::STEPS,
            "rc-gc verify: more handles to a {} are reported than exist",
            (target.vtable().name)()
        );
    }
}

/// Without the feature: nothing.
#[cfg(not(feature = "verify"))]
pub(crate) struct Verify;

#[cfg(not(feature = "verify"))]
impl Verify {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Verify
    }

    #[inline(always)]
    pub(crate) fn first(&mut self, _: Obj, _: &[usize]) {}

    #[inline(always)]
    pub(crate) fn second(&self, _: Obj, _: &[usize]) {}

    #[inline(always)]
    pub(crate) fn edge(_: Obj, _: u32) {}
}

/// A handle is cloned, dropped or dereferenced; for obligation 4.
#[cfg(feature = "verify")]
#[track_caller]
pub(crate) fn touched(name: fn() -> &'static str) {
    let bad = crate::collector::is_tracing() && !std::thread::panicking();
    assert!(!bad, "rc-gc verify: a handle to a {} is used while tracing", name());
}
