//! The profile: which call sites allocate, what of it is live, how long it lived.
//!
//! ```text
//! watch (per thread: when to look)  ->  record (one event)  ->  stack, sites, live   bounded tables in pages of their own
//!                                                                  |
//!                                                        Snapshot::take()  ->  report (formats)
//! ```
//!
//! Nothing here is reached while nothing is watched. No unsafe here; the modules say what they use it for.

mod record;
mod snapshot;

pub use snapshot::{Dropped, Lifetimes, Module, Site, Snapshot};

pub(crate) use record::{is_recorded, on_alloc, on_free};
