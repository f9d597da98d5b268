//! What it means for a trust domain's bundle that it was not fetched for long, or that its
//! authorities end.
//!
//! Pure, and a matter of times alone, not of how often something failed: so a new leader judges as
//! the last one did, and whoever waits knows when to look again.

use std::fmt;
use std::time::Duration;

use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{Bundle, Timestamp, TrustDomain};

use super::plan::Patience;

/// An authority whose last part of this many is reached, without another one beside it, should have
/// been followed: SPIRE and Steeple publish the next one after half of the lifetime.
const LAST_PART: u32 = 6;

/// That a bundle was fetched and is the known one is noted for everyone once in this time, at the
/// next success: whoever goes by notes knows a success to this time.
pub const NOTE_EVERY: Duration = Duration::from_secs(3600);

/// What is known of a trust domain's bundle.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// Whose it is.
    pub trust_domain: &'a TrustDomain,
    /// The bundle, if there is one.
    pub bundle: Option<&'a Bundle>,
    /// How fetching it goes.
    pub progress: Progress,
    /// How long it may fail before that is worth a word.
    pub patience: Patience,
    /// Whether the endpoint is known by the bundle itself (`https_spiffe`), so that a new one by hand
    /// mends the way.
    pub by_bundle: bool,
    /// Whether the endpoint's certificate leads to nothing in the bundle: its authorities were replaced
    /// while nobody looked.
    pub has_lost_trust: bool,
}

/// How the fetching of a bundle goes, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When it was fetched last; `None`: never.
    pub succeeded_at: Option<Timestamp>,
    /// Whether that is known exactly; else the last success may be up to [`NOTE_EVERY`] later.
    pub is_exact: bool,
    /// Since when it cannot be fetched; `None`: it can, as far as is known.
    pub failing_since: Option<Timestamp>,
}

/// What is to be expected of a bundle, if nothing more is heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// What is wrong with it now; `None`: nothing that a person has to see to.
    pub danger: Option<Danger>,
    /// When that will be another; `None`: not by time alone.
    pub changes_at: Option<Timestamp>,
}

/// A bundle that needs somebody's eye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    trust_domain: TrustDomain,
    /// For how long it has not been fetched; `None`: it is fetched all right.
    unfetched_for: Option<Unfetched>,
    /// When its last X.509 authority ends; `None`: there is no bundle, or it has none.
    ends: Option<Ends>,
    stage: Stage,
    by_bundle: bool,
    has_lost_trust: bool,
}

/// How far a danger has come. Later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// There is time.
    Early,
    /// The last authority is in the last part of its life.
    Ending,
    /// The last authority has ended: nothing of the trust domain is verified any more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfetched {
    For(Duration),
    ForUpTo(Duration),
    Ever,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    In(Duration),
    Ended,
}

/// What is wrong with a trust domain's bundle, and when to look again.
pub fn outlook(followed: Followed<'_>, now: Timestamp) -> Outlook {
    let Followed { trust_domain, bundle, progress, patience, by_bundle, has_lost_trust } = followed;
    let last = bundle.and_then(last_end);
    let late_from = last.map(|last| last.not_after.minus(last.lifetime / LAST_PART));
    let ended_from = last.map(|last| last.not_after);
    let stale_from = stale_from(progress, patience, late_from);
    let is_past = |from: Option<Timestamp>| from.is_some_and(|from| from <= now);
    let stage = match (is_past(ended_from), is_past(late_from)) {
        (true, _) => Stage::Ended,
        (false, true) => Stage::Ending,
        (false, false) => Stage::Early,
    };
    let ends = ended_from.map(|at| match at <= now {
        true => Ends::Ended,
        false => Ends::In(at.since(now)),
    });
    let unfetched_for = is_past(stale_from).then(|| unfetched(progress, now));
    let danger = Danger {
        trust_domain: trust_domain.clone(),
        unfetched_for,
        ends,
        stage,
        by_bundle,
        has_lost_trust,
    };
    let is_dangerous = danger.unfetched_for.is_some() || stage > Stage::Early;
    let times = [stale_from, late_from, ended_from].into_iter().flatten();
    Outlook {
        danger: is_dangerous.then_some(danger),
        changes_at: times.filter(|at| *at > now).min(),
    }
}

/// From when on it matters that a bundle is not fetched. One that never was has nobody who would
/// notice: whoever has set the relationship up looks now.
fn stale_from(
    progress: Progress,
    patience: Patience,
    late_from: Option<Timestamp>,
) -> Option<Timestamp> {
    let Progress { succeeded_at, is_exact: _, failing_since } = progress;
    let failing = failing_since.map(|since| {
        let usual = since.plus(patience.usual);
        // With little time left a failure counts sooner.
        let late = late_from.map(|late| late.max(since.plus(patience.late)));
        match (succeeded_at, late) {
            (None, _) => since,
            (Some(_), None) => usual,
            (Some(_), Some(late)) => usual.min(late),
        }
    });
    // Nobody says that it fails, and the good news are overdue: leaders that end too soon to note
    // anything, or none at all.
    let quiet = succeeded_at.map(|at| at.plus(NOTE_EVERY).plus(patience.usual));
    failing.into_iter().chain(quiet).min()
}

