//! What leaks by design, and only that. Apart from the other tests, so that those can run under
//! LeakSanitizer.

use std::cell::RefCell;
use std::rc::Rc;

use rc_gc::{Gc, Trace};

#[derive(Trace)]
struct Link {
    next: RefCell<Option<Gc<Link>>>,
}

#[test]
fn a_leaked_borrow_leaks_what_it_hides_and_nothing_else() {
    let ring = || {
        let a = Gc::new(Link { next: RefCell::new(None) });
        *a.next.borrow_mut() = Some(a.clone());
        a
    };
    let (a, b) = (ring(), ring());
    std::mem::forget(a.next.borrow_mut());
    drop((a, b));
    assert_eq!((rc_gc::collect(), rc_gc::collect(), rc_gc::stats().live), (1, 0, 1));
}

#[test]
fn a_count_of_2_to_the_30_stays_and_the_object_is_never_freed() {
    let dropped = Rc::new(());
    #[derive(Trace)]
    struct Token {
        #[gc(skip)]
        _rc: Rc<()>,
        me: RefCell<Option<Gc<Token>>>,
    }
    let a = Gc::new(Token { _rc: dropped.clone(), me: RefCell::default() });
    *a.me.borrow_mut() = Some(a.clone());
    for _ in 0..(1u32 << 30) {
        std::mem::forget(a.clone());
    }
    let many = Gc::strong_count(&a);
    assert!(many >= 1 << 30);
    for _ in 0..1000 {
        drop(a.clone());
    }
    assert_eq!(Gc::strong_count(&a), Gc::strong_count(&a.clone()));
    drop(a);
    assert_eq!(rc_gc::collect(), 0);
    assert_eq!(Rc::strong_count(&dropped), 2);
    rc_gc::check().unwrap();
}
