//! How the fetching of foreign bundles goes, and the command that notes it, both ways.

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::time::Timestamp;

use crate::change::{RefreshFailure, RefreshStatus};
use crate::codec::model::trust_domain_from_pb;
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb};
use crate::command::{BundleDigest, Command, FetchedBundle, Refreshed};
use crate::pb;
use crate::pb::store::Done;
use crate::pb::store::record_refresh::Refreshed as Kind;

pub(crate) fn refresh_row_to_pb(status: &RefreshStatus) -> pb::store::RefreshRow {
    let failure = status.failure.as_ref().map(|failure| pb::store::RefreshFailure {
        since_unix_ms: failure.since.unix_ms(),
        class: failure.class.clone(),
        text: failure.text.clone(),
    });
    let status = pb::store::RefreshStatus {
        trust_domain: status.trust_domain.to_string(),
        noted_at_unix_ms: status.noted_at.unix_ms(),
        succeeded_at_unix_ms: status.succeeded_at.map(Timestamp::unix_ms),
        failure,
    };
    pb::store::RefreshRow { status: Some(status) }
}

pub(crate) fn refresh_row_from_pb(row: pb::store::RefreshRow) -> Result<RefreshStatus, CodecError> {
    let status = row.status.ok_or_else(|| CodecError::missing("status of a row"))?;
    Ok(RefreshStatus {
        trust_domain: trust_domain_from_pb(&status.trust_domain)?,
        noted_at: Timestamp::from_unix_ms(status.noted_at_unix_ms),
        succeeded_at: status.succeeded_at_unix_ms.map(Timestamp::from_unix_ms),
        failure: status.failure.map(|failure| RefreshFailure {
            since: Timestamp::from_unix_ms(failure.since_unix_ms),
            class: failure.class,
            text: failure.text,
        }),
    })
}

pub(super) fn record_to_pb(
    trust_domain: &TrustDomain,
    refreshed: &Refreshed,
) -> pb::store::command::Kind {
    let kind = match refreshed {
        Refreshed::Succeeded(None) => Kind::Unchanged(Done {}),
        Refreshed::Succeeded(Some(FetchedBundle { bundle, seen })) => {
            Kind::Fetched(pb::store::FetchedBundle {
                bundle: Some(bundle_to_pb(bundle)),
                seen: seen.map(|digest| digest.0.to_vec()).unwrap_or_default(),
            })
        }
        Refreshed::Failed { class, text } => {
            let (class, text) = (class.clone(), text.clone());
            Kind::Failed(pb::store::RefreshRefused { class, text })
        }
        Refreshed::Ended => Kind::Ended(Done {}),
    };
    let (trust_domain, refreshed) = (trust_domain.to_string(), Some(kind));
    pb::store::command::Kind::RecordRefresh(pb::store::RecordRefresh { trust_domain, refreshed })
}

pub(super) fn record_from_pb(record: pb::store::RecordRefresh) -> Result<Command, CodecError> {
    let kind = record.refreshed.ok_or_else(|| CodecError::missing("how a refresh went"))?;
    let refreshed = match kind {
        Kind::Unchanged(Done {}) => Refreshed::Succeeded(None),
        Kind::Fetched(fetched) => {
            let bundle = fetched.bundle.ok_or_else(|| CodecError::missing("fetched bundle"))?;
            let (bundle, seen) = (bundle_from_pb(bundle)?, digest_from_pb(&fetched.seen)?);
            Refreshed::Succeeded(Some(FetchedBundle { bundle, seen }))
        }
        Kind::Failed(pb::store::RefreshRefused { class, text }) => {
            Refreshed::Failed { class, text }
        }
        Kind::Ended(Done {}) => Refreshed::Ended,
    };
    let trust_domain = trust_domain_from_pb(&record.trust_domain)?;
    Ok(Command::RecordRefresh { trust_domain, refreshed })
}

fn digest_from_pb(bytes: &[u8]) -> Result<Option<BundleDigest>, CodecError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = <[u8; 32]>::try_from(bytes);
    let digest = digest.map_err(|error| CodecError::new("digest of a bundle", error))?;
    Ok(Some(BundleDigest(digest)))
}
