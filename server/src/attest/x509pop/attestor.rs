//! Configuration of `x509pop` and the exchange with an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::tls::BundleSource;
use steeple_spiffe_core::{Clock, Selector, SelectorSet, SpiffeId, Timestamp, TrustDomain, pem};
use tonic::Code;

use super::certificate::{Certificate, fingerprint};
use super::chains::{Chain, verified_chains};
use super::challenge::{Challenge, NONCE_BYTES, Response, parse_payload};
use crate::attest::attestor::{AttestError, Attested, ChallengeChannel, NodeAttestor};
use crate::attest::path_template::{PathTemplate, TemplateError, Value};

/// The attestor's name.
const KIND: &str = "x509pop";

const DEFAULT_TEMPLATE_EXTERNAL: &str = "/{{ .PluginName }}/{{ .Fingerprint }}";
const DEFAULT_TEMPLATE_SPIFFE: &str = "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}";
const DEFAULT_SPIFFE_PREFIX: &str = "/spire-exchange/";

/// Certificates between leaf and root that are looked at (SPIRE: 4).
const DEFAULT_MAX_INTERMEDIATES: usize = 4;

/// Largest RSA modulus that is looked at, in bits (SPIRE: 8192).
const DEFAULT_MAX_RSA_KEY_SIZE: usize = 8192;

/// The plugin's configuration keys, as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509PopSettings {
    /// `mode`: `external_pki` (default) or `spiffe`.
    pub mode: Option<String>,
    /// `spiffe_prefix`.
    pub spiffe_prefix: Option<String>,
    /// `ca_bundle_path`.
    pub ca_bundle_path: Option<PathBuf>,
    /// `ca_bundle_paths`.
    pub ca_bundle_paths: Vec<PathBuf>,
    /// `agent_path_template`.
    pub agent_path_template: Option<String>,
    /// `max_intermediates`.
    pub max_intermediates: Option<i64>,
    /// `max_rsa_key_size`, in bits.
    pub max_rsa_key_size: Option<i64>,
    /// `verify_client_ip`.
    pub verify_client_ip: bool,
}

