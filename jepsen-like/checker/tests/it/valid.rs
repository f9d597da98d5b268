//! Valid histories pass, whatever was lost or late in them.

use steeple_checker::history::ReadLimits;
use steeple_checker::*;

use crate::generator::{Shape, valid};

/// How random histories are checked: no share of unknown outcomes is too large for their size.
pub(crate) fn settings() -> Settings {
    let requirements = Requirements {
        tried_operations: false,
        unknown_percent_max: 50.0,
        ok_before_faults_percent_min: 0.0,
        ..Requirements::default()
    };
    Settings { requirements, ..Settings::default() }
}

#[test]
fn valid_histories_of_every_kind_pass() {
    let mut placed = 0;
    for seed in 0..120 {
        for (lost, everything) in [(0, true), (4, true), (12, false)] {
            let expiring = everything && seed % 2 == 0;
            let shape = Shape { lost, everything, expiring, ..Shape::default() };
            let history = History::from_lines(valid(seed, shape)).unwrap();
            let report = check(&history, &settings());
            assert_eq!(report.overall(), Verdict::Pass, "seed {seed}, lost {lost}: {report}");
            placed += report.checks[0].notes.len();
        }
    }
    assert!(placed > 120, "unknown outcomes must occur");
}

#[test]
fn text_and_back_is_the_same_history() {
    let lines = valid(7, Shape::default());
    let mut writer = history::Writer::new(Vec::new());
    lines.iter().for_each(|line| writer.write(line).unwrap());
    let text = writer.into_inner();
    let mut reader = history::Reader::new(text.as_slice(), ReadLimits::default());
    let mut back = Vec::new();
    while let Some((number, line)) = reader.next_line().unwrap() {
        assert_eq!(number, back.len() as u64 + 1);
        back.push(line);
    }
    assert_eq!(back, lines);
}

#[test]
fn same_seed_makes_same_history() {
    assert_eq!(valid(3, Shape::default()), valid(3, Shape::default()));
    assert_ne!(valid(3, Shape::default()), valid(4, Shape::default()));
}

#[test]
fn an_admission_of_unknown_outcome_may_have_removed_a_token_that_had_expired() {
    let lines = [
        r#"{"header":{"version":1,"name":"by hand","seed":0,"uninitialised":false,"bundles":[],"background_prune":false,"feed_is_dense":false}}"#,
        r#"{"invoke":{"client":1,"call":1,"request_id":"r1","op":{"create_token":{"token":"t","expires_at_ms":2000}}}}"#,
        r#"{"complete":{"call":1,"outcome":{"ok":{"revision":1,"time_ms":1000,"reply":"done"}}}}"#,
        r#"{"invoke":{"client":1,"call":2,"request_id":"r2","op":{"admit_agent":{"token":"t","agent_id":"a","attestation_type":"join_token","serial":"1","not_after_ms":90000,"selectors":[],"can_reattest":false,"seen":"absent","public_key":"k"}}}}"#,
        r#"{"complete":{"call":2,"outcome":{"unknown":{"text":"no answer in time"}}}}"#,
        r#"{"invoke":{"client":1,"call":3,"op":{"prune_expired":{"agents_expired_for_s":null,"include_non_reattestable":false,"limit":100}}}}"#,
        r#"{"complete":{"call":3,"outcome":{"ok":{"revision":3,"time_ms":3000,"reply":{"pruned":0}}}}}"#,
    ];
    let text: Vec<String> = (lines.iter().enumerate())
        .map(|(at, event)| format!("{{\"at_ns\":{at},\"wall_ms\":0,\"event\":{event}}}"))
        .collect();
    let witness = |text: &str| {
        let mut reader = history::Reader::new(text.as_bytes(), ReadLimits::default());
        let lines = std::iter::from_fn(|| reader.next_line().unwrap().map(|(_, line)| line));
        let history = History::from_lines(lines.collect::<Vec<_>>()).unwrap();
        check::witness::witness(&history, model::Limits::default()).verdict
    };
    assert_eq!(witness(&text.join("\n")), Verdict::Pass);
    let without: Vec<String> = [&text[..3], &text[5..]].concat();
    assert_eq!(witness(&without.join("\n")).word(), "VIOLATION", "nothing else removes it");
}

/// Says how fast it went with `--no-capture`; nothing depends on that.
#[test]
fn long_histories_are_checked_whole() {
    for calls in [10_000, 20_000] {
        let base = Shape { clients: 8, calls, lost: 1, ..Shape::default() };
        let shape = Shape { calls_per_era: 500, expiring: false, ..base };
        let history = History::from_lines(valid(1, shape)).unwrap();
        let count = history.calls.len() as f64;
        let start = std::time::Instant::now();
        let witness = check::witness::witness(&history, model::Limits::default());
        let took = start.elapsed().as_secs_f64();
        println!(
            "witness: {count} calls, {} in {took:.2} s: {:.0} ops/s",
            witness.verdict.word(),
            count / took
        );
        let start = std::time::Instant::now();
        let blackbox = check::blackbox::blackbox(&history, 10_000_000);
        let took = start.elapsed().as_secs_f64();
        println!(
            "black box: {} actions, {} in {took:.2} s: {:.0} ops/s",
            blackbox.examined,
            blackbox.verdict.word(),
            blackbox.examined as f64 / took
        );
        assert!(witness.verdict.is_pass() && blackbox.verdict.is_pass(), "{witness:?}");
    }
}
