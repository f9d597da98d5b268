//! `spire.api.server.trustdomain.v1.TrustDomain`: federation relationships.
//!
//! Items are checked in SPIRE's order and proposed in commands that fit; what the registry decided is
//! put into SPIRE's words. The leader hears of changes by the views, and fetches by itself; what an
//! operator has fetched at once is fetched by the replica that was asked.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use steeple_api::convert::{federation as convert, id};
use steeple_api::pb;
use steeple_api::pb::server::trustdomain::v1 as rpc;
use steeple_raft_store::command::{
    RelationshipFields, RelationshipMode, RelationshipWrite, WriteRelationships,
};
use steeple_raft_store::{BundleOutcome, Command, Outcome, Rejection, RelationshipOutcome};
use steeple_spiffe_core::{Bundle, EndpointProfile, FederationRelationship, TrustDomain};
use tonic::{Request, Response, Status};

use super::batch::Batch;
use super::context::Context;
use super::paging::Page;
use crate::gate::Call;
use crate::refresher::Tried;
use crate::status::Failure;

/// The service.
#[derive(Clone, Debug)]
pub struct TrustDomainService {
    context: Context,
}

/// What became of one item.
#[derive(Clone, Debug)]
struct Item {
    status: pb::types::Status,
    /// The relationship as stored; `None` if it was refused or ended.
    relationship: Option<Arc<FederationRelationship>>,
}

impl From<Failure> for Item {
    fn from(failure: Failure) -> Self {
        Self { status: failure.into_item(), relationship: None }
    }
}

impl TrustDomainService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// The relationship with a trust domain; that there is none is said only after a confirmed read.
    async fn find(
        &self,
        call: &Call,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<FederationRelationship>>, Failure> {
        if let Some(found) = self.context.views().relationship(trust_domain) {
            return Ok(Some(found));
        }
        self.context.confirm(call).await?;
        Ok(self.context.views().relationship(trust_domain))
    }

    fn message(
        &self,
        relationship: &FederationRelationship,
        mask: Option<&pb::types::FederationRelationshipMask>,
    ) -> pb::types::FederationRelationship {
        let bundle = self.context.views().bundle(&relationship.trust_domain);
        convert::to_pb(relationship, bundle.as_deref(), mask)
    }

    /// Writes relationships; one item per relationship, in order, each with the bundle that was
    /// written with it.
    async fn write(
        &self,
        call: &Call,
        messages: &[pb::types::FederationRelationship],
        mode: RelationshipMode,
        with_bundles: bool,
    ) -> Result<Vec<(Item, Option<Bundle>)>, Failure> {
        let mut batch = Batch::new(messages.len());
        let mut bundles = vec![None; messages.len()];
        for ((number, message), given) in messages.iter().enumerate().zip(&mut bundles) {
            match check(message, self.context.trust_domain(), mode) {
                Ok((relationship, bundle)) => {
                    let bundle = bundle.filter(|_| with_bundles);
                    given.clone_from(&bundle);
                    let item = RelationshipWrite { relationship, bundle };
                    batch.push(number, message.encoded_len(), item);
                }
                Err(failure) => batch.settle(number, failure.into()),
            }
        }
        let command = |items| Command::WriteRelationships(WriteRelationships { mode, items });
        let refused = |rejection: &Rejection| refused_write(mode, rejection);
        let outcome = |outcome, len| settle(outcome, len, &refused);
        batch.run(&self.context, call, command, outcome).await?;
        let written: Vec<(Item, Option<Bundle>)> = batch.into_items().zip(bundles).collect();
        for (item, bundle) in &written {
            if let (Some(relationship), None) = (&item.relationship, bundle) {
                self.warn_without_bundle(relationship);
            }
        }
        Ok(written)
    }

    /// An endpoint is known by the bundle of its trust domain: without one nothing can be fetched.
    fn warn_without_bundle(&self, relationship: &FederationRelationship) {
        let EndpointProfile::HttpsSpiffe { endpoint_id } = &relationship.profile else { return };
        let trust_domain = endpoint_id.trust_domain();
        if self.context.views().bundle(trust_domain).is_none() {
            tracing::warn!(
                endpoint_spiffe_id = %endpoint_id,
                fix = format!("spire-server bundle set -id {} -path FILE", trust_domain.id_string()),
                "bundle not found for the endpoint SPIFFE ID trust domain"
            );
        }
    }
}

