//! The way from one trust domain to the endpoints of another, and what is promised of it.

use std::time::Duration;

use steeple_raft_store::Command;
use steeple_raft_store::command::{BundleWrite, WriteBundles};
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::{AuthorityStatus, Timestamp, TrustDomain};

use super::member::{Condition, Member};
use super::pair::{HINT, pause, stored};
use super::world::{STEP_MAX, World};
use crate::refresher::Tried;

/// How long a peer may take to fetch a bundle before an authority in it signs: the hint and a
/// minute for one attempt that failed, less what the clocks of two leaders are apart.
pub(super) const PEERS_FETCH: Duration = Duration::from_secs(HINT.as_secs() + 60 - 20);

/// After a first failure the next try comes within this time, after others within that.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// A failure is worth a word after the hint; it is noted when it has come twice.
const WARNED_WITHIN: Duration = Duration::from_secs(HINT.as_secs() + 3 * 5 * 60);

/// An operator reads warnings after a while.
const OPERATOR_AFTER: Duration = Duration::from_secs(900);

/// What an operator mends works within this time, through elections.
const MENDED_WITHIN: Duration = Duration::from_secs(900);

struct Cut {
    since: Timestamp,
    until: Timestamp,
    /// Rotations over there by then.
    rotations: u32,
}

/// Nobody over there is believed any more.
struct Closed {
    since: Timestamp,
    warned: bool,
    mended_at: Option<Timestamp>,
}

/// What happened on the way.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) asked: u64,
    pub(super) by_hand: u64,
    /// Documents that were not the newest when they were given out.
    pub(super) stale: u64,
    /// Those of them that were refused, since a later one was known.
    pub(super) older: u64,
    pub(super) cuts: u32,
    /// Cuts that ended with a good try, without anybody's help.
    pub(super) survived: u32,
    /// Those of them in which the other side had rotated.
    pub(super) survived_rotation: u32,
    /// Cuts after which nobody was believed.
    pub(super) closed: u32,
    /// Those of them that one command has mended.
    pub(super) mended: u32,
    /// Looks at how old the stored bundle is, while all was well for long enough.
    pub(super) looks: u64,
    pub(super) stalest: Duration,
}

pub(super) struct Link {
    other: TrustDomain,
    cut: Option<Cut>,
    /// A cut is over, and no try has succeeded since: whether the other side rotated meanwhile.
    after_cut: Option<bool>,
    closed: Option<Closed>,
    /// When what is stored was everything that was committed over there.
    current_at: Timestamp,
    /// What the other side published, and when.
    published: Vec<(u64, Timestamp)>,
    /// What is stored was compared with what was published, up to here.
    checked: Option<u64>,
    /// Since when nothing hinders a fetch.
    calm_since: Option<Timestamp>,
    pub(super) counts: Counts,
}

