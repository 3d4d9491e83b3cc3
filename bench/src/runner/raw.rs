//! Every run as JSON, for other programs. No unsafe here.
//!
//! Checksums are hexadecimal texts: many readers of JSON keep only 53 bits of a number.

use std::collections::BTreeMap;

use serde::Serialize;

use super::arguments::Arguments;
use super::machine::Facts;
use super::process::Sample;
use super::schedule::Runs;

#[derive(Serialize)]
struct Document<'a> {
    suite: &'a str,
    facts: BTreeMap<&'a str, &'a str>,
    quick: bool,
    seed: u64,
    runs: Vec<Record<'a>>,
    problems: &'a [String],
}

#[derive(Serialize)]
struct Record<'a> {
    workload: &'a str,
    kind: &'a str,
    unit: &'a str,
    contender: &'a str,
    round: usize,
    /// From the worker's start to its exit.
    process_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_blocks: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a BTreeMap<String, f64>>,
    resident: &'a [Sample],
}

/// The whole document.
pub(crate) fn render(
    arguments: &Arguments,
    facts: &Facts,
    runs: &Runs,
    problems: &[String],
) -> String {
    let mut records = Vec::new();
    for (load, row) in arguments.loads.iter().zip(runs) {
        for (contender, cell) in arguments.contenders.iter().zip(row) {
            for (round, run) in cell.iter().enumerate() {
                let report = run.outcome.as_ref().ok();
                records.push(Record {
                    workload: load.name,
                    kind: load.kind,
                    unit: load.unit,
                    contender: contender.name,
                    round: round + 1,
                    process_seconds: run.seconds,
                    problem: run.outcome.as_ref().err().map(String::as_str),
                    units: report.map(|report| report.units),
                    checksum: report.map(|report| format!("{:016x}", report.checksum)),
                    live_blocks: report.and_then(|report| report.live_blocks),
                    values: report.map(|report| &report.values),
                    resident: &run.resident,
                });
            }
        }
    }
    let document = Document {
        suite: arguments.suite.name,
        facts: facts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
        quick: arguments.quick,
        seed: arguments.seed,
        runs: records,
        problems,
    };
    serde_json::to_string(&document).expect("records are plain data")
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{Command, parse};
    use super::super::summary::tests::{failed, run};
    use super::*;

    #[test]
    fn every_run_is_in_the_document() {
        let Ok(Command::Run(mut arguments)) = parse(["--quick".into()]) else { panic!() };
        arguments.loads.truncate(1);
        arguments.contenders.truncate(2);
        let runs =
            vec![vec![vec![run(1.0, u64::MAX, None), run(2.0, 1, Some((3, 4)))], vec![failed()]]];
        let facts = vec![("date".to_owned(), "today".to_owned())];
        let text = render(&arguments, &facts, &runs, &["oh".to_owned()]);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["facts"]["date"], "today");
        assert_eq!(read["runs"].as_array().unwrap().len(), 3);
        assert_eq!(read["runs"][0]["checksum"], "ffffffffffffffff");
        assert_eq!(read["runs"][1]["live_blocks"], serde_json::json!([3, 4]));
        assert_eq!(read["runs"][1]["round"], 2);
        assert_eq!(read["runs"][2]["problem"], "signal 11");
        assert_eq!(read["problems"][0], "oh");
    }
}