fn unfetched(progress: Progress, now: Timestamp) -> Unfetched {
    match (progress.succeeded_at, progress.is_exact) {
        (None, _) => Unfetched::Ever,
        (Some(at), true) => Unfetched::For(now.since(at)),
        (Some(at), false) => Unfetched::ForUpTo(now.since(at)),
    }
}

/// The X.509 authority that ends last.
#[derive(Clone, Copy)]
struct Last {
    not_after: Timestamp,
    lifetime: Duration,
}

fn last_end(bundle: &Bundle) -> Option<Last> {
    let ends = bundle.x509_authorities.iter().filter_map(|one| {
        let facts = certificate_facts(&one.certificate_der).ok()?;
        let lifetime = facts.not_after.since(facts.not_before);
        Some(Last { not_after: facts.not_after, lifetime })
    });
    ends.max_by_key(|last| last.not_after)
}

impl Danger {
    /// When the last X.509 authority of a bundle ends; `None`: it has none.
    pub fn last_authority_ends(bundle: &Bundle) -> Option<Timestamp> {
        last_end(bundle).map(|last| last.not_after)
    }

    /// Whose bundle it is about.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match (self.unfetched_for, self.ends) {
            (Some(_), _) => "federation_stale",
            (None, _) => "federation_ends",
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        let name = &self.trust_domain;
        // Then fetching mends itself no more, however much time is left.
        let is_lost = self.has_lost_trust || !matches!(self.ends, Some(Ends::In(_)));
        match self.unfetched_for {
            Some(_) if !(self.by_bundle && is_lost) => format!(
                "see what \"spire-server federation refresh -id {name}\" says, and mend the way to its \
                 bundle endpoint"
            ),
            Some(_) => format!(
                "get its bundle from its operators, then: spire-server bundle set -id \
                 spiffe://{name} -path FILE"
            ),
            None => "its own rotation is late: ask its operators".to_owned(),
        }
    }
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.trust_domain;
        match self.unfetched_for {
            Some(Unfetched::For(age)) => {
                write!(f, "the bundle of {name} has not been refreshed for {}", rounded(age))?;
            }
            Some(Unfetched::ForUpTo(age)) => {
                let age = rounded(age);
                write!(f, "the bundle of {name} has not been refreshed for up to {age}")?;
            }
            Some(Unfetched::Ever) => write!(f, "the bundle of {name} was never fetched")?,
            None => write!(f, "the bundle of {name} is fetched, but no new authority is in it")?,
        }
        match self.ends {
            Some(Ends::In(left)) => {
                write!(f, "; its last authority stops verifying in {}", rounded(left))
            }
            Some(Ends::Ended) => f.write_str("; its last authority has stopped verifying"),
            None => Ok(()),
        }
    }
}

