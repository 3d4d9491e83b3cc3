//! `#[derive(Trace)]` where names are taken, where there is no prelude, where macros write the
//! type. What it writes is hygienic; no unsafe in the program is needed, and none allowed.

#![forbid(unsafe_code)]

use std::cell::RefCell;

/// Nothing but names that the derive or this crate use too.
mod taken {
    #![expect(
        dead_code,
        non_upper_case_globals,
        non_camel_case_types,
        reason = "names as the derive might write them"
    )]

    pub(super) struct Gc;
    pub(super) struct Tracer;
    pub(super) struct RefCell;
    enum Option {
        None,
        Some,
    }
    pub(super) trait Trace {
        fn trace(&self) {}
        fn holds_gc() {}
    }
    trait Drop {}
    trait Finalize {}
    static tracer: u8 = 1;
    const depth: u8 = 2;
    trait Sized {}
    const field_0: u8 = 3;
    struct field_1;
    mod core {}
    mod std {}
    mod rc_gc {}

    #[derive(::rc_gc::Trace)]
    pub(super) struct S<Trace: Clone, const N: usize> {
        pub(super) tracer: [Trace; N],
        pub(super) depth: u8,
        pub(super) field_0: ::rc_gc::Gc<super::Owner>,
        pub(super) r#type: ::std::cell::RefCell<::std::option::Option<::rc_gc::Gc<u8>>>,
        #[gc(skip)]
        pub(super) field_1: (Gc, Tracer, RefCell),
    }

    impl Trace for S<u8, 1> {}

    #[derive(::rc_gc::Trace)]
    pub(super) enum E {
        Self_,
        Trace { tracer: u8 },
        Gc(::rc_gc::Gc<super::Owner>),
    }
}

mod bare {
    #![no_implicit_prelude]

    #[derive(::rc_gc::Trace)]
    #[gc(drop, finalize)]
    pub(super) struct S<T>(pub(super) ::rc_gc::Gc<super::Owner>, pub(super) T);

    impl<T> ::std::ops::Drop for S<T> {
        fn drop(&mut self) {}
    }

    impl<T: ::rc_gc::Trace> ::rc_gc::Finalize for S<T> {
        fn finalize(&self) {}
    }
}

#[derive(rc_gc::Trace)]
struct Owner(RefCell<Option<Box<dyn rc_gc::Trace>>>);

macro_rules! written {
    ($name:ident<$t:ident>, $first:ty, $last:ty) => {
        #[derive(rc_gc::Trace)]
        struct $name<$t: Iterator + ?Sized>
        where
            <$t as Iterator>::Item: Sized,
        {
            first: Option<$first>,
            item: Option<<$t as Iterator>::Item>,
            last: $last,
        }
    };
}

written!(Written<I>, rc_gc::Gc<Owner>, [rc_gc::Gc<Owner>]);

/// Whether an object that holds itself through `wrap` is collected.
fn collected<C: rc_gc::Trace + 'static>(wrap: impl FnOnce(rc_gc::Gc<Owner>) -> C) -> bool {
    let owner = rc_gc::Gc::new(Owner(RefCell::default()));
    let wrapped = wrap(owner.clone());
    *owner.0.borrow_mut() = Some(Box::new(wrapped));
    drop(owner);
    rc_gc::collect() == 1
}

#[test]
fn taken_names_are_not_mixed_up() {
    let field_1 = || (taken::Gc, taken::Tracer, taken::RefCell);
    assert!(collected(|field_0| taken::S {
        tracer: [1u8; 3],
        depth: 1,
        field_0,
        r#type: RefCell::default(),
        field_1: field_1(),
    }));
    assert!(collected(taken::E::Gc));
    assert!(collected(|o| bare::S(o, 1u8)));
    let other = [taken::E::Self_, taken::E::Trace { tracer: 1 }];
    assert!(matches!(&other, [taken::E::Self_, taken::E::Trace { tracer: 1 }]));
}

#[test]
fn what_a_macro_writes_is_read_as_it_was_meant() {
    // The last field has no size, and the bound is on the item, not on the iterator, which is not `Trace`.
    fn traced<T: rc_gc::Trace + ?Sized>() {}
    traced::<Written<std::ops::Range<u8>>>();
    let parts = |written: &Written<std::ops::Range<u8>>| {
        (written.first.is_some(), written.item, written.last.len())
    };
    assert_eq!(size_of_val(&parts), 0);
}
