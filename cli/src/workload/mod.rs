//! `spire-agent api …`: the Workload API as a workload sees it.
//!
//! `svid` reads and checks the X.509 reply, `print` shows it.

mod call;
mod fetch_jwt;
mod fetch_x509;
mod print;
mod svid;
mod validate_jwt;
mod watch;

pub(crate) use fetch_jwt::FetchJwt;
pub(crate) use fetch_x509::FetchX509;
pub(crate) use validate_jwt::ValidateJwt;
pub(crate) use watch::Watch;
