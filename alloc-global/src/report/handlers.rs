//! What a program's own HTTP server answers: `(content type, bytes)`.
//!
//! | path | function | read by |
//! |---|---|---|
//! | `/debug/pprof/heap` | [`heap`] | `go tool pprof`, Pyroscope, Alloy, Parca |
//! | `/debug/pprof/allocs` | [`allocs`] | the same |
//! | `/debug/pprof/symbol` | [`symbol`] | `go tool pprof`, for names that it does not find by itself |
//! | `/metrics` | [`metrics`] | Prometheus |
//! | `/report` | [`report`](fn@report) | a browser |
//!
//! The paths are those that scrapers look for by default. Reports name functions, files and threads
//! of the program: serve them on the loopback interface or behind something that asks who is
//! calling.
//!
//! What it does not do: listen. No unsafe here.

use crate::untracked;

use super::frame::Symbols;
use super::model::Report;
use super::{html, pprof, prometheus};

/// A content type and the bytes that go with it.
pub type Answer = (&'static str, Vec<u8>);

/// The profile in pprof's format, live bytes first.
pub fn heap(report: &Report, symbols: &dyn Symbols) -> Answer {
    ("application/octet-stream", pprof::profile(report, symbols, "inuse_space"))
}

/// The profile in pprof's format, allocated bytes first.
pub fn allocs(report: &Report, symbols: &dyn Symbols) -> Answer {
    ("application/octet-stream", pprof::profile(report, symbols, "alloc_space"))
}

/// The names of addresses, for a `POST` whose body has them in hexadecimal, joined by `+`: a line for
/// each that has one. What answers a `GET`, with an empty body, is that there are names.
///
/// `go tool pprof` asks so for what a profile without names has, and it has not found in the
/// program's file; it gives up where nobody answers. Costs what `symbols` do.
///
/// ```
/// use alloc_global::report::{NoSymbols, handlers};
///
/// assert_eq!(handlers::symbol("", &NoSymbols).1, b"num_symbols: 1\n");
/// ```
pub fn symbol(body: &str, symbols: &dyn Symbols) -> Answer {
    untracked(|| {
        let digits = |word: &str| word.trim().trim_start_matches("0x").to_owned();
        let words = body.split('+').map(digits);
        let addresses: Vec<u64> =
            words.filter_map(|word| u64::from_str_radix(&word, 16).ok()).collect();
        let mut text = "num_symbols: 1\n".to_owned();
        for (address, frames) in addresses.iter().zip(symbols.resolve(&addresses)) {
            // The last is the function, those before it are inlined there; pprof has room for one.
            if let Some(frame) = frames.last() {
                let name = frame.function.replace(char::is_control, "?");
                text.push_str(&format!("{address:#x} {name}\n"));
            }
        }
        ("text/plain; charset=utf-8", text.into_bytes())
    })
}

/// The numbers in Prometheus' text format.
pub fn metrics(report: &Report) -> Answer {
    (prometheus::CONTENT_TYPE, prometheus::prometheus(report).into_bytes())
}

/// The page.
pub fn report(report: &Report, symbols: &dyn Symbols) -> Answer {
    (html::CONTENT_TYPE, html::html(report, symbols).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Frame;

    #[test]
    fn addresses_are_named_one_by_one() {
        let names = |addresses: &[u64]| {
            let frame = |address: &u64| match address {
                0x10 => vec!["inner\n", "outer"],
                0x20 => vec!["other"],
                _ => Vec::new(),
            };
            let named = |name: &str| Frame { function: name.to_owned(), ..Frame::default() };
            addresses.iter().map(|at| frame(at).into_iter().map(named).collect()).collect()
        };
        let answer = |body: &str| String::from_utf8(symbol(body, &names).1).expect("text");
        assert_eq!(answer("0x10+0x20+0x30"), "num_symbols: 1\n0x10 outer\n0x20 other\n");
        assert_eq!(answer("20\n"), "num_symbols: 1\n0x20 other\n");
        assert_eq!(answer("no+number++0x"), "num_symbols: 1\n");
    }
}
