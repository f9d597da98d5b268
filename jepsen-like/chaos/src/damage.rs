//! Damage to the files of a member that does not run: bits that flip, ends that are missing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use steeple_spiffe_core::dice::Dice;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Bits in the newest part of the log.
    LogBits,
    /// The end of the log is gone.
    LogEnd,
    /// Bits in the list of the database's files.
    Manifest,
    /// What names that list.
    Current,
    /// Bits in a table.
    Table,
    /// Bits in the newest snapshot.
    Snapshot,
}

impl Damage {
    /// Every kind, in the order in which they have their turns.
    pub(crate) const ALL: [Self; 6] =
        [Self::LogEnd, Self::Table, Self::Manifest, Self::LogBits, Self::Snapshot, Self::Current];

    /// Its name in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LogBits => "bits in the log",
            Self::LogEnd => "the end of the log",
            Self::Manifest => "bits in MANIFEST",
            Self::Current => "CURRENT",
            Self::Table => "bits in a table",
            Self::Snapshot => "bits in a snapshot",
        }
    }

    /// Whether a member must refuse to start with it. What lies in tables and snapshots shows when it
    /// is read.
    pub(crate) fn is_seen_at_start(self) -> bool {
        match self {
            Self::LogBits | Self::LogEnd | Self::Manifest | Self::Current => true,
            Self::Table | Self::Snapshot => false,
        }
    }

    /// The kinds in the order in which to try them: from a place that is drawn, those that were
    /// done already last.
    pub(crate) fn in_turn(from: usize, done: &[Self]) -> Vec<Self> {
        let (mut turns, mut again) = (Vec::new(), Vec::new());
        for place in from..from + Self::ALL.len() {
            if let Some(damage) = Self::ALL.get(place % Self::ALL.len()) {
                let list = if done.contains(damage) { &mut again } else { &mut turns };
                list.push(*damage);
            }
        }
        turns.append(&mut again);
        turns
    }

    /// Does it to a registry's folder. What: a sentence; none if there is no such file.
    pub(crate) fn inflict(self, raft: &Path, dice: &Dice) -> Result<Option<String>> {
        let Some(path) = self.victim(raft, dice)? else { return Ok(None) };
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let file = OpenOptions::new().write(true).open(&path).context("open what to damage")?;
        let len = bytes.len();
        let how = match self {
            Self::LogEnd => {
                let left = len / 2;
                file.set_len(left as u64).context("cut a file")?;
                format!("{name} cut to {left} of {len} bytes")
            }
            Self::Current => {
                file.set_len(0).context("empty a file")?;
                format!("{name} emptied")
            }
            Self::LogBits | Self::Manifest | Self::Table | Self::Snapshot => {
                let at = dice.place(len);
                let was = bytes.get(at).copied().unwrap_or(0);
                let bit = 1u8 << dice.within(0..=7);
                file.write_all_at(&[was ^ bit], at as u64).context("flip a bit")?;
                format!("one bit of {name} at {at} of {len}")
            }
        };
        file.sync_all().context("sync the damage")?;
        Ok(Some(how))
    }

    fn victim(self, raft: &Path, dice: &Dice) -> Result<Option<PathBuf>> {
        let (folder, is_one): (PathBuf, fn(&str) -> bool) = match self {
            Self::LogBits | Self::LogEnd => (raft.join("db"), |name| name.ends_with(".log")),
            Self::Manifest => (raft.join("db"), |name| name.starts_with("MANIFEST-")),
            Self::Current => (raft.join("db"), |name| name == "CURRENT"),
            Self::Table => (raft.join("db"), |name| name.ends_with(".sst")),
            Self::Snapshot => (raft.to_owned(), |name| name == "snapshot"),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let is_filled = entry.metadata()?.len() > 0;
            if is_filled && is_one(&entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
        }
        // Names of a kind are numbers of one width: the newest comes last.
        found.sort_unstable();
        Ok(match self {
            Self::Table => dice.pick(&found).cloned(),
            Self::LogBits | Self::LogEnd | Self::Manifest | Self::Current | Self::Snapshot => {
                found.pop()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_turn_before_any_has_a_second() {
        let first = Damage::in_turn(4, &[]);
        assert_eq!(first[..2], [Damage::Snapshot, Damage::Current]);
        assert_eq!(first[2], Damage::ALL[0], "around");
        let next = Damage::in_turn(4, &[Damage::Snapshot, Damage::LogEnd]);
        assert_eq!(next[..2], [Damage::Current, Damage::Table]);
        assert_eq!(next[4..], [Damage::Snapshot, Damage::LogEnd], "what was done comes last");
        assert_eq!(next.len(), Damage::ALL.len());
    }

    #[test]
    fn each_kind_changes_one_file_of_its_own_and_says_which() {
        let cases = [
            (Damage::LogBits, "db/000012.log"),
            (Damage::LogEnd, "db/000012.log"),
            (Damage::Manifest, "db/MANIFEST-000004"),
            (Damage::Current, "db/CURRENT"),
            (Damage::Table, "db/000007.sst"),
            (Damage::Snapshot, "snapshot"),
        ];
        assert_eq!(cases.len(), Damage::ALL.len());
        for (damage, victim) in cases {
            let folder = tempfile::tempdir().unwrap();
            let raft = folder.path();
            fs::create_dir(raft.join("db")).unwrap();
            let dice = Dice::new(5, 1);
            assert_eq!(damage.inflict(raft, &dice).unwrap(), None, "nothing is there");
            let files = ["db/000009.log", "db/000012.log", "db/MANIFEST-000004", "db/CURRENT"];
            let files = files.into_iter().chain(["db/000007.sst", "snapshot"]);
            for file in files.clone() {
                fs::write(raft.join(file), [7; 100]).unwrap();
            }
            fs::write(raft.join("db/000013.log"), []).unwrap();
            let how = damage.inflict(raft, &dice).unwrap().unwrap();
            let name = victim.trim_start_matches("db/");
            assert!(how.contains(name), "{how}");
            for file in files {
                let is_same = fs::read(raft.join(file)).unwrap() == [7; 100];
                assert_eq!(is_same, file != victim, "{damage:?} and {file}");
            }
        }
    }
}
