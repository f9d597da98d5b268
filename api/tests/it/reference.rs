//! The published `.proto` files: they lie in the packages of three crates used in tests only.
//!
//! Finds the packages through `cargo metadata`, so that no path of a machine is written down, and
//! compiles their files with the same compiler as ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use prost_types::FileDescriptorSet;

use crate::SERVED;
use crate::surface::Surface;

/// A published set of files: the crate, its folder of `.proto` files, and those to compile.
struct Published {
    package: &'static str,
    folder: &'static str,
    files: &'static [&'static str],
}

const PUBLISHED: [Published; 3] = [
    Published {
        package: "spire-api",
        folder: "spire-api-sdk/proto",
        files: &[
            "spire/api/server/agent/v1/agent.proto",
            "spire/api/server/bundle/v1/bundle.proto",
            "spire/api/server/entry/v1/entry.proto",
            "spire/api/server/localauthority/v1/localauthority.proto",
            "spire/api/server/svid/v1/svid.proto",
            "spire/api/server/trustdomain/v1/trustdomain.proto",
            "spire/api/types/federationrelationship.proto",
            "spire/api/types/logger.proto",
        ],
    },
    Published { package: "spiffe", folder: "src/proto", files: &["workload.proto"] },
    Published { package: "tonic-health", folder: "proto", files: &["health.proto"] },
];

/// What the published files say about the packages we serve.
pub(crate) fn surface() -> Surface {
    static SURFACE: OnceLock<Surface> = OnceLock::new();
    SURFACE.get_or_init(read_surface).clone()
}

fn read_surface() -> Surface {
    let metadata = cargo_metadata();
    let mut all = FileDescriptorSet::default();
    for published in &PUBLISHED {
        let folder = package_folder(&metadata, published.package).join(published.folder);
        let set = protox::compile(published.files, [&folder])
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        all.file.extend(set.file);
    }
    Surface::of(&all, &SERVED)
}

/// What cargo knows about our dependencies on this platform; those of others may not be on disk.
fn cargo_metadata() -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let platform = stdout_of(Command::new("rustc").args(["--print", "host-tuple"]));
    let metadata = stdout_of(
        Command::new(cargo)
            .args(["metadata", "--format-version=1", "--offline"])
            .args(["--filter-platform", platform.trim()])
            .arg("--manifest-path")
            .arg(manifest),
    );
    serde_json::from_str(&metadata).unwrap()
}

fn stdout_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn package_folder(metadata: &serde_json::Value, name: &str) -> PathBuf {
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.unwrap_or_else(|| panic!("{name} is no dependency"));
    Path::new(manifest).parent().unwrap().to_path_buf()
}
