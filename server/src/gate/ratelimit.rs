//! Rate limits per IP address, as SPIRE has them: a call waits for its tokens and is refused only
//! when it costs more than the bucket holds or could not be served before its deadline.
//!
//! Owns the buckets and their bounds. A bucket is one number, the time at which it will be full
//! again; what is idle is full and forgotten. Local callers are never limited.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::listen::Peer;

/// Addresses remembered per limit. Beyond it full buckets are dropped, and if none is full all are:
/// forgetting only lets callers through early.
const ADDRESSES_MAX: usize = 65_536;

/// Signing calls a second and address, and the burst: SPIRE's number, and with it the largest batch.
pub const SIGNING_PER_SECOND: u32 = 500;

/// Status reports a second and address.
const POST_STATUS_PER_SECOND: u32 = 10;

/// Attestations a second and address.
const ATTESTATIONS_PER_SECOND: u32 = 1;

/// Why a call is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The call costs more than the bucket ever holds.
    #[error("rate ({cost}) exceeds burst size ({burst})")]
    ExceedsBurst {
        /// What the call costs.
        cost: u32,
        /// What the bucket holds.
        burst: u32,
    },
    /// The tokens would come after the call's deadline.
    #[error("rate: Wait(n={cost}) would exceed context deadline")]
    ExceedsDeadline {
        /// What the call costs.
        cost: u32,
    },
}

/// Every limit of the API, one bucket an address each.
#[derive(Debug)]
pub struct RateLimits {
    /// AttestAgent.
    pub attestation: Limiter,
    /// BatchNewX509SVID, RenewAgent and NewDownstreamX509CA together; cost = certificates.
    pub x509: Limiter,
    /// NewJWTSVID.
    pub jwt: Limiter,
    /// BatchNewWITSVID; cost = tokens.
    pub wit: Limiter,
    /// PublishJWTAuthority.
    pub publishing: Limiter,
    /// PostStatus; cannot be switched off.
    pub post_status: Limiter,
}

impl RateLimits {
    /// The limits with the families of `ratelimit { }` switched on or off.
    pub fn new(attestation: bool, signing: bool) -> Self {
        let limiter = |on: bool, rate| if on { Limiter::per_second(rate) } else { Limiter::off() };
        Self {
            attestation: limiter(attestation, ATTESTATIONS_PER_SECOND),
            x509: limiter(signing, SIGNING_PER_SECOND),
            jwt: limiter(signing, SIGNING_PER_SECOND),
            wit: limiter(signing, SIGNING_PER_SECOND),
            publishing: limiter(true, SIGNING_PER_SECOND),
            post_status: limiter(true, POST_STATUS_PER_SECOND),
        }
    }
}

/// One limit.
#[derive(Debug)]
pub struct Limiter {
    /// Tokens a second and the size of the bucket; `None` = no limit.
    rate: Option<u32>,
    epoch: Instant,
    buckets: Mutex<Buckets>,
}

impl Limiter {
    /// So many tokens a second, and as many at once.
    pub fn per_second(rate: u32) -> Self {
        Self { rate: Some(rate.max(1)), epoch: Instant::now(), buckets: Mutex::default() }
    }

    /// No limit.
    pub fn off() -> Self {
        Self { rate: None, epoch: Instant::now(), buckets: Mutex::default() }
    }

    /// Waits for the tokens of a call.
    ///
    /// # Errors
    ///
    /// [`LimitError`]; no tokens are taken then.
    pub async fn wait(
        &self,
        peer: &Peer,
        cost: usize,
        deadline: Option<Instant>,
    ) -> Result<(), LimitError> {
        let (Some(rate), Some(address)) = (self.rate, peer.ip()) else { return Ok(()) };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let now = self.epoch.elapsed();
        let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.reserve(address, rate, cost, now, patience)?
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Takes one token if it is there now.
    pub fn take(&self, peer: &Peer) -> bool {
        let (Some(rate), Some(address)) = (self.rate, peer.ip()) else { return true };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.epoch.elapsed();
        buckets.reserve(address, rate, 1, now, Some(Duration::ZERO)).is_ok()
    }
}

/// When each address' bucket will be full again.
#[derive(Debug, Default)]
struct Buckets {
    full_at: BTreeMap<IpAddr, Duration>,
}

impl Buckets {
    /// Takes tokens and says how long to wait for them.
    fn reserve(
        &mut self,
        address: IpAddr,
        rate: u32,
        cost: u32,
        now: Duration,
        patience: Option<Duration>,
    ) -> Result<Duration, LimitError> {
        if cost > rate {
            return Err(LimitError::ExceedsBurst { cost, burst: rate });
        }
        let full_at = self.full_at.get(&address).copied().unwrap_or_default().max(now);
        // The bucket holds one second's worth, so tokens are there when it lacks no more than that.
        let full_after = full_at + Duration::from_secs(1) * cost / rate;
        let wait = full_after.saturating_sub(now + Duration::from_secs(1));
        if patience.is_some_and(|patience| wait > patience) {
            return Err(LimitError::ExceedsDeadline { cost });
        }
        if self.full_at.len() >= ADDRESSES_MAX {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= ADDRESSES_MAX {
                self.full_at.clear();
            }
        }
        self.full_at.insert(address, full_after);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn calls_wait_their_turn_and_addresses_do_not_wait_for_each_other() {
        let mut buckets = Buckets::default();
        let mut reserve = |last, cost, now| buckets.reserve(address(last), 10, cost, ms(now), None);
        let table = [
            // (address, cost, now, wait)
            (1, 10, 0, 0),
            (1, 1, 0, 100),
            (1, 1, 0, 200),
            (2, 10, 0, 0),
            // After the waits, and a second more, the bucket is full again.
            (1, 10, 1200, 0),
            (1, 5, 1200, 500),
        ];
        for (step, (last, cost, now, wait)) in table.into_iter().enumerate() {
            assert_eq!(reserve(last, cost, now), Ok(ms(wait)), "step {step}");
        }
    }

    #[test]
    fn a_call_is_refused_only_when_waiting_cannot_help() {
        let mut buckets = Buckets::default();
        let too_big = buckets.reserve(address(1), 500, 501, ms(0), None);
        assert_eq!(
            too_big.map_err(|e| e.to_string()),
            Err("rate (501) exceeds burst size (500)".into())
        );
        assert_eq!(buckets.reserve(address(1), 1, 1, ms(0), None), Ok(ms(0)));
        let late = buckets.reserve(address(1), 1, 1, ms(0), Some(ms(999)));
        assert_eq!(late, Err(LimitError::ExceedsDeadline { cost: 1 }));
        // The refused call took nothing: the next patient one waits a second, not two.
        assert_eq!(buckets.reserve(address(1), 1, 1, ms(0), Some(ms(1000))), Ok(ms(1000)));
    }

    #[test]
    fn the_number_of_remembered_addresses_is_bounded() {
        let mut buckets = Buckets::default();
        for number in 0..u32::try_from(ADDRESSES_MAX + 10).expect("a small number") {
            let address = IpAddr::V4(number.into());
            buckets.reserve(address, 1, 1, ms(0), None).expect("a fresh bucket");
        }
        assert!(buckets.full_at.len() <= ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn local_callers_and_switched_off_limits_never_wait() {
        let local = Peer::Local { credentials: None };
        let remote = Peer::Remote { address: ([10, 0, 0, 1], 1).into(), certificate: None };
        let limiter = Limiter::per_second(1);
        for _ in 0..100 {
            limiter.wait(&local, 5, None).await.expect("local");
            Limiter::off().wait(&remote, 5, None).await.expect("off");
        }
    }
}
