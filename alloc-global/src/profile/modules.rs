//! What is loaded into the process that code lies in: for symbols to be found later, here or elsewhere.
//!
//! Asked for when a snapshot is taken: of a library that was unloaded before, only bare addresses remain.
//!
//! The loader keeps a lock meanwhile that the C library does not take around a fork (glibc 2.36): a
//! child made at that moment would wait for good when it asks itself. So whoever asks holds a lock
//! of ours, and a fork waits for that. The same goes for the lock of the `backtrace` crate, which
//! resolves addresses (`symbols`).

use super::snapshot::Module;
#[cfg(feature = "report")]
use crate::lock::Guard;
use crate::lock::Lock;
use core::ffi::{CStr, c_int, c_void};

/// Held while the loader is asked, or debug information read. The outermost of all locks: what is
/// found is written down under it, in memory of ours.
static LOADER: Lock<()> = Lock::new(());

/// Keeps forks waiting while it is held: for code that takes a lock which fork knows nothing of.
/// Not to be taken twice.
#[cfg(feature = "report")]
pub(super) fn keep_forks_waiting() -> Guard<'static, ()> {
    LOADER.lock()
}

/// Before all other locks.
pub(crate) fn lock_for_fork() {
    LOADER.lock_for_fork();
}

/// After all other locks.
pub(crate) fn unlock_after_fork() {
    LOADER.unlock_after_fork();
}

/// Every module with code, by address.
#[cfg(target_os = "linux")]
pub(crate) fn loaded() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    let _asking = LOADER.lock();
    // SAFETY: `note` fits its signature; the data is the vector, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut modules).cast()) };
    modules.sort_by_key(|module| module.start);
    modules
}

/// Not known on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn loaded() -> Vec<Module> {
    Vec::new()
}

/// Called by the loader for each module, under its lock.
#[cfg(target_os = "linux")]
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    data: *mut c_void,
) -> c_int {
    // SAFETY: the vector that `loaded` handed over, used by nobody meanwhile.
    let modules = unsafe { &mut *data.cast::<Vec<Module>>() };
    // SAFETY: the loader hands over a description that is alive for the call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many headers, alive while the module is loaded: during this call.
    let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    let code = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD;
    let loads = || headers.iter().filter(code);
    if !loads().any(|header| header.p_flags & libc::PF_X != 0) {
        return 0;
    }
    let bias = info.dlpi_addr;
    let start = loads().map(|header| bias.wrapping_add(header.p_vaddr)).min().unwrap_or(0);
    let end = loads().map(|header| bias.wrapping_add(header.p_vaddr).wrapping_add(header.p_memsz));
    let end = end.max().unwrap_or(0);
    let notes = headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
    let build_id = notes.filter_map(|header| {
        let at = bias.wrapping_add(header.p_vaddr);
        let inside = at >= start && at.checked_add(header.p_memsz)? <= end;
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(header.p_memsz).ok()?);
        // SAFETY: a note that lies in a loaded part of the module, alive for this call.
        let notes = inside.then(|| unsafe {
            core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(at), len)
        });
        build_id(notes?, usize::try_from(header.p_align).ok()?)
    });
    let build_id = { build_id }.next().unwrap_or_default();
    let path = if info.dlpi_name.is_null() {
        String::new()
    } else {
        // SAFETY: a string that a zero byte ends, alive for this call.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned()
    };
    // The program itself comes first. Its name is empty with glibc, as it was called with musl.
    let own = if modules.is_empty() { program() } else { String::new() };
    let path = if own.is_empty() { path } else { own };
    modules.push(Module { start, end, bias, path, build_id });
    0
}

/// The path of the program's file; empty where it is not known.
pub(crate) fn program() -> String {
    std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The build identifier among ELF notes: of type 3 (`NT_GNU_BUILD_ID`), named "GNU".
fn build_id(notes: &[u8], align: usize) -> Option<String> {
    const BUILD_ID: u32 = 3;
    let align = if align == 8 { 8 } else { 4 };
    let word = |at: usize| {
        let bytes = notes.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let mut at = 0usize;
    loop {
        let (name_len, len) = (word(at)? as usize, word(at + 4)? as usize);
        let kind = word(at + 8)?;
        let name = at + 12;
        let text = name.checked_add(name_len)?.checked_next_multiple_of(align)?;
        let end = text.checked_add(len)?;
        if kind == BUILD_ID && notes.get(name..name.checked_add(name_len)?)? == b"GNU\0" {
            let bytes = notes.get(text..end)?;
            return Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        at = end.checked_next_multiple_of(align)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_and_its_code_are_found() {
        let modules = loaded();
        let here = loaded as fn() -> Vec<Module> as usize as u64;
        let own: Vec<_> =
            modules.iter().filter(|module| module.start <= here && here < module.end).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].path, program());
        assert!(modules.windows(2).all(|pair| pair[0].start <= pair[1].start));
        // So is the C library, unless it is part of the program.
        if cfg!(not(target_feature = "crt-static")) {
            assert!(modules.iter().any(|module| module.path.contains("libc")));
            assert!(modules.iter().any(|module| module.build_id.len() >= 32));
        }
    }

    #[test]
    fn build_ids_are_read_from_notes_and_broken_notes_are_not() {
        let mut notes = Vec::new();
        let mut note = |kind: u32, name: &[u8], text: &[u8]| {
            for word in [name.len() as u32, text.len() as u32, kind] {
                notes.extend(word.to_ne_bytes());
            }
            for part in [name, text] {
                notes.extend(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        };
        note(1, b"GNU\0", &[1, 2, 3, 4, 5]);
        note(3, b"Go\0", &[9, 9]);
        note(3, b"GNU\0", &[0xAB, 0, 7]);
        assert_eq!(build_id(&notes, 4).as_deref(), Some("ab0007"));
        for len in 0..notes.len() - 4 {
            assert_eq!(build_id(&notes[..len], 4), None, "{len}");
        }
        assert_eq!(build_id(&[0xFF; 64], 4), None);
    }
}
