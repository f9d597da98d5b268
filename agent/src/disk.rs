//! What the agent keeps on disk: its own certificate, its keys and the last bundle.
//!
//! File formats are SPIRE's (`spire-semantics` 8.1, `spire-config` 8), so that a stock agent's data
//! folder can be taken over. Every write is a new file, synced and renamed over the old one: after a
//! crash there is the old content or the new, never half of either.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use steeple_spiffe_core::{Secret, pem};

/// The agent's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading failed.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("write {path}")]
    Write {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Another agent has the folder.
    #[error(
        "data_dir {path} is in use by another agent; stop it, or give this one another data_dir"
    )]
    InUse {
        /// Which folder.
        path: String,
    },
    /// The content is not what it should be.
    #[error("parse {path}: {text}")]
    Malformed {
        /// Which file.
        path: String,
        /// What is wrong.
        text: String,
    },
}

/// The file that is locked while an agent has the folder.
const LOCK: &str = "agent.lock";

/// The content of `agent-data.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentData {
    /// The agent's certificate chain in DER; empty = none.
    pub svid: Vec<Vec<u8>>,
    /// The X.509 authorities of the last bundle in DER.
    pub bundle: Vec<Vec<u8>>,
    /// Whether the agent may attest again under the same id.
    pub can_reattest: bool,
    /// Fields of SPIRE's that mean nothing here, kept as they are.
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct AgentDataJson {
    // Go writes an empty list as null.
    #[serde(default)]
    svid: Option<Vec<String>>,
    #[serde(default)]
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// `agent-data.json` in the data folder, which is this agent's alone as long as this lives.
#[derive(Debug)]
pub struct AgentFile {
    path: PathBuf,
    _lock: File,
}

impl AgentFile {
    /// In a data folder, which is created if missing. Two agents on one folder would overwrite each
    /// other's certificate and keys: the second is refused.
    pub fn open(data_dir: &Path) -> Result<Self, DiskError> {
        create_folder(data_dir)?;
        let path = data_dir.join(LOCK);
        let lock = File::create(&path).map_err(|error| write_failed(&path, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DiskError::InUse { path: shown(data_dir) },
            TryLockError::Error(error) => write_failed(&path, error),
        })?;
        Ok(Self { path: data_dir.join("agent-data.json"), _lock: lock })
    }

    /// The content; the default when there is no file.
    pub fn load(&self) -> Result<AgentData, DiskError> {
        let Some(text) = read(&self.path)? else { return Ok(AgentData::default()) };
        let malformed = |text: String| DiskError::Malformed { path: shown(&self.path), text };
        let json: AgentDataJson =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        Ok(AgentData {
            svid: decode(&json.svid.unwrap_or_default()).map_err(malformed)?,
            bundle: decode(&json.bundle.unwrap_or_default()).map_err(malformed)?,
            can_reattest: json.reattestable,
            rest: json.rest,
        })
    }

    /// Replaces the content.
    pub fn store(&self, data: &AgentData) -> Result<(), DiskError> {
        let json = AgentDataJson {
            svid: Some(encode(&data.svid)),
            bundle: Some(encode(&data.bundle)),
            reattestable: data.can_reattest,
            rest: data.rest.clone(),
        };
        let text = serde_json::to_vec(&json).map_err(|error| write_failed(&self.path, error))?;
        replace_file(&self.path, &text)
    }
}

/// Base64 of PEM, one certificate each: SPIRE's form.
fn encode(certificates: &[Vec<u8>]) -> Vec<String> {
    let pem = |der: &Vec<u8>| STANDARD.encode(pem::encode_certificates(std::slice::from_ref(der)));
    certificates.iter().map(pem).collect()
}

fn decode(texts: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let mut certificates = Vec::new();
    for text in texts {
        let pem = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
        certificates.extend(pem::decode_certificates(&pem).map_err(|error| error.to_string())?);
    }
    Ok(certificates)
}

/// The two places for the agent's own key: the next one is made beside the one in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeySlot {
    /// `agent-svid-A`.
    A,
    /// `agent-svid-B`.
    B,
}

impl KeySlot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The one that is not in use.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::A => "agent-svid-A",
            Self::B => "agent-svid-B",
        }
    }
}

/// Where the agent's private keys are: the `KeyManager` of the configuration.
pub enum KeyStore {
    /// Lost with the process.
    Memory(BTreeMap<KeySlot, Secret>),
    /// `keys.json` in a folder.
    Disk(DiskKeys),
}

/// The `disk` key manager.
pub struct DiskKeys {
    path: PathBuf,
    keys: BTreeMap<String, Secret>,
}

#[derive(Serialize, Deserialize)]
struct KeysJson {
    keys: BTreeMap<String, String>,
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("KeyStore::Memory"),
            Self::Disk(disk) => f.debug_tuple("KeyStore::Disk").field(&disk.path).finish(),
        }
    }
}

