//! The line of `cluster check` about the files of an upstream authority. Pure.

use std::time::Duration;

use steeple_spiffe_core::Timestamp;

use super::Verdict;
use crate::upstream::{Standing, Trouble};

const DOC: &str = "docs/reference/upstream.md#upstreamauthority-disk";

/// Judges what stands on this machine, for authorities that are to live for `ca_ttl`. `name`: the upstream
/// authority that is configured.
pub(super) fn judge(
    name: Option<&'static str>,
    standing: Option<Standing>,
    ca_ttl: Duration,
    now: Timestamp,
) -> Verdict {
    let line = |text: String| Verdict::ok("upstream", DOC, text);
    let Some(name) = name else { return line("no upstream authority is configured".to_owned()) };
    let Some(standing) = standing else {
        return match name {
            "disk" => line(String::new()).warn(
                "the files of disk could not be looked at within 5 s",
                "see that the file system on which they are answers",
            ),
            elsewhere => line(format!("{elsewhere} signs elsewhere; whoever leads asks it")),
        };
    };
    match standing.trouble(ca_ttl, now) {
        None => {
            let left = standing.not_after.since(now).as_secs() / 60;
            line(format!("the files of {name} can be used, their certificate ends in {left} min"))
        }
        Some(trouble @ (Trouble::Ends(_) | Trouble::Refused(_))) => {
            line(String::new()).warn(trouble.text(), trouble.fix())
        }
        Some(trouble @ Trouble::Ended(_)) => {
            line(String::new()).fail(trouble.text(), trouble.fix())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome::{Fail, Ok, Warn};

    const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn files_are_judged_by_their_use_and_their_end() {
        let standing = |left: u32, refused: Option<&str>| {
            let (not_after, refused) = (NOW.plus(DAY * left), refused.map(str::to_owned));
            Some(Standing { not_after, lifetime: DAY * 90, refused })
        };
        for (name, standing, outcome, text) in [
            (None, None, Ok, "no upstream authority is configured"),
            (Some("vault"), None, Ok, "vault signs elsewhere"),
            (Some("disk"), None, Warn, "could not be looked at within 5 s"),
            (Some("disk"), standing(80, None), Ok, "their certificate ends in 115200 min"),
            (Some("disk"), standing(80, Some("no key")), Warn, "those before sign: no key"),
            (Some("disk"), standing(10, None), Warn, "ends at 2027-01-25T08:00:00Z"),
            (Some("disk"), standing(0, None), Fail, "has ended at 2027-01-15T08:00:00Z"),
        ] {
            let verdict = judge(name, standing, DAY, NOW);
            assert_eq!((verdict.name, verdict.outcome), ("upstream", outcome), "{text}");
            assert!(verdict.text.contains(text), "{verdict:?}");
            assert_eq!(verdict.hint.is_empty(), outcome == Ok, "{verdict:?}");
        }
    }
}
