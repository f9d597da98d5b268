//! The X.509 reply of the Workload API, read.
//!
//! Owns the parsing of its concatenated DER and the check of each SVID against its bundle.

use std::collections::BTreeMap;

use steeple_api::pb;
use steeple_spiffe_core::bundle::X509Authority;
use steeple_spiffe_core::svid::x509::{certificate_facts, verify_chain};
use steeple_spiffe_core::{Bundle, LocalSigner, Secret, SpiffeId, Timestamp};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::{Error, causes};
use crate::output::go_quote;

/// A certificate and its lifetime in Unix seconds.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// One SVID of a reply. The chain has at least one certificate.
pub(crate) struct Svid {
    pub(crate) spiffe_id: String,
    pub(crate) hint: String,
    pub(crate) leaf: Certificate,
    pub(crate) intermediates: Vec<Certificate>,
    pub(crate) key: Secret,
    pub(crate) roots: Vec<Certificate>,
}

/// A whole reply.
pub(crate) struct Reply {
    pub(crate) svids: Vec<Svid>,
    /// By the key of the reply, `spiffe://` and a trust domain.
    pub(crate) federated: BTreeMap<String, Vec<Certificate>>,
}

impl Reply {
    /// Reads a reply; nothing is verified.
    pub(crate) fn parse(message: &pb::workload::X509svidResponse) -> Result<Self, Error> {
        if message.svids.is_empty() {
            return Err(Error::invalid("workload response contains no svids"));
        }
        let mut federated = BTreeMap::new();
        for (trust_domain, ders) in &message.federated_bundles {
            let name = go_quote(trust_domain);
            let roots = certificates(ders).map_err(|error| {
                error.during(format!("failed to parse bundle for federated domain {name}"))
            })?;
            if roots.is_empty() {
                let text = format!("no certificates in bundle for federated domain {name}");
                return Err(Error::invalid(text));
            }
            federated.insert(trust_domain.clone(), roots);
        }
        let mut svids = Vec::with_capacity(message.svids.len());
        for (index, svid) in message.svids.iter().enumerate() {
            let id = go_quote(&svid.spiffe_id);
            let svid = Svid::parse(svid).map_err(|error| {
                error.during(format!("failed to parse svid entry {index} for spiffe id {id}"))
            })?;
            svids.push(svid);
        }
        Ok(Self { svids, federated })
    }

    /// Checks that each SVID chains to its bundle.
    pub(crate) fn verify(&self, now: Timestamp) -> Result<(), Error> {
        self.svids.iter().try_for_each(|svid| svid.verify(now))
    }
}

impl Svid {
    fn parse(message: &pb::workload::X509svid) -> Result<Self, Error> {
        let mut chain = certificates(&message.x509_svid)?.into_iter();
        let leaf = chain.next().ok_or_else(|| Error::invalid("no certificates found"))?;
        let key = Secret::new(message.x509_svid_key.clone());
        LocalSigner::from_pkcs8(key.expose())
            .map_err(|error| Error::invalid(format!("failed to parse private key: {error}")))?;
        let roots = certificates(&message.bundle)
            .map_err(|error| error.during("failed to parse trust bundle"))?;
        if roots.is_empty() {
            return Err(Error::invalid("no certificates in trust bundle"));
        }
        Ok(Self {
            spiffe_id: message.spiffe_id.clone(),
            hint: message.hint.clone(),
            leaf,
            intermediates: chain.collect(),
            key,
            roots,
        })
    }

    /// The chain, leaf first.
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        std::iter::once(&self.leaf).chain(&self.intermediates).map(|c| c.der.clone()).collect()
    }

    fn verify(&self, now: Timestamp) -> Result<(), Error> {
        let id =
            SpiffeId::parse(&self.spiffe_id).map_err(|error| Error::invalid(error.to_string()))?;
        let mut bundle = Bundle::empty(id.trust_domain().clone());
        bundle.x509_authorities = self
            .roots
            .iter()
            .map(|root| X509Authority { certificate_der: root.der.clone(), tainted: false })
            .collect();
        let told = |reason: String| {
            let id = go_quote(&self.spiffe_id);
            Error::invalid(format!("{id} SVID failed verification against bundle: {reason}"))
        };
        let named =
            verify_chain(&self.chain(), &bundle, now).map_err(|error| told(causes(&error)))?;
        if named != id {
            return Err(told(format!("the certificate names {}", go_quote(&named.to_string()))));
        }
        Ok(())
    }
}

/// Splits concatenated DER.
fn certificates(mut ders: &[u8]) -> Result<Vec<Certificate>, Error> {
    let mut found = Vec::new();
    while !ders.is_empty() {
        let (rest, _) = X509Certificate::from_der(ders)
            .map_err(|error| Error::invalid(format!("malformed certificate: {error}")))?;
        // The rest is a tail of what was read.
        let (der, _) = ders.split_at_checked(ders.len() - rest.len()).unwrap_or((ders, &[]));
        let facts = certificate_facts(der).map_err(|error| Error::invalid(causes(&error)))?;
        found.push(Certificate {
            der: der.to_vec(),
            not_before: facts.not_before.unix_s(),
            not_after: facts.not_after.unix_s(),
        });
        ders = rest;
    }
    Ok(found)
}
