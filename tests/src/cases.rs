//! Test functions that each run in a process of their own.
//!
//! A test binary with `harness = false` hands its table to [`main`]. The parent starts itself once
//! per case, with `--case NAME`, nothing on standard input, and a limit of seconds; it compares how
//! the child ended with what the table says: by itself with code 0, or by exactly this signal after
//! exactly this first line on standard error. A case that dies of another cause, or says something
//! else, fails.
//!
//! The names of cases can be filtered as with any test binary (`cargo test --test fork -- forks`);
//! `--list` and `--exact` are understood, so that other runners can start one case at a time.
//!
//! What it does not do: run two cases at once, unless the binary asks for it. Most of them use
//! every processor. No unsafe here.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One case of a binary.
#[derive(Debug)]
pub struct Case {
    name: &'static str,
    body: fn(),
    limit: Duration,
    end: End,
}

/// How a case must end.
#[derive(Debug)]
enum End {
    Well,
    /// By `signal`, with this first line on standard error.
    Dies {
        signal: i32,
        line: &'static str,
    },
    /// Not before its time is up.
    Hangs,
}

/// What a case's process left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended; None if it was killed when its time was up.
    pub status: Option<ExitStatus>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Case {
    /// A case that must return within a minute and a half.
    pub const fn new(name: &'static str, body: fn()) -> Case {
        Case { name, body, limit: Duration::from_secs(90), end: End::Well }
    }

    /// Another limit, for a case that is expected to take long on a slow machine.
    pub const fn within(mut self, seconds: u64) -> Case {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// The case must die of `signal`, and the first line it prints on standard error must be `line`, in
    /// which `0x*` stands for any address.
    pub const fn dies(mut self, signal: i32, line: &'static str) -> Case {
        self.end = End::Dies { signal, line };
        self
    }

    /// The case must still be running when its time is up.
    pub const fn hangs(mut self) -> Case {
        self.end = End::Hangs;
        self
    }

    /// None if `output` is what the case must come to, else the reason.
    pub fn verdict(&self, output: &Output) -> Option<String> {
        let Some(status) = output.status else {
            let expected = matches!(self.end, End::Hangs);
            return (!expected).then(|| format!("still ran after {} s", self.limit.as_secs()));
        };
        match self.end {
            End::Hangs => Some(format!("ended with {status}")),
            End::Well if status.success() => None,
            End::Well => Some(format!("ended with {status}")),
            End::Dies { signal, .. } if status.signal() != Some(signal) => {
                Some(format!("ended with {status}, not with signal {signal}"))
            }
            End::Dies { line, .. } => {
                let first = without_addresses(output.stderr.lines().next().unwrap_or(""));
                (first != line).then(|| format!("said {first:?}, not {line:?}"))
            }
        }
    }

    /// Runs the case in a process of its own.
    ///
    /// # Panics
    /// If this binary cannot be started.
    pub fn run(&self) -> Output {
        run_self(&["--case", self.name], &[], self.limit)
    }
}

/// Runs `body` of a case in a process with this setting in its environment: in this one, if it has it.
///
/// # Panics
/// If that process does not end well, or says anything on standard error: the setting was not understood.
pub fn with_setting(case: &str, name: &str, value: &str, body: fn()) {
    if std::env::var(name).is_ok_and(|now| now == value) {
        return body();
    }
    let output = run_self(&["--case", case], &[(name, value)], Duration::from_secs(80));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    assert_eq!(output.stderr, "");
}

/// Starts this binary again with `args` and `envs` and waits for its end, for `limit` at most.
///
/// # Panics
/// If this binary cannot be started.
pub fn run_self(args: &[&str], envs: &[(&str, &str)], limit: Duration) -> Output {
    let exe = std::env::current_exe().expect("the path of this binary");
    let mut child = Command::new(exe)
        .args(args)
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("this binary can be started");
    let group = libc::pid_t::try_from(child.id()).expect("process numbers fit");
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child can be waited for") {
            Some(status) => break Some(status),
            None if start.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
            None => {
                // The whole group: grandchildren hold the pipes open too.
                crate::process::kill_group(group);
                child.wait().expect("the child can be waited for");
                break None;
            }
        }
    };
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("the reader ends");
    Output { status, stdout: text(stdout), stderr: text(stderr) }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What the command line asks for.
