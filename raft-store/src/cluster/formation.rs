//! How founders become one cluster: the protocol of first start, pure.
//!
//! Owns every decision of `cluster.md` 3 "First start". Takes what others answered, says what to do;
//! sends nothing, stores nothing, knows no time. The shell in `founding.rs` does what is said, one
//! thing at a time, and must make an adoption durable before it tells anyone.
//!
//! Invariant: a set is initialised only by its coordinator, which has adopted it and has since then
//! got an acknowledgement from every founder in it; and a founder that takes part in consensus never
//! adopts again. So two sets of one peer list cannot both be initialised: each of the two coordinators
//! would have had to adopt the other's set after its own, and before it. The model in the tests walks
//! every interleaving.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::ids::{ClusterId, MemberId};
use crate::mutants::{self, Mutant};

/// What founders must agree on, besides the key: that is proven by TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Settings {
    pub(crate) cluster_name: String,
    pub(crate) trust_domain: String,
    /// Where founders are looked for, this one's own address included.
    pub(crate) peers: BTreeSet<String>,
}

/// The members that a cluster is formed of, and where each was met.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FoundingSet {
    pub(crate) founders: BTreeMap<MemberId, String>,
}

impl FoundingSet {
    /// The one that proposes it and initialises consensus.
    pub(crate) fn coordinator(&self) -> Option<MemberId> {
        self.founders.keys().next().copied()
    }

    /// The id of the cluster it forms: whoever knows the set knows the id.
    pub(crate) fn cluster_id(&self, settings: &Settings) -> ClusterId {
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut text = |text: &str| {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        };
        text("steeple founding set 1");
        text(&settings.cluster_name);
        text(&settings.trust_domain);
        for (id, address) in &self.founders {
            text(&id.to_string());
            text(address);
        }
        let sha256 = digest.finish();
        let first = sha256.as_ref().iter().take(16);
        ClusterId(first.fold(0, |id, byte| (id << 8) | u128::from(*byte)))
    }

    fn covers(&self, addresses: &BTreeSet<String>) -> bool {
        self.founders.len() == addresses.len()
            && self.founders.values().all(|address| addresses.contains(address))
    }
}

/// How far a founder has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Standing {
    /// An empty folder.
    #[default]
    Empty,
    /// It will be in this cluster, once that is initialised.
    Adopted(FoundingSet),
    /// It takes part in the consensus of this set; nothing is known to be committed.
    Initialised(FoundingSet),
    /// It belongs to a formed cluster.
    Formed(ClusterId),
}

/// What a founder says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Introduction {
    pub(crate) member: MemberId,
    pub(crate) settings: Arc<Settings>,
    /// Configured with a cluster id: it never founds.
    pub(crate) joins_only: bool,
    pub(crate) standing: Standing,
}

/// What to do after a round of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask again later; the text says why.
    Wait(String),
    /// Adopt this set, durably, then offer it to every other address.
    Offer(FoundingSet),
    /// Adopt this set, durably, instead of the one adopted before: it is initialised, so that the
    /// other one can never be.
    Return(FoundingSet),
    /// A cluster exists: join it at this address.
    Join(String),
    /// This founder began a cluster that can never be: forget it and start as a new member.
    StartOver,
}

/// One founder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Formation {
    me: MemberId,
    /// The address of this founder; one of the peer list.
    address: String,
    settings: Arc<Settings>,
    standing: Standing,
    /// An offer that is under way: who has acknowledged it since it was adopted here.
    offer: Option<BTreeSet<String>>,
}

