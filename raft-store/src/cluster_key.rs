//! The cluster key and what is derived from it.
//!
//! 32 random bytes, base64, one key a line; every line is accepted. HKDF-SHA256 with a label for each
//! purpose derives: the key id, the key-encryption key ([`Kek`]) that seals private keys before they
//! enter the log, the key for snapshot files, the seed of the peer CA, and a check value that tells at
//! start whether a member was given another key. The key itself is wiped once these are derived.
//!
//! Leaves to the caller where the text comes from and who may read it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::authority::SealedKey;
use steeple_spiffe_core::random::Random;
use zeroize::Zeroizing;

/// Bytes of a cluster key.
const KEY_BYTES: usize = 32;
/// Most keys that are accepted at once: rotation needs two.
const KEYS_MAX: usize = 8;
/// Separates our derivations from any other use of the same bytes.
const SALT: &[u8] = b"steeple cluster key v1";
/// Version of the sealing format.
const SEAL_VERSION: u32 = 1;

/// Why a text holds no cluster keys. Never shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no key.
    #[error("cluster key is empty; make one with \"spire-server cluster keygen\"")]
    Empty,
    /// A line is not 32 bytes in base64.
    #[error("cluster key: line {line} is not {KEY_BYTES} bytes in base64")]
    Malformed {
        /// Which line, from 1.
        line: usize,
    },
    /// More keys than a rotation needs.
    #[error("cluster key: more than {KEYS_MAX} keys")]
    TooMany,
    /// The crypto library refused.
    #[error("derive keys")]
    Derivation,
}

/// Why something sealed did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenSealedError {
    /// Another key, other associated data, or changed bytes.
    #[error("sealed key does not open")]
    DoesNotOpen,
    /// The sealing format is newer than this program.
    #[error("sealed key has format {0}, unknown to this version")]
    UnknownVersion(u32),
}

/// The keys that a member holds, derived; never the cluster keys themselves.
pub struct ClusterKeys {
    keys: Vec<Derived>,
}

struct Derived {
    id: String,
    kek: Kek,
    snapshot: Zeroizing<[u8; 32]>,
    peer_ca_seed: Zeroizing<[u8; 32]>,
    check: [u8; 16],
}

/// A key-encryption key: seals private keys before they enter the log.
#[derive(Clone)]
pub struct Kek {
    id: String,
    key: std::sync::Arc<LessSafeKey>,
}

impl ClusterKeys {
    /// Parses a key file's content: base64, one key a line; empty lines and lines that begin with `#`
    /// are skipped.
    ///
    /// # Errors
    ///
    /// If there is no key or a line is not one.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<Derived> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = KeyError::Malformed { line: at + 1 };
            let bytes = Zeroizing::new(BASE64.decode(line).or(Err(malformed.clone()))?);
            if bytes.len() != KEY_BYTES {
                return Err(malformed);
            }
            let derived = Derived::new(&bytes)?;
            if !keys.iter().any(|known| known.id == derived.id) {
                keys.push(derived);
            }
        }
        match keys.len() {
            0 => Err(KeyError::Empty),
            count if count > KEYS_MAX => Err(KeyError::TooMany),
            _ => Ok(Self { keys }),
        }
    }

    /// Makes a new key. Returns it with its text, a line of base64, to be kept in a file of mode 0600.
    ///
    /// # Errors
    ///
    /// If the crypto library refuses.
    pub fn generate(random: &dyn Random) -> Result<(Self, Zeroizing<String>), KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random.fill(bytes.as_mut_slice());
        let text = Zeroizing::new(format!("{}\n", BASE64.encode(bytes.as_slice())));
        Ok((Self { keys: vec![Derived::new(bytes.as_slice())?] }, text))
    }

    /// The ids of all keys, in the order of the lines.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.id.clone()).collect()
    }

    /// The id of the key that seals: the first line's, until the replicated state names another.
    pub fn current_id(&self) -> &str {
        self.keys.first().map_or("", |key| key.id.as_str())
    }

    /// The key-encryption key of an id, if this member holds it.
    pub fn kek(&self, id: &str) -> Option<Kek> {
        self.keys.iter().find(|key| key.id == id).map(|key| key.kek.clone())
    }

    /// The key of one snapshot file, which its salt makes its own, under the cluster key of an id.
    ///
    /// # Errors
    ///
    /// If the crypto library refuses.
    pub(crate) fn snapshot_key(
        &self,
        id: &str,
        salt: &[u8],
    ) -> Result<Option<LessSafeKey>, KeyError> {
        let Some(held) = self.keys.iter().find(|key| key.id == id) else { return Ok(None) };
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(held.snapshot.as_slice());
        let key: Zeroizing<[u8; 32]> = expand(&prk, b"snapshot file")?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).or(Err(KeyError::Derivation))?;
        Ok(Some(LessSafeKey::new(key)))
    }

    /// Seeds of the peer CA's Ed25519 key pairs, one for each key, in the order of the lines.
    pub(crate) fn peer_ca_seeds(&self) -> Vec<Zeroizing<[u8; 32]>> {
        self.keys.iter().map(|key| key.peer_ca_seed.clone()).collect()
    }

    /// Key ids with their check values.
    pub(crate) fn checks(&self) -> Vec<(String, Vec<u8>)> {
        self.keys.iter().map(|key| (key.id.clone(), key.check.to_vec())).collect()
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterKeys").field(&self.ids()).finish()
    }
}

