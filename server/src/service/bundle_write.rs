//! The calls that write bundles: items checked in SPIRE's order, proposed in commands that fit, and
//! what the registry decided put into SPIRE's words.
//!
//! Owns batches of bundles and the own bundle's additions. Who may call is the gate's.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use prost::Message as _;
use steeple_api::convert::{bundle as convert, id};
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1 as rpc;
use steeple_raft_store::command::{
    AppendBundle, BundleDeletion, BundleFields, BundleWrite, DeleteBundles, WriteBundles,
};
use steeple_raft_store::{BundleOutcome, Command, Outcome, Rejection};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{Timestamp, TrustDomain};

use super::batch::Batch;
use super::context::Context;
use crate::gate::Call;
use crate::status::Failure;

/// What became of one bundle.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) status: pb::types::Status,
    /// The bundle as stored; `None` if it was refused or deleted.
    pub(super) bundle: Option<Arc<Bundle>>,
}

impl From<Failure> for Item {
    fn from(failure: Failure) -> Self {
        Self { status: failure.into_item(), bundle: None }
    }
}

/// SPIRE's words for one kind of write.
struct Words {
    /// Of a refusal of the own trust domain.
    own: &'static str,
    /// Of what the registry refuses.
    failed: &'static str,
}

fn words(mode: BundleWrite) -> Words {
    match mode {
        BundleWrite::Create => Words { own: "creating", failed: "unable to create bundle" },
        BundleWrite::Set => Words { own: "setting", failed: "failed to set bundle" },
        BundleWrite::Update(_) => Words { own: "updating", failed: "failed to update bundle" },
    }
}

/// The fields that a request's mask names; without a mask all of them.
pub(super) fn fields(mask: Option<&pb::types::BundleMask>) -> BundleFields {
    let pb::types::BundleMask {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
        // A foreign bundle has no place for WIT authorities.
        wit_authorities: _,
    } = *mask.unwrap_or(&convert::ALL);
    BundleFields { x509_authorities, jwt_authorities, refresh_hint, sequence_number }
}

/// Writes bundles of foreign trust domains; one item per bundle, in order.
pub(super) async fn write(
    context: &Context,
    call: &Call,
    bundles: &[pb::types::Bundle],
    mode: BundleWrite,
) -> Result<Vec<Item>, Failure> {
    let Words { own, failed } = words(mode);
    let mut batch = Batch::new(bundles.len());
    for (number, message) in bundles.iter().enumerate() {
        match check(context, message, own) {
            Ok(bundle) => {
                warn_of_doubts(context, &bundle);
                batch.push(number, message.encoded_len(), bundle);
            }
            Err(failure) => batch.settle(number, failure.into()),
        }
    }
    let command = |bundles| Command::WriteBundles(WriteBundles { mode, bundles });
    batch.run(context, call, command, |outcome, len| settle(outcome, len, failed)).await?;
    Ok(batch.into_items().collect())
}

/// Forgets bundles of foreign trust domains; one item per name, in order.
pub(super) async fn delete(
    context: &Context,
    call: &Call,
    names: &[String],
    mode: BundleDeletion,
) -> Result<Vec<Item>, Failure> {
    let mut batch = Batch::new(names.len());
    for (number, name) in names.iter().enumerate() {
        match foreign(context, name) {
            Ok(Some(trust_domain)) => batch.push(number, name.len(), trust_domain),
            Ok(None) => batch.settle(
                number,
                Failure::invalid("removing the bundle for the server trust domain is not allowed")
                    .into(),
            ),
            Err(failure) => batch.settle(number, failure.into()),
        }
    }
    let command = |trust_domains| Command::DeleteBundles(DeleteBundles { mode, trust_domains });
    let failed = "failed to delete federated bundle";
    batch.run(context, call, command, |outcome, len| settle(outcome, len, failed)).await?;
    Ok(batch.into_items().collect())
}

/// Adds authorities to the own bundle and returns it whole.
pub(super) async fn append(
    context: &Context,
    call: &Call,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: Vec<JwtAuthority>,
    failed: &str,
) -> Result<Arc<Bundle>, Failure> {
    let command = Command::AppendBundle(AppendBundle { x509_authorities, jwt_authorities });
    match context.propose(call, 0, command).await?.outcome {
        Ok(Outcome::Bundles(mut items)) => match items.pop() {
            Some(BundleOutcome::Written(bundle)) => Ok(bundle),
            Some(BundleOutcome::Rejected(rejection)) => Err(Failure::rejected(failed, &rejection)),
            Some(BundleOutcome::Deleted) | None => Err(no_outcome(failed)),
        },
        Ok(
            Outcome::Done | Outcome::Entries(_) | Outcome::Relationships(_) | Outcome::Pruned(_),
        ) => Err(no_outcome(failed)),
        Err(rejection) => Err(Failure::rejected(failed, &rejection)),
    }
}

/// A bundle of a request, without taints: those are the server's to make.
fn check(context: &Context, message: &pb::types::Bundle, own: &str) -> Result<Bundle, Failure> {
    if foreign(context, &message.trust_domain)?.is_none() {
        return Err(Failure::invalid(format!(
            "{own} a federated bundle for the server's own trust domain is not allowed"
        )));
    }
    convert::from_pb(message)
        .map_err(|error| Failure::invalid_because("failed to convert bundle", error))
}

/// Says in the log what verifies nothing in a bundle, or too much. SPIRE takes all of it without a word,
/// so it is taken.
fn warn_of_doubts(context: &Context, bundle: &Bundle) {
    let own = context.views().bundle(context.trust_domain());
    let own = own.as_deref().map_or(&[][..], |own| &own.x509_authorities);
    for doubt in doubts(bundle, own, context.common_time()) {
        tracing::warn!(
            trust_domain_id = %bundle.trust_domain.id_string(),
            reason = doubt,
            "Bundle is set with an X.509 authority that cannot be meant; look at its file"
        );
    }
}