/// The configuration of `x509pop` is refused. Texts are SPIRE's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum X509PopConfigError {
    /// Unknown mode.
    #[error("mode can only be either spiffe or external_pki")]
    Mode,
    /// Both forms of the same key.
    #[error("only one of ca_bundle_path or ca_bundle_paths can be configured, not both")]
    BothBundlePaths,
    /// No root to trust.
    #[error("one of ca_bundle_path or ca_bundle_paths must be configured")]
    NoBundlePath,
    /// Roots come from the own bundle in this mode.
    #[error("you can not use ca_bundle_path or ca_bundle_paths in spiffe mode")]
    BundlePathInSpiffeMode,
    /// A file of roots cannot be read.
    #[error("unable to load trust bundle \"{}\": {reason}", path.display())]
    LoadBundle {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The template is not one.
    #[error("failed to parse agent svid template: \"{template}\"")]
    Template {
        /// Its text.
        template: String,
        /// Why not.
        #[source]
        source: TemplateError,
    },
    /// A limit is not positive.
    #[error("{0} must be greater than 0")]
    NotPositive(&'static str),
}

/// Attests by certificate and proof of possession.
#[derive(Debug)]
pub struct X509Pop {
    trust_domain: TrustDomain,
    mode: Mode,
    template: PathTemplate,
    max_intermediates: usize,
    max_rsa_key_size: usize,
    verify_client_ip: bool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

#[derive(Debug)]
enum Mode {
    /// Roots from files, in DER.
    ExternalPki(Vec<Vec<u8>>),
    /// Roots from the own bundle; leaves are SVIDs whose path begins with the prefix.
    Spiffe { prefix: String, bundles: Arc<dyn BundleSource> },
}

impl X509Pop {
    /// Checks the settings and reads the roots they name. `bundles` is asked for the own trust
    /// domain in mode `spiffe`.
    pub fn configure(
        settings: X509PopSettings,
        trust_domain: TrustDomain,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, X509PopConfigError> {
        let positive = |value: Option<i64>, default: usize, name: &'static str| match value {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or(X509PopConfigError::NotPositive(name)),
        };
        let max_intermediates =
            positive(settings.max_intermediates, DEFAULT_MAX_INTERMEDIATES, "max_intermediates")?;
        let max_rsa_key_size =
            positive(settings.max_rsa_key_size, DEFAULT_MAX_RSA_KEY_SIZE, "max_rsa_key_size")?;
        let verify_client_ip = settings.verify_client_ip;
        let configured = settings.agent_path_template.clone().filter(|text| !text.is_empty());
        let mode = mode(settings, bundles)?;
        let template = configured.unwrap_or_else(|| mode.default_template().to_owned());
        let template = PathTemplate::parse(&template)
            .map_err(|source| X509PopConfigError::Template { template, source })?;
        Ok(Self {
            trust_domain,
            mode,
            template,
            max_intermediates,
            max_rsa_key_size,
            verify_client_ip,
            clock,
            random,
        })
    }

    /// Parses and bounds what the agent sent; its chains follow.
    fn check_payload(&self, payload: &[u8]) -> Result<(Certificate, Vec<Chain>), AttestError> {
        let certificates = parse_payload(payload)
            .map_err(|error| invalid(format!("failed to unmarshal data: {error}")))?;
        let (leaf_der, intermediates) =
            certificates.split_first().ok_or_else(|| invalid("no certificate to attest"))?;
        if intermediates.len() > self.max_intermediates {
            return Err(invalid("too many intermediate certificates"));
        }
        let leaf = Certificate::parse(leaf_der)
            .map_err(|error| invalid(format!("unable to parse leaf certificate: {error}")))?;
        if self.is_too_large(&leaf) {
            return Err(invalid("leaf certificate key size too large"));
        }
        for (index, der) in intermediates.iter().enumerate() {
            let intermediate = Certificate::parse(der).map_err(|error| {
                invalid(format!("unable to parse intermediate certificate {index}: {error}"))
            })?;
            if self.is_too_large(&intermediate) {
                let text = format!("intermediate certificate {index} key size too large");
                return Err(invalid(text));
            }
        }
        let chains = verified_chains(leaf_der, intermediates, &self.roots(), self.now())
            .map_err(|reason| denied(format!("certificate verification failed: {reason}")))?;
        Ok((leaf, chains))
    }

    fn is_too_large(&self, certificate: &Certificate) -> bool {
        certificate.rsa_bits().is_some_and(|bits| bits > self.max_rsa_key_size)
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        match &self.mode {
            Mode::ExternalPki(roots) => roots.clone(),
            Mode::Spiffe { bundles, .. } => {
                let bundle = bundles.bundle(&self.trust_domain);
                let authorities = bundle.iter().flat_map(|bundle| bundle.x509_authorities.iter());
                authorities.map(|one| one.certificate_der.clone()).collect()
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn check_client_ip(
        &self,
        leaf: &Certificate,
        channel: &dyn ChallengeChannel,
    ) -> Result<(), AttestError> {
        if !self.verify_client_ip {
            return Ok(());
        }
        let ip = channel
            .peer_ip()
            .ok_or_else(|| internal("client IP not available for verification"))?;
        // A listener on both families shows IPv4 callers as mapped addresses.
        let ip = ip.to_canonical();
        if leaf.ip_addresses.iter().any(|one| one.to_canonical() == ip) {
            return Ok(());
        }
        Err(denied(format!("client IP {ip} does not match any certificate IP SAN")))
    }

    /// Asks the agent to sign, and verifies what comes back.
    async fn prove_possession(
        &self,
        leaf: &Certificate,
        channel: &mut dyn ChallengeChannel,
    ) -> Result<(), AttestError> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce);
        let challenge = Challenge::new(leaf, nonce)
            .map_err(|reason| internal(format!("unable to generate challenge: {reason}")))?;
        let response = channel.challenge(challenge.to_json()).await?;
        let response = Response::parse(&response)
            .map_err(|error| invalid(format!("unable to unmarshal challenge response: {error}")))?;
        challenge
            .verify(&leaf.key, &response)
            .map_err(|reason| denied(format!("challenge response verification failed: {reason}")))
    }

    /// The path of the presented SVID behind the configured prefix; empty in the other mode.
    fn svid_path(&self, leaf: &Certificate) -> Result<String, AttestError> {
        let Mode::Spiffe { prefix, .. } = &self.mode else { return Ok(String::new()) };
        let uri = leaf
            .uris
            .iter()
            .find_map(|uri| uri.strip_prefix("spiffe://"))
            .ok_or_else(|| denied("valid SVID x509 cert not found"))?;
        let (trust_domain, path) = uri.split_at(uri.find('/').unwrap_or(uri.len()));
        // Trust domains below one root have that root in both bundles.
        if !trust_domain.eq_ignore_ascii_case(self.trust_domain.as_str()) {
            return Err(denied("x509 cert is an SVID of another trust domain"));
        }
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let trimmed = path
            .strip_prefix(prefix.as_str())
            .ok_or_else(|| denied("x509 cert doesnt match SVID prefix"))?;
        Ok(trimmed.to_owned())
    }

    /// Keys and values of URI SANs `x509pop://<trust domain>/<key>/<value…>`.
    fn san_selectors(&self, leaf: &Certificate) -> BTreeMap<String, String> {
        let prefix = format!("{KIND}://{}/", self.trust_domain);
        let paths = leaf.uris.iter().filter_map(|uri| uri.strip_prefix(&prefix));
        let pairs = paths.filter_map(|path| path.trim_matches('/').split_once('/'));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn agent_id(
        &self,
        leaf: &Certificate,
        svid_path: String,
        sans: &BTreeMap<String, String>,
    ) -> Result<SpiffeId, AttestError> {
        let mut fields = leaf.template_fields();
        let sans = sans.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        fields.insert("PluginName".to_owned(), Value::from(KIND));
        fields.insert("TrustDomain".to_owned(), Value::from(self.trust_domain.as_str()));
        fields.insert("SVIDPathTrimmed".to_owned(), Value::from(svid_path));
        fields.insert("URISanSelectors".to_owned(), Value::Map(sans.collect()));
        let failed = |error: String| internal(format!("failed to make spiffe id: {error}"));
        let suffix = self.template.render(&fields).map_err(|error| failed(error.to_string()))?;
        if !suffix.starts_with('/') {
            let reason = "path must have a leading slash";
            return Err(failed(format!("invalid agent path suffix \"{suffix}\": {reason}")));
        }
        SpiffeId::new(self.trust_domain.clone(), &format!("/spire/agent{suffix}"))
            .map_err(|error| failed(format!("invalid agent path suffix \"{suffix}\": {error}")))
    }
}

#[tonic::async_trait]
impl NodeAttestor for X509Pop {
    fn kind(&self) -> &str {
        KIND
    }

    async fn attest(
        &self,
        payload: &[u8],
        channel: &mut dyn ChallengeChannel,
    ) -> Result<Attested, AttestError> {
        let (leaf, chains) = self.check_payload(payload)?;
        self.check_client_ip(&leaf, channel)?;
        self.prove_possession(&leaf, channel).await?;
        let svid_path = self.svid_path(&leaf)?;
        let sans = self.san_selectors(&leaf);
        let agent_id = self.agent_id(&leaf, svid_path, &sans)?;
        let selectors = selectors(&leaf, &chains, &sans)?;
        Ok(Attested { agent_id, selectors, can_reattest: true, token: None })
    }
}

impl Mode {
    fn default_template(&self) -> &'static str {
        match self {
            Self::ExternalPki(_) => DEFAULT_TEMPLATE_EXTERNAL,
            Self::Spiffe { .. } => DEFAULT_TEMPLATE_SPIFFE,
        }
    }
}

fn mode(
    settings: X509PopSettings,
    bundles: Arc<dyn BundleSource>,
) -> Result<Mode, X509PopConfigError> {
    let has_path = settings.ca_bundle_path.is_some();
    let has_paths = !settings.ca_bundle_paths.is_empty();
    match settings.mode.as_deref().unwrap_or_default() {
        "" | "external_pki" => {
            if has_path && has_paths {
                return Err(X509PopConfigError::BothBundlePaths);
            }
            let paths: Vec<PathBuf> =
                settings.ca_bundle_path.into_iter().chain(settings.ca_bundle_paths).collect();
            if paths.is_empty() {
                return Err(X509PopConfigError::NoBundlePath);
            }
            let mut roots = Vec::new();
            for path in paths {
                roots.extend(load_roots(path)?);
            }
            Ok(Mode::ExternalPki(roots))
        }
        "spiffe" => {
            if has_path || has_paths {
                return Err(X509PopConfigError::BundlePathInSpiffeMode);
            }
            let mut prefix =
                settings.spiffe_prefix.unwrap_or_else(|| DEFAULT_SPIFFE_PREFIX.to_owned());
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            Ok(Mode::Spiffe { prefix, bundles })
        }
        _ => Err(X509PopConfigError::Mode),
    }
}

fn load_roots(path: PathBuf) -> Result<Vec<Vec<u8>>, X509PopConfigError> {
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    let roots = read.and_then(|text| {
        let roots = pem::decode_certificates(&text).map_err(|error| error.to_string())?;
        roots.iter().try_for_each(|der| Certificate::parse(der).map(drop))?;
        Ok(roots)
    });
    roots.map_err(|reason| X509PopConfigError::LoadBundle { path, reason })
}

fn selectors(
    leaf: &Certificate,
    chains: &[Chain],
    sans: &BTreeMap<String, String>,
) -> Result<SelectorSet, AttestError> {
    let mut values = BTreeSet::new();
    if !leaf.common_name.is_empty() {
        values.insert(format!("subject:cn:{}", leaf.common_name));
    }
    values
        .extend(chains.iter().flatten().map(|der| format!("ca:fingerprint:{}", fingerprint(der))));
    values.insert(format!("serialnumber:{}", leaf.serial_hex));
    values.extend(sans.iter().map(|(key, value)| format!("san:{key}:{value}")));
    let selectors = values.iter().map(|value| Selector::new(KIND, value));
    selectors.collect::<Result<_, _>>().map_err(|error| internal(format!("selector: {error}")))
}

fn invalid(message: impl AsRef<str>) -> AttestError {
    error(Code::InvalidArgument, message.as_ref())
}

fn denied(message: impl AsRef<str>) -> AttestError {
    error(Code::PermissionDenied, message.as_ref())
}

fn internal(message: impl AsRef<str>) -> AttestError {
    error(Code::Internal, message.as_ref())
}

/// SPIRE's catalogue puts the plugin's name before each of its errors.
fn error(code: Code, message: &str) -> AttestError {
    AttestError::new(code, format!("nodeattestor({KIND}): {message}"))
}
