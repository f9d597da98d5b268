//! What clients ask: every command, over few identities so that they meet, each write with values
//! of its own so that it can be told from all others.

mod authorities;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use steeple_raft_store::command::{
    AdmitAgent, BundleDigest, CreateJoinToken, FetchedBundle, PromoteSerial, PruneExpired,
    Refreshed, RelationshipFields, RelationshipMode, RelationshipWrite, SetPendingSerial,
    WriteRelationships,
};
use steeple_raft_store::{Change, Command};
use steeple_spiffe_core::agent::{AgentRecord, Serial, Serials};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::entry::{EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use steeple_spiffe_core::selector::{Selector, SelectorSet};
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SortedSet, SpiffeId, TrustDomain};

use crate::kept;
use crate::reference::Reference;
use crate::view::Read;
use crate::world;
use steeple_spiffe_core::dice::Dice;

/// The trust domain of all simulations (that of `testing::config`).
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// Identities that entries are about.
const WORKLOADS: u64 = 24;

/// Agents.
const AGENTS: u64 = 12;

/// Trust domains that relationships are with.
const DOMAINS: u64 = 6;

/// What a client does next.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// A command, by any member.
    Command(Command),
    /// A command of the leader.
    Duty(Command),
    /// A confirmed read.
    Read(Read),
}

impl Operation {
    /// A word for it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Read(Read::Everything) => "read_everything",
            Self::Read(_) => "read",
            Self::Command(command) | Self::Duty(command) => name(command),
        }
    }
}

/// The names of all operations that are asked for.
pub(crate) const NAMES: &[&str] = &[
    "activate_authority",
    "admit_agent",
    "ban_agent",
    "change_roots",
    "create_entries",
    "create_relationships",
    "create_token",
    "delete_agent",
    "delete_entries",
    "delete_relationships",
    "move_cluster_key",
    "prepare_authority",
    "prepare_chained",
    "promote_serial",
    "prune_authorities",
    "prune_bundle",
    "prune_expired",
    "read",
    "read_everything",
    "record_refresh",
    "reseal_authority",
    "set_agent_version",
    "revoke_authority",
    "set_pending_serial",
    "taint_authority",
    "update_entries",
    "update_relationships",
    "write_sealed",
];

fn name(command: &Command) -> &'static str {
    match command {
        Command::InitCluster(_) => "init_cluster",
        Command::CreateEntries(_) => "create_entries",
        Command::UpdateEntries(_) => "update_entries",
        Command::DeleteEntries(_) => "delete_entries",
        Command::CreateJoinToken(_) => "create_token",
        Command::AdmitAgent(_) => "admit_agent",
        Command::SetPendingSerial(_) => "set_pending_serial",
        Command::PromoteSerial(_) => "promote_serial",
        Command::BanAgent(_) => "ban_agent",
        Command::DeleteAgent(_) => "delete_agent",
        Command::SetAgentVersion { .. } => "set_agent_version",
        Command::PruneExpired(_) => "prune_expired",
        Command::PrepareAuthority { .. } => "prepare_authority",
        Command::PrepareChained { .. } => "prepare_chained",
        Command::ChangeRoots { .. } => "change_roots",
        Command::PruneBundle { .. } => "prune_bundle",
        Command::ActivateAuthority { .. } => "activate_authority",
        Command::TaintAuthority { .. } => "taint_authority",
        Command::RevokeAuthority { .. } => "revoke_authority",
        Command::PruneAuthorities { .. } => "prune_authorities",
        Command::MoveClusterKey { .. } => "move_cluster_key",
        Command::WriteSealed(_) => "write_sealed",
        Command::ResealAuthority(_) => "reseal_authority",
        Command::WriteBundles(_) => "write_bundles",
        Command::DeleteBundles(_) => "delete_bundles",
        Command::AppendBundle(_) => "append_bundle",
        Command::WriteRelationships(write) => match write.mode {
            RelationshipMode::Create => "create_relationships",
            RelationshipMode::Update(_) => "update_relationships",
        },
        Command::DeleteRelationships(_) => "delete_relationships",
        Command::RecordRefresh { .. } => "record_refresh",
        Command::AdoptAgent(_) => "adopt_agent",
        Command::DecideAgents(_) => "decide_agents",
        Command::RaiseFeatureLevel { .. } => "raise_feature_level",
    }
}

