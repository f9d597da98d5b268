//! `wit mint`: makes a key here and has a token made that confirms it.
//!
//! Owns the request and the outputs, a JSON Web Key among them. The key never leaves this process but
//! for the output. SPIRE has the command only where `SPIRE_SERVER_FFLAGS` names `wit-svid`.

use std::path::Path;

use serde_json::json;
use steeple_api::pb::server::svid::v1::MintWitsvidRequest;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_api::pb::types::Witsvid;
use steeple_spiffe_core::{KeyType, LocalSigner, Secret, Signer as _, private_jwk};

use super::lifetime::{tell_if_capped, ttl_seconds};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::{Error, causes};
use crate::files::{PRIVATE, write_file};
use crate::flags::{FlagSet, GoDuration};
use crate::ids::parse_id;
use crate::io::Io;
use crate::output::{Format, OutputFlag};

/// Mints a WIT-SVID.
#[derive(Debug)]
pub(crate) struct Wit {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
    key_type: String,
    signing_algorithm: String,
    ttl: GoDuration,
    write: String,
}

impl Default for Wit {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            spiffe_id: String::new(),
            key_type: "ec-p256".to_owned(),
            signing_algorithm: "ES256".to_owned(),
            ttl: GoDuration::default(),
            write: String::new(),
        }
    }
}

/// What was minted.
struct Minted {
    svid: Witsvid,
    /// The private key as a JSON Web Key.
    key: Secret,
}

impl Command for Wit {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("spiffeID", &mut self.spiffe_id, "SPIFFE ID of the WIT-SVID");
        flags.flag("keyType", &mut self.key_type, "Key type of the WIT-SVID");
        flags.flag(
            "signingAlgorithm",
            &mut self.signing_algorithm,
            "Signing algorithm for the workload signing key",
        );
        flags.flag("ttl", &mut self.ttl, "TTL of the WIT-SVID");
        flags.flag("write", &mut self.write, "Directory to write output to instead of stdout");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let minted = self.mint(io).await?;
            if !self.write.is_empty() {
                return minted.write_to(Path::new(&self.write), io);
            }
            match self.output.format() {
                Format::Pretty => minted.print(io),
                Format::Json => minted.print_json(io),
            }
        })
    }
}

impl Wit {
    async fn mint(&self, io: &mut Io<'_>) -> Result<Minted, Error> {
        if self.spiffe_id.is_empty() {
            return Err(Error::invalid("spiffeID must be specified"));
        }
        let id = Some(parse_id(&self.spiffe_id)?);
        let ttl = ttl_seconds(self.ttl)?;
        let key_type = key_type(&self.key_type, &self.signing_algorithm)?;
        let ungenerated = |error: &dyn std::error::Error| {
            let why = causes(error);
            Error::invalid(format!("could not generate public/private key pair: {why}"))
        };
        let (signer, pkcs8) =
            LocalSigner::generate(key_type).map_err(|error| ungenerated(&error))?;
        let key = private_jwk(&pkcs8).map_err(|error| ungenerated(&error))?;

        let doing = "unable to mint SVID";
        let mut client = SvidClient::new(self.socket.connect_for(io, doing).await?);
        let asked_at = io.clock.now();
        let request = write_request(MintWitsvidRequest {
            id,
            public_key: signer.public_key_spki().to_vec(),
            ttl,
            signing_algorithm: self.signing_algorithm.clone(),
        })?;
        let reply = client.mint_witsvid(request).await;
        let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
        let svid = response.svid.unwrap_or_default();
        if svid.token.is_empty() {
            return Err(Error::invalid("server response missing token"));
        }
        tell_if_capped("WIT-SVID", asked_at, self.ttl, svid.expires_at, io)?;
        Ok(Minted { svid, key })
    }
}

impl Minted {
    fn print(&self, io: &mut Io<'_>) -> Result<(), Error> {
        writeln!(io.stdout, "{}", self.svid.token)?;
        io.stdout.write_all(self.key.expose())?;
        writeln!(io.stdout)?;
        Ok(())
    }

    fn print_json(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let Witsvid { token, id, expires_at, issued_at, hint: _ } = &self.svid;
        let id = id.clone().unwrap_or_default();
        let key = String::from_utf8_lossy(self.key.expose());
        // A structure of Go, not a message: its fields in their order, and numbers as numbers.
        writeln!(
            io.stdout,
            "{{\"private_key\":{},\"svid\":{{\"token\":{},\"id\":{{\"trust_domain\":{},\"path\":{}}},\
             \"expires_at\":{expires_at},\"issued_at\":{issued_at}}}}}",
            json!(key),
            json!(token),
            json!(id.trust_domain),
            json!(id.path),
        )?;
        Ok(())
    }

    fn write_to(&self, folder: &Path, io: &mut Io<'_>) -> Result<(), Error> {
        for (file, bytes, what, doing) in [
            ("token", self.svid.token.as_bytes(), "WIT-SVID", "unable to write token"),
            ("key", self.key.expose(), "Private key", "unable to write key"),
        ] {
            let path = folder.join(file);
            write_file(&path, bytes, PRIVATE).map_err(|error| error.during(doing))?;
            writeln!(io.stdout, "{what} written to {}", path.display())?;
        }
        Ok(())
    }
}

/// The type of key that signs with an algorithm.
fn key_type(name: &str, algorithm: &str) -> Result<KeyType, Error> {
    match (algorithm, name) {
        ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", "rsa-2048") => {
            Ok(KeyType::Rsa2048)
        }
        ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", "rsa-4096") => {
            Ok(KeyType::Rsa4096)
        }
        ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", _) => Err(Error::invalid(
            format!("unsupported key type '{name}' for signing algorithm '{algorithm}'"),
        )),
        ("ES256", "ec-p256") => Ok(KeyType::EcP256),
        ("ES384", "ec-p384") => Ok(KeyType::EcP384),
        ("ES256" | "ES384", _) => Err(Error::invalid(format!(
            "unsupported key type '{name}' for '{algorithm}' signing algorithm"
        ))),
        _ => Err(Error::invalid(format!("unsupported signing algorithm: {algorithm}"))),
    }
}
