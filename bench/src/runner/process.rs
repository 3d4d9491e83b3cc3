//! One run of one worker: started, watched, ended in time, its words read. No unsafe here.
//!
//! Resident memory is read from outside, every few milliseconds, so that the worker needs no
//! thread of its own for it. The worker gets no input and shares nothing with the runner; of the
//! environment it gets what sets no allocator.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bench::worker::Report;
use serde::Serialize;

/// How often the worker is looked at.
const TICK: Duration = Duration::from_millis(4);

/// Readings kept at most; past that every second one is dropped and half as many are taken.
const SAMPLES: usize = 400;

/// What is kept of what a worker writes to stdout or stderr.
const WORDS: u64 = 1 << 20;

/// How the variables begin that an allocator or a worker reads. Set by the user, for another
/// program maybe, they would change one contender and not its neighbours.
const SETTINGS: [&str; 9] = [
    "BENCH_",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "MIMALLOC_",
    "POOLALLOC_",
    "RPMALLOC_",
    "SNMALLOC_",
    "TCMALLOC_",
    "_RJEM_MALLOC_CONF",
];

/// One run of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// From start to exit, seconds.
    pub seconds: f64,
    pub outcome: Result<Report, String>,
    pub resident: Vec<Sample>,
}

/// Resident memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Since the start of the worker.
    pub seconds: f64,
    pub bytes: f64,
}

/// Runs `command` to its end, at most for `limit`.
pub(crate) fn run(mut command: Command, limit: Duration) -> Run {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |problem: String| Run {
        seconds: start.elapsed().as_secs_f64(),
        outcome: Err(problem),
        resident: Vec::new(),
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(problem) => return failed(format!("did not start: {problem}")),
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = thread::spawn(move || words(out));
    let err = thread::spawn(move || words(err));
    let mut curve = Curve::new(child.id());
    let ended = watch(&mut child, &mut curve, start, limit);
    let seconds = start.elapsed().as_secs_f64();
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let outcome = ended.and_then(|status| judge(status, &out, &err));
    Run { seconds, outcome, resident: curve.samples }
}

/// Waits for the child, sampling; ends it at the limit.
fn watch(
    child: &mut Child,
    curve: &mut Curve,
    start: Instant,
    limit: Duration,
) -> Result<ExitStatus, String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(problem) => return Err(format!("lost: {problem}")),
        }
        let elapsed = start.elapsed();
        if elapsed > limit {
            // It may have ended just now; then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("ended after {} s without a result", limit.as_secs()));
        }
        curve.look(elapsed);
        thread::sleep(TICK);
    }
}

fn judge(status: ExitStatus, out: &str, err: &str) -> Result<Report, String> {
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        // A panic's first line says where, its second what.
        let words: Vec<&str> = err.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        return Err([&[how.as_str()], &words[..words.len().min(3)]].concat().join(": "));
    }
    let line = out.lines().last().unwrap_or_default();
    let report: Report =
        serde_json::from_str(line).map_err(|problem| format!("no report: {problem}"))?;
    if report.units == 0 { Err("did nothing".to_owned()) } else { Ok(report) }
}

