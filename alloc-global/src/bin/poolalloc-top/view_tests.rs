//! Tests of the panes, drawn into a buffer. The frames come from this very process, which publishes.

use super::*;
use alloc_global::{LiveReader, PoolAlloc};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::sync::OnceLock;
use std::time::Duration;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// A frame of this process with 1,000 live blocks of 504 bytes at least.
fn frame() -> LiveFrame {
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let name = format!("poolalloc-top-tests-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        alloc_global::publish_stats(&path).expect("a file");
        path
    });
    let kept: Vec<_> = (0..1000).map(|_| std::hint::black_box(Box::new([1u8; 504]))).collect();
    let reader = LiveReader::open(path).expect("the file");
    let frame = reader.next_frame(Duration::from_secs(30)).expect("a frame");
    drop(kept);
    frame
}

fn drawn(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
    terminal.draw(|frame| draw(frame, app)).expect("drawn");
    terminal.backend().to_string()
}

#[test]
fn every_pane_shows_its_part() {
    let mut app = App::default();
    assert!(drawn(&app, 120, 40).contains("waiting for the program"));
    for _ in 0..3 {
        app.take(Some(frame()));
    }
    let screen = drawn(&app, 150, 50);
    let pid = std::process::id();
    for part in [
        &format!("poolalloc-top: process {pid} ")[..],
        "size classes",
        " 504 ",
        "arenas ",
        "settings",
        "POOLALLOC_PURGE_DELAY_MS   500",
        "q quit",
        "live bytes, ",
    ] {
        assert!(screen.contains(part), "{part:?} is not in\n{screen}");
    }
    assert!(screen.contains('█'), "the sparkline:\n{screen}");
    let class = app.frame.as_ref().unwrap().classes[62];
    assert!(class.live_blocks >= 1000 && screen.contains(&text::bar(&class, 24)), "{screen}");
}

#[test]
fn small_terminals_and_long_scrolls_are_borne() {
    let mut app = App::default();
    app.take(Some(frame()));
    app.scroll = u16::MAX;
    for (width, height) in [(1, 1), (10, 5), (79, 23), (300, 100)] {
        drawn(&app, width, height);
    }
}

#[test]
fn silence_and_pauses_are_shown() {
    let mut app = App::default();
    app.take(Some(frame()));
    app.take(None);
    assert!(drawn(&app, 150, 50).contains("(no answer)"));
    app.paused = true;
    assert!(drawn(&app, 150, 50).contains("(paused)"));
}

#[test]
fn bars_show_every_part_and_fill_their_width() {
    let mut class = frame().classes[0];
    for (live, cached, free, expected) in [
        (0, 0, 0, "        "),
        (8, 0, 0, "########"),
        (4, 2, 2, "####++.."),
        (1_000_000, 1, 1, "######+."),
        (1, 1, u64::MAX / 4, "#+......"),
        (1, 1, 1, "###++..."),
    ] {
        (class.live_blocks, class.cached_blocks, class.free_blocks) = (live, cached, free);
        let bar = text::bar(&class, 8);
        assert_eq!(bar.len(), 8, "{bar}");
        if (live, cached, free) != (1, 1, 1) {
            assert_eq!(bar, expected);
        }
    }
}

#[test]
fn the_page_has_all_sections() {
    let page = text::page(&frame());
    let pid = std::process::id();
    for part in [&format!("process {pid}\n")[..], "\ntotals\n", "\nlive bytes ", "\nsettings\n"] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    let grid = page.lines().filter(|line| line.len() == 77 && line.contains(" #")).count();
    assert!(grid >= 1, "{page}");
}

#[test]
fn the_rate_is_that_of_a_second_or_more() {
    let mut app = App::default();
    let mut now = frame();
    let set = |frame: &mut LiveFrame, allocs: u64| {
        let stat = frame.stats.iter_mut().find(|stat| stat.0 == "allocs").expect("a counter");
        stat.1 = allocs;
    };
    let start = now.updated_ms;
    for (ms, allocs, rate) in
        [(0, 10, 0), (500, 5_010, 0), (2_000, 8_010, 4_000), (2_100, 9_010, 4_000)]
    {
        now.updated_ms = start + ms;
        set(&mut now, allocs);
        app.take(Some(now.clone()));
        assert_eq!(app.rate, rate, "after {ms} ms");
    }
}
