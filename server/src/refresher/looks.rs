//! When the danger of each followed bundle is looked at, and what of it is news.
//!
//! Pure. A danger is a matter of time, so it is looked at when it may be another, and not when the
//! next fetch happens to be due; what was told once is not told again.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_federation::{Danger, Outlook, Stage};
use steeple_spiffe_core::{Bundle, Timestamp, TrustDomain};

/// What one leader has told of the dangers of the bundles that it follows.
#[derive(Debug, Default)]
pub(super) struct Looks {
    peers: BTreeMap<TrustDomain, Look>,
}

#[derive(Debug)]
struct Look {
    /// When it is looked at next; `None`: when something changes.
    due: Option<Timestamp>,
    /// What was told last: of which kind, and how far it had come.
    told: Option<(&'static str, Stage)>,
    /// The bundle as it was then.
    bundle: Option<Arc<Bundle>>,
}

/// What everybody should hear of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Its bundle is in danger, or in another one.
    Danger(Danger),
    /// It is not any more.
    Over(TrustDomain),
}

/// Whatever the time is, it is due.
const AT_ONCE: Option<Timestamp> = Some(Timestamp::UNIX_EPOCH);

impl Looks {
    /// Something has changed about a trust domain, or it is new: it is looked at next.
    pub(super) fn touch(&mut self, trust_domain: &TrustDomain) {
        match self.peers.get_mut(trust_domain) {
            Some(look) => look.due = AT_ONCE,
            None => {
                let look = Look { due: AT_ONCE, told: None, bundle: None };
                self.peers.insert(trust_domain.clone(), look);
            }
        }
    }

    /// Touches those whose bundle is another now.
    pub(super) fn compare(&mut self, bundle: impl Fn(&TrustDomain) -> Option<Arc<Bundle>>) {
        for (trust_domain, look) in &mut self.peers {
            let bundle = bundle(trust_domain);
            let is_same = match (&bundle, &look.bundle) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_same {
                look.bundle = bundle;
                look.due = AT_ONCE;
            }
        }
    }

    /// A trust domain is followed no more.
    pub(super) fn forget(&mut self, trust_domain: &TrustDomain) {
        self.peers.remove(trust_domain);
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.peers.values().filter_map(|look| look.due).min()
    }

    /// Looks at what is due. Returns what is to be told.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        outlook: impl Fn(&TrustDomain) -> Outlook,
    ) -> Vec<News> {
        let mut news = Vec::new();
        for (trust_domain, look) in &mut self.peers {
            if look.due.is_none_or(|due| due > now) {
                continue;
            }
            let Outlook { danger, changes_at } = outlook(trust_domain);
            look.due = changes_at;
            let found = danger.as_ref().map(|danger| (danger.code(), danger.stage()));
            let before = std::mem::replace(&mut look.told, found);
            match danger {
                Some(danger) if before != found => news.push(News::Danger(danger)),
                None if before.is_some() => news.push(News::Over(trust_domain.clone())),
                Some(_) | None => {}
            }
        }
        news
    }
}

impl News {
    /// Says it in the log.
    pub(super) fn tell(&self) {
        let subsystem_name = "bundle_client";
        let danger = match self {
            Self::Danger(danger) => danger,
            Self::Over(trust_domain) => {
                let text = "Federation is out of danger";
                tracing::info!(%trust_domain, subsystem_name, "{text}");
                return;
            }
        };
        let (trust_domain, fix) = (danger.trust_domain(), danger.fix());
        let text = "Federation is in danger";
        match danger.stage() {
            Stage::Early | Stage::Ending => {
                tracing::warn!(%trust_domain, fix, subsystem_name, "{text}: {danger}");
            }
            Stage::Ended => {
                tracing::error!(%trust_domain, fix, subsystem_name, "{text}: {danger}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use steeple_federation::{Followed, Progress, Timing, outlook};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn name() -> TrustDomain {
        TrustDomain::parse("b.test").unwrap()
    }

    fn minutes(count: u32) -> Timestamp {
        NOW.plus(MINUTE * count)
    }

    /// A bundle without authorities, with a refresh hint of ten minutes.
    fn bundle() -> Arc<Bundle> {
        Arc::new(Bundle { refresh_hint_s: 600, ..Bundle::empty(name()) })
    }

    fn seen(progress: Progress, now: Timestamp) -> Outlook {
        let bundle = bundle();
        let patience = Timing::default().patience(Some(&bundle));
        let (trust_domain, bundle) = (&name(), Some(bundle.as_ref()));
        outlook(
            Followed {
                trust_domain,
                bundle,
                progress,
                patience,
                by_bundle: true,
                has_lost_trust: false,
            },
            now,
        )
    }

    fn failing() -> Progress {
        let (succeeded_at, failing_since) = (Some(minutes(0)), Some(minutes(1)));
        Progress { succeeded_at, is_exact: true, failing_since }
    }

    /// The codes of what is told; a full stop for its end.
    fn codes(news: &[News]) -> Vec<&'static str> {
        let code = |news: &News| match news {
            News::Danger(danger) => danger.code(),
            News::Over(_) => ".",
        };
        news.iter().map(code).collect()
    }

    #[test]
    fn a_danger_is_told_when_its_time_comes_and_once() {
        let mut looks = Looks::default();
        looks.touch(&name());
        let asked = Cell::new(0);
        let look = |looks: &mut Looks, now: Timestamp| {
            let news = looks.look(now, |_| {
                asked.set(asked.get() + 1);
                seen(failing(), now)
            });
            codes(&news)
        };
        assert_eq!(look(&mut looks, minutes(1)), [""; 0]);
        assert_eq!(looks.next(), Some(minutes(11)), "it failed a hint ago by then");
        for minute in 2..11 {
            assert_eq!(look(&mut looks, minutes(minute)), [""; 0]);
        }
        assert_eq!(look(&mut looks, minutes(11)), ["federation_stale"]);
        assert_eq!(looks.next(), None);
        // Another try that fails changes nothing.
        looks.touch(&name());
        assert_eq!(look(&mut looks, minutes(12)), [""; 0]);
        assert_eq!(asked.get(), 3, "nobody looks for nothing");
    }

    #[test]
    fn the_end_of_a_danger_is_told_and_a_new_leader_tells_what_it_finds() {
        let (late, well) = (minutes(30), Progress { failing_since: None, ..failing() });
        for _leader in 0..2 {
            let mut looks = Looks::default();
            looks.touch(&name());
            let told = looks.look(late, |_| seen(failing(), late));
            assert_eq!(codes(&told), ["federation_stale"]);
            looks.touch(&name());
            assert_eq!(codes(&looks.look(late, |_| seen(well, late))), ["."]);
            looks.forget(&name());
            assert_eq!(looks.next(), None);
        }
    }

    #[test]
    fn another_bundle_is_looked_at_and_the_same_one_is_not() {
        let mut looks = Looks::default();
        looks.touch(&name());
        let (one, other) = (bundle(), bundle());
        let well = Progress::default();
        for (bundle, is_due) in [(&one, true), (&one, false), (&other, true)] {
            looks.compare(|_| Some(Arc::clone(bundle)));
            assert_eq!(looks.next().is_some(), is_due);
            assert_eq!(looks.look(NOW, |_| seen(well, NOW)), []);
        }
    }
}
