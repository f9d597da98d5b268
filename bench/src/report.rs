//! The tables of a run, as Markdown, printed as they come and kept.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::closed_loop::{self, Round};
use crate::spread::Spread;

/// What a run has found so far.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    missing: Vec<String>,
    smoke: bool,
    file: Option<PathBuf>,
}

/// The rounds of one system at one piece of work.
#[derive(Debug)]
pub(crate) struct Row {
    /// Whose.
    pub(crate) system: &'static str,
    /// One after the other.
    pub(crate) rounds: Vec<Round>,
}

impl Report {
    pub(crate) fn new(smoke: bool, file: Option<PathBuf>) -> Self {
        Self { text: String::new(), missing: Vec::new(), smoke, file }
    }

    /// Writes what was found so far into the file, if there is to be one: a run takes long.
    pub(crate) fn save(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        std::fs::write(file, &self.text).with_context(|| format!("write {}", file.display()))
    }

    /// One line (or several).
    pub(crate) fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// What a round came to, for who watches: one that stands out is to be seen.
    pub(crate) fn round(&self, number: usize, work: &str, rows: &[Row]) {
        let rate = |row: &Row| Some(format!("{} {:.0}/s", row.system, row.rounds.last()?.rate));
        let rates: Vec<_> = rows.iter().filter_map(rate).collect();
        println!("  round {number}, {work}: {}", rates.join(", "));
    }

    /// A peer that is not here. Never silent, and never a figure.
    pub(crate) fn absent(&mut self, peer: &str, error: &anyhow::Error) {
        self.line(&format!("- peer absent: {peer}: {error:#}"));
    }

    /// All lines so far.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether every row that was begun has figures.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing.is_empty() && !self.text.is_empty()
    }

    /// Whether the figures mean nothing.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// Notes a row without figures, which a run must not end well with.
    pub(crate) fn miss(&mut self, row: String) {
        self.missing.push(row);
    }

    /// Rows without figures.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Says of what follows that it is no measurement, where it is none.
    pub(crate) fn smoke_note(&mut self) {
        if self.smoke {
            self.line("(a smoke: the figures below mean nothing)\n");
        }
    }

    /// The head of a table of rates.
    pub(crate) fn rates_head(&mut self, first: &str) {
        self.smoke_note();
        self.line(&format!(
            "| {first} | system | a second | p50 ms | p99 ms | CPU µs each | caller's CPU µs each | ours ÷ its rate | ours ÷ its p50 |"
        ));
        self.line("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    }

    /// The rows of one piece of work, the first being ours, and the ratios to it.
    pub(crate) fn rates(&mut self, work: &str, rows: &[Row]) {
        let Some(ours) = rows.first() else { return self.missing.push(work.to_owned()) };
        for row in rows {
            let of =
                |figure: fn(&Round) -> f64| Spread::of(row.rounds.iter().map(figure).collect());
            let (rate, p50, p99) = (of(|r| r.rate), of(|r| r.p50_ms), of(|r| r.p99_ms));
            if row.rounds.is_empty() || rate.min <= 0.0 {
                self.missing.push(format!("{work}, {}", row.system));
            }
            let (cpu, caller) = (of(|r| r.cpu_us), of(|r| r.caller_cpu_us));
            let ratio = |figure: fn(&Round) -> f64| {
                if row.system == ours.system {
                    return String::from("-");
                }
                let pairs = ours.rounds.iter().zip(&row.rounds);
                Spread::of(pairs.map(|(a, b)| figure(a) / figure(b)).collect()).ratio()
            };
            self.line(&format!(
                "| {work} | {} | {:.0} ({:.0}–{:.0}) | {:.2} | {:.2} | {:.0} | {:.0} | {} | {} |",
                row.system,
                rate.median,
                rate.min,
                rate.max,
                p50.median,
                p99.median,
                cpu.median,
                caller.median,
                ratio(|r| r.rate),
                ratio(|r| r.p50_ms),
            ));
        }
    }

    /// The fdatasync floor of the run.
    pub(crate) fn floor(&mut self, mut syncs: Vec<f64>) {
        syncs.sort_by(f64::total_cmp);
        let at = |part: f64| closed_loop::at(&syncs, part) / 1000.0;
        let note = if at(0.5) > 1.5 { "; too noisy to judge what the disk limits" } else { "" };
        self.line(&format!(
            "- fdatasync of 300 bytes, between the rounds: p50 {:.3} ms, p99 {:.3} ms, one after the other {:.0} a second{note}",
            at(0.5),
            at(0.99),
            syncs.len() as f64 * 1e6 / syncs.iter().sum::<f64>().max(1.0),
        ));
    }
}
