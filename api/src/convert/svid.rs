//! SVIDs: to the answers of a server and of the Workload API, and from a server's answer.
//!
//! Owns the two encodings of a chain (a list of DER on the server's API, concatenated DER on the
//! Workload API). Parsing and verifying certificates and tokens is `steeple-spiffe-core`'s.

use steeple_spiffe_core::{Secret, SpiffeId, Timestamp};

use super::{ConvertError, id};
use crate::pb;

/// What a server's answer says about an X509-SVID; nothing of the chain is parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedX509Svid {
    /// The identity.
    pub id: SpiffeId,
    /// Certificates in DER, leaf first; never empty.
    pub chain_der: Vec<Vec<u8>>,
    /// When it ends.
    pub not_after: Timestamp,
}

/// What a server's answer says about a JWT-SVID.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "the token is a bearer secret")]
pub struct ReceivedJwtSvid {
    /// The identity.
    pub id: SpiffeId,
    /// The compact JWS; never empty.
    pub token: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// An X509-SVID of a server's answer. The hint stays empty, as SPIRE leaves it.
pub fn x509_to_pb(
    id: &SpiffeId,
    chain_der: Vec<Vec<u8>>,
    not_after: Timestamp,
) -> pb::types::X509svid {
    pb::types::X509svid {
        cert_chain: chain_der,
        id: Some(id::to_pb(id)),
        expires_at: not_after.unix_s(),
        hint: String::new(),
    }
}

/// A JWT-SVID of a server's answer. The hint stays empty, as SPIRE leaves it.
pub fn jwt_to_pb(
    id: &SpiffeId,
    token: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
) -> pb::types::Jwtsvid {
    pb::types::Jwtsvid {
        token,
        id: Some(id::to_pb(id)),
        expires_at: expires_at.unix_s(),
        issued_at: issued_at.unix_s(),
        hint: String::new(),
    }
}

/// Reads an X509-SVID of a server's answer.
pub fn x509_from_pb(
    message: Option<pb::types::X509svid>,
) -> Result<ReceivedX509Svid, ConvertError> {
    let message = message.ok_or(ConvertError::MissingField("SVID"))?;
    if message.cert_chain.is_empty() {
        return Err(ConvertError::MissingField("certificate chain"));
    }
    Ok(ReceivedX509Svid {
        id: id::any_id(message.id.as_ref()).map_err(ConvertError::SvidId)?,
        chain_der: message.cert_chain,
        not_after: Timestamp::from_unix_s(message.expires_at),
    })
}

/// Reads a JWT-SVID of a server's answer.
pub fn jwt_from_pb(message: Option<pb::types::Jwtsvid>) -> Result<ReceivedJwtSvid, ConvertError> {
    let message = message.ok_or(ConvertError::MissingField("SVID"))?;
    if message.token.is_empty() {
        return Err(ConvertError::MissingField("token"));
    }
    Ok(ReceivedJwtSvid {
        id: id::any_id(message.id.as_ref()).map_err(ConvertError::SvidId)?,
        token: message.token,
        issued_at: Timestamp::from_unix_s(message.issued_at),
        expires_at: Timestamp::from_unix_s(message.expires_at),
    })
}

/// An X509-SVID of the Workload API. `bundle_der` holds the roots of the identity's trust domain.
pub fn workload_x509_to_pb<'a>(
    id: &SpiffeId,
    chain_der: &[Vec<u8>],
    pkcs8: &Secret,
    bundle_der: impl IntoIterator<Item = &'a [u8]>,
    hint: &str,
) -> pb::workload::X509svid {
    pb::workload::X509svid {
        spiffe_id: id.to_string(),
        x509_svid: concatenate(chain_der.iter().map(Vec::as_slice)),
        x509_svid_key: pkcs8.expose().to_vec(),
        bundle: concatenate(bundle_der),
        hint: hint.to_owned(),
    }
}

/// Certificates one after the other, as the Workload API carries chains and bundles.
pub fn concatenate<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    for der in ders {
        all.extend_from_slice(der);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/web").unwrap()
    }

    #[test]
    fn an_x509_svid_comes_back_as_it_went_in() {
        let chain = vec![vec![1, 2], vec![3]];
        let not_after = Timestamp::from_unix_s(1_700_000_000);
        let message = x509_to_pb(&web(), chain.clone(), not_after);
        assert_eq!(message.hint, "");
        let received = x509_from_pb(Some(message)).unwrap();
        assert_eq!(received, ReceivedX509Svid { id: web(), chain_der: chain, not_after });
    }

    #[test]
    fn a_jwt_svid_comes_back_as_it_went_in() {
        let (issued, expires) = (Timestamp::from_unix_s(5), Timestamp::from_unix_s(9));
        let received =
            jwt_from_pb(Some(jwt_to_pb(&web(), "a.b.c".to_owned(), issued, expires))).ok().unwrap();
        assert_eq!(received.id, web());
        assert_eq!(received.token, "a.b.c");
        assert_eq!((received.issued_at, received.expires_at), (issued, expires));
    }

    #[test]
    fn an_answer_without_what_it_is_about_is_refused() {
        let no_chain = x509_to_pb(&web(), Vec::new(), Timestamp::UNIX_EPOCH);
        let mut no_id = x509_to_pb(&web(), vec![vec![1]], Timestamp::UNIX_EPOCH);
        no_id.id = None;
        let table = [
            (None, "server response has no SVID"),
            (Some(no_chain), "server response has no certificate chain"),
            (Some(no_id), "invalid SVID ID: request must specify SPIFFE ID"),
        ];
        for (message, text) in table {
            assert_eq!(x509_from_pb(message).unwrap_err().to_string(), text);
        }
        for message in [None, Some(pb::types::Jwtsvid::default())] {
            assert!(jwt_from_pb(message).is_err());
        }
    }

    #[test]
    fn the_workload_api_concatenates_certificates() {
        let roots: [&[u8]; 2] = [&[7], &[8, 9]];
        let key = Secret::new(vec![42]);
        let svid = workload_x509_to_pb(&web(), &[vec![1, 2], vec![3]], &key, roots, "internal");
        let expected = pb::workload::X509svid {
            spiffe_id: "spiffe://example.org/web".to_owned(),
            x509_svid: vec![1, 2, 3],
            x509_svid_key: vec![42],
            bundle: vec![7, 8, 9],
            hint: "internal".to_owned(),
        };
        assert_eq!(svid, expected);
    }
}
