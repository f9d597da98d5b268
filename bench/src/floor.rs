//! The limits that the machine sets: signing and verifying, and fdatasync.

use std::io::Write as _;

use anyhow::{Context, Result};
use steeple_spiffe_core::csr::CertificateRequest;
use steeple_spiffe_core::signer::{LocalSigner, Signer as _};
use steeple_spiffe_core::{KeyType, SpiffeId};
use steeple_testkit::client::request_key;
use tokio::time::Instant;

use crate::spread::micros_each;

/// Microseconds to check a request's signature and to sign a certificate-sized message, on one
/// core: what one P-256 issuance cannot do without.
pub(crate) fn crypto(count: usize) -> Result<f64> {
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).context("generate a key")?;
    let (_, csr) = request_key()?;
    let message = vec![0x5A; 500];
    let started = Instant::now();
    for _ in 0..count {
        CertificateRequest::verify_signature(&csr).context("verify")?;
        signer.sign_x509(&message).context("sign")?;
    }
    Ok(micros_each(started.elapsed(), count))
}

/// Microseconds of each of some appended 300-byte records with fdatasync, one after the other, on the
/// disk of TMPDIR, where every system has its files.
pub(crate) fn each_fdatasync(count: usize) -> Result<Vec<f64>> {
    let mut file = tempfile::tempfile().context("create a file")?;
    let record = [0x5A; 300];
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        file.write_all(&record).context("write")?;
        file.sync_data().context("fdatasync")?;
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

/// The id that the benchmark's entry has.
pub(crate) fn workload() -> Result<SpiffeId> {
    SpiffeId::parse("spiffe://example.org/bench").context("an id")
}
