//! A forced rotation below which stock agents live: prepared, activated, tainted and revoked, each step
//! through another replica.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::Cluster;
use steeple_testkit::process::wait_for;

use super::agents::StockAgent;
use super::{WITHIN, WORKLOAD, entry};

/// Replaces the X.509 authority and the JWT key, and waits until both agents have replaced what the old
/// authority signed, their own certificates included, and go on without it.
pub(super) async fn replace(cluster: &Cluster, agents: &mut [StockAgent; 2]) -> Result<()> {
    let old = id_of(cluster, 0, "x509", "active")?;
    for agent in &mut *agents {
        agent.signed_below(WORKLOAD, &old, WITHIN).await?;
    }
    let new = prepare(cluster, 1, "x509")?;
    step(cluster, 2, "x509", "activate", &new)?;
    // SPIRE's order too: the new root must be everywhere before the old one's work is thrown away.
    for agent in &mut *agents {
        agent.trusts(&new, WITHIN).await?;
    }
    let renewals: Vec<usize> = agents.iter().map(StockAgent::renewals).collect();
    step(cluster, 0, "x509", "taint", &old)?;
    for (agent, before) in agents.iter_mut().zip(renewals) {
        agent.signed_below(WORKLOAD, &new, WITHIN).await.context("after the taint")?;
        agent.renewed(before, WITHIN).await.context("its own certificate, after the taint")?;
    }
    step(cluster, 1, "x509", "revoke", &old)?;

    let old_key = id_of(cluster, 0, "jwt", "active")?;
    let new_key = prepare(cluster, 2, "jwt")?;
    step(cluster, 0, "jwt", "activate", &new_key)?;
    step(cluster, 1, "jwt", "taint", &old_key)?;
    step(cluster, 2, "jwt", "revoke", &old_key)?;

    let after = "spiffe://example.org/after-the-revocation";
    entry(cluster, 1, after)?;
    for agent in agents {
        agent.signed_below(after, &new, WITHIN).await.context("after the revocation")?;
        agent.never_gave_up()?;
    }
    Ok(())
}

pub(super) fn prepare(cluster: &Cluster, index: usize, kind: &str) -> Result<String> {
    let made = cluster.member(index)?.cli_json(&["localauthority", kind, "prepare"])?;
    let id = made.pointer("/prepared_authority/authority_id").and_then(|id| id.as_str());
    Ok(id.with_context(|| format!("no authority in {made}"))?.to_owned())
}

pub(super) fn step(
    cluster: &Cluster,
    index: usize,
    kind: &str,
    verb: &str,
    id: &str,
) -> Result<()> {
    let mut words = vec!["localauthority", kind, verb, "-authorityID", id];
    if verb == "activate" {
        // Agents below may not have fetched it yet, and SPIRE's tool does not ask.
        words.push("-force");
    }
    cluster.member(index)?.cli_json(&words).map(drop)
}

pub(super) fn id_of(cluster: &Cluster, index: usize, kind: &str, place: &str) -> Result<String> {
    let shown = cluster.member(index)?.cli_json(&["localauthority", kind, "show"])?;
    let id = shown.pointer(&format!("/{place}/authority_id")).and_then(|id| id.as_str());
    Ok(id.with_context(|| format!("no {place} authority in {shown}"))?.to_owned())
}

/// Lower-case hex, as authorities are named.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl StockAgent {
    /// Waits until the identity is served with a certificate of the authority.
    async fn signed_below(&mut self, id: &str, authority: &str, within: Duration) -> Result<()> {
        let outcome = wait_for("an SVID of the authority", within, async || {
            ensure!(self.is_running(), "the stock agent ended");
            let svids = self.client().await?.fetch_all_x509_svids().await?;
            let found = svids.iter().find(|svid| svid.spiffe_id().to_string() == id);
            let chain = found.with_context(|| format!("{id} is not served"))?.cert_chain();
            let leaf = chain.first().context("a chain without a certificate")?;
            let facts = steeple_spiffe_core::svid::x509::certificate_facts(leaf.as_ref())?;
            let signer = hex(&facts.authority_key_id);
            ensure!(signer == authority, "{id} is below {signer}, not {authority}");
            Ok(())
        })
        .await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.log_tail(25)))
    }

    /// Waits until its workloads are told of the authority.
    async fn trusts(&mut self, authority: &str, within: Duration) -> Result<()> {
        let outcome = wait_for("the authority at workloads", within, async || {
            ensure!(self.is_running(), "the stock agent ended");
            let bundles = self.client().await?.fetch_x509_bundles().await?;
            let own = bundles.iter().flat_map(|(_, bundle)| bundle.authorities().iter());
            let ids: Vec<String> = own
                .filter_map(|root| {
                    steeple_spiffe_core::svid::x509::certificate_facts(root.as_ref()).ok()
                })
                .map(|facts| hex(&facts.subject_key_id))
                .collect();
            ensure!(ids.iter().any(|id| id == authority), "they trust {ids:?}");
            Ok(())
        })
        .await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.log_tail(25)))
    }
}