#[derive(Default)]
struct Request {
    case: Option<String>,
    list: bool,
    exact: bool,
    filters: Vec<String>,
    skip: Vec<String>,
}

impl Request {
    /// Reads the options; those that only matter to the standard harness are passed over.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Request, String> {
        let mut request = Request::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--case" => request.case = args.next(),
                "--list" => request.list = true,
                "--exact" => request.exact = true,
                "--skip" => request.skip.extend(args.next()),
                "--nocapture" | "--no-capture" | "--show-output" | "--quiet" | "-q" | "--test"
                | "--include-ignored" | "--ignored" => {}
                "--format" | "--color" | "--test-threads" | "--logfile" => drop(args.next()),
                _ if arg.starts_with("--format=")
                    || arg.starts_with("--color=")
                    || arg.starts_with("--test-threads=") => {}
                _ if arg.starts_with('-') => return Err(arg),
                _ => request.filters.push(arg),
            }
        }
        Ok(request)
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| match self.exact {
            true => name == filter,
            false => name.contains(filter.as_str()),
        };
        (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skip.iter().any(matches)
    }
}

/// The `main` of a binary of cases.
pub fn main(cases: &[Case]) -> ExitCode {
    main_with(cases, 1, |_, _| ())
}

/// As [`main`], with `jobs` cases at a time, and `explain` called with the name and output of each
/// case that fails.
pub fn main_with(cases: &[Case], jobs: usize, explain: fn(&str, &Output)) -> ExitCode {
    let request = match Request::parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(option) => {
            eprintln!("unknown option {option}\nusage: [--list] [--exact] [--skip NAME] [NAME]...");
            return ExitCode::from(2);
        }
    };
    if let Some(name) = &request.case {
        let Some(case) = cases.iter().find(|case| case.name == name) else {
            eprintln!("no case {name}");
            return ExitCode::from(2);
        };
        (case.body)();
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&Case> = cases.iter().filter(|case| request.wants(case.name)).collect();
    if request.list {
        for case in wanted {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} cases, each in its own process", wanted.len());
    let mut failed = 0;
    for group in wanted.chunks(jobs.max(1)) {
        let start = Instant::now();
        let outputs = thread::scope(|scope| {
            let runs: Vec<_> = group.iter().map(|case| scope.spawn(|| case.run())).collect();
            let joined = runs.into_iter().map(|run| run.join().expect("a runner ends"));
            joined.collect::<Vec<_>>()
        });
        for (case, output) in group.iter().zip(&outputs) {
            let verdict = case.verdict(output);
            let word = if verdict.is_none() { "ok" } else { "FAILED" };
            println!("case {} ... {word} ({:.2} s)", case.name, start.elapsed().as_secs_f64());
            if let Some(reason) = verdict {
                failed += 1;
                println!("  {reason}\n{}{}", indented(&output.stdout), indented(&output.stderr));
                explain(case.name, output);
            }
        }
        // A reader of a pipe may be gone; the exit code still tells.
        let _ = std::io::stdout().flush();
    }
    println!("\ncases: {} passed; {failed} failed\n", wanted.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// `line` with every address written as `0x*`.
fn without_addresses(line: &str) -> String {
    let mut parts = line.split("0x");
    let mut result = parts.next().unwrap_or("").to_owned();
    for part in parts {
        result.push_str("0x*");
        result.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    result
}

/// The last lines of `text`, set in.
fn indented(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("  | {line}\n")).collect()
}
