//! Factors numbers by the continued fraction method (Lehmer and Powers 1931, Morrison and Brillhart
//! 1975) on `num-bigint`: tens of millions of tiny bignums that live for one expression. It stands
//! for cfrac of mimalloc-bench and shares no code with it. No unsafe here.
//!
//! The convergents A/B of the square root of n give A(i-1)^2 = (-1)^i * Q(i) modulo n with small
//! Q(i). Products of smooth Q(i) that are squares, found by elimination over GF(2), give x^2 = y^2
//! and, by gcd(x - y, n), mostly a factor.

use std::mem::replace;

use num_bigint::BigUint;
use num_integer::Integer;
use num_traits::{One, ToPrimitive, Zero};

use crate::workload::{Outcome, Scale, fold, measure};

/// Primes (and the sign) a relation's value may be made of; bits of a relation's row.
const BASE: usize = 120;

/// Factors random products of two primes of 40 bits.
pub(crate) fn cfrac(scale: &Scale) -> Outcome {
    let numbers = scale.of(30);
    let bits = if cfg!(test) { 16 } else { 40 };
    let mut rng = scale.rng(0);
    let inputs: Vec<(u64, u64)> =
        (0..numbers).map(|_| (prime(&mut rng, bits), prime(&mut rng, bits))).collect();
    measure(|| {
        let mut sum = 0;
        for &(p, q) in &inputs {
            let n = BigUint::from(p) * q;
            let factor = factor(&n);
            assert!((&n % &factor).is_zero(), "{factor} does not divide {n}");
            sum = fold(sum, low(&factor).min(low(&(n / factor))));
        }
        (numbers, sum)
    })
}

fn low(n: &BigUint) -> u64 {
    n.to_u64().unwrap_or(u64::MAX)
}

/// A random prime of `bits` bits, found by trial division.
fn prime(rng: &mut fastrand::Rng, bits: u32) -> u64 {
    loop {
        let n = rng.u64(1 << (bits - 1)..1 << bits) | 1;
        if (3u64..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d)) {
            return n;
        }
    }
}

/// `x * x = product of base[i]^exponents[i]` modulo n.
struct Relation {
    x: BigUint,
    exponents: Vec<u8>,
    /// Parities of the exponents; then, while eliminating, of the product of some relations.
    row: u128,
}

/// A proper factor of the composite `n`.
fn factor(n: &BigUint) -> BigUint {
    // Each multiplier k expands another root, should one give too few relations.
    for k in 1u32.. {
        let kn = n * k;
        let root = kn.sqrt();
        if &root * &root == kn {
            let common = root.gcd(n);
            if common > BigUint::one() && &common < n {
                return common;
            }
            continue;
        }
        if let Some(factor) = expand(n, &kn) {
            return factor;
        }
    }
    unreachable!("there is always another multiplier")
}

/// Expands the root of `kn` until the relations give a factor of `n`, or the fraction repeats.
fn expand(n: &BigUint, kn: &BigUint) -> Option<BigUint> {
    let root = kn.sqrt();
    let base = factor_base(kn);
    let mut relations = Vec::new();
    // P, Q and A of the textbook's recurrences.
    let (mut p, mut q, mut q_last) = (BigUint::zero(), BigUint::one(), kn.clone());
    let (mut a, mut a_last) = (BigUint::one(), BigUint::zero());
    for step in 0u32.. {
        if step > 0 {
            if q.is_one() {
                return None;
            }
            if let Some(exponents) = smooth(&q, step % 2 == 1, &base) {
                relations.push(Relation { x: a.clone(), row: parities(&exponents), exponents });
                if relations.len() % 16 == 0
                    && let Some(factor) = combine(n, &base, &relations)
                {
                    return Some(factor);
                }
            }
        }
        let quotient = (&root + &p) / &q;
        let p_next = &quotient * &q - &p;
        // Q(i+1) = Q(i-1) + quotient * (P(i) - P(i+1)); kept positive by adding first.
        let q_next = if step == 0 {
            kn - &p_next * &p_next
        } else {
            &q_last + &quotient * &p - &quotient * &p_next
        };
        let a_next = (&quotient * &a + &a_last) % n;
        p = p_next;
        q_last = replace(&mut q, q_next);
        a_last = replace(&mut a, a_next);
    }
    None
}