/// What cannot be meant by authorities of a foreign bundle, each reason once.
fn doubts(bundle: &Bundle, own: &[X509Authority], now: Timestamp) -> BTreeSet<&'static str> {
    let mut doubts = BTreeSet::new();
    for X509Authority { certificate_der, tainted: _ } in &bundle.x509_authorities {
        if own.iter().any(|own| own.certificate_der == *certificate_der) {
            doubts.insert("it is an authority of this server's own trust domain");
        }
        let Ok(facts) = certificate_facts(certificate_der) else { continue };
        if !facts.is_ca {
            doubts.insert("it is no CA certificate");
        }
        if facts.not_after < now {
            doubts.insert("it has expired");
        }
    }
    doubts
}

/// The trust domain of a name; `None`: the own one.
fn foreign(context: &Context, name: &str) -> Result<Option<TrustDomain>, Failure> {
    let invalid =
        |error: &dyn Display| Failure::invalid_because("trust domain argument is not valid", error);
    let trust_domain = id::trust_domain(name).map_err(|error| invalid(&error))?;
    Ok((trust_domain != *context.trust_domain()).then_some(trust_domain))
}

fn settle(outcome: Result<Outcome, Rejection>, len: usize, failed: &str) -> Vec<Item> {
    match outcome {
        Ok(Outcome::Bundles(items)) => {
            items.into_iter().map(|item| settled(item, failed)).collect()
        }
        Ok(
            Outcome::Done | Outcome::Entries(_) | Outcome::Relationships(_) | Outcome::Pruned(_),
        ) => Vec::new(),
        Err(rejection) => vec![Failure::rejected(failed, &rejection).into(); len],
    }
}

fn settled(outcome: BundleOutcome, failed: &str) -> Item {
    match outcome {
        BundleOutcome::Written(bundle) => {
            Item { status: steeple_api::status::ok(), bundle: Some(bundle) }
        }
        BundleOutcome::Deleted => Item { status: steeple_api::status::ok(), bundle: None },
        BundleOutcome::Rejected(rejection) => Failure::rejected(failed, &rejection).into(),
    }
}

fn no_outcome(failed: &str) -> Failure {
    Failure::internal(format!("{failed}: no outcome"))
}

/// The mode of a deletion as the registry knows it.
pub(super) fn deletion(
    request: &rpc::BatchDeleteFederatedBundleRequest,
) -> Result<BundleDeletion, Failure> {
    use rpc::batch_delete_federated_bundle_request::Mode;
    match Mode::try_from(request.mode) {
        Ok(Mode::Restrict) => Ok(BundleDeletion::Restrict),
        Ok(Mode::Delete) => Ok(BundleDeletion::Delete),
        Ok(Mode::Dissociate) => Ok(BundleDeletion::Dissociate),
        Err(_unknown) => Err(Failure::invalid(format!(
            "failed to parse deletion mode: unhandled delete mode \"{}\"",
            request.mode
        ))),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_the_registry_refuses_gets_spires_codes_and_texts() {
        let limit = Rejection::LimitReached { what: "federated bundles".into(), limit: 5 };
        let table = [
            (Rejection::BundleExists, Code::AlreadyExists, "bundle already exists"),
            (Rejection::BundleNotFound, Code::NotFound, "bundle not found"),
            (
                Rejection::BundleInUse(2),
                Code::FailedPrecondition,
                "doing: datastore-sql: cannot delete bundle; federated with 2 registration entries",
            ),
            (limit, Code::ResourceExhausted, "doing: limit of 5 federated bundles reached"),
        ];
        for (rejection, code, text) in table {
            let item = settled(BundleOutcome::Rejected(rejection), "doing");
            assert_eq!((item.status.code, item.status.message.as_str()), (code.into(), text));
        }
    }

    #[test]
    fn authorities_that_cannot_be_meant_are_told_once_each() {
        let now = Timestamp::from_unix_s(1_800_000_000);
        let made = |is_ca: bool, ends_in: i64| {
            let mut params = rcgen::CertificateParams::default();
            let time =
                |s: i64| time::OffsetDateTime::from_unix_timestamp(now.unix_s() + s).unwrap();
            (params.not_before, params.not_after) = (time(-7_200), time(ends_in));
            if is_ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate_der = params.self_signed(&key).unwrap().der().to_vec();
            X509Authority { certificate_der, tainted: false }
        };
        let (good, own) = (made(true, 60), made(true, 60));
        let told = |x509_authorities: &[&X509Authority]| {
            let trust_domain = TrustDomain::parse("bar.test").unwrap();
            let x509_authorities = x509_authorities.iter().map(|one| (*one).clone()).collect();
            let bundle = Bundle { x509_authorities, ..Bundle::empty(trust_domain) };
            doubts(&bundle, std::slice::from_ref(&own), now).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&[&good]), [""; 0]);
        assert_eq!(told(&[&good, &made(true, -60), &made(true, -60)]), ["it has expired"]);
        assert_eq!(told(&[&made(false, 60)]), ["it is no CA certificate"]);
        let of_own = "it is an authority of this server's own trust domain";
        assert_eq!(told(&[&own, &good]), [of_own]);
    }

    #[test]
    fn an_update_takes_what_the_mask_names_and_everything_without_one() {
        let all = fields(None);
        assert!(all.x509_authorities && all.jwt_authorities);
        assert!(all.refresh_hint && all.sequence_number);
        let mask = pb::types::BundleMask { refresh_hint: true, ..Default::default() };
        let expected = BundleFields { refresh_hint: true, ..Default::default() };
        assert_eq!(fields(Some(&mask)), expected);
    }
}
