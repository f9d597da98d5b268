//! What observers compare: state hashes of members, bundles as they were served.

use std::collections::HashMap;

use crate::history::{Bundle, History};
use crate::verdict::{CheckReport, Violation};

/// Checks that members with one revision and level have one state hash.
pub fn state_hashes(history: &History) -> CheckReport {
    let mut first = HashMap::new();
    let mut verdict = Ok(());
    for (line, seen) in &history.hashes {
        let key = (seen.revision, seen.level);
        let (earlier, other): &mut (u64, &crate::history::StateHash) =
            first.entry(key).or_insert((*line, seen));
        if other.hash != seen.hash {
            let what = format!("state hashes differ at revision {}", seen.revision);
            verdict = Err(Violation::new(what)
                .with(*earlier, format!("member {}: {}", other.member, other.hash))
                .with(*line, format!("member {}: {}", seen.member, seen.hash)));
            break;
        }
    }
    CheckReport::new("state_hash", history.hashes.len() as u64, verdict)
}

/// Checks that no observer and no member takes a bundle's sequence back, and that equal sequences have
/// equal content and other content another sequence.
pub fn bundle_sequences(history: &History) -> CheckReport {
    let mut last: HashMap<(bool, &str, &str), (u64, &Bundle)> = HashMap::new();
    let mut by_sequence: HashMap<(&str, u64), (u64, &Bundle)> = HashMap::new();
    let mut by_content: HashMap<(&str, &str), (u64, &Bundle)> = HashMap::new();
    let mut verdict = Ok(());
    for (line, bundle) in &history.bundles {
        let domain = bundle.trust_domain.as_str();
        let observer = Some((true, bundle.observer.as_str()));
        let member = bundle.member.as_deref().map(|member| (false, member));
        for (is_observer, name) in observer.into_iter().chain(member) {
            let before = last.insert((is_observer, name, domain), (*line, bundle));
            if let Some(before) = before.filter(|(_, before)| before.sequence > bundle.sequence) {
                let who = if is_observer { "observer" } else { "member" };
                let what = format!("the bundle of {domain} goes back at {who} {name}");
                verdict = verdict.and(Err(between(what, before, (*line, bundle))));
            }
        }
        let first = *by_sequence.entry((domain, bundle.sequence)).or_insert((*line, bundle));
        if first.1.digest != bundle.digest {
            let what = format!("two bundles of {domain} have sequence {}", bundle.sequence);
            verdict = verdict.and(Err(between(what, first, (*line, bundle))));
        }
        let first = *by_content.entry((domain, &bundle.digest)).or_insert((*line, bundle));
        if first.1.sequence != bundle.sequence {
            // A bundle that becomes what it was before is new all the same, but it is never seen: keys
            // are never published twice.
            let what = format!("one bundle of {domain} has two sequences");
            verdict = verdict.and(Err(between(what, first, (*line, bundle))));
        }
        if verdict.is_err() {
            break;
        }
    }
    CheckReport::new("bundle", history.bundles.len() as u64, verdict)
}

fn between(what: String, before: (u64, &Bundle), after: (u64, &Bundle)) -> Violation {
    let show = |bundle: &Bundle| {
        format!("{} saw sequence {} ({})", bundle.observer, bundle.sequence, bundle.digest)
    };
    Violation::new(what).with(before.0, show(before.1)).with(after.0, show(after.1))
}