impl Link {
    pub(super) fn new(now: Timestamp, other: TrustDomain) -> Self {
        Self {
            other,
            cut: None,
            after_cut: None,
            closed: None,
            current_at: now,
            published: Vec::new(),
            checked: None,
            calm_since: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    pub(super) fn current_at(&self) -> Timestamp {
        self.current_at
    }

    /// Cuts the way, unless somebody is at work on it.
    pub(super) fn cut(&mut self, now: Timestamp, until: Timestamp, there: &World) {
        if self.cut.is_none() && self.closed.is_none() {
            let rotations = there.judge.x509_activations;
            self.cut = Some(Cut { since: now, until, rotations });
            self.counts.cuts += 1;
        }
    }

    /// The way is there again when its time has come.
    pub(super) fn mend(&mut self, now: Timestamp, there: &World) {
        if let Some(cut) = self.cut.take_if(|cut| now >= cut.until) {
            self.after_cut = Some(there.judge.x509_activations > cut.rotations);
        }
    }

    /// Takes in what came of a try of the leader.
    pub(super) fn tried(
        &mut self,
        here: &mut World,
        there: &mut World,
        tried: &Tried,
        served_at: Option<Timestamp>,
    ) {
        match tried {
            Tried::Same(_) | Tried::Other { .. } => {
                self.current_at = self.current_at.max(served_at.unwrap_or(self.current_at));
                self.succeeded(here);
            }
            Tried::Failed(error) => {
                self.counts.older += u64::from(error.class() == "older");
                let is_refused = error.class() == "tls";
                if is_refused && self.closed.is_none() && is_over(here, there) {
                    let since = here.now;
                    self.closed = Some(Closed { since, warned: false, mended_at: None });
                    self.after_cut = None;
                    self.counts.closed += 1;
                }
            }
            Tried::Overtaken => {}
        }
    }

    fn succeeded(&mut self, here: &mut World) {
        if let Some(rotated) = self.after_cut.take() {
            self.counts.survived += 1;
            self.counts.survived_rotation += u32::from(rotated);
        }
        let Some(closed) = self.closed.take() else { return };
        match closed.mended_at {
            Some(_) => self.counts.mended += 1,
            None => here.judge.wrong("an endpoint is believed that nothing vouches for".to_owned()),
        }
    }

    /// What must hold at each moment.
    pub(super) fn look(&mut self, here: &mut World, there: &mut World) {
        let newest = there.judge.newest();
        if self.published.last().is_none_or(|(last, _)| *last < newest) {
            self.published.push((newest, here.now));
        }
        self.is_what_was_published(here, there);
        self.is_fresh(here, there);
        self.is_told(here);
        self.is_mended(here, there);
    }

    /// Byte for byte what the other side gave out under this number.
    fn is_what_was_published(&mut self, here: &mut World, there: &World) {
        let Some(stored) = stored(here) else { return };
        if self.checked.replace(stored.sequence_number) == Some(stored.sequence_number) {
            return;
        }
        let known = there.judge.known(stored.sequence_number);
        let same = known.is_some_and(|(known, _)| {
            let documents = [known, &stored].map(|bundle| there.document(bundle));
            documents[0].body() == documents[1].body()
        });
        if !same {
            here.judge.wrong(format!("nobody published {stored:?}"));
        }
    }

    /// While nothing hinders it, a change is stored within a pause and one try that fails, each as
    /// far as looks are apart.
    fn is_fresh(&mut self, here: &mut World, there: &mut World) {
        let calm = |member: &Member| match member.condition {
            Condition::Well | Condition::Down { .. } => true,
            Condition::Stalled { .. } | Condition::Cut { .. } => false,
        };
        let down = |member: &Member| matches!(member.condition, Condition::Down { .. });
        let is_calm = self.cut.is_none()
            && self.closed.is_none()
            && here.leader.is_some()
            && there.members.iter().all(calm)
            && !there.members.iter().all(down)
            && (self.after_cut.is_none() || believed(here, there) == Believed::All);
        if !is_calm {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(here.now);
        let Some(stored) = stored(here) else { return };
        self.published.retain(|(sequence, _)| *sequence > stored.sequence_number);
        if here.now.since(since) < RETRY_MAX + STEP_MAX * 2 {
            return;
        }
        self.counts.looks += 1;
        let Some((sequence, at)) = self.published.first() else { return };
        let age = here.now.since(*at);
        self.counts.stalest = self.counts.stalest.max(age);
        if age > pause(&stored) + RETRY_FIRST + STEP_MAX * 2 {
            here.judge.wrong(format!("sequence {sequence} is not stored after {age:?}"));
        }
    }

    /// Nobody who is cut off, or believed no more, is left in the dark.
    fn is_told(&mut self, here: &mut World) {
        let Some(leader) = here.leader else { return };
        let known = here.members[leader].known();
        let is_told = || {
            let danger = known.outlook(&self.other, known.clock.now()).danger;
            danger.is_some_and(|danger| danger.code() == "federation_stale")
        };
        let since = self.cut.as_ref().map(|cut| cut.since);
        let since = since.or(self.closed.as_ref().map(|closed| closed.since));
        let Some(since) = since.filter(|since| here.now.since(*since) > WARNED_WITHIN) else {
            return;
        };
        let told = is_told();
        if let Some(closed) = &mut self.closed {
            closed.warned |= told;
        }
        // A leader that was elected just now may have to fail twice before it notes anything.
        let is_late = here.now.since(since) > WARNED_WITHIN * 2;
        let is_mended = self.closed.as_ref().is_some_and(|closed| closed.mended_at.is_some());
        if !told && is_late && !is_mended {
            here.judge.wrong(format!("nobody is told that {} is out of reach", self.other));
        }
    }

    /// One command mends it: the bundle, by hand.
    fn is_mended(&mut self, here: &mut World, there: &World) {
        let Some(closed) = &mut self.closed else { return };
        let now = here.now;
        match closed.mended_at {
            None if closed.warned && now.since(closed.since) > OPERATOR_AFTER => {
                let bundles = vec![there.published()];
                let set = Command::WriteBundles(WriteBundles { mode: BundleWrite::Set, bundles });
                here.commit(&set, now).unwrap();
                closed.mended_at = Some(now);
            }
            Some(at) if now.since(at) > MENDED_WITHIN => {
                here.judge.wrong("the bundle that was set by hand mends nothing".to_owned());
            }
            None | Some(_) => {}
        }
    }
}

/// Whether what is stored vouches for no endpoint, and never will again: nothing in it signs any
/// more.
fn is_over(here: &World, there: &mut World) -> bool {
    let Some(stored) = stored(here) else { return true };
    let Some((_, ids)) = there.judge.known(stored.sequence_number) else { return true };
    let journal = there.truth();
    let signs = journal.authorities.iter().any(|one| {
        let may_sign = match one.status {
            AuthorityStatus::Prepared | AuthorityStatus::Active => true,
            AuthorityStatus::Old | AuthorityStatus::Revoked => false,
        };
        let number = there.judge.x509_number(&one.id);
        may_sign && number.is_some_and(|number| ids.contains(&number))
    });
    !signs && believed(here, there) == Believed::None
}

/// How many endpoints of the other side what is stored vouches for, now or in a moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Believed {
    None,
    Some,
    All,
}

fn believed(here: &World, there: &mut World) -> Believed {
    let Some(stored) = stored(here) else { return Believed::None };
    let soon = here.now.plus(Duration::from_secs(30));
    let served: Vec<_> = (0..3).filter_map(|index| there.endpoint(index)).collect();
    let believed = served.iter().filter(|served| {
        let verifies = |now: Timestamp| verify_chain(&served.chain_der, &stored, now).is_ok();
        verifies(here.now) || verifies(soon)
    });
    match believed.count() {
        0 => Believed::None,
        count if count == served.len() => Believed::All,
        _ => Believed::Some,
    }
}
