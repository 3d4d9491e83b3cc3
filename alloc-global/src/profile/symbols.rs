//! What addresses stand for: functions, files and lines, found late and in this process.
//!
//! Reads the debug information of the program and its libraries, by the `backtrace` crate (feature
//! `report`), while the thread is untracked. That takes time and memory by the megabyte: it is for
//! the end of a program, for tests and for questions, not for every minute of a server. A snapshot
//! has all it needs to do it elsewhere. Without the feature, and where nothing is known, an address
//! is named by its module and offset.

use super::frame::Frame;
use super::local::untracked;
#[cfg(feature = "report")]
use super::modules;
use super::snapshot::Module;
use std::collections::HashMap;

/// Symbols from the debug information of this process: the program and what is loaded into it.
///
/// Reading it takes time and memory by the megabyte, the first time most of all: 30 to 45 MB, which
/// stay, as the program's, until [`forget`](DebugInfo::forget). Nothing of that is in the profile.
///
/// ```
/// use alloc_global::{DebugInfo, report};
///
/// let report = report::Report::of_process();
/// println!("{}", report::text(&report, &DebugInfo));
/// ```
#[cfg(feature = "report")]
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugInfo;

#[cfg(feature = "report")]
impl DebugInfo {
    /// Gives back what was read. The next question reads it again, which takes some 100 ms.
    /// [`write`](crate::report::write()) does so after each report.
    pub fn forget() {
        untracked(|| {
            // As in `look_up`.
            let _forks_wait = modules::keep_forks_waiting();
            backtrace::clear_symbol_cache();
        });
    }
}

#[cfg(feature = "report")]
impl crate::report::Symbols for DebugInfo {
    fn resolve(&self, addresses: &[u64]) -> Vec<Vec<Frame>> {
        untracked(|| addresses.iter().map(|address| look_up(*address)).collect())
    }
}

/// Frames by address, the innermost inlined call first.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    known: HashMap<u64, Vec<Frame>>,
}

impl Symbols {
    /// Looks up addresses: each once.
    pub(crate) fn resolve(addresses: impl Iterator<Item = u64>, modules: &[Module]) -> Symbols {
        untracked(|| {
            let mut known = HashMap::new();
            for address in addresses {
                known.entry(address).or_insert_with(|| frames(address, modules));
            }
            Symbols { known }
        })
    }

    /// Made-up symbols.
    #[cfg(test)]
    pub(crate) fn of(known: impl IntoIterator<Item = (u64, Vec<Frame>)>) -> Symbols {
        Symbols { known: known.into_iter().collect() }
    }

    /// The frames of a stack, the innermost first, without those of the allocator and those that
    /// start programs and threads.
    pub(crate) fn frames<'a>(&'a self, stack: &'a [u64]) -> impl Iterator<Item = &'a Frame> + 'a {
        let all = stack.iter().filter_map(|address| self.known.get(address)).flatten();
        all.skip_while(|frame| frame.is_machinery()).take_while(|frame| !frame.is_outermost())
    }

    /// The frame that an allocation is put down to: the innermost that is the program's own, else
    /// the innermost that is not the allocator's.
    pub(crate) fn culprit<'a>(&'a self, stack: &'a [u64]) -> Option<&'a Frame> {
        let own = self.frames(stack).find(|frame| !frame.is_standard());
        own.or_else(|| self.frames(stack).next())
    }
}

/// The frames at one address; one that has the module and the offset for its name where nothing is known.
fn frames(address: u64, modules: &[Module]) -> Vec<Frame> {
    let mut frames = look_up(address);
    if frames.is_empty() {
        frames.push(Frame { function: bare(address, modules), ..Frame::default() });
    }
    frames
}

/// What debug information and symbol tables say about an address.
#[cfg(feature = "report")]
fn look_up(address: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    // The crate takes what it is given for a return address, one past the call.
    let at = usize::try_from(address).map_or(0, |address| address.wrapping_add(1));
    // The crate has a lock of its own, and asks the loader: no child may be made meanwhile. For one
    // address at a time.
    let _forks_wait = modules::keep_forks_waiting();
    backtrace::resolve(core::ptr::without_provenance_mut(at), |symbol| {
        if let Some(name) = symbol.name() {
            let file = symbol.filename().map(|file| file.to_string_lossy().into_owned());
            let (line, column) = (symbol.lineno(), symbol.colno());
            frames.push(Frame { function: format!("{name:#}"), file, line, column });
        }
    });
    frames
}

