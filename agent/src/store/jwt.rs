//! JWT-SVIDs that were handed out and may be handed out again.
//!
//! Owns the least-recently-used cache of `spire-semantics` 9.2: a hard limit, a key of identity and
//! audiences. Whether a token is fresh enough is its caller's question.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::svid::jwt::JwtSvid;

/// What a token is kept under: its identity and its audiences, sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtKey {
    spiffe_id: SpiffeId,
    audience: Vec<String>,
}

impl JwtKey {
    /// The key of an identity and a list of audiences in any order.
    pub fn new(spiffe_id: &SpiffeId, audience: &[String]) -> Self {
        let mut audience = audience.to_vec();
        audience.sort();
        Self { spiffe_id: spiffe_id.clone(), audience }
    }
}

/// The cache. Its lock is the caller's.
#[derive(Debug)]
pub struct JwtCache {
    limit: usize,
    clock: u64,
    tokens: BTreeMap<JwtKey, (u64, Arc<JwtSvid>)>,
    /// Invariant: the same pairs as in `tokens`, the other way round.
    by_last_use: BTreeMap<u64, JwtKey>,
}

impl JwtCache {
    /// An empty cache of at most `limit` tokens.
    pub fn new(limit: usize) -> Self {
        Self { limit, clock: 0, tokens: BTreeMap::new(), by_last_use: BTreeMap::new() }
    }

    /// The token of a key, which becomes the most recently used.
    pub fn get(&mut self, key: &JwtKey) -> Option<Arc<JwtSvid>> {
        let token = self.remove(key)?;
        self.put(key.clone(), Arc::clone(&token));
        Some(token)
    }

    /// Keeps a token; the least recently used goes if there is no room.
    pub fn put(&mut self, key: JwtKey, token: Arc<JwtSvid>) {
        self.remove(&key);
        self.clock += 1;
        self.by_last_use.insert(self.clock, key.clone());
        self.tokens.insert(key, (self.clock, token));
        while self.tokens.len() > self.limit {
            let Some((_, oldest)) = self.by_last_use.pop_first() else { break };
            self.tokens.remove(&oldest);
        }
    }

    /// Drops the tokens that `is_bad` names; returns how many.
    pub fn drop_where(&mut self, is_bad: impl Fn(&JwtSvid) -> bool) -> usize {
        let bad = self.tokens.iter().filter(|(_, (_, token))| is_bad(token));
        let keys: Vec<JwtKey> = bad.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key);
        }
        keys.len()
    }

    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token is kept.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn remove(&mut self, key: &JwtKey) -> Option<Arc<JwtSvid>> {
        let (used, token) = self.tokens.remove(key)?;
        self.by_last_use.remove(&used);
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::Timestamp;

    use super::*;

    fn token(name: &str, key_id: &str) -> Arc<JwtSvid> {
        Arc::new(JwtSvid {
            id: id(name),
            audience: vec!["a".to_owned()],
            issued_at: None,
            expires_at: Timestamp::from_unix_s(100),
            key_id: key_id.to_owned(),
            claims_json: String::new(),
            token: name.to_owned(),
        })
    }

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/{name}")).expect("test id")
    }

    fn key(name: &str) -> JwtKey {
        JwtKey::new(&id(name), &["a".to_owned()])
    }

    #[test]
    fn the_least_recently_used_token_goes_first() {
        let mut cache = JwtCache::new(2);
        cache.put(key("a"), token("a", "k"));
        cache.put(key("b"), token("b", "k"));
        assert!(cache.get(&key("a")).is_some());
        cache.put(key("c"), token("c", "k"));
        assert!(cache.get(&key("b")).is_none());
        assert!(cache.get(&key("a")).is_some());
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn the_order_of_audiences_does_not_matter_but_each_counts() {
        let of = |audience: &[&str]| {
            JwtKey::new(&id("x"), &audience.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a"]), of(&["a", "b"]));
        assert_ne!(of(&["ab"]), of(&["a", "b"]));
    }

    #[test]
    fn tokens_of_a_tainted_key_are_dropped() {
        let mut cache = JwtCache::new(9);
        cache.put(key("a"), token("a", "bad"));
        cache.put(key("b"), token("b", "good"));
        assert_eq!(cache.drop_where(|token| token.key_id == "bad"), 1);
        assert!(cache.get(&key("a")).is_none());
        assert!(cache.get(&key("b")).is_some());
    }
}