/// Makes operations.
#[derive(Debug)]
pub(crate) struct Workload {
    dice: Dice,
    trust_domain: TrustDomain,
    /// Numbers values.
    next: u64,
    /// Tokens that were asked for, newest last; some are tried again.
    tokens: Vec<String>,
    /// The cluster keys that all members hold.
    keys: (String, String),
}

impl Workload {
    /// The workload of a seed.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).context("trust domain")?;
        let ids = world::cluster_keys()?.ids();
        let [first, second] = ids.as_slice() else { bail!("members hold {} keys", ids.len()) };
        let keys = (first.clone(), second.clone());
        Ok(Self { dice: Dice::new(seed, 2), trust_domain, next: 0, tokens: Vec::new(), keys })
    }

    /// The next operation of whoever asks.
    pub(crate) fn next(&mut self, known: &Reference) -> Result<Operation> {
        let what = self.dice.within(0..=99);
        let now = known.time();
        let command = match what {
            0..=15 => return Ok(Operation::Read(self.read(known)?)),
            16..=27 => self.create(now)?,
            28..=29 => self.refresh(known)?,
            30..=32 => self.federation()?,
            33 => return Ok(Operation::Duty(self.seal(known))),
            34 => return Ok(self.roots(known)),
            35..=43 => self.update(known)?,
            44..=52 => self.delete(known)?,
            53..=62 => self.token(now)?,
            63..=74 => self.admit(known)?,
            75..=80 => self.pending(known)?,
            81..=85 => self.promote(known)?,
            86..=87 => Command::BanAgent(self.agent_id()?),
            88..=90 => Command::DeleteAgent(self.agent_id()?),
            91..=93 => {
                let version = format!("v{}", self.number());
                Command::SetAgentVersion { agent_id: self.agent_id()?, version }
            }
            94..=96 => return Ok(Operation::Duty(self.prune())),
            _ => {
                let command = self.authority(known);
                // The steps that operators take too go through any member.
                let duty = matches!(
                    &command,
                    Command::PruneAuthorities { .. } | Command::ResealAuthority(_)
                );
                return Ok(if duty || !self.dice.chance(0.5) {
                    Operation::Duty(command)
                } else {
                    Operation::Command(command)
                });
            }
        };
        Ok(Operation::Command(command))
    }

    fn read(&mut self, known: &Reference) -> Result<Read> {
        Ok(match self.dice.within(0..=99) {
            0..=49 => Read::Entry(self.entry_id(known)?.to_string()),
            50..=69 => Read::Agent(self.agent_id()?.to_string()),
            70..=74 => Read::Relationship(self.domain()?.to_string()),
            75..=82 => Read::CountEntries,
            83..=88 => Read::CountAgents,
            89..=95 => Read::Entries,
            _ => Read::Everything,
        })
    }

    /// A write that is always possible: a token that nobody spends.
    pub(crate) fn fresh(&mut self, known: &Reference) -> Operation {
        let token = format!("final{}", self.number());
        let expires_at = known.time().plus(Duration::from_secs(600));
        Operation::Command(Command::CreateJoinToken(CreateJoinToken {
            token,
            expires_at,
            alias: None,
        }))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn id(&self, path: &str) -> Result<SpiffeId> {
        SpiffeId::new(self.trust_domain.clone(), path).context("identity")
    }

    fn agent_id(&self) -> Result<SpiffeId> {
        self.id(&format!("/spire/agent/a{}", self.dice.within(1..=AGENTS)))
    }

    fn selectors(&self) -> Result<SelectorSet> {
        let selector = format!("unix:uid:{}", self.dice.within(0..=3));
        Ok(SortedSet::from([Selector::parse(&selector).context("selector")?]))
    }

    fn entry(&mut self, now: Timestamp) -> Result<RegistrationEntry> {
        let number = self.number();
        let expires = if self.dice.chance(0.15) {
            now.unix_s() + i64::try_from(self.dice.within(1..=10)).unwrap_or(1)
        } else {
            0
        };
        Ok(RegistrationEntry {
            expires_at_unix_s: expires,
            hint: format!("h{number}"),
            ..RegistrationEntry::new(
                EntryId::parse(&format!("e{number}")).context("entry id")?,
                self.id(&format!("/w/{}", self.dice.within(1..=WORKLOADS)))?,
                self.agent_id()?,
                self.selectors()?,
            )
        })
    }

    fn create(&mut self, now: Timestamp) -> Result<Command> {
        let count = self.dice.within(1..=3);
        Ok(Command::CreateEntries((0..count).map(|_| self.entry(now)).collect::<Result<_>>()?))
    }

    /// An entry that exists, or did, or will.
    fn entry_id(&mut self, known: &Reference) -> Result<EntryId> {
        match self.dice.pick(known.entries()) {
            Some(id) if self.dice.chance(0.9) => Ok(id.clone()),
            Some(_) | None => {
                let any = self.dice.within(1..=self.next.max(1));
                EntryId::parse(&format!("e{any}")).context("entry id")
            }
        }
    }

    fn update(&mut self, known: &Reference) -> Result<Command> {
        let id = self.entry_id(known)?;
        let update = EntryUpdate {
            selectors: if self.dice.chance(0.3) { Some(self.selectors()?) } else { None },
            hint: Some(format!("u{}", self.number())),
            ..EntryUpdate::of(id)
        };
        Ok(Command::UpdateEntries(vec![update]))
    }

    fn delete(&mut self, known: &Reference) -> Result<Command> {
        let count = self.dice.within(1..=2);
        let ids = (0..count).map(|_| self.entry_id(known)).collect::<Result<_>>()?;
        Ok(Command::DeleteEntries(ids))
    }

    fn token(&mut self, now: Timestamp) -> Result<Command> {
        let number = self.number();
        let token = format!("t{number}");
        self.tokens.push(token.clone());
        let alias = if self.dice.chance(0.3) { Some(Box::new(self.entry(now)?)) } else { None };
        let seconds = *self.dice.pick(&[2, 600, 600]).unwrap_or(&600);
        let expires_at = now.plus(Duration::from_secs(seconds));
        Ok(Command::CreateJoinToken(CreateJoinToken { token, expires_at, alias }))
    }

    fn agent<'a>(&self, id: &SpiffeId, known: &'a Reference) -> Option<&'a AgentRecord> {
        match known.row(&crate::rows::Key::Agent(id.to_string()))? {
            Change::AgentWritten { agent, .. } => Some(agent),
            Change::EntryWritten { .. }
            | Change::EntryDeleted { .. }
            | Change::AgentDeleted { .. }
            | Change::BundleWritten { .. }
            | Change::BundleDeleted { .. }
            | Change::RelationshipWritten { .. }
            | Change::RelationshipDeleted { .. }
            | Change::RefreshWritten(_)
            | Change::RefreshDeleted { .. }
            | Change::JournalWritten(_)
            | Change::SealedWritten { .. }
            | Change::ClusterWritten(_) => None,
        }
    }

    fn admit(&mut self, known: &Reference) -> Result<Command> {
        let agent_id = self.agent_id()?;
        let found = self.agent(&agent_id, known).map(|agent| agent.serials.clone());
        // Several clients try the newest tokens at once: each may admit one.
        let recent = self.tokens.len().saturating_sub(4);
        let token = match self.tokens.get(recent..).and_then(|tokens| self.dice.pick(tokens)) {
            Some(token) if self.dice.chance(0.7) => Some(token.clone()),
            Some(_) | None => None,
        };
        Ok(Command::AdmitAgent(AdmitAgent {
            attestation_type: if token.is_some() { "join_token" } else { "x509pop" }.to_owned(),
            token,
            agent_id,
            serial: self.serial()?,
            not_after: known.time().plus(Duration::from_secs(self.dice.within(2..=600))),
            selectors: self.selectors()?,
            can_reattest: self.dice.chance(0.5),
            seen: found,
        }))
    }

    fn serial(&mut self) -> Result<Serial> {
        Serial::from_decimal(&self.number().to_string()).context("serial")
    }

    fn seen(&mut self, id: &SpiffeId, known: &Reference) -> Result<Serials> {
        if self.dice.chance(0.1) {
            return Ok(Serials { current: Some(self.serial()?), pending: None });
        }
        let mut seen = self.agent(id, known).map(|agent| agent.serials.clone()).unwrap_or_default();
        if self.dice.chance(0.1) {
            // What comes late: it saw no pending serial, and by now there may be one.
            seen.pending = None;
        }
        Ok(seen)
    }

    fn pending(&mut self, known: &Reference) -> Result<Command> {
        let agent_id = self.agent_id()?;
        Ok(Command::SetPendingSerial(SetPendingSerial {
            seen: self.seen(&agent_id, known)?,
            agent_id,
            pending: self.serial()?,
            not_after: known.time().plus(Duration::from_secs(self.dice.within(2..=600))),
        }))
    }

    fn promote(&mut self, known: &Reference) -> Result<Command> {
        let agent_id = self.agent_id()?;
        let seen = self.seen(&agent_id, known)?;
        Ok(Command::PromoteSerial(PromoteSerial { agent_id, seen }))
    }

    fn domain(&self) -> Result<TrustDomain> {
        let name = format!("d{}.test", self.dice.within(1..=DOMAINS));
        TrustDomain::parse(&name).context("trust domain")
    }

    /// A command about one relationship or two. Each write has a URL of its own, and now and then a
    /// bundle whose sequence number is that of the URL.
    fn federation(&mut self) -> Result<Command> {
        let mode = match self.dice.within(0..=9) {
            0..=3 => RelationshipMode::Create,
            4..=6 => RelationshipMode::Update(RelationshipFields {
                endpoint_url: true,
                profile: self.dice.chance(0.5),
            }),
            _ => {
                let count = self.dice.within(1..=2);
                let names = (0..count).map(|_| self.domain()).collect::<Result<_>>()?;
                return Ok(Command::DeleteRelationships(names));
            }
        };
        let count = self.dice.within(1..=2);
        let items = (0..count).map(|_| self.relationship()).collect::<Result<_>>()?;
        Ok(Command::WriteRelationships(WriteRelationships { mode, items }))
    }

    fn relationship(&mut self) -> Result<RelationshipWrite> {
        let number = self.number();
        let trust_domain = self.domain()?;
        let profile = if self.dice.chance(0.5) {
            EndpointProfile::HttpsWeb
        } else {
            EndpointProfile::HttpsSpiffe { endpoint_id: self.id(&format!("/w/{number}"))? }
        };
        let bundle = self
            .dice
            .chance(0.3)
            .then(|| Bundle { sequence_number: number, ..Bundle::empty(trust_domain.clone()) });
        let url = format!("https://{trust_domain}/{number}");
        let endpoint_url = EndpointUrl::parse(&url).context("endpoint URL")?;
        let relationship = FederationRelationship { trust_domain, endpoint_url, profile };
        Ok(RelationshipWrite { relationship, bundle })
    }

    /// What a leader or an operator says of a try to fetch a bundle. Each fetched one has a
    /// sequence number of its own; now and then it was judged by another than is stored.
    fn refresh(&mut self, known: &Reference) -> Result<Command> {
        let trust_domain = self.domain()?;
        let number = self.number();
        let key = crate::rows::Key::Bundle(trust_domain.to_string());
        let stored = kept::bundle(known.row(&key)).map(BundleDigest::of);
        let refreshed = match self.dice.within(0..=9) {
            0..=4 => {
                let bundle =
                    Bundle { sequence_number: number, ..Bundle::empty(trust_domain.clone()) };
                let seen = stored.filter(|_| !self.dice.chance(0.1));
                Refreshed::Succeeded(Some(FetchedBundle { bundle, seen }))
            }
            5..=6 => Refreshed::Succeeded(None),
            7..=8 => Refreshed::Failed { class: "dial".to_owned(), text: format!("f{number}") },
            _ => Refreshed::Ended,
        };
        Ok(Command::RecordRefresh { trust_domain, refreshed })
    }

    fn prune(&mut self) -> Command {
        // Rarely: if the answer is lost, nobody can tell the effect from a bug, and the history is
        // not checked.
        let agents = self.dice.chance(0.15);
        Command::PruneExpired(PruneExpired {
            agents_expired_for_s: agents.then_some(1),
            include_non_reattestable: self.dice.chance(0.3),
            limit: 100,
        })
    }
}
