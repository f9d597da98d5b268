//! Programs of the system that need root: found, run, and their complaints kept.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Whether this process may make namespaces and file systems.
pub(crate) fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

/// Where a program of administrators lies: not on every user's PATH.
pub(crate) fn find(program: &str) -> String {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let candidates = folders.map(|folder| format!("{folder}/{program}"));
    let found = candidates.into_iter().find(|path| Path::new(path).is_file());
    found.unwrap_or_else(|| program.to_owned())
}

/// Runs a program and fails with what it complains of.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(find(program)).args(arguments).output();
    let output = output.with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
