//! How cargo is called: one profile, one target folder outside the clone, one compiler cache.
//!
//! Owns the environment of every child build, so that demo, test, interop and CI share what was
//! compiled. Nothing relies on the caches being warm.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The profile of demo, test, interop and CI.
pub(crate) const PROFILE: &str = "ci";

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The folder for everything that is kept between runs and may vanish at any time.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("steeple")
}

/// The shared target folder; `CARGO_TARGET_DIR` wins.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache().join("target"), PathBuf::from)
}

/// Where the binaries of [`PROFILE`] are.
pub(crate) fn binaries() -> PathBuf {
    target().join(PROFILE)
}

/// Tools that `setup` installs for itself (cargo-nextest, cargo-deny).
pub(crate) fn tools() -> PathBuf {
    cache().join("tools")
}

/// `cargo` with the shared folders and, where ccache is installed, cached C and C++ compilers.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    // Set by the running `cargo xtask` for its own package; children would take them for theirs.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(tools().join("bin")).chain(std::env::split_paths(&path));
    if let Ok(joined) = std::env::join_paths(dirs) {
        command.env("PATH", joined);
    }
    if find_program("ccache").is_some() {
        command.env(
            "CCACHE_DIR",
            std::env::var_os("CCACHE_DIR").unwrap_or_else(|| cache().join("ccache").into()),
        );
        command.env("CC", "ccache gcc").env("CXX", "ccache g++");
    }
    command
}

/// Builds the workspace with its tests: one set of features, so that no lane compiles a dependency
/// again.
pub(crate) fn products() -> Result<()> {
    step(
        "building the workspace (the first time 20 to 30 minutes on two cores, half of it RocksDB; later runs seconds)",
    );
    let mut command = cargo();
    command.args(["build", "--locked", "--profile", PROFILE, "--workspace", "--all-targets"]);
    check(&mut command)?;
    println!("--- built in {} s", seconds_of_step());
    Ok(())
}

/// Runs a command and fails with its line if it does.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let status = command.status().with_context(|| format!("start {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// A command as a person would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// When the step that is running began.
static STEP_BEGAN: Mutex<Option<Instant>> = Mutex::new(None);

/// Says what comes next, and lets its clock start.
pub(crate) fn step(text: &str) {
    *STEP_BEGAN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    println!("==> {text}");
}

/// How long the step that is running has taken, in whole seconds.
pub(crate) fn seconds_of_step() -> u64 {
    let began = *STEP_BEGAN.lock().unwrap_or_else(PoisonError::into_inner);
    began.map_or(0, |began| began.elapsed().as_secs())
}

/// Finds a program on PATH or among our own tools.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = tools().join("bin");
    std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}
