//! The flags that describe an entry, common to `create` and `update`.
//!
//! Owns the fields, the checks both commands make in the same order, and the message they build.
//! Whether a parent or an entry id must be given is the command's affair.

use steeple_api::pb;

use crate::error::Error;
use crate::flags::FlagSet;
use crate::ids::{parse_id, parse_selectors, to_i32};
use crate::io::Io;

/// What the flags say about an entry.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) entry_id: String,
    pub(crate) parent_id: String,
    pub(crate) spiffe_id: String,
    pub(crate) selectors: Vec<String>,
    pub(crate) federates_with: Vec<String>,
    pub(crate) disable_x509_svid_prefetch: Option<bool>,
    pub(crate) jwt_svid_include_jti: Option<bool>,
    x509_svid_ttl: Option<i64>,
    jwt_svid_ttl: Option<i64>,
    old_ttl: Option<i64>,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    entry_expiry: i64,
    dns_names: Vec<String>,
    hint: String,
}

impl Attributes {
    /// Declares the flags.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag(
            "entryID",
            &mut self.entry_id,
            "The ID of the entry; made by the server when a new entry has none",
        );
        flags.flag("parentID", &mut self.parent_id, "The SPIFFE ID of this record's parent");
        flags.flag("spiffeID", &mut self.spiffe_id, "The SPIFFE ID that this record represents");
        flags.flag(
            "selector",
            &mut self.selectors,
            "A colon-delimited type:value selector. Can be used more than once",
        );
        flags.flag(
            "x509SVIDTTL",
            &mut self.x509_svid_ttl,
            "The lifetime, in seconds, of X509-SVIDs issued for this entry; 0 means the server's default",
        );
        flags.flag(
            "jwtSVIDTTL",
            &mut self.jwt_svid_ttl,
            "The lifetime, in seconds, of JWT-SVIDs issued for this entry; 0 means the server's default",
        );
        flags.old_flag("ttl", &mut self.old_ttl);
        flags.flag(
            "federatesWith",
            &mut self.federates_with,
            "A trust domain to federate with, by name or SPIFFE ID. Can be used more than once",
        );
        flags.flag(
            "admin",
            &mut self.admin,
            "If set, the entry's SPIFFE ID may use the server's management APIs",
        );
        flags.flag(
            "downstream",
            &mut self.downstream,
            "If set, the entry describes a downstream SPIRE server",
        );
        flags.flag(
            "storeSVID",
            &mut self.store_svid,
            "If set, SVIDs of this entry are stored through an SVIDStore plugin",
        );
        flags.flag(
            "entryExpiry",
            &mut self.entry_expiry,
            "When the entry ends, in seconds since the Unix epoch; 0 means never",
        );
        flags.flag(
            "dns",
            &mut self.dns_names,
            "A DNS name for SVIDs issued for this entry; the first becomes the common name too. Can be used more than once",
        );
        flags.flag("hint", &mut self.hint, "Tells SVIDs with the same SPIFFE ID apart");
        flags.flag(
            "disableX509SVIDPrefetch",
            &mut self.disable_x509_svid_prefetch,
            "If set, agents fetch the X509-SVID of this entry only when a workload asks for it",
        );
        flags.flag(
            "jwtSVIDIncludeJTI",
            &mut self.jwt_svid_include_jti,
            "If set, JWT-SVIDs of this entry carry a unique 'jti' claim and are never cached",
        );
    }

    /// Checks the lifetimes: the last checks of both commands.
    pub(crate) fn check_ttls(&self) -> Result<(), Error> {
        if self.old_ttl.is_some() && (self.x509_svid_ttl.is_some() || self.jwt_svid_ttl.is_some()) {
            return Err(Error::invalid(
                "use x509SVIDTTL and jwtSVIDTTL flags or the deprecated ttl flag",
            ));
        }
        for (ttl, text) in [
            (self.old_ttl, "a positive TTL is required"),
            (self.x509_svid_ttl, "a positive x509-SVID TTL is required"),
            (self.jwt_svid_ttl, "a positive JWT-SVID TTL is required"),
        ] {
            if ttl.is_some_and(|seconds| seconds < 0) {
                return Err(Error::invalid(text));
            }
        }
        Ok(())
    }

    /// Tells of old spellings that were used.
    pub(crate) fn warn_of_old(&self, io: &mut Io<'_>) -> Result<(), Error> {
        if self.old_ttl.is_some() {
            io.warn("-ttl is an old spelling and sets the lifetime of X509-SVIDs alone; use -x509SVIDTTL and -jwtSVIDTTL")?;
        }
        Ok(())
    }

    /// The entry that the flags describe, with the given parent.
    pub(crate) fn entry(
        &self,
        spiffe_id: pb::types::Spiffeid,
        parent_id: pb::types::Spiffeid,
    ) -> Result<pb::types::Entry, Error> {
        let x509_svid_ttl = self.x509_svid_ttl.or(self.old_ttl).unwrap_or_default();
        let x509_svid_ttl = to_i32(x509_svid_ttl, "X509 SVID TTL")?;
        let jwt_svid_ttl = to_i32(self.jwt_svid_ttl.unwrap_or_default(), "JWT SVID TTL")?;
        Ok(pb::types::Entry {
            id: self.entry_id.clone(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors: parse_selectors(&self.selectors)?,
            x509_svid_ttl,
            jwt_svid_ttl,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            store_svid: self.store_svid,
            expires_at: self.entry_expiry,
            dns_names: self.dns_names.clone(),
            hint: self.hint.clone(),
            additional_attributes: self.additional(),
            ..Default::default()
        })
    }

    /// The entry's own id, parsed.
    pub(crate) fn parsed_spiffe_id(&self) -> Result<pb::types::Spiffeid, Error> {
        parse_id(&self.spiffe_id)
    }

    fn additional(&self) -> Option<pb::types::entry::AdditionalAttributes> {
        let (prefetch, jti) = (self.disable_x509_svid_prefetch, self.jwt_svid_include_jti);
        (prefetch.is_some() || jti.is_some()).then(|| pb::types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: prefetch.unwrap_or_default(),
            jwt_svid_include_jti: jti.unwrap_or_default(),
        })
    }
}
