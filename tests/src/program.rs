//! Random programs of allocator calls, run against a plain model.
//!
//! A [`Program`] follows from its seed alone. Running it keeps beside the allocator the simplest
//! model there is: a list of live blocks with the bytes they must hold, and a map of the addresses
//! that are taken. After each step:
//!
//! 1. the new block is aligned, and zeroed where that was asked for;
//! 2. it overlaps no live block;
//! 3. `realloc` kept the bytes that both sizes share;
//! 4. the caller's check of the allocator's own invariants passes.
//!
//! The bytes of every live block are checked when it is resized or freed, and all of them at the
//! end of the program. (Checking all after each step would only say earlier which step did the
//! damage; [`shrink`] finds that too.)
//!
//! What it does not do: hand a layout without size to the allocator; the trait forbids that. No
//! unsafe here.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::fmt;

use crate::block::{Block, layout};

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `alloc`.
    Alloc(Layout),
    /// `alloc_zeroed`.
    Zeroed(Layout),
    /// `realloc` of a live block (number modulo the live ones) to a size.
    Resize(usize, usize),
    /// `dealloc` of a live block (number modulo the live ones).
    Free(usize),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Alloc(layout) => {
                write!(f, "alloc   {:6} aligned {}", layout.size(), layout.align())
            }
            Op::Zeroed(layout) => {
                write!(f, "zeroed  {:6} aligned {}", layout.size(), layout.align())
            }
            Op::Resize(block, size) => write!(f, "realloc {size:6} of block {block} modulo live"),
            Op::Free(block) => write!(f, "dealloc of block {block} modulo live"),
        }
    }
}

/// What random programs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Calls per program.
    pub ops: usize,
    /// Largest usual size.
    pub usual: usize,
    /// Largest size at all; about one request in 500 is of this order.
    pub large: usize,
    /// Largest alignment, as a power of two.
    pub align: u32,
}

impl Mix {
    /// Sizes 1..=5,000 and now and then up to 4 MiB, alignments 1..=64 KiB.
    pub const WHOLE: Mix = Mix { ops: 64, usual: 5_000, large: 4 << 20, align: 16 };

    fn size(&self, rng: &mut fastrand::Rng) -> usize {
        let size = match rng.u32(0..500) {
            0 => rng.usize(self.usual..=self.large),
            // Most requests of real programs are small; the limits of classes are where mistakes are made.
            1..250 => rng.usize(1..=512),
            250..350 => 8 * rng.usize(1..=65) + rng.usize(0..3) - 1,
            350..370 => 512 - 2 + rng.usize(0..5),
            _ => rng.usize(1..=self.usual),
        };
        size.clamp(1, self.large)
    }

    fn layout(&self, rng: &mut fastrand::Rng) -> Layout {
        let shift = match rng.u32(0..10) {
            0..5 => 3,
            5..7 => rng.u32(0..=4),
            _ => rng.u32(0..=self.align),
        };
        layout(self.size(rng), 1 << shift.min(self.align))
    }
}

/// A list of calls, with the place each had when the program was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    seed: u64,
    ops: Vec<(usize, Op)>,
}

impl Program {
    /// The program of `seed`.
    pub fn random(seed: u64, mix: &Mix) -> Program {
        let mut rng = fastrand::Rng::with_seed(seed);
        // A program that mostly grows, one that mostly shrinks, and all between.
        let growth = rng.u32(30..80);
        let op = |_| match rng.u32(0..100) {
            roll if roll < growth * 2 / 3 => Op::Alloc(mix.layout(&mut rng)),
            roll if roll < growth => Op::Zeroed(mix.layout(&mut rng)),
            roll if roll % 2 == 0 => Op::Resize(rng.usize(0..64), mix.size(&mut rng)),
            _ => Op::Free(rng.usize(0..64)),
        };
        let ops = (0..mix.ops).map(op).enumerate().collect();
        Program { seed, ops }
    }

