//! The two command lines side by side on one socket.
//!
//! Owns which commands must answer alike: standard output, the error text and the exit code. What
//! may differ is in docs/reference/differences.md; of it, hints are cut off here and entries are
//! compared as JSON.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use steeple_testkit::process::binary;

/// Command lines of the server's tool. None changes what it is asked about.
const LINES: &[&str] = &[
    "healthcheck",
    "healthcheck -verbose",
    "bundle show",
    "bundle show -format spiffe",
    "bundle show -format other",
    "bundle show -output json",
    "bundle show -output other",
    "bundle count",
    "bundle list",
    "entry count",
    "entry count -output json",
    "entry count -parentID bad",
    "entry show -output json",
    "entry show -selector unix:uid:0 -output json",
    "entry show -selector none:x -matchSelectorsOn exact",
    "entry show -selector none:x -matchSelectorsOn other",
    "entry show -federatesWith BAD!",
    "entry show -entryID none",
    "entry show -entryID none -spiffeID spiffe://example.org/x",
    "entry create",
    "entry create -spiffeID spiffe://example.org/x -selector a:b",
    "entry create -parentID spiffe://example.org/p -spiffeID bad -selector a:b",
    "entry create -parentID spiffe://example.org/p -spiffeID spiffe://other.org/x -selector a:b -output json",
    "entry create -parentID spiffe://example.org/p -spiffeID spiffe://example.org/x -selector a:b -dns a..b -output json",
    "entry create -data /nonexistent/entries.json",
    "entry update",
    "entry update -entryID none -parentID spiffe://example.org/p -spiffeID spiffe://example.org/x -selector a:b -output json",
    "entry delete",
    "entry delete -entryID none",
    "entry delete -entryID none -output json",
    "federation list",
    "federation list -output json",
    "federation show",
    "federation show -trustDomain none.test",
    "federation show -trustDomain BAD!",
    "federation create",
    "federation create -trustDomain none.test -bundleEndpointURL https://none.test -bundleEndpointProfile other",
    "federation create -trustDomain none.test -bundleEndpointURL http://none.test -bundleEndpointProfile https_web",
    "federation create -trustDomain none.test -bundleEndpointURL https://none.test -bundleEndpointProfile https_spiffe",
    "federation create -trustDomain none.test -bundleEndpointURL https://none.test -bundleEndpointProfile https_spiffe -endpointSpiffeID bad",
    "federation create -trustDomain example.org -bundleEndpointURL https://example.org -bundleEndpointProfile https_web",
    "federation create -trustDomain example.org -bundleEndpointURL https://example.org -bundleEndpointProfile https_web -output json",
    "federation create -data /nonexistent/relationships.json",
    "federation create -data x -trustDomain none.test",
    "federation update",
    "federation update -trustDomain none.test -bundleEndpointURL https://none.test -bundleEndpointProfile https_web",
    "federation delete",
    "federation delete -id none.test",
    "federation delete -id none.test -output json",
    "federation refresh",
    "federation refresh -id none.test",
    "localauthority x509 show",
    "localauthority x509 show -output json",
    "localauthority x509 activate",
    "localauthority x509 activate -authorityID none",
    "localauthority x509 taint -authorityID none",
    "localauthority x509 revoke -authorityID none -output json",
    "localauthority jwt show",
    "localauthority jwt show -output json",
    "localauthority jwt activate -authorityID none",
    "localauthority jwt taint",
    "localauthority jwt taint -authorityID none -output json",
    "localauthority jwt revoke -authorityID none",
    "upstreamauthority taint",
    "upstreamauthority taint -subjectKeyID none",
    "upstreamauthority revoke -subjectKeyID none -output json",
    "agent list",
    "agent list -output json",
    "agent list -attestationType none",
    "agent list -selector bad",
    "agent list -selector a:b -matchSelectorsOn other",
    "agent count",
    "agent count -output json",
    "agent show",
    "agent show -spiffeID bad",
    "agent show -spiffeID spiffe://example.org/spire/agent/none",
    "agent ban -spiffeID spiffe://example.org/spire/agent/none",
    "agent evict -spiffeID spiffe://example.org/spire/agent/none",
    "token generate -ttl 0",
    "token generate -ttl other",
    "token generate -spiffeID spiffe://other.org/x",
    "x509 mint",
    "x509 mint -spiffeID spiffe://other.org/x",
    "x509 mint -spiffeID spiffe://example.org/x -dns *.a.b -dns c.a.b",
    "jwt mint -spiffeID spiffe://example.org/x",
    "jwt mint -spiffeID spiffe://other.org/x -audience a",
];

/// Runs every line with both tools and compares.
pub(super) fn compare(binaries: &Path, socket: &Path) -> Result<()> {
    let (stock, ours) = (binaries.join("spire-server"), binary("spire-server")?);
    for line in LINES {
        let (stock, ours) = (answer(&stock, line, socket)?, answer(&ours, line, socket)?);
        ensure!(stock == ours, "{line} differs\nstock:\n{stock}\nours:\n{ours}");
    }
    Ok(())
}

/// The exit code and what was said, as one text.
fn answer(tool: &Path, line: &str, socket: &Path) -> Result<String> {
    let mut command = Command::new(tool);
    command.args(line.split(' ')).arg("-socketPath").arg(socket);
    let Output { status, stdout, stderr } = command.output().context("run the command line")?;
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    // The words of the usage text are each tool's own.
    let end = stderr.find("Usage of ").unwrap_or(stderr.len());
    let errors: Vec<&str> = stderr
        .get(..end)
        .unwrap_or_default()
        .lines()
        .filter(|text| !text.starts_with("Hint: "))
        .collect();
    Ok(format!("{status}\n{}\n{}", String::from_utf8_lossy(&stdout), errors.join("\n")))
}
