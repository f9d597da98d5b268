//! A second opinion from another language: porcupine and the black-box pass agree on entries.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use steeple_checker::history::*;
use steeple_checker::*;

use crate::generator::{Rng, Shape, valid};
use crate::program::text;

/// Histories compared.
const HISTORIES: u64 = 24;

#[test]
fn porcupine_agrees_on_entries() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("porcupine");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/porcupine");
    let build = Command::new("go")
        .current_dir(source)
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .output();
    let build = match build {
        Ok(build) => build,
        Err(error) => return skip(&format!("cannot start go: {error}")),
    };
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let mut illegal = 0;
    for seed in 0..HISTORIES {
        let mut lines =
            valid(seed, Shape { everything: false, expiring: false, ..Shape::default() });
        if seed % 2 == 1 {
            forget_one_entry(&mut lines, &mut Rng(seed));
        }
        let path = folder.path().join(format!("{seed}.jsonl"));
        std::fs::write(&path, text(&lines)).unwrap();
        let theirs = Command::new(&program).arg(&path).output().unwrap();
        let history = History::from_lines(lines).unwrap();
        let ours = check::blackbox::blackbox(&history, u64::MAX).verdict;
        let said = String::from_utf8_lossy(&theirs.stdout).into_owned();
        assert_eq!(
            theirs.status.code(),
            Some(i32::from(!ours.is_pass())),
            "{seed}: {said} {ours:?}"
        );
        illegal += u64::from(!ours.is_pass());
    }
    println!("{HISTORIES} histories, {illegal} not linearizable, both agree");
    assert!(illegal > HISTORIES / 4, "{illegal}");
}

/// Turns a read of an entry into one of nothing; whether that is a lie, both must say alike.
fn forget_one_entry(lines: &mut [Line], rng: &mut Rng) {
    let mut shown: Vec<&mut Reply> = lines
        .iter_mut()
        .filter_map(|line| match &mut line.event {
            Event::Complete(Complete { outcome: Outcome::Ok { reply, .. }, .. }) => Some(reply),
            _ => None,
        })
        .filter(|reply| matches!(reply, Reply::Entry(Some(_))))
        .collect();
    let at = rng.below(shown.len() as u64) as usize;
    *shown[at] = Reply::Entry(None);
}

/// Says that the test did not run, where skips are counted too.
fn skip(reason: &str) {
    eprintln!("SKIPPED checker-porcupine: {reason}");
    let Some(path) = std::env::var_os("STEEPLE_SKIPS") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "checker-porcupine\t{reason}").unwrap();
}
