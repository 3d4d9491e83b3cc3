//! What the machine says of the present frame, and the two words of any frame: the part of walking
//! stacks that differs between processors.
//!
//! Elsewhere than on x86-64 and AArch64 there is no frame pointer that is known, so no walk begins.
//! It does not know where a stack ends: who reads a frame has looked.

/// The caller's frame pointer register; 0 where the machine has none that is known.
#[inline(always)]
pub(crate) fn frame_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: copies a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: copies a register.
    unsafe {
        core::arch::asm!("mov {}, x29", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        pointer = 0;
    }
    pointer
}

/// An address that is not above the frame of the function that this is inlined into: the stack
/// pointer, where the machine has one that is known.
///
/// Not the address of a local variable: AddressSanitizer puts those into memory of its own.
#[inline(always)]
pub(super) fn stack_pointer() -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let pointer: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: copies a register.
        unsafe {
            core::arch::asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: copies a register.
        unsafe {
            core::arch::asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        pointer
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let local = 0_u8;
        (&raw const local).addr()
    }
}

/// The two words of a frame at `at`: the next frame pointer, and the return address.
///
/// Not by loads of the compiler's: these are words of other frames, of which it knows nothing, and
/// some that AddressSanitizer has marked as not to be touched lie between them.
///
/// # Safety
///
/// Both words can be read.
#[inline(always)]
pub(super) unsafe fn read_frame(at: usize) -> [usize; 2] {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let (next, address): (usize, usize);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: loads two words that can be read, and nothing else.
        unsafe {
            core::arch::asm!("mov {1}, [{0} + 8]", "mov {0}, [{0}]", inout(reg) at => next,
                out(reg) address, options(readonly, nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: loads two words that can be read, and nothing else.
        unsafe {
            core::arch::asm!("ldp {0}, {1}, [{0}]", inout(reg) at => next,
                out(reg) address, options(readonly, nostack, preserves_flags));
        }
        [next, address]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::with_exposed_provenance::<[usize; 2]>(at).read_volatile()
    }
}