fn words(pipe: Option<impl Read>) -> String {
    let mut kept = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = BufReader::new(pipe);
        // A pipe that breaks ends the words; the exit status tells why.
        let _ = pipe.by_ref().take(WORDS).read_to_end(&mut kept);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Resident memory over time, thinned as it grows.
struct Curve {
    statm: Option<File>,
    page: f64,
    samples: Vec<Sample>,
    /// A sample is taken at every `stride`-th look.
    stride: usize,
    looks: usize,
}

impl Curve {
    fn new(process: u32) -> Curve {
        let statm = File::open(format!("/proc/{process}/statm")).ok();
        let samples = Vec::with_capacity(SAMPLES);
        Curve { statm, page: page_size(), samples, stride: 1, looks: 0 }
    }

    fn look(&mut self, elapsed: Duration) {
        self.looks += 1;
        if !self.looks.is_multiple_of(self.stride) {
            return;
        }
        let mut line = [0; 128];
        let read = self.statm.as_ref().and_then(|file| file.read_at(&mut line, 0).ok());
        let text = std::str::from_utf8(&line[..read.unwrap_or(0)]).unwrap_or_default();
        let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
        // A process that has ended, but is not yet waited for, holds no pages.
        if let Some(pages) = pages.filter(|&pages| pages > 0.0) {
            self.push(Sample { seconds: elapsed.as_secs_f64(), bytes: pages * self.page });
        }
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
        self.samples.push(sample);
    }
}

/// Bytes per page: entry 6 of the auxiliary vector, pairs of words that the kernel gives a process.
fn page_size() -> f64 {
    const AT_PAGESZ: usize = 6;
    const WORD: usize = size_of::<usize>();
    let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let words: Vec<usize> =
        vector.as_chunks::<WORD>().0.iter().copied().map(usize::from_ne_bytes).collect();
    let found = words.as_chunks::<2>().0.iter().find(|pair| pair[0] == AT_PAGESZ);
    found.map_or(4096.0, |pair| pair[1] as f64)
}

/// Those of `names` that set an allocator or a worker, in order: what workers do not inherit.
pub(crate) fn settings(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let begins = |name: &OsString, with: &str| {
        let start = name.as_bytes().get(..with.len());
        // mimalloc does not ask for capitals.
        start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    let mut found: Vec<OsString> =
        names.filter(|name| SETTINGS.iter().any(|with| begins(name, with))).collect();
    found.sort();
    found
}

/// The command that runs a workload, with the runner's environment but `left_out`.
pub(crate) fn command(
    worker: &Path,
    load: &str,
    quick: bool,
    seed: u64,
    left_out: &[OsString],
    environment: &[(&str, &str)],
) -> Command {
    let mut command = Command::new(worker);
    command.arg(load).args(["--seed", &seed.to_string()]);
    if quick {
        command.arg("--quick");
    }
    for name in left_out {
        command.env_remove(name);
    }
    // After that: what a contender is given may bear a name that was left out.
    command.envs(environment.iter().copied());
    command
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::*;

    fn shell(script: &str, limit: Duration) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit)
    }

    const REPORT: &str =
        r#"echo '{"units":2,"checksum":3,"live_blocks":null,"values":{"seconds":0.5}}'"#;
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_report_is_read_from_the_last_line() {
        let run = shell(&format!("echo first; {REPORT}"), LONG);
        let report = run.outcome.unwrap();
        assert_eq!((report.units, report.checksum, report.live_blocks), (2, 3, None));
    }

    #[test]
    fn memory_is_sampled_while_a_worker_runs() {
        let run = shell(&format!("sleep 0.1; {REPORT}"), LONG);
        assert!(run.outcome.is_ok());
        assert!(!run.resident.is_empty());
        assert!(run.resident.iter().all(|sample| sample.bytes >= 4096.0));
        assert!(run.resident.is_sorted_by(|a, b| a.seconds < b.seconds));
    }

    #[test]
    fn failures_say_how_and_what() {
        let problem = shell("echo oh dear >&2; exit 3", LONG).outcome.unwrap_err();
        assert_eq!(problem, "exit code 3: oh dear");
        let problem = shell("kill -SEGV $$", LONG).outcome.unwrap_err();
        assert_eq!(problem, "signal 11");
        let problem = shell("echo nonsense", LONG).outcome.unwrap_err();
        assert!(problem.starts_with("no report"), "{problem}");
        let problem = run(Command::new("/nonexistent/worker"), LONG).outcome.unwrap_err();
        assert!(problem.starts_with("did not start"), "{problem}");
    }

    #[test]
    fn variables_that_set_an_allocator_or_a_worker_are_found() {
        let found = settings(
            [
                "POOLALLOC_TRACE",
                "PATH",
                "MALLOC_ARENA_MAX",
                "MALLOC_CONF",
                "_RJEM_MALLOC_CONF",
                "GLIBC_TUNABLES",
                "BENCH_LATENCY",
                "mimalloc_verbose",
                "TCMALLOC_HPAA_CONTROL",
                "SNMALLOC_A",
                "RPMALLOC_A",
                "MY_MALLOC_A",
                "BENCH",
                "HOME",
            ]
            .map(OsString::from)
            .into_iter(),
        );
        let expected = [
            "BENCH_LATENCY",
            "GLIBC_TUNABLES",
            "MALLOC_ARENA_MAX",
            "MALLOC_CONF",
            "POOLALLOC_TRACE",
            "RPMALLOC_A",
            "SNMALLOC_A",
            "TCMALLOC_HPAA_CONTROL",
            "_RJEM_MALLOC_CONF",
            "mimalloc_verbose",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_worker_gets_its_own_settings_and_not_those_of_the_user() {
        let left_out = ["GLIBC_TUNABLES", "POOLALLOC_TRACE"].map(OsString::from);
        let own = [("GLIBC_TUNABLES", "a=0"), ("BENCH_COLLECTOR", "gc")];
        let command = command(Path::new("worker"), "pair", false, 1, &left_out, &own);
        let given: Vec<_> = command.get_envs().collect();
        let text = |text: &'static str| std::ffi::OsStr::new(text);
        let expected = [
            (text("BENCH_COLLECTOR"), Some(text("gc"))),
            (text("GLIBC_TUNABLES"), Some(text("a=0"))),
            (text("POOLALLOC_TRACE"), None),
        ];
        assert_eq!(given, expected);
    }

    #[test]
    fn what_a_contender_is_given_is_left_out_where_the_user_set_it() {
        let contenders = SUITES.iter().flat_map(|suite| suite.contenders);
        for (name, _) in contenders.flat_map(|contender| contender.environment) {
            assert_eq!(settings([OsString::from(name)].into_iter()), [*name]);
        }
    }

    #[test]
    fn a_worker_past_its_limit_is_ended() {
        let run = shell("exec sleep 1000", Duration::from_millis(50));
        assert!(run.outcome.unwrap_err().contains("without a result"));
    }

    #[test]
    fn much_output_on_stderr_does_not_block_a_worker() {
        let script = format!("head -c 3000000 /dev/zero >&2; {REPORT}");
        assert!(shell(&script, LONG).outcome.is_ok());
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_ends() {
        let mut curve = Curve::new(std::process::id());
        for tick in 0..10_000_u32 {
            curve.looks += 1;
            if curve.looks.is_multiple_of(curve.stride) {
                curve.push(Sample { seconds: f64::from(tick), bytes: 1.0 });
            }
        }
        assert!(curve.samples.len() <= SAMPLES && curve.samples.len() >= SAMPLES / 4);
        assert_eq!(curve.samples[0].seconds, 0.0);
        assert!(curve.samples.last().unwrap().seconds > 9_000.0);
    }

    #[test]
    fn a_page_is_a_power_of_two_of_bytes() {
        let page = page_size() as usize;
        assert!(page.is_power_of_two() && page >= 4096);
    }
}
