//! How X509-SVIDs look in human output: SPIRE's layout with tabs.
//!
//! Owns labels, tabs and numbering. Nothing is checked here.

use std::io::{Result, Write};

use super::svid::{Certificate, Reply, Svid};
use crate::flags::GoDuration;
use crate::output::go_time_utc;

/// What differs between `api fetch` and `api watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Hints are shown; federated bundles are labelled with the reply's keys.
    Fetch,
    /// No hints; federated bundles are labelled with bare trust domain names.
    Watch,
}

/// Writes a whole reply that took so long.
pub(crate) fn write_reply(
    out: &mut (dyn Write + Send),
    reply: &Reply,
    after: GoDuration,
    style: Style,
) -> Result<()> {
    let count = reply.svids.len();
    let noun = if count == 1 { "svid" } else { "svids" };
    writeln!(out, "Received {count} {noun} after {after}")?;
    for svid in &reply.svids {
        writeln!(out)?;
        write_svid(out, svid, style)?;
        for (trust_domain, roots) in &reply.federated {
            let label = match style {
                Style::Fetch => trust_domain,
                Style::Watch => trust_domain.strip_prefix("spiffe://").unwrap_or(trust_domain),
            };
            for (number, root) in (1..).zip(roots) {
                write_lifetime(out, &format!("[{label}] CA #{number}"), root)?;
            }
        }
    }
    writeln!(out)
}

fn write_svid(out: &mut (dyn Write + Send), svid: &Svid, style: Style) -> Result<()> {
    writeln!(out, "SPIFFE ID:\t\t{}", svid.spiffe_id)?;
    if style == Style::Fetch && !svid.hint.is_empty() {
        writeln!(out, "Hint:\t\t\t{}", svid.hint)?;
    }
    write_lifetime(out, "SVID", &svid.leaf)?;
    for (number, certificate) in (1..).zip(&svid.intermediates) {
        write_lifetime(out, &format!("Intermediate #{number}"), certificate)?;
    }
    for (number, certificate) in (1..).zip(&svid.roots) {
        write_lifetime(out, &format!("CA #{number}"), certificate)?;
    }
    Ok(())
}

fn write_lifetime(
    out: &mut (dyn Write + Send),
    label: &str,
    certificate: &Certificate,
) -> Result<()> {
    writeln!(out, "{label} Valid After:\t{}", go_time_utc(certificate.not_before))?;
    writeln!(out, "{label} Valid Until:\t{}", go_time_utc(certificate.not_after))
}
