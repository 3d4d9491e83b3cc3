//! Reports opened by the programs that people open them with: the page in Chromium, DHAT's file in
//! Valgrind's viewer, pprof's in Go's tool, Prometheus' text in its own client for Python.
//!
//! A page is loaded without a window, and what it drew is read from its document. Everything that a
//! script logs, an uncaught error above all, is on the browser's standard error, and is a failure;
//! a case makes sure that one would be seen. Where there is no Chromium, or no viewer, the cases
//! say so on standard error and pass. No unsafe here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alloc_global::report::{self, NoSymbols, Report, example};
use alloc_global::{DebugInfo, PoolAlloc, PoolState};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Where Debian and others install Valgrind's viewer.
const VIEWERS: [&str; 3] =
    ["/usr/libexec/valgrind", "/usr/lib/valgrind", "/usr/local/libexec/valgrind"];

/// What points, clicks and opens, as a reader would. What it leads to is in the document that is read.
const READER: &str = r##"<script>
const point = (element, x, y) => {
  const box = element.getBoundingClientRect();
  element.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + x, clientY: box.top + y }));
};
for (const button of document.querySelectorAll("#heatmap button")) button.click();
for (const canvas of document.querySelectorAll("#heatmap canvas")) point(canvas, 140, 24);
for (const button of document.querySelectorAll("#flame .switch button")) button.click();
for (const span of document.querySelectorAll("#flame .flame span:nth-child(3)")) span.click();
for (const svg of document.querySelectorAll("#timeline svg")) point(svg, 300, 50);
</script></body>"##;

/// A page as the browser shows it.
struct Shown {
    document: String,
    log: String,
}

impl Shown {
    /// What follows this id, to the end of the section that it is, or is in.
    fn part(&self, id: &str) -> &str {
        let at = self.document.find(&format!(" id=\"{id}\"")).expect(id);
        let part = &self.document[at..];
        &part[..part.find("</section>").expect("a section")]
    }

    /// The number in an attribute of the element with this id.
    fn number(&self, id: &str, attribute: &str) -> f64 {
        let rest = self.part(id).split_once(&format!("{attribute}=\"")).expect(attribute).1;
        rest.split('"').next().and_then(|text| text.parse().ok()).expect(attribute)
    }

    fn assert_quiet(&self) {
        assert!(!self.log.contains("CONSOLE"), "a script complains:\n{}", self.log);
    }
}

/// A folder for one case, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(case: &str) -> Folder {
        let folder =
            std::env::temp_dir().join(format!("report-page-{case}-{}", std::process::id()));
        // A process that had this number may have left one.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The browser's last process may still write there; what stays is in the system's own
        // folder for that.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn say(line: &str) {
    // Not `eprintln`, which the harness keeps to itself when a case passes.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').map(Path::new);
    folders.find_map(|folder| names.map(|name| folder.join(name)).into_iter().find(|f| f.is_file()))
}

/// Loads `page` and returns what the browser made of it; None where there is no browser.
fn show(case: &str, page: &str) -> Option<Shown> {
    let browser = browser_for(case)?;
    let folder = Folder::new(case);
    Some(browse(&browser, &folder, case, page, &["--window-size=1240,4000", "--dump-dom"]))
}

/// What the browser draws of `page`, as a file of PNG.
fn draw(browser: &Path, case: &str, page: &str) -> Vec<u8> {
    let folder = Folder::new(case);
    let picture = folder.0.join("picture.png");
    let action = format!("--screenshot={}", picture.display());
    let size = "--window-size=1000,700";
    let options = [size, "--hide-scrollbars", &action];
    browse(browser, &folder, case, page, &options).assert_quiet();
    let bytes = fs::read(&picture).expect("a picture");
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{case}: no picture");
    bytes
}

fn browser_for(case: &str) -> Option<PathBuf> {
    let browser = browser();
    if browser.is_none() {
        say(&format!("SKIPPED {case}: no chromium here"));
    }
    browser
}

/// Starts the browser with `page` and waits for its end.
fn browse(browser: &Path, folder: &Folder, case: &str, page: &str, options: &[&str]) -> Shown {
    let file = folder.0.join("page.html");
    fs::write(&file, page).expect("the page can be written");
    let (document, log) = (folder.0.join("document"), folder.0.join("log"));
    let create = |path: &Path| Stdio::from(fs::File::create(path).expect("a file"));
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .args(["--virtual-time-budget=5000"])
        .args(options)
        .arg(format!("--user-data-dir={}", folder.0.join("data").display()))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(create(&document))
        .stderr(create(&log))
        .spawn()
        .expect("the browser starts");
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("the browser can be waited for") {
            Some(status) => break status,
            None if start.elapsed() < Duration::from_secs(120) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            None => {
                let _ = child.kill();
                panic!("{case}: the browser hangs\n{}", read(&log));
            }
        }
    };
    assert!(status.success(), "{case}: {status}\n{}", read(&log));
    Shown { document: read(&document), log: read(&log) }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Every section of the page, and whether data stands behind it in a report of everything.
