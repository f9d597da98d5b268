//! Getting SVIDs signed: certificates in batches with fresh keys, tokens one by one.
//!
//! Owns the batch call, its size (halved when a batch fails, doubled when one succeeds) and the
//! check that what comes back is what was asked for: each item stands alone, a bad one is logged and
//! asked for again later.

use std::sync::Arc;

use steeple_api::pb;
use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::svid::x509::{X509Svid, certificate_facts};
use steeple_spiffe_core::{Clock, EntryId, KeyType, LocalSigner, Secret, Signer as _, Timestamp};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, error};

use super::conn::{CallError, Upstream};
use super::csr::certificate_request;
use crate::limits::{SERVER_MESSAGE_BYTES_MAX, SIGN_BATCH_MAX};
use crate::store::{Entry, WorkOrder, WorkloadSvid};

type Client = pb::server::svid::v1::svid_client::SvidClient<Channel>;

/// How many requests go into one call.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(SIGN_BATCH_MAX)
    }
}

impl BatchSize {
    /// The size.
    pub fn get(self) -> usize {
        self.0
    }

    /// After a batch failed.
    pub fn halve(&mut self) {
        self.0 = (self.0 / 2).max(1);
    }

    /// After a batch succeeded.
    pub fn double(&mut self) {
        self.0 = (self.0 * 2).min(SIGN_BATCH_MAX);
    }
}

/// What a batch brought.
#[derive(Debug, Default)]
pub struct Signed {
    /// Good SVIDs.
    pub svids: Vec<(EntryId, WorkloadSvid)>,
    /// How many items failed; they were logged.
    pub failures: usize,
}

/// One request of a batch with the key it is for.
struct Pending {
    entry: Arc<Entry>,
    key: Secret,
    public_key_spki: Vec<u8>,
    csr: Vec<u8>,
}

/// Signs one batch. Keys are made on a blocking thread: RSA takes its time.
pub async fn sign_x509(
    upstream: &Upstream,
    orders: Vec<WorkOrder>,
    key_type: KeyType,
    clock: &dyn Clock,
) -> Result<Signed, CallError> {
    for order in &orders {
        let (entry, spiffe_id) = (&order.entry.id, &order.entry.spiffe_id);
        if order.is_renewal {
            debug!(%entry, %spiffe_id, "Renewing X509-SVID");
        } else {
            debug!(%entry, %spiffe_id, "Creating X509-SVID");
        }
    }
    let asked = orders.len();
    let making = tokio::task::spawn_blocking(move || prepare_all(orders, key_type));
    // A panic there would be a bug of ours; the batch then counts as failed.
    let pending = making.await.unwrap_or_default();
    if pending.is_empty() {
        return Ok(Signed { svids: Vec::new(), failures: asked });
    }
    let params: Vec<_> = pending
        .iter()
        .map(|item| pb::server::svid::v1::NewX509svidParams {
            entry_id: item.entry.id.as_str().to_owned(),
            csr: item.csr.clone(),
        })
        .collect();
    let results = upstream.call(|channel| batch(channel, params.clone())).await?;
    let now = clock.now();
    let mut signed = Signed { svids: Vec::new(), failures: asked.saturating_sub(pending.len()) };
    let mut results = results.into_iter();
    for item in pending {
        let (id, spiffe_id) = (item.entry.id.clone(), item.entry.spiffe_id.clone());
        match take(item, results.next(), now) {
            Ok(svid) => signed.svids.push((id, svid)),
            Err(reason) => {
                error!(entry = %id, %spiffe_id, error = reason, "Failed to sign X509-SVID");
                signed.failures += 1;
            }
        }
    }
    Ok(signed)
}

