//! Text: regular expressions, and words counted and sorted. No unsafe here.

use std::collections::BTreeMap;

use regex::{Captures, Regex};

use crate::loads::text;
use crate::workload::{Outcome, Scale, fold, fold_bytes, measure};

/// What programs look for in text: words, numbers, dates, paths, quoted strings, code.
const PATTERNS: [&str; 18] = [
    r"\b\w+ing\b",
    r"(?i)\b(unicode|ascii|perl)\b",
    r"[0-9]+(?:\.[0-9]+)*",
    r"(\w+)::(\w+)(?:::(\w+))*",
    r"`([^`]+)`",
    r#""(?:[^"\\]|\\.)*""#,
    r"(?m)^\s*\* (.*)$",
    r"\[([^\]]+)\]\(([^)]+)\)",
    r"\b([A-Z][a-z]+){2,}\b",
    r"https?://[\w./#?=-]+",
    r"\b[a-z]{3,5}(?:\s+[a-z]{3,5}){2}\b",
    r"(?P<verb>match|parse|visit)(?:es|s|ed|ing)? (?P<object>\w+)",
    r"(?i)\b(?:e\.g\.|i\.e\.|etc\.)",
    r"(?s)```.*?```",
    r"\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{2,4}",
    r"#\[[a-z_]+(?:\([^)]*\))?\]",
    r"(?m)^#{1,6} .+$",
    r"\b(\w)\w*\b \b(\w)\w*\b",
];

/// The shipped patterns and generated ones: alternations of words of the text.
fn patterns(words: &[&str], rng: &mut fastrand::Rng) -> Vec<String> {
    let mut patterns: Vec<String> = PATTERNS.iter().map(|&pattern| pattern.to_owned()).collect();
    for count in [3, 10, 40] {
        let some: Vec<String> =
            (0..count).map(|_| regex::escape(words[rng.usize(..words.len())])).collect();
        patterns.push(format!(r"\b(?:{})\b", some.join("|")));
        patterns.push(format!(r"(?i)(?:{})+\s*(\w{{2,8}})", some.join("|")));
    }
    patterns
}

/// Compiles patterns and runs each over the text: finds, captures, replaces, splits.
pub(crate) fn regular_expressions(scale: &Scale) -> Outcome {
    let prose = text::prose();
    let prose: String = prose.chars().take(20_000).collect();
    let words: Vec<&str> = prose.split_whitespace().filter(|word| word.len() > 3).collect();
    let patterns = patterns(&words, &mut scale.rng(0));
    let rounds = scale.of(66);
    measure(|| {
        let mut sum = 0;
        for _ in 0..rounds {
            for pattern in &patterns {
                let regex = Regex::new(pattern).expect("the patterns are valid");
                sum = run(&regex, &prose, sum);
            }
        }
        (rounds * patterns.len() as u64, sum)
    })
}

fn run(regex: &Regex, prose: &str, sum: u64) -> u64 {
    let mut sum = regex.find_iter(prose).map(|found| found.start() as u64).fold(sum, fold);
    for captures in regex.captures_iter(prose).take(200) {
        let groups: Vec<String> =
            captures.iter().flatten().map(|group| group.as_str().to_owned()).collect();
        sum = groups.iter().fold(sum, |sum, group| fold(sum, group.len() as u64));
    }
    let replaced =
        regex.replace_all(prose, |captures: &Captures<'_>| format!("<{}>", captures[0].len()));
    let pieces: Vec<String> = regex.split(prose).map(str::to_owned).collect();
    fold_bytes(fold(sum, pieces.len() as u64), &replaced.as_bytes()[replaced.len() / 2..])
}

/// Counts the words of a text in a map of owned strings, with their places.
pub(crate) fn word_count(scale: &Scale) -> Outcome {
    let prose = text::prose();
    let rounds = scale.of(480);
    measure(|| {
        let (mut units, mut sum) = (0, 0);
        for _ in 0..rounds {
            let mut places: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            for (number, line) in prose.lines().enumerate() {
                for word in line.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
                    places.entry(word.to_lowercase()).or_default().push(number as u32);
                    units += 1;
                }
            }
            let mut counts: Vec<(usize, String)> =
                places.into_iter().map(|(word, lines)| (lines.len(), word)).collect();
            counts.sort_by(|a, b| b.cmp(a));
            for (count, word) in counts.iter().take(100) {
                sum = fold_bytes(fold(sum, *count as u64), word.as_bytes());
            }
        }
        (units, sum)
    })
}

/// Sorts lines and words as owned strings, by text and by made-up keys, and removes doubles.
pub(crate) fn sort_strings(scale: &Scale) -> Outcome {
    let prose = text::prose();
    let rounds = scale.of(160);
    let mut rng = scale.rng(0);
    measure(|| {
        let (mut units, mut sum) = (0, 0);
        for _ in 0..rounds {
            let mut words: Vec<String> = prose.split_whitespace().map(str::to_owned).collect();
            rng.shuffle(&mut words);
            units += words.len() as u64;
            words.sort();
            let mut pairs: Vec<String> =
                words.windows(2).map(|pair| format!("{} {}", pair[1], pair[0])).collect();
            pairs.sort_by_cached_key(|pair| pair.chars().rev().collect::<String>());
            pairs.dedup();
            sum = pairs.iter().step_by(97).fold(sum, |sum, p| fold_bytes(sum, p.as_bytes()));
        }
        (units, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_pattern_is_valid_and_most_are_found() {
        let prose = text::prose();
        let found = PATTERNS.iter().filter(|p| Regex::new(p).expect("valid").is_match(&prose));
        assert!(found.count() >= 15);
    }
}
