//! What the admin socket answers while the server serves nothing: one text for every call.
//!
//! A sealed or held process opens no other listener. `Unavailable` is the only honest code: nothing
//! is known about anything.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;

use crate::listen::{Application, Peer};
use crate::status::Failure;

/// An operator has to act first: retries need not be fast.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Answers every call with the same text.
#[derive(Clone, Debug)]
pub struct Closed {
    text: Arc<str>,
}

impl Closed {
    /// With the reason, for instance `Sealed: cluster key does not open KEY_ID`.
    pub fn new(text: &str) -> Self {
        Self { text: text.into() }
    }
}

impl Application for Closed {
    async fn answer(&self, _peer: Arc<Peer>, _request: Request<Incoming>) -> Response<Body> {
        Failure::unavailable(&*self.text, RETRY_AFTER).into_status().into_http()
    }
}
