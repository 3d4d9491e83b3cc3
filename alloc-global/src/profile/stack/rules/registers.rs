//! The registers that a walk by unwind rules starts from, and words of the stack, on x86-64. It
//! follows nothing.

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// Where in the code they were read.
    pub(super) ip: usize,
    pub(super) sp: usize,
    pub(super) fp: usize,
}

/// Those of the function that this is inlined into.
#[inline(always)]
pub(crate) fn registers() -> Registers {
    let (ip, sp, fp): (usize, usize, usize);
    // SAFETY: copies registers.
    unsafe {
        core::arch::asm!("lea {0}, [rip]", "mov {1}, rsp", "mov {2}, rbp", out(reg) ip, out(reg) sp,
            out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    Registers { ip, sp, fp }
}

/// A word of a stack. Not by a load of the compiler's, as in `machine`.
///
/// # Safety
///
/// It is aligned, and can be read.
#[inline(always)]
pub(super) unsafe fn read_word(at: usize) -> usize {
    let word;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("mov {0}, [{0}]", inout(reg) at => word,
            options(readonly, nostack, preserves_flags));
    }
    word
}
