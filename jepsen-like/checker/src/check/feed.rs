//! The change feed: per subscriber ordered, unique and complete, also through a resume; the same for
//! all; and what it says is what was acknowledged.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Change, FeedStep, History, ItemReply, Operation, Reply};
use crate::model::compare::is_known;
use crate::verdict::{CheckReport, Violation};

/// Bits of a revision below the epoch.
const EPOCH_SHIFT: u32 = 40;

/// A subscriber's place.
struct Place {
    revision: u64,
    line: u64,
}

/// Checks every subscription.
pub fn feed(history: &History) -> CheckReport {
    let examined = history.feeds.len() as u64;
    CheckReport::new("feed", examined, check(history))
}

fn check(history: &History) -> Result<(), Violation> {
    let expected = effective(history)?;
    let mut places: HashMap<&str, Place> = HashMap::new();
    for (line, feed) in &history.feeds {
        let name = feed.subscriber.as_str();
        let place = places.get(name);
        let next = match &feed.step {
            FeedStep::Start { revision } => {
                if let Some(place) = place.filter(|place| *revision < place.revision) {
                    return Err(Violation::new(format!("a resync takes {name} back"))
                        .with(place.line, format!("had revision {}", place.revision))
                        .with(*line, format!("starts at {revision}")));
                }
                *revision
            }
            FeedStep::Resume { revision } => {
                if let Some(place) = place.filter(|place| place.revision != *revision) {
                    return Err(Violation::new(format!("{name} resumes where it is not"))
                        .with(place.line, format!("has revision {}", place.revision))
                        .with(*line, format!("resumes at {revision}")));
                }
                *revision
            }
            FeedStep::Batch { revision, .. } => {
                let Some(place) = place else {
                    let what = format!("{name} gets a batch before its start");
                    return Err(Violation::new(what).with(*line, format!("revision {revision}")));
                };
                follows(history, name, place, *revision, *line, &expected)?;
                *revision
            }
        };
        places.insert(name, Place { revision: next, line: *line });
    }
    Ok(())
}

/// Whether a batch is the next one.
fn follows(
    history: &History,
    name: &str,
    place: &Place,
    revision: u64,
    line: u64,
    expected: &BTreeMap<u64, u64>,
) -> Result<(), Violation> {
    if revision <= place.revision {
        let what = if revision == place.revision { "twice" } else { "out of order" };
        return Err(Violation::new(format!("{name} gets revision {revision} {what}"))
            .with(place.line, format!("has revision {}", place.revision))
            .with(line, format!("batch of revision {revision}")));
    }
    let missed = expected.range(place.revision + 1..revision).next();
    if let Some((missed, shown)) = missed {
        return Err(Violation::new(format!("{name} misses revision {missed}"))
            .with(place.line, format!("has revision {}", place.revision))
            .with(*shown, format!("shows changes at revision {missed}"))
            .with(line, format!("next batch is {revision}")));
    }
    let same_epoch = revision >> EPOCH_SHIFT == place.revision >> EPOCH_SHIFT;
    if history.header.feed_is_dense && same_epoch && revision != place.revision + 1 {
        return Err(Violation::new(format!("{name} misses what lies before revision {revision}"))
            .with(place.line, format!("has revision {}", place.revision))
            .with(line, format!("next batch is {revision}")));
    }
    Ok(())
}

/// Revisions that surely changed something, with the line that shows it; batches of one revision are
/// compared on the way.
fn effective(history: &History) -> Result<BTreeMap<u64, u64>, Violation> {
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for call in &history.calls {
        if let Some(revision) = call.revision().filter(|_| call.op.is_write())
            && call.reply().is_some_and(|reply| has_changed(&call.op, reply))
        {
            found.entry(revision).or_insert(call.line());
        }
    }
    let mut batches: HashMap<u64, (u64, &[Change])> = HashMap::new();
    for (line, feed) in &history.feeds {
        let FeedStep::Batch { revision, changes } = &feed.step else { continue };
        let (first, other) = batches.entry(*revision).or_insert((*line, changes));
        if *other != changes.as_slice() {
            return Err(Violation::new(format!("two batches of revision {revision} differ"))
                .with(*first, format!("{other:?}"))
                .with(*line, format!("{changes:?}")));
        }
        if changes.iter().any(is_known) {
            found.entry(*revision).or_insert(*line);
        }
    }
    Ok(found)
}

/// Whether a reply says that there are changes in the feed.
fn has_changed(op: &Operation, reply: &Reply) -> bool {
    match reply {
        Reply::Items(items) => items.iter().any(|item| match item {
            ItemReply::Created(_)
            | ItemReply::Updated(_)
            | ItemReply::Federated(_)
            | ItemReply::Deleted => true,
            ItemReply::Similar(_) | ItemReply::Rejected(_) => false,
        }),
        // Tokens have no changes; their aliases may be similar to what exists.
        Reply::Done => !matches!(op, Operation::CreateToken(_) | Operation::InitCluster { .. }),
        // What was pruned may be tokens.
        Reply::Pruned(_)
        | Reply::Rejected(_)
        | Reply::Entry(_)
        | Reply::Page(_)
        | Reply::Agent(_)
        | Reply::Relationship(_)
        | Reply::Count(_) => false,
    }
}
