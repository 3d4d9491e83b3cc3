//! Frames of call stacks, where their names come from, and which of them say nothing about the program.
//!
//! ```text
//! innermost                                                                                    outermost
//! __rust_alloc | RawVec::grow | Vec::push | parse | main | __rust_begin_short_backtrace | std::rt | _start
//! \------ of the allocator --/ \------ kept ------------/ \------------ of the runtime ------------------/
//! ```
//!
//! What it does not do: read debug information. Whoever makes a report hands in something that does.
//!
//! No unsafe here.

use crate::profile::{MACHINERY, STANDARD, is_machinery_by_file, is_standard_by_file};

/// A function at a place in the source: what an address stands for, or one call inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// The function's name, demangled.
    pub function: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// The column in the line, from 1.
    pub column: Option<u32>,
}

/// Finds out what addresses stand for.
///
/// Any function of the right shape is one, so made-up symbols do for a test:
///
/// ```
/// use alloc_global::report::{Frame, Symbols};
///
/// let named = |addresses: &[u64]| -> Vec<Vec<Frame>> {
///     let name = |a: &u64| Frame { function: format!("function_{a}"), ..Frame::default() };
///     addresses.iter().map(|a| vec![name(a)]).collect()
/// };
/// assert_eq!(named.resolve(&[7])[0][0].function, "function_7");
/// ```
pub trait Symbols {
    /// The frames at each of these addresses, the innermost inlined call first; none where nothing
    /// is known. One answer per address, in their order.
    fn resolve(&self, addresses: &[u64]) -> Vec<Vec<Frame>>;
}

impl<F: Fn(&[u64]) -> Vec<Vec<Frame>>> Symbols for F {
    fn resolve(&self, addresses: &[u64]) -> Vec<Vec<Frame>> {
        self(addresses)
    }
}

/// Knows no symbols: reports hold addresses and modules, and symbols can be found later, elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSymbols;

impl Symbols for NoSymbols {
    fn resolve(&self, addresses: &[u64]) -> Vec<Vec<Frame>> {
        vec![Vec::new(); addresses.len()]
    }
}

impl Frame {
    /// Whether the function is between the program and the allocator.
    pub(super) fn is_machinery(&self) -> bool {
        starts_with_any(&self.function, MACHINERY)
            || is_machinery_by_file(&self.function, self.file.as_deref())
    }

    /// Whether the function is the standard library's: true, but seldom the answer to "who allocates".
    pub(super) fn is_standard(&self) -> bool {
        starts_with_any(&self.function, STANDARD)
            || is_standard_by_file(&self.function, self.file.as_deref())
            || self.is_machinery()
    }

    /// Whether what lies outside of this frame starts threads and programs, and says nothing more.
    pub(super) fn is_outermost(&self) -> bool {
        self.function.contains("__rust_begin_short_backtrace")
    }

    /// `file:line`, as far as known.
    pub(super) fn place(&self) -> Option<String> {
        let file = self.file.as_deref()?;
        Some(match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        })
    }
}

/// Of `<u8 as alloc::vec::Trait>::f`, the trait decides: the type has no path.
fn starts_with_any(name: &str, beginnings: &[&str]) -> bool {
    let name = name.trim_start_matches(['<', '&', '[', '(']);
    let name = match name.split_once(" as ") {
        Some((kind, rest)) if !kind.contains("::") => rest,
        _ => name,
    };
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(function: &str) -> Frame {
        Frame { function: function.to_owned(), ..Frame::default() }
    }

    #[test]
    fn frames_of_the_allocator_are_told_from_those_of_the_library_and_the_program() {
        for machinery in [
            "__rust_alloc",
            "__rustc::__rust_alloc_zeroed",
            "alloc::raw_vec::RawVecInner<A>::grow_amortized",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "<alloc_global::PoolAlloc as core::alloc::global::GlobalAlloc>::alloc",
        ] {
            assert!(named(machinery).is_machinery(), "{machinery}");
            assert!(named(machinery).is_standard(), "{machinery}");
        }
        for standard in [
            "alloc::vec::Vec<T>::push",
            "<std::io::Stdout as std::io::Write>::write",
            "<u8 as alloc::vec::spec_from_elem::SpecFromElem>::from_elem",
            "<[T] as core::convert::AsRef<U>>::as_ref",
        ] {
            assert!(!named(standard).is_machinery(), "{standard}");
            assert!(named(standard).is_standard(), "{standard}");
        }
        for program in [
            "allocations::main",
            "stdx::run",
            "<tree::Node as core::clone::Clone>::clone",
            "<u8 as codec::Encode>::encode",
        ] {
            assert!(!named(program).is_standard(), "{program}");
        }
        assert!(named("std::sys::backtrace::__rust_begin_short_backtrace").is_outermost());
        assert!(!named("main").is_outermost());
    }

    #[test]
    fn a_place_is_as_exact_as_it_is_known() {
        let mut frame = named("f");
        assert_eq!(frame.place(), None);
        frame.line = Some(3);
        assert_eq!(frame.place(), None);
        frame.file = Some("a.rs".to_owned());
        assert_eq!(frame.place().as_deref(), Some("a.rs:3"));
        frame.line = None;
        assert_eq!(frame.place().as_deref(), Some("a.rs"));
    }
}
