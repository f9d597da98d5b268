//! The witness pass: revisions say in which order things happened; the model says whether that order
//! explains every reply. O(n log n) where no alternatives must be tried.

use super::keys::{self, is_on_one_row};
use super::replay::{Misfit, Plan, Played, play};
use super::requests::Request;
use super::timeline::{Timeline, What};
use crate::history::History;
use crate::model::Limits;
use crate::verdict::{CheckReport, Verdict};

/// Replays with other alternatives before the pass gives up.
const REPLAYS_MAX: usize = 64;

/// Earlier places that are tried for one request.
const PLACES_MAX: usize = 16;

/// Checks every reply against the model at the reply's revision.
pub fn witness(history: &History, limits: Limits) -> CheckReport {
    let timeline = match Timeline::of(history) {
        Ok(timeline) => timeline,
        Err(violation) => {
            let examined = history.calls.len() as u64;
            return CheckReport::new("witness", examined, Verdict::Violation(violation));
        }
    };
    let examined = timeline.steps.len() as u64;
    let (verdict, placed) = decide(&timeline, limits);
    let mut report = CheckReport::new("witness", examined, verdict);
    let open = timeline.requests.iter().filter(|request| request.known.is_none()).count();
    if open > 0 {
        report.notes.push(format!("{open} requests of unknown outcome, {placed} found applied"));
    }
    report
}

fn decide(timeline: &Timeline<'_>, limits: Limits) -> (Verdict, usize) {
    let mut plan = Plan::default();
    let mut replays = 0;
    let mut worst: Option<Misfit> = None;
    loop {
        let Played { ways, placed, misfit } = play(timeline, limits, &plan);
        let Some(misfit) = misfit else { return (Verdict::Pass, placed) };
        replays += 1;
        let is_cut = misfit.is_cut || worst.as_ref().is_some_and(|worst| worst.is_cut);
        let deepest = match worst.take() {
            Some(worst) if worst.step >= misfit.step => worst,
            Some(_) | None => misfit,
        };
        worst = Some(Misfit { is_cut, ..deepest });
        if replays >= REPLAYS_MAX || !next_choices(&mut plan.choices, &ways) {
            break;
        }
    }
    let Some(misfit) = worst else { return (Verdict::Pass, 0) };
    if replays < REPLAYS_MAX {
        for early in early_places(timeline, &misfit).into_iter().take(REPLAYS_MAX) {
            let plan = Plan { choices: Vec::new(), early: Some(early) };
            let Played { placed, misfit: None, .. } = play(timeline, limits, &plan) else {
                continue;
            };
            return (Verdict::Pass, placed + 1);
        }
    }
    (verdict(timeline, misfit, replays >= REPLAYS_MAX), 0)
}

/// Takes the next alternative at the last choice that has one left; false if there is none.
fn next_choices(choices: &mut Vec<usize>, ways: &[usize]) -> bool {
    choices.resize(ways.len(), 0);
    for count in ways.iter().rev() {
        let Some(choice) = choices.pop() else { return false };
        if choice + 1 < *count {
            choices.push(choice + 1);
            return true;
        }
    }
    false
}

/// Requests of unknown outcome over several rows that touch what does not fit.
fn wide(timeline: &Timeline<'_>, misfit: &Misfit) -> Vec<usize> {
    let line = timeline.steps.get(misfit.step).map_or(0, |step| step.line);
    let meets = |request: &Request| {
        let keys = keys::of_operation(&request.op, request.id.as_deref());
        request.known.is_none()
            && request.invoked < line
            && !is_on_one_row(&request.op)
            && !keys.is_disjoint(&misfit.keys)
    };
    let all = timeline.requests.iter().enumerate();
    all.filter(|(_, request)| meets(request)).map(|(place, _)| place).collect()
}

/// Places before the misfit where an open request over several rows may have taken effect.
fn early_places(timeline: &Timeline<'_>, misfit: &Misfit) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    for place in wide(timeline, misfit) {
        let Some(request) = timeline.requests.get(place) else { continue };
        let touched = keys::of_operation(&request.op, None);
        let floor = timeline.floors.get(place).copied().unwrap_or(0);
        let earlier = timeline.steps.iter().enumerate().take(misfit.step).rev();
        let after_floor = earlier.take_while(|(_, step)| step.revision > floor);
        let meets = after_floor.filter(|(_, step)| match step.what {
            What::Write(other) => timeline
                .requests
                .get(other)
                .is_some_and(|other| !keys::of_operation(&other.op, None).is_disjoint(&touched)),
            What::Seen(_) | What::Read(_) | What::List(..) => false,
        });
        places.extend(meets.take(PLACES_MAX).map(|(number, _)| (number, place)));
    }
    places
}

fn verdict(timeline: &Timeline<'_>, misfit: Misfit, gave_up: bool) -> Verdict {
    let why = if gave_up {
        "too many ways to place requests of unknown outcome"
    } else if misfit.is_cut {
        "too many requests of unknown outcome touch one row"
    } else if !wide(timeline, &misfit).is_empty() {
        "a request of unknown outcome over several rows may explain it"
    } else {
        return Verdict::Violation(misfit.violation);
    };
    let lines: Vec<String> = misfit
        .violation
        .evidence
        .iter()
        .map(|evidence| format!("line {}: {}", evidence.line, evidence.note))
        .collect();
    Verdict::Undecided(format!("{}, but {why}; {}", misfit.violation.what, lines.join("; ")))
}
