//! The time that libraries take without asking: HTTP/2 forgets reset streams after a second of the
//! machine's clock, so how fast a simulation runs would decide what happens in it.
//!
//! The standard library takes it from the C function `clock_gettime`. This one is found first: on a
//! thread that runs a simulation it says the simulated time, on all others it asks the kernel.

#![expect(unsafe_code, reason = "a C function's place is taken, which no safe code can")]

use std::cell::Cell;
use std::ffi::{c_int, c_long};

/// The number of the system call.
#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;

/// The number of the system call.
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: c_long = 113;

/// When simulations begin, in seconds: late enough that nothing is before the start of the clock.
const START_S: i64 = 1_800_000_000;

thread_local! {
    static NOW_MS: Cell<Option<i64>> = const { Cell::new(None) };
}

/// From here on this thread's clocks say that so many milliseconds have passed.
pub(crate) fn set(ms: u64) {
    NOW_MS.set(Some(i64::try_from(ms).unwrap_or(i64::MAX)));
}

/// The C library's `struct timespec`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Says what time it is; -1 if the kernel does not know the clock.
///
/// # Safety
///
/// As the C library's: `out` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, out: *mut Timespec) -> c_int {
    match NOW_MS.try_with(Cell::get) {
        Ok(Some(ms)) => {
            let now =
                Timespec { seconds: START_S + ms / 1_000, nanoseconds: ms % 1_000 * 1_000_000 };
            // SAFETY: the caller's promise.
            unsafe { out.write(now) };
            0
        }
        Ok(None) | Err(_) => {
            // SAFETY: the system call has these arguments, and writes nothing but `out`.
            let failed = unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), out) };
            c_int::try_from(failed).unwrap_or(-1)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn time_stands_still_on_a_thread_that_simulates_and_goes_on_elsewhere() {
        let simulated = std::thread::spawn(|| {
            set(0);
            let start = Instant::now();
            set(1_500);
            (start.elapsed(), start.elapsed())
        });
        let passed = Duration::from_millis(1_500);
        assert_eq!(simulated.join().unwrap(), (passed, passed));
        let start = Instant::now();
        while start.elapsed().is_zero() {}
    }
}
