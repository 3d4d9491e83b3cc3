//! What a module's tables say of an address of its code: its ELF header leads to its program headers, the loader to `.eh_frame_hdr`, that
//! to the entry in `.eh_frame`, whose program gimli runs.
//!
//! The loader is asked without a lock (`_dl_find_object`, glibc 2.35); an older one has no such call, and the unwinder does all.
//! Whoever asks has the module on its stack, so it stays loaded meanwhile. Nothing here allocates.
//!
//! Unsafe to read the tables where the loader put them.

use super::Rule;
use crate::profile::modules;
use alloc_core::{PAGE_SIZE, keeping_errno};
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow, X86_64,
};

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

/// The loader's `_dl_find_object`; null where it has none, or nobody looked yet.
static FIND: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

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

/// Looks for what the loader offers, once: to be called before anything is watched, for it takes the loader's locks.
pub(crate) fn prepare() {
    static PREPARED: AtomicBool = AtomicBool::new(false);
    // Relaxed, twice: who comes second may do without for a while.
    if PREPARED.load(Ordering::Relaxed) || PREPARED.swap(true, Ordering::Relaxed) {
        return;
    }
    let _asking = modules::keep_forks_waiting();
    let name = c"_dl_find_object".as_ptr();
    // SAFETY: a name that ends with 0.
    let found = keeping_errno(|| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name) });
    // Relaxed: code that was there before this thread was.
    FIND.store(found, Ordering::Relaxed);
}

/// Whether rules can be had.
#[inline]
pub(crate) fn is_ready() -> bool {
    // Relaxed: as in `prepare`.
    !FIND.load(Ordering::Relaxed).is_null()
}

/// Memory for the run of an entry's program: some 2 KiB on the stack. A row has a rule for each register that is saved.
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

impl Module {
    fn of(address: usize) -> Option<Module> {
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
        let len = found.end.addr().checked_sub(found.start.addr())?;
        if failed || found.eh_frame_hdr.is_null() || len < PAGE_SIZE {
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
        let first = module.segments().next()?.p_vaddr;
        module.first = first & !(PAGE_SIZE as u64 - 1);
        Some(module)
    }

    /// What is loaded of it to be read.
    fn segments(&self) -> impl Iterator<Item = &libc::Elf64_Phdr> {
        // SAFETY: program headers, in the first page, which stays as it is.
        let headers = unsafe { core::slice::from_raw_parts(self.headers, self.count) };
        headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0)
    }

    /// Its bytes from an address on, as far as they are in one segment.
    fn bytes(&self, address: usize) -> Option<EndianSlice<'_, LittleEndian>> {
        let offset = address.checked_sub(self.start.addr())?;
        let end = self.segments().find_map(|segment| {
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
