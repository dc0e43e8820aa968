//! What makes figures of runs: rounds in which everything takes turns, medians of ratios, intervals, fairness.
//!
//! A single pair of runs varies by ±17 % on a shared machine. So nothing is compared across time: each round runs
//! everything that is compared once, A B C A B C …, and a ratio is taken within a round. What is reported is the median
//! of the rounds' ratios, with the interval of the sign test: the two order statistics between which the true median
//! lies with a probability of at least 95 %. It assumes no distribution, and needs no random numbers, so that the same
//! runs give the same interval. With fewer than 6 rounds there is no such interval, and the extremes are given with the
//! confidence that they have.

use std::fmt;

use serde::Serialize;

use crate::{cli::Common, error::BenchError, report::Progress};

/// How sure an interval is to hold the true median, where there are rounds enough.
const CONFIDENCE: f64 = 0.95;

/// A median and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// Of all rounds.
    pub(crate) median: f64,
    /// The lower end of the interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// The probability that the true median lies between them.
    pub(crate) confidence: f64,
    /// How many rounds there were.
    pub(crate) rounds: usize,
}

impl Estimate {
    /// Of these figures, one a round. Zeros when there is none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let rounds = sorted.len();
        if rounds == 0 {
            return Self { median: 0.0, low: 0.0, high: 0.0, confidence: 0.0, rounds };
        }
        let (skip, confidence) = sign_test(rounds);
        Self {
            median: median_of_sorted(&sorted),
            low: sorted[skip],
            high: sorted[rounds - 1 - skip],
            confidence,
            rounds,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high, confidence, .. } = self;
        write!(f, "{median:.3} ({low:.3} to {high:.3}, {:.0} %)", 100.0 * confidence)
    }
}

/// How many figures may be left out at each end, and how likely the median is to lie between those that are next.
///
/// Each of `n` figures is above the true median with probability 1/2. The median lies below the k-th smallest when
/// fewer than k of them are below it: P = Σ_{i<k} C(n, i) / 2ⁿ; as much at the other end.
fn sign_test(n: usize) -> (usize, f64) {
    let mut term = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let (mut outside, mut skip) = (2.0 * term, 0);
    let mut confidence = 1.0 - outside;
    for i in 1..n / 2 {
        term *= (n + 1 - i) as f64 / i as f64;
        outside += 2.0 * term;
        if 1.0 - outside < CONFIDENCE {
            break;
        }
        (skip, confidence) = (i, 1.0 - outside);
    }
    (skip, confidence)
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed (nearest rank); 0 of none.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Jain's index of fairness, (Σx)² / (n·Σx²): 1 when all have the same share, 1/n when one has everything.
///
/// R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared
/// Computer Systems", DEC Research Report TR-301, 1984.
pub(crate) fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum.powi(2) / (shares.len() as f64 * squares) }
}

/// Runs everything that is compared in turns: one turn each to warm up, which does not count and is left out where
/// figures do not, and then as many rounds as were asked for. `run` is given the index of what is to run, below `count`. Returns what the runs gave, by that index and in order.
///
/// # Errors
/// The first of `run`.
pub(crate) async fn interleaved<T>(
    common: Common,
    count: usize,
    progress: &Progress,
    mut run: impl AsyncFnMut(usize) -> Result<T, BenchError>,
) -> Result<Vec<Vec<T>>, BenchError> {
    let rounds = common.rounds();
    let mut given: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for round in usize::from(common.quick)..=rounds {
        for (index, given) in given.iter_mut().enumerate() {
            progress.round(round, rounds);
            let figure = run(index).await?;
            if round > 0 {
                given.push(figure);
            }
        }
    }
    Ok(given)
}

/// The ratios of two figures of the same rounds.
pub(crate) fn ratio<T>(over: &[T], under: &[T], figure: impl Fn(&T) -> f64) -> Estimate {
    Estimate::of(over.iter().zip(under).map(|(over, under)| figure(over) / figure(under)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // P(X ≤ 1) for X ~ B(10, 1/2) is 11/1024.
        let (skip, confidence) = sign_test(10);
        assert_eq!(skip, 1);
        assert!((confidence - (1.0 - 22.0 / 1024.0)).abs() < 1e-12, "{confidence}");
        assert_eq!(sign_test(6), (0, 1.0 - 2.0 / 64.0));
        assert_eq!(sign_test(20).0, 5);
        // Too few for 95 %: the extremes, as sure as they are.
        assert_eq!(sign_test(3), (0, 0.75));
        assert_eq!(sign_test(1), (0, 0.0));
        let estimate = Estimate::of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 10.0, 9.0]);
        assert_eq!((estimate.median, estimate.low, estimate.high, estimate.rounds), (5.5, 2.0, 9.0, 10));
        assert_eq!(Estimate::of([]).median, 0.0);
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        // The machine was twice as fast in the second round: no matter.
        let estimate = ratio(&[9.0, 18.0, 4.5], &[10.0, 20.0, 5.0], |&figure| figure);
        assert_eq!((estimate.median, estimate.low, estimate.high), (0.9, 0.9, 0.9));
    }

    #[test]
    fn fairness_is_one_for_equal_shares_and_one_in_n_for_one_taker() {
        assert_eq!(jain(&[7, 7, 7, 7]), 1.0);
        assert_eq!(jain(&[0, 0, 9, 0]), 0.25);
        assert_eq!(jain(&[0, 0]), 0.0);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99), percentile(&sorted, 100)), (100.0, 198.0, 200.0));
        assert_eq!((percentile(&[3.0], 99), percentile(&[], 50)), (3.0, 0.0));
        assert_eq!((median([3.0, 1.0, 2.0]), median([4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
