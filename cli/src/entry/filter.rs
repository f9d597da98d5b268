//! The filter flags of `entry show` and `entry count`.
//!
//! Owns the flags and what they mean on the wire; the two requests have filter messages of their
//! own with the same fields.

use steeple_api::pb;
use steeple_api::pb::server::entry::v1::{count_entries_request, list_entries_request};

use crate::error::Error;
use crate::flags::FlagSet;
use crate::ids::{parse_id, parse_match, parse_selectors};
use crate::output::go_quote;

/// What to look for; empty fields do not filter.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) parent_id: String,
    pub(crate) spiffe_id: String,
    pub(crate) selectors: Vec<String>,
    downstream: bool,
    federates_with: Vec<String>,
    match_federates_with_on: String,
    match_selectors_on: String,
    hint: String,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            parent_id: String::new(),
            spiffe_id: String::new(),
            selectors: Vec::new(),
            downstream: false,
            federates_with: Vec::new(),
            match_federates_with_on: "superset".to_owned(),
            match_selectors_on: "superset".to_owned(),
            hint: String::new(),
        }
    }
}

impl Filter {
    /// Declares the flags.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag("parentID", &mut self.parent_id, "The Parent ID of the records");
        flags.flag("spiffeID", &mut self.spiffe_id, "The SPIFFE ID of the records");
        flags.flag(
            "selector",
            &mut self.selectors,
            "A colon-delimited type:value selector. Can be used more than once",
        );
        flags.flag(
            "downstream",
            &mut self.downstream,
            "If set, only entries of downstream SPIRE servers",
        );
        flags.flag(
            "federatesWith",
            &mut self.federates_with,
            "A trust domain that the entries federate with. Can be used more than once",
        );
        flags.flag(
            "matchFederatesWithOn",
            &mut self.match_federates_with_on,
            "How trust domains are compared. Options: exact, any, superset and subset",
        );
        flags.flag(
            "matchSelectorsOn",
            &mut self.match_selectors_on,
            "How selectors are compared. Options: exact, any, superset and subset",
        );
        flags.flag("hint", &mut self.hint, "The Hint of the records");
    }

    /// For `ListEntries`.
    pub(crate) fn to_list(&self) -> Result<list_entries_request::Filter, Error> {
        let id = |text: &str, what: &str| {
            let doing = format!("error parsing {what} {}", go_quote(text));
            (!text.is_empty())
                .then(|| parse_id(text).map_err(|error| error.during(doing)))
                .transpose()
        };
        Ok(list_entries_request::Filter {
            by_parent_id: id(&self.parent_id, "parent ID")?,
            by_spiffe_id: id(&self.spiffe_id, "SPIFFE ID")?,
            by_selectors: self.by_selectors()?,
            by_federates_with: self.by_federates_with()?,
            by_hint: (!self.hint.is_empty()).then(|| self.hint.clone()),
            // Always sent: the server takes a false one for no filter.
            by_downstream: Some(self.downstream),
        })
    }

    /// For `CountEntries`.
    pub(crate) fn to_count(&self) -> Result<count_entries_request::Filter, Error> {
        let list_entries_request::Filter {
            by_spiffe_id,
            by_parent_id,
            by_selectors,
            by_federates_with,
            by_hint,
            by_downstream,
        } = self.to_list()?;
        Ok(count_entries_request::Filter {
            by_spiffe_id,
            by_parent_id,
            by_selectors,
            by_federates_with,
            by_hint,
            by_downstream,
        })
    }

    fn by_selectors(&self) -> Result<Option<pb::types::SelectorMatch>, Error> {
        if self.selectors.is_empty() {
            return Ok(None);
        }
        let behavior = parse_match(&self.match_selectors_on)?;
        let selectors = parse_selectors(&self.selectors)
            .map_err(|error| error.during("error parsing selectors"))?;
        Ok(Some(pb::types::SelectorMatch { selectors, r#match: behavior.into() }))
    }

    fn by_federates_with(&self) -> Result<Option<pb::types::FederatesWithMatch>, Error> {
        if self.federates_with.is_empty() {
            return Ok(None);
        }
        // Both matches have the same four values under the same numbers.
        let behavior = i32::from(parse_match(&self.match_federates_with_on)?);
        let trust_domains = self.federates_with.clone();
        Ok(Some(pb::types::FederatesWithMatch { trust_domains, r#match: behavior }))
    }
}
