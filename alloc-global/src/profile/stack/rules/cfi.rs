//! What a module's tables say of an address of its code: its ELF header leads to its program
//! headers, the loader to `.eh_frame_hdr`, that to the entry in `.eh_frame`, whose program gimli
//! runs.
//!
//! The loader is asked without a lock (`_dl_find_object`, glibc 2.35); an older one has no such
//! call, and the unwinder does all. Whoever asks has the module on its stack, so it stays loaded
//! meanwhile. What is kept of others could be of a module that is gone, so only rules of those that
//! stay for good may be. Nothing here allocates.
//!
//! Unsafe to read the tables where the loader put them.

use super::Rule;
use alloc_core::{PAGE_SIZE, keeping_errno};
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow, X86_64,
};

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

/// The loader's `_dl_find_object`; null where it has none, or nobody looked yet.
static FIND: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Where the modules lie that nothing unloads, from their starts to their ends: the executable, the
/// module that this code is in, and the C library. Both 0 where that is not known.
static LASTING: [[AtomicUsize; 2]; 3] = [const { [const { AtomicUsize::new(0) }; 2] }; 3];

/// What that writes (`struct dl_find_object`).
#[repr(C)]
struct Found {
    flags: u64,
    start: *const u8,
    end: *const u8,
    map: *const c_void,
    eh_frame_hdr: *const u8,
    /// In all versions more than there is.
    rest: [u64; 16],
}

/// Looks for what the loader offers: to be called before anything is watched, for it takes a lock
/// of the loader's.
pub(crate) fn prepare() {
    static PREPARED: AtomicBool = AtomicBool::new(false);
    // Relaxed: threads that come at once find the same.
    if PREPARED.load(Ordering::Relaxed) {
        return;
    }
    // Relaxed, all: code and modules that were there before this thread was. Of a start without its
    // end nothing follows.
    FIND.store(look_up(c"_dl_find_object"), Ordering::Relaxed);
    // SAFETY: always callable.
    let executable = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
    let own = (prepare as fn() as *const ()).addr();
    let c_library = look_up(c"abort").addr();
    for ([start, end], address) in LASTING.iter().zip([executable, own, c_library]) {
        if let Some(found) = Found::of(address) {
            start.store(found.start.addr(), Ordering::Relaxed);
            end.store(found.end.addr(), Ordering::Relaxed);
        }
    }
    // Relaxed: who sees it before what was found does without for a moment.
    PREPARED.store(true, Ordering::Relaxed);
}

