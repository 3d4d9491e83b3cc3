//! Reports: what is known about a process, in the formats that tools read.
//!
//! ```text
//! counters, memory, profile, heat map, pins, ...  ->  Report  ->  text   json   html
//!                             addresses  ->  Symbols  ------/ \->  pprof  dhat   folded
//!                                                              \-> prometheus
//! ```
//!
//! | function | file | opens in |
//! |---|---|---|
//! | [`text`] | `.txt` | a terminal: one screen |
//! | [`json`] | `.json` | programs: everything, versioned |
//! | [`html`] | `.html` | a browser, without a network |
//! | [`pprof`] | `.pb.gz` | `go tool pprof`, speedscope, Parca, Pyroscope |
//! | [`dhat`] | `.dhat.json` | Valgrind's `dh_view.html`, the Firefox Profiler |
//! | [`folded`] | `.folded` | flame graph tools, speedscope |
//! | [`prometheus`] | `/metrics` | Prometheus and what reads its text format |
//!
//! Everything here allocates, and may take a while: it belongs at the end of a program, behind a
//! request or on a thread of its own, and never inside an allocation.
//!
//! No unsafe here.

mod at_exit;
mod dhat;
pub mod example;
mod folded;
mod frame;
mod gather;
pub mod handlers;
mod html;
mod json;
mod model;
mod pprof;
mod prometheus;
mod protobuf;
mod stacks;
#[cfg(test)]
mod testing;
mod text;
mod write;

pub use crate::time_line::start_time_line;
pub(crate) use at_exit::start_from_environment;
pub use at_exit::{write_at_exit, write_on_signal};
pub use dhat::dhat;
pub use folded::{Metric, folded};
pub use frame::{Frame, NoSymbols, Symbols};
pub use gather::{GcSource, set_gc_source};
pub use html::html;
pub use json::json;
pub use model::{GcGeneration, GcReport, GcType, Latency, Mapping, Report, Requested, TimePoint};
pub use pprof::pprof;
pub use prometheus::prometheus;
pub use text::text;
pub use write::{Format, WriteError, write, write_or_say};
