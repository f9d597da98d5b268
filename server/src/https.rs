//! Calls to services that are not ours, by HTTP over TLS.
//!
//! Owns the bounds: one call, so much time, so long an answer. Says nothing of what is asked.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// What an answer may have at most, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// Nobody answers there, or not as whom we expect.
    #[error("connection failed")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The connection broke before the answer was whole.
    #[error("answer is cut short")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is longer than anything that makes sense.
    #[error("answer has more than {0} bytes")]
    TooLong(usize),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// Where it points to, for answers that do.
    pub(crate) location: Option<String>,
    /// The body, whole.
    pub(crate) body: Bytes,
}

/// A client with its open connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct HttpsClient {
    inner: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpsClient {
    /// A client of servers that this configuration trusts. Addresses without TLS are called as they
    /// are: who takes them has said so to the operator.
    pub(crate) fn new(config: rustls::ClientConfig) -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        Self { inner: Client::builder(TokioExecutor::new()).build(connector.build()) }
    }

    /// One call.
    ///
    /// # Errors
    ///
    /// No answer, in time or at all; statuses are the caller's business.
    pub(crate) async fn call(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<Answer, HttpsError> {
        let answered = tokio::time::timeout(timeout, self.exchange(request)).await;
        answered.unwrap_or(Err(HttpsError::Timeout(timeout)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpsError> {
        let (head, body) =
            self.inner.request(request).await.map_err(HttpsError::Connect)?.into_parts();
        let location = head.headers.get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                HttpsError::TooLong(ANSWER_BYTES_MAX)
            } else {
                HttpsError::Broken(error)
            }
        })?;
        Ok(Answer { status: head.status, location, body: body.to_bytes() })
    }
}
