//! Group commit: one thread that makes the log durable for everyone who waits.
//!
//! Writes are readable at once; whoever needs them durable queues here. The thread takes all that is
//! queued, syncs once, and answers in the order of queueing (openraft#1960: out of order loses
//! progress). The first failed sync is the last: after it the disk may have dropped what it had taken,
//! so everyone waiting and everyone after gets the error, consensus stops and the process ends.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::raft::TypeConfig;
use crate::storage::LogDisk;

/// Callbacks that wait for a sync. Consensus keeps far fewer appends in flight; if it ever does not,
/// it waits for the disk here.
const QUEUE: usize = 4096;

/// Who waits for a sync.
pub(crate) enum Waiter {
    /// An append.
    Appended(IOFlushed<TypeConfig>),
    /// Anyone else.
    Other(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn answer(self, result: io::Result<()>) {
        match self {
            Self::Appended(callback) => callback.io_completed(result),
            Self::Other(sender) => {
                // The one who waited may have gone: then no one needs the answer.
                sender.send(result).ok();
            }
        }
    }
}

/// The queue of the flusher thread, which ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) enum Flusher {
    /// Syncing is free: answered at once, without a thread.
    Inline(Arc<dyn LogDisk>),
    /// A thread syncs.
    Thread(SyncSender<Waiter>),
}

impl Flusher {
    pub(crate) fn start(disk: Arc<dyn LogDisk>) -> io::Result<Self> {
        if disk.sync_is_free() {
            return Ok(Self::Inline(disk));
        }
        let (sender, receiver) = sync_channel(QUEUE);
        thread::Builder::new()
            .name("raft-log-sync".to_owned())
            .spawn(move || run(disk.as_ref(), &receiver))?;
        Ok(Self::Thread(sender))
    }

    /// Queues a waiter; it is answered once everything written before this call is durable.
    pub(crate) fn queue(&self, waiter: Waiter) {
        match self {
            Self::Inline(disk) => waiter.answer(disk.sync()),
            Self::Thread(sender) => {
                if let Err(error) = sender.send(waiter) {
                    error.0.answer(Err(stopped()));
                }
            }
        }
    }

    /// Waits until everything written before this call is durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.queue(Waiter::Other(sender));
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn run(disk: &dyn LogDisk, queue: &Receiver<Waiter>) {
    let mut batch = Vec::new();
    while let Ok(first) = queue.recv() {
        batch.push(first);
        batch.extend(queue.try_iter());
        let started = Instant::now();
        let result = disk.sync();
        metrics::histogram!("spire_server_cluster_wal_sync_elapsed_time")
            .record(started.elapsed().as_secs_f64() * 1000.0);
        for waiter in batch.drain(..) {
            let result = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            waiter.answer(result);
        }
        if let Err(error) = result {
            tracing::error!(%error, "failed to sync log: nothing more is written");
            for waiter in queue.try_iter() {
                waiter.answer(Err(stopped()));
            }
            return;
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("log sync has stopped")
}