/// The primes that can divide a Q of `kn`: those it is a square modulo.
fn factor_base(kn: &BigUint) -> Vec<u32> {
    let mut base = vec![2];
    let mut candidate = 3u32;
    while base.len() + 1 < BASE {
        let is_prime = (3..)
            .step_by(2)
            .take_while(|d| d * d <= candidate)
            .all(|d| !candidate.is_multiple_of(d));
        let residue = (kn % candidate).to_u32().unwrap_or(0);
        if is_prime && (residue == 0 || power(residue, (candidate - 1) / 2, candidate) == 1) {
            base.push(candidate);
        }
        candidate += 2;
    }
    base
}

fn power(base: u32, exponent: u32, modulus: u32) -> u32 {
    let (base, modulus) = (u64::from(base), u64::from(modulus));
    let square = |x: u64| x * x % modulus;
    let bits = (0..32 - exponent.leading_zeros()).rev();
    let step =
        |x, bit| if exponent >> bit & 1 == 1 { square(x) * base % modulus } else { square(x) };
    bits.fold(1, step) as u32
}

/// The exponents of `q` over the sign and `base`, when those primes are all of it.
fn smooth(q: &BigUint, negative: bool, base: &[u32]) -> Option<Vec<u8>> {
    let mut exponents = vec![0; BASE];
    exponents[0] = u8::from(negative);
    let mut rest = q.clone();
    for (i, &prime) in base.iter().enumerate() {
        loop {
            let (quotient, remainder) = rest.div_rem(&BigUint::from(prime));
            if !remainder.is_zero() {
                break;
            }
            rest = quotient;
            exponents[i + 1] += 1;
        }
        // Most values show early that they have too few small factors.
        if i == 24 && rest.bits() + 6 > q.bits() {
            return None;
        }
    }
    rest.is_one().then_some(exponents)
}

fn parities(exponents: &[u8]) -> u128 {
    exponents.iter().enumerate().fold(0, |row, (i, e)| row | u128::from(e % 2) << i)
}

/// Eliminates over GF(2); each dependency is a chance of a factor.
fn combine(n: &BigUint, base: &[u32], relations: &[Relation]) -> Option<BigUint> {
    // Per pivot bit: a row, and as a set of bits the relations whose product it is.
    let mut pivots: Vec<Option<(u128, BigUint)>> = vec![None; BASE];
    for (index, relation) in relations.iter().enumerate() {
        let (mut row, mut members) = (relation.row, BigUint::one() << index);
        while row != 0 {
            let pivot = &mut pivots[row.trailing_zeros() as usize];
            let Some((other, more)) = pivot else {
                *pivot = Some((row, members.clone()));
                break;
            };
            row ^= *other;
            members ^= &*more;
        }
        if row == 0 {
            let members = (0..=index).filter(|&i| members.bit(i as u64)).map(|i| &relations[i]);
            let factor = from_dependency(n, base, members);
            if factor.is_some() {
                return factor;
            }
        }
    }
    None
}

/// gcd(x - y, n) for the product of the relations `members`, whose exponents are all even.
fn from_dependency<'a>(
    n: &BigUint,
    base: &[u32],
    members: impl Iterator<Item = &'a Relation>,
) -> Option<BigUint> {
    let mut exponents = vec![0u32; BASE];
    let mut x = BigUint::one();
    for member in members {
        x = x * &member.x % n;
        for (sum, &e) in exponents.iter_mut().zip(&member.exponents) {
            *sum += u32::from(e);
        }
    }
    let mut y = BigUint::one();
    for (&prime, exponent) in base.iter().zip(&exponents[1..]) {
        y = y * BigUint::from(prime).modpow(&BigUint::from(exponent / 2), n) % n;
    }
    let factor = (x + n - y).gcd(n);
    (factor > BigUint::one() && &factor < n).then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_factored() {
        for (p, q) in [(1_000_003u64, 1_000_033u64), (999_983, 4_294_967_291), (65_537, 65_539)] {
            let factor = factor(&(BigUint::from(p) * q));
            assert!(factor == BigUint::from(p) || factor == BigUint::from(q), "{factor}");
        }
    }

    #[test]
    fn primes_are_of_the_asked_length() {
        let mut rng = fastrand::Rng::with_seed(3);
        assert!((0..50).map(|_| prime(&mut rng, 12)).all(|p| (2048..4096).contains(&p)));
    }
}
