//! `Debug` of messages that carry a private key or a bearer token: everything but the secret.
//!
//! The build script leaves `Debug` of exactly these messages to us. A secret prints as its length,
//! which is enough to see whether it is there.

use std::fmt;

use crate::pb;

struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes hidden>", self.0)
    }
}

/// `Debug` with the fields before the semicolon shown and those after it hidden.
macro_rules! redacted {
    ($($message:ty { $($shown:ident),*; $($hidden:ident),+ })+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($hidden), &Hidden(self.$hidden.len())))+
                    .finish()
            }
        }
    )+};
}

redacted! {
    pb::types::AttestationData { r#type; payload }
    pb::types::JoinToken { expires_at; value }
    pb::types::Jwtsvid { id, expires_at, issued_at, hint; token }
    pb::server::agent::v1::CreateJoinTokenRequest { ttl, agent_id; token }
    pb::workload::X509svid { spiffe_id, x509_svid, bundle, hint; x509_svid_key }
    pb::workload::Jwtsvid { spiffe_id, hint; svid }
    pb::workload::Witsvid { spiffe_id, hint; wit_svid, wit_svid_key }
    pb::workload::ValidateJwtsvidRequest { audience; svid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_svid_shows_its_identity_and_hides_its_key() {
        let svid = pb::workload::X509svid {
            spiffe_id: "spiffe://example.org/web".into(),
            x509_svid_key: b"KEYBYTES".to_vec(),
            ..Default::default()
        };
        let text = format!("{svid:?}");
        assert!(text.contains("spiffe://example.org/web"), "{text}");
        assert!(text.contains("x509_svid_key: <8 bytes hidden>"), "{text}");
        assert!(!text.contains("75, 69, 89"), "{text}");
    }

    #[test]
    fn a_printed_token_is_hidden_wherever_it_travels() {
        let token = "c0ffee-token";
        let printed = [
            format!("{:?}", pb::types::JoinToken { value: token.into(), expires_at: 7 }),
            format!("{:?}", pb::types::Jwtsvid { token: token.into(), ..Default::default() }),
            format!("{:?}", pb::workload::Jwtsvid { svid: token.into(), ..Default::default() }),
            format!(
                "{:?}",
                pb::server::agent::v1::CreateJoinTokenRequest {
                    token: token.into(),
                    ..Default::default()
                }
            ),
        ];
        for text in printed {
            assert!(!text.contains(token), "{text}");
        }
    }
}
