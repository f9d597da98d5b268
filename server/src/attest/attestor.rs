//! The trait of node attestors, what they return, and the table they are looked up in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use steeple_spiffe_core::{SelectorSet, SpiffeId};

/// A method of node attestation.
#[tonic::async_trait]
pub trait NodeAttestor: Send + Sync + fmt::Debug {
    /// The method's name: the type of its attestation data and of its selectors.
    fn kind(&self) -> &str;

    /// Verifies one agent. The payload is not empty.
    async fn attest(
        &self,
        payload: &[u8],
        channel: &mut dyn ChallengeChannel,
    ) -> Result<Attested, AttestError>;
}

/// The way back to the agent that attests.
#[tonic::async_trait]
pub trait ChallengeChannel: Send {
    /// Sends a challenge and waits for the answer.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError>;

    /// From where the agent calls, if that is known.
    fn peer_ip(&self) -> Option<IpAddr>;
}

/// What was found out about an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The agent's id.
    pub agent_id: SpiffeId,
    /// Its node selectors.
    pub selectors: SelectorSet,
    /// Whether it may attest again under this id.
    pub can_reattest: bool,
    /// The join token that has to be spent for it; spending is part of admission.
    pub token: Option<String>,
}

/// Why an agent was not attested: the status its call ends with. Code and text are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AttestError {
    /// The gRPC code. `PermissionDenied` makes a stock agent exit.
    pub code: tonic::Code,
    /// The text.
    pub message: String,
}

impl AttestError {
    /// An error with a code and a text.
    pub fn new(code: tonic::Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The attestors that are configured, by name.
#[derive(Clone, Debug, Default)]
pub struct Attestors {
    by_kind: BTreeMap<String, Arc<dyn NodeAttestor>>,
}

impl Attestors {
    /// Adds an attestor; one of the same name is replaced and returned.
    pub fn insert(&mut self, attestor: Arc<dyn NodeAttestor>) -> Option<Arc<dyn NodeAttestor>> {
        self.by_kind.insert(attestor.kind().to_owned(), attestor)
    }

    /// The attestor of a name.
    pub fn lookup(&self, kind: &str) -> Option<Arc<dyn NodeAttestor>> {
        self.by_kind.get(kind).cloned()
    }

    /// The names, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.by_kind.keys().map(String::as_str)
    }
}
