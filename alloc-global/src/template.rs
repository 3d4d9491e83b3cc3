//! Paths with places for what is known only when a file is made: one reading of them for reports
//! and statistics.
//!
//! | in the template | stands for |
//! |---|---|
//! | `%p` | the process |
//! | `%t` | seconds since 1970 |
//! | `%e` | the program: the last part of its file's path |
//! | `%%` | a percent sign |
//!
//! Anything else stays as it is. Over bytes, since paths need not be Unicode; it allocates nothing.
//! No unsafe here.

/// What the places stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) process: u64,
    pub(crate) seconds: u64,
    pub(crate) program: &'a [u8],
}

/// Hands the parts of the path to `push`, in order; `None` as soon as that answers `None`. Says
/// whether the process is in it.
pub(crate) fn expand(
    template: &[u8],
    known: Known<'_>,
    mut push: impl FnMut(&[u8]) -> Option<()>,
) -> Option<bool> {
    let mut names_process = false;
    let mut rest = template;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let (before, place) = rest.split_at_checked(at)?;
        push(before)?;
        let mut used = 2;
        match place.get(1) {
            Some(b'p') => {
                names_process = true;
                push_number(known.process, &mut push)?;
            }
            Some(b't') => push_number(known.seconds, &mut push)?,
            Some(b'e') => push(known.program)?,
            Some(b'%') => push(b"%")?,
            _ => {
                push(b"%")?;
                used = 1;
            }
        }
        rest = place.get(used..).unwrap_or_default();
    }
    push(rest)?;
    Some(names_process)
}

/// Whether the process is in paths of this template: another process writes another file.
#[cfg(feature = "report")]
pub(crate) fn names_process(template: &[u8]) -> bool {
    let nothing = Known { process: 0, seconds: 0, program: b"" };
    expand(template, nothing, |_| Some(())).unwrap_or(false)
}

fn push_number(number: u64, push: &mut impl FnMut(&[u8]) -> Option<()>) -> Option<()> {
    let mut digits = [0u8; 20];
    let mut rest = number;
    let mut first = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first = index;
        if rest == 0 {
            break;
        }
    }
    push(digits.get(first..)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(template: &[u8]) -> (Vec<u8>, bool) {
        let known = Known { process: 4_321, seconds: 0, program: b"server" };
        let mut path = Vec::new();
        let push = |part: &[u8]| {
            path.extend_from_slice(part);
            Some(())
        };
        let names_process = expand(template, known, push).expect("there is room");
        (path, names_process)
    }

    #[test]
    fn each_place_stands_for_what_it_says() {
        for (template, path, names_process) in [
            (&b"a%p-%t-%e-%%.txt"[..], &b"a4321-0-server-%.txt"[..], true),
            (b"%p%p", b"43214321", true),
            (b"%x %", b"%x %", false),
            (b"", b"", false),
            // A percent sign and a letter: not the process.
            (b"100%%p.txt", b"100%p.txt", false),
            (b"%%%p", b"%4321", true),
            (b"\xFF%p\xC3", b"\xFF4321\xC3", true),
        ] {
            assert_eq!(expanded(template), (path.to_vec(), names_process));
        }
        let most = Known { process: u64::MAX, seconds: 0, program: b"" };
        assert_eq!(
            expand(b"%p", most, |part| (part == b"18446744073709551615").then_some(())),
            None
        );
    }

    #[test]
    fn where_there_is_no_room_it_ends() {
        let known = Known { process: 1, seconds: 2, program: b"three" };
        for refused in [&b"a"[..], b"1", b"2", b"three", b"%", b"z"] {
            let template = b"a%p%t%e%%z";
            let end = expand(template, known, |part| (part != refused).then_some(()));
            assert_eq!(end, None, "{refused:?}");
        }
    }
}