    /// The program that these bytes stand for, four to a call: every string of bytes is one, and a
    /// byte that changes changes one call. At most 256 calls.
    pub fn decode(bytes: &[u8]) -> Program {
        let (calls, _) = bytes.as_chunks::<4>();
        let op = |&[what, which, low, high]: &[u8; 4]| {
            // Two in four are small, one is of a few KiB, one anything up to 2 MiB.
            let size = usize::from(u16::from_le_bytes([low, high]));
            let size = match what >> 2 & 3 {
                0 | 1 => size % 512 + 1,
                2 => size % 8_192 + 1,
                _ => (size << 5) + usize::from(which) + 1,
            };
            let layout = layout(size, 1 << (which % 17));
            match what & 3 {
                0 => Op::Alloc(layout),
                1 => Op::Zeroed(layout),
                2 => Op::Resize(which.into(), size),
                _ => Op::Free(which.into()),
            }
        };
        Program { seed: 0, ops: calls.iter().take(256).map(op).enumerate().collect() }
    }

    /// The calls at these places only.
    pub fn keep(&self, places: &[usize]) -> Program {
        let kept = self.ops.iter().filter(|(place, _)| places.contains(place));
        Program { seed: self.seed, ops: kept.copied().collect() }
    }

    /// The places of its calls.
    pub fn places(&self) -> Vec<usize> {
        self.ops.iter().map(|&(place, _)| place).collect()
    }

    /// Runs the program on `memory`, calls `check` after each step, frees everything, and returns
    /// how many requests were answered with null.
    ///
    /// # Panics
    /// If the allocator departs from the model.
    pub fn run<A: GlobalAlloc + Copy>(
        &self,
        memory: A,
        check: &mut dyn FnMut() -> Result<(), String>,
    ) -> usize {
        let mut model = Model { memory, live: Vec::new(), taken: BTreeMap::new(), nulls: 0 };
        for (place, op) in &self.ops {
            model.step(*op, (self.seed << 16) + *place as u64);
            if let Err(violation) = check() {
                panic!("after step {place} ({op}): {violation}");
            }
        }
        model.live.iter().for_each(Block::verify);
        // Every other one first, so that pools are left half full on the way.
        for number in (1..model.live.len()).step_by(2).rev() {
            model.free(number);
        }
        model.live.clear();
        if let Err(violation) = check() {
            panic!("after everything was freed: {violation}");
        }
        model.nulls
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program of seed {}:", self.seed)?;
        self.ops.iter().try_for_each(|(place, op)| writeln!(f, "  {place:3}  {op}"))
    }
}

/// The plain model.
struct Model<A: GlobalAlloc + Copy> {
    memory: A,
    live: Vec<Block<A>>,
    /// Address of each live block, and the address after its last byte.
    taken: BTreeMap<usize, usize>,
    nulls: usize,
}

impl<A: GlobalAlloc + Copy> Model<A> {
    fn step(&mut self, op: Op, tag: u64) {
        match op {
            Op::Alloc(layout) => self.add(Block::alloc(self.memory, layout, tag)),
            Op::Zeroed(layout) => self.add(Block::zeroed(self.memory, layout, tag)),
            _ if self.live.is_empty() => {}
            Op::Resize(number, size) => self.resize(number % self.live.len(), size),
            Op::Free(number) => self.free(number % self.live.len()),
        }
    }

    fn add(&mut self, block: Option<Block<A>>) {
        match block {
            Some(block) => {
                self.enter(&block);
                self.live.push(block);
            }
            None => self.nulls += 1,
        }
    }

    fn resize(&mut self, number: usize, size: usize) {
        let block = &mut self.live[number];
        block.verify();
        self.taken.remove(&block.addr());
        if !block.resize(size) {
            self.nulls += 1;
        }
        let (start, end) = span(&self.live[number]);
        enter(&mut self.taken, start, end);
    }

    fn free(&mut self, number: usize) {
        let block = self.live.swap_remove(number);
        self.taken.remove(&block.addr());
    }

    fn enter(&mut self, block: &Block<A>) {
        let (start, end) = span(block);
        enter(&mut self.taken, start, end);
    }
}

fn span<A: GlobalAlloc + Copy>(block: &Block<A>) -> (usize, usize) {
    (block.addr(), block.addr() + block.layout().size())
}

/// Takes `start..end`.
fn enter(taken: &mut BTreeMap<usize, usize>, start: usize, end: usize) {
    if let Some((&other, &other_end)) = taken.range(..end).next_back() {
        assert!(
            other_end <= start,
            "block {start:#x}..{end:#x} overlaps the live block {other:#x}..{other_end:#x}"
        );
    }
    taken.insert(start, end);
}

