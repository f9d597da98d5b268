//! What it means for a trust domain's bundle that it was not fetched for long, or that its
//! authorities end.
//!
//! Pure: the same on every replica, from what is replicated.

use std::fmt;
use std::time::Duration;

use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{Bundle, Timestamp, TrustDomain};

/// An authority whose last part of this many is reached, without another one beside it, should have
/// been followed: SPIRE and Steeple publish the next one after half of the lifetime.
const LAST_PART: u32 = 6;

/// What is known of a trust domain's bundle.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// Whose it is.
    pub trust_domain: &'a TrustDomain,
    /// The bundle, if there is one.
    pub bundle: Option<&'a Bundle>,
    /// When it was fetched last, as far as it was noted; `None`: never.
    pub succeeded_at: Option<Timestamp>,
    /// Since when it cannot be fetched; `None`: it can.
    pub failing_since: Option<Timestamp>,
    /// How long it may fail before that is worth a word: the refresh hint.
    pub patience: Duration,
    /// Whether the endpoint is known by the bundle itself (`https_spiffe`), so that a new one by hand
    /// mends the way.
    pub by_bundle: bool,
}

/// A bundle that needs somebody's eye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    trust_domain: TrustDomain,
    /// For how long it has not been fetched; `None`: it is fetched all right.
    unfetched_for: Option<Unfetched>,
    /// When its last X.509 authority ends; `None`: there is no bundle, or it has none.
    ends: Option<Ends>,
    by_bundle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfetched {
    For(Duration),
    Ever,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    In(Duration),
    Ended,
}

/// What is wrong with a trust domain's bundle; `None`: nothing that a person has to see to.
pub fn danger(followed: Followed<'_>, now: Timestamp) -> Option<Danger> {
    let Followed { trust_domain, bundle, succeeded_at, failing_since, patience, by_bundle } =
        followed;
    let fails = failing_since.is_some_and(|since| now.since(since) >= patience);
    let unfetched_for =
        fails.then(|| succeeded_at.map_or(Unfetched::Ever, |at| Unfetched::For(now.since(at))));
    let last = bundle.and_then(last_end);
    let ends = last.map(|last| match last.not_after <= now {
        true => Ends::Ended,
        false => Ends::In(last.not_after.since(now)),
    });
    let is_late = last.is_some_and(|last| last.not_after.since(now) < last.lifetime / LAST_PART);
    let danger = Danger { trust_domain: trust_domain.clone(), unfetched_for, ends, by_bundle };
    (fails || is_late).then_some(danger)
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
        match (self.unfetched_for, self.ends) {
            (Some(_), ends) if !self.by_bundle || matches!(ends, Some(Ends::In(_))) => format!(
                "see what \"spire-server federation refresh -id {name}\" says, and mend the way to its \
                 bundle endpoint"
            ),
            (Some(_), _) => format!(
                "get its bundle from its operators, then: spire-server bundle set -id \
                 spiffe://{name} -path FILE"
            ),
            (None, _) => "its own rotation is late: ask its operators".to_owned(),
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

    #[test]
    fn a_bundle_that_grows_old_is_told_with_the_time_that_is_left() {
        let name = TrustDomain::parse("bar.test").unwrap();
        let certificate_der = authority("spiffe://bar.test", 24 * HOUR).der;
        let x509_authorities = vec![X509Authority { certificate_der, tainted: false }];
        let bundle = Bundle { x509_authorities, ..Bundle::empty(name.clone()) };
        let told = |with: bool, succeeded: Option<u32>, failing: Option<u32>, at: u32| {
            let hours = |count: u32| NOW.plus(HOUR * count);
            let followed = Followed {
                trust_domain: &name,
                bundle: with.then_some(&bundle),
                succeeded_at: succeeded.map(hours),
                failing_since: failing.map(hours),
                patience: HOUR,
                by_bundle: true,
            };
            danger(followed, hours(at)).map(|danger| (danger.code(), danger.to_string()))
        };
        let stale = |text: &str| Some(("federation_stale", text.to_owned()));
        assert_eq!(told(true, Some(1), None, 5), None, "all is well");
        assert_eq!(told(true, Some(1), Some(5), 5), None, "it has failed once");
        assert_eq!(
            told(true, Some(16), Some(17), 21),
            stale(
                "the bundle of bar.test has not been refreshed for 5 h; its last authority stops \
                 verifying in 3 h"
            )
        );
        assert_eq!(
            told(true, Some(16), Some(17), 25),
            stale(
                "the bundle of bar.test has not been refreshed for 9 h; its last authority has \
                 stopped verifying"
            )
        );
        assert_eq!(
            told(false, None, Some(1), 3),
            stale("the bundle of bar.test was never fetched")
        );
        let ends = "the bundle of bar.test is fetched, but no new authority is in it; its last \
                    authority stops verifying in 3 h";
        assert_eq!(told(true, Some(20), None, 19), None);
        assert_eq!(told(true, Some(20), None, 21), Some(("federation_ends", ends.to_owned())));
    }

    #[test]
    fn the_fix_is_the_command_that_mends_it() {
        let danger = |by_bundle, ends| Danger {
            trust_domain: TrustDomain::parse("bar.test").unwrap(),
            unfetched_for: Some(Unfetched::Ever),
            ends,
            by_bundle,
        };
        // A web endpoint is not known by the bundle: a new one by hand mends no way.
        for (by_bundle, ends) in
            [(true, Some(Ends::In(HOUR))), (false, None), (false, Some(Ends::Ended))]
        {
            let fix = danger(by_bundle, ends).fix();
            assert!(fix.contains("federation refresh -id bar.test"), "{fix}");
        }
        for ends in [None, Some(Ends::Ended)] {
            let fix = danger(true, ends).fix();
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
