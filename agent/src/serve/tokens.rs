//! JWT-SVIDs for workloads: from the cache while fresh, else from a server.
//!
//! Owns the rules of `spire-semantics` 9.2: a cached token is handed out until half of its life has
//! passed; when no server answers, until it ends. Tokens with an id of their own are never reused.

use std::sync::Arc;

use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::{Clock, Random};
use tracing::warn;

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
#[derive(Debug)]
pub struct Tokens {
    /// Cached ones.
    pub store: Arc<Store>,
    /// Who signs.
    pub upstream: Arc<Upstream>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
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
        match sign_jwt(&self.upstream, &entry.id, audience).await {
            Ok(token) => {
                let token = Arc::new(token);
                if !entry.jwt_has_id {
                    // Under the id that the server put in, which is newer than our entry's.
                    let key = JwtKey::new(&token.id, audience);
                    self.store.with_tokens(|tokens| tokens.put(key, Arc::clone(&token)));
                }
                Ok(token)
            }
            Err(error) => match cached.filter(|token| self.clock.now() < token.expires_at) {
                Some(token) => {
                    warn!(spiffe_id = %entry.spiffe_id, %error, "Unable to renew JWT-SVID; serving the cached one");
                    Ok(token)
                }
                None => Err(error.into()),
            },
        }
    }

    fn is_fresh(&self, token: &JwtSvid) -> bool {
        let now = self.clock.now();
        token.issued_at.is_some_and(|from| {
            now < token.expires_at
                && !is_token_due(from, token.expires_at, now, self.random.unit_f64())
        })
    }
}
