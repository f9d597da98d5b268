//! How the files of an upstream authority stand, and what somebody has to see to.
//!
//! Pure but for [`watch`], which looks now and then: an authority is signed every few hours or weeks, and
//! files that broke meanwhile are to be known of before.

use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

use super::handle::Upstream;
use crate::logging::time_text;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is wrong is said again after so many looks.
const SAY_EVERY: u32 = 60;

/// A certificate is to be replaced in the last part of this many of its life…
const LAST_PART: u32 = 6;

/// …and no sooner than so long before its end.
const NOTICE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What stands on this machine of an upstream authority, looked at anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When the first of the certificates that sign ends: nothing below it is valid for longer.
    pub not_after: Timestamp,
    /// For how long that one is valid in all.
    pub lifetime: Duration,
    /// Why what the files hold now cannot be used, so that what they held before signs.
    pub refused: Option<String>,
}

/// What is wrong with it. Later ones are worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The certificate has to be replaced soon.
    Ends(Timestamp),
    /// The files cannot be used.
    Refused(String),
    /// The certificate has ended: no authority can be signed.
    Ended(Timestamp),
}

impl Standing {
    /// The worst of what is wrong now, for authorities that are to live for `ca_ttl`.
    pub fn trouble(&self, ca_ttl: Duration, now: Timestamp) -> Option<Trouble> {
        let left = self.not_after.since(now);
        let notice = (self.lifetime / LAST_PART).min(NOTICE_MAX).max(ca_ttl);
        match &self.refused {
            _ if left.is_zero() => Some(Trouble::Ended(self.not_after)),
            Some(text) => Some(Trouble::Refused(text.clone())),
            None => (left < notice).then_some(Trouble::Ends(self.not_after)),
        }
    }
}

impl Trouble {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "upstream_files",
            Self::Ends(_) | Self::Ended(_) => "upstream_ends",
        }
    }

    /// What is wrong.
    pub fn text(&self) -> String {
        match self {
            Self::Ends(at) => format!(
                "the upstream certificate of this member ends at {}; authorities end with it",
                time_text(*at)
            ),
            Self::Ended(at) => format!(
                "the upstream certificate of this member has ended at {}; no authority can be signed \
                 with it",
                time_text(*at)
            ),
            Self::Refused(text) => {
                format!(
                    "the upstream files of this member cannot be used, those before sign: {text}"
                )
            }
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Ends(_) | Self::Ended(_) => {
                "put a new CA certificate, with its key, into cert_file_path and key_file_path on every \
                 member; \"cluster rotate x509\" takes it into use at once"
            }
            Self::Refused(_) => {
                "mend the files that cert_file_path, key_file_path and bundle_file_path name; nothing \
                 needs a restart"
            }
        }
    }
}

/// Looks at the files until it is told to stop: a gauge for each look, a line in the log for what is new,
/// and another one each hour while it lasts.
pub async fn watch(
    upstream: Upstream,
    ca_ttl: Duration,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut known, mut looks) = (None, 0_u32);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        // Most sign elsewhere; and a file system that stands still is looked at again.
        let Some(standing) = upstream.look().await else { continue };
        let now = clock.now();
        let refused = f64::from(u8::from(standing.refused.is_some()));
        metrics::gauge!("spire_server_cluster_upstream_refused").set(refused);
        let left = standing.not_after.since(now).as_secs_f64();
        metrics::gauge!("spire_server_cluster_upstream_ends_in").set(left);
        let trouble = standing.trouble(ca_ttl, now);
        if trouble != known || looks.is_multiple_of(SAY_EVERY) {
            say(trouble.as_ref(), known.is_some());
            looks = 0;
        }
        (known, looks) = (trouble, looks + 1);
    }
}

fn say(trouble: Option<&Trouble>, was_wrong: bool) {
    match trouble {
        Some(trouble) => {
            tracing::warn!(
                reason = trouble.text(),
                fix = trouble.fix(),
                "Upstream CA needs an eye"
            );
        }
        None if was_wrong => tracing::info!("Upstream CA is in order again"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_warned_of_in_its_last_part_and_files_as_long_as_they_are_bad() {
        let standing = |lifetime, left: Duration, refused: Option<&str>| Standing {
            not_after: NOW.plus(left),
            lifetime,
            refused: refused.map(str::to_owned),
        };
        let (hour, year) = (DAY / 24, DAY * 365);
        let code =
            |standing: &Standing, ca_ttl| standing.trouble(ca_ttl, NOW).map(|one| one.code());
        let (ends, files) = (Some("upstream_ends"), Some("upstream_files"));
        for (what, lifetime, left, ca_ttl, expected) in [
            ("young", DAY * 90, DAY * 80, DAY, None),
            ("in its last part", DAY * 90, DAY * 14, DAY, ends),
            ("not yet in its last part", DAY * 90, DAY * 16, DAY, None),
            ("a long one is told of a month before", year * 10, DAY * 29, DAY, ends),
            ("and not years before", year * 10, DAY * 31, DAY, None),
            ("too short for the next authority", DAY * 90, DAY * 19, DAY * 20, ends),
            ("seconds that suffice", hour, hour / 5, Duration::from_secs(24), None),
        ] {
            assert_eq!(code(&standing(lifetime, left, None), ca_ttl), expected, "{what}");
        }
        assert_eq!(code(&standing(DAY * 90, DAY * 80, Some("no key")), DAY), files);
        assert_eq!(code(&standing(DAY * 90, DAY, Some("no key")), DAY), files, "mended first");
        let over = standing(DAY * 90, Duration::ZERO, Some("no key")).trouble(DAY, NOW).unwrap();
        assert_eq!(over, Trouble::Ended(NOW));
        assert_eq!(
            over.text(),
            "the upstream certificate of this member has ended at 2027-01-15T08:00:00Z; no authority can \
             be signed with it"
        );
    }

    #[test]
    fn what_is_wrong_is_logged_with_the_fix_and_its_end_once() {
        let lines = crate::logging::captured(|| {
            say(Some(&Trouble::Refused("no such file".to_owned())), false);
            say(None, true);
            say(None, false);
        });
        assert_eq!(
            lines,
            [
                "level=warning msg=\"Upstream CA needs an eye\" fix=\"mend the files that cert_file_path, \
                 key_file_path and bundle_file_path name; nothing needs a restart\" reason=\"the upstream \
                 files of this member cannot be used, those before sign: no such file\"",
                "level=info msg=\"Upstream CA is in order again\"",
            ]
        );
    }
}