impl Formation {
    pub(crate) fn new(
        me: MemberId,
        address: &str,
        settings: Arc<Settings>,
        standing: Standing,
    ) -> Self {
        Self { me, address: address.to_owned(), settings, standing, offer: None }
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a founder says of itself; outside of tests the shell says more.
    #[cfg(test)]
    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            member: self.me,
            settings: self.settings.clone(),
            joins_only: false,
            standing: self.standing.clone(),
        }
    }

    /// Whom to ask in a round: everyone but oneself.
    pub(crate) fn others(&self) -> Vec<String> {
        self.settings.peers.iter().filter(|peer| **peer != self.address).cloned().collect()
    }

    /// Consensus has started here: with the first vote or entry there is no way back.
    pub(crate) fn started(&mut self) {
        if let Standing::Adopted(set) = &self.standing {
            self.standing = Standing::Initialised(set.clone());
            self.offer = None;
        }
    }

    /// Decides from the answers of a round; an error is the reason why there is none. `asked_as` is how
    /// this founder stood when it asked: answers from before it took part in consensus say nothing
    /// about whether the others do. `bare` says that its log holds nothing but the set it began with:
    /// then no one can have committed anything with its help.
    pub(crate) fn conclude(
        &self,
        asked_as: &Standing,
        bare: bool,
        answers: &BTreeMap<String, Result<Introduction, String>>,
    ) -> Verdict {
        if let Some(verdict) = self.existing_cluster(answers) {
            return verdict;
        }
        let heard: BTreeMap<&str, &Introduction> = answers
            .iter()
            .filter_map(|(address, answer)| Some((address.as_str(), answer.as_ref().ok()?)))
            .collect();
        // Before who is missing: a wrong setting never heals by waiting, an absent founder may.
        if let Some(text) = heard.iter().find_map(|(at, who)| self.disagreement(at, who)) {
            return Verdict::Wait(text);
        }
        if let Some(verdict) = self.missing(answers) {
            return verdict;
        }
        let set = match self.set_of(&heard) {
            Ok(set) => set,
            Err(text) => return Verdict::Wait(text),
        };
        if let Standing::Initialised(begun) = &self.standing {
            let alone = heard.values().all(|who| who.standing == Standing::Empty);
            let still_alone = *asked_as == self.standing && alone && !heard.is_empty();
            let may_forget = begun.coordinator() == Some(self.me) && bare;
            return match (still_alone, may_forget) {
                (true, true) => Verdict::StartOver,
                (true, false) => Verdict::Wait(
                    "all other founders are empty, this one has begun a cluster; if their folders \
                     are gone for good, empty this member's data folder too"
                        .to_owned(),
                ),
                (false, _) => Verdict::Wait("waiting for the first commit".to_owned()),
            };
        }
        if let Some(verdict) = self.begun_by_another(&heard) {
            return verdict;
        }
        match set.coordinator() {
            Some(coordinator) if coordinator == self.me => Verdict::Offer(set),
            Some(coordinator) => {
                let at = set.founders.get(&coordinator).cloned().unwrap_or_default();
                Verdict::Wait(format!("all founders answer, waiting for {at} to form the cluster"))
            }
            None => Verdict::Wait("no founders".to_owned()),
        }
    }

    /// Takes a set as one's own: after [`Verdict::Offer`] or [`Verdict::Return`], once it is durable.
    pub(crate) fn adopted(&mut self, set: FoundingSet) {
        // An offer that was under way is void: its acknowledgements were for another set, or older.
        self.offer = (set.coordinator() == Some(self.me)).then(BTreeSet::new);
        self.standing = Standing::Adopted(set);
    }

    /// Whether to adopt what a coordinator offers. The caller makes it durable, then calls
    /// [`Self::adopted`], then acknowledges.
    pub(crate) fn consider(&self, from: MemberId, set: &FoundingSet) -> Result<(), String> {
        match &self.standing {
            Standing::Empty | Standing::Adopted(_) => {}
            Standing::Initialised(_) if mutants::on(Mutant::SetAdoptedTwice) => {}
            Standing::Initialised(_) => {
                return Err("another founding set is initialised".to_owned());
            }
            Standing::Formed(id) => return Err(format!("this member belongs to cluster {id}")),
        }
        if set.coordinator() != Some(from) {
            return Err("only the lowest member id of a founding set may offer it".to_owned());
        }
        if !set.covers(&self.settings.peers) {
            return Err("the founding set does not cover the configured peers".to_owned());
        }
        match set.founders.get(&self.me) {
            Some(address) if *address == self.address => Ok(()),
            Some(address) => Err(format!(
                "the founding set has this member at {address}, its advertise_address is {}",
                self.address
            )),
            None => Err("the founding set has another member at this address".to_owned()),
        }
    }

    /// Notes that the founder at an address has acknowledged the offer that is under way.
    pub(crate) fn acknowledged(&mut self, address: &str, set: &FoundingSet) {
        if self.standing == Standing::Adopted(set.clone())
            && let Some(offer) = &mut self.offer
        {
            offer.insert(address.to_owned());
        }
    }

    /// The set to initialise consensus with, once everyone has acknowledged it. The caller must do so
    /// before it takes another input.
    pub(crate) fn ready(&self) -> Option<FoundingSet> {
        let offer = self.offer.as_ref()?;
        match &self.standing {
            Standing::Adopted(set) if self.others().iter().all(|other| offer.contains(other)) => {
                Some(set.clone())
            }
            Standing::Empty
            | Standing::Adopted(_)
            | Standing::Initialised(_)
            | Standing::Formed(_) => None,
        }
    }

    fn existing_cluster(
        &self,
        answers: &BTreeMap<String, Result<Introduction, String>>,
    ) -> Option<Verdict> {
        let mut formed = answers.iter().filter_map(|(address, answer)| match answer {
            Ok(Introduction { standing: Standing::Formed(id), settings, .. }) => {
                Some((address, *id, settings.as_ref()))
            }
            Ok(_) | Err(_) => None,
        });
        let (address, id, settings) = formed.next()?;
        if let Some(text) = differs(address, &self.settings, settings) {
            return Some(Verdict::Wait(text));
        }
        match &self.standing {
            Standing::Adopted(set) | Standing::Initialised(set)
                if set.cluster_id(&self.settings) == id =>
            {
                Some(Verdict::Wait("cluster is formed, waiting for its leader".to_owned()))
            }
            Standing::Initialised(_) => Some(Verdict::Wait(format!(
                "member at {address} belongs to cluster {id}, which formed without this one; \
                 empty this member's data folder and it will join"
            ))),
            Standing::Empty | Standing::Adopted(_) | Standing::Formed(_) => {
                Some(Verdict::Join(address.clone()))
            }
        }
    }

    fn missing(&self, answers: &BTreeMap<String, Result<Introduction, String>>) -> Option<Verdict> {
        let others = self.others();
        let missing: Vec<String> = others
            .iter()
            .filter_map(|address| match answers.get(address) {
                Some(Ok(_)) => None,
                Some(Err(reason)) => Some(format!("{address} ({})", brief(address, reason))),
                None => Some(format!("{address} (not asked yet)")),
            })
            .collect();
        if missing.is_empty() {
            return None;
        }
        let all = others.len() + 1;
        let here = all.saturating_sub(missing.len());
        let text = format!("waiting for founders: {here} of {all}, missing {}", missing.join(", "));
        Some(Verdict::Wait(text))
    }

    fn disagreement(&self, address: &str, who: &Introduction) -> Option<String> {
        if let Some(text) = differs(address, &self.settings, &who.settings) {
            return Some(text);
        }
        if who.settings.peers != self.settings.peers {
            let theirs = who.settings.peers.iter().cloned().collect::<Vec<_>>().join(", ");
            return Some(format!(
                "{address} has other peers ({theirs}); give all founders the same list"
            ));
        }
        who.joins_only.then(|| {
            format!("{address} is configured with a cluster_id and only joins; remove it to form")
        })
    }

    fn set_of(&self, heard: &BTreeMap<&str, &Introduction>) -> Result<FoundingSet, String> {
        let mut founders = BTreeMap::from([(self.me, self.address.clone())]);
        for (address, who) in heard {
            if let Some(other) = founders.insert(who.member, (*address).to_owned()) {
                return Err(format!(
                    "{other} and {address} reach the same member; each founder needs an address of \
                     its own"
                ));
            }
        }
        Ok(FoundingSet { founders })
    }

    /// Whether another founder takes part in consensus already. If this one is in that set, it has
    /// acknowledged it once; by the invariant no other set can be initialised any more.
    fn begun_by_another(&self, heard: &BTreeMap<&str, &Introduction>) -> Option<Verdict> {
        let begun = heard.values().find_map(|who| match &who.standing {
            Standing::Initialised(set) => Some(set),
            Standing::Empty | Standing::Adopted(_) | Standing::Formed(_) => None,
        })?;
        let wait = |text: &str| Some(Verdict::Wait(text.to_owned()));
        match &self.standing {
            Standing::Adopted(set) if set == begun => wait("waiting for the first commit"),
            Standing::Adopted(_) if begun.founders.contains_key(&self.me) => {
                Some(Verdict::Return(begun.clone()))
            }
            Standing::Empty
            | Standing::Adopted(_)
            | Standing::Initialised(_)
            | Standing::Formed(_) => wait("waiting for a cluster that is being formed"),
        }
    }
}

