//! The main job. No unsafe here.
fn main() {}
