//! Questions that the server around one member asks those around the others, and their answers.
//!
//! Owns the seam alone: the registry carries both and looks into neither. Nothing that is answered here
//! is replicated, confirmed or remembered.

use std::fmt;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use prost::bytes::Bytes;
use tokio::time::Instant;

use crate::core::Core;
use crate::ids::MemberId;

/// What answers on a member.
pub trait Answers: Send + Sync + fmt::Debug {
    /// Answers a question of another member, or of this one. The error's text is told to who asked.
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The member runs a release that does not know such questions.
    #[error("member {0} runs an older release")]
    Older(MemberId),
    /// It was not reached, did not answer in time, or is not ready to answer.
    #[error("member {member} does not answer: {text}")]
    Unanswered {
        /// Who was asked.
        member: MemberId,
        /// Why.
        text: String,
    },
}

impl Core {
    /// See [`StoreHandle::answer_with`](crate::StoreHandle::answer_with).
    pub(crate) fn answer_with(&self, answers: &Arc<dyn Answers>) {
        // Set once by the server that opened the store; a second one would be a defect of it.
        self.answers.set(Arc::downgrade(answers)).ok();
    }

    /// Answers here.
    pub(crate) async fn answer(&self, question: Bytes) -> Result<Bytes, String> {
        match self.answers.get().and_then(Weak::upgrade) {
            Some(answers) => answers.answer(question).await,
            None => Err("it is starting or stopping".to_owned()),
        }
    }

    /// See [`StoreHandle::ask`](crate::StoreHandle::ask).
    pub(crate) async fn ask_member(
        &self,
        member: MemberId,
        question: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, AskError> {
        if member == self.member_id {
            let answer = self.answer(question).await;
            return answer.map_err(|text| AskError::Unanswered { member, text });
        }
        self.forwarder.ask(member, question, deadline).await
    }
}
