//! What other collectors promise, as their own test suites say it, asked of this one.
//!
//! A module for each source; a long one has a second. Every test says in a line above it what must
//! hold; it is written anew, from that meaning alone. What has no meaning here stands at the head
//! of its module, with the reason. No unsafe here; three modules below write a `Trace` by hand, or
//! take raw pointers.

mod bacon_rajan_cc;
mod boa_gc;
mod dumpster;
mod dumpster_sync;
mod gc_crate;
mod gcmodule;
mod kit;
mod missing_everywhere;
mod python_finalization;
mod python_gc;
mod python_gc_automatic;
mod rust_cc;
mod rust_cc_weak;
mod tracing_rc;
