//! The node attestation methods as one type.

use super::join_token::JoinToken;
use super::x509pop::X509Pop;

/// A configured method.
#[derive(Debug)]
pub enum NodeAttestor {
    /// A token that an operator made.
    JoinToken(JoinToken),
    /// Possession of a certificate's private key.
    X509Pop(Box<X509Pop>),
}

/// The evidence could not be produced.
#[derive(Debug, thiserror::Error)]
pub enum NodeAttestError {
    /// No token is configured. The text is SPIRE's.
    #[error("join token was not provided")]
    NoJoinToken,
    /// A file could not be read.
    #[error("unable to read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file or a message doesn't hold what it should.
    #[error("{0}")]
    Malformed(String),
    /// The crypto library refused to sign.
    #[error("sign challenge")]
    Sign,
    /// The method has no challenges, yet the server sent one.
    #[error("unexpected challenge from server")]
    UnexpectedChallenge,
}

impl NodeAttestor {
    /// The method's name on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JoinToken(_) => "join_token",
            Self::X509Pop(_) => "x509pop",
        }
    }

    /// The first message. Files are read anew each time, so that replaced ones count.
    pub fn payload(&self) -> Result<Vec<u8>, NodeAttestError> {
        match self {
            Self::JoinToken(method) => method.payload(),
            Self::X509Pop(method) => method.payload(),
        }
    }

    /// The answer to a challenge.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        match self {
            Self::JoinToken(_) => Err(NodeAttestError::UnexpectedChallenge),
            Self::X509Pop(method) => method.answer(challenge),
        }
    }
}
