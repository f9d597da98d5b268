//! Feature levels: what a cluster may put into its log.
//!
//! A level names a set of commands and rules of apply. A cluster is at one level, a row of its state;
//! a build supports all levels up to its own. So a member of an older build never meets a command that
//! it cannot apply, and a newer build can be taken back until the level is raised.

/// The highest level of this build, at which new clusters start.
///
/// | level | adds |
/// |---|---|
/// | 1 | the first build |
/// | 2 | the rolling state hash |
pub const FEATURE_LEVEL_MAX: u32 = 2;
