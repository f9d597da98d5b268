//! The `-ttl` flag of the mints: rounding, range, and the note when the server granted less.
//!
//! Owns the seconds on the wire; what is granted is the server's affair.

use steeple_spiffe_core::Timestamp;

use crate::error::Error;
use crate::flags::GoDuration;
use crate::ids::to_i32;
use crate::io::Io;
use crate::output::{go_quote, rfc3339_utc};

/// Whole seconds for the request, rounded up.
pub(crate) fn ttl_seconds(ttl: GoDuration) -> Result<i32, Error> {
    to_i32(ttl.ceil_seconds(), "TTL")
}

/// Tells if the SVID ends before the time that was asked for. `asked_at` was read before the call,
/// so a server with a clock in step cannot seem to have granted less than it did.
pub(crate) fn tell_if_capped(
    kind: &str,
    asked_at: Timestamp,
    ttl: GoDuration,
    expires_at: i64,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    if expires_at < asked_at.unix_s().saturating_add(ttl.ceil_seconds()) {
        let end = go_quote(&rfc3339_utc(expires_at));
        writeln!(
            io.stderr,
            "{kind} lifetime was capped shorter than specified ttl; expires {end}"
        )?;
    }
    Ok(())
}
