//! In which order things run, and what is kept of each. No unsafe here.
//!
//! A round is every workload on every contender, contenders in turn, so that what disturbs the
//! machine for a while disturbs neighbours alike; and there and back (A B C, C B A, ..), so that
//! none always comes after the same one: memory that one has given back is cheaper for the next. A
//! cell that failed is not run again.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{Arguments, Rounds};
use super::build::Workers;
use super::process::{self, Run};

/// Every run: by workload, then contender, then round.
pub(crate) type Runs = Vec<Vec<Vec<Run>>>;

/// Runs everything, telling on stderr how far it is. Workers do not get the variables `left_out`.
pub(crate) fn measure(arguments: &Arguments, workers: &Workers, left_out: &[OsString]) -> Runs {
    let (loads, contenders) = (&arguments.loads, &arguments.contenders);
    let mut runs: Runs = vec![vec![Vec::new(); contenders.len()]; loads.len()];
    let mut progress = Progress::new(most(arguments.rounds), loads.len() * contenders.len());
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    let mut round = 0;
    while another(arguments.rounds, round, start.elapsed(), longest) {
        let round_start = Instant::now();
        round += 1;
        for (load, row) in loads.iter().zip(&mut runs) {
            for at in turn(round, contenders.len()) {
                let (Some(contender), Some(cell)) = (contenders.get(at), row.get_mut(at)) else {
                    continue;
                };
                if contender.lacks.contains(&load.name)
                    || cell.iter().any(|run| run.outcome.is_err())
                {
                    progress.skip();
                    continue;
                }
                progress.begin(round, load.name, contender.name);
                let command = process::command(
                    &workers[contender.binary],
                    load.name,
                    arguments.quick,
                    arguments.seed,
                    left_out,
                    contender.environment,
                );
                let run = process::run(command, arguments.timeout);
                progress.end(&run);
                cell.push(run);
            }
        }
        longest = longest.max(round_start.elapsed());
    }
    progress.finish();
    runs
}

/// The order of `count` contenders in a round: back in every second one.
fn turn(round: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| if round.is_multiple_of(2) { count - 1 - at } else { at })
}

fn most(rounds: Rounds) -> u32 {
    match rounds {
        Rounds::Exactly(count) => count,
        Rounds::Within { most, .. } => most,
    }
}

/// Whether to begin another round after `done` of them, the longest of which took `longest`.
fn another(rounds: Rounds, done: u32, elapsed: Duration, longest: Duration) -> bool {
    match rounds {
        Rounds::Exactly(count) => done < count,
        Rounds::Within { least, most, budget } => {
            done < least || (done < most && elapsed + longest <= budget)
        }
    }
}

/// A bar on a terminal, a line per run elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    done: usize,
    total: usize,
    now: String,
}

impl Progress {
    fn new(rounds: u32, runs_per_round: usize) -> Progress {
        let total = rounds as usize * runs_per_round;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = "{bar:32} {pos}/{len}  {elapsed}, {eta} left  {wide_msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a fixed template"));
            bar
        });
        Progress { bar, done: 0, total, now: String::new() }
    }

    fn begin(&mut self, round: u32, load: &str, contender: &str) {
        self.now = format!("round {round}: {load} on {contender}");
        if let Some(bar) = &self.bar {
            bar.set_message(self.now.clone());
        }
    }

    fn end(&mut self, run: &Run) {
        self.skip();
        let problem = run.outcome.as_ref().err();
        let line = match problem {
            Some(problem) => format!("{}: {problem}", self.now),
            None => format!("{} {:.2} s", self.now, run.seconds),
        };
        match (&self.bar, problem) {
            (Some(bar), Some(_)) => bar.println(line),
            (Some(_), None) => {}
            (None, _) => eprintln!("[{}/{}] {line}", self.done, self.total),
        }
    }

    fn skip(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const QUICK: Rounds = Rounds::Within { least: 2, most: 3, budget: Duration::from_secs(110) };

    #[test]
    fn exactly_as_many_rounds_as_asked_for_are_run() {
        let rounds = Rounds::Exactly(3);
        assert!(another(rounds, 0, Duration::ZERO, Duration::ZERO));
        assert!(another(rounds, 2, SECOND * 9999, SECOND * 4000));
        assert!(!another(rounds, 3, SECOND, SECOND));
    }

    #[test]
    fn contenders_take_turns_there_and_back() {
        let rounds = (1..=3).map(|round| turn(round, 3).collect::<Vec<_>>());
        assert!(rounds.eq([vec![0, 1, 2], vec![2, 1, 0], vec![0, 1, 2]]));
    }

    #[test]
    fn a_budget_ends_the_rounds_between_least_and_most() {
        assert!(another(QUICK, 1, SECOND * 100, SECOND * 100));
        assert!(another(QUICK, 2, SECOND * 70, SECOND * 36));
        assert!(!another(QUICK, 2, SECOND * 74, SECOND * 37));
        assert!(!another(QUICK, 3, SECOND * 3, SECOND));
    }
}
