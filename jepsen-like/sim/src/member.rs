//! A member: the real store on a simulated host, and the way in for clients.
//!
//! Owns what outlives the process (disk, clock, configuration) and what runs in it. Starting, killing
//! and cutting off are the driver's; what is asked is the clients'; the rows that reads are answered
//! from are `view`'s.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::{
    Applied, Change, ChangeBatch, Command, Config, Leadership, MemberChange, MemoryDisk,
    ProposeError, RequestId, RunError, Seams, Storage, Store, StoreHandle,
};
use steeple_spiffe_core::random::Random;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::SimClock;
use crate::disk::DiskTimes;
use crate::net::SimTransport;
use crate::view::{Read, View};

/// Calls that wait in front of a member.
const INBOX: usize = 256;

/// The port of every peer listener.
pub(crate) const PORT: u16 = 7000;

/// What a client asks of a member.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A command, by any member.
    Propose(Command, RequestId),
    /// A command that only a leader may propose.
    Duty(Command),
    /// Rows, confirmed.
    Read(Read),
    /// That the member gives leadership away.
    Transfer,
    /// A change of the membership, by any member.
    ChangeMembers(MemberChange),
}

/// What a member answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The command was decided.
    Applied(Box<Applied>),
    /// The rows that were asked for, at a revision that is not before the confirmed one.
    Rows {
        /// What the barrier confirmed.
        confirmed: u64,
        /// The state that the rows are of.
        revision: u64,
        /// The rows.
        rows: Vec<Change>,
    },
    /// It is done: leadership went to another, or the membership is changed.
    Done,
    /// Surely without effect.
    Failed(String),
    /// Nobody knows.
    Unknown(String),
}

/// A call on its way to a member.
#[derive(Debug)]
pub(crate) struct Job {
    /// What is asked.
    pub(crate) ask: Ask,
    /// How long the member may take.
    pub(crate) timeout: Duration,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// What the change feed of a member said.
#[derive(Debug)]
pub(crate) enum FeedItem {
    /// A subscription began with these rows.
    Start {
        /// The state that they are.
        revision: u64,
        /// All of them.
        rows: Vec<Change>,
        /// The one before ended because a snapshot took the place of all rows.
        installed: bool,
    },
    /// A batch.
    Batch(Arc<ChangeBatch>),
}

/// Why a process is not there any more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It did not open what the disk has.
    Refused(String),
    /// It stopped by itself.
    Stopped(String),
    /// It is no member any more.
    Removed,
    /// It was told to.
    InOrder,
    /// It was killed; whoever did that starts it again.
    Killed,
}

/// A member.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its host, for instance `m1`.
    pub(crate) name: String,
    /// Its configuration.
    pub(crate) config: Config,
    /// Its disk.
    pub(crate) disk: Arc<MemoryDisk>,
    /// How long its disk takes.
    pub(crate) times: Arc<DiskTimes>,
    /// Its clock.
    pub(crate) clock: Arc<SimClock>,
    /// Its randomness.
    pub(crate) random: Arc<dyn Random>,
    /// Whether it has been started at all.
    pub(crate) exists: bool,
    /// How many processes it has had.
    pub(crate) incarnation: u64,
    /// The running process.
    pub(crate) process: Option<Process>,
    /// Why there is none.
    pub(crate) ended: Option<Ended>,
    /// What its feed said and nobody has looked at.
    pub(crate) feed: VecDeque<FeedItem>,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The store's handle.
    pub(crate) handle: StoreHandle,
    /// Where it runs: who asks how long ago something was must ask by its clock.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Its leadership.
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// The way in.
    pub(crate) inbox: mpsc::Sender<Job>,
    /// Tells it to stop in good order.
    pub(crate) shutdown: CancellationToken,
    /// Tells its timers to leap by so many milliseconds.
    pub(crate) leap: mpsc::Sender<u64>,
    /// Ends its subscription, so that it subscribes anew.
    pub(crate) resubscribe: mpsc::Sender<()>,
}

/// A member that driver and host share.
pub(crate) type Shared = Rc<RefCell<Member>>;

