//! The attestor `join_token`: the payload is a token that an operator made.
//!
//! Owns only the agent id that follows from a token. Whether the token exists, is unspent and has
//! not expired is decided in apply, in the same step that admits the agent: two replicas that see
//! the same token at the same time cannot both admit.

use steeple_spiffe_core::limits::JOIN_TOKEN_BYTES_MAX;
use steeple_spiffe_core::{SelectorSet, SpiffeId, TrustDomain};
use tonic::Code;

use super::attestor::{AttestError, Attested, ChallengeChannel, NodeAttestor};

/// SPIRE's text for a token that is not stored, whatever the reason.
const UNKNOWN_TOKEN: &str = "failed to attest: join token does not exist or has already been used";

/// Attests by join token.
#[derive(Clone, Debug)]
pub struct JoinToken {
    trust_domain: TrustDomain,
}

impl JoinToken {
    /// The attestor of a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain }
    }
}

#[tonic::async_trait]
impl NodeAttestor for JoinToken {
    fn kind(&self) -> &str {
        "join_token"
    }

    async fn attest(
        &self,
        payload: &[u8],
        _channel: &mut dyn ChallengeChannel,
    ) -> Result<Attested, AttestError> {
        // What could never have been created is answered like what was not.
        let unknown = || AttestError::new(Code::InvalidArgument, UNKNOWN_TOKEN);
        let token = std::str::from_utf8(payload).map_err(|_not_text| unknown())?;
        if token.len() > JOIN_TOKEN_BYTES_MAX || token.contains('/') {
            return Err(unknown());
        }
        let agent_id = SpiffeId::agent(self.trust_domain.clone(), &format!("join_token/{token}"))
            .map_err(|_not_a_path_segment| unknown())?;
        Ok(Attested {
            agent_id,
            selectors: SelectorSet::new(),
            can_reattest: false,
            token: Some(token.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    struct NoChallenges;

    #[tonic::async_trait]
    impl ChallengeChannel for NoChallenges {
        async fn challenge(&mut self, _challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
            Err(AttestError::new(Code::Internal, "not expected"))
        }

        fn peer_ip(&self) -> Option<IpAddr> {
            None
        }
    }

    #[tokio::test]
    async fn a_token_names_its_agent_and_nonsense_is_an_unknown_token() {
        let attestor = JoinToken::new(TrustDomain::parse("example.org").unwrap());
        let attested = attestor.attest(b"abc-123", &mut NoChallenges).await.unwrap();
        assert_eq!(
            attested.agent_id.to_string(),
            "spiffe://example.org/spire/agent/join_token/abc-123"
        );
        assert_eq!(attested.token.as_deref(), Some("abc-123"));
        assert!(!attested.can_reattest && attested.selectors.is_empty());

        let long = vec![b'a'; JOIN_TOKEN_BYTES_MAX + 1];
        for payload in [&b"a b"[..], b"\xff", b"a/b", b"..", &long] {
            let error = attestor.attest(payload, &mut NoChallenges).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert_eq!(error.message, UNKNOWN_TOKEN);
        }
    }
}
