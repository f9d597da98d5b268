//! The line of `cluster check` about the trust domains that are federated with. Pure.

use steeple_federation::{Danger, Stage};

use super::Verdict;

/// Trust domains that are named in one line; `cluster status` names all.
const NAMED_MAX: usize = 3;

const DOC: &str = "docs/reference/federation.md#fetching-the-bundles-of-others";

/// Judges the bundles of so many relationships by the dangers that they are in.
pub(super) fn judge(relationships: usize, mut dangers: Vec<Danger>) -> Verdict {
    let line = |text: String| Verdict::ok("federation", DOC, text);
    // The worst one first, and those as bad by name.
    dangers.sort_by_key(|danger| std::cmp::Reverse(danger.stage()));
    let mut dangers = dangers.into_iter();
    let Some(worst) = dangers.next() else {
        return line(match relationships {
            0 => "there are no relationships with other trust domains".to_owned(),
            1 => "the bundle of the other trust domain is in no danger".to_owned(),
            count => format!("the bundles of all {count} other trust domains are in no danger"),
        });
    };
    let more = dangers.len().saturating_sub(NAMED_MAX);
    let names: Vec<String> =
        dangers.take(NAMED_MAX).map(|danger| danger.trust_domain().to_string()).collect();
    let also = match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!("; also in danger: {}", names.join(", ")),
        (false, more) => format!("; also in danger: {} and {more} more", names.join(", ")),
    };
    let (text, fix) = (format!("{worst}{also}"), worst.fix());
    match worst.stage() {
        Stage::Early | Stage::Ending => line(String::new()).warn(text, fix),
        Stage::Ended => line(String::new()).fail(text, fix),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use steeple_federation::{Followed, Progress, Timing, outlook};
    use steeple_spiffe_core::bundle::X509Authority;
    use steeple_spiffe_core::{Bundle, Timestamp, TrustDomain};

    use super::*;
    use crate::check::Outcome::{self, Fail, Ok, Warn};

    /// When tests take place: 2027-01-15.
    const NOW: Timestamp = Timestamp::from_unix_s(1_799_971_200);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A bundle that was fetched five hours ago and fails since four, whose last authority ends (or
    /// ended) so many hours from now.
    fn danger(name: &str, ends_in: i32) -> Danger {
        let trust_domain = TrustDomain::parse(name).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2027, 1, 15) + HOUR * ends_in.unsigned_abs();
        if ends_in < 0 {
            params.not_after = rcgen::date_time_ymd(2027, 1, 15) - HOUR * ends_in.unsigned_abs();
        }
        params.not_before = params.not_after - HOUR * 24;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate_der = made.der().to_vec();
        let x509_authorities = vec![X509Authority { certificate_der, tainted: false }];
        let bundle = Bundle { x509_authorities, ..Bundle::empty(trust_domain.clone()) };
        let (succeeded_at, failing_since) = (Some(NOW.minus(HOUR * 5)), Some(NOW.minus(HOUR * 4)));
        let followed = Followed {
            trust_domain: &trust_domain,
            bundle: Some(&bundle),
            progress: Progress { succeeded_at, is_exact: true, failing_since },
            patience: Timing::default().patience(Some(&bundle)),
            by_bundle: true,
            has_lost_trust: false,
        };
        outlook(followed, NOW).danger.unwrap()
    }

    /// So many relationships, the dangers of some, and the line that is printed.
    type Case<'a> = (usize, &'a [(&'a str, i32)], Outcome, &'a str, &'a str);

    #[test]
    fn the_worst_relationship_is_told_with_its_fix_and_the_others_are_named() {
        let old = "the bundle of a.test has not been refreshed for 5 h; its last authority stops \
                   verifying in 20 h";
        let others = "the bundle of a.test has not been refreshed for 5 h; its last authority stops \
                      verifying in 20 h; also in danger: b.test, c.test, d.test and 2 more";
        let ended = "the bundle of b.test has not been refreshed for 5 h; its last authority has \
                     stopped verifying; also in danger: a.test";
        let refresh = "see what \"spire-server federation refresh -id a.test\" says, and mend the way \
                       to its bundle endpoint";
        let set = "get its bundle from its operators, then: spire-server bundle set -id \
                   spiffe://b.test -path FILE";
        let names = ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"];
        let cases: [Case<'_>; 6] = [
            (0, &[], Ok, "there are no relationships with other trust domains", ""),
            (1, &[], Ok, "the bundle of the other trust domain is in no danger", ""),
            (7, &[], Ok, "the bundles of all 7 other trust domains are in no danger", ""),
            (7, &[("a.test", 20)], Warn, old, refresh),
            (7, &names.map(|name| (name, 20)), Warn, others, refresh),
            (7, &[("a.test", 2), ("b.test", -1)], Fail, ended, set),
        ];
        for (relationships, dangers, outcome, text, fix) in cases {
            let dangers = dangers.iter().map(|(name, ends_in)| danger(name, *ends_in)).collect();
            let verdict = judge(relationships, dangers);
            assert_eq!((verdict.name, verdict.outcome), ("federation", outcome));
            assert_eq!((verdict.text.as_str(), &*verdict.hint), (text, fix));
        }
    }
}
