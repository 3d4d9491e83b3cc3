//! `Trace` for the standard library: a cycle through each container is found, a leaf is one at
//! compile time, and what may not be looked into, or is in use, keeps alive what it holds.

use std::alloc::Layout;
use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::{Cell, LazyCell, OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::error::Error;
use std::ffi::{CString, OsString};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::num::{NonZeroU8, Saturating, Wrapping};
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, RwLock, atomic};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use rc_gc::{Gc, Trace};

use crate::{Holder, Key, collected, freed, is_leaf};

#[test]
fn cycles_through_what_holds_values_in_place_are_collected() {
    assert_eq!(freed(|h| h), 1);
    assert!(collected(Some));
    assert!(collected(Ok::<_, u8>));
    assert!(collected(Err::<u8, _>));
    assert!(collected(Poll::Ready));
    assert!(collected(ControlFlow::<_, u8>::Break));
    assert!(collected(ControlFlow::<u8, _>::Continue));
    assert!(collected(Bound::Included));
    assert!(collected(Bound::Excluded));
    assert!(collected(|h| h.clone()..h));
    assert!(collected(|h| h.clone()..=h));
    assert!(collected(|h| h..));
    assert!(collected(|h| ..h));
    assert!(collected(|h| ..=h));
    assert!(collected(Wrapping));
    assert!(collected(Saturating));
    assert!(collected(Reverse));
    assert!(collected(AssertUnwindSafe));
    assert!(collected(|h| [None, Some(h.clone()), Some(h)]));
    assert!(collected(|h| (h,)));
    assert!(collected(|h| (1u8, h.clone(), 2u16, h)));
    assert!(collected(|h| (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, h.clone(), h)));
    assert!(collected(OnceCell::from));
    assert!(collected(OnceLock::from));
    assert!(collected(|h| Cow::<[Gc<Holder>]>::Owned(vec![h])));
}

#[test]
fn cycles_through_readers_and_writers_are_collected() {
    use std::io::{BufReader, BufWriter, Cursor, LineWriter, Read, Result, Write};
    #[derive(Trace)]
    struct File(Gc<Holder>);
    impl Read for File {
        fn read(&mut self, _: &mut [u8]) -> Result<usize> {
            Ok(0)
        }
    }
    impl Write for File {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }
    assert!(collected(|h| BufReader::new(File(h))));
    assert!(collected(|h| BufWriter::new(File(h))));
    assert!(collected(|h| LineWriter::new(File(h))));
    assert!(collected(Cursor::new));
    assert!(collected(|h| File(h).take(1)));
    assert!(collected(|h| File(h.clone()).chain(File(h))));
    assert!(collected(|h| File(h).chain(std::io::empty())));
    assert!(is_leaf::<BufReader<std::fs::File>>() && is_leaf::<BufWriter<std::io::Stdout>>());
}

#[test]
fn cycles_through_cells_and_locks_are_collected() {
    assert!(collected(|h| Cell::new(Some(h))));
    assert!(collected(RefCell::new));
    assert!(collected(Mutex::new));
    assert!(collected(RwLock::new));
    assert!(collected(|h| Box::new(RefCell::new([h])) as Box<RefCell<[_]>>));
    assert!(collected(|h| Box::new(Mutex::new([h])) as Box<Mutex<[_]>>));
    assert!(collected(|h| Box::new(RwLock::new([h])) as Box<RwLock<[_]>>));
}

#[test]
fn cycles_through_collections_are_collected() {
    type Hasher = BuildHasherDefault<DefaultHasher>;
    assert!(collected(Box::new));
    assert!(collected(|h| Box::new(h) as Box<dyn Trace>));
    assert!(collected(|h| vec![h.clone(), h].into_boxed_slice()));
    assert!(collected(Box::pin));
    assert!(collected(Pin::new));
    assert!(collected(|h| vec![h.clone(), h]));
    assert!(collected(|h| vec![h.clone(), h].into_iter()));
    assert!(collected(|h| VecDeque::from([h.clone(), h])));
    assert!(collected(|h| LinkedList::from([h.clone(), h])));
    assert!(collected(|h| BinaryHeap::from([Key(h.clone(), 0), Key(h, 1)])));
    assert!(collected(|h| BTreeSet::from([Key(h.clone(), 0), Key(h, 1)])));
    assert!(collected(|h| BTreeMap::from([(Key(h.clone(), 0), 0)])));
    assert!(collected(|h| BTreeMap::from([(0, h)])));
    assert!(collected(|h| HashSet::from([Key(h.clone(), 0), Key(h, 1)])));
    assert!(collected(|h| HashMap::from([(Key(h.clone(), 0), h)])));
    assert!(collected(|h| HashSet::<_, Hasher>::from_iter([Key(h, 0)])));
    assert!(collected(|h| HashMap::<_, _, Hasher>::from_iter([(0, h)])));
}

