//! Relationships as they are given: by flags, or many in a file of JSON.
//!
//! Owns both readings with SPIRE's checks and texts. What a relationship must be beyond that, the server
//! knows.

use serde_json::Value;
use steeple_api::pb;
use steeple_api::pb::types::federation_relationship::BundleEndpointProfile;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::bundle::BundleFormat;
use crate::error::Error;
use crate::files::read_text;
use crate::flags::FlagSet;
use crate::go_json::{self, Object, wrong};
use crate::io::Io;
use crate::output::go_quote;

/// The flags of `federation create` and `federation update`.
#[derive(Debug)]
pub(super) struct Given {
    data: String,
    trust_domain: String,
    url: String,
    profile: String,
    endpoint_id: String,
    bundle_path: String,
    bundle_format: String,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            data: String::new(),
            trust_domain: String::new(),
            url: String::new(),
            profile: String::new(),
            endpoint_id: String::new(),
            bundle_path: String::new(),
            bundle_format: PEM.to_owned(),
        }
    }
}

const PEM: &str = "pem";

impl Given {
    /// Declares them.
    pub(super) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag(
            "data",
            &mut self.data,
            "Path to a file of JSON with the relationships; no other flag may describe one then. If set to '-', read the JSON from stdin",
        );
        flags.flag(
            "trustDomain",
            &mut self.trust_domain,
            "The trust domain to federate with (e.g., example.org)",
        );
        flags.flag(
            "bundleEndpointURL",
            &mut self.url,
            "URL of the endpoint that serves its bundle; must use HTTPS",
        );
        flags.flag(
            "bundleEndpointProfile",
            &mut self.profile,
            "How the endpoint is authenticated. Either \"https_web\" or \"https_spiffe\".",
        );
        flags.flag(
            "endpointSpiffeID",
            &mut self.endpoint_id,
            "SPIFFE ID of the endpoint; for the profile https_spiffe alone",
        );
        flags.flag(
            "trustDomainBundlePath",
            &mut self.bundle_path,
            "Path to the trust domain's bundle, to begin with",
        );
        flags.flag(
            "trustDomainBundleFormat",
            &mut self.bundle_format,
            "The format of that bundle. Either \"pem\" or \"spiffe\".",
        );
    }

    /// The relationships that the flags or the file name.
    pub(super) fn relationships(
        &self,
        io: &mut Io<'_>,
    ) -> Result<Vec<pb::types::FederationRelationship>, Error> {
        if self.data.is_empty() {
            let bundle = |trust_domain: &str| self.bundle(trust_domain, io);
            return Ok(vec![self.fields().relationship(bundle)?]);
        }
        if self.describes() {
            return Err(Error::invalid(
                "cannot use other flags to specify relationship fields when 'data' flag is set",
            ));
        }
        parse(&read_text(&self.data, io)?)
    }

    fn describes(&self) -> bool {
        let given =
            [&self.trust_domain, &self.url, &self.profile, &self.endpoint_id, &self.bundle_path];
        given.iter().any(|text| !text.is_empty()) || self.bundle_format != PEM
    }

    fn fields(&self) -> Fields {
        Fields {
            trust_domain: self.trust_domain.clone(),
            url: self.url.clone(),
            profile: self.profile.clone(),
            endpoint_id: self.endpoint_id.clone(),
        }
    }

    fn bundle(
        &self,
        trust_domain: &str,
        io: &mut Io<'_>,
    ) -> Result<Option<pb::types::Bundle>, Error> {
        if self.bundle_path.is_empty() {
            return Ok(None);
        }
        let text = read_text(&self.bundle_path, io)
            .map_err(|error| error.during("cannot read bundle file"))?;
        let bundle = format(&self.bundle_format)
            .and_then(|format| format.read(&text, named(trust_domain)?))
            .map_err(|error| error.during("cannot parse bundle file"))?;
        Ok(Some(bundle))
    }
}

/// A relationship before it is checked.
struct Fields {
    trust_domain: String,
    url: String,
    profile: String,
    endpoint_id: String,
}

