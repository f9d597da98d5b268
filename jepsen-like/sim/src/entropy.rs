//! The randomness that libraries take without asking: hash maps' keys, and the seeds that tokio draws
//! for the order in which it wakes and selects.
//!
//! The standard library takes it from the C function `getrandom`, weakly linked so that it can be
//! replaced. This one is found first: on a thread that runs a simulation it follows the seed, on all
//! others it asks the kernel. Cryptography does not come through here.

#![expect(unsafe_code, reason = "a C function's place is taken, which no safe code can")]

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::io::Read;

use steeple_spiffe_core::random::{Random, SeededRandom};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What this thread draws follows from `seed` from now on. Call it first thing on a fresh thread: the
/// standard library draws once a thread.
pub(crate) fn seed_thread(seed: u64) {
    SEED.set(Some(seed));
}

/// Fills a buffer; -1 if the kernel has nothing.
///
/// # Safety
///
/// As the C library's: `buffer` points to `length` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    // SAFETY: the caller's promise. The bytes are only written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    let filled = match SEED.try_with(Cell::get) {
        Ok(Some(seed)) => {
            let random = SeededRandom::new(seed);
            random.fill(bytes);
            SEED.set(Some(random.u64()));
            true
        }
        Ok(None) | Err(_) => {
            std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).is_ok()
        }
    };
    if filled { length.cast_signed() } else { -1 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn order(seed: Option<u64>) -> Vec<u32> {
        let run = move || {
            if let Some(seed) = seed {
                seed_thread(seed);
            }
            (0..100).collect::<HashSet<u32>>().into_iter().collect()
        };
        std::thread::spawn(run).join().unwrap()
    }

    #[test]
    fn a_seeded_thread_has_its_hash_maps_in_one_order() {
        assert_eq!(order(Some(1)), order(Some(1)));
        assert_ne!(order(Some(1)), order(Some(2)));
        assert_ne!(order(None), order(None));
    }
}