#[test]
fn what_may_not_be_looked_into_keeps_what_it_holds() {
    // Each leaks one holder, by contract; `release` takes the handle out again.
    fn kept<C: Trace + 'static>(wrap: impl FnOnce(Gc<Holder>) -> C) {
        let mut weak = None;
        assert_eq!(
            freed(|h| {
                weak = Some(Gc::downgrade(&h));
                wrap(h)
            }),
            0
        );
        let holder = weak.and_then(|weak| weak.upgrade()).expect("a live object");
        drop(holder.0.take());
    }
    kept(Rc::new);
    kept(Arc::new);
    // Forced or not, a lazy cell is not looked into.
    kept(|h| LazyCell::new(move || h));
    kept(|h| {
        let lazy = LazyCell::new(move || h);
        LazyCell::force(&lazy);
        lazy
    });
    assert_eq!(rc_gc::stats().live, 0);
    // These do not drop what they hold, so it is lost for good.
    assert_eq!(freed(ManuallyDrop::new), 0);
    assert_eq!(freed(MaybeUninit::new), 0);
    assert_eq!(rc_gc::stats().live, 2);
}

#[test]
fn leaves_are_known_at_compile_time() {
    struct Opaque;
    assert!(is_leaf::<()>() && is_leaf::<u128>() && is_leaf::<f64>() && is_leaf::<char>());
    assert!(is_leaf::<NonZeroU8>() && is_leaf::<Wrapping<i8>>() && is_leaf::<Saturating<u8>>());
    assert!(is_leaf::<std::cmp::Ordering>() && is_leaf::<atomic::Ordering>());
    assert!(is_leaf::<atomic::AtomicU64>() && is_leaf::<atomic::AtomicBool>());
    assert!(is_leaf::<String>() && is_leaf::<&str>() && is_leaf::<OsString>());
    assert!(is_leaf::<CString>() && is_leaf::<PathBuf>() && is_leaf::<Box<str>>());
    assert!(is_leaf::<Vec<u8>>() && is_leaf::<HashMap<String, Vec<Option<u8>>>>());
    assert!(is_leaf::<RefCell<Vec<(u8, String)>>>() && is_leaf::<Mutex<Option<char>>>());
    assert!(is_leaf::<Box<[u8]>>() && is_leaf::<Box<(u8, char)>>());
    assert!(is_leaf::<[Gc<u8>; 0]>() && is_leaf::<PhantomData<Gc<u8>>>());
    assert!(is_leaf::<Duration>() && is_leaf::<Instant>() && is_leaf::<SystemTime>());
    assert!(is_leaf::<std::net::IpAddr>() && is_leaf::<std::net::SocketAddr>());
    assert!(is_leaf::<std::thread::ThreadId>() && is_leaf::<TypeId>() && is_leaf::<Layout>());
    assert!(is_leaf::<std::io::Error>() && is_leaf::<std::fs::File>());
    assert!(is_leaf::<rc_gc::Weak<Opaque>>() && is_leaf::<std::rc::Weak<Opaque>>());
    assert!(is_leaf::<Rc<str>>() && is_leaf::<Arc<[u8]>>() && is_leaf::<LazyLock<u8>>());
    assert!(is_leaf::<&'static Gc<u8>>() && is_leaf::<Pin<&'static Opaque>>());
    assert!(is_leaf::<std::io::WriterPanicked>() && is_leaf::<std::fmt::Alignment>());
    assert!(is_leaf::<std::fs::TryLockError>() && is_leaf::<std::time::TryFromFloatSecsError>());
    assert!(is_leaf::<fn()>() && is_leaf::<fn(u8, Opaque) -> Gc<u8>>());
    assert!(is_leaf::<unsafe extern "C" fn(*const u8, ...) -> i32>());
    assert!(is_leaf::<extern "C" fn(*const u8, Opaque, ...)>());
    type Byte = u8;
    type Twelve = fn(Byte, Byte, Byte, Byte, Byte, Byte, Byte, Byte, Byte, Byte, Byte, Opaque);
    assert!(is_leaf::<Twelve>() && is_leaf::<extern "C" fn(Opaque)>());
    assert!(
        is_leaf::<std::future::Pending<Gc<u8>>>() && is_leaf::<std::mem::Discriminant<Opaque>>()
    );
    assert!(is_leaf::<std::process::Command>() && is_leaf::<std::thread::Builder>());
    assert!(is_leaf::<std::env::Args>() && is_leaf::<std::char::ToLowercase>());
    assert!(!is_leaf::<Box<dyn Trace>>() && !is_leaf::<Option<Gc<u8>>>());
    assert!(!is_leaf::<Vec<Vec<Vec<Vec<u8>>>>>(), "deeper than is looked");
    fn traced<T: Trace + ?Sized>() {}
    traced::<dyn Error + Send + Sync>();
    traced::<dyn Error>();
    let error: Gc<dyn Error> = Gc::from(Box::<dyn Error>::from("as with `Rc`"));
    assert_eq!(error.to_string(), "as with `Rc`");
    traced::<dyn Any + Send>();
    traced::<std::path::Path>();
    traced::<[Box<dyn Error + Send + Sync>]>();
}