impl Fields {
    /// The message, in SPIRE's order of checks. `bundle` reads the bundle of the trust domain that it
    /// is called with: the endpoint's, where the endpoint has an id.
    fn relationship(
        self,
        bundle: impl FnOnce(&str) -> Result<Option<pb::types::Bundle>, Error>,
    ) -> Result<pb::types::FederationRelationship, Error> {
        let Self { trust_domain, url, profile, endpoint_id } = self;
        if trust_domain.is_empty() {
            return Err(Error::invalid("trust domain is required"));
        }
        if url.is_empty() {
            return Err(Error::invalid("bundle endpoint URL is required"));
        }
        let (profile, trust_domain_bundle) = match profile.as_str() {
            "https_web" => {
                let profile = BundleEndpointProfile::HttpsWeb(pb::types::HttpsWebProfile {});
                (profile, bundle(&trust_domain)?)
            }
            "https_spiffe" => {
                if endpoint_id.is_empty() {
                    return Err(Error::invalid(
                        "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
                    ));
                }
                let id = SpiffeId::parse(&endpoint_id).map_err(|error| {
                    Error::invalid(format!("cannot parse bundle endpoint SPIFFE ID: {error}"))
                })?;
                let bundle = bundle(id.trust_domain().as_str())?;
                let profile = pb::types::HttpsspiffeProfile { endpoint_spiffe_id: endpoint_id };
                (BundleEndpointProfile::HttpsSpiffe(profile), bundle)
            }
            other => {
                let unknown = "unknown bundle endpoint profile type";
                return Err(Error::invalid(format!("{unknown}: {}", go_quote(other))));
            }
        };
        Ok(pb::types::FederationRelationship {
            trust_domain,
            bundle_endpoint_url: url,
            bundle_endpoint_profile: Some(profile),
            trust_domain_bundle,
        })
    }
}

fn format(text: &str) -> Result<BundleFormat, Error> {
    match text {
        PEM => Ok(BundleFormat::Pem),
        "spiffe" => Ok(BundleFormat::Spiffe),
        _ => Err(Error::invalid(format!("bundle format {} is unsupported", go_quote(text)))),
    }
}

fn named(text: &str) -> Result<TrustDomain, Error> {
    TrustDomain::parse_name_or_id(text).map_err(|error| Error::invalid(error.to_string()))
}

/// The relationships of a file.
fn parse(text: &str) -> Result<Vec<pb::types::FederationRelationship>, Error> {
    let tree = go_json::parse(text)?;
    let file = Object::of(&tree, "the file")?;
    // SPIRE takes a file without the key for an empty list, and does nothing without a word.
    if file.get("federationRelationships").is_none() {
        return Err(wrong("expected an object with \"federationRelationships\""));
    }
    let numbered = file.list("federationRelationships")?.iter().enumerate();
    let parsed = numbered.map(|(number, item)| {
        parse_item(item).map_err(|error| error.during(format!("could not parse item {number}")))
    });
    parsed.collect()
}

fn parse_item(item: &Value) -> Result<pb::types::FederationRelationship, Error> {
    let object = Object::of(item, "a relationship")?;
    let fields = Fields {
        trust_domain: object.text("trustDomain")?,
        url: object.text("bundleEndpointURL")?,
        profile: object.text("bundleEndpointProfile")?,
        endpoint_id: object.text("endpointSPIFFEID")?,
    };
    let format_name = object.text("trustDomainBundleFormat")?;
    fields.relationship(|trust_domain| {
        let Some(value) = object.get("trustDomainBundle") else { return Ok(None) };
        let read = || {
            let format = format(&format_name)?;
            let text = match format {
                BundleFormat::Pem => value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Error::invalid("a bundle of format \"pem\" must be a text"))?,
                BundleFormat::Spiffe => value.to_string(),
            };
            format.read(&text, named(trust_domain)?)
        };
        read().map(Some).map_err(|error: Error| error.during("cannot parse bundle raw message"))
    })
}
