//! Where the names of frames come from.
//!
//! What it does not do: read debug information. Whoever makes a report hands in something that does.
//!
//! No unsafe here.

pub use crate::profile::Frame;

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
