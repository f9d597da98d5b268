//! The runtime that consensus runs on: tokio, with randomness that a simulation can seed.
//!
//! Owns nothing but that seam: openraft draws its election timeouts from its runtime, which has no
//! place for a [`Random`]. A seed is a thread's own, since a simulation runs on one.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{
    TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch,
};
use rand_core::TryRng;
use steeple_spiffe_core::random::{Random, SeededRandom, SystemRandom};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on, consensus on this thread draws what follows from `seed`.
pub(crate) fn seed_thread(seed: u64) {
    SEED.set(Some(seed));
}

/// Tokio.
#[derive(Debug)]
pub(crate) struct StoreRuntime(TokioRuntime);

/// What openraft draws from: the crypto library, or a seed.
#[derive(Debug)]
pub(crate) struct RuntimeRandom(SeededRandom);

impl RuntimeRandom {
    fn of_thread() -> Self {
        let seed = match SEED.get() {
            None => SystemRandom.u64(),
            Some(seed) => {
                SEED.set(Some(SeededRandom::new(seed).u64()));
                seed
            }
        };
        Self(SeededRandom::new(seed))
    }
}

impl TryRng for RuntimeRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl AsyncRuntime for StoreRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = RuntimeRandom;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        RuntimeRandom::of_thread()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_repeats_and_another_does_not() {
        let draw = || {
            seed_thread(7);
            [RuntimeRandom::of_thread().0.u64(), RuntimeRandom::of_thread().0.u64()]
        };
        let drawn = draw();
        assert_eq!(drawn, draw());
        assert_ne!(drawn[0], drawn[1]);
        SEED.set(None);
        assert_ne!(RuntimeRandom::of_thread().0.u64(), RuntimeRandom::of_thread().0.u64());
    }
}
