//! The end of the process when a caller breaks the contract of `GlobalAlloc`: one line, then abort.
//!
//! ```text
//! poolalloc: double free: block 0x7f0012345678 size 48
//! ```
//!
//! The line is put together in a buffer on the stack and written with one `write`: nothing here
//! allocates, formats through `core::fmt` or panics. The wording is stable: tests and users match it.

use core::ptr::NonNull;

/// Bytes of a line, without its line feed.
const MOST: usize = 255;

/// A line of bounded length under construction. What does not fit is cut.
pub(crate) struct Line {
    bytes: [u8; MOST + 1],
    len: usize,
}

impl Line {
    /// A line that starts with `poolalloc: `.
    pub(crate) fn new() -> Line {
        Line { bytes: [0; MOST + 1], len: 0 }.text("poolalloc: ")
    }

    pub(crate) fn text(self, text: &str) -> Line {
        self.raw(text.as_bytes())
    }

    pub(crate) fn raw(mut self, text: &[u8]) -> Line {
        // The last byte is for the line feed.
        let rest = self.bytes.get_mut(self.len..MOST).unwrap_or_default();
        for (to, from) in rest.iter_mut().zip(text) {
            *to = *from;
            self.len += 1;
        }
        self
    }

    pub(crate) fn number(self, number: usize) -> Line {
        self.digits(number, 10)
    }

    pub(crate) fn address(self, address: usize) -> Line {
        self.text("0x").digits(address, 16)
    }

    fn digits(self, mut number: usize, base: usize) -> Line {
        let mut digits = [0u8; 20];
        let mut used = 0;
        for slot in digits.iter_mut().rev() {
            let digit = (number % base) as u8;
            *slot = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            number /= base;
            used += 1;
            if number == 0 {
                break;
            }
        }
        let start = digits.len() - used;
        self.raw(digits.get(start..).unwrap_or_default())
    }

    /// What the line says so far.
    #[cfg(test)]
    pub(crate) fn said(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap()
    }

    /// Writes the line, and a line feed, to standard error.
    pub(crate) fn write(mut self) {
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = b'\n';
            self.len += 1;
        }
        // SAFETY: `len` bytes of the buffer; `write` only reads them.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len) };
    }

    /// Ends the process: a block of `size` bytes was freed a second time.
    pub(crate) fn double_free(block: NonNull<u8>, size: usize) -> ! {
        Line::new()
            .text("double free: block ")
            .address(block.addr().get())
            .text(" size ")
            .number(size)
            .abort()
    }

    /// Ends the process: a block of `actual` bytes was freed as one of `size`.
    pub(crate) fn wrong_layout(block: NonNull<u8>, actual: usize, size: usize) -> ! {
        Line::new()
            .text("free with another layout: block ")
            .address(block.addr().get())
            .text(" of size ")
            .number(actual)
            .text(" size ")
            .number(size)
            .abort()
    }

    /// Writes the line and aborts the process.
    pub(crate) fn abort(self) -> ! {
        self.write();
        // SAFETY: always callable.
        unsafe { libc::abort() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        let line = Line::new().number(0).text(" ").number(usize::MAX).text(" ").address(0xdead0);
        assert_eq!(line.said(), "poolalloc: 0 18446744073709551615 0xdead0");
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut line = Line::new();
        for _ in 0..100 {
            line = line.text("0123456789");
        }
        assert_eq!(line.len, MOST, "there is room for the line feed");
    }
}
