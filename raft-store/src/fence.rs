//! The fence: a member whose state is wrong takes part in nothing any more.
//!
//! Owns the one place where that is said, by whoever finds it, and the record that keeps the next start
//! from serving the same state. `Store::run` waits for it and ends.

use std::io;

use tokio::sync::watch;

use crate::local::LocalRecords;

/// Name of the record.
const RECORD: &str = "fenced";

/// See the module.
#[derive(Debug)]
pub(crate) struct Fence {
    reason: watch::Sender<Option<String>>,
}

impl Default for Fence {
    fn default() -> Self {
        Self { reason: watch::channel(None).0 }
    }
}

impl Fence {
    /// Says that this member must end, and why. The first reason stays.
    pub(crate) fn trip(&self, reason: String) {
        self.reason.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
            }
            first
        });
    }

    /// Waits until it is tripped.
    pub(crate) async fn tripped(&self) -> String {
        let mut watch = self.reason.subscribe();
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            if watch.changed().await.is_err() {
                // Not reached: the sender lives as long as this.
                return std::future::pending().await;
            }
        }
    }

    /// Why, if it is tripped.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }
}

/// Keeps the reason for the next start; durable on return.
pub(crate) fn record(local: &LocalRecords, reason: &str) -> io::Result<()> {
    local.put(RECORD, reason.as_bytes())
}

/// Why the last start ended behind a fence, if it did.
pub(crate) fn recorded(local: &LocalRecords) -> io::Result<Option<String>> {
    let reason = local.get(RECORD)?;
    Ok(reason.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}
