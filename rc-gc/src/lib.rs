//! `Gc<T>`: reference counting that also frees cycles.

extern crate self as rc_gc;

mod api;
mod collector;
mod dst;
mod garbage;
mod gc;
mod generations;
mod header;
mod heap;
mod large;
mod pools;
mod release;
mod stats;
mod trace;
mod traits;
mod verify;
mod weak;

pub use api::{
    Heap, check, collect, collect_generation, count_garbage_slowly, disable, enable, is_enabled,
    mode, safepoint, set_mode, set_thresholds, stats, thresholds, trim,
};
pub use gc::Gc;
pub use generations::{Generation, Mode, Thresholds};
pub use rc_gc_derive::Trace;
pub use stats::{GenerationStats, Stats};
pub use trace::{Finalize, Trace, Tracer};
pub use weak::Weak;
