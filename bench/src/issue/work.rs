//! The pieces of work that are compared.

/// What is asked for in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// BatchNewX509SVID of [`BATCH`] entries.
    Batch,
    /// BatchNewX509SVID of one entry.
    Single,
    /// NewJWTSVID for an audience that no other call names.
    Jwt,
}

/// SVIDs of a full batch, as agents send them.
pub(crate) const BATCH: usize = 100;

impl Work {
    /// SVIDs in one call.
    pub(crate) fn items(self) -> usize {
        match self {
            Self::Batch => BATCH,
            Self::Single | Self::Jwt => 1,
        }
    }

    /// Connections, each with one call under way.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::Batch => 8,
            Self::Single | Self::Jwt => 64,
        }
    }

    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batch => "X509-SVIDs, 8 connections, batches of 100",
            Self::Single => "X509-SVIDs, 64 connections, one a call",
            Self::Jwt => "JWT-SVIDs, 64 connections, one a call",
        }
    }
}
