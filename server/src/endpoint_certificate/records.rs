//! The records of ACME as values that the cluster keeps sealed.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use prost::Message as _;
use steeple_api::pb::member::v1 as rpc;
use steeple_federation::acme::{
    Account, AcmeState, Attempt, Certificate, Digest, Held, Record, RecordError, Records,
    StateError,
};
use steeple_raft_store::change::ClusterState;
use steeple_raft_store::command::WriteSealed;
use steeple_raft_store::{
    ClusterKeys, Command, MemberId, Rejection, SEALED_VALUES_LEVEL, SealedName, SealedValues,
    StoreHandle,
};
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::random::Random;
use tokio::time::Instant;

use crate::keys::{ValueContext, open_value, seal_value};
use crate::view::Views;

/// How long what was written may take to show.
const SHOW_TIMEOUT: Duration = Duration::from_secs(5);

/// A member that needs longer does not answer the challenge.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two questions to members that do not answer the challenge yet.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Why records cannot be read or written, in words.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the cluster has not formed yet")]
    NotFormed,
    #[error(
        "the cluster is at feature level {0}, certificates by ACME need {SEALED_VALUES_LEVEL}: start this \
         version on every member, then run \"spire-server cluster upgrade finalize\""
    )]
    Level(u32),
    #[error("this replica does not lead")]
    NotLeader,
    #[error("the record was written, and this replica does not show it yet")]
    Late,
}

/// The records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeptRecords {
    /// The registry.
    pub store: StoreHandle,
    /// What this replica has applied.
    pub views: Views,
    /// What records are opened and sealed with.
    pub keys: Arc<ClusterKeys>,
    /// Nonces.
    pub random: Arc<dyn Random>,
    /// The term in which this replica leads; `None`: it reads alone.
    pub term: Option<u64>,
}

impl KeptRecords {
    fn cluster(&self) -> Result<Arc<ClusterState>, StateError> {
        let cluster = self.views.cluster().ok_or_else(|| kept(KeepError::NotFormed))?;
        if cluster.feature_level < SEALED_VALUES_LEVEL {
            return Err(kept(KeepError::Level(cluster.feature_level)));
        }
        Ok(cluster)
    }

    fn held<T>(
        &self,
        cluster: &ClusterState,
        values: &SealedValues,
        name: SealedName,
        decode: fn(&Secret) -> Result<T, RecordError>,
    ) -> Result<Held<T>, StateError> {
        let Some(value) = values.get(&name) else { return Ok(Held::default()) };
        let version = value.version;
        let context = ValueContext { cluster_id: cluster.cluster_id, name, version };
        let opened = open_value(&self.keys, &context, &value.sealed).map_err(kept)?;
        Ok(Held { version, value: Some(decode(&opened)?) })
    }

    fn versions(&self) -> [u64; 3] {
        let values = self.views.sealed();
        [SealedName::AcmeAccount, SealedName::AcmeCertificate, SealedName::AcmeAttempt]
            .map(|name| values.get(&name).map_or(0, |value| value.version))
    }

    async fn write(&self, record: Record, seen: u64) -> Result<(), StateError> {
        let cluster = self.cluster()?;
        let term = self.term.ok_or_else(|| kept(KeepError::NotLeader))?;
        let (name, value) = match record {
            Record::Account(account) => (SealedName::AcmeAccount, account.encode()?),
            Record::Certificate(one) => (SealedName::AcmeCertificate, one.encode()?),
            Record::Attempt(attempt) => (SealedName::AcmeAttempt, attempt.encode()?),
        };
        let version = seen.saturating_add(1);
        let context = ValueContext { cluster_id: cluster.cluster_id, name, version };
        let kek_id = match cluster.key_id.as_str() {
            "" => self.keys.current_id(),
            named => named.to_owned(),
        };
        let sealed = seal_value(&self.keys, &kek_id, self.random.as_ref(), &context, &value);
        let sealed = sealed.map_err(kept)?;
        let write = WriteSealed { name, expected: seen, sealed };
        let command = Command::WriteSealed(Box::new(write));
        let applied = self.store.propose_duty(command, term).await.map_err(kept)?;
        match applied.outcome {
            Ok(_) => {}
            Err(Rejection::SealedMoved { .. }) => return Err(StateError::Moved),
            Err(rejection) => return Err(kept(rejection)),
        }
        let deadline = Instant::now() + SHOW_TIMEOUT;
        match self.views.wait_for(applied.revision, deadline).await {
            true => Ok(()),
            false => Err(kept(KeepError::Late)),
        }
    }

    /// The members that can be reached and do not answer the challenge.
    async fn silent(&self, digest: &Digest) -> Vec<MemberId> {
        let asked = rpc::question::Asked::Challenge(rpc::Challenge { digest: digest.to_vec() });
        let question = rpc::Question { asked: Some(asked) }.encode_to_vec();
        let status = self.store.status();
        let reachable = status.members.iter().filter(|member| member.reachable != Some(false));
        let answers = reachable.map(|member| {
            let question = question.clone().into();
            async move {
                let deadline = Instant::now() + ANSWER_TIMEOUT;
                let answer = self.store.ask(member.id, question, deadline).await.ok();
                let answer = answer.and_then(|bytes| rpc::ChallengeAnswer::decode(bytes).ok());
                (member.id, answer.is_some_and(|answer| answer.answers))
            }
        });
        let silent = join_all(answers).await.into_iter().filter(|(_, answers)| !answers);
        silent.map(|(member, _)| member).collect()
    }
}

fn kept(error: impl std::error::Error + Send + Sync + 'static) -> StateError {
    StateError::Store(Box::new(error))
}

impl AcmeState for KeptRecords {
    fn load(&self) -> Result<Records, StateError> {
        let (cluster, values) = (self.cluster()?, self.views.sealed());
        let (account, certificate) = (SealedName::AcmeAccount, SealedName::AcmeCertificate);
        Ok(Records {
            account: self.held(&cluster, &values, account, Account::decode)?,
            certificate: self.held(&cluster, &values, certificate, Certificate::decode)?,
            attempt: self.held(&cluster, &values, SealedName::AcmeAttempt, Attempt::decode)?,
        })
    }

    fn changed(&self, versions: [u64; 3]) -> BoxFuture<'_, ()> {
        let mut revision = self.views.subscribe_revision();
        async move {
            if revision.wait_for(|_| self.versions() != versions).await.is_err() {
                // The views are gone, and this task is about to be.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn save(&self, record: Record, seen: u64) -> BoxFuture<'_, Result<(), StateError>> {
        self.write(record, seen).boxed()
    }

    fn spread(&self, digest: Digest, patience: Duration) -> BoxFuture<'_, ()> {
        async move {
            let deadline = Instant::now() + patience;
            loop {
                let silent = self.silent(&digest).await;
                if silent.is_empty() {
                    return;
                }
                if Instant::now() >= deadline {
                    let members = silent.iter().map(ToString::to_string).collect::<Vec<_>>();
                    tracing::warn!(
                        members = members.join(", "),
                        "Members do not answer the ACME challenge; the server is told to look all the same"
                    );
                    return;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
        .boxed()
    }
}
