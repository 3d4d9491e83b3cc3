//! Runs one workload of the suite `gc` on a collector that others wrote, as `BENCH_COLLECTOR` says,
//! on the system's allocator. Each as its own documentation uses it. The interpreter on each is
//! compiled from the same files. Unsafe code only for what the `Trace`s of some of them ask for.

#[path = "../scheme/on_bacon_rajan_cc.rs"]
mod on_bacon_rajan_cc;
#[path = "../scheme/on_boa.rs"]
mod on_boa;
#[path = "../scheme/on_dumpster.rs"]
mod on_dumpster;
#[path = "../scheme/on_rust_cc.rs"]
mod on_rust_cc;
#[path = "../scheme/on_rust_gc.rs"]
mod on_rust_gc;

use bench::collectors::{self, Collector, Token};
use bench::workload::Workload;

#[global_allocator]
static ALLOC: std::alloc::System = std::alloc::System;

/// Implements [`Collector`] where the node has `number` and `links`, a cell.
macro_rules! collector {
    ($name:ident, $node:ident, $handle:ident, $cell:ident, $automatic:literal, $collect:path) => {
        /// The contender.
        pub(crate) struct $name;

        impl Collector for $name {
            type Handle = $handle<$node>;
            const AUTOMATIC: bool = $automatic;

            #[inline]
            fn make(number: u64) -> Self::Handle {
                $handle::new($node {
                    number,
                    links: $cell::new([None, None]),
                    _token: Token::new().into(),
                })
            }

            #[inline]
            fn number(node: &Self::Handle) -> u64 {
                node.number
            }

            #[inline]
            fn get(node: &Self::Handle, link: usize) -> Option<Self::Handle> {
                node.links.borrow()[link].clone()
            }

            #[inline]
            fn set(node: &Self::Handle, link: usize, to: Option<Self::Handle>) {
                let old = std::mem::replace(&mut node.links.borrow_mut()[link], to);
                drop(old);
            }

            fn collect() {
                $collect();
            }
        }
    };
}

mod with_dumpster {
    use std::cell::RefCell;

    use dumpster::unsync::{Gc, collect};
    use dumpster::{TraceWith, Visitor};

    use super::{Collector, Token};

    /// A token that its collector may look into: there is nothing.
    pub(crate) struct Traced {
        _token: Token,
    }

    impl From<Token> for Traced {
        fn from(token: Token) -> Traced {
            Traced { _token: token }
        }
    }

    // SAFETY: owns no handle.
    unsafe impl<V: Visitor> TraceWith<V> for Traced {
        fn accept(&self, _: &mut V) -> Result<(), ()> {
            Ok(())
        }
    }

    #[derive(dumpster::Trace)]
    pub(crate) struct Node {
        number: u64,
        links: RefCell<[Option<Gc<Node>>; 2]>,
        _token: Traced,
    }

    collector!(Dumpster, Node, Gc, RefCell, true, collect);
}

#[expect(non_local_definitions, reason = "the derive of this collector writes them")]
mod with_gc {
    use gc::{Finalize, Gc, GcCell, Trace, force_collect};

    use super::{Collector, Token};

    #[derive(Finalize, Trace)]
    pub(crate) struct Node {
        number: u64,
        links: GcCell<[Option<Gc<Node>>; 2]>,
        #[unsafe_ignore_trace]
        _token: Token,
    }

    collector!(Marking, Node, Gc, GcCell, true, force_collect);
}

mod with_rust_cc {
    use std::cell::RefCell;

    use rust_cc::{Cc, Finalize, Trace, collect_cycles};

    use super::{Collector, Token};

    #[derive(Finalize, Trace)]
    pub(crate) struct Node {
        number: u64,
        links: RefCell<[Option<Cc<Node>>; 2]>,
        #[rust_cc(ignore)]
        _token: Token,
    }

    collector!(RustCc, Node, Cc, RefCell, true, collect_cycles);
}

mod with_bacon_rajan_cc {
    use std::cell::RefCell;

    use bacon_rajan_cc::{Cc, Trace, Tracer, collect_cycles};

    use super::{Collector, Token};

    pub(crate) struct Node {
        number: u64,
        links: RefCell<[Option<Cc<Node>>; 2]>,
        _token: Token,
    }

    impl Trace for Node {
        fn trace(&self, tracer: &mut Tracer<'_>) {
            self.links.borrow().iter().for_each(|link| link.trace(tracer));
        }
    }

    collector!(BaconRajanCc, Node, Cc, RefCell, false, collect_cycles);
}

mod with_boa {
    use boa_gc::{Finalize, Gc, GcRefCell, Trace, force_collect};

    use super::{Collector, Token};

    #[derive(Finalize, Trace)]
    pub(crate) struct Node {
        number: u64,
        links: GcRefCell<[Option<Gc<Node>>; 2]>,
        #[unsafe_ignore_trace]
        _token: Token,
    }

    collector!(Boa, Node, Gc, GcRefCell, true, force_collect);
}

static DUMPSTER: [Workload; 7] = collectors::loads::<with_dumpster::Dumpster>();
static GC: [Workload; 7] = collectors::loads::<with_gc::Marking>();
static RUST_CC: [Workload; 7] = collectors::loads::<with_rust_cc::RustCc>();
static BACON_RAJAN_CC: [Workload; 7] = collectors::loads::<with_bacon_rajan_cc::BaconRajanCc>();
static BOA: [Workload; 7] = collectors::loads::<with_boa::Boa>();

static DUMPSTER_PROGRAM: [Workload; 1] = [collectors::interpreter(on_dumpster::scripts)];
static GC_PROGRAM: [Workload; 1] = [collectors::interpreter(on_rust_gc::scripts)];
static RUST_CC_PROGRAM: [Workload; 1] = [collectors::interpreter(on_rust_cc::scripts)];
static BACON_RAJAN_CC_PROGRAM: [Workload; 1] =
    [collectors::interpreter(on_bacon_rajan_cc::scripts)];
static BOA_PROGRAM: [Workload; 1] = [collectors::interpreter(on_boa::scripts)];

fn main() -> std::process::ExitCode {
    let contenders: [(&str, &[&[Workload]]); 5] = [
        ("dumpster", &[&DUMPSTER, &DUMPSTER_PROGRAM]),
        ("gc", &[&GC, &GC_PROGRAM]),
        ("rust-cc", &[&RUST_CC, &RUST_CC_PROGRAM]),
        ("bacon_rajan_cc", &[&BACON_RAJAN_CC, &BACON_RAJAN_CC_PROGRAM]),
        ("boa_gc", &[&BOA, &BOA_PROGRAM]),
    ];
    bench::worker::main_of_named("BENCH_COLLECTOR", &contenders)
}
