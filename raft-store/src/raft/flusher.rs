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
use tokio::sync::{mpsc, oneshot};

use crate::mutants::{self, Mutant};
use crate::observe::SyncWatch;
use crate::raft::TypeConfig;
use crate::storage::{LogDisk, Syncing, TimedSync};

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
    Thread(Arc<SyncThread>),
    /// A task syncs, in simulated time.
    Task(mpsc::Sender<Waiter>),
}

impl Flusher {
    pub(crate) fn start(disk: Arc<dyn LogDisk>, syncs: Arc<SyncWatch>) -> io::Result<Self> {
        match disk.syncing() {
            Syncing::Free => return Ok(Self::Inline(disk)),
            Syncing::Blocking => {}
            Syncing::Timed(disk) => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                tokio::spawn(run_timed(disk, syncs, receiver));
                return Ok(Self::Task(sender));
            }
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("raft-log-sync".to_owned())
            .spawn(move || run(disk.as_ref(), &syncs, &receiver))?;
        let thread = SyncThread { sender: Some(sender), thread: Some(thread) };
        Ok(Self::Thread(Arc::new(thread)))
    }

    /// Queues a waiter; it is answered once everything written before this call is durable.
    pub(crate) fn queue(&self, waiter: Waiter) {
        match self {
            Self::Inline(disk) => waiter.answer(disk.sync()),
            Self::Thread(thread) => thread.queue(waiter),
            Self::Task(sender) => {
                if let Err(error) = sender.try_send(waiter) {
                    error.into_inner().answer(Err(stopped()));
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

/// The thread and its queue. Its end is waited for: a process that ends while the database is still
/// in use by a thread may abort.
#[derive(Debug)]
pub(crate) struct SyncThread {
    sender: Option<SyncSender<Waiter>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl SyncThread {
    fn queue(&self, waiter: Waiter) {
        let Some(sender) = &self.sender else { return waiter.answer(Err(stopped())) };
        if let Err(error) = sender.send(waiter) {
            error.0.answer(Err(stopped()));
        }
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        // Without a sender the thread ends once its queue is done.
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say about how it ended.
            thread.join().ok();
        }
    }
}

/// With the deliberate bug, so many batches are synced at once, after they were answered.
const ACKS_BEFORE_SYNC: u64 = 16;

fn run(disk: &dyn LogDisk, syncs: &SyncWatch, queue: &Receiver<Waiter>) {
    let mut batch = Vec::new();
    let mut answered = 0_u64;
    while let Ok(first) = queue.recv() {
        batch.push(first);
        batch.extend(queue.try_iter());
        if mutants::on(Mutant::AckBeforeSync) {
            answer_all(&mut batch, &Ok(()));
            answered += 1;
            if !answered.is_multiple_of(ACKS_BEFORE_SYNC) {
                continue;
            }
        }
        syncs.begin();
        let result = match mutants::on(Mutant::SyncSkipped) {
            true => Ok(()),
            false => disk.sync(),
        };
        metrics::histogram!("spire_server_cluster_wal_sync_elapsed_time")
            .record(syncs.end().as_secs_f64() * 1000.0);
        answer_all(&mut batch, &result);
        if let Err(error) = result {
            tracing::error!(%error, "failed to sync log: nothing more is written");
            for waiter in queue.try_iter() {
                waiter.answer(Err(stopped()));
            }
            return;
        }
    }
}

/// As [`run`], for a simulated disk.
async fn run_timed(
    disk: Arc<dyn TimedSync>,
    syncs: Arc<SyncWatch>,
    mut queue: mpsc::Receiver<Waiter>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        syncs.begin();
        let result = match mutants::on(Mutant::SyncSkipped) {
            true => Ok(()),
            false => disk.begin().await,
        };
        syncs.end();
        answer_all(&mut batch, &result);
        if result.is_err() {
            // What is queued is dropped with the queue: whoever waits learns that it stopped.
            return;
        }
    }
}

fn answer_all(batch: &mut Vec<Waiter>, result: &io::Result<()>) {
    for waiter in batch.drain(..) {
        waiter.answer(match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        });
    }
}

fn stopped() -> io::Error {
    io::Error::other("log sync has stopped")
}
