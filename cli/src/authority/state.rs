//! The lines of an authority.

use std::io::Write;

use steeple_api::pb::server::localauthority::v1::AuthorityState;

use crate::error::Error;
use crate::output::go_time_utc;

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// X509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl Kind {
    /// As texts spell it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// Writes what people are told of an authority.
pub(super) fn write_state(
    out: &mut (dyn Write + Send),
    kind: Kind,
    state: &AuthorityState,
) -> Result<(), Error> {
    writeln!(out, "  Authority ID: {}", state.authority_id)?;
    writeln!(out, "  Expires at: {}", go_time_utc(state.expires_at))?;
    match (kind, state.upstream_authority_subject_key_id.as_str()) {
        (Kind::Jwt, _) => {}
        (Kind::X509, "") => writeln!(out, "  Upstream authority ID: No upstream authority")?,
        (Kind::X509, id) => writeln!(out, "  Upstream authority Subject Key ID: {id}")?,
    }
    Ok(())
}
