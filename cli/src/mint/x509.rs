//! `x509 mint`: makes a key here and has its certificate signed.
//!
//! Owns the request and the three outputs. The key never leaves this process but for the output.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use steeple_api::pb::server::bundle::v1::GetBundleRequest;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::svid::v1::MintX509svidRequest;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe_core::{KeyType, LocalSigner, Secret, SpiffeId, pem};

use super::lifetime::{tell_if_capped, ttl_seconds};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::{Error, causes};
use crate::files::{PRIVATE, PUBLIC, write_file};
use crate::flags::{FlagSet, GoDuration};
use crate::io::Io;
use crate::output::{Format, OutputFlag};

/// Mints an X509-SVID.
#[derive(Debug, Default)]
pub(crate) struct X509 {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
    dns_names: Vec<String>,
    ttl: GoDuration,
    write: String,
}

/// What was minted.
struct Minted {
    chain: Vec<Vec<u8>>,
    key: Secret,
    roots: Vec<Vec<u8>>,
}

impl Command for X509 {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("spiffeID", &mut self.spiffe_id, "SPIFFE ID of the X509-SVID");
        flags.flag(
            "dns",
            &mut self.dns_names,
            "DNS name that will be included in SVID. Can be used more than once.",
        );
        flags.flag("ttl", &mut self.ttl, "TTL of the X509-SVID");
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

impl X509 {
    async fn mint(&self, io: &mut Io<'_>) -> Result<Minted, Error> {
        if self.spiffe_id.is_empty() {
            return Err(Error::invalid("spiffeID must be specified"));
        }
        let id =
            SpiffeId::parse(&self.spiffe_id).map_err(|error| Error::invalid(error.to_string()))?;
        let ttl = ttl_seconds(self.ttl)?;
        let (_, key) = LocalSigner::generate(KeyType::EcP256).map_err(|error| {
            Error::invalid(format!("unable to generate key: {}", causes(&error)))
        })?;
        let csr = request(&id, &self.dns_names, &key).map_err(|error| {
            Error::invalid(format!("unable to generate CSR: {}", causes(&error)))
        })?;

        let channel = self.socket.connect_for(io, "unable to mint SVID").await?;
        let asked_at = io.clock.now();
        let request = write_request(MintX509svidRequest { csr, ttl })?;
        let reply = SvidClient::new(channel.clone()).mint_x509svid(request).await;
        let response = reply.map_err(|status| Error::from(status).during("unable to mint SVID"))?;
        let svid = response.into_inner().svid.unwrap_or_default();
        if svid.cert_chain.is_empty() {
            return Err(Error::invalid("server response missing SVID chain"));
        }
        let bundle = BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await;
        let bundle = bundle.map_err(|status| Error::from(status).during("unable to get bundle"))?;
        let roots = bundle.into_inner().x509_authorities;
        if roots.is_empty() {
            return Err(Error::invalid("server response missing X509 Authorities"));
        }
        tell_if_capped("X509-SVID", asked_at, self.ttl, svid.expires_at, io)?;
        let roots = roots.into_iter().map(|root| root.asn1).collect();
        Ok(Minted { chain: svid.cert_chain, key, roots })
    }
}

impl Minted {
    fn print(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let key = pem::encode_private_key(self.key.expose());
        writeln!(io.stdout, "X509-SVID:\n{}", pem::encode_certificates(&self.chain))?;
        writeln!(io.stdout, "Private key:\n{}", key.as_str())?;
        writeln!(io.stdout, "Root CAs:\n{}", pem::encode_certificates(&self.roots))?;
        Ok(())
    }

    fn print_json(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let encoded = |ders: &[Vec<u8>]| -> Vec<String> {
            ders.iter().map(|der| STANDARD.encode(der)).collect()
        };
        // In SPIRE's order, which is not that of the alphabet.
        writeln!(
            io.stdout,
            "{{\"x509_svid\":{},\"private_key\":{},\"root_cas\":{}}}",
            json!(encoded(&self.chain)),
            json!(STANDARD.encode(self.key.expose())),
            json!(encoded(&self.roots)),
        )?;
        Ok(())
    }

    fn write_to(&self, folder: &Path, io: &mut Io<'_>) -> Result<(), Error> {
        let key = pem::encode_private_key(self.key.expose());
        let chain = pem::encode_certificates(&self.chain);
        let roots = pem::encode_certificates(&self.roots);
        for (file, text, mode, what, doing) in [
            ("svid.pem", chain.as_str(), PUBLIC, "X509-SVID", "unable to write SVID"),
            ("key.pem", key.as_str(), PRIVATE, "Private key", "unable to write key"),
            ("bundle.pem", roots.as_str(), PUBLIC, "Root CAs", "unable to write bundle"),
        ] {
            let path = folder.join(file);
            write_file(&path, text.as_bytes(), mode).map_err(|error| error.during(doing))?;
            writeln!(io.stdout, "{what} written to {}", path.display())?;
        }
        Ok(())
    }
}

/// A request with one URI name, the DNS names and no subject.
fn request(id: &SpiffeId, dns_names: &[String], key: &Secret) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    Ok(params.serialize_request(&key)?.der().to_vec())
}
