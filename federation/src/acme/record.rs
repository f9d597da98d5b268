//! What the replicas keep in common: the account, the certificate, the attempt to get the next one.
//!
//! Owns the bytes, which are JSON in types of their own. They hold private keys: whoever keeps them
//! seals them, and every copy that is made here is wiped.

use std::fmt;

use serde::{Deserialize, Serialize};
use steeple_spiffe_core::{Secret, Timestamp};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::state::Digest;

/// Room for a record: a chain has a few kilobytes. Written into at once, so that no copy is left
/// behind by a buffer that grows.
const RECORD_ROOM: usize = 64 << 10;

/// Most bytes of an error text that is kept: the rest is in the leader's log.
const ERROR_BYTES_MAX: usize = 500;

/// A record is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("decode the {what} of ACME")]
pub struct RecordError {
    what: &'static str,
    #[source]
    source: serde_json::Error,
}

/// An account with a server of certificates.
#[derive(Clone)]
pub struct Account {
    /// The server.
    pub directory_url: String,
    /// Its name there and its private key, as the client wrote them.
    pub credentials: Secret,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    /// The server that it came from.
    pub directory_url: String,
    /// The name that it is for.
    pub domain: String,
    /// The chain in PEM, leaf first.
    pub chain_pem: String,
    /// The leaf's private key, PKCS#8 in DER.
    pub key: Secret,
}

/// How the next certificate is coming along.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// Attempts in a row that came to nothing.
    pub failures: u32,
    /// Before this time there is no other one.
    pub not_before: Option<Timestamp>,
    /// Why the last one came to nothing; empty: it did not.
    pub error: String,
    /// The order that is under way.
    pub order: Option<PendingOrder>,
}

