//! Reads the cluster key again while the process runs.
//!
//! Owns what SIGHUP does: a new line is taken at once, a line that is gone is given up only if nothing
//! depends on its key, and whatever cannot be read changes nothing. Where the text comes from is
//! `cluster_key`'s business.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use steeple_raft_store::{ClusterKeys, KeysInUse};
use steeple_spiffe_core::random::Random;

use crate::cluster_key;
use crate::config::KeySource;
use crate::view::Views;

/// What reading the key again takes.
#[derive(Clone, Debug)]
pub struct KeyReload {
    /// Where the key comes from.
    pub source: KeySource,
    /// The folder that a key may lie beside.
    pub data_dir: PathBuf,
    /// The keys in use.
    pub keys: Arc<ClusterKeys>,
    /// What this replica has applied.
    pub views: Views,
    /// For a key that has to be made; there is one by now.
    pub random: Arc<dyn Random>,
}

impl KeyReload {
    /// Reads and takes over what can be. Says in the log what came of it.
    pub async fn run(&self) {
        let (source, data_dir) = (self.source.clone(), self.data_dir.clone());
        let random = Arc::clone(&self.random);
        // A command may take its time.
        let read = tokio::task::spawn_blocking(move || {
            cluster_key::load(&source, &data_dir, random.as_ref())
        });
        let read = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "Cluster key was not read again: the keys in use stay");
                return;
            }
            // Only while the process ends.
            Err(_cancelled) => return,
        };
        let changes = self.keys.take_over(&read, &self.needed());
        for key_id in &changes.kept {
            tracing::warn!(
                key_id,
                "Cluster key has no line any more but is still needed: it is kept until this process ends; put its line back, and drop it when \"cluster status\" says so"
            );
        }
        let list = |ids: &[String]| ids.join(", ");
        tracing::info!(
            added = list(&changes.added),
            dropped = list(&changes.dropped),
            held = list(&self.keys.ids()),
            "Cluster key read again"
        );
    }

    /// The keys that must not be given up: those in use, and all of them as long as nothing is known.
    fn needed(&self) -> BTreeSet<String> {
        let Some(cluster) = self.views.cluster() else {
            return self.keys.ids().into_iter().collect();
        };
        let in_use = KeysInUse::of(&cluster, &self.views.journal(), &self.views.sealed());
        let mut needed = in_use.needed();
        if needed.is_empty() {
            // The first authorities are being made.
            needed.extend(self.keys.ids());
        }
        needed
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use steeple_raft_store::change::{ClusterState, Journal};
    use steeple_raft_store::testing::cluster_state;
    use steeple_raft_store::{Change, Revision};
    use steeple_spiffe_core::Timestamp;
    use steeple_spiffe_core::random::SystemRandom;

    use super::*;

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);

    fn views(current: &str) -> Views {
        let cluster = ClusterState { key_id: current.to_owned(), ..cluster_state() };
        let rows = vec![
            Change::ClusterWritten(Arc::new(cluster)),
            Change::JournalWritten(Arc::new(Journal::default())),
        ];
        Views::of_changes(Revision::new(1, 1), START, rows)
    }

    #[tokio::test]
    async fn a_line_is_taken_without_a_restart_and_no_mistake_takes_away_what_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let make = || {
            let (keys, text) = ClusterKeys::generate(&SystemRandom).unwrap();
            (keys.current_id(), text)
        };
        let ((old, old_line), (new, new_line)) = (make(), make());
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let keys = Arc::new(ClusterKeys::parse(&old_line).unwrap());
        let reload = |views| KeyReload {
            source: KeySource::File(path.clone()),
            data_dir: folder.path().to_owned(),
            keys: Arc::clone(&keys),
            views,
            random: Arc::new(SystemRandom),
        };
        let both = format!("{}{}", *new_line, *old_line);
        let ids = || keys.ids().into_iter().collect::<BTreeSet<_>>();
        let expected = BTreeSet::from([old.clone(), new.clone()]);

        // Nobody waits for a key that cannot be read: it changes nothing.
        for (text, mode) in [("nonsense\n", 0o600), ("", 0o600), (both.as_str(), 0o644)] {
            write(text, mode);
            reload(views(&old)).run().await;
            assert_eq!(ids(), BTreeSet::from([old.clone()]), "{text:?} {mode:o}");
        }
        fs::remove_file(&path).unwrap();
        reload(views(&old)).run().await;
        assert_eq!(ids(), BTreeSet::from([old.clone()]), "no file");

        write(&both, 0o600);
        reload(views(&old)).run().await;
        assert_eq!(ids(), expected);
        write(&new_line, 0o600);
        reload(views(&old)).run().await;
        assert_eq!(ids(), expected, "the old key still seals");
        reload(Views::of_changes(Revision::new(0, 0), START, Vec::new())).run().await;
        assert_eq!(ids(), expected, "no cluster is known yet");
        reload(views(&new)).run().await;
        assert_eq!(ids(), BTreeSet::from([new]), "nothing needs the old key");
    }
}
