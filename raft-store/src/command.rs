//! Commands: everything that can change the registry, in the imperative.
//!
//! Owns the typed form; bytes are `codec`'s. A command carries every id, serial and key it needs:
//! apply reads no clock and draws nothing at random. Time is stamped by the leader as it appends.

use aws_lc_rs::digest;
use prost::Message as _;
use steeple_spiffe_core::agent::{Serial, Serials};
use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityKind, SealedKey};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::entry::{EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::federation::FederationRelationship;
use steeple_spiffe_core::selector::SelectorSet;
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::change::UnknownAgents;
use crate::codec::bundle_to_pb;
use crate::ids::ClusterId;
use crate::sealed_values::SealedName;

/// A change to the registry that is proposed, replicated and then applied on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command of a cluster: names it. Later ones are rejected.
    InitCluster(InitCluster),
    /// Creates entries; one outcome per item, in order. Ids are already chosen; `revision` and
    /// `created_at` are set by apply.
    CreateEntries(Vec<RegistrationEntry>),
    /// Updates entries; one outcome per item, in order.
    UpdateEntries(Vec<EntryUpdate>),
    /// Deletes entries; one outcome per item, in order.
    DeleteEntries(Vec<EntryId>),
    /// Stores a join token, and with it the alias entry of `-spiffeID` if there is one.
    CreateJoinToken(CreateJoinToken),
    /// Admits an agent after attestation: token spent, agent recorded, in one step.
    AdmitAgent(AdmitAgent),
    /// Records the serial of a renewed agent certificate beside the current one.
    SetPendingSerial(SetPendingSerial),
    /// Makes the pending serial the current one, at its first use.
    PromoteSerial(PromoteSerial),
    /// Bans an agent: it loses both serials and cannot attest until deleted.
    BanAgent(SpiffeId),
    /// Deletes ("evicts") an agent and, for join tokens, its alias entry.
    DeleteAgent(SpiffeId),
    /// Records what an agent reported by PostStatus. Proposed only when it differs.
    SetAgentVersion {
        /// Which agent.
        agent_id: SpiffeId,
        /// Its version.
        version: String,
    },
    /// Removes what has expired. A duty of the leader.
    PruneExpired(PruneExpired),
    /// Publishes a new authority: appended to the journal as prepared and to the bundle.
    PrepareAuthority {
        /// The journal revision the planner saw; compare-and-set.
        expected_journal: u64,
        /// The authority, with status `Prepared`.
        authority: Box<Authority>,
    },
    /// As [`Command::PrepareAuthority`], for an X.509 authority that an upstream authority has signed:
    /// the bundle gets the upstream roots instead of the certificate.
    PrepareChained {
        /// The journal revision the planner saw; compare-and-set.
        expected_journal: u64,
        /// The authority, with status `Prepared`.
        authority: Box<Authority>,
        /// The roots that it chains to, in DER.
        roots: Vec<Vec<u8>>,
    },
    /// Changes roots of an upstream authority in the bundle. The journal stays as it is.
    ChangeRoots {
        /// The journal revision that was seen: no authority was activated since. Compare-and-set.
        expected_journal: u64,
        /// What is done with them.
        change: RootChange,
        /// The roots, in DER.
        roots: Vec<Vec<u8>>,
    },
    /// Removes from the own bundle what has ended and is no authority of the journal: roots and keys of
    /// others. A duty of the leader.
    PruneBundle {
        /// The journal revision that was seen. Compare-and-set.
        expected_journal: u64,
        /// Roots, in DER.
        roots: Vec<Vec<u8>>,
        /// Ids of JWT keys.
        key_ids: Vec<String>,
    },
    /// Makes a prepared authority the active one, and the active one old.
    ActivateAuthority {
        /// The journal revision the planner saw; compare-and-set.
        expected_journal: u64,
        /// Which journal.
        kind: AuthorityKind,
        /// Which authority.
        id: AuthorityId,
    },
    /// Marks an authority that does not sign as tainted, in the journal and in the bundle: what it
    /// signed is to be replaced, and it never signs again.
    TaintAuthority {
        /// The journal revision that the authorising read saw; compare-and-set.
        expected_journal: u64,
        /// Which journal.
        kind: AuthorityKind,
        /// Which authority.
        id: AuthorityId,
    },
    /// Withdraws a tainted authority from the bundle and destroys its private key: what it signed
    /// verifies no more.
    RevokeAuthority {
        /// The journal revision that the authorising read saw; compare-and-set.
        expected_journal: u64,
        /// Which journal.
        kind: AuthorityKind,
        /// Which authority.
        id: AuthorityId,
    },
    /// Removes old authorities from the journal and the bundle.
    PruneAuthorities {
        /// The journal revision the planner saw; compare-and-set.
        expected_journal: u64,
        /// Which ones; none may be active.
        ids: Vec<(AuthorityKind, AuthorityId)>,
    },
    /// Names the cluster key that seals from now on.
    MoveClusterKey {
        /// The id of the one that the proposer saw to seal; compare-and-set.
        expected: String,
        /// Its id.
        to: String,
    },
    /// Puts the same private key of an authority in another sealing.
    ResealAuthority(Box<ResealAuthority>),
    /// Writes one of the values that are kept sealed. A duty of the leader.
    WriteSealed(Box<WriteSealed>),
    /// Writes bundles of foreign trust domains; one outcome per item, in order.
    WriteBundles(WriteBundles),
    /// Forgets bundles of foreign trust domains; one outcome per item, in order.
    DeleteBundles(DeleteBundles),
    /// Adds authorities to the own bundle that are not there yet. Their taints do not count.
    AppendBundle(AppendBundle),
    /// Writes federation relationships; one outcome per item, in order.
    WriteRelationships(WriteRelationships),
    /// Ends federation relationships; one outcome per item, in order. The bundles stay.
    DeleteRelationships(Vec<TrustDomain>),
    /// Notes how the fetching of a foreign trust domain's bundle goes, and stores what was fetched.
    RecordRefresh {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// How it goes.
        refreshed: Refreshed,
    },
    /// Takes a certificate for an agent's that a restored state has forgotten.
    AdoptAgent(AdoptAgent),
    /// Decides what becomes of agents that a restored state does not know.
    DecideAgents(UnknownAgents),
    /// Raises the feature level; one that is reached already stays.
    RaiseFeatureLevel {
        /// The new level.
        to: u32,
    },
}

