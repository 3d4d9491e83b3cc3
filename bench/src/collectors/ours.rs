//! The contenders of the default build: std's `Rc`, and `Gc`. No unsafe here.

use std::cell::RefCell;
use std::rc::Rc;

use rc_gc::{Gc, Trace};

use super::{Collector, Token};

/// `std::rc::Rc`: leaks cycles.
#[derive(Debug)]
pub struct Counted;

/// A node of [`Counted`].
#[derive(Debug)]
pub struct RcNode {
    number: u64,
    links: RefCell<[Option<Rc<RcNode>>; 2]>,
    _token: Token,
}

impl Collector for Counted {
    type Handle = Rc<RcNode>;
    const AUTOMATIC: bool = true;

    #[inline]
    fn make(number: u64) -> Self::Handle {
        Rc::new(RcNode { number, links: RefCell::default(), _token: Token::new() })
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

    fn collect() {}
}

/// `rc_gc::Gc`.
#[derive(Debug)]
pub struct Ours;

/// A node of [`Ours`].
#[derive(Debug, Trace)]
pub struct GcNode {
    number: u64,
    links: RefCell<[Option<Gc<GcNode>>; 2]>,
    #[gc(skip)]
    _token: Token,
}

impl Collector for Ours {
    type Handle = Gc<GcNode>;
    const AUTOMATIC: bool = true;

    #[inline]
    fn make(number: u64) -> Self::Handle {
        Gc::new(GcNode { number, links: RefCell::default(), _token: Token::new() })
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
        rc_gc::collect();
    }
}
