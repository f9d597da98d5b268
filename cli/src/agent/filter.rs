//! The filter flags of `agent list` and `agent count`.
//!
//! Owns the flags and what they mean on the wire; the two requests have filter messages of their
//! own with the same fields.

use steeple_api::pb;
use steeple_api::pb::server::agent::v1::{count_agents_request, list_agents_request};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::Error;
use crate::flags::{FlagSet, Tristate};
use crate::ids::{parse_match, parse_selector};
use crate::output::go_quote;

/// What to look for; empty fields do not filter.
#[derive(Debug)]
pub(crate) struct Filter {
    selectors: Vec<String>,
    attestation_type: String,
    can_reattest: Tristate,
    banned: Tristate,
    expires_before: String,
    match_selectors_on: String,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            selectors: Vec::new(),
            attestation_type: String::new(),
            can_reattest: Tristate::default(),
            banned: Tristate::default(),
            expires_before: String::new(),
            match_selectors_on: "superset".to_owned(),
        }
    }
}

impl Filter {
    /// Declares the flags.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag(
            "selector",
            &mut self.selectors,
            "A colon-delimited type:value selector. Can be used more than once",
        );
        flags.flag(
            "attestationType",
            &mut self.attestation_type,
            "Only agents attested so, for instance join_token or x509pop",
        );
        flags.flag(
            "canReattest",
            &mut self.can_reattest,
            "'true': only agents that can re-attest, 'false': only those that cannot, else all",
        );
        flags.flag(
            "banned",
            &mut self.banned,
            "'true': only banned agents, 'false': only those that are not, else all",
        );
        flags.flag(
            "expiresBefore",
            &mut self.expires_before,
            "Only agents whose SVID expires before this time (format: \"2006-01-02 15:04:05 -0700 -07\")",
        );
        flags.flag(
            "matchSelectorsOn",
            &mut self.match_selectors_on,
            "How selectors are compared. Options: exact, any, superset and subset",
        );
    }

    /// For `ListAgents`.
    pub(crate) fn to_list(&self) -> Result<list_agents_request::Filter, Error> {
        check_time(&self.expires_before)?;
        Ok(list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone(),
            by_selector_match: self.by_selectors()?,
            by_banned: self.banned.0,
            by_can_reattest: self.can_reattest.0,
            by_expires_before: self.expires_before.clone(),
        })
    }

    /// For `CountAgents`.
    pub(crate) fn to_count(&self) -> Result<count_agents_request::Filter, Error> {
        let list_agents_request::Filter {
            by_attestation_type,
            by_selector_match,
            by_banned,
            by_can_reattest,
            by_expires_before,
        } = self.to_list()?;
        Ok(count_agents_request::Filter {
            by_attestation_type,
            by_selector_match,
            by_banned,
            by_can_reattest,
            by_expires_before,
        })
    }

    fn by_selectors(&self) -> Result<Option<pb::types::SelectorMatch>, Error> {
        if self.selectors.is_empty() {
            return Ok(None);
        }
        let behavior = parse_match(&self.match_selectors_on)
            .map_err(|_unknown| Error::invalid("unsupported match behavior"))?;
        let selectors = self.selectors.iter().map(|text| {
            parse_selector(text)
                .map_err(|error| error.during(format!("error parsing selector {}", go_quote(text))))
        });
        let selectors = selectors.collect::<Result<Vec<_>, Error>>()?;
        Ok(Some(pb::types::SelectorMatch { selectors, r#match: behavior.into() }))
    }
}

/// The server drops a time it cannot read and lists everything, so the text is checked here. The
/// zone stands twice: `-0700`, then `-07` (of which only the form is looked at, as in Go).
fn check_time(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    let form = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let parsed = text.rsplit_once(' ').filter(|(time, zone)| {
        let digits = zone.strip_prefix(['+', '-']).unwrap_or_default();
        let zone_is_good = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        zone_is_good && OffsetDateTime::parse(time, form).is_ok()
    });
    match parsed {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!(
            "date is not valid: {} must look like \"2006-01-02 15:04:05 -0700 -07\"",
            go_quote(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_gos_layout_with_the_zone_twice() {
        for (text, good) in [
            ("", true),
            ("2024-01-01 00:00:00 +0000 +00", true),
            ("2024-02-29 23:59:59 -0730 -07", true),
            ("2024-01-01 00:00:00 +0000", false),
            ("2024-01-01T00:00:00Z", false),
            ("2024-13-01 00:00:00 +0000 +00", false),
            ("yesterday", false),
        ] {
            assert_eq!(check_time(text).is_ok(), good, "{text:?}");
        }
    }
}