/// No lock of ours is held: the loader's is held all the while that a library's constructors run,
/// which may take ours and fork. A child of a fork has it free: the C library sees to that, unlike
/// for the one that `modules` takes.
fn look_up(name: &CStr) -> *mut c_void {
    // SAFETY: a name that ends with 0.
    keeping_errno(|| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Whether an address lies in a module that stays.
pub(super) fn is_lasting(address: usize) -> bool {
    // Relaxed: as in `prepare`.
    let load = |bound: &AtomicUsize| bound.load(Ordering::Relaxed);
    LASTING.iter().any(|[start, end]| (load(start)..load(end)).contains(&address))
}

/// Whether rules can be had.
#[inline]
pub(crate) fn is_ready() -> bool {
    // Relaxed: as in `prepare`.
    !FIND.load(Ordering::Relaxed).is_null()
}

/// Memory for the run of an entry's program: some 2 KiB on the stack, moved and copied meanwhile
/// (`ROOM_TO_READ`). A row has a rule for each register that is saved.
struct OnStack;

impl UnwindContextStorage<usize> for OnStack {
    type Rules = [(gimli::Register, RegisterRule<usize>); 20];
    type Stack = [UnwindTableRow<usize, Self>; 3];
}

/// The rule of an address of code.
pub(super) fn rule_at(address: usize) -> Rule {
    Module::of(address).and_then(|module| module.rule(address as u64)).unwrap_or(Rule::Other)
}

/// A module where it is loaded.
struct Module {
    start: *const u8,
    eh_frame_hdr: usize,
    /// Of `start` in the module's own count of addresses.
    first: u64,
    headers: *const libc::Elf64_Phdr,
    count: usize,
}

impl Found {
    /// Of the module that an address lies in.
    fn of(address: usize) -> Option<Found> {
        // Relaxed: as in `prepare`.
        let find = FIND.load(Ordering::Relaxed);
        if find.is_null() {
            return None;
        }
        // SAFETY: what `dlsym` found under that name is this function.
        let find = unsafe { core::mem::transmute::<*mut c_void, FindObject>(find) };
        let mut found = Found {
            flags: 0,
            start: core::ptr::null(),
            end: core::ptr::null(),
            map: core::ptr::null(),
            eh_frame_hdr: core::ptr::null(),
            rest: [0; 16],
        };
        let place = core::ptr::without_provenance_mut(address);
        // SAFETY: it only compares the address, and writes what it found.
        let failed = unsafe { find(place, &raw mut found) } != 0;
        (!failed).then_some(found)
    }
}

impl Module {
    fn of(address: usize) -> Option<Module> {
        let found = Found::of(address)?;
        let len = found.end.addr().checked_sub(found.start.addr())?;
        if found.eh_frame_hdr.is_null() || len < PAGE_SIZE {
            return None;
        }
        Module::at(found.start, found.eh_frame_hdr.addr())
    }

    /// The module that is loaded from `start` on, whose first page is there.
    fn at(start: *const u8, eh_frame_hdr: usize) -> Option<Module> {
        // SAFETY: the first page of a module.
        let elf = unsafe { start.cast::<libc::Elf64_Ehdr>().read() };
        let (at, count) = (usize::try_from(elf.e_phoff).ok()?, usize::from(elf.e_phnum));
        let size = size_of::<libc::Elf64_Phdr>();
        let is_elf = elf.e_ident.starts_with(b"\x7FELF") && usize::from(elf.e_phentsize) == size;
        let is_near = at.is_multiple_of(align_of::<libc::Elf64_Phdr>())
            && count.checked_mul(size)?.checked_add(at)? <= PAGE_SIZE;
        if !is_elf || !is_near {
            return None;
        }
        let headers = start.wrapping_add(at).cast();
        let mut module = Module { start, eh_frame_hdr, first: 0, headers, count };
        // The lowest, whatever it is loaded for: the loader counts from there.
        let first = module.segments().next()?.p_vaddr;
        module.first = first & !(PAGE_SIZE as u64 - 1);
        Some(module)
    }

    /// What is loaded of it.
    fn segments(&self) -> impl Iterator<Item = &libc::Elf64_Phdr> {
        // SAFETY: program headers, in the first page, which stays as it is.
        let headers = unsafe { core::slice::from_raw_parts(self.headers, self.count) };
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD)
    }

    /// Its bytes from an address on, as far as they are in one segment: one that is read, and not
    /// written to.
    fn bytes(&self, address: usize) -> Option<EndianSlice<'_, LittleEndian>> {
        let offset = address.checked_sub(self.start.addr())?;
        let is_constant =
            |segment: &&libc::Elf64_Phdr| segment.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R;
        let end = self.segments().filter(is_constant).find_map(|segment| {
            let from = usize::try_from(segment.p_vaddr.checked_sub(self.first)?).ok()?;
            let end = from.checked_add(usize::try_from(segment.p_memsz).ok()?)?;
            (from..end).contains(&offset).then_some(end)
        })?;
        let from = self.start.wrapping_add(offset);
        // SAFETY: a part of a segment that is loaded to be read, and not written to.
        let bytes = unsafe { core::slice::from_raw_parts(from, end - offset) };
        Some(EndianSlice::new(bytes, LittleEndian))
    }

    fn rule(&self, address: u64) -> Option<Rule> {
        let bases = BaseAddresses::default().set_eh_frame_hdr(self.eh_frame_hdr as u64);
        let header = EhFrameHdr::from(self.bytes(self.eh_frame_hdr)?);
        let header = header.parse(&bases, size_of::<usize>() as u8).ok()?;
        let Pointer::Direct(eh_frame) = header.eh_frame_ptr() else { return None };
        let bases = bases.set_eh_frame(eh_frame);
        let section = EhFrame::from(self.bytes(usize::try_from(eh_frame).ok()?)?);
        let mut context = UnwindContext::<usize, OnStack>::new_in();
        let cie = EhFrame::cie_from_offset;
        let table = header.table()?;
        let row = table.unwind_info_for_address(&section, &bases, &mut context, address, cie);
        Some(rule_of(row.ok()?))
    }
}

