//! A test signature with authorities that may sign now or next.

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use steeple_raft_store::change::Journal;
use steeple_raft_store::{ClusterId, ClusterKeys};
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::signer::Signer;

use super::ring::KeyRing;

/// What is signed: nothing that means anything to anyone.
const MESSAGE: &[u8] = b"steeple cluster check";

/// What came of the signature of one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// `x509`, `jwt` or `wit`, and its id.
    pub authority: String,
    /// Why it cannot sign; `None`: it can.
    pub error: Option<String>,
}

/// Opens every key that may sign anew and signs with it.
pub fn test_signatures(
    keys: &Arc<ClusterKeys>,
    cluster_id: ClusterId,
    journal: &Journal,
) -> Vec<Tested> {
    let may_sign = journal.authorities.iter().filter(|one| one.status.may_sign());
    let tested = may_sign.map(|authority| {
        let kind = match authority.kind {
            AuthorityKind::X509 => "x509",
            AuthorityKind::Jwt => "jwt",
            AuthorityKind::Wit => "wit",
        };
        let error = test_signature(keys, cluster_id, authority).err();
        Tested { authority: format!("{kind} {}", authority.id.as_str()), error }
    });
    tested.collect()
}

/// Opens the key of one authority anew and signs with it.
///
/// # Errors
///
/// Why it cannot sign.
pub fn test_signature(
    keys: &Arc<ClusterKeys>,
    cluster_id: ClusterId,
    authority: &Authority,
) -> Result<(), String> {
    let ring = KeyRing::new(Arc::clone(keys));
    let signer = ring.open(cluster_id, authority).map_err(|error| error.to_string())?;
    sign(signer.as_ref()).map_err(str::to_owned)
}

fn sign(signer: &dyn Signer) -> Result<(), &'static str> {
    let signature = signer.sign_x509(MESSAGE).map_err(|_refused| "the key does not sign")?;
    let algorithm: &'static dyn VerificationAlgorithm = match signer.key_type() {
        KeyType::EcP256 => &ECDSA_P256_SHA256_ASN1,
        KeyType::EcP384 => &ECDSA_P384_SHA384_ASN1,
        KeyType::EcP521 => &ECDSA_P521_SHA512_ASN1,
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
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa2048] {
            let (signer, _) = LocalSigner::generate(key_type).unwrap();
            assert_eq!(sign(&signer), Ok(()), "{key_type:?}");
        }
    }
}
