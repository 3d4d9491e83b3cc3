//! One run of one worker: started, watched, ended in time, its words read. No unsafe here.
//!
//! Resident memory is read from outside, every few milliseconds, so that the worker needs no
//! thread of its own for it. The worker gets no input and shares nothing with the runner.

use std::fs::File;
use std::io::{BufReader, Read};
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

/// The command that runs a workload.
pub(crate) fn command(
    worker: &Path,
    load: &str,
    quick: bool,
    seed: u64,
    environment: &[(&str, &str)],
) -> Command {
    let mut command = Command::new(worker);
    command.arg(load).args(["--seed", &seed.to_string()]);
    if quick {
        command.arg("--quick");
    }
    command.envs(environment.iter().copied());
    command
}

#[cfg(test)]
mod tests {
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
