//! One upstream authority as the cluster uses it: with a limit of time, and left alone for a while
//! after it has failed.
//!
//! Operators who ask for an authority do not wait: the pause holds for rotation alone.

use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::bundle::JwtAuthority;
use tokio::time::Instant;

use super::authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};
use super::standing::Standing;

/// How long the publication of a key, or a look at what is published, may take (SPIRE: 5 s).
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the first failure, half more after each further one.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// The longest pause: much shorter than the half of a lifetime in which rotation has to succeed.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// A configured upstream authority. Cheap to clone; clones share the pause.
#[derive(Clone, Debug)]
pub struct Upstream {
    authority: Arc<dyn UpstreamAuthority>,
    pause: Arc<Mutex<Pause>>,
    /// Whether it was said that it publishes no JWT keys.
    said_no_jwt_keys: Arc<Once>,
}

#[derive(Debug, Default)]
struct Pause {
    /// `None`: the last attempt succeeded, or there was none.
    length: Option<Duration>,
    until: Option<Instant>,
}

impl Upstream {
    /// Takes one into use.
    pub fn new(authority: Arc<dyn UpstreamAuthority>) -> Self {
        Self { authority, pause: Arc::default(), said_no_jwt_keys: Arc::new(Once::new()) }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        self.authority.name()
    }

    /// Whether it may be asked now.
    ///
    /// # Errors
    ///
    /// It failed a short while ago.
    pub fn check_pause(&self) -> Result<(), UpstreamError> {
        let until = self.lock().until;
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Err(UpstreamError::Paused(left)),
            Some(_) | None => Ok(()),
        }
    }

    /// Has a CA certificate signed.
    pub async fn mint(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, UpstreamError> {
        let limit = self.authority.mint_timeout();
        let minted = tokio::time::timeout(limit, self.authority.mint(csr, ttl)).await;
        minted.unwrap_or(Err(UpstreamError::Timeout(limit)))
    }

    /// Publishes a JWT key above. `None`: that is not to be had.
    pub async fn publish_jwt_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Option<Vec<JwtAuthority>>, UpstreamError> {
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.authority.publish_jwt_key(key)).await;
        let published = asked.unwrap_or(Err(UpstreamError::Timeout(ASK_TIMEOUT)));
        if matches!(published, Ok(None)) {
            let plugin_name = self.name();
            // SPIRE's text, once.
            self.said_no_jwt_keys.call_once(|| {
                tracing::warn!(
                    plugin_name,
                    "UpstreamAuthority plugin does not support JWT-SVIDs. Workloads managed by this server \
                     may have trouble communicating with workloads outside this cluster when using \
                     JWT-SVIDs."
                );
            });
        }
        published
    }

    /// How the files on this machine stand, looked at now. `None`: it signs elsewhere, or nothing could be
    /// read in time.
    pub async fn look(&self) -> Option<Standing> {
        let authority = Arc::clone(&self.authority);
        let looked = tokio::task::spawn_blocking(move || authority.look());
        tokio::time::timeout(ASK_TIMEOUT, looked).await.ok()?.ok().flatten()
    }

    /// As [`Self::look`], on this thread and for as long as it takes: for commands.
    pub fn look_now(&self) -> Option<Standing> {
        self.authority.look()
    }

    /// What is published above now. `None`: that is not to be had.
    pub async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.authority.trust()).await;
        asked.unwrap_or(Err(UpstreamError::Timeout(ASK_TIMEOUT)))
    }

    /// Remembers how an attempt ended, its certificate's checks included.
    pub fn note(&self, succeeded: bool) {
        let mut pause = self.lock();
        if succeeded {
            *pause = Pause::default();
            return;
        }
        let length = pause.length.map_or(PAUSE_MIN, |last| (last * 3 / 2).min(PAUSE_MAX));
        *pause = Pause { length: Some(length), until: Some(Instant::now() + length) };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::Timestamp;

    use super::super::authority::MINT_TIMEOUT;
    use super::super::fake::{Fake, Mood};
    use super::*;
    use crate::logging::captured;

    /// Never answers.
    #[derive(Debug)]
    struct Silent;

    #[tonic::async_trait]
    impl UpstreamAuthority for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }

        async fn mint(&self, _: &[u8], _: Duration) -> Result<MintedCa, UpstreamError> {
            std::future::pending().await
        }

        async fn publish_jwt_key(
            &self,
            _: &JwtAuthority,
        ) -> Result<Option<Vec<JwtAuthority>>, UpstreamError> {
            std::future::pending().await
        }

        async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
            std::future::pending().await
        }
    }

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);

    #[test]
    fn one_that_publishes_no_jwt_keys_is_warned_of_once() {
        let upstream = Upstream::new(Arc::new(Fake::new(START, Mood::Signs(ASK_TIMEOUT))));
        let key = JwtAuthority {
            key_id: "k".to_owned(),
            public_key_der: vec![1],
            expires_at: None,
            tainted: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lines = captured(|| {
            for _ in 0..2 {
                let published = runtime.block_on(upstream.clone().publish_jwt_key(&key)).unwrap();
                assert_eq!(published, None);
            }
        });
        assert_eq!(
            lines,
            [
                "level=warning msg=\"UpstreamAuthority plugin does not support JWT-SVIDs. Workloads managed by \
              this server may have trouble communicating with workloads outside this cluster when using \
              JWT-SVIDs.\" plugin_name=fake"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_answers_is_an_error_in_the_end() {
        let upstream = Upstream::new(Arc::new(Silent));
        let error = upstream.mint(&[], Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Timeout(MINT_TIMEOUT)), "{error:?}");
        let error = upstream.trust().await.unwrap_err();
        assert!(matches!(error, UpstreamError::Timeout(ASK_TIMEOUT)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_each_failure_up_to_a_bound_and_end_with_a_success() {
        let upstream = Upstream::new(Arc::new(Silent));
        upstream.check_pause().unwrap();
        let mut last = Duration::ZERO;
        for failures in 1..20 {
            upstream.note(false);
            let Err(UpstreamError::Paused(left)) = upstream.clone().check_pause() else {
                panic!("no pause after {failures} failures");
            };
            assert!(left > last || left == PAUSE_MAX, "{left:?} after {last:?}");
            last = left;
            tokio::time::advance(left).await;
            upstream.check_pause().unwrap();
        }
        assert_eq!(last, PAUSE_MAX);
        upstream.note(false);
        upstream.note(true);
        upstream.check_pause().unwrap();
        upstream.note(false);
        let error = upstream.check_pause().unwrap_err();
        assert!(matches!(error, UpstreamError::Paused(PAUSE_MIN)), "{error:?}");
    }
}
