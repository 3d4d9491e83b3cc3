//! Frames of call stacks, and which of them say nothing about the program.
//!
//! ```text
//! innermost                                                                                    outermost
//! __rust_alloc | RawVec::grow | Vec::push | parse | main | __rust_begin_short_backtrace | std::rt | _start
//! \------ of the allocator --/ \------ kept ------------/ \------------ of the runtime ------------------/
//! ```
//!
//! Told by their names, and by their files where a name has no path. It does not find names: `symbols`
//! does.
//!
//! No unsafe here.

/// A function at a place in the source: what an address stands for, or one call inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    not(feature = "report"),
    expect(unreachable_pub, reason = "only reports hand frames to the program")
)]
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

/// Beginnings of names of functions between the program and the allocator.
const MACHINERY: &[&str] = &[
    "__rust_alloc",
    "__rust_realloc",
    "__rustc::",
    "__rdl_",
    "__rg_",
    "alloc::alloc::",
    "alloc::raw_vec::",
    "alloc_global::",
    "alloc_core::",
    "backtrace::",
    "_Unwind_Backtrace",
];

/// Beginnings of names of functions of the standard library.
const STANDARD: &[&str] = &["alloc::", "core::", "std::", "hashbrown::"];

/// Where the sources of these functions lie, for names without a path: debug information of
/// `debug = "line-tables-only"` has no other.
const MACHINERY_FILES: &[&str] = &["/library/alloc/src/alloc.rs", "/library/alloc/src/raw_vec"];
const STANDARD_FILES: &[&str] =
    &["/library/alloc/src/", "/library/core/src/", "/library/std/src/", "/hashbrown-"];

/// Whether the file is one of the allocator's own.
fn is_own(file: &str) -> bool {
    let folder = env!("CARGO_MANIFEST_DIR").trim_end_matches("alloc-global");
    let inside = |rest: &str| {
        ["alloc-global/src/", "alloc-core/src/"].iter().any(|own| rest.starts_with(own))
    };
    file.strip_prefix(folder).is_some_and(inside)
}

/// Whether a function whose name has no path stands between the program and the allocator, by its file.
fn is_machinery_by_file(function: &str, file: Option<&str>) -> bool {
    let among = |file: &str| is_own(file) || MACHINERY_FILES.iter().any(|own| file.contains(own));
    !leading_path(function).contains("::") && file.is_some_and(among)
}

/// The same for the standard library.
fn is_standard_by_file(function: &str, file: Option<&str>) -> bool {
    let among = |file: &str| STANDARD_FILES.iter().any(|own| file.contains(own));
    !leading_path(function).contains("::") && file.is_some_and(among)
}

fn starts_with_any(name: &str, beginnings: &[&str]) -> bool {
    let path = leading_path(name);
    beginnings.iter().any(|beginning| path.starts_with(beginning))
}

impl Frame {
    /// Whether the function is between the program and the allocator.
    pub(crate) fn is_machinery(&self) -> bool {
        starts_with_any(&self.function, MACHINERY)
            || is_machinery_by_file(&self.function, self.file.as_deref())
    }

    /// Whether the function is the standard library's: true, but seldom the answer to "who allocates".
    pub(crate) fn is_standard(&self) -> bool {
        starts_with_any(&self.function, STANDARD)
            || is_standard_by_file(&self.function, self.file.as_deref())
            || self.is_machinery()
    }

    /// Whether what lies outside of this frame starts threads and programs, and says nothing more.
    pub(crate) fn is_outermost(&self) -> bool {
        self.function.contains("__rust_begin_short_backtrace")
    }

    /// `file:line`, as far as known, else the function.
    pub(crate) fn place_or_name(&self) -> String {
        self.place().unwrap_or_else(|| self.function.clone())
    }

    /// `file:line`, as far as known.
    pub(crate) fn place(&self) -> Option<String> {
        let file = self.file.as_deref()?;
        Some(match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        })
    }
}

/// The path at the beginning of a piece of a demangled name, without what marks references, slices
/// and objects.
fn path_at(name: &str) -> &str {
    let name = name.trim_start_matches(['<', '&', '[', '(', '*']);
    let words = ["dyn ", "mut ", "const "].iter();
    let name = words.fold(name, |name, word| name.strip_prefix(word).unwrap_or(name));
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    name.get(..end.unwrap_or(name.len())).unwrap_or(name).trim_end_matches(':')
}

/// The path of the type or function that a demangled name begins with: of `<a::B<T> as c::D>::e`,
/// `a::B`; of a type that belongs to no crate, such as `u8` or a parameter, that of the trait.
fn leading_path(function: &str) -> &str {
    let own = path_at(function);
    let of_trait = function.split_once(" as ").map(|(_, of_trait)| path_at(of_trait));
    match of_trait {
        Some(path) if function.starts_with('<') && !own.contains("::") => path,
        _ => own,
    }
}

/// The crate of a function, by its name.
pub(crate) fn crate_of(function: &str) -> &str {
    leading_path(function).split("::").next().unwrap_or_default()
}

/// The module of a function, by its name: the path up to the first type, or without the function.
/// Types are told from modules by their capitals.
pub(crate) fn module_of(function: &str) -> &str {
    let path = leading_path(function);
    let is_type = |part: &str| part.starts_with(|c: char| c.is_uppercase());
    let mut len = 0;
    for part in path.split("::") {
        if is_type(part) {
            return path.get(..len).unwrap_or(path).trim_end_matches(':');
        }
        len += part.len() + 2;
    }
    // A type that is written `<..>` has no function in its path.
    if function.starts_with('<') {
        return path;
    }
    path.rsplit_once("::").map_or(path, |(module, _)| module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_crates_are_read_from_names() {
        for (function, module, krate) in [
            ("parser::lex::next", "parser::lex", "parser"),
            ("parser::lex::Lexer<T>::next", "parser::lex", "parser"),
            ("parser::lex::Lexer::next::{{closure}}", "parser::lex", "parser"),
            ("<parser::lex::Lexer as core::iter::Iterator>::next", "parser::lex", "parser"),
            ("<&mut a::b::C as d::E>::f", "a::b", "a"),
            ("<u8 as alloc::vec::spec::Elem>::from", "alloc::vec::spec", "alloc"),
            ("<[T] as a::slice::Join<&T>>::join", "a::slice", "a"),
            ("main", "main", "main"),
            ("a::main", "a", "a"),
            ("libfoo.so+0x12", "libfoo", "libfoo"),
            ("", "", ""),
        ] {
            assert_eq!((module_of(function), crate_of(function)), (module, krate), "{function}");
        }
    }

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
