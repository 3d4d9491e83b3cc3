//! What the tests of several formats share. No unsafe here.

pub(super) use super::example::{report, symbols};
use super::frame::Frame;
use crate::{Dropped, Site, Snapshot, Stats};
use std::time::{Duration, UNIX_EPOCH};

/// A frame of which only the function is known.
pub(super) fn named(function: &str) -> Frame {
    Frame { function: function.to_owned(), ..Frame::default() }
}

/// A snapshot of these sites and nothing else, every block of them traced.
pub(super) fn snapshot(sites: Vec<Site>) -> Snapshot {
    Snapshot {
        stats: Stats::default(),
        rate: 1,
        sites,
        modules: Vec::new(),
        dropped: Dropped::default(),
        tool_bytes: 0,
        taken: UNIX_EPOCH,
        duration: Duration::from_secs(1),
    }
}