impl Derived {
    fn new(key: &[u8]) -> Result<Self, KeyError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key);
        let id_bytes: [u8; 8] = *expand(&prk, b"key id")?;
        let id: String = id_bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let kek: Zeroizing<[u8; 32]> = expand(&prk, b"private key encryption")?;
        let unbound =
            UnboundKey::new(&AES_256_GCM, kek.as_slice()).or(Err(KeyError::Derivation))?;
        Ok(Self {
            kek: Kek { id: id.clone(), key: std::sync::Arc::new(LessSafeKey::new(unbound)) },
            id,
            snapshot: expand(&prk, b"snapshot encryption")?,
            peer_ca_seed: expand(&prk, b"peer CA Ed25519 seed")?,
            check: *expand(&prk, b"key check")?,
        })
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(prk: &hkdf::Prk, label: &[u8]) -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0; N]);
    let info = [label];
    let okm = prk.expand(&info, Length(N)).or(Err(KeyError::Derivation))?;
    okm.fill(bytes.as_mut_slice()).or(Err(KeyError::Derivation))?;
    Ok(bytes)
}

impl Kek {
    /// The id of the cluster key that it is derived from.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a private key. `associated` binds it to its place (cluster, authority, purpose): what is
    /// sealed for one place does not open in another. The nonce is drawn from `random`: with a random
    /// 96-bit nonce, 2^32 seals of one key are safe; a cluster makes a few a day.
    ///
    /// # Errors
    ///
    /// If the crypto library refuses.
    pub fn seal(
        &self,
        random: &dyn Random,
        associated: &[u8],
        private: &Secret,
    ) -> Result<SealedKey, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        // The buffer is plaintext until it is sealed in place: leave room for the tag, so that no
        // copy is left behind by growing.
        let plaintext = private.expose();
        let mut buffer =
            Zeroizing::new(Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len()));
        buffer.extend_from_slice(plaintext);
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated),
                &mut *buffer,
            )
            .or(Err(KeyError::Derivation))?;
        Ok(SealedKey {
            kek_id: self.id.clone(),
            version: SEAL_VERSION,
            nonce: nonce.to_vec(),
            ciphertext: std::mem::take(&mut *buffer),
        })
    }

    /// Opens what [`Self::seal`] sealed with the same associated data.
    ///
    /// # Errors
    ///
    /// If it was sealed by another key, for another place, or was changed.
    pub fn open(&self, associated: &[u8], sealed: &SealedKey) -> Result<Secret, OpenSealedError> {
        if sealed.version != SEAL_VERSION {
            return Err(OpenSealedError::UnknownVersion(sealed.version));
        }
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce)
            .or(Err(OpenSealedError::DoesNotOpen))?;
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let plaintext = self
            .key
            .open_in_place(nonce, Aad::from(associated), buffer.as_mut_slice())
            .or(Err(OpenSealedError::DoesNotOpen))?;
        Ok(Secret::new(plaintext.to_vec()))
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kek").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::random::SeededRandom;

    use super::*;

    const ZEROES: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn derivations_are_frozen_and_differ_by_purpose() {
        let keys = ClusterKeys::parse(ZEROES).unwrap();
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        // Computed by another implementation of HKDF. If one changes, no existing cluster opens.
        assert_eq!(keys.current_id(), "09ee8c5630ea8b8b");
        let snapshot = &keys.keys[0].snapshot;
        let expected = "638e27334f5cb8d598eea5f86388ed6904827cdc2cd6c0b27b5871b51866aa40";
        assert_eq!(hex(snapshot.as_slice()), expected);
        let expected = "f5ba500f8c7e0634ec644db013cf0b03083914b256bf9c83011f1dc9f1df7041";
        assert_eq!(hex(keys.peer_ca_seeds()[0].as_slice()), expected);
        assert_eq!(hex(&keys.checks()[0].1), "e1cedaefca98c0303c52379ab125d111");
    }

    #[test]
    fn every_line_is_a_key_and_the_first_seals() {
        let text = format!("# rotation of May\n{ONES}\n\n{ZEROES}\n{ONES}\n");
        let keys = ClusterKeys::parse(&text).unwrap();
        assert_eq!(keys.ids().len(), 2);
        assert_eq!(keys.current_id(), ClusterKeys::parse(ONES).unwrap().current_id());
    }

    #[test]
    fn a_text_without_keys_is_refused_by_line() {
        assert_eq!(ClusterKeys::parse("\n").unwrap_err(), KeyError::Empty);
        let error = ClusterKeys::parse(&format!("{ONES}\nAAAA\n")).unwrap_err();
        assert_eq!(error, KeyError::Malformed { line: 2 });
    }

    #[test]
    fn a_generated_key_parses_to_itself() {
        let (keys, text) = ClusterKeys::generate(&SeededRandom::new(7)).unwrap();
        assert_eq!(ClusterKeys::parse(&text).unwrap().ids(), keys.ids());
    }

    #[test]
    fn a_sealed_key_opens_only_with_its_kek_and_its_place() {
        let random = SeededRandom::new(1);
        let keys = ClusterKeys::parse(ZEROES).unwrap();
        let kek = keys.kek(keys.current_id()).unwrap();
        let other_keys = ClusterKeys::parse(ONES).unwrap();
        let other = other_keys.kek(other_keys.current_id()).unwrap();
        let secret = Secret::new(b"private".to_vec());

        let sealed = kek.seal(&random, b"place", &secret).unwrap();
        assert_eq!(sealed.kek_id, keys.current_id());
        assert!(!sealed.ciphertext.windows(7).any(|w| w == b"private"));
        assert_eq!(kek.open(b"place", &sealed).unwrap().expose(), b"private");
        let refused = OpenSealedError::DoesNotOpen;
        assert_eq!(kek.open(b"elsewhere", &sealed).err(), Some(refused));
        assert_eq!(other.open(b"place", &sealed).err(), Some(refused));
        let mut changed = sealed;
        changed.ciphertext[0] ^= 1;
        assert_eq!(kek.open(b"place", &changed).err(), Some(refused));
    }

    #[test]
    fn debug_output_shows_ids_only() {
        let keys = ClusterKeys::parse(ONES).unwrap();
        assert_eq!(format!("{keys:?}"), format!("ClusterKeys([{:?}])", keys.current_id()));
    }
}