const SECTIONS: [&str; 10] = [
    "summary",
    "heatmap",
    "requested",
    "latency",
    "flame",
    "leaks",
    "timeline",
    "pins",
    "gc",
    "cost",
];

#[test]
fn an_error_in_a_page_would_be_noticed() {
    let page = "<!doctype html><body><p id=a>b</p><script>nothing.like.that()</script></body>";
    let Some(shown) = show("positive-control", page) else { return };
    assert!(shown.document.contains("<p id=\"a\">b</p>"));
    assert!(shown.log.contains("CONSOLE"), "{}", shown.log);
}

#[test]
fn every_section_is_drawn_and_answers() {
    let report = example::report();
    let page = report::html(&report, &example::symbols).replace("</body>", READER);
    // The policy of the page lets only scripts in the page run: the reader is one.
    let Some(shown) = show("example", &page) else { return };
    shown.assert_quiet();
    assert!(shown.document.contains("data-ready=\"yes\""), "the script came to its end");
    for section in SECTIONS {
        assert!(shown.number(section, "data-items") >= 1.0, "{section}");
        assert!(shown.document.contains(&format!("href=\"#{section}\"")), "{section}");
    }
    let heatmap = report.heatmap.as_ref().expect("arenas");
    let pools: usize = heatmap.arenas.iter().map(|arena| arena.pools.len()).sum();
    assert_eq!(shown.number("heatmap", "data-items"), pools as f64);
    assert_eq!(shown.number("timeline", "data-items"), report.time_line.len() as f64);
    assert_eq!(shown.number("arenas-bar", "data-sum"), report.memory.mapped as f64);
    assert_eq!(shown.number("rss-bar", "data-sum"), report.rss.expect("parts").resident as f64);
    assert!(shown.part("identity").contains(" bytes = "), "the parts sum to what is mapped");
    assert_eq!(shown.part("summary").matches("<b class=\"num\">").count(), 22, "every counter");
    assert!(shown.part("timeline").contains("after "), "pointing at a moment tells it");
    assert!(shown.part("pins").contains("&lt;server::session::Store as Open&gt;::open"));
    let leaks = shown.part("leaks");
    assert!(leaks.contains("&lt;server::session::Store as Open&gt;::open"), "{leaks}");
    assert!(!leaks.contains("server::http::parse"), "of that something was freed: {leaks}");
    assert!(shown.part("gc").contains("server::Scope&lt;T&gt;"));
    assert!(shown.part("cost").contains("standard error"));
}

/// Pixels, not only elements: what a canvas shows, and what a style hides, is in no document.
#[test]
fn every_section_is_visible() {
    let Some(browser) = browser_for("pictures") else { return };
    let page = report::html(&example::report(), &example::symbols);
    // One section alone at the top of the page, without its title and its explanation, or nothing at all.
    let only = |section: &str| {
        let script = format!(
            "<script>
for (const other of document.querySelectorAll('header, nav, section:not(#{section})')) other.remove();
for (const words of document.querySelectorAll('section > h2:first-child, section > h2:first-child + p')) words.remove();
</script></body>"
        );
        draw(&browser, section, &page.replace("</body>", &script))
    };
    let nothing = only("nothing").len();
    for section in SECTIONS {
        let drawn = only(section).len();
        // One colour compresses to next to nothing; the emptiest section takes five times as much.
        assert!(drawn > 3 * nothing, "{section}: {drawn} bytes, {nothing} of an empty page");
    }
}