impl std::fmt::Debug for DiskKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskKeys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Keys that are lost with the process.
    pub fn memory() -> Self {
        Self::Memory(BTreeMap::new())
    }

    /// Keys in a folder, which is created if missing.
    pub fn disk(directory: &Path) -> Result<Self, DiskError> {
        create_folder(directory)?;
        let path = directory.join("keys.json");
        let mut keys = BTreeMap::new();
        if let Some(text) = read(&path)? {
            let malformed = |text: String| DiskError::Malformed { path: shown(&path), text };
            let json: KeysJson =
                serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
            for (id, key) in json.keys {
                let der = STANDARD.decode(key).map_err(|error| malformed(error.to_string()))?;
                keys.insert(id, Secret::new(der));
            }
        }
        Ok(Self::Disk(DiskKeys { path, keys }))
    }

    /// The key in a slot as PKCS#8 in DER.
    pub fn load(&self, slot: KeySlot) -> Option<Secret> {
        match self {
            Self::Memory(keys) => keys.get(&slot).cloned(),
            Self::Disk(disk) => disk.keys.get(slot.id()).cloned(),
        }
    }

    /// Replaces the key in a slot; on return it survives a crash (unless it is kept in memory).
    pub fn store(&mut self, slot: KeySlot, key: Secret) -> Result<(), DiskError> {
        match self {
            Self::Memory(keys) => {
                keys.insert(slot, key);
                Ok(())
            }
            Self::Disk(disk) => {
                disk.keys.insert(slot.id().to_owned(), key);
                disk.write()
            }
        }
    }
}

impl DiskKeys {
    fn write(&self) -> Result<(), DiskError> {
        let encoded = |(id, key): (&String, &Secret)| (id.clone(), STANDARD.encode(key.expose()));
        let json = KeysJson { keys: self.keys.iter().map(encoded).collect() };
        let mut text = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, tabs);
        json.serialize(&mut writer).map_err(|error| write_failed(&self.path, error))?;
        replace_file(&self.path, &text)
    }
}

fn create_folder(path: &Path) -> Result<(), DiskError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| DiskError::Write { path: shown(path), source })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiskError::Read { path: shown(path), source }),
    }
}

/// Writes beside, syncs, renames, syncs the folder.
fn replace_file(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let written = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            Some(_) | None => File::open(".")?.sync_all(),
        }
    };
    written().map_err(|source| DiskError::Write { path: shown(path), source })
}

fn write_failed(path: &Path, error: impl Into<io::Error>) -> DiskError {
    DiskError::Write { path: shown(path), source: error.into() }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("folder")
    }

    #[test]
    fn agent_data_survives_and_keeps_foreign_fields() {
        let folder = folder();
        let file = AgentFile::open(folder.path()).expect("open");
        assert_eq!(file.load().expect("no file yet"), AgentData::default());
        fs::write(
            folder.path().join("agent-data.json"),
            r#"{"svid":null,"bundle":[],"reattestable":true,"connection_attempts":3}"#,
        )
        .expect("write");
        let mut data = file.load().expect("stock file");
        assert!(data.can_reattest && data.svid.is_empty());
        data.svid = vec![b"leaf".to_vec(), b"intermediate".to_vec()];
        data.bundle = vec![b"root".to_vec()];
        file.store(&data).expect("store");
        assert_eq!(file.load().expect("load"), data);
        let text = fs::read_to_string(folder.path().join("agent-data.json")).expect("read");
        assert!(text.contains("\"connection_attempts\":3"), "{text}");
        assert!(!folder.path().join("agent-data.json.tmp").exists());
    }

    #[test]
    fn a_second_agent_on_one_folder_is_refused() {
        let folder = folder();
        let first = AgentFile::open(folder.path()).expect("open");
        let refused = AgentFile::open(folder.path()).expect_err("it is taken").to_string();
        let expected = format!(
            "data_dir {} is in use by another agent; stop it, or give this one another data_dir",
            folder.path().display()
        );
        assert_eq!(refused, expected);
        drop(first);
        AgentFile::open(folder.path()).expect("it is free again");
    }

    #[test]
    fn a_half_written_temporary_file_is_harmless() {
        let folder = folder();
        let file = AgentFile::open(folder.path()).expect("open");
        let data = AgentData { can_reattest: true, ..AgentData::default() };
        file.store(&data).expect("store");
        fs::write(folder.path().join("agent-data.json.tmp"), "{\"svid\":[\"AA").expect("write");
        assert_eq!(file.load().expect("load"), data);
        file.store(&data).expect("store again");
    }

    #[test]
    fn a_malformed_file_is_an_error_and_not_a_fresh_start() {
        let folder = folder();
        let file = AgentFile::open(folder.path()).expect("open");
        for text in ["", "{", r#"{"svid":["%"]}"#, r#"{"bundle":["AAAA"]}"#] {
            fs::write(folder.path().join("agent-data.json"), text).expect("write");
            assert!(file.load().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_on_disk_survive_in_spires_shape_and_in_memory_do_not() {
        let folder = folder();
        let mut keys = KeyStore::disk(folder.path()).expect("open");
        keys.store(KeySlot::A, Secret::new(b"one".to_vec())).expect("store");
        keys.store(KeySlot::B, Secret::new(b"two".to_vec())).expect("store");
        let path = folder.path().join("keys.json");
        let text = fs::read_to_string(&path).expect("read");
        let want = "{\n\t\"keys\": {\n\t\t\"agent-svid-A\": \"b25l\",\n\t\t\"agent-svid-B\": \"dHdv\"\n\t}\n}";
        assert_eq!(text, want);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&path).expect("meta").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let again = KeyStore::disk(folder.path()).expect("reopen");
        assert_eq!(again.load(KeySlot::B).expect("key").expose(), b"two");
        assert!(KeyStore::memory().load(KeySlot::A).is_none());
    }
}
