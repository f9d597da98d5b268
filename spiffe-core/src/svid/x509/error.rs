//! Why a certificate cannot be written, read or trusted.

use crate::der::Malformed;
use crate::id::SpiffeIdError;
use crate::signer::SignError;

/// Why a certificate cannot be written, read or trusted. Texts about the SVID's form are go-spiffe's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// The bytes are no certificate in DER.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// A public key is no SubjectPublicKeyInfo in DER.
    #[error("malformed public key")]
    BadPublicKey,
    /// A distinguished name is malformed or uses a string type that cannot be read.
    #[error("malformed distinguished name")]
    BadName,
    /// A serial number of zero was asked for (RFC 5280 wants a positive one).
    #[error("certificate serial number is zero")]
    ZeroSerial,
    /// The lifetime is empty or outside the years that certificates can state.
    #[error("certificate lifetime is empty or out of range")]
    BadLifetime,
    /// The signer failed.
    #[error("sign certificate")]
    Sign(#[from] SignError),
    /// There is no certificate.
    #[error("empty certificates chain")]
    EmptyChain,
    /// The leaf names nobody.
    #[error("certificate contains no URI SAN")]
    NoUri,
    /// The leaf names more than one.
    #[error("certificate contains more than one URI SAN")]
    ManyUris,
    /// The leaf's URI is no SPIFFE id.
    #[error("certificate URI SAN is no SPIFFE ID: {0}")]
    BadId(#[from] SpiffeIdError),
    /// The leaf is a CA.
    #[error("leaf certificate must not have CA flag set to true")]
    LeafIsCa,
    /// The leaf may not make signatures.
    #[error("leaf certificate must have 'digitalSignature' set as key usage")]
    LeafCannotSign,
    /// The leaf may sign certificates.
    #[error("leaf certificate must not have 'keyCertSign' set as key usage")]
    LeafSignsCertificates,
    /// The leaf may sign revocation lists.
    #[error("leaf certificate must not have 'cRLSign' set as key usage")]
    LeafSignsCrls,
    /// A certificate above the leaf is no CA.
    #[error("intermediate certificate must have CA flag set to true")]
    IntermediateNotCa,
    /// A certificate above the leaf may not sign certificates.
    #[error("intermediate certificate must have 'keyCertSign' set as key usage")]
    IntermediateCannotSign,
    /// The leaf belongs to another trust domain than the bundle.
    #[error("certificate is of trust domain \"{got}\", not \"{expected}\"")]
    WrongTrustDomain {
        /// The bundle's.
        expected: String,
        /// The leaf's.
        got: String,
    },
    /// No path from the leaf to an authority of the bundle that is valid at the time.
    #[error("could not verify leaf certificate: {0}")]
    Untrusted(webpki::Error),
}

impl From<Malformed> for X509Error {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}
