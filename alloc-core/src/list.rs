//! Doubly linked lists threaded through the headers of what they hold.
//!
//! One element is in at most one list at a time, and its links are `None` while it is in none. The list
//! owns nothing: an element must be removed before its header goes away.
//!
//! No unsafe here: links are `Cell`s that a [`Linked`] handle reaches safely.

use core::cell::Cell;

/// A copyable handle to something with two links.
pub trait Linked: Copy + Eq {
    /// The element behind it in its list.
    fn next(&self) -> &Cell<Option<Self>>;
    /// The element before it.
    fn prev(&self) -> &Cell<Option<Self>>;
}

/// Head and tail of a list.
#[derive(Debug)]
pub struct List<T> {
    head: Option<T>,
    tail: Option<T>,
}

impl<T: Linked> List<T> {
    /// A list without elements.
    pub const fn new() -> Self {
        List { head: None, tail: None }
    }

    /// The first element.
    #[inline]
    pub fn front(&self) -> Option<T> {
        self.head
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Puts an element that is in no list before all others.
    pub fn push_front(&mut self, item: T) {
        item.prev().set(None);
        item.next().set(self.head);
        match self.head {
            Some(head) => head.prev().set(Some(item)),
            None => self.tail = Some(item),
        }
        self.head = Some(item);
    }

    /// Puts an element that is in no list behind all others.
    pub fn push_back(&mut self, item: T) {
        item.next().set(None);
        item.prev().set(self.tail);
        match self.tail {
            Some(tail) => tail.next().set(Some(item)),
            None => self.head = Some(item),
        }
        self.tail = Some(item);
    }

    /// Takes an element of this list out.
    pub fn remove(&mut self, item: T) {
        let next = item.next().take();
        let prev = item.prev().take();
        match prev {
            Some(prev) => prev.next().set(next),
            None => self.head = next,
        }
        match next {
            Some(next) => next.prev().set(prev),
            None => self.tail = prev,
        }
    }

    /// Takes the first element out.
    pub fn pop_front(&mut self) -> Option<T> {
        let head = self.head?;
        self.remove(head);
        Some(head)
    }

    /// From the back to the front.
    pub(crate) fn iter_back(&self) -> impl Iterator<Item = T> + use<T> {
        let mut at = self.tail;
        core::iter::from_fn(move || {
            let item = at?;
            at = item.prev().get();
            Some(item)
        })
    }

    /// All elements, from the front.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<T> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let item = at?;
            at = item.next().get();
            Some(item)
        })
    }
}

impl<T: Linked> Default for List<T> {
    fn default() -> Self {
        List::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        next: Cell<Option<Ref>>,
        prev: Cell<Option<Ref>>,
    }

    #[derive(Clone, Copy)]
    struct Ref(&'static Node);

    impl PartialEq for Ref {
        fn eq(&self, other: &Ref) -> bool {
            core::ptr::eq(self.0, other.0)
        }
    }
    impl Eq for Ref {}

    impl Linked for Ref {
        fn next(&self) -> &Cell<Option<Ref>> {
            &self.0.next
        }
        fn prev(&self) -> &Cell<Option<Ref>> {
            &self.0.prev
        }
    }

    fn node() -> Ref {
        Ref(Box::leak(Box::new(Node { next: Cell::new(None), prev: Cell::new(None) })))
    }

    #[test]
    fn order_is_kept_from_both_ends_and_after_removal() {
        let (a, b, c) = (node(), node(), node());
        let mut list = List::new();
        list.push_back(b);
        list.push_front(a);
        list.push_back(c);
        assert!(list.iter().eq([a, b, c]) && list.iter_back().eq([c, b, a]));
        list.remove(b);
        assert!(list.iter().eq([a, c]));
        assert!(list.front() == Some(a) && list.tail == Some(c));
        list.remove(c);
        assert!(list.pop_front() == Some(a));
        assert!(list.is_empty() && list.tail.is_none());
        assert!(a.next().get().is_none() && a.prev().get().is_none());
    }
}
