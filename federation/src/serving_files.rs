//! The certificate and key files of the profile `https_web`, read again when they change.
//!
//! Owns the pointer that handshakes read. Files that cannot be used leave the last good pair in place,
//! as in SPIRE, and are said once until they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use steeple_spiffe_core::tls::{WebIdentity, WebIdentityError};
use tokio_util::sync::CancellationToken;

/// Most bytes of one of the files: a chain has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServingFilesError {
    /// One cannot be read.
    #[error("could not read {path} of the bundle endpoint's serving_cert_file")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They are read, and are no certificate with its key.
    #[error("could not use {certificate} and {key} of the bundle endpoint's serving_cert_file")]
    Unusable {
        /// The file of the chain.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: WebIdentityError,
    },
}

/// Where the two files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingFiles {
    /// `cert_file_path`: the chain in PEM, leaf first.
    pub certificate: PathBuf,
    /// `key_file_path`: the key in PEM.
    pub key: PathBuf,
}

/// When files were changed.
type Changed = (Option<SystemTime>, Option<SystemTime>);

impl ServingFiles {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// [`ServingFilesError`].
    pub fn load(&self) -> Result<Arc<WebIdentity>, ServingFilesError> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        WebIdentity::from_pem(&certificate, &key).map_err(|source| ServingFilesError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })
    }

    /// Looks at the files each interval until the shutdown, and loads what has changed.
    pub async fn watch(
        self,
        current: Arc<ArcSwap<WebIdentity>>,
        interval: Duration,
        shutdown: CancellationToken,
    ) {
        // What was changed between its loading and now is loaded once more: that costs nothing.
        let mut loaded = None;
        let mut tick = tokio::time::interval(interval);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let files = self.clone();
            let known = loaded;
            let looked = tokio::task::spawn_blocking(move || files.look(known)).await;
            let Ok((changed, found)) = looked else { return };
            loaded = Some(changed);
            match found {
                None => {}
                Some(Ok(identity)) => {
                    current.store(identity);
                    tracing::info!(
                        path = %self.certificate.display(),
                        "Loaded the certificate of the bundle endpoint"
                    );
                }
                Some(Err(error)) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed to load the certificate of the bundle endpoint; it goes on with the last one"
                ),
            }
        }
    }

    /// What is there if it is not what is known.
    fn look(
        &self,
        known: Option<Changed>,
    ) -> (Changed, Option<Result<Arc<WebIdentity>, ServingFilesError>>) {
        let at = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        let changed = (at(&self.certificate), at(&self.key));
        let found = (known != Some(changed)).then(|| self.load());
        (changed, found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServingFilesError> {
    let failed = |source| ServingFilesError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        let text = format!("it has {size} bytes, more than {FILE_BYTES_MAX}");
        return Err(failed(io::Error::other(text)));
    }
    fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(files: &ServingFiles, name: &str) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        let certificate = params.self_signed(&key).expect("certificate");
        fs::write(&files.certificate, certificate.pem()).expect("write");
        fs::write(&files.key, key.serialize_pem()).expect("write");
    }

    fn scene() -> (tempfile::TempDir, ServingFiles) {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        let files = ServingFiles { certificate: at("cert.pem"), key: at("key.pem") };
        write(&files, "one.example");
        (folder, files)
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_file() {
        let (_folder, files) = scene();
        assert!(files.load().is_ok());
        let other = ServingFiles { key: files.certificate.clone(), ..files.clone() };
        let said = other.load().expect_err("no key there");
        let said = std::error::Error::source(&said).expect("why").to_string();
        assert!(said.contains("no PEM block of a private key"), "{said}");
        let key = fs::read(&files.key).expect("read");
        write(&files, "two.example");
        fs::write(&files.key, key).expect("write");
        let said = files.load().expect_err("another key");
        let said = std::error::Error::source(&said).expect("why").to_string();
        assert!(said.contains("does not match"), "{said}");
        fs::remove_file(&files.key).expect("remove");
        let said = files.load().expect_err("no file").to_string();
        assert!(said.contains("could not read") && said.contains("key.pem"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_pair_is_taken_and_a_broken_one_is_not() {
        let (_folder, files) = scene();
        let current = Arc::new(ArcSwap::new(files.load().expect("load")));
        let shutdown = CancellationToken::new();
        let interval = Duration::from_secs(3600);
        let watch = files.clone().watch(Arc::clone(&current), interval, shutdown.clone());
        let watching = tokio::spawn(watch);
        let loads = async || {
            let before = current.load_full();
            for _ in 0..50 {
                tokio::time::sleep(interval / 10).await;
                if !Arc::ptr_eq(&before, &current.load_full()) {
                    return true;
                }
            }
            false
        };
        assert!(loads().await, "the first look loads once more");
        assert!(!loads().await, "nothing has changed");
        fs::write(&files.certificate, "nothing").expect("write");
        assert!(!loads().await, "a broken file");
        write(&files, "two.example");
        assert!(loads().await, "a new pair");
        shutdown.cancel();
        watching.await.expect("ended");
    }
}
