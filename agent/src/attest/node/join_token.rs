//! `join_token`: the payload is the token itself, once.

use super::method::NodeAttestError;

/// The method with its token.
pub struct JoinToken {
    token: Option<String>,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").finish_non_exhaustive()
    }
}

impl JoinToken {
    /// With the configured token, if any: an agent that still has its certificate needs none.
    pub fn new(token: Option<String>) -> Self {
        Self { token: token.filter(|token| !token.is_empty()) }
    }

    pub(super) fn payload(&self) -> Result<Vec<u8>, NodeAttestError> {
        let token = self.token.as_ref().ok_or(NodeAttestError::NoJoinToken)?;
        Ok(token.clone().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_the_raw_token_and_its_lack_an_error() {
        let payload = |token: Option<&str>| JoinToken::new(token.map(str::to_owned)).payload();
        assert_eq!(payload(Some("abc")).expect("token"), b"abc");
        for none in [None, Some("")] {
            let error = payload(none).expect_err("no token");
            assert_eq!(error.to_string(), "join token was not provided");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        assert!(!format!("{:?}", JoinToken::new(Some("s3cret".to_owned()))).contains("s3cret"));
    }
}