#[cfg(not(feature = "report"))]
fn look_up(_address: u64) -> Vec<Frame> {
    Vec::new()
}

/// Module and offset, or the address alone.
fn bare(address: u64, modules: &[Module]) -> String {
    let holds = |module: &&Module| (module.start..module.end).contains(&address);
    match modules.iter().find(holds) {
        Some(module) => {
            let file = module.path.rsplit('/').next().unwrap_or_default();
            format!("{file}+{:#x}", address.wrapping_sub(module.bias))
        }
        None => format!("{address:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_symbols_is_named_by_its_module() {
        let module = Module {
            start: 0x5000,
            end: 0x6000,
            bias: 0x4000,
            path: "/lib/x.so".into(),
            ..Module::default()
        };
        assert_eq!(bare(0x5010, &[module]), "x.so+0x1010");
        assert_eq!(bare(0x5010, &[]), "0x5010");
    }

    #[test]
    #[cfg(feature = "report")]
    fn a_function_of_this_crate_is_found_with_its_line() {
        let here = bare as fn(u64, &[Module]) -> String as usize as u64 + 4;
        let symbols = Symbols::resolve([here].into_iter(), &[]);
        let frame = symbols.known[&here].last().unwrap();
        assert!(frame.function.contains("bare"), "{frame:?}");
        assert!(frame.place().unwrap().contains("symbols.rs:"), "{frame:?}");
    }

    #[test]
    #[cfg(feature = "report")]
    fn addresses_of_nothing_have_no_symbols() {
        use crate::report::Symbols as _;
        // Where nothing is loaded, or nothing any more.
        let found = DebugInfo.resolve(&[0, 5, 1 << 46, u64::MAX]);
        assert_eq!(found, vec![Vec::new(); 4]);
    }

    #[test]
    fn names_without_a_path_are_known_by_their_files() {
        let at = |function: &str, file: &str| {
            vec![Frame { function: function.into(), file: Some(file.into()), ..Frame::default() }]
        };
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/watch.rs");
        let symbols = Symbols::of([
            (1, at("note_alloc<alloc_global::watch::alloc::{closure_env#0}>", own)),
            (2, at("grow_one", "/rustc/5980/library/alloc/src/raw_vec/mod.rs")),
            (3, at("push<u8>", "/rustc/5980/library/alloc/src/vec/mod.rs")),
            (4, at("remember", "app/src/main.rs")),
            (5, at("watch", "other/alloc-global/src/watch.rs")),
        ]);
        assert_eq!(symbols.culprit(&[1, 2, 3, 4]).unwrap().function, "remember");
        assert_eq!(symbols.culprit(&[1, 2, 3]).unwrap().function, "push<u8>");
        assert_eq!(symbols.culprit(&[1, 5, 4]).unwrap().function, "watch");
        assert!(symbols.culprit(&[1, 2]).is_none());
    }

    #[test]
    fn the_program_is_named_not_the_library() {
        let named = |function: &str| vec![Frame { function: function.into(), ..Frame::default() }];
        let symbols = Symbols::of([
            (1, named("__rust_alloc")),
            (2, named("<alloc::alloc::Global as core::alloc::Allocator>::allocate")),
            (3, named("alloc::vec::Vec<T>::push")),
            (4, named("app::load")),
            (5, named("alloc_global::thread::alloc_slow")),
            (6, named("std::sys::backtrace::__rust_begin_short_backtrace")),
        ]);
        assert_eq!(symbols.culprit(&[5, 1, 2, 3, 4]).unwrap().function, "app::load");
        assert_eq!(symbols.culprit(&[5, 1, 2, 3]).unwrap().function, "alloc::vec::Vec<T>::push");
        assert!(symbols.culprit(&[5, 1]).is_none() && symbols.culprit(&[]).is_none());
        assert_eq!(symbols.frames(&[5, 1, 2, 3, 4, 6, 3]).count(), 2);
    }
}