#[test]
fn pointing_at_a_pool_tells_its_class_owner_and_age() {
    let mut report = example::report();
    let heatmap = report.heatmap.as_mut().expect("arenas");
    // The reader points 140 and 24 pixels in: the second row, one of the first few cells.
    for pool in heatmap.arenas[1].pools.iter_mut().take(8) {
        pool.state = PoolState::Used;
        (pool.class_size, pool.owner, pool.live, pool.capacity) = (48, 2, 85, 341);
        (pool.cached, pool.age_ms) = (6, 61_000);
    }
    let page = report::html(&report, &example::symbols).replace("</body>", READER);
    let Some(shown) = show("pool", &page) else { return };
    shown.assert_quiet();
    let said =
        "class 48, owner heap 2, 85 of 341 blocks live (24.9 %), 6 cached, 250 free, age 61.0 s";
    assert!(shown.part("heatmap").contains(said), "{}", shown.part("heatmap"));
    assert!(shown.part("heatmap").contains("48 bytes"), "the key of size classes");
}

#[test]
fn the_flame_graph_switches_metric_and_zooms() {
    let report = example::report();
    let page = report::html(&report, &example::symbols).replace("</body>", READER);
    let Some(shown) = show("flame", &page) else { return };
    shown.assert_quiet();
    let flame = shown.part("flame");
    // The reader pressed every button in turn, so the last metric is shown.
    assert!(flame.contains("data-metric=\"allocs\""), "{flame}");
    let sites = report.snapshot.expect("a snapshot").sites;
    let blocks: f64 = sites.iter().map(|site| site.allocs).sum();
    assert!((shown.number("flame", "data-total") / blocks - 1.0).abs() < 1e-9);
    assert!(!flame.contains("__rust_alloc"), "the allocator's own frames");
    // It clicked on the third frame, which by this metric is the logger's: that is what the graph
    // begins with now, and the way back is not hidden.
    assert!(flame.contains("<output>server::log::line (src/log.rs): "), "{flame}");
    let (_, first) = flame.split_once("<span ").expect("a frame");
    assert!(first.starts_with("title=\"server::log::line (src/log.rs)"), "{first}");
    assert!(flame.contains("<button type=\"button\">whole graph</button>"), "{flame}");
}

#[test]
fn requested_sizes_are_shown_by_site_where_classes_do_not_know_them() {
    let mut report = example::report();
    report.requested = None;
    let Some(shown) = show("by-site", &report::html(&report, &example::symbols)) else { return };
    shown.assert_quiet();
    let requested = shown.part("requested");
    assert!(requested.contains("mean request"), "{requested}");
    assert!(requested.contains("server::http::parse (src/http.rs:88)"), "{requested}");
}

#[test]
fn a_page_of_this_process_says_what_was_not_switched_on() {
    let kept: Vec<String> = (0..10_000).map(|number| format!("block {number}")).collect();
    let report = Report::of_process();
    let page = report::html(&report, &NoSymbols).replace("</body>", READER);
    drop(kept);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    let Some(shown) = show("process", &page) else { return };
    shown.assert_quiet();
    assert!(shown.document.contains("data-ready=\"yes\""));
    assert_eq!(shown.number("arenas-bar", "data-sum"), report.memory.mapped as f64);
    assert_eq!(shown.number("latency", "data-items"), 0.0);
    assert!(shown.part("latency").contains("Latency was not recorded."));
    assert!(shown.part("flame").contains("No profile was on"));
}

#[test]
fn a_page_of_a_real_profile_is_drawn() {
    alloc_global::start_sampling(4_096);
    let kept: Vec<Vec<u8>> = (0..5_000).map(|number| vec![1; number % 700 + 1]).collect();
    let report = Report::gather();
    alloc_global::stop_profiling();
    let page = report::html(&report, &DebugInfo).replace("</body>", READER);
    drop(kept);
    let Some(shown) = show("profile", &page) else { return };
    shown.assert_quiet();
    assert!(shown.document.contains("data-ready=\"yes\""));
    assert!(shown.number("flame", "data-items") > 1.0);
    assert!(shown.number("flame", "data-total") > 0.0);
    assert!(shown.part("flame").contains("a_page_of_a_real_profile_is_drawn"), "by its name");
    assert!(shown.number("requested", "data-items") >= 1.0);
    let arenas = report.heatmap.expect("arenas").arenas.len();
    assert_eq!(shown.number("heatmap", "data-items"), 64.0 * arenas as f64);
    assert_eq!(shown.number("rss-bar", "data-sum"), report.rss.expect("parts").resident as f64);
}

#[test]
fn names_that_are_markup_are_shown_as_they_are() {
    let mut report = example::report();
    let markup = "</script><img src=x onerror=alert(1)><script>throw 1</script>";
    report.program = format!("/usr/bin/{}", markup.replace('/', ""));
    report.snapshot.as_mut().expect("a snapshot").sites[0].region = markup.to_owned();
    let named = |addresses: &[u64]| {
        let frame = report::Frame { function: markup.to_owned(), ..Default::default() };
        vec![vec![frame]; addresses.len()]
    };
    let Some(shown) = show("markup", &report::html(&report, &named)) else { return };
    shown.assert_quiet();
    assert!(shown.document.contains("data-ready=\"yes\""));
    assert!(!shown.document.contains("<img"), "markup came to life");
}

