//! How long runs go on that replace authorities, of one trust domain or of two.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use crate::options::{Options, USAGE};

/// So many rotations are what CI waits for.
const QUICK: usize = 2;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// How often both authorities are replaced, on each side where there are two, each time after
    /// the one before has left.
    pub(crate) rotations: usize,
    pub(crate) seed: u64,
    pub(crate) out: PathBuf,
}

impl Wanted {
    /// Parses a command line.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut wanted =
            Self { rotations: 100, seed: 1, out: std::env::temp_dir().join("steeple-chaos") };
        let mut left = words.iter();
        while let Some(flag) = left.next() {
            let value = left.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--rotations" => wanted.rotations = value.parse().context("--rotations")?,
                "--seed" => wanted.seed = value.parse().context("--seed")?,
                "--out" => wanted.out = value.into(),
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        ensure!(wanted.rotations > 0, "--rotations is 1 or more");
        Ok(wanted)
    }

    /// A short one, for CI.
    pub(crate) fn quick(options: &Options) -> Self {
        Self { rotations: QUICK, seed: options.seeds.start, out: options.out.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wanted> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Wanted::parse(&words)
    }

    #[test]
    fn a_command_line_says_how_many_and_with_which_seed() {
        let wanted = parse("--rotations 7 --seed 3 --out x").unwrap();
        assert_eq!(wanted, Wanted { rotations: 7, seed: 3, out: "x".into() });
        assert_eq!(parse("").unwrap().rotations, 100);
        for line in ["--rotations 0", "--rotations", "--downs 3", "--seed x"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