/// See [`Command::ResealAuthority`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResealAuthority {
    /// Which journal.
    pub kind: AuthorityKind,
    /// Which authority.
    pub id: AuthorityId,
    /// The key of the sealing that was opened. Compare-and-set.
    pub seen_kek_id: String,
    /// Its nonce, which no other sealing has. Compare-and-set.
    pub seen_nonce: Vec<u8>,
    /// The new sealing.
    pub sealed_key: SealedKey,
}

/// See [`Command::WriteSealed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteSealed {
    /// Which value.
    pub name: SealedName,
    /// The version that was seen; 0: none was there. The value gets the next one. Compare-and-set.
    pub expected: u64,
    /// The value, sealed for that next version.
    pub sealed: SealedKey,
}

/// What [`Command::ChangeRoots`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootChange {
    /// Adds those that are not there, tainted or not.
    Add,
    /// Marks them as tainted: what chains to them is to be replaced. None may be marked already.
    Taint,
    /// Removes tainted ones: what chains to them verifies no more.
    Revoke,
}

/// See [`Command::AdoptAgent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptAgent {
    /// The agent's id.
    pub agent_id: SpiffeId,
    /// The attestor's name; ignored when the agent is known.
    pub attestation_type: String,
    /// Serial of the certificate that it presented.
    pub serial: Serial,
    /// When that certificate ends.
    pub not_after: Timestamp,
    /// Whether the agent may attest again; ignored when it is known.
    pub can_reattest: bool,
    /// The serials that the authorising read saw; `None` = no such agent. Compare-and-set.
    pub seen: Option<Serials>,
}

/// See [`Command::InitCluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCluster {
    /// The id derived from the founding set.
    pub cluster_id: ClusterId,
    /// The configured name.
    pub name: String,
    /// The trust domain that the registry serves; never changes.
    pub trust_domain: TrustDomain,
    /// The feature level that the cluster starts at: the highest that all founders support.
    pub feature_level: u32,
}

/// See [`Command::CreateJoinToken`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateJoinToken {
    /// The token's value.
    pub token: String,
    /// After this time it admits no one.
    pub expires_at: Timestamp,
    /// The alias entry, if an agent id was asked for.
    pub alias: Option<Box<RegistrationEntry>>,
}

/// See [`Command::AdmitAgent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitAgent {
    /// The join token to spend; `None` for other attestors.
    pub token: Option<String>,
    /// The agent's id.
    pub agent_id: SpiffeId,
    /// The attestor's name; ignored when the agent exists (SPIRE keeps the first).
    pub attestation_type: String,
    /// Serial of the certificate that will be released if this command is applied.
    pub serial: Serial,
    /// When that certificate ends.
    pub not_after: Timestamp,
    /// Node selectors.
    pub selectors: SelectorSet,
    /// Whether the agent may attest again.
    pub can_reattest: bool,
    /// The serials that the attesting member saw; `None` = no such agent. Compare-and-set.
    pub seen: Option<Serials>,
}

