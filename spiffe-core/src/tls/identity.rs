//! The own certificate and key, as rustls wants them, behind a pointer that a rotation swaps.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::TlsError;
use crate::key::Secret;
use crate::svid::x509::X509Svid;

/// An X.509-SVID with its private key.
pub struct Identity {
    svid: X509Svid,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Joins a chain (leaf first) and the leaf's private key (PKCS#8 in DER).
    pub fn new(chain_der: Vec<Vec<u8>>, pkcs8: &Secret) -> Result<Arc<Self>, TlsError> {
        let svid = X509Svid::parse_chain(&chain_der)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.expose()));
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(TlsError::BadKey)?;
        let chain = chain_der.into_iter().map(CertificateDer::from).collect();
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_mismatch| TlsError::KeyMismatch)?;
        Ok(Arc::new(Self { svid, certified: Arc::new(certified) }))
    }

    /// The certificates, read.
    pub fn svid(&self) -> &X509Svid {
        &self.svid
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, serial) = (&self.svid.id, &self.svid.serial);
        f.debug_struct("Identity").field("id", id).field("serial", serial).finish_non_exhaustive()
    }
}

/// Presents whatever identity is current when a handshake asks.
#[derive(Debug)]
pub(super) struct CurrentIdentity(pub(super) Arc<ArcSwap<Identity>>);

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ResolvesClientCert for CurrentIdentity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
