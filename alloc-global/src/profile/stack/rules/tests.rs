//! Rules, walks over stacks that are made up, and walks that the unwinder must agree with.

use super::super::unwind;
use super::*;
use crate::profile::local;
use std::hint::black_box;

const SP: fn(usize) -> Rule = |offset| Rule::Caller { by_fp: false, offset, saved: None };

#[test]
fn a_rule_comes_out_of_its_word_as_it_went_in() {
    for by_fp in [false, true] {
        for offset in [8, 16, 4096, 65_528] {
            for saved in [None, Some(8), Some(16), Some(16_376)] {
                let rule = Rule::Caller { by_fp, offset, saved };
                assert_eq!(Rule::unpack(rule.pack()), rule);
            }
            assert_eq!(Rule::unpack(SP(65_536).pack()), Rule::Other);
            let saved = Some(16_384);
            let rule = Rule::Caller { by_fp, offset, saved };
            assert_eq!(Rule::unpack(rule.pack()), Rule::Other);
        }
    }
    for rule in [Rule::Last, Rule::Other] {
        assert_eq!(Rule::unpack(rule.pack()), rule);
        assert!(rule.pack() != 0 && rule.pack() >> RULE_BITS == 0);
    }
}

#[test]
fn no_two_addresses_have_one_place_and_one_tag() {
    static AREA: Area = Area::new(|| LEAST_BYTES);
    [Kept::of(&AREA).unwrap(), Kept::few()].into_iter().for_each(assert_no_two);
}

fn assert_no_two(kept: Kept) {
    let mut seen = std::collections::HashMap::new();
    // Neighbours in two modules, far from each other and in the same place of theirs.
    for base in [0x5555_5555_0000, 0x7FFF_F7C0_0000, 0x7FFF_0000_0000] {
        for address in base..base + 30_000 {
            let (place, tag) = kept.place(address);
            let key = (std::ptr::from_ref(place).addr(), tag);
            assert_eq!(seen.insert(key, address), None, "{address:#x}");
        }
    }
    let places: std::collections::HashSet<_> = seen.keys().map(|key| key.0).collect();
    assert_eq!(places.len(), LEAST_BYTES / WORD, "all places are used");
}

#[test]
fn no_rule_is_read_where_the_stack_is_short() {
    static AREA: Area = Area::new(|| LEAST_BYTES);
    let kept = Kept::of(&AREA).unwrap();
    prepare();
    let here = registers().ip;
    assert_eq!(kept.rule(here, false), Rule::Other);
    assert_eq!(kept.place(here).0.load(Ordering::Relaxed), 0, "nothing is kept of that");
    if is_ready() {
        let rule = kept.rule(here, true);
        assert_ne!(rule, Rule::Other);
        assert_eq!(kept.rule(here, false), rule, "it is kept");
    }
}

/// What a walk over `words` finds, from the first one on; words at even places are addresses of
/// code, and what rule each has is said by `rules`.
fn walked(words: &[usize], fp: usize, rules: &[(usize, Rule)]) -> Option<(Vec<usize>, End)> {
    let start = words.as_ptr().expose_provenance();
    let bounds = Bounds::of(start, start + size_of_val(words));
    let from = Registers { ip: 1, sp: start, fp: start.wrapping_add(fp) };
    let mut stack = Stack::new(4);
    let rule = |address| rules.iter().find(|rule| rule.0 == address).map_or(Rule::Other, |r| r.1);
    // SAFETY: the bounds are those of the slice.
    let whole = unsafe { walk(from, bounds, &mut stack, rule) };
    assert!(whole || stack.frames().is_empty() && stack.hash == 0);
    whole.then(|| (stack.frames().to_vec(), stack.end))
}

#[test]
fn a_stack_is_followed_by_both_registers_to_its_end() {
    let mut words = [0, 101, 0, 0, 0, 201, 0, 301];
    // Of the second frame, 48 bytes up the third one's caller begins.
    words[2] = words.as_ptr().expose_provenance() + 32;
    let saved = Some(16);
    let second = Rule::Caller { by_fp: false, offset: 16, saved };
    let third = Rule::Caller { by_fp: true, offset: 16, saved: None };
    let rules = [(1, SP(16)), (100, SP(16)), (200, SP(16)), (300, Rule::Last)];
    assert_eq!(walked(&words, 0, &rules), Some((vec![101], End::Whole)), "no address where 0 is");
    let rules = [(1, SP(16)), (100, SP(32)), (200, SP(16)), (300, Rule::Last)];
    assert_eq!(walked(&words, 0, &rules), Some((vec![101, 201, 301], End::Whole)));
    let rules = [(1, second), (100, third), (200, SP(16)), (300, Rule::Last)];
    words[0] = words[2];
    assert_eq!(walked(&words, 0, &rules), Some((vec![101, 201, 301], End::Whole)));
    let rules = [(1, SP(16)), (100, SP(32)), (200, SP(16)), (300, Rule::Other)];
    assert_eq!(walked(&words, 0, &rules), None, "the unwinder is to do it");
}