/// Asks for one JWT-SVID of an entry.
pub async fn sign_jwt(
    upstream: &Upstream,
    entry: &EntryId,
    audience: &[String],
) -> Result<JwtSvid, CallError> {
    let generation = upstream.generation();
    let message = upstream
        .call(|channel| async move {
            let request = pb::server::svid::v1::NewJwtsvidRequest {
                entry_id: entry.as_str().to_owned(),
                audience: audience.to_vec(),
            };
            Ok(client(channel).new_jwtsvid(request).await?.into_inner())
        })
        .await?;
    let malformed = |text: String| CallError {
        status: Status::internal(format!("malformed JWT-SVID from server: {text}")),
        is_unknown_authority: false,
        generation,
    };
    let svid = message.svid.ok_or_else(|| malformed("missing".to_owned()))?;
    JwtSvid::parse_insecure(&svid.token).map_err(|error| malformed(error.to_string()))
}

fn client(channel: Channel) -> Client {
    Client::new(channel).max_decoding_message_size(SERVER_MESSAGE_BYTES_MAX)
}

async fn batch(
    channel: Channel,
    params: Vec<pb::server::svid::v1::NewX509svidParams>,
) -> Result<Vec<pb::server::svid::v1::batch_new_x509svid_response::Result>, Status> {
    let request = pb::server::svid::v1::BatchNewX509svidRequest { params };
    Ok(client(channel).batch_new_x509svid(request).await?.into_inner().results)
}

fn prepare_all(orders: Vec<WorkOrder>, key_type: KeyType) -> Vec<Pending> {
    let prepared = orders.into_iter().filter_map(|order| {
        let id = order.entry.id.clone();
        let pending = prepare(order.entry, key_type);
        pending.inspect_err(|reason| error!(entry = %id, error = reason, "Failed to make CSR")).ok()
    });
    prepared.collect()
}

fn prepare(entry: Arc<Entry>, key_type: KeyType) -> Result<Pending, String> {
    let (signer, key) = LocalSigner::generate(key_type).map_err(|error| error.to_string())?;
    let csr =
        certificate_request(&key, Some(&entry.spiffe_id)).map_err(|error| error.to_string())?;
    Ok(Pending { entry, key, public_key_spki: signer.public_key_spki().to_vec(), csr })
}

/// Checks one result against its request.
fn take(
    item: Pending,
    result: Option<pb::server::svid::v1::batch_new_x509svid_response::Result>,
    now: Timestamp,
) -> Result<WorkloadSvid, String> {
    let result = result.ok_or("server left out the result")?;
    if let Some(status) = result.status.filter(|status| status.code != 0) {
        let code = Code::from_i32(status.code);
        return Err(format!("rpc error: code = {code:?} desc = {}", status.message));
    }
    let svid = result.svid.ok_or("server sent neither SVID nor status")?;
    let parsed = X509Svid::parse_chain(&svid.cert_chain).map_err(|error| error.to_string())?;
    let leaf = parsed.chain_der.first().ok_or("server sent an empty chain")?;
    let last = parsed.chain_der.last().ok_or("server sent an empty chain")?;
    let leaf = certificate_facts(leaf).map_err(|error| error.to_string())?;
    if leaf.spki != item.public_key_spki {
        return Err("server signed another key than the one requested".to_owned());
    }
    let last = certificate_facts(last).map_err(|error| error.to_string())?;
    Ok(WorkloadSvid {
        spiffe_id: parsed.id,
        chain_der: parsed.chain_der,
        key_pkcs8: item.key,
        not_before: parsed.not_before,
        not_after: parsed.not_after,
        obtained_at: now,
        entry_revision: item.entry.revision,
        entry_created_at_unix_s: item.entry.created_at_unix_s,
        root_key_id: last.authority_key_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_halve_to_one_and_double_to_the_servers_limit() {
        let mut size = BatchSize::default();
        assert_eq!(size.get(), 500);
        size.halve();
        assert_eq!(size.get(), 250);
        (0..20).for_each(|_| size.halve());
        assert_eq!(size.get(), 1);
        (0..20).for_each(|_| size.double());
        assert_eq!(size.get(), 500);
    }
}
