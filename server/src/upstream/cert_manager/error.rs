//! What can go wrong, with what to do about it.

use std::path::PathBuf;
use std::time::Duration;

/// cert-manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertManagerError {
    /// Requests could not be labelled, so that none could be cleaned up.
    #[error(
        "trust domain {trust_domain:?} cannot be a label in Kubernetes, which has at most 63 characters \
         and a letter or digit at both ends: use another upstream authority"
    )]
    Label {
        /// The trust domain.
        trust_domain: String,
    },
    /// `kube_config_file` cannot be used.
    #[error("kube_config_file {}: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no kubeconfig, and no service account either.
    #[error("this is no pod with a service account ({0}): set kube_config_file")]
    NoPod(String),
    /// The library refused what the kubeconfig or the service account says.
    #[error("make a Kubernetes client: {0}")]
    Client(String),
    /// The API server cannot be reached.
    #[error("{doing} at {address}: {reason}")]
    Call {
        /// What was asked.
        doing: &'static str,
        /// Of whom.
        address: String,
        /// Why it came to nothing.
        reason: String,
    },
    /// The API server refuses.
    #[error("{doing} at {address}: {code}: {reason}{advice}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// Of whom.
        address: String,
        /// The status of HTTP.
        code: u16,
        /// What it says.
        reason: String,
        /// What to do; empty where it says so itself.
        advice: String,
    },
    /// An answer makes no sense.
    #[error("CertificateRequest at {address}: {reason}")]
    Answer {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// cert-manager does not sign it.
    #[error("CertificateRequest {namespace}/{name} {how}: {why}")]
    Ended {
        /// Failed or denied.
        how: &'static str,
        /// Where it is.
        namespace: String,
        /// Its name.
        name: String,
        /// What cert-manager says.
        why: String,
    },
    /// Nobody signs it.
    #[error(
        "CertificateRequest {namespace}/{name} did not become ready in {patience:?}: {seen}; see \
         kubectl -n {namespace} describe certificaterequest {name}"
    )]
    NotInTime {
        /// How long it was waited for.
        patience: Duration,
        /// Where it is.
        namespace: String,
        /// Its name.
        name: String,
        /// What was seen last.
        seen: String,
    },
}

impl CertManagerError {
    /// Whether the same call may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Call { .. } => true,
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::Label { .. }
            | Self::Kubeconfig { .. }
            | Self::NoPod(_)
            | Self::Client(_)
            | Self::Answer { .. }
            | Self::Ended { .. }
            | Self::NotInTime { .. } => false,
        }
    }
}
