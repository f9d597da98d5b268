//! Machines that prove themselves by a certificate (`x509pop`), and the authority of them all.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The authority.
#[derive(Debug)]
pub struct Machines {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Machines {
    /// A new one, that no server knows yet.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().context("generate a key")?;
        let mut params = CertificateParams::new(Vec::<String>::new()).context("an authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).context("sign an authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The servers' plugin that trusts it, for `ClusterSpec::plugin_lines`. Its file lies in the folder.
    pub fn plugin(&self, folder: &Path) -> Result<String> {
        let file = folder.join("machines.pem");
        fs::write(&file, &self.pem).context("write the authority of machines")?;
        Ok(format!(
            "  NodeAttestor \"x509pop\" {{\n    plugin_data {{\n      ca_bundle_path = \"{}\"\n    }}\n  }}\n",
            file.display()
        ))
    }

    /// Gives the agent of a configured folder the certificate of a machine with this name instead of
    /// a join token.
    pub fn equip(&self, folder: &Path, name: &str) -> Result<()> {
        let key = KeyPair::generate().context("generate a key")?;
        let mut params = CertificateParams::new(Vec::<String>::new()).context("a machine")?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).context("sign a machine")?;
        fs::write(folder.join("machine.key"), key.serialize_pem()).context("write a key")?;
        fs::write(folder.join("machine.crt"), certificate.pem()).context("write a certificate")?;
        let path = folder.join("agent.conf");
        let text = fs::read_to_string(&path).context("read agent.conf")?;
        let place = folder.display();
        let attestor = format!(
            "NodeAttestor \"x509pop\" {{\n    plugin_data {{\n      private_key_path = \
             \"{place}/machine.key\"\n      certificate_path = \"{place}/machine.crt\"\n    }}"
        );
        let changed = text.replace("NodeAttestor \"join_token\" {\n    plugin_data {}", &attestor);
        ensure!(changed != text, "{} has no join token to replace", path.display());
        fs::write(&path, changed).context("write agent.conf")
    }
}
