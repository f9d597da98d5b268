//! A test signature with every authority that may sign now or next.

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use steeple_raft_store::change::Journal;
use steeple_raft_store::{ClusterId, ClusterKeys};
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::signer::Signer;

use crate::keys::KeyRing;

/// What is signed: nothing that means anything to anyone.
const MESSAGE: &[u8] = b"steeple cluster check";

/// What came of the signature of one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tested {
    /// `x509` or `jwt`, and its id.
    pub(super) authority: String,
    /// Why it cannot sign; `None`: it can.
    pub(super) error: Option<String>,
}

/// Opens every key anew and signs with it.
pub(super) fn test_signatures(
    keys: &Arc<ClusterKeys>,
    cluster_id: ClusterId,
    journal: &Journal,
) -> Vec<Tested> {
    let mut ring = KeyRing::new(Arc::clone(keys));
    let opened = ring.follow(cluster_id, journal).map_err(|error| error.to_string());
    let may_sign = |one: &&Authority| one.status.may_sign();
    let tested = journal.authorities.iter().filter(may_sign).map(|authority| {
        let kind = match authority.kind {
            AuthorityKind::X509 => "x509",
            AuthorityKind::Jwt => "jwt",
        };
        let error = match ring.signer(authority) {
            Some(signer) => sign(signer.as_ref()).err().map(str::to_owned),
            None => {
                Some(opened.clone().err().unwrap_or_else(|| "its key does not open".to_owned()))
            }
        };
        Tested { authority: format!("{kind} {}", authority.id.as_str()), error }
    });
    tested.collect()
}

fn sign(signer: &dyn Signer) -> Result<(), &'static str> {
    let signature = signer.sign_x509(MESSAGE).map_err(|_refused| "the key does not sign")?;
    let algorithm: &'static dyn VerificationAlgorithm = match signer.key_type() {
        KeyType::EcP256 => &ECDSA_P256_SHA256_ASN1,
        KeyType::EcP384 => &ECDSA_P384_SHA384_ASN1,
        KeyType::Rsa2048 | KeyType::Rsa4096 => &RSA_PKCS1_2048_8192_SHA256,
    };
    let key = UnparsedPublicKey::new(algorithm, signer.public_key_spki());
    let wrong = "what it signs does not verify with the published key";
    key.verify(MESSAGE, &signature).map_err(|_refused| wrong)
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::LocalSigner;

    use super::*;

    #[test]
    fn every_key_type_passes_the_test_signature() {
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let (signer, _) = LocalSigner::generate(key_type).unwrap();
            assert_eq!(sign(&signer), Ok(()), "{key_type:?}");
        }
    }
}