/// See [`Command::SetPendingSerial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPendingSerial {
    /// Which agent.
    pub agent_id: SpiffeId,
    /// The pair that the authorising read saw. Compare-and-set.
    pub seen: Serials,
    /// The new certificate's serial.
    pub pending: Serial,
    /// When the new certificate ends.
    pub not_after: Timestamp,
}

/// See [`Command::PromoteSerial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromoteSerial {
    /// Which agent.
    pub agent_id: SpiffeId,
    /// The pair that the authorising read saw; its pending serial was presented. Compare-and-set.
    pub seen: Serials,
}

/// See [`Command::PruneExpired`]. Times are compared with cluster time inside apply, so that a
/// leader with a wrong clock removes nothing early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneExpired {
    /// Whether expired agents are removed too, and how long after their expiry, in seconds.
    pub agents_expired_for_s: Option<u64>,
    /// Whether agents that cannot attest again are removed too (`prune_tofu_nodes`).
    pub include_non_reattestable: bool,
    /// Most rows removed by one command.
    pub limit: u32,
}

/// See [`Command::WriteBundles`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteBundles {
    /// What of them is written.
    pub mode: BundleWrite,
    /// The bundles. Sequence numbers are taken as they are: they are the other trust domain's.
    pub bundles: Vec<Bundle>,
}

/// What [`Command::WriteBundles`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleWrite {
    /// Bundles that are not there yet.
    Create,
    /// Whole bundles, there or not.
    Set,
    /// Some fields of bundles that are there.
    Update(BundleFields),
}

/// Fields of a bundle that an update takes from the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleFields {
    /// X.509 authorities.
    pub x509_authorities: bool,
    /// JWT authorities.
    pub jwt_authorities: bool,
    /// The refresh hint.
    pub refresh_hint: bool,
    /// The sequence number.
    pub sequence_number: bool,
}

/// See [`Command::DeleteBundles`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteBundles {
    /// What becomes of entries that federate with them.
    pub mode: BundleDeletion,
    /// Whose bundles.
    pub trust_domains: Vec<TrustDomain>,
}

/// What becomes of entries that federate with a trust domain whose bundle is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleDeletion {
    /// While there are any, the bundle stays.
    Restrict,
    /// They are deleted too.
    Delete,
    /// They federate with it no more. Their revision rises, so that agents fetch them again.
    Dissociate,
}

/// See [`Command::AppendBundle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendBundle {
    /// X.509 authorities.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT authorities.
    pub jwt_authorities: Vec<JwtAuthority>,
}

/// See [`Command::WriteRelationships`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRelationships {
    /// What of them is written.
    pub mode: RelationshipMode,
    /// The relationships.
    pub items: Vec<RelationshipWrite>,
}

/// What [`Command::WriteRelationships`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationshipMode {
    /// Relationships that are not there yet.
    Create,
    /// Some fields of relationships that are there.
    Update(RelationshipFields),
}

/// Fields of a relationship that an update takes from the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelationshipFields {
    /// Where bundles are fetched.
    pub endpoint_url: bool,
    /// How the endpoint is authenticated.
    pub profile: bool,
}

/// One item of [`Command::WriteRelationships`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationshipWrite {
    /// The relationship.
    pub relationship: FederationRelationship,
    /// The trust domain's bundle, set in the same step: both are written or neither.
    pub bundle: Option<Bundle>,
}

/// See [`Command::RecordRefresh`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It was fetched. With the bundle where it is another than the stored one.
    Succeeded(Option<FetchedBundle>),
    /// It was not.
    Failed {
        /// A word that stays the same while the reason does.
        class: String,
        /// The reason.
        text: String,
    },
    /// It is fetched no more: what was noted goes, the bundle stays.
    Ended,
}

/// A bundle that takes the place of the one it was judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// The one that was stored when it was judged; `None` = there was none. Compare-and-set.
    pub seen: Option<BundleDigest>,
}

/// Stands for the exact content of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleDigest(pub(crate) [u8; 32]);

impl BundleDigest {
    /// The digest of a bundle.
    pub fn of(bundle: &Bundle) -> Self {
        let digest = digest::digest(&digest::SHA256, &bundle_to_pb(bundle).encode_to_vec());
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }
}
