//! How cargo is called: one profile, one target folder outside the clone, one compiler cache.
//!
//! Owns the environment of every child build, so that demo, test, interop and CI share what was
//! compiled. Nothing relies on the caches being warm.

use std::fs;
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

/// Takes the shared target folder for a checkout: where another one used it last, what was compiled of
/// our own crates is forgotten. Cargo names a crate by its place in the workspace, not in the file
/// system, and would take the other's product for ours wherever our files are older than it.
pub(crate) fn take_target(target: &Path, root: &Path) -> Result<()> {
    let owner = target.join("steeple-checkout");
    let own = root.to_string_lossy();
    if fs::read_to_string(&owner).is_ok_and(|last| last == own) {
        return Ok(());
    }
    fs::create_dir_all(target).context("create the target folder")?;
    for profile in fs::read_dir(target).context("read the target folder")? {
        let Ok(crates) = fs::read_dir(profile?.path().join(".fingerprint")) else { continue };
        for fingerprint in crates {
            let fingerprint = fingerprint?;
            let name = fingerprint.file_name();
            if OWN_CRATES.iter().any(|own| name.to_string_lossy().starts_with(own)) {
                fs::remove_dir_all(fingerprint.path())
                    .context("forget another checkout's build")?;
            }
        }
    }
    fs::write(&owner, own.as_bytes()).context("say whose the target folder is")
}

/// How the names of the workspace's crates begin.
const OWN_CRATES: [&str; 2] = ["steeple-", "xtask-"];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_checkout_compiled_of_our_crates_is_forgotten_once() {
        let target = std::env::temp_dir().join(format!("steeple-target-{}", std::process::id()));
        let prints = target.join("ci").join(".fingerprint");
        let crates = ["steeple-api-0a1b", "xtask-2c3d", "tokio-4e5f"].map(|name| prints.join(name));
        let kept_by = |root: &str| {
            crates.iter().for_each(|print| fs::create_dir_all(print).unwrap());
            take_target(&target, Path::new(root)).unwrap();
            crates.each_ref().map(|print| print.exists())
        };
        assert_eq!(kept_by("/one"), [false, false, true], "nobody knows whose it was");
        assert_eq!(kept_by("/one"), [true, true, true]);
        assert_eq!(kept_by("/two"), [false, false, true]);
        fs::remove_dir_all(&target).unwrap();
    }
}
