//! [`Figure`]: the result of several rounds.

use std::fmt;

use serde::Serialize;

/// The median and the spread of several rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// The figure of one or more rounds.
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut rounds: Vec<_> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let (low, high) = (rounds[(rounds.len() - 1) / 2], rounds[rounds.len() / 2]);
        Self {
            median: f64::midpoint(low, high),
            min: rounds[0],
            max: rounds[rounds.len() - 1],
        }
    }

    /// The figure of the ratios, round by round.
    pub(crate) fn ratio(rounds: &[f64], to: &[f64]) -> Self {
        Self::of(rounds.iter().zip(to).map(|(this, that)| this / that))
    }
}

/// `median (min to max)`, with the precision of the format string.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let [median, min, max] =
            [self.median, self.min, self.max].map(|number| grouped(number, digits));
        write!(f, "{median} ({min} to {max})")
    }
}

/// Formats a number with commas between thousands.
pub(crate) fn grouped(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (index, digit) in text.char_indices() {
        if index > 0 && index < whole && (whole - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_the_spread() {
        assert_eq!(
            format!("{:.1}", Figure::of([3.0, 1.0, 1_002.0])),
            "3.0 (1.0 to 1,002.0)"
        );
        assert_eq!(format!("{}", Figure::of([4.0, 2.0])), "3 (2 to 4)");
        assert_eq!(
            format!("{:.2}", Figure::ratio(&[1.0, 4.0], &[2.0, 2.0])),
            "1.25 (0.50 to 2.00)"
        );
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(1_234_567.891, 2), "1,234,567.89");
        assert_eq!(grouped(999.0, 0), "999");
    }
}
