//! Builds the workers with cargo and finds their binaries. No unsafe here.
//!
//! One cargo run per feature: the workers of the default build are then the same files whether or
//! not peers take part.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::suite::Contender;

/// The workers' binaries by name.
pub(crate) type Workers = HashMap<String, PathBuf>;

/// Builds the workers of these contenders with this cargo profile, and what the compiler is told
/// beside it; cargo's own words go to stderr.
pub(crate) fn build(
    contenders: &[&Contender],
    profile: &str,
    rustflags: &str,
) -> Result<Workers, String> {
    let mut workers = Workers::new();
    for (feature, binaries) in groups(contenders) {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments(profile, feature, &binaries));
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        if !rustflags.is_empty() {
            let own = std::env::var("RUSTFLAGS").unwrap_or_default();
            command.env("RUSTFLAGS", format!("{own} {rustflags}").trim());
        }
        let output = command.output().map_err(|problem| format!("cargo: {problem}"))?;
        if !output.status.success() {
            return Err(format!("cargo could not build {}", binaries.join(", ")));
        }
        workers.extend(executables(&String::from_utf8_lossy(&output.stdout)));
    }
    for contender in contenders {
        if !workers.contains_key(contender.binary) {
            return Err(format!("cargo built no {}", contender.binary));
        }
    }
    Ok(workers)
}

/// Binaries by the feature they are built with, in the contenders' order.
fn groups(contenders: &[&Contender]) -> Vec<(Option<&'static str>, Vec<&'static str>)> {
    let mut groups: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for contender in contenders {
        let feature = contender.feature();
        match groups.iter_mut().find(|group| group.0 == feature) {
            // Several contenders may share a worker.
            Some(group) if group.1.contains(&contender.binary) => {}
            Some(group) => group.1.push(contender.binary),
            None => groups.push((feature, vec![contender.binary])),
        }
    }
    groups
}

fn arguments(profile: &str, feature: Option<&str>, binaries: &[&str]) -> Vec<OsString> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut arguments: Vec<OsString> = vec!["build".into(), "--manifest-path".into()];
    arguments.push(manifest.into_os_string());
    arguments.push("--message-format=json-render-diagnostics".into());
    arguments.extend(["--profile".into(), profile.into()]);
    if let Some(feature) = feature {
        arguments.extend(["--features".into(), feature.into()]);
    }
    for binary in binaries {
        arguments.extend(["--bin".into(), (*binary).into()]);
    }
    arguments
}

/// Name and path of every binary that cargo's messages name.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        let path = message["executable"].as_str()?;
        Some((name, PathBuf::from(path)))
    };
    messages.lines().filter_map(executable).collect()
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::*;

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
             not json\n\
             {\"target\":{\"name\":\"worker-pool\"},\"executable\":\"/t/release/worker-pool\"}\n";
        let found = executables(messages);
        assert_eq!(found, [("worker-pool".to_owned(), PathBuf::from("/t/release/worker-pool"))]);
    }

    #[test]
    fn each_feature_is_one_build() {
        let all: Vec<&Contender> = SUITES[0].contenders.iter().collect();
        let groups = groups(&all);
        let features: Vec<_> = groups.iter().map(|group| group.0).collect();
        assert_eq!(
            features,
            [None, Some("alloc-peers"), Some("peer-mimalloc2"), Some("peer-gperftools")]
        );
        assert_eq!(groups[0].1, ["worker-system", "worker-pool"]);
        assert_eq!(groups.iter().map(|group| group.1.len()).sum::<usize>(), all.len());
        let all: Vec<&Contender> = SUITES[1].contenders.iter().collect();
        let expected = [(None, vec!["worker-gc"]), (Some("gc-peers"), vec!["worker-gc-peers"])];
        assert_eq!(super::groups(&all), expected);
    }

    #[test]
    fn cargo_is_told_profile_feature_and_binaries() {
        let words = arguments("lto-off", Some("peers"), &["worker-a", "worker-b"]);
        let line: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let line = line.join(" ");
        assert!(line.contains("--profile lto-off --features peers --bin worker-a --bin worker-b"));
    }
}