#[test]
fn a_walk_reads_nothing_outside_and_goes_up_only() {
    let words = [0, 101, 0, 201];
    let corrupt = |frames: &[usize]| Some((frames.to_vec(), End::Corrupt));
    for offset in [24, 4096, usize::MAX & !7] {
        assert_eq!(walked(&words, 0, &[(1, SP(16)), (100, SP(offset))]), corrupt(&[101]));
    }
    let by_fp = Rule::Caller { by_fp: true, offset: 16, saved: None };
    for fp in [0, usize::MAX - 16, 3, 64] {
        assert_eq!(walked(&words, fp, &[(1, SP(16)), (100, by_fp)]), corrupt(&[101]), "{fp}");
    }
    assert_eq!(
        walked(&words, 16, &[(1, SP(16)), (100, by_fp), (200, Rule::Last)]).unwrap().0.len(),
        2
    );
    // Saved below the frame that it is a frame of.
    let below = Rule::Caller { by_fp: false, offset: 16, saved: Some(24) };
    assert_eq!(walked(&words, 0, &[(1, SP(16)), (100, below)]), corrupt(&[101]));
}

#[test]
fn a_walk_ends_where_there_is_no_more_room() {
    let words = [0, 101, 0, 201, 0, 301, 0, 401, 0, 501];
    let mut rules = vec![(1, SP(16))];
    rules.extend([100, 200, 300, 400].map(|address| (address, SP(16))));
    assert_eq!(walked(&words, 0, &rules), Some((vec![101, 201, 301, 401], End::Cut)));
    rules[4].1 = Rule::Last;
    assert_eq!(walked(&words, 0, &rules), Some((vec![101, 201, 301, 401], End::Whole)));
}

/// The stack of the caller of this, by rules and by the unwinder.
#[inline(never)]
fn both() -> Option<[Vec<usize>; 2]> {
    prepare();
    if !is_ready() {
        // A loader that is older than the call.
        return None;
    }
    let (mut by_rules, mut by_unwinder) = (Stack::new(64), Stack::new(64));
    local::with(|local| {
        assert!(capture(registers(), local.stack_bounds(), &mut by_rules));
        unwind(&mut by_unwinder);
    });
    let [rules, unwinder] = [by_rules, by_unwinder].map(|stack| stack.frames().to_vec());
    Some([rules, black_box(unwinder)])
}

fn assert_agree(found: Option<[Vec<usize>; 2]>) -> usize {
    let Some([rules, unwinder]) = found else { return usize::MAX };
    // Each begins with frames of its own; from the first that both have they are the same.
    let first = rules.iter().find_map(|at| {
        let there = unwinder.iter().position(|other| other == at)?;
        Some((rules.iter().position(|other| other == at)?, there))
    });
    let (ours, theirs) = first.unwrap_or_else(|| panic!("{rules:x?} {unwinder:x?}"));
    assert!(ours <= 3 && theirs <= 6, "{ours} {theirs}");
    let (rules, unwinder) = (&rules[ours..], &unwinder[theirs..]);
    let common = rules.len().min(unwinder.len());
    assert_eq!(rules[..common], unwinder[..common]);
    assert!(rules.len() >= 50 || rules.len() == unwinder.len(), "{rules:x?} {unwinder:x?}");
    common
}

/// A frame whose size is known when it runs, and one that is aligned: the frame pointer leads to
/// both callers.
#[inline(never)]
fn aligned(depth: usize) -> Option<[Vec<usize>; 2]> {
    #[repr(align(128))]
    struct Aligned([u8; 200]);
    let local = black_box(Aligned([depth as u8; 200]));
    let found = black_box(if depth == 0 { both() } else { plain(depth - 1) });
    black_box(&local.0);
    found
}

#[inline(never)]
fn plain(depth: usize) -> Option<[Vec<usize>; 2]> {
    let words = black_box([depth; 37]);
    let found = black_box(if depth == 0 { both() } else { aligned(depth - 1) });
    black_box(&words);
    found
}

/// Called back by the C library.
unsafe extern "C" fn compare(one: *const libc::c_void, other: *const libc::c_void) -> libc::c_int {
    FOUND.with_borrow_mut(|found| *found = Some(aligned(3)));
    // SAFETY: the elements are bytes.
    let [one, other] = [one, other].map(|at| unsafe { at.cast::<u8>().read() });
    libc::c_int::from(one) - libc::c_int::from(other)
}

thread_local! {
    static FOUND: std::cell::RefCell<Option<Option<[Vec<usize>; 2]>>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn the_unwinder_agrees() {
    let all = || {
        for depth in [0, 1, 2, 7, 20, 100] {
            assert!(assert_agree(plain(depth)) >= depth.min(30));
        }
        let mut bytes = *b"qsort";
        // SAFETY: five bytes, and a function that compares two of them.
        unsafe { libc::qsort(bytes.as_mut_ptr().cast(), 5, 1, Some(compare)) };
        assert_eq!(&bytes, b"oqrst");
        assert!(
            assert_agree(FOUND.take().unwrap()) > 8,
            "the C library's frames, and what called them"
        );
    };
    all();
    std::thread::spawn(all).join().unwrap();
    // Again, from the rules that are kept.
    all();
}
