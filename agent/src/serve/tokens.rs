//! JWT-SVIDs for workloads: from the cache while fresh, else from a server.
//!
//! Owns the rules of `spire-semantics` 9.2: a cached token is handed out until half of its life has
//! passed; when no server answers, or none soon, until it ends. Tokens with an id of their own are
//! never reused.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::{Clock, Random};
use tokio::time::timeout;
use tracing::warn;

use crate::limits::TOKEN_RENEWAL_WAIT;
use crate::rotate::is_token_due;
use crate::store::{Entry, JwtKey, Store};
use crate::upstream::{CallError, Upstream, sign_jwt};

/// No token could be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No server signed one, and none is cached.
    #[error(transparent)]
    Server(#[from] CallError),
}

/// The way to tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Cached ones.
    pub store: Arc<Store>,
    /// Who signs.
    pub upstream: Arc<Upstream>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
    /// Tokens that are being renewed, each once at a time.
    pub renewing: Renewing,
}

/// The keys of tokens that are being renewed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Renewing(Arc<Mutex<BTreeSet<JwtKey>>>);

impl Renewing {
    /// Marks a token as being renewed; `None` if it is already.
    fn begin(&self, key: &JwtKey) -> Option<Mark> {
        let begun = self.lock().insert(key.clone());
        begun.then(|| Mark { renewing: self.clone(), key: key.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<JwtKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token that is being renewed, until this is dropped, however the renewal ends.
struct Mark {
    renewing: Renewing,
    key: JwtKey,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.renewing.lock().remove(&self.key);
    }
}

impl Tokens {
    /// A token of an entry's identity for the audiences.
    pub async fn fetch(
        &self,
        entry: &Entry,
        audience: &[String],
    ) -> Result<Arc<JwtSvid>, TokenError> {
        let key = JwtKey::new(&entry.spiffe_id, audience);
        let cached =
            if entry.jwt_has_id { None } else { self.store.with_tokens(|tokens| tokens.get(&key)) };
        if let Some(token) = cached.as_ref().filter(|token| self.is_fresh(token)) {
            return Ok(Arc::clone(token));
        }
        match cached.filter(|token| self.clock.now() < token.expires_at) {
            Some(token) => Ok(self.renew(entry, key, audience, token).await),
            None => self.sign(entry, audience).await,
        }
    }

    /// A new token in the place of one that still holds, if it can be had soon: whoever asks does not
    /// wait for servers that are gone. A renewal that takes longer goes on, and serves who asks next.
    async fn renew(
        &self,
        entry: &Entry,
        key: JwtKey,
        audience: &[String],
        cached: Arc<JwtSvid>,
    ) -> Arc<JwtSvid> {
        let Some(mark) = self.renewing.begin(&key) else { return cached };
        let (this, owned, audience) = (self.clone(), entry.clone(), audience.to_vec());
        let renewal = tokio::spawn(async move {
            let _mark = mark;
            this.sign(&owned, &audience).await
        });
        let error = match timeout(TOKEN_RENEWAL_WAIT, renewal).await {
            Ok(Ok(Ok(token))) => return token,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => {
                format!("no answer within {TOKEN_RENEWAL_WAIT:?}, still waiting for one")
            }
        };
        warn!(spiffe_id = %entry.spiffe_id, error, "Unable to renew JWT-SVID; serving the cached one");
        cached
    }

    async fn sign(&self, entry: &Entry, audience: &[String]) -> Result<Arc<JwtSvid>, TokenError> {
        let token = Arc::new(sign_jwt(&self.upstream, &entry.id, audience).await?);
        if !entry.jwt_has_id {
            // Under the id that the server put in, which is newer than our entry's.
            let key = JwtKey::new(&token.id, audience);
            self.store.with_tokens(|tokens| tokens.put(key, Arc::clone(&token)));
        }
        Ok(token)
    }

    fn is_fresh(&self, token: &JwtSvid) -> bool {
        let now = self.clock.now();
        token.issued_at.is_some_and(|from| {
            now < token.expires_at
                && !is_token_due(from, token.expires_at, now, self.random.unit_f64())
        })
    }
}
