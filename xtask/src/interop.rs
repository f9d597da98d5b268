//! Lanes with clients that no one here wrote, each against a demo cluster that testkit starts.
//!
//! Owns how each client's toolchain is found and called. What a machine lacks is printed and counted
//! as skipped.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::build::{self, cache, check, find_program, root, step};
use crate::lanes::program;
use crate::setup;
use crate::tally::{self, Tally};

/// `cargo xtask interop [lane ...]`.
pub(crate) fn run(wanted: &[String]) -> Result<ExitCode> {
    tally::reset()?;
    setup::ensure()?;
    build::products()?;
    lanes(wanted)?;
    let sum = tally::total()?;
    println!("steeple: {} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    Ok(if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the wanted lanes (all when none is named) and adds their counts.
pub(crate) fn lanes(wanted: &[String]) -> Result<()> {
    let all: [(&str, Prepare); 5] = [
        ("rust", rust_client),
        ("go", go_client),
        ("python", python_client),
        ("stock", stock),
        ("ghostunnel", ghostunnel),
    ];
    for (name, prepare) in all {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        step(&format!("interop: {name}"));
        let lane = format!("interop-{name}");
        match prepare() {
            Ok(Prepared::Run(arguments)) => {
                let status =
                    program("interop").args(&arguments).status().context("start the test kit")?;
                tally::add(&lane, Tally::one(status.success()))?;
            }
            Ok(Prepared::Skip(reason)) => tally::skip(&lane, &reason)?,
            Err(error) => {
                println!("{lane}: {error:#}");
                tally::add(&lane, Tally::one(false))?;
            }
        }
    }
    Ok(())
}

/// Sees whether a lane has what it needs, and builds it.
type Prepare = fn() -> Result<Prepared>;

/// What a lane needs is there, or is not.
enum Prepared {
    /// Arguments for `steeple-testkit interop`.
    Run(Vec<String>),
    /// Why the lane cannot run here.
    Skip(String),
}

fn rust_client() -> Result<Prepared> {
    Ok(Prepared::Run(vec!["rust".to_owned()]))
}

fn go_client() -> Result<Prepared> {
    if find_program("go").is_none() {
        return Ok(Prepared::Skip("no go on PATH".to_owned()));
    }
    let mut arguments = vec!["go".to_owned(), go_spiffe("go-spiffe-client", ".")?];
    arguments.push(go_spiffe_pair()?);
    Ok(Prepared::Run(arguments))
}

/// The two ends of walks through two trust domains.
pub(crate) fn go_spiffe_pair() -> Result<String> {
    go_spiffe("go-spiffe-pair", "./pair")
}

/// Builds a program on go-spiffe, where there is Go; its path.
fn go_spiffe(name: &str, package: &str) -> Result<String> {
    let binary: PathBuf = cache().join("interop").join(name);
    let mut command = Command::new("go");
    command.current_dir(root().join("interop/go-spiffe"));
    command.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(package);
    check(&mut command)?;
    Ok(binary.display().to_string())
}

fn python_client() -> Result<Prepared> {
    if find_program("python3").is_none() {
        return Ok(Prepared::Skip("no python3 on PATH".to_owned()));
    }
    let venv = cache().join("interop/py-spiffe");
    let python = venv.join("bin/python");
    let folder = root().join("interop/py-spiffe");
    if !venv.join("ready").is_file() {
        check(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        check(pip.arg(folder.join("requirements.txt")))?;
        std::fs::write(venv.join("ready"), "").context("mark the environment as ready")?;
    }
    let script = folder.join("client.py").display().to_string();
    Ok(Prepared::Run(vec!["python".to_owned(), python.display().to_string(), script]))
}

fn stock() -> Result<Prepared> {
    Ok(match stock_folder(&["spire-server", "spire-agent"]) {
        Ok(folder) => Prepared::Run(vec!["stock".to_owned(), folder.display().to_string()]),
        Err(reason) => Prepared::Skip(reason),
    })
}

/// The 2019 walk with ghostunnel itself, whose releases no package index has either.
fn ghostunnel() -> Result<Prepared> {
    const NAME: &str = "ghostunnel";
    Ok(match stock_folder(&[NAME]) {
        Ok(folder) => {
            let program = folder.join(NAME).display().to_string();
            Prepared::Run(vec![NAME.to_owned(), program])
        }
        Err(reason) => Prepared::Skip(reason),
    })
}

/// The folder with programs of others, if all of these are there; else why not.
fn stock_folder(names: &[&str]) -> std::result::Result<PathBuf, String> {
    let Some(folder) = std::env::var_os("STEEPLE_STOCK_BIN").map(PathBuf::from) else {
        let names = names.join(" and ");
        return Err(format!("STEEPLE_STOCK_BIN is not set (a folder with stock {names})"));
    };
    let missing = names.iter().find(|name| !folder.join(name).is_file());
    missing.map_or(Ok(folder.clone()), |name| Err(format!("STEEPLE_STOCK_BIN has no {name}")))
}
