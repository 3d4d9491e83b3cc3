//! What a program's own HTTP server answers: `(content type, bytes)`.
//!
//! | path | function | read by |
//! |---|---|---|
//! | `/debug/pprof/heap` | [`heap`] | `go tool pprof`, Pyroscope, Alloy, Parca |
//! | `/debug/pprof/allocs` | [`allocs`] | the same |
//! | `/metrics` | [`metrics`] | Prometheus |
//! | `/report` | [`report`](fn@report) | a browser |
//!
//! The paths are those that scrapers look for by default. Reports name functions, files and threads
//! of the program: serve them on the loopback interface or behind something that asks who is
//! calling.
//!
//! What it does not do: listen. No unsafe here.

use super::frame::Symbols;
use super::model::Report;
use super::{html, pprof, prometheus};

/// A content type and the bytes that go with it.
pub type Answer = (&'static str, Vec<u8>);

/// The profile in pprof's format, live bytes first.
pub fn heap(report: &Report, symbols: &dyn Symbols) -> Answer {
    ("application/octet-stream", pprof::profile(report, symbols, "inuse_space"))
}

/// The profile in pprof's format, allocated bytes first.
pub fn allocs(report: &Report, symbols: &dyn Symbols) -> Answer {
    ("application/octet-stream", pprof::profile(report, symbols, "alloc_space"))
}

/// The numbers in Prometheus' text format.
pub fn metrics(report: &Report) -> Answer {
    (prometheus::CONTENT_TYPE, prometheus::prometheus(report).into_bytes())
}

/// The page.
pub fn report(report: &Report, symbols: &dyn Symbols) -> Answer {
    (html::CONTENT_TYPE, html::html(report, symbols).into_bytes())
}
