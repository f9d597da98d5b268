//! What the cryptography alone costs, on one core.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::csr::CertificateRequest;
use steeple_spiffe_core::signer::{LocalSigner, Signer as _};
use steeple_testkit::client::request_key;
use tokio::time::Instant;

use super::work::Work;
use crate::closed_loop::Round;

/// Bytes that are signed: of a certificate without its signature, and of a token's header and
/// payload.
const CERTIFICATE_BYTES: usize = 500;
const TOKEN_BYTES: usize = 300;

/// Operations between two looks at the clock.
const UNITS: u32 = 20;

/// Keys of a kind, and a request to check.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    signer: Arc<LocalSigner>,
    csr: Arc<Vec<u8>>,
}

impl Limit {
    /// With a new authority's key of this type, and a request for a key on P-256.
    pub(crate) async fn new(key_type: KeyType) -> Result<Self> {
        let made = tokio::task::spawn_blocking(move || {
            let (signer, _pkcs8) = LocalSigner::generate(key_type).context("generate a key")?;
            let (_key, csr) = request_key()?;
            anyhow::Ok(Self { signer: Arc::new(signer), csr: Arc::new(csr) })
        });
        made.await.context("the key's thread")?
    }

    /// The cryptography that this work cannot do without: for a certificate the check of the
    /// request's signature and one signature, for a token one signature. CPU time of the one thread
    /// that does it.
    pub(crate) async fn round(&self, work: Work, slice: Duration) -> Result<Round> {
        let limit = self.clone();
        let spent = tokio::task::spawn_blocking(move || limit.spend(work, slice)).await;
        Ok(Round::of_cpu(spent.context("the limit's thread")??))
    }

    fn spend(&self, work: Work, slice: Duration) -> Result<f64> {
        let (certificate, token) = (vec![0x5A; CERTIFICATE_BYTES], vec![0x5A; TOKEN_BYTES]);
        let (began, before) = (Instant::now(), thread_cpu_us());
        let mut units = 0_u32;
        while units == 0 || began.elapsed() < slice {
            for _ in 0..UNITS {
                match work {
                    Work::Batch | Work::Single => {
                        CertificateRequest::verify_signature(&self.csr).context("verify")?;
                        self.signer.sign_x509(&certificate).context("sign")?;
                    }
                    Work::Jwt => drop(self.signer.sign_jws(&token).context("sign")?),
                }
            }
            units = units.saturating_add(UNITS);
        }
        Ok((thread_cpu_us() - before) / f64::from(units))
    }
}

/// Microseconds of CPU that this thread has used.
fn thread_cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