#[tonic::async_trait]
impl rpc::trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<rpc::ListFederationRelationshipsRequest>,
    ) -> Result<Response<rpc::ListFederationRelationshipsResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let failed = "failed to list federation relationships";
        let page = Page::of(request.page_size, &request.page_token, failed)?;
        self.context.confirm(&call).await?;
        let rows = self.context.views().relationships_page(page.after, page.limit);
        let next_page_token = page.next_token(rows.last().map(|(row, _)| *row));
        let mask = request.output_mask.as_ref();
        let messages = rows.iter().map(|(_, relationship)| self.message(relationship, mask));
        let federation_relationships = messages.collect();
        Ok(Response::new(rpc::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<rpc::GetFederationRelationshipRequest>,
    ) -> Result<Response<pb::types::FederationRelationship>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let trust_domain = trust_domain(&request.trust_domain)?;
        let found = self.find(&call, &trust_domain).await?;
        let found =
            found.ok_or_else(|| Failure::not_found("federation relationship does not exist"))?;
        Ok(Response::new(self.message(&found, request.output_mask.as_ref())))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<rpc::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<rpc::BatchCreateFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let rpc::BatchCreateFederationRelationshipRequest { federation_relationships, output_mask } =
            request.into_inner();
        let items =
            self.write(&call, &federation_relationships, RelationshipMode::Create, true).await?;
        let mask = output_mask.as_ref();
        let results = items.into_iter().map(|(item, bundle)| {
            rpc::batch_create_federation_relationship_response::Result {
                status: Some(item.status),
                // The answer to a creation shows the bundle that came with it and no other.
                federation_relationship: item
                    .relationship
                    .map(|relationship| convert::to_pb(&relationship, bundle.as_ref(), mask)),
            }
        });
        let results = results.collect();
        Ok(Response::new(rpc::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<rpc::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<rpc::BatchUpdateFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (mode, with_bundles) = update(request.input_mask.as_ref());
        let items =
            self.write(&call, &request.federation_relationships, mode, with_bundles).await?;
        let mask = request.output_mask.as_ref();
        let results = items.into_iter().map(|(item, bundle)| {
            rpc::batch_update_federation_relationship_response::Result {
                status: Some(item.status),
                federation_relationship: item.relationship.map(|relationship| {
                    // The views may not have seen the bundle yet that was written just now.
                    match &bundle {
                        Some(bundle) => convert::to_pb(&relationship, Some(bundle), mask),
                        None => self.message(&relationship, mask),
                    }
                }),
            }
        });
        let results = results.collect();
        Ok(Response::new(rpc::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<rpc::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<rpc::BatchDeleteFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let mut names = request.into_inner().trust_domains;
        let mut batch = Batch::new(names.len());
        for (number, name) in names.iter_mut().enumerate() {
            let parsed = if name.is_empty() {
                Err(Failure::invalid("missing trust domain"))
            } else {
                trust_domain(name)
            };
            match parsed {
                Ok(trust_domain) => {
                    trust_domain.as_str().clone_into(name);
                    batch.push(number, name.len(), trust_domain);
                }
                Err(failure) => batch.settle(number, failure.into()),
            }
        }
        let failed = "failed to delete federation relationship";
        let refused = |rejection: &Rejection| Failure::rejected(failed, rejection);
        let outcome = |outcome, len| settle(outcome, len, &refused);
        batch.run(&self.context, &call, Command::DeleteRelationships, outcome).await?;
        let results =
            names.into_iter().zip(batch.into_items()).map(|(trust_domain, item): (_, Item)| {
                rpc::batch_delete_federation_relationship_response::Result {
                    status: Some(item.status),
                    trust_domain,
                }
            });
        let results = results.collect();
        Ok(Response::new(rpc::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<rpc::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let trust_domain = trust_domain(&request.into_inner().trust_domain)?;
        // By what is known to all: the newest relationship and the newest bundles.
        self.context.confirm(&call).await?;
        let relationship = self.context.refresher.relationship(&trust_domain);
        let relationship = relationship.ok_or_else(|| {
            Failure::not_found(format!("no relationship with trust domain \"{trust_domain}\""))
        })?;
        let refreshed = self.refresh(&call, relationship);
        match call.client_deadline {
            None => refreshed.await?,
            Some(deadline) => tokio::time::timeout_at(deadline, refreshed)
                .await
                .unwrap_or_else(|_elapsed| Err(Failure::deadline_exceeded()))?,
        }
        tracing::debug!(trust_domain_id = %trust_domain, "Bundle refreshed");
        Ok(Response::new(()))
    }
}

/// What an operator has refreshed is tried again so often when something changes under it.
const OVERTAKEN_MAX: u32 = 3;

impl TrustDomainService {
    /// Fetches a bundle now, and stores it if it is another.
    async fn refresh(
        &self,
        call: &Call,
        mut relationship: Arc<FederationRelationship>,
    ) -> Result<(), Failure> {
        let refresher = &self.context.refresher;
        let trust_domain = relationship.trust_domain.clone();
        for part in 0..OVERTAKEN_MAX {
            let tried = refresher.attempt(&relationship).await;
            if let Tried::Failed(error) = &tried {
                let text = format!("failed to refresh bundle: {}", error.full_text());
                return Err(Failure::internal(text));
            }
            if !matches!(tried, Tried::Overtaken) {
                let Some(command) = refresher.command(&trust_domain, &tried, 0) else {
                    return Ok(());
                };
                let applied = self.context.propose(call, part, command).await?;
                match refused_refresh(applied.outcome) {
                    Ok(()) => return Ok(()),
                    Err(Rejection::BundleMoved) => {}
                    Err(rejection) => {
                        return Err(Failure::rejected("failed to refresh bundle", &rejection));
                    }
                }
            }
            self.context.confirm(call).await?;
            if let Some(newer) = refresher.relationship(&trust_domain) {
                relationship = newer;
            }
        }
        let text = "failed to refresh bundle: it changes meanwhile";
        Err(Failure::unavailable(text, Duration::ZERO))
    }
}

/// What the registry said to a fetched bundle.
fn refused_refresh(outcome: Result<Outcome, Rejection>) -> Result<(), Rejection> {
    let Outcome::Bundles(items) = outcome? else { return Ok(()) };
    let refused = items.into_iter().find_map(|item| match item {
        BundleOutcome::Rejected(rejection) => Some(rejection),
        BundleOutcome::Written(_) | BundleOutcome::Deleted => None,
    });
    refused.map_or(Ok(()), Err)
}

fn trust_domain(text: &str) -> Result<TrustDomain, Failure> {
    id::trust_domain(text)
        .map_err(|error| Failure::invalid_because("failed to parse trust domain", error))
}

/// What an update writes: the fields that its mask names, and whether bundles are among them.
fn update(mask: Option<&pb::types::FederationRelationshipMask>) -> (RelationshipMode, bool) {
    let pb::types::FederationRelationshipMask {
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle,
    } = *mask.unwrap_or(&convert::ALL);
    let fields =
        RelationshipFields { endpoint_url: bundle_endpoint_url, profile: bundle_endpoint_profile };
    (RelationshipMode::Update(fields), trust_domain_bundle)
}

fn check(
    message: &pb::types::FederationRelationship,
    own: &TrustDomain,
    mode: RelationshipMode,
) -> Result<(FederationRelationship, Option<Bundle>), Failure> {
    let (relationship, bundle) = convert::from_pb(message).map_err(|error| {
        Failure::invalid_because("failed to convert federation relationship", error)
    })?;
    if relationship.trust_domain == *own {
        return Err(refused_write(mode, &Rejection::OwnRelationship));
    }
    Ok((relationship, bundle))
}

/// What the registry refuses to write, in SPIRE's words: some are its database's.
fn refused_write(mode: RelationshipMode, rejection: &Rejection) -> Failure {
    let failed = match mode {
        RelationshipMode::Create => "failed to create federation relationship",
        RelationshipMode::Update(_) => "failed to update federation relationship",
    };
    match (mode, rejection) {
        (RelationshipMode::Create, Rejection::OwnRelationship) => {
            Failure::invalid("unable to create federation relationship for server trust domain")
        }
        (RelationshipMode::Create, Rejection::RelationshipExists) => Failure::internal(format!(
            "{failed}: datastore-sql: UNIQUE constraint failed: \
             federated_trust_domains.trust_domain"
        )),
        // There is none with the own trust domain either.
        (
            RelationshipMode::Update(_),
            Rejection::RelationshipNotFound | Rejection::OwnRelationship,
        ) => Failure::internal(format!(
            "{failed}: unable to fetch federation relationship: record not found"
        )),
        (RelationshipMode::Create | RelationshipMode::Update(_), _) => {
            Failure::rejected(failed, rejection)
        }
    }
}

fn settle(
    outcome: Result<Outcome, Rejection>,
    len: usize,
    refused: &dyn Fn(&Rejection) -> Failure,
) -> Vec<Item> {
    match outcome {
        Ok(Outcome::Relationships(items)) => {
            items.into_iter().map(|item| settled(item, refused)).collect()
        }
        Ok(Outcome::Done | Outcome::Entries(_) | Outcome::Bundles(_) | Outcome::Pruned(_)) => {
            Vec::new()
        }
        Err(rejection) => vec![refused(&rejection).into(); len],
    }
}

fn settled(outcome: RelationshipOutcome, refused: &dyn Fn(&Rejection) -> Failure) -> Item {
    match outcome {
        RelationshipOutcome::Written(relationship) => {
            Item { status: steeple_api::status::ok(), relationship: Some(relationship) }
        }
        RelationshipOutcome::Deleted => {
            Item { status: steeple_api::status::ok(), relationship: None }
        }
        RelationshipOutcome::Rejected(rejection) => refused(&rejection).into(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const ALL: RelationshipMode =
        RelationshipMode::Update(RelationshipFields { endpoint_url: true, profile: true });

    #[test]
    fn what_the_registry_refuses_gets_spires_codes_and_texts() {
        let limit =
            || Rejection::LimitReached { what: "federation relationships".into(), limit: 5 };
        let create = RelationshipMode::Create;
        let table = [
            (
                create,
                Rejection::RelationshipExists,
                Code::Internal,
                "failed to create federation relationship: datastore-sql: UNIQUE constraint failed: \
                 federated_trust_domains.trust_domain",
            ),
            (
                create,
                Rejection::OwnRelationship,
                Code::InvalidArgument,
                "unable to create federation relationship for server trust domain",
            ),
            (
                create,
                limit(),
                Code::ResourceExhausted,
                "failed to create federation relationship: limit of 5 federation relationships \
                 reached",
            ),
            (
                ALL,
                Rejection::RelationshipNotFound,
                Code::Internal,
                "failed to update federation relationship: unable to fetch federation relationship: \
                 record not found",
            ),
            (
                ALL,
                Rejection::OwnRelationship,
                Code::Internal,
                "failed to update federation relationship: unable to fetch federation relationship: \
                 record not found",
            ),
        ];
        for (mode, rejection, code, text) in table {
            let failure = refused_write(mode, &rejection);
            assert_eq!((failure.code(), failure.message()), (code, text));
        }
        let gone = Failure::rejected("deleting", &Rejection::RelationshipNotFound);
        let text = "federation relationship not found";
        assert_eq!((gone.code(), gone.message()), (Code::NotFound, text));
    }

    #[test]
    fn an_update_takes_what_the_mask_names_and_everything_without_one() {
        assert_eq!(update(None), (ALL, true));
        let mask = |url, profile, bundle| pb::types::FederationRelationshipMask {
            bundle_endpoint_url: url,
            bundle_endpoint_profile: profile,
            trust_domain_bundle: bundle,
        };
        for (url, profile, bundle) in
            [(true, false, false), (false, true, false), (false, false, true)]
        {
            let fields = RelationshipFields { endpoint_url: url, profile };
            let expected = (RelationshipMode::Update(fields), bundle);
            assert_eq!(update(Some(&mask(url, profile, bundle))), expected);
        }
    }

    #[test]
    fn an_item_is_checked_whole_before_it_is_proposed() {
        let own = TrustDomain::parse("example.org").unwrap();
        let web = pb::types::federation_relationship::BundleEndpointProfile::HttpsWeb(
            pb::types::HttpsWebProfile {},
        );
        let message = |name: &str, url: &str| pb::types::FederationRelationship {
            trust_domain: name.to_owned(),
            bundle_endpoint_url: url.to_owned(),
            bundle_endpoint_profile: Some(web.clone()),
            trust_domain_bundle: None,
        };
        let text = |mode, message| check(&message, &own, mode).unwrap_err().message().to_owned();
        let own_domain = message("example.org", "https://example.org");
        assert_eq!(
            text(RelationshipMode::Create, own_domain),
            "unable to create federation relationship for server trust domain"
        );
        for mode in [RelationshipMode::Create, ALL] {
            assert_eq!(
                text(mode, message("other.org", "http://other.org")),
                "failed to convert federation relationship: bundle endpoint URL must use the https \
                 scheme"
            );
            assert!(check(&message("other.org", "https://other.org"), &own, mode).is_ok());
        }
    }
}