/// Takes away from `places` what `fails` does not need to go on failing: halves first, then ever
/// smaller parts.
pub fn shrink(places: Vec<usize>, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut best = places;
    let mut part = best.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < best.len() {
            let to = (from + part).min(best.len());
            let fewer = [&best[..from], &best[to..]].concat();
            if fails(&fewer) {
                best = fewer;
            } else {
                from = to;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Process;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_program_follows_from_its_seed() {
        assert_eq!(Program::random(9, &Mix::WHOLE), Program::random(9, &Mix::WHOLE));
        assert_ne!(Program::random(9, &Mix::WHOLE), Program::random(10, &Mix::WHOLE));
    }

    #[test]
    fn programs_hold_every_call_every_alignment_and_large_sizes() {
        let (mut aligns, mut large, mut calls) = (0_u64, 0, [0; 4]);
        for seed in 0..200 {
            for (_, op) in Program::random(seed, &Mix::WHOLE).ops {
                match op {
                    Op::Alloc(layout) | Op::Zeroed(layout) => {
                        aligns |= layout.align() as u64;
                        large += usize::from(layout.size() > 5_000);
                        assert!((1..=4 << 20).contains(&layout.size()));
                        calls[usize::from(matches!(op, Op::Zeroed(_)))] += 1;
                    }
                    Op::Resize(..) => calls[2] += 1,
                    Op::Free(_) => calls[3] += 1,
                }
            }
        }
        assert_eq!(aligns, (1 << 17) - 1);
        assert!(large > 5, "{large} large ones");
        assert!(calls.iter().all(|&count| count > 1_000), "{calls:?}");
    }

    #[test]
    fn any_bytes_are_a_program_that_holds() {
        let mut rng = fastrand::Rng::with_seed(4);
        let mut calls = [0; 4];
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len * 4 + len % 4).map(|_| rng.u8(..)).collect();
            let program = Program::decode(&bytes);
            assert_eq!(program.ops.len(), len.min(256));
            program.ops.iter().for_each(|(_, op)| match op {
                Op::Alloc(layout) | Op::Zeroed(layout) => {
                    assert!(layout.size() <= (2 << 20) + 256 && layout.align() <= 1 << 16);
                    calls[usize::from(matches!(op, Op::Zeroed(_)))] += 1;
                }
                Op::Resize(..) => calls[2] += 1,
                Op::Free(_) => calls[3] += 1,
            });
            assert_eq!(program.run(Process, &mut || Ok(())), 0);
        }
        assert!(calls.iter().all(|&count| count > 1_000), "{calls:?}");
    }

    #[test]
    fn overlapping_spans_are_noticed() {
        let overlaps = |start, end| {
            let mut taken = BTreeMap::from([(100, 200), (300, 400)]);
            catch_unwind(AssertUnwindSafe(|| enter(&mut taken, start, end))).is_err()
        };
        for (start, end) in [(100, 101), (199, 200), (50, 101), (250, 301), (150, 350), (50, 450)] {
            assert!(overlaps(start, end), "{start}..{end}");
        }
        for (start, end) in [(50, 100), (200, 300), (400, 401)] {
            assert!(!overlaps(start, end), "{start}..{end}");
        }
    }

    #[test]
    fn a_failing_check_stops_the_program_and_shrinks_to_its_cause() {
        let program = Program::random(3, &Mix::WHOLE);
        // Fails as soon as two blocks were freed by the program's own calls.
        let fails = |places: &[usize]| {
            let kept = program.keep(places);
            let frees = |op: &&(usize, Op)| matches!(op.1, Op::Free(_));
            kept.ops.iter().filter(frees).count() >= 2
        };
        let least = shrink(program.places(), fails);
        assert_eq!(least.len(), 2, "{}", program.keep(&least));

        let mut steps = 0;
        let mut check = || {
            steps += 1;
            if steps == 5 { Err("broken".to_owned()) } else { Ok(()) }
        };
        let run = AssertUnwindSafe(|| program.run(Process, &mut check));
        assert!(catch_unwind(run).is_err());
        assert_eq!(steps, 5);
    }
}
