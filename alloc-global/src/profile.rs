//! The profile: which call sites allocate, what of it is live, how long it lived.
//!
//! ```text
//! watch (per thread: when to look)  ->  record (one event)  ->  stack, sites, live   bounded tables in pages of their own
//!                                                                  |
//!                                                        Snapshot::take()  ->  report (formats)
//! ```
//!
//! | module | knows |
//! |---|---|
//! | pages | memory of the tool's own, and its cap |
//! | names, local | names of regions and threads; what a thread knows of itself |
//! | stack | call stacks, by frame pointers, by rules or the unwinder |
//! | sites, live, tables | stacks with what was freed of theirs; blocks that are live; both as one |
//! | record | the events, from the allocator |
//! | snapshot, take, modules | what was known at one moment, as plain data |
//! | group, diff, symbols | questions to snapshots |
//! | owners, query, rounding | who allocated a live block; which sizes were asked for; what rounding costs |
//!
//! Nothing here is reached while nothing is watched. No unsafe here; the modules say what they use it for.

mod diff;
mod frame;
mod group;
mod live;
mod local;
mod modules;
mod names;
mod owners;
mod pages;
#[cfg(feature = "report")]
mod query;
mod record;
mod rounding;
mod sites;
mod snapshot;
mod stack;
mod symbols;
mod tables;
#[cfg(test)]
mod tables_tests;
mod take;

pub use diff::{Diff, Growth};
#[cfg(feature = "report")]
pub use frame::Frame;
pub use group::{Filter, Group, Grouping, Totals};
pub use local::{Region, untracked};
pub(crate) use local::{adopt_after_fork, leave};
pub use rounding::{BetterClass, Rounding, RoundingSite, rounding};
pub use snapshot::{Dropped, Lifetimes, Module, Peak, Site, Snapshot};
#[cfg(feature = "report")]
pub use symbols::DebugInfo;

#[cfg(feature = "report")]
pub(crate) use modules::program;
pub(crate) use modules::{
    lock_for_fork as lock_loader_for_fork, unlock_after_fork as unlock_loader_after_fork,
};
pub(crate) use owners::Owners;
pub use pages::limit_profile;
pub(crate) use pages::make_room_for_all;
#[cfg(feature = "report")]
pub(crate) use query::requested;
pub(crate) use record::tool_bytes;
pub(crate) use record::{
    are_recorded, check, forget_live, is_empty, is_recorded, lock_for_fork, on_alloc, on_free,
    on_resize, stack_here, unlock_after_fork,
};
pub use stack::limit_frames;
pub(crate) use stack::{MOST_ASKED, limit_frames as set_depth, mix, prepare};
pub(crate) use take::snapshot_of;
