//! Issuance as agents do it, and the patience of clients: replica after replica, until a deadline.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use steeple_api::pb;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::client::request_key;
use crate::load::Attempts;

/// One call may take this long before the next replica is tried.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Pause between attempts, so that a refusing replica is not hammered.
const PAUSE: Duration = Duration::from_millis(50);

/// BatchNewX509SVID for an entry, with a new key, over channels of an attested client.
pub async fn issue(
    channels: &[Channel],
    entry_id: &str,
    number: u64,
    deadline: Instant,
    attempts: &Attempts,
) -> Result<()> {
    let (_key, csr) = tokio::task::spawn_blocking(request_key).await??;
    let params = pb::server::svid::v1::NewX509svidParams { entry_id: entry_id.to_owned(), csr };
    let request = pb::server::svid::v1::BatchNewX509svidRequest { params: vec![params] };
    retry(channels, number, deadline, attempts, async |channel| {
        let mut svids = pb::server::svid::v1::svid_client::SvidClient::new(channel);
        let reply = svids.batch_new_x509svid(request.clone()).await?.into_inner();
        let result = reply.results.into_iter().next().context("no result")?;
        let status = result.status.unwrap_or_default();
        ensure!(status.code == 0, "{}", status.message);
        ensure!(result.svid.is_some_and(|svid| !svid.cert_chain.is_empty()), "no certificate");
        Ok(())
    })
    .await
}

/// Tries replica after replica until one answers or the deadline is here.
pub async fn retry<F>(
    channels: &[Channel],
    first: u64,
    deadline: Instant,
    attempts: &Attempts,
    mut call: F,
) -> Result<()>
where
    F: AsyncFnMut(Channel) -> Result<()>,
{
    let count = channels.len();
    ensure!(count > 0, "no replica to ask");
    let mut turn = usize::try_from(first)? % count;
    again(deadline, attempts, async || {
        let channel = channels.get(turn).context("a replica")?.clone();
        turn = (turn + 1) % count;
        call(channel).await
    })
    .await
}

/// Tries until it works or the deadline is here; the error is the last attempt's.
pub async fn again<F>(deadline: Instant, attempts: &Attempts, mut call: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<()>,
{
    loop {
        attempts.count();
        let error = match tokio::time::timeout(ATTEMPT, call()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_elapsed) => anyhow::anyhow!("no answer within {ATTEMPT:?}"),
        };
        if Instant::now() + PAUSE >= deadline {
            bail!("{error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