/// An order that is under way: whoever leads next goes on with it.
#[derive(Clone)]
pub struct PendingOrder {
    /// The server.
    pub directory_url: String,
    /// The name that the certificate is to be for.
    pub domain: String,
    /// The order's own address.
    pub url: String,
    /// The private key that the certificate is to be of, PKCS#8 in DER.
    pub key: Secret,
    /// What the answer to the challenge says, once there is a challenge.
    pub challenge: Option<Digest>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.directory_url;
        f.debug_struct("Account").field("directory_url", url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingOrder").field("url", &self.url).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredAccount {
    directory_url: String,
    credentials: Vec<u8>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredCertificate {
    directory_url: String,
    domain: String,
    chain_pem: String,
    key: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredAttempt {
    failures: u32,
    not_before_unix_ms: Option<i64>,
    error: String,
    order: Option<StoredOrder>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredOrder {
    directory_url: String,
    domain: String,
    url: String,
    key: Vec<u8>,
    challenge: Option<Digest>,
}

impl Account {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// Never, but for a defect of the encoder.
    pub fn encode(&self) -> Result<Secret, RecordError> {
        let stored = StoredAccount {
            directory_url: self.directory_url.clone(),
            credentials: self.credentials.expose().to_vec(),
        };
        encode("account", &stored)
    }

    /// From its bytes.
    ///
    /// # Errors
    ///
    /// They are others.
    pub fn decode(bytes: &Secret) -> Result<Self, RecordError> {
        let mut stored: StoredAccount = decode("account", bytes)?;
        let directory_url = std::mem::take(&mut stored.directory_url);
        let credentials = Secret::new(std::mem::take(&mut stored.credentials));
        Ok(Self { directory_url, credentials })
    }
}

impl Certificate {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// Never, but for a defect of the encoder.
    pub fn encode(&self) -> Result<Secret, RecordError> {
        let stored = StoredCertificate {
            directory_url: self.directory_url.clone(),
            domain: self.domain.clone(),
            chain_pem: self.chain_pem.clone(),
            key: self.key.expose().to_vec(),
        };
        encode("certificate", &stored)
    }

    /// From its bytes.
    ///
    /// # Errors
    ///
    /// They are others.
    pub fn decode(bytes: &Secret) -> Result<Self, RecordError> {
        let mut stored: StoredCertificate = decode("certificate", bytes)?;
        Ok(Self {
            directory_url: std::mem::take(&mut stored.directory_url),
            domain: std::mem::take(&mut stored.domain),
            chain_pem: std::mem::take(&mut stored.chain_pem),
            key: Secret::new(std::mem::take(&mut stored.key)),
        })
    }
}

impl Attempt {
    /// Its bytes. A long error text is cut.
    ///
    /// # Errors
    ///
    /// Never, but for a defect of the encoder.
    pub fn encode(&self) -> Result<Secret, RecordError> {
        let end = self.error.floor_char_boundary(ERROR_BYTES_MAX);
        let stored = StoredAttempt {
            failures: self.failures,
            not_before_unix_ms: self.not_before.map(Timestamp::unix_ms),
            error: self.error.get(..end).unwrap_or_default().to_owned(),
            order: self.order.as_ref().map(|order| StoredOrder {
                directory_url: order.directory_url.clone(),
                domain: order.domain.clone(),
                url: order.url.clone(),
                key: order.key.expose().to_vec(),
                challenge: order.challenge,
            }),
        };
        encode("attempt", &stored)
    }

    /// From its bytes.
    ///
    /// # Errors
    ///
    /// They are others.
    pub fn decode(bytes: &Secret) -> Result<Self, RecordError> {
        let mut stored: StoredAttempt = decode("attempt", bytes)?;
        let order = stored.order.as_mut().map(|order| PendingOrder {
            directory_url: std::mem::take(&mut order.directory_url),
            domain: std::mem::take(&mut order.domain),
            url: std::mem::take(&mut order.url),
            key: Secret::new(std::mem::take(&mut order.key)),
            challenge: order.challenge,
        });
        Ok(Self {
            failures: stored.failures,
            not_before: stored.not_before_unix_ms.map(Timestamp::from_unix_ms),
            error: std::mem::take(&mut stored.error),
            order,
        })
    }
}

fn encode(what: &'static str, stored: &impl Serialize) -> Result<Secret, RecordError> {
    let mut bytes = Vec::with_capacity(RECORD_ROOM);
    let written = serde_json::to_writer(&mut bytes, stored);
    let bytes = Secret::new(bytes);
    written.map(|()| bytes).map_err(|source| RecordError { what, source })
}

fn decode<T: for<'de> Deserialize<'de>>(
    what: &'static str,
    bytes: &Secret,
) -> Result<T, RecordError> {
    serde_json::from_slice(bytes.expose()).map_err(|source| RecordError { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn records_come_back_as_they_were_and_others_bytes_do_not() {
        let account = Account { directory_url: "https://a".into(), credentials: secret("{key}") };
        let again = Account::decode(&account.encode().unwrap()).unwrap();
        assert_eq!(again.directory_url, "https://a");
        assert_eq!(again.credentials.expose(), b"{key}");

        let certificate = Certificate {
            directory_url: "https://a".into(),
            domain: "b.example".into(),
            chain_pem: "-----BEGIN".into(),
            key: secret("k"),
        };
        let bytes = certificate.encode().unwrap();
        let again = Certificate::decode(&bytes).unwrap();
        assert_eq!((again.domain.as_str(), again.chain_pem.as_str()), ("b.example", "-----BEGIN"));
        assert_eq!(again.key.expose(), b"k");
        assert!(Account::decode(&bytes).is_err());

        let order = PendingOrder {
            directory_url: "https://a".into(),
            domain: "b.example".into(),
            url: "https://a/order/1".into(),
            key: secret("k"),
            challenge: Some([7; 32]),
        };
        let attempt = Attempt {
            failures: 3,
            not_before: Some(Timestamp::from_unix_s(5)),
            error: "ä".repeat(ERROR_BYTES_MAX),
            order: Some(order),
        };
        let again = Attempt::decode(&attempt.encode().unwrap()).unwrap();
        assert_eq!((again.failures, again.not_before), (3, Some(Timestamp::from_unix_s(5))));
        assert_eq!(again.error, "ä".repeat(ERROR_BYTES_MAX / 2));
        let order = again.order.unwrap();
        assert_eq!((order.url.as_str(), order.challenge), ("https://a/order/1", Some([7; 32])));
        assert_eq!(order.key.expose(), b"k");
        let empty = Attempt::decode(&Attempt::default().encode().unwrap()).unwrap();
        assert!(empty.order.is_none() && empty.not_before.is_none() && empty.error.is_empty());
    }

    #[test]
    fn nothing_private_is_printed() {
        let account = Account { directory_url: "u".into(), credentials: secret("private") };
        let order = PendingOrder {
            directory_url: "u".into(),
            domain: "d".into(),
            url: "o".into(),
            key: secret("private"),
            challenge: Some([7; 32]),
        };
        let certificate = Certificate {
            directory_url: "u".into(),
            domain: "d".into(),
            chain_pem: "c".into(),
            key: secret("private"),
        };
        let attempt = Attempt { order: Some(order), ..Attempt::default() };
        let printed = format!("{account:?} {certificate:?} {attempt:?}");
        assert!(!printed.contains("private") && !printed.contains("112"), "{printed}");
    }
}
