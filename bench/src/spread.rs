//! Minimum, median and maximum of rounds.

/// The spread of some figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one figure; of none it is all zero.
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(0.0);
        Self { min: at(0), median: at(figures.len() / 2), max: at(figures.len().saturating_sub(1)) }
    }

    /// As the text of a ratio.
    pub(crate) fn ratio(self) -> String {
        format!("{:.2} x ({:.2}–{:.2})", self.median, self.min, self.max)
    }

    /// As the text of seconds.
    pub(crate) fn seconds(self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.min, self.max)
    }

    /// As the text of whole numbers.
    pub(crate) fn whole(self) -> String {
        format!("{:.0} ({:.0}–{:.0})", self.median, self.min, self.max)
    }
}