#[test]
fn dhats_own_viewer_opens_dhats_format() {
    let Some(viewer) =
        VIEWERS.map(|f| Path::new(f).join("dh_view.js")).into_iter().find(|f| f.is_file())
    else {
        return say("SKIPPED dhat: no viewer of Valgrind here");
    };
    let open = |case: &str, dhat: &str| {
        let page = format!(
            "<!doctype html><meta charset=utf-8><script src=\"file://{}\"></script><body><script>
onLoad(); gData = {}; buildTree(); displayTree(0, 0, 0);
document.body.dataset.ready = \"yes\";
</script></body>",
            viewer.display(),
            dhat.replace('<', "\\u003c")
        );
        show(case, &page)
    };
    let dhat = report::dhat(&example::report(), &example::symbols);
    let Some(shown) = open("dhat", &dhat) else { return };
    shown.assert_quiet();
    assert!(shown.document.contains("data-ready=\"yes\""), "{}", shown.document);
    for part in [
        "server::cache::Entry::new (src/cache.rs:21:9)",
        "At t-end",
        "Allocated at {",
        "avg lifetime",
    ] {
        assert!(shown.document.contains(part), "{part}\n{}", shown.document);
    }
    // The viewer does refuse what the format forbids.
    let twice = dhat.replace("\"fs\":[", "\"fs\":[1],\"x\":[");
    let shown = open("dhat-twice", &twice).expect("the browser is there");
    assert!(
        shown.log.contains("repeated location") || shown.log.contains("assertion failed"),
        "{}",
        shown.log
    );
}

/// What a program prints, if it can be started and ends well; None, and a line that says so, where
/// there is none.
fn read_by(case: &str, program: &str, arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new(program).args(arguments).stdin(Stdio::null()).output() else {
        say(&format!("SKIPPED {case}: no {program} here"));
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[test]
fn gos_pprof_opens_pprofs_format() {
    let folder = Folder::new("pprof");
    let file = folder.0.join("heap.pb.gz");
    fs::write(&file, report::pprof(&example::report(), &example::symbols)).expect("the profile");
    let path = file.to_str().expect("a path in Unicode");
    for (metric, title) in
        [("inuse_space", "Type: inuse_space"), ("alloc_objects", "Type: alloc_objects")]
    {
        let index = format!("-sample_index={metric}");
        let arguments =
            ["tool", "pprof", "-top", "-nodecount=500", "-symbolize=none", &index, path];
        let Some(text) = read_by("pprof", "go", &arguments) else { return };
        for part in [title, "server::cache::Entry::new", "server::http::parse"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
    let raw = read_by("pprof", "go", &["tool", "pprof", "-raw", "-symbolize=none", path]);
    let raw = raw.expect("it was there a moment ago");
    let types = "alloc_objects/count alloc_space/bytes inuse_objects/count inuse_space/bytes";
    assert!(raw.contains(types), "{raw}");
}

#[test]
fn prometheus_own_client_reads_its_format() {
    if !Command::new("python3")
        .args(["-c", "import prometheus_client"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return say("SKIPPED prometheus: no python3 with prometheus_client here");
    }
    let folder = Folder::new("prometheus");
    let file = folder.0.join("metrics");
    let report = example::report();
    fs::write(&file, report::prometheus(&report)).expect("the metrics");
    let script = "
import sys
from prometheus_client.parser import text_string_to_metric_families as read
for family in read(open(sys.argv[1]).read()):
    assert family.documentation and family.type != 'unknown', family
    for sample in family.samples:
        print(sample.name, sample.labels.get('part', ''), sample.value)
";
    let path = file.to_str().expect("a path in Unicode");
    let read = read_by("prometheus", "python3", &["-c", script, path]).expect("python3 is there");
    let value = |name: &str| {
        let line = read.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse::<f64>().expect("a number")
    };
    assert_eq!(value("poolalloc_live_bytes  "), report.stats.live_bytes as f64, "{read}");
    let parts: f64 = read
        .lines()
        .filter(|line| line.starts_with("poolalloc_arena_bytes "))
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
        .sum();
    assert_eq!(parts, report.memory.mapped as f64, "{read}");
}
