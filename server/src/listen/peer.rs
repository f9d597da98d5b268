//! Who is at the other end of a connection, as far as the transport proves it.
//!
//! A certificate found here has been verified by the TLS handshake against the bundle of its own
//! trust domain. Whether that still vouches for it, and whether its bearer still is what it says
//! (not banned, not superseded), is asked per request, by the gate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::{X509Error, X509Svid, verify_chain};
use steeple_spiffe_core::{Serial, SpiffeId, Timestamp};
use tokio_util::sync::CancellationToken;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A process on this machine, over the administrator's socket.
    Local {
        /// Process and user, when the kernel says.
        credentials: Option<LocalCredentials>,
    },
    /// A TLS client.
    Remote {
        /// Where it calls from.
        address: SocketAddr,
        /// What it presented; `None` = an anonymous client.
        certificate: Option<Arc<PeerCertificate>>,
    },
}

/// Process and user at the other end of a local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalCredentials {
    /// Process id at the time of the connect; the kernel may not know it.
    pub pid: Option<i32>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The parts of a verified client certificate that decisions need. One a connection.
#[derive(Debug)]
pub struct PeerCertificate {
    /// The only URI name.
    pub id: SpiffeId,
    /// The leaf's serial.
    pub serial: Serial,
    /// When the leaf begins.
    pub not_before: Timestamp,
    /// When the leaf ends.
    pub not_after: Timestamp,
    /// The key id of the authority that signed the leaf.
    pub authority_key_id: Vec<u8>,
    /// Leaf first, in DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The last bundle that vouched for the chain: it need not be asked again.
    vouched_by: ArcSwapOption<Bundle>,
    lapsed: CancellationToken,
}

impl PeerCertificate {
    /// Reads what the handshake has verified.
    ///
    /// # Errors
    ///
    /// The chain is no X509-SVID; the verifier lets none such through.
    pub fn from_chain(chain_der: Vec<Vec<u8>>) -> Result<Self, X509Error> {
        let svid = X509Svid::parse_chain(&chain_der)?;
        Ok(Self {
            id: svid.id,
            serial: svid.serial,
            not_before: svid.not_before,
            not_after: svid.not_after,
            authority_key_id: svid.authority_key_id,
            chain_der,
            vouched_by: ArcSwapOption::empty(),
            lapsed: CancellationToken::new(),
        })
    }

    /// Whether a bundle leads to the chain. The same one is asked once: a call costs a comparison
    /// of pointers, and a verification only after the bundle has changed. The leaf's own lifetime
    /// is not looked at, since agents are told another reason when it is over.
    pub fn is_vouched_for_by(&self, bundle: &Arc<Bundle>, now: Timestamp) -> bool {
        if self.vouched_by.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, bundle)) {
            return true;
        }
        let within = now.min(self.not_after).max(self.not_before);
        let leads = verify_chain(&self.chain_der, bundle, within).is_ok();
        if leads {
            self.vouched_by.store(Some(Arc::clone(bundle)));
        }
        leads
    }

    /// Nobody vouches for the chain any more: the connection is to end. Whether that is news.
    pub fn lapse(&self) -> bool {
        let is_news = !self.lapsed.is_cancelled();
        self.lapsed.cancel();
        is_news
    }
}

impl Peer {
    /// Whether the peer came over the administrator's socket.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

    /// Process and user of a local peer, when the kernel says.
    pub fn credentials(&self) -> Option<LocalCredentials> {
        match self {
            Self::Local { credentials } => *credentials,
            Self::Remote { .. } => None,
        }
    }

    /// The address that rate limits count by; local peers are not limited.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Local { .. } => None,
            Self::Remote { address, .. } => Some(address.ip().to_canonical()),
        }
    }

    /// The verified certificate, if one was presented.
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        match self {
            Self::Local { .. } => None,
            Self::Remote { certificate, .. } => certificate.as_deref(),
        }
    }

    /// Cancelled when the certificate that the connection was made with has lapsed.
    pub fn lapsed(&self) -> CancellationToken {
        self.certificate().map(|certificate| certificate.lapsed.clone()).unwrap_or_default()
    }

    /// For log lines: the address, or `@` as Go prints the far end of a Unix socket.
    pub fn address_text(&self) -> String {
        match self {
            Self::Local { .. } => "@".to_owned(),
            Self::Remote { address, .. } => address.to_string(),
        }
    }
}
