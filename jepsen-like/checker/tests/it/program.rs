//! `steeple-check`: its words and exit codes; what the reader refuses; what coverage demands.

use std::process::Command;

use steeple_checker::history::*;
use steeple_checker::*;

use crate::generator::{Shape, valid};
use crate::valid::settings;

pub(crate) fn text(lines: &[Line]) -> String {
    let mut writer = Writer::new(Vec::new());
    lines.iter().for_each(|line| writer.write(line).unwrap());
    String::from_utf8(writer.into_inner()).unwrap()
}

fn run(text: &str, words: &[&str]) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), serde_json::to_string(&settings().requirements).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_steeple-check"));
    command.args(words).arg("--require").arg(rules.path()).arg(file.path());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn exit_code_is_zero_for_a_pass_alone() {
    let mut lines = valid(1, Shape::default());
    let (code, said) = run(&text(&lines), &[]);
    assert_eq!((code, said.lines().last()), (Some(0), Some("verdict: pass")), "{said}");
    for (hash, line) in [("a", 0), ("b", 1)] {
        let hash = StateHash { member: hash.into(), revision: 1, level: 1, hash: hash.into() };
        let at_ns = lines.len() as u64 + line;
        lines.push(Line { at_ns, wall_ms: 0, event: Event::StateHash(hash) });
    }
    let (code, said) = run(&text(&lines), &[]);
    assert_eq!((code, said.lines().last()), (Some(1), Some("verdict: VIOLATION")), "{said}");
    let (code, said) = run(&text(&lines), &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let hash = report["checks"].as_array().unwrap().iter().find(|c| c["check"] == "state_hash");
    assert!(code == Some(1) && hash.unwrap()["verdict"]["violation"].is_object(), "{said}");
    let header = text(&lines[..1]);
    assert_eq!(run(&header, &[]).0, Some(1), "an empty run is no pass");
    assert_eq!(run("nonsense", &[]).0, Some(2));
    assert_eq!(run(&header, &["--unknown"]).0, Some(2));
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let good = text(&valid(1, Shape::default())[..1]);
    let invoke = |at: u64, client: u64, call: u64| {
        format!(
            r#"{{"at_ns":{at},"event":{{"invoke":{{"client":{client},"call":{call},"op":"count_entries"}}}}}}"#
        )
    };
    let done = |at: u64, call: u64, reply: &str| {
        format!(
            r#"{{"at_ns":{at},"event":{{"complete":{{"call":{call},"outcome":{{"ok":{{"revision":1,"reply":{reply}}}}}}}}}}}"#
        )
    };
    let count = r#"{"count":0}"#;
    for (lines, expected) in [
        (vec![String::new()], "no events"),
        (vec![invoke(1, 1, 1)], "line 1: not a history header"),
        (vec![good.trim().replace("\"version\":1", "\"version\":2")], "line 1: version 2"),
        (vec![good.trim().into(), "{".into()], "line 2: no event"),
        (vec![good.trim().into(), r#"{"at_ns":1,"event":{"invoke":{"client":1,"call":1,"op":"count_entries","more":1}}}"#.into()], "line 2: no event"),
        (vec![good.trim().into(), good.trim().into()], "line 2: a second header"),
        (vec![good.trim().into(), invoke(5, 1, 1), invoke(4, 2, 2)], "line 3: at_ns 4"),
        (vec![good.trim().into(), invoke(5, 1, 1), invoke(6, 1, 2)], "line 3: client 1 has call 1 open"),
        (vec![good.trim().into(), invoke(5, 1, 1), invoke(6, 2, 1)], "line 3: call 1 was invoked before"),
        (vec![good.trim().into(), done(5, 1, count)], "line 2: call 1 never began"),
        (vec![good.trim().into(), invoke(5, 1, 1), done(6, 1, count), done(7, 1, count)], "line 4: call 1 has ended before"),
        (vec![good.trim().into(), invoke(5, 1, 1), done(6, 1, r#""done""#)], "line 3: the reply of call 1"),
    ] {
        let text = lines.join("\n");
        let error = match History::read(text.as_bytes(), ReadLimits::default()) {
            Ok(_) => "accepted".to_owned(),
            Err(HistoryError::NoHeader) if text.is_empty() => "no events".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(error.starts_with(expected), "{error:?} instead of {expected:?}");
    }
    let limits = ReadLimits { line_bytes: 40, lines: 9 };
    assert!(matches!(
        History::read(good.as_bytes(), limits),
        Err(HistoryError::TooLong { line: 1, .. })
    ));
    let limits = ReadLimits { lines: 1, ..ReadLimits::default() };
    let two = format!("{good}{}", invoke(1, 1, 1));
    assert!(matches!(
        History::read(two.as_bytes(), limits),
        Err(HistoryError::TooMany { limit: 1 })
    ));
}

#[test]
fn what_was_not_exercised_is_no_pass() {
    let lines = valid(2, Shape::default());
    let base = settings().requirements;
    let with = |change: &dyn Fn(&mut Requirements)| {
        let mut requirements = base.clone();
        change(&mut requirements);
        requirements
    };
    let set = |name: &str| [name.to_owned()].into();
    for (requirements, expected) in [
        (with(&|r| r.operations = [OperationKind::InitCluster].into()), "InitCluster was never ok"),
        (with(&|r| r.unknown_percent_max = 0.0), "calls are of unknown outcome"),
        (with(&|r| r.ok_before_faults_percent_min = 100.1), "too few writes"),
        (with(&|r| r.faults = set("flood")), "fault flood was never installed"),
        (with(&|r| r.leader_and_follower = set("flood")), "fault flood was never installed"),
        (with(&|r| r.marks = [("election".to_owned(), 1)].into()), "election: 0 of 1"),
        (with(&|r| r.examined = [("feed".to_owned(), 1_000_000)].into()), "check feed looked at"),
    ] {
        let history = History::from_lines(lines.clone()).unwrap();
        let report = check(&history, &Settings { requirements, ..Settings::default() });
        let Verdict::Uncovered(missing) = report.overall() else { panic!("{report}") };
        assert!(missing.len() == 1 && missing[0].contains(expected), "{missing:?}: {expected}");
    }
}
