//! Medians, spreads and geometric means of a few measurements. No unsafe here.
//!
//! With three to five rounds there is no distribution to speak of: the median stands for a cell,
//! lowest and highest show how far to trust it. Ratios are of medians.

/// A few measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// Of the finite ones among `values`; `None` without any.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (&low, &high) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[upper - 1], sorted[upper])
        } else {
            sorted[upper]
        };
        Some(Spread { low, median, high })
    }
}

/// `value / base` where that says something: both above zero.
pub(crate) fn ratio(value: f64, base: f64) -> Option<f64> {
    (value > 0.0 && base > 0.0 && value.is_finite() && base.is_finite()).then(|| value / base)
}

/// The geometric mean of ratios, and of how many; `None` without any.
pub(crate) fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> Option<(f64, usize)> {
    let (mut sum, mut count) = (0.0, 0);
    for ratio in ratios {
        sum += ratio.ln();
        count += 1;
    }
    (count > 0).then(|| ((sum / count as f64).exp(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_sorted_values() {
        let spread = Spread::of([5.0, 1.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { low: 1.0, median: 3.0, high: 5.0 });
        let spread = Spread::of([4.0, 1.0, 3.0, 100.0]).unwrap();
        assert_eq!(spread, Spread { low: 1.0, median: 3.5, high: 100.0 });
        let spread = Spread::of([2.5]).unwrap();
        assert_eq!(spread, Spread { low: 2.5, median: 2.5, high: 2.5 });
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let spread = Spread::of([f64::NAN, 2.0, f64::INFINITY]).unwrap();
        assert_eq!(spread.median, 2.0);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_needs_two_positive_numbers() {
        assert_eq!(ratio(1.0, 4.0), Some(0.25));
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(0.0, 1.0), None);
        assert_eq!(ratio(f64::NAN, 1.0), None);
        assert_eq!(ratio(1.0, f64::INFINITY), None);
    }

    #[test]
    fn a_half_and_a_double_cancel_in_the_geometric_mean() {
        let (mean, count) = geometric_mean([0.5, 2.0]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(count, 2);
        let (mean, _) = geometric_mean([0.1, 0.4]).unwrap();
        assert!((mean - 0.2).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }
}
