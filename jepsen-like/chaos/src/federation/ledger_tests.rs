//! What the ledger lets pass and what it does not. Times are seconds.

use super::*;

const VIEW: View = View { of: Which::Foo, by: Which::Bar, kind: Kind::X509 };

/// Within so long a change has to arrive.
const LONGEST: Duration = Duration::from_secs(8);

/// What is published: when, its sequence, whose.
type Bundles<'a> = &'a [(u64, u64, &'a [&'a str])];
/// What a workload of the other side holds: from when on, whose.
type Held<'a> = &'a [(u64, &'a [&'a str])];
/// What was signed: when, until when, by whom.
type Svids<'a> = &'a [(u64, u64, &'a str)];

struct Times(Instant);

impl Times {
    fn at(&self, s: u64) -> Instant {
        self.0 + Duration::from_secs(s)
    }
}

fn value(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn keys(names: &[&str]) -> Keys {
    names.iter().map(|name| ((*name).to_owned(), value(name))).collect()
}

/// A ledger in which time has begun a hundred seconds ago.
fn ledger(bundles: Bundles<'_>, held: Held<'_>, svids: Svids<'_>) -> (Ledger, Times) {
    let mut ledger = Ledger::new();
    let times = Times(Instant::now().checked_sub(Duration::from_secs(100)).unwrap());
    ledger.start = times.at(0);
    for (s, sequence, names) in bundles {
        let content: Content =
            names.iter().map(|name| ((Kind::X509, (*name).to_owned()), value(name))).collect();
        ledger.published_at(Which::Foo, *sequence, content, times.at(*s));
    }
    let all = held.iter().map(|(s, names)| Holding { at: times.at(*s), keys: keys(names) });
    ledger.held.insert(VIEW, all.collect());
    for (from, to, name) in svids {
        let key = (Kind::X509, (*name).to_owned());
        ledger.note_svid(Which::Foo, key, (times.at(*from), times.at(*to)));
    }
    (ledger, times)
}

/// What is wrong with what bar's workload holds of foo's.
fn wrong(ledger: &Ledger) -> (Totals, Vec<String>) {
    let (totals, wrong) = ledger.judge(LONGEST);
    // The other views are not looked at here.
    let wrong = wrong.into_iter().filter(|what| !what.starts_with("nobody saw"));
    (totals, wrong.collect())
}

#[test]
fn an_svid_is_held_against_all_that_was_held_from_its_signature_to_its_end() {
    let bundles: Bundles<'_> = &[(0, 1, &["a"]), (10, 2, &["a", "b"])];
    let held: Held<'_> = &[(1, &["a"]), (12, &["a", "b"])];
    let (totals, none) = wrong(&ledger(bundles, held, &[(2, 20, "a"), (12, 30, "b")]).0);
    assert_eq!(none, [] as [&str; 0]);
    assert_eq!((totals.across, totals.svids), (3, 2));
    let (_, early) = wrong(&ledger(bundles, held, &[(11, 30, "b")]).0);
    assert_eq!(early.len(), 1, "{early:?}");
}

#[test]
fn beyond_a_cut_that_was_too_long_refusals_are_counted_apart() {
    let bundles: Bundles<'_> = &[(0, 1, &["a"]), (10, 2, &["a", "b"])];
    let held: Held<'_> = &[(1, &["a"]), (40, &["a", "b"])];
    let (mut ledger, times) = ledger(bundles, held, &[(15, 30, "b")]);
    ledger.foo.closed.push((times.at(9), Some(times.at(41))));
    let (totals, none) = wrong(&ledger);
    assert_eq!((totals.refused, none), (1, Vec::new()));
    ledger.foo.closed = vec![(times.at(16), Some(times.at(41)))];
    assert!(!wrong(&ledger).1.is_empty(), "it was refused before");
}

#[test]
fn a_change_arrives_in_time_and_faults_are_not_counted() {
    let bundles: Bundles<'_> = &[(0, 1, &["a"]), (10, 2, &["a", "b"])];
    let (mut ledger, times) = ledger(bundles, &[(1, &["a"]), (20, &["a", "b"])], &[]);
    assert_eq!(wrong(&ledger).1.len(), 1, "ten seconds");
    ledger.faults = vec![(times.at(5), Some(times.at(12))), (times.at(11), Some(times.at(13)))];
    let (totals, none) = wrong(&ledger);
    assert_eq!(none, [] as [&str; 0]);
    let s = Duration::from_secs;
    assert_eq!((totals.worst, totals.worst_connected, totals.undisturbed), (s(10), s(7), 0));
}

#[test]
fn what_never_arrives_or_never_leaves_is_late_for_ever() {
    let bundles: Bundles<'_> = &[(0, 1, &["a"]), (10, 2, &["a", "b"]), (20, 3, &["b"])];
    let (comes_not, _) = ledger(&bundles[..2], &[(1, &["a"])], &[]);
    assert_eq!(wrong(&comes_not).1.len(), 1);
    let (stays, _) = ledger(bundles, &[(1, &["a"]), (11, &["a", "b"])], &[]);
    assert_eq!(wrong(&stays).1.len(), 1);
    let (fine, _) = ledger(bundles, &[(1, &["a"]), (11, &["a", "b"]), (21, &["b"])], &[]);
    let (totals, none) = wrong(&fine);
    assert_eq!((totals.changes, totals.undisturbed, none), (2, 2, Vec::new()));
}

#[test]
fn what_had_left_comes_back_to_nobody_and_nothing_is_held_that_nobody_published() {
    let bundles: Bundles<'_> = &[(0, 1, &["a"]), (10, 2, &["a", "b"])];
    let held: Held<'_> = &[(1, &["a"]), (11, &["a", "b"]), (12, &["a"]), (13, &["a", "b"])];
    let (_, back) = wrong(&ledger(bundles, held, &[]).0);
    assert_eq!(back.len(), 1, "{back:?}");
    let (_, strange) = wrong(&ledger(bundles, &[(1, &["a", "x"]), (11, &["a", "b", "x"])], &[]).0);
    assert_eq!(strange.len(), 1, "{strange:?}");
}

#[test]
fn one_sequence_is_one_bundle_and_never_goes_back() {
    let (mut ledger, times) = ledger(&[(0, 1, &["a"])], &[(1, &["a"])], &[]);
    ledger.foo.stored = vec![(times.at(1), times.at(2), 5), (times.at(1), times.at(3), 4)];
    assert_eq!(wrong(&ledger).1, [] as [&str; 0], "they were asked at the same time");
    ledger.foo.stored.push((times.at(4), times.at(5), 4));
    assert_eq!(wrong(&ledger).1.len(), 1);
    ledger.foo.stored.clear();
    ledger.foo.stored_contents.insert(1, Content::new());
    assert_eq!(wrong(&ledger).1.len(), 1, "something else was published");
}
