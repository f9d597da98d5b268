//! Checks of the tree that no compiler makes: who imports whom, headers, lengths, forbidden words.
//!
//! Each check is pure over the files it is given and has its own negative case in its tests.

mod imports;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::build::{cargo, root};
use crate::tally::Tally;

/// `cargo xtask tidy`.
pub(crate) fn run() -> Result<ExitCode> {
    let tally = tally()?;
    println!("tidy: {} checks passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every check and prints what is wrong.
pub(crate) fn tally() -> Result<Tally> {
    let files = tracked()?;
    let mut problems = Vec::new();
    let mut passed = 0;
    for (name, found) in [
        ("import table", imports::crate_table(&metadata()?)?),
        ("imports inside crates", each(&files, imports::inside)),
        ("file headers", each(&files, text::header)),
        ("file length", each(&files, text::length)),
        ("front pages", each(&files, text::front_page)),
        ("words and calls", each(&files, text::words)),
        ("adr index", text::adr_index(&files)),
    ] {
        if found.is_empty() {
            passed += 1;
        }
        problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    for problem in &problems {
        println!("tidy: {problem}");
    }
    Ok(Tally { passed, failed: problems.len() as u64, skipped: 0 })
}

/// A file of the checkout, by its path from the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Whether it is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is only built for tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.starts_with("interop/")
    }

    /// The part before the first test module.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]")
    }
}

fn each(files: &[Source], check: fn(&Source) -> Vec<String>) -> Vec<String> {
    files.iter().flat_map(check).collect()
}

/// What git tracks or would track, as text.
fn tracked() -> Result<Vec<Source>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("list files with git")?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files = Vec::new();
    for path in names.lines() {
        let full: PathBuf = root().join(path);
        if let Ok(text) = fs::read_to_string(&full) {
            files.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

fn metadata() -> Result<serde_json::Value> {
    let output =
        cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]).output()?;
    serde_json::from_slice(&output.stdout).context("read cargo metadata")
}

/// The folder of the crate that a path lies in: the first one, or the second below `jepsen-like`.
pub(crate) fn crate_of(path: &str) -> &str {
    let path = path.strip_prefix("jepsen-like/").unwrap_or(path);
    Path::new(path).iter().next().and_then(|part| part.to_str()).unwrap_or("")
}
