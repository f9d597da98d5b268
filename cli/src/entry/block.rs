//! What an entry looks like in human output.
//!
//! Owns the layout. It is that of SPIRE up to 1.14, with labels padded to 17 columns: scripts cut
//! the id out of `Entry ID         :` by columns, and 1.15's wider layout broke them.

use std::io::{Result, Write};

use steeple_api::pb;

use crate::ids::shown;
use crate::output::go_time_utc;

/// Writes one entry and the blank line after it.
pub(crate) fn write_entry(out: &mut (dyn Write + Send), entry: &pb::types::Entry) -> Result<()> {
    let id = if entry.id.is_empty() { "(none)" } else { &entry.id };
    line(out, "Entry ID", id)?;
    line(out, "SPIFFE ID", &shown(entry.spiffe_id.as_ref()))?;
    line(out, "Parent ID", &shown(entry.parent_id.as_ref()))?;
    line(out, "Revision", &entry.revision_number.to_string())?;
    flag(out, "Downstream", entry.downstream)?;
    line(out, "X509-SVID TTL", &ttl(entry.x509_svid_ttl))?;
    line(out, "JWT-SVID TTL", &ttl(entry.jwt_svid_ttl))?;
    if entry.expires_at != 0 {
        line(out, "Expiration time", &go_time_utc(entry.expires_at))?;
    }
    for selector in &entry.selectors {
        line(out, "Selector", &format!("{}:{}", selector.r#type, selector.value))?;
    }
    for trust_domain in &entry.federates_with {
        line(out, "FederatesWith", trust_domain)?;
    }
    for name in &entry.dns_names {
        line(out, "DNS name", name)?;
    }
    flag(out, "Admin", entry.admin)?;
    flag(out, "StoreSvid", entry.store_svid)?;
    if !entry.hint.is_empty() {
        line(out, "Hint", &entry.hint)?;
    }
    if let Some(additional) = &entry.additional_attributes {
        flag(out, "DisableX509SvidPrefetch", additional.disable_x509_svid_prefetch)?;
        flag(out, "JwtSvidIncludeJti", additional.jwt_svid_include_jti)?;
    }
    writeln!(out)
}

/// Labels longer than the column overflow it.
fn line(out: &mut (dyn Write + Send), label: &str, value: &str) -> Result<()> {
    writeln!(out, "{label:<16} : {value}")
}

fn flag(out: &mut (dyn Write + Send), label: &str, value: bool) -> Result<()> {
    if value { line(out, label, "true") } else { Ok(()) }
}

fn ttl(seconds: i32) -> String {
    if seconds == 0 { "default".to_owned() } else { seconds.to_string() }
}
