//! Histories: what clients asked and were told, what faults were installed, what observers saw.
//!
//! [`event`] and [`operation`] are the lines, [`read`] and [`mod@write`] turn them into text and back,
//! [`calls`] pairs them. The format is described in the crate's `README.md`.

pub mod calls;
pub mod event;
pub mod operation;
pub mod read;
pub mod write;

pub use calls::{Answer, Call, CallId, History};
pub use event::{
    Bundle, Change, Complete, Event, Fault, FaultState, Feed, FeedStep, Header, Invoke, Line, Mark,
    Outcome, StateHash,
};
pub use operation::{
    Admission, Agent, Entry, EntryUpdate, Filter, ItemReply, Operation, OperationKind, Page, Prune,
    Rejection, Relationship, RelationshipUpdate, Reply, Seen, Token,
};
pub use read::{HistoryError, ReadLimits, Reader};
pub use write::Writer;
