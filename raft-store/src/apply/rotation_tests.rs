//! Rotation as the log decides it: two would-be leaders in every order of their steps, and the own
//! bundle's sequence number on every replica.

use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, AuthorityStatus};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::testing::{Registry, START_MS, authority, init, td};
use crate::change::{Change, Journal};
use crate::command::{AppendBundle, Command};
use crate::outcome::Rejection;
use crate::replica::{Committed, Replica};

const KIND: AuthorityKind = AuthorityKind::X509;

/// Rounds of a would-be leader: the first prepares, the second activates.
const ROUNDS: usize = 2;

/// One that takes itself for the leader: it plans from what it has seen, and proposes later.
#[derive(Default)]
struct Leader {
    name: &'static str,
    planned: Option<Command>,
    made: usize,
}

impl Leader {
    /// What its rotator would do: follow the newest prepared authority, or make one.
    fn plan(&mut self, seen: &Journal) {
        let expected_journal = seen.revision;
        let prepared = |status| status == AuthorityStatus::Prepared;
        let successor = seen.authorities.iter().rev().find(|one| prepared(one.status));
        self.planned = Some(match successor {
            Some(one) => {
                Command::ActivateAuthority { expected_journal, kind: KIND, id: one.id.clone() }
            }
            None => {
                self.made += 1;
                let id = format!("{}{}", self.name, self.made);
                Command::PrepareAuthority { expected_journal, authority: authority(KIND, &id) }
            }
        });
    }
}

fn count(journal: &Journal, status: AuthorityStatus) -> usize {
    journal.authorities.iter().filter(|one| one.status == status).count()
}

/// Every way in which two sequences of so many steps can follow each other: `true` is the second's.
fn orders(first: usize, second: usize) -> Vec<Vec<bool>> {
    if first == 0 || second == 0 {
        return vec![vec![first == 0; first + second]];
    }
    let after = |turn: bool, rest: Vec<Vec<bool>>| {
        rest.into_iter().map(move |order| [vec![turn], order].concat())
    };
    let one = after(false, orders(first - 1, second));
    one.chain(after(true, orders(first, second - 1))).collect()
}

#[test]
fn two_would_be_leaders_never_leave_two_active_authorities() {
    let orders = orders(2 * ROUNDS, 2 * ROUNDS);
    assert_eq!(orders.len(), 70);
    let mut lost = 0;
    for order in orders {
        let mut registry = Registry::formed();
        let prepare =
            Command::PrepareAuthority { expected_journal: 0, authority: authority(KIND, "first") };
        registry.accepted(prepare);
        let id = AuthorityId::new("first");
        registry.accepted(Command::ActivateAuthority { expected_journal: 1, kind: KIND, id });
        let leader = |name| Leader { name, ..Leader::default() };
        let mut leaders = [leader("a"), leader("b")];
        for turn in &order {
            let before = registry.journal();
            let leader = &mut leaders[usize::from(*turn)];
            let Some(command) = leader.planned.take() else {
                leader.plan(&before);
                continue;
            };
            let decided = registry.run(command).outcome;
            let journal = registry.journal();
            match decided {
                Ok(_) => assert_eq!(journal.revision, before.revision + 1, "{order:?}"),
                Err(rejection) => {
                    assert!(matches!(rejection, Rejection::JournalMoved { .. }), "{rejection:?}");
                    assert_eq!(journal, before, "{order:?}");
                    lost += 1;
                }
            }
            assert_eq!(count(&journal, AuthorityStatus::Active), 1, "{order:?}: {journal:?}");
            assert!(count(&journal, AuthorityStatus::Prepared) <= 1, "{order:?}: {journal:?}");
        }
    }
    assert!(lost > 0, "no step ever came too late");
}

fn bundle(replica: &Replica) -> Bundle {
    let bundle = replica.changes().into_iter().find_map(|change| {
        let Change::BundleWritten { bundle, .. } = change else { return None };
        Some(bundle.as_ref().clone())
    });
    bundle.unwrap_or_else(|| Bundle::empty(td("example.org")))
}

/// Every command that can change the own bundle, and some that do not.
fn changes_of_the_bundle() -> Vec<Command> {
    let id = |name: &str| AuthorityId::new(name);
    let prepare = |expected_journal, name: &str| Command::PrepareAuthority {
        expected_journal,
        authority: authority(KIND, name),
    };
    let activate = |expected_journal, name: &str| Command::ActivateAuthority {
        expected_journal,
        kind: KIND,
        id: id(name),
    };
    let append = || {
        let root = X509Authority { certificate_der: b"root".to_vec(), tainted: false };
        Command::AppendBundle(AppendBundle {
            x509_authorities: vec![root],
            jwt_authorities: Vec::new(),
        })
    };
    vec![
        prepare(0, "a"),
        activate(1, "a"),
        prepare(2, "b"),
        prepare(2, "late"),
        activate(3, "b"),
        append(),
        append(),
        Command::TaintAuthority { expected_journal: 4, kind: KIND, id: id("a") },
        Command::RevokeAuthority { expected_journal: 5, kind: KIND, id: id("a") },
        prepare(6, "c"),
        activate(7, "c"),
        Command::PruneAuthorities {
            expected_journal: 8,
            ids: vec![(KIND, id("a")), (KIND, id("b"))],
        },
    ]
}

#[test]
fn the_own_bundles_sequence_is_one_on_all_replicas_and_moves_with_content() {
    let now = Timestamp::from_unix_ms(START_MS);
    let mut replicas = [Replica::default(), Replica::default(), Replica::default()];
    let mut before = bundle(&replicas[0]);
    let commands = [vec![init()], changes_of_the_bundle()].concat();
    for (at, command) in commands.iter().enumerate() {
        let committed = Committed::new(command, now);
        for replica in &mut replicas {
            replica.apply(&committed);
        }
        if at == commands.len() / 2 {
            // One was away, and gets a snapshot.
            replicas[2] = replicas[0].installed();
        }
        let after = bundle(&replicas[0]);
        for other in &replicas[1..] {
            assert_eq!(bundle(other), after, "after {command:?}");
        }
        let same = Bundle { sequence_number: before.sequence_number, ..after.clone() };
        let moved = u64::from(same != before);
        assert_eq!(after.sequence_number, before.sequence_number + moved, "after {command:?}");
        before = after;
    }
    assert_eq!(before.sequence_number, 7, "three prepared, one root, taint, revocation, prune");
}