/// What runs on a member's host.
pub(crate) async fn software(member: Shared) -> turmoil::Result {
    let (config, seams) = {
        let member = member.borrow();
        if !member.exists {
            return Ok(());
        }
        let seams = Seams {
            clock: member.clock.clone(),
            random: member.random.clone(),
            storage: Storage::Memory(member.disk.clone()),
            transport: Arc::new(SimTransport),
        };
        (member.config.clone(), seams)
    };
    let store = match Store::open(config, seams).await {
        Ok(store) => store,
        Err(error) => {
            member.borrow_mut().ended = Some(Ended::Refused(format!("{error}: {error:?}")));
            return Ok(());
        }
    };
    let handle = store.handle();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(store.run(shutdown.clone()));
    let (inbox, jobs) = mpsc::channel(INBOX);
    let (leap, leaps) = mpsc::channel(1);
    let (resubscribe, again) = mpsc::channel(1);
    let leadership = handle.leadership();
    let view = Rc::new(View::default());
    tokio::task::spawn_local(serve(handle.clone(), view.clone(), jobs));
    tokio::task::spawn_local(leap_when_told(leaps));
    tokio::task::spawn_local(follow_feed(handle.clone(), member.clone(), view, again));
    {
        let mut member = member.borrow_mut();
        member.ended = None;
        member.incarnation += 1;
        let runtime = tokio::runtime::Handle::current();
        member.process =
            Some(Process { handle, runtime, leadership, inbox, shutdown, leap, resubscribe });
    }
    let ended = match running.await {
        Ok(Ok(())) => Ended::InOrder,
        Ok(Err(RunError::Removed { .. })) => Ended::Removed,
        Ok(Err(error)) => Ended::Stopped(error.to_string()),
        Err(panic) => Ended::Stopped(format!("panic: {panic}")),
    };
    let mut member = member.borrow_mut();
    member.process = None;
    member.ended = Some(ended);
    Ok(())
}

async fn serve(handle: StoreHandle, view: Rc<View>, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let (handle, view) = (handle.clone(), view.clone());
        tokio::task::spawn_local(async move {
            let answer = answer(&handle, &view, job.ask, job.timeout).await;
            // The client may have given up.
            job.reply.send(answer).ok();
        });
    }
}

async fn answer(handle: &StoreHandle, view: &View, ask: Ask, timeout: Duration) -> Answer {
    let deadline = Instant::now() + timeout;
    let decided = match ask {
        Ask::Propose(command, request) => handle.propose(command, request, deadline).await,
        Ask::Duty(command) => {
            let leadership = *handle.leadership().borrow();
            if !leadership.is_self {
                return Answer::Failed("not the leader".to_owned());
            }
            handle.propose_duty(command, leadership.term).await
        }
        Ask::Transfer => {
            return match handle.transfer_leadership(None).await {
                Ok(_) => Answer::Done,
                Err(error) => Answer::Failed(error.text),
            };
        }
        Ask::ChangeMembers(change) => {
            return match handle.change_members(change).await {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error.to_string()),
            };
        }
        Ask::Read(what) => return read(handle, view, &what, deadline).await,
    };
    match decided {
        Ok(applied) => Answer::Applied(Box::new(applied)),
        Err(ProposeError::Indeterminate { text }) => Answer::Unknown(text),
        Err(
            error @ (ProposeError::Unavailable(_)
            | ProposeError::TooLarge { .. }
            | ProposeError::Overloaded
            | ProposeError::NotLeader),
        ) => Answer::Failed(error.to_string()),
    }
}

/// Answers as a server does: from the rows that it has by its change feed, once they are as new as
/// what the barrier confirmed. A read of everything goes to the tables.
async fn read(handle: &StoreHandle, view: &View, what: &Read, deadline: Instant) -> Answer {
    let confirmed = match handle.read_barrier(deadline).await {
        Ok(confirmed) => confirmed.revision.as_u64(),
        Err(error) => return Answer::Failed(error.text),
    };
    if *what == Read::Everything {
        return match handle.subscribe() {
            Ok(found) => {
                Answer::Rows { confirmed, revision: found.revision.as_u64(), rows: found.snapshot }
            }
            Err(error) => Answer::Failed(error.to_string()),
        };
    }
    match tokio::time::timeout_at(deadline, view.reaches(confirmed)).await {
        Ok(()) => {
            let (revision, rows) = view.select(what);
            Answer::Rows { confirmed, revision, rows }
        }
        Err(_) => Answer::Failed("the rows are not as new as what was confirmed".to_owned()),
    }
}

async fn leap_when_told(mut leaps: mpsc::Receiver<u64>) {
    while let Some(ms) = leaps.recv().await {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }
}

async fn follow_feed(
    handle: StoreHandle,
    member: Shared,
    view: Rc<View>,
    mut again: mpsc::Receiver<()>,
) {
    let mut installed = false;
    loop {
        let mut subscription = match handle.subscribe() {
            Ok(subscription) => subscription,
            Err(error) => {
                member.borrow_mut().ended = Some(Ended::Stopped(error.to_string()));
                return;
            }
        };
        let revision = subscription.revision.as_u64();
        let rows = std::mem::take(&mut subscription.snapshot);
        view.start(revision, &rows);
        member.borrow_mut().feed.push_back(FeedItem::Start { revision, rows, installed });
        loop {
            let next = tokio::select! {
                biased;
                next = subscription.next() => next,
                told = again.recv() => match told {
                    Some(()) => {
                        installed = false;
                        break;
                    }
                    None => return,
                },
            };
            let Ok(batch) = next else {
                installed = true;
                break;
            };
            view.apply(&batch);
            member.borrow_mut().feed.push_back(FeedItem::Batch(batch));
        }
    }
}
