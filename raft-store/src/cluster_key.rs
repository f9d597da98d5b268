//! The cluster key and what is derived from it.
//!
//! 32 random bytes, base64, one key a line; every line is accepted. HKDF-SHA256 with a label for each
//! purpose derives: the key id, the key-encryption key ([`Kek`]) that seals private keys before they
//! enter the log, the key for snapshot files, the seed of the peer CA, and a check value that tells at
//! start whether a member was given another key. The key itself is wiped once these are derived.
//!
//! The set of keys may grow and shrink while the process runs (its file is read again); which of them
//! seals is replicated state, which this follows. Leaves to the caller where the text comes from and
//! who may read it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::authority::SealedKey;
use steeple_spiffe_core::random::Random;
use tokio::sync::watch;
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
    #[error(
        "cluster key: line {line} is not {KEY_BYTES} bytes in base64; copy the key file of another member, \
         or make a first key with \"spire-server cluster keygen\""
    )]
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

/// The keys that a member holds, derived; never the cluster keys themselves. Shared: whoever has it sees
/// at once what [`Self::take_over`] and the replicated state changed.
pub struct ClusterKeys {
    held: ArcSwap<Held>,
    changes: watch::Sender<()>,
}

#[derive(Clone)]
struct Held {
    /// In the order of the lines; those that were kept without a line follow.
    keys: Vec<Arc<Derived>>,
    /// What replicated state names as the key that seals; `None`: nothing yet.
    current: Option<String>,
}

/// What reading the key file again has changed, as key ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Held from now on.
    pub added: Vec<String>,
    /// Not held any more: they had no line, and nothing needs them.
    pub dropped: Vec<String>,
    /// Still held though they have no line: something needs them.
    pub kept: Vec<String>,
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
    key: Arc<LessSafeKey>,
}

impl ClusterKeys {
    /// Parses a key file's content: base64, one key a line; empty lines and lines that begin with `#`
    /// are skipped.
    ///
    /// # Errors
    ///
    /// If there is no key or a line is not one.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<Arc<Derived>> = Vec::new();
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
                keys.push(Arc::new(derived));
            }
        }
        match keys.len() {
            0 => Err(KeyError::Empty),
            count if count > KEYS_MAX => Err(KeyError::TooMany),
            _ => Ok(Self::of(keys)),
        }
    }

    fn of(keys: Vec<Arc<Derived>>) -> Self {
        let held = ArcSwap::from_pointee(Held { keys, current: None });
        Self { held, changes: watch::channel(()).0 }
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
        Ok((Self::of(vec![Arc::new(Derived::new(bytes.as_slice())?)]), text))
    }

    /// Takes the keys of a file that was read again. None that is in `needed` is given up, whatever the
    /// file says.
    pub fn take_over(&self, read: &Self, needed: &BTreeSet<String>) -> KeyChanges {
        let read = read.held.load_full();
        let mut changes = KeyChanges::default();
        self.held.rcu(|held| {
            let mut keys = read.keys.clone();
            changes = KeyChanges::default();
            for old in held.keys.iter().filter(|old| !holds(&read.keys, &old.id)) {
                if needed.contains(&old.id) {
                    changes.kept.push(old.id.clone());
                    keys.push(Arc::clone(old));
                } else {
                    changes.dropped.push(old.id.clone());
                }
            }
            let added = read.keys.iter().filter(|new| !holds(&held.keys, &new.id));
            changes.added = added.map(|new| new.id.clone()).collect();
            Held { keys, current: held.current.clone() }
        });
        self.changes.send_replace(());
        changes
    }

    /// Follows the replicated choice of the key that seals.
    pub(crate) fn follow(&self, current: Option<String>) {
        if self.held.load().current == current {
            return;
        }
        self.held.rcu(|held| Held { keys: held.keys.clone(), current: current.clone() });
        self.changes.send_replace(());
    }

    /// Resolves at each change of the keys or of which of them seals.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The ids of all keys, in the order of the lines.
    pub fn ids(&self) -> Vec<String> {
        self.held.load().keys.iter().map(|key| key.id.clone()).collect()
    }

    /// Whether the key of an id is held.
    pub fn holds(&self, id: &str) -> bool {
        holds(&self.held.load().keys, id)
    }

    /// The id of the key that seals: the one that replicated state names, held or not; the first line's
    /// as long as it names none.
    pub fn current_id(&self) -> String {
        let held = self.held.load();
        let first = || held.keys.first().map(|key| key.id.clone());
        held.current.clone().or_else(first).unwrap_or_default()
    }

    /// The id of the key that seals if it is held, else of the first line's.
    pub(crate) fn preferred_id(&self) -> String {
        let current = self.current_id();
        let held = self.held.load();
        match held.keys.first() {
            Some(first) if !holds(&held.keys, &current) => first.id.clone(),
            Some(_) | None => current,
        }
    }

    /// What replicated state names as the key that seals; `None`: nothing yet.
    pub fn replicated_id(&self) -> Option<String> {
        self.held.load().current.clone()
    }

    /// The key-encryption key of an id, if this member holds it.
    pub fn kek(&self, id: &str) -> Option<Kek> {
        self.held.load().keys.iter().find(|key| key.id == id).map(|key| key.kek.clone())
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
        let held = self.held.load();
        let Some(held) = held.keys.iter().find(|key| key.id == id) else { return Ok(None) };
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(held.snapshot.as_slice());
        let key: Zeroizing<[u8; 32]> = expand(&prk, b"snapshot file")?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).or(Err(KeyError::Derivation))?;
        Ok(Some(LessSafeKey::new(key)))
    }

    /// Ids of the keys with the seeds of their peer CAs' Ed25519 key pairs, the one that seals first, then
    /// in the order of the lines.
    pub(crate) fn peer_ca_seeds(&self) -> Vec<(String, Zeroizing<[u8; 32]>)> {
        let current = self.current_id();
        let mut keys = self.held.load().keys.clone();
        // Stable: the others stay in their order.
        keys.sort_by_key(|key| key.id != current);
        keys.iter().map(|key| (key.id.clone(), key.peer_ca_seed.clone())).collect()
    }

    /// Key ids with their check values.
    pub(crate) fn checks(&self) -> Vec<(String, Vec<u8>)> {
        self.held.load().keys.iter().map(|key| (key.id.clone(), key.check.to_vec())).collect()
    }
}

