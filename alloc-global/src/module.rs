//! The module that this copy of the allocator lies in stays loaded.
//!
//! A library may have an allocator of its own, and may be unloaded while threads live that used it.
//! What the C library still has to call then (the key's destructor at a thread's end, a handler of
//! a signal, threads of ours) lies in it, and what its threads hold in their caches does too. So
//! the first thread that gets a cache pins the library; a program itself is never unloaded.

/// Keeps the loader from ever unloading the code of this crate. Called once; changes nothing in a program.
pub(crate) fn stay() {
    // A static program has no loader.
    #[cfg(all(target_os = "linux", not(target_feature = "crt-static")))]
    {
        let mut info = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        let here = (stay as fn() as *const ()).cast();
        // SAFETY: writes to a place that is ours.
        if unsafe { libc::dladdr(here, info.as_mut_ptr()) } == 0 {
            return;
        }
        // SAFETY: zeroed is a valid value, and it was written.
        let info = unsafe { info.assume_init() };
        // SAFETY: always callable.
        let headers = unsafe { libc::getauxval(libc::AT_PHDR) };
        // The program's headers lie in its first page, behind the header of the file.
        if headers.wrapping_sub(info.dli_fbase.addr() as u64) < alloc_core::PAGE_SIZE as u64 {
            return;
        }
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: the loader's own string; nothing is loaded, and nothing is run. The handle is
        // kept for good.
        let _ = unsafe { libc::dlopen(info.dli_fname, flags) };
    }
}
