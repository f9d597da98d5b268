//! The programs that the benchmark measures the products beside.
//!
//! Owns how each is had: etcd is built by Go from its module, once, into the cache folder, our own
//! program in Go each time it has changed; PostgreSQL is Debian's, OpenBao one of the tools that
//! setup installs. What cannot be had is said, and the benchmark prints it as absent.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{cache, check, find_program, root, step};
use crate::setup;

/// Of `interop/etcd/go.mod`: another version is another program.
const ETCD: &str = "etcd-3.6.15";

fn etcd_program() -> PathBuf {
    cache().join("bench").join(ETCD)
}

/// Our program that does SPIRE's cryptography in Go, built where there is Go; and OpenBao's.
pub(crate) fn of_issuance() -> [(&'static str, Option<PathBuf>); 2] {
    let floor = go_floor();
    if let Err(error) = &floor {
        println!("no floor in Go: {error:#}");
    }
    [("STEEPLE_GO_FLOOR", floor.ok()), ("STEEPLE_BAO", find_program("bao"))]
}

fn go_floor() -> Result<PathBuf> {
    if find_program("go").is_none() {
        bail!("no go on PATH");
    }
    let program = cache().join("bench").join("go-floor");
    let mut go = Command::new("go");
    go.current_dir(root().join("interop/go-floor")).args(["build", "-mod=readonly", "-o"]);
    check(go.arg(&program).arg("."))?;
    Ok(program)
}

/// etcd, if it was built before.
pub(crate) fn etcd_if_built() -> Option<PathBuf> {
    Some(etcd_program()).filter(|program| program.is_file())
}

/// Sees that the peers are there as far as they can be had, and returns etcd's program.
pub(crate) fn ensure() -> Option<PathBuf> {
    if let Err(error) = postgres() {
        println!("no PostgreSQL: {error:#}");
    }
    let built = etcd();
    if let Err(error) = &built {
        println!("no etcd: {error:#}");
    }
    built.ok()
}

fn etcd() -> Result<PathBuf> {
    if let Some(program) = etcd_if_built() {
        return Ok(program);
    }
    if find_program("go").is_none() {
        bail!("no go on PATH");
    }
    step("building etcd (a minute of CPU, once)");
    let program = etcd_program();
    let mut go = Command::new("go");
    go.current_dir(root().join("interop/etcd")).args(["build", "-mod=readonly", "-o"]);
    check(go.arg(&program).arg("go.etcd.io/etcd/server/v3"))?;
    Ok(program)
}

fn postgres() -> Result<()> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let has = |bin: &Path| bin.join("pgbench").is_file() && bin.join("initdb").is_file();
    if versions.map(|version| version.path().join("bin")).any(|bin| has(&bin)) {
        return Ok(());
    }
    setup::install(&["postgresql"])
}