fn holds(keys: &[Arc<Derived>], id: &str) -> bool {
    keys.iter().any(|key| key.id == id)
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
            kek: Kek { id: id.clone(), key: Arc::new(LessSafeKey::new(unbound)) },
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
        let snapshot = &keys.held.load().keys[0].snapshot;
        let expected = "638e27334f5cb8d598eea5f86388ed6904827cdc2cd6c0b27b5871b51866aa40";
        assert_eq!(hex(snapshot.as_slice()), expected);
        let expected = "f5ba500f8c7e0634ec644db013cf0b03083914b256bf9c83011f1dc9f1df7041";
        assert_eq!(hex(keys.peer_ca_seeds()[0].1.as_slice()), expected);
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
    fn reading_the_file_again_never_takes_away_what_is_needed() {
        let id = |text: &str| ClusterKeys::parse(text).unwrap().current_id();
        let (zeroes, ones) = (id(ZEROES), id(ONES));
        let keys = ClusterKeys::parse(ZEROES).unwrap();
        let mut changes = keys.changes();

        let both = ClusterKeys::parse(&format!("{ONES}\n{ZEROES}\n")).unwrap();
        let found = keys.take_over(&both, &BTreeSet::new());
        assert_eq!(found, KeyChanges { added: vec![ones.clone()], ..KeyChanges::default() });
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();

        let needed = BTreeSet::from([zeroes.clone()]);
        let only_ones = ClusterKeys::parse(ONES).unwrap();
        let found = keys.take_over(&only_ones, &needed);
        assert_eq!(found, KeyChanges { kept: vec![zeroes.clone()], ..KeyChanges::default() });
        assert_eq!(keys.ids(), [ones.clone(), zeroes.clone()]);

        let found = keys.take_over(&only_ones, &BTreeSet::new());
        assert_eq!(found, KeyChanges { dropped: vec![zeroes.clone()], ..KeyChanges::default() });
        assert!(keys.kek(&zeroes).is_none() && keys.holds(&ones));
    }

    #[test]
    fn replicated_state_says_which_key_seals_whatever_the_order_of_the_lines() {
        let keys = ClusterKeys::parse(&format!("{ONES}\n{ZEROES}\n")).unwrap();
        let zeroes = ClusterKeys::parse(ZEROES).unwrap().current_id();
        assert_ne!(keys.current_id(), zeroes, "before there is any state the first line seals");
        keys.follow(Some(zeroes.clone()));
        assert_eq!(
            (keys.current_id(), keys.replicated_id()),
            (zeroes.clone(), Some(zeroes.clone()))
        );
        assert_eq!(keys.peer_ca_seeds()[0].0, zeroes);

        keys.follow(Some("another".to_owned()));
        assert_eq!(keys.current_id(), "another", "a key that is not held does not fall back");
        assert!(keys.kek(&keys.current_id()).is_none());
    }

    #[test]
    fn a_text_without_keys_is_refused_by_line() {
        assert_eq!(ClusterKeys::parse("\n").unwrap_err(), KeyError::Empty);
        let error = ClusterKeys::parse(&format!("{ONES}\nAAAA\n")).unwrap_err();
        assert_eq!(error, KeyError::Malformed { line: 2 });
        let text = error.to_string();
        assert!(text.contains("copy the key file of another member"), "{text}");
        assert!(text.contains("\"spire-server cluster keygen\""), "{text}");
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
        let kek = keys.kek(&keys.current_id()).unwrap();
        let other_keys = ClusterKeys::parse(ONES).unwrap();
        let other = other_keys.kek(&other_keys.current_id()).unwrap();
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