/// A time for people: in the largest unit of which there are two.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::bundle::X509Authority;

    use super::*;
    use crate::refresher::peer::{NOW, authority};

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn hours(count: u32) -> Timestamp {
        NOW.plus(HOUR * count)
    }

    fn bar() -> TrustDomain {
        TrustDomain::parse("bar.test").unwrap()
    }

    /// A bundle whose one authority ends after a day; its last part begins after 20 hours.
    fn bundle() -> Bundle {
        let certificate_der = authority("spiffe://bar.test", 24 * HOUR).der;
        let x509_authorities = vec![X509Authority { certificate_der, tainted: false }];
        Bundle { x509_authorities, ..Bundle::empty(bar()) }
    }

    /// A relationship that succeeded and fails since these hours.
    fn progress(succeeded: Option<u32>, failing: Option<u32>) -> Progress {
        let (succeeded_at, failing_since) = (succeeded.map(hours), failing.map(hours));
        Progress { succeeded_at, is_exact: true, failing_since }
    }

    fn at(bundle: Option<&Bundle>, progress: Progress, now: Timestamp) -> Outlook {
        let patience = Patience { usual: HOUR, late: 5 * MINUTE };
        let followed = Followed {
            trust_domain: &bar(),
            bundle,
            progress,
            patience,
            by_bundle: true,
            has_lost_trust: false,
        };
        outlook(followed, now)
    }

    type Told = Option<(&'static str, Stage, String)>;

    fn told(bundle: Option<&Bundle>, progress: Progress, now: Timestamp) -> Told {
        let danger = at(bundle, progress, now).danger?;
        Some((danger.code(), danger.stage(), danger.to_string()))
    }

    fn stale(stage: Stage, text: &str) -> Told {
        Some(("federation_stale", stage, format!("the bundle of bar.test {text}")))
    }

    #[test]
    fn a_bundle_that_grows_old_is_told_with_the_time_that_is_left() {
        let bundle = bundle();
        let whole = Some(&bundle);
        assert_eq!(told(whole, progress(Some(4), None), hours(5)), None, "all is well");
        assert_eq!(told(whole, progress(Some(4), Some(5)), hours(5)), None, "it has failed once");
        let left =
            |text: &str| format!("has not been refreshed for 5 h; its last authority {text}");
        assert_eq!(
            told(whole, progress(Some(5), Some(6)), hours(10)),
            stale(Stage::Early, &left("stops verifying in 14 h"))
        );
        assert_eq!(
            told(whole, progress(Some(16), Some(17)), hours(21)),
            stale(Stage::Ending, &left("stops verifying in 3 h"))
        );
        assert_eq!(
            told(whole, progress(Some(20), Some(21)), hours(25)),
            stale(Stage::Ended, &left("has stopped verifying"))
        );
        let ends = "the bundle of bar.test is fetched, but no new authority is in it; its last \
                    authority stops verifying in 3 h";
        assert_eq!(told(whole, progress(Some(19), None), hours(19)), None);
        assert_eq!(
            told(whole, progress(Some(21), None), hours(21)),
            Some(("federation_ends", Stage::Ending, ends.to_owned()))
        );
    }

    #[test]
    fn one_that_has_never_worked_is_told_at_its_first_failure() {
        let bundle = bundle();
        let never = progress(None, Some(1));
        assert_eq!(told(None, progress(None, None), hours(1)), None, "nobody has tried");
        assert_eq!(told(None, never, hours(1)), stale(Stage::Early, "was never fetched"));
        let by_hand = "was never fetched; its last authority stops verifying in 23 h";
        assert_eq!(told(Some(&bundle), never, hours(1)), stale(Stage::Early, by_hand));
    }

    #[test]
    fn good_news_that_are_overdue_are_bad_news_though_nobody_says_so() {
        let bundle = bundle();
        let noted = Progress { is_exact: false, ..progress(Some(1), None) };
        // The next success may be noted after an hour, and may take the hint.
        let last = hours(3).minus(Duration::from_millis(1));
        assert_eq!(told(Some(&bundle), noted, last), None);
        let text =
            "has not been refreshed for up to 2 h; its last authority stops verifying in 21 h";
        assert_eq!(told(Some(&bundle), noted, hours(3)), stale(Stage::Early, text));
    }

    #[test]
    fn with_little_time_left_a_failure_counts_sooner_and_a_lost_packet_does_not() {
        let bundle = bundle();
        let failing = progress(Some(21), Some(21));
        let code = |minutes: u32| {
            let danger = at(Some(&bundle), failing, hours(21).plus(MINUTE * minutes)).danger;
            danger.map(|danger| danger.code())
        };
        assert_eq!(code(4), Some("federation_ends"));
        assert_eq!(code(5), Some("federation_stale"));
    }

    /// What is told must not depend on when somebody looks.
    #[test]
    fn whoever_looks_when_they_are_told_to_misses_nothing() {
        let bundle = bundle();
        let cases = [
            progress(None, None),
            progress(None, Some(3)),
            progress(Some(1), None),
            progress(Some(1), Some(2)),
            progress(Some(19), Some(20)),
            progress(Some(23), None),
            Progress { is_exact: false, ..progress(Some(18), Some(18)) },
        ];
        for progress in cases {
            let key = |outlook: &Outlook| {
                outlook.danger.as_ref().map(|danger| (danger.code(), danger.stage()))
            };
            let begin = progress.succeeded_at.max(progress.failing_since).unwrap_or(NOW);
            let mut known = at(Some(&bundle), progress, begin);
            for minute in 1..(30 * 60) {
                let now = begin.plus(MINUTE * minute);
                let seen = at(Some(&bundle), progress, now);
                if known.changes_at.is_some_and(|at| at <= now) {
                    assert_ne!(key(&seen), key(&known), "{progress:?}: woken for nothing");
                    known = seen;
                } else {
                    assert_eq!(key(&seen), key(&known), "{progress:?}: {minute} min");
                }
            }
            assert_eq!(known.changes_at, None, "{progress:?}");
        }
    }

    #[test]
    fn the_fix_is_the_command_that_mends_it() {
        let danger = |by_bundle, ends, has_lost_trust| Danger {
            trust_domain: bar(),
            unfetched_for: Some(Unfetched::Ever),
            ends,
            stage: Stage::Early,
            by_bundle,
            has_lost_trust,
        };
        // A web endpoint is not known by the bundle: a new one by hand mends no way.
        let left = Some(Ends::In(HOUR));
        for (by_bundle, ends, has_lost_trust) in [
            (true, left, false),
            (false, None, false),
            (false, Some(Ends::Ended), false),
            (false, left, true),
        ] {
            let fix = danger(by_bundle, ends, has_lost_trust).fix();
            assert!(fix.contains("federation refresh -id bar.test"), "{fix}");
        }
        for (ends, has_lost_trust) in
            [(None, false), (Some(Ends::Ended), false), (left, true), (None, true)]
        {
            let fix = danger(true, ends, has_lost_trust).fix();
            assert!(fix.contains("bundle set -id spiffe://bar.test -path FILE"), "{fix}");
        }
    }

    #[test]
    fn times_are_rounded_for_people() {
        for (seconds, expected) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (18_000, "5 h")]
        {
            assert_eq!(rounded(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(rounded(Duration::from_secs(3 * 86_400)), "3 d");
    }
}