/// A row of an entry's table as a rule.
fn rule_of(row: &UnwindTableRow<usize, OnStack>) -> Rule {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Rule::Last,
        Some(RegisterRule::Offset(-8)) => {}
        _ => return Rule::Other,
    }
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return Rule::Other };
    let saved = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => None,
        Some(RegisterRule::Offset(offset)) => Some(offset.wrapping_neg()),
        Some(_) => return Rule::Other,
    };
    let whole = |bytes: i64| bytes > 0 && bytes % 8 == 0;
    let is_base = register == X86_64::RSP || register == X86_64::RBP;
    if !is_base || !whole(offset) || !saved.is_none_or(whole) {
        return Rule::Other;
    }
    let saved = saved.map(|saved| saved as usize);
    Rule::Caller { by_fp: register == X86_64::RBP, offset: offset as usize, saved }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::modules;
    use core::mem::offset_of;

    #[test]
    fn the_loader_is_asked_without_a_lock_of_ours() {
        // Would wait for itself.
        let held = modules::keep_forks_waiting();
        let found = look_up(c"_dl_find_object");
        drop(held);
        prepare();
        assert_eq!(is_ready(), !found.is_null());
    }

    #[test]
    fn the_program_and_the_c_library_stay_and_no_other() {
        prepare();
        if !is_ready() {
            return;
        }
        assert!(is_lasting((prepare as fn() as *const ()).addr()));
        assert!(is_lasting(look_up(c"qsort").addr()));
        let (unwinder, heap) = (look_up(c"_Unwind_Backtrace").addr(), Box::new(1_u64));
        assert!(unwinder == 0 || !is_lasting(unwinder), "a library that programs may load");
        assert!(!is_lasting((&raw const *heap).addr()) && !is_lasting(0));
    }

    /// Four pages that say of themselves which of them are loaded, and how.
    #[repr(C, align(4096))]
    struct Pages([u8; 4 * PAGE_SIZE]);

    impl Pages {
        fn of(loaded: &[(usize, u32)]) -> Box<Pages> {
            let mut pages = Box::new(Pages([0; 4 * PAGE_SIZE]));
            let mut write = |at: usize, bytes: &[u8]| {
                pages.0[at..][..bytes.len()].copy_from_slice(bytes);
            };
            write(0, b"\x7FELF");
            write(offset_of!(libc::Elf64_Ehdr, e_phoff), &64u64.to_ne_bytes());
            write(offset_of!(libc::Elf64_Ehdr, e_phentsize), &56u16.to_ne_bytes());
            write(offset_of!(libc::Elf64_Ehdr, e_phnum), &(loaded.len() as u16).to_ne_bytes());
            for (number, (page, flags)) in loaded.iter().enumerate() {
                let header = 64 + 56 * number;
                let address = 0x40_0000 + (page * PAGE_SIZE) as u64;
                write(header + offset_of!(libc::Elf64_Phdr, p_type), &1u32.to_ne_bytes());
                write(header + offset_of!(libc::Elf64_Phdr, p_flags), &flags.to_ne_bytes());
                write(header + offset_of!(libc::Elf64_Phdr, p_vaddr), &address.to_ne_bytes());
                write(header + offset_of!(libc::Elf64_Phdr, p_memsz), &4096u64.to_ne_bytes());
            }
            pages
        }

        /// How many bytes there are from the middle of each page on.
        fn bytes(&self) -> [Option<usize>; 4] {
            let start = self.0.as_ptr();
            let module = Module::at(start, 0).unwrap();
            [0, 1, 2, 3].map(|page| {
                let address = start.expose_provenance() + page * PAGE_SIZE + PAGE_SIZE / 2;
                module.bytes(address).map(|bytes| bytes.len())
            })
        }
    }

    #[test]
    fn bytes_are_those_of_segments_that_are_read_and_not_written() {
        const HALF: Option<usize> = Some(PAGE_SIZE / 2);
        let (read, write, run) = (libc::PF_R, libc::PF_W, libc::PF_X);
        let pages = Pages::of(&[(0, read), (1, read | run), (3, read | write)]);
        assert_eq!(pages.bytes(), [HALF, HALF, None, None]);
        // The first one cannot be read, by what its header says: it is the first nevertheless.
        let pages = Pages::of(&[(0, run), (2, read), (3, read)]);
        assert_eq!(pages.bytes(), [None, None, HALF, HALF]);
    }

    #[test]
    fn what_is_no_module_has_no_bytes() {
        let mut pages = Pages::of(&[(0, libc::PF_R)]);
        assert!(Module::at(pages.0.as_ptr(), 0).is_some());
        pages.0[0] = 0;
        assert!(Module::at(pages.0.as_ptr(), 0).is_none());
        // Headers that end beyond the first page, and that begin at an odd place.
        for (at, count) in [(64usize, 73u16), (4096, 1), (60, 1)] {
            let mut pages = Pages::of(&[(0, libc::PF_R)]);
            pages.0[32] = at as u8;
            pages.0[33] = (at >> 8) as u8;
            pages.0[56..58].copy_from_slice(&count.to_ne_bytes());
            assert!(Module::at(pages.0.as_ptr(), 0).is_none(), "{at} {count}");
        }
    }
}
