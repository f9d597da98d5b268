//! Generates the Rust code of `proto/`: messages, clients, servers and the descriptor set.
//!
//! Uses a protobuf compiler written in Rust, so that nobody needs `protoc`. Nothing generated is
//! committed; `src/pb.rs` says which generated file becomes which module.

use std::error::Error;
use std::path::Path;

use tonic_prost_build::FileDescriptorSet;

/// The files that nothing else imports; the rest follows by imports.
const FILES: [&str; 13] = [
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/trustdomain/v1/trustdomain.proto",
    "spire/api/types/federationrelationship.proto",
    "spire/api/types/logger.proto",
    "spiffe/workload/workload.proto",
    "grpc/health/v1/health.proto",
    "steeple/agent/v1/updates.proto",
    "steeple/cluster/v1/cluster.proto",
    "steeple/member/v1/questions.proto",
];

/// Messages that hold a private key or a bearer token: `src/redact.rs` prints them without it.
const SECRET_MESSAGES: [&str; 8] = [
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    write_descriptor_set(&descriptors)?;
    generate(descriptors)?;
    Ok(())
}

/// Writes what `FILE_DESCRIPTOR_SET` holds: the descriptors without comments and positions.
fn write_descriptor_set(descriptors: &FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let path = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(path, prost::Message::encode_to_vec(&bare))?;
    Ok(())
}

fn generate(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        // Clients are built from a channel that the caller has dialled; a generated `connect`
        // would know nothing of our TLS.
        .build_transport(false)
        // Maps in key order: the same message always has the same bytes.
        .btree_map(".")
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(descriptors)?;
    Ok(())
}
