//! A program to look at with `poolalloc-top`: its memory goes up and down until it is stopped.
//!
//! ```text
//! cargo run -p alloc-global --example live &
//! cargo run -p alloc-global --features top --bin poolalloc-top -- $(pgrep -x live)
//! ```
//!
//! No unsafe here.

use alloc_global::PoolAlloc;
use std::thread;
use std::time::Duration;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> std::io::Result<()> {
    alloc_global::publish_stats("1")?;
    println!("process {}", std::process::id());
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for step in 0u64.. {
        // A wave of two minutes; sizes repeat every 97 steps.
        let wave = step % 240;
        let wanted = 1_000 * wave.min(240 - wave);
        while (kept.len() as u64) < wanted {
            let size = (kept.len() as u64 * 31 + step) % 97 * 8 + 1;
            kept.push(vec![1; usize::try_from(size).unwrap_or(1)]);
        }
        kept.truncate(usize::try_from(wanted).unwrap_or(0));
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