fn differs(address: &str, ours: &Settings, theirs: &Settings) -> Option<String> {
    let pairs = [
        ("cluster.name", &ours.cluster_name, &theirs.cluster_name),
        ("trust_domain", &ours.trust_domain, &theirs.trust_domain),
    ];
    pairs.into_iter().find(|(_, ours, theirs)| ours != theirs).map(|(key, ours, theirs)| {
        format!("{address} has {key} \"{theirs}\", ours is \"{ours}\"; make them the same")
    })
}

/// A reason without the address that is printed before it anyway.
fn brief<'a>(address: &str, reason: &'a str) -> &'a str {
    reason.strip_prefix(address).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(peers: &[&str]) -> Arc<Settings> {
        Arc::new(Settings {
            cluster_name: "prod".to_owned(),
            trust_domain: "example.org".to_owned(),
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
        })
    }

    fn founder(member: u64) -> Introduction {
        Introduction {
            member: MemberId(member),
            settings: settings(&["a:1", "b:1", "c:1"]),
            joins_only: false,
            standing: Standing::Empty,
        }
    }

    fn verdict(change: impl Fn(&mut Introduction)) -> Verdict {
        let formation =
            Formation::new(MemberId(1), "a:1", settings(&["a:1", "b:1", "c:1"]), Standing::Empty);
        let mut b = founder(2);
        change(&mut b);
        let answers =
            BTreeMap::from([("b:1".to_owned(), Ok(b)), ("c:1".to_owned(), Ok(founder(3)))]);
        formation.conclude(&Standing::Empty, true, &answers)
    }

    #[test]
    fn founders_that_agree_are_offered_a_set_by_the_lowest_id() {
        let Verdict::Offer(set) = verdict(|_| ()) else { panic!("no offer") };
        assert_eq!(set.coordinator(), Some(MemberId(1)));
        assert!(matches!(verdict(|b| b.member = MemberId(0)), Verdict::Wait(text)
            if text == "all founders answer, waiting for b:1 to form the cluster"));
    }

    #[test]
    fn founders_that_disagree_wait_with_a_text_that_names_the_fix() {
        type Change<'a> = &'a dyn Fn(&mut Introduction);
        let cases: [(Change<'_>, &str); 6] = [
            (
                &|b| Arc::make_mut(&mut b.settings).cluster_name = "test".to_owned(),
                "b:1 has cluster.name \"test\", ours is \"prod\"; make them the same",
            ),
            (
                &|b| Arc::make_mut(&mut b.settings).trust_domain = "other.org".to_owned(),
                "b:1 has trust_domain \"other.org\", ours is \"example.org\"; make them the same",
            ),
            (
                &|b| Arc::make_mut(&mut b.settings).peers = BTreeSet::from(["b:1".to_owned()]),
                "b:1 has other peers (b:1); give all founders the same list",
            ),
            (
                &|b| b.joins_only = true,
                "b:1 is configured with a cluster_id and only joins; remove it to form",
            ),
            (
                &|b| b.member = MemberId(1),
                "a:1 and b:1 reach the same member; each founder needs an address of its own",
            ),
            (
                &|b| b.standing = Standing::Initialised(FoundingSet::default()),
                "waiting for a cluster that is being formed",
            ),
        ];
        for (change, text) in cases {
            assert_eq!(verdict(change), Verdict::Wait(text.to_owned()));
        }
    }

    #[test]
    fn missing_founders_are_named_with_the_reason() {
        let formation =
            Formation::new(MemberId(1), "a:1", settings(&["a:1", "b:1", "c:1"]), Standing::Empty);
        let answers = BTreeMap::from([
            ("b:1".to_owned(), Ok(founder(2))),
            ("c:1".to_owned(), Err("c:1: no such host".to_owned())),
        ]);
        let text = "waiting for founders: 2 of 3, missing c:1 (no such host)";
        assert_eq!(
            formation.conclude(&Standing::Empty, true, &answers),
            Verdict::Wait(text.to_owned())
        );
    }

    #[test]
    fn a_wrong_setting_is_said_even_while_another_founder_is_missing() {
        let formation =
            Formation::new(MemberId(1), "a:1", settings(&["a:1", "b:1", "c:1"]), Standing::Empty);
        let mut b = founder(2);
        b.settings = settings(&["a:1", "b:1", "c:1"]);
        Arc::make_mut(&mut b.settings).cluster_name = "test".to_owned();
        let answers = BTreeMap::from([
            ("b:1".to_owned(), Ok(b)),
            ("c:1".to_owned(), Err("c:1: no such host".to_owned())),
        ]);
        let text = "b:1 has cluster.name \"test\", ours is \"prod\"; make them the same";
        assert_eq!(
            formation.conclude(&Standing::Empty, true, &answers),
            Verdict::Wait(text.to_owned())
        );
    }

    #[test]
    fn an_existing_cluster_is_joined_even_if_others_are_missing() {
        let formation =
            Formation::new(MemberId(1), "a:1", settings(&["a:1", "b:1", "c:1"]), Standing::Empty);
        let mut b = founder(2);
        b.standing = Standing::Formed(ClusterId(9));
        Arc::make_mut(&mut b.settings).peers.clear();
        let answers = BTreeMap::from([
            ("b:1".to_owned(), Ok(b)),
            ("c:1".to_owned(), Err("no such host".to_owned())),
        ]);
        assert_eq!(
            formation.conclude(&Standing::Empty, true, &answers),
            Verdict::Join("b:1".to_owned())
        );
    }

    #[test]
    fn a_founder_without_others_is_ready_once_it_has_adopted_itself() {
        let mut alone = Formation::new(MemberId(1), "a:1", settings(&["a:1"]), Standing::Empty);
        assert_eq!(alone.ready(), None);
        let Verdict::Offer(set) = alone.conclude(&Standing::Empty, true, &BTreeMap::new()) else {
            panic!("no offer")
        };
        alone.adopted(set.clone());
        assert_eq!(alone.ready(), Some(set));
    }

    #[test]
    fn only_a_coordinator_whose_founders_are_all_gone_starts_over() {
        let set = |ids: [u64; 2]| FoundingSet {
            founders: ids
                .map(MemberId)
                .into_iter()
                .zip(["a:1", "b:1"].map(str::to_owned))
                .collect(),
        };
        let begun = |set: FoundingSet| Standing::Initialised(set);
        let ours = settings(&["a:1", "b:1"]);
        let answer =
            |standing: Standing| Introduction { settings: ours.clone(), standing, ..founder(9) };
        let cases = [
            ("its founders are gone", [1, 2], begun(set([1, 2])), true, Standing::Empty, true),
            ("it holds entries", [1, 2], begun(set([1, 2])), false, Standing::Empty, false),
            ("it asked before", [1, 2], Standing::Empty, true, Standing::Empty, false),
            ("another coordinates", [1, 0], begun(set([1, 0])), true, Standing::Empty, false),
            (
                "one is there",
                [1, 2],
                begun(set([1, 2])),
                true,
                Standing::Adopted(set([1, 2])),
                false,
            ),
        ];
        for (name, ids, asked_as, bare, heard, starts_over) in cases {
            let formation = Formation::new(MemberId(1), "a:1", ours.clone(), begun(set(ids)));
            let answers = BTreeMap::from([("b:1".to_owned(), Ok(answer(heard)))]);
            let verdict = formation.conclude(&asked_as, bare, &answers);
            assert_eq!(verdict == Verdict::StartOver, starts_over, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn offers_are_refused_unless_they_come_from_the_coordinator_and_fit() {
        let peers = settings(&["a:1", "b:1"]);
        let set = |founders: &[(u64, &str)]| FoundingSet {
            founders: founders.iter().map(|&(id, at)| (MemberId(id), at.to_owned())).collect(),
        };
        let good = set(&[(1, "a:1"), (2, "b:1")]);
        let standing = |standing| Formation::new(MemberId(2), "b:1", peers.clone(), standing);
        let empty = standing(Standing::Empty);
        empty.consider(MemberId(1), &good).unwrap();
        standing(Standing::Adopted(set(&[(2, "b:1")]))).consider(MemberId(1), &good).unwrap();
        empty.consider(MemberId(2), &good).unwrap_err();
        empty.consider(MemberId(1), &set(&[(1, "a:1")])).unwrap_err();
        empty.consider(MemberId(1), &set(&[(1, "b:1"), (2, "a:1")])).unwrap_err();
        empty.consider(MemberId(1), &set(&[(1, "a:1"), (3, "b:1")])).unwrap_err();
        standing(Standing::Initialised(good.clone())).consider(MemberId(1), &good).unwrap_err();
        standing(Standing::Formed(ClusterId(1))).consider(MemberId(1), &good).unwrap_err();
    }

    #[test]
    fn cluster_ids_differ_with_everything_they_are_derived_from() {
        let set =
            |at: &str| FoundingSet { founders: BTreeMap::from([(MemberId(1), at.to_owned())]) };
        let ours = settings(&["a:1"]);
        let mut other_name = Settings::clone(&ours);
        other_name.cluster_name = "test".to_owned();
        let ids = BTreeSet::from([
            set("a:1").cluster_id(&ours),
            set("b:1").cluster_id(&ours),
            set("a:1").cluster_id(&other_name),
        ]);
        assert_eq!(ids.len(), 3);
    }
}