#[test]
fn a_lock_in_use_keeps_what_it_holds_until_it_is_returned() {
    let lock = Arc::new(Mutex::new(0));
    // The one lock is in the object; what it guards is the handle to it.
    struct Locked(Gc<Guarded>);
    #[derive(Trace)]
    struct Guarded(Mutex<Option<Gc<Guarded>>>, RwLock<Option<Gc<Guarded>>>, Arc<Mutex<i32>>);
    let make = || {
        let g = Gc::new(Guarded(Mutex::default(), RwLock::default(), lock.clone()));
        *g.0.lock().unwrap() = Some(g.clone());
        *g.1.write().unwrap() = Some(g.clone());
        Locked(g)
    };
    let Locked(a) = make();
    let in_use = a.0.lock().unwrap();
    assert_eq!(rc_gc::collect(), 0);
    drop(in_use);
    let in_use = a.1.write().unwrap();
    assert_eq!(rc_gc::collect(), 0);
    drop(in_use);
    // Readers do not disturb.
    let in_use = a.1.read().unwrap();
    assert_eq!(rc_gc::collect(), 0);
    drop(in_use);
    drop(a);
    assert_eq!(rc_gc::collect(), 1);
    // A guard that was leaked keeps the object for good.
    let Locked(b) = make();
    std::mem::forget(b.0.lock().unwrap());
    drop(b);
    assert_eq!((rc_gc::collect(), rc_gc::collect(), rc_gc::stats().live), (0, 0, 1));
}

#[test]
fn a_poisoned_lock_keeps_what_it_holds_until_the_poison_is_cleared() {
    #[derive(Trace)]
    struct Guarded(Mutex<Option<Gc<Guarded>>>, RwLock<Option<Gc<Guarded>>>);
    for kind in 0..2 {
        let g = Gc::new(Guarded(Mutex::default(), RwLock::default()));
        let poison = catch_unwind(AssertUnwindSafe(|| {
            if kind == 0 {
                let mut guard = g.0.lock().unwrap();
                *guard = Some(g.clone());
                panic!("poison");
            } else {
                let mut guard = g.1.write().unwrap();
                *guard = Some(g.clone());
                panic!("poison");
            }
        }));
        assert!(poison.is_err());
        let weak = Gc::downgrade(&g);
        drop(g);
        assert_eq!(rc_gc::collect(), 0);
        let g = weak.upgrade().expect("a live object");
        g.0.clear_poison();
        g.1.clear_poison();
        drop(g);
        assert_eq!(rc_gc::collect(), 1, "kind {kind}");
    }
}

#[test]
fn a_leaked_borrow_keeps_what_it_holds_and_nothing_panics() {
    let a = Holder::new();
    *a.0.borrow_mut() = Some(Box::new(a.clone()));
    std::mem::forget(a.0.borrow_mut());
    drop(a);
    assert_eq!((rc_gc::collect(), rc_gc::collect(), rc_gc::stats().live), (0, 0, 1));
    let b = Holder::new();
    *b.0.borrow_mut() = Some(Box::new(b.clone()));
    // Reading does not hide.
    std::mem::forget(b.0.borrow());
    drop(b);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (1, 1));
}

#[test]
fn what_holds_no_handle_is_not_walked() {
    /// Says that it holds no handle, so nobody may ask it to show them.
    struct Unseen;
    // SAFETY: reports nothing.
    unsafe impl Trace for Unseen {
        fn trace(&self, _: &mut rc_gc::Tracer) {
            panic!("looked into");
        }
        fn holds_gc(_: u32) -> bool {
            false
        }
    }
    assert!(collected(|h| (vec![Unseen], HashMap::from([(1, Unseen)]), Mutex::new(Unseen), h)));
    assert!(collected(|h| (
        RefCell::new(Unseen),
        [Unseen],
        Box::new([Unseen]) as Box<[Unseen]>,
        h
    )));
}
