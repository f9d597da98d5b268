//! What `cluster status` warns of about the bundle endpoint's certificate.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_federation::acme::Standing;

use super::context::Context;
use crate::logging::time_text;

/// What to do where the last attempt does not say it.
const FIX: &str = "see that the leader reaches directory_url and that port 443 of domain_name leads to the \
                   bundle endpoint of every replica; the leader's log says what it tries";

/// A certificate that is not there, or not renewed in time.
pub(super) fn warnings(context: &Context) -> Vec<rpc::Warning> {
    let Some(certificate) = &context.endpoint_certificate else { return Vec::new() };
    let domain = &certificate.settings.domain_name;
    let message = match certificate.standing(context.common_time()) {
        Ok(standing) => words(domain, &standing),
        Err(error) => Some(format!("the records of ACME cannot be read: {error}")),
    };
    let warning = |message| rpc::Warning {
        code: "endpoint_certificate".to_owned(),
        message,
        fix: FIX.to_owned(),
    };
    message.map(warning).into_iter().collect()
}

fn words(domain: &str, standing: &Standing) -> Option<String> {
    if !standing.is_late {
        return None;
    }
    let mut text = match standing.not_after {
        None => format!("the bundle endpoint has no certificate for {domain} yet"),
        Some(not_after) => format!(
            "the bundle endpoint's certificate for {domain} ends at {} and was not renewed",
            time_text(not_after)
        ),
    };
    if !standing.error.is_empty() {
        text = format!("{text}: {}", standing.error);
    }
    if let Some(next) = standing.next_attempt {
        text = format!("{text} (next attempt at {})", time_text(next));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::Timestamp;

    use super::*;

    #[test]
    fn it_says_what_is_wrong_and_when_it_is_tried_again() {
        let fine = Standing {
            not_after: Some(Timestamp::from_unix_s(1_800_000_000)),
            is_late: false,
            error: "refused".to_owned(),
            next_attempt: Some(Timestamp::from_unix_s(1_700_000_000)),
        };
        assert_eq!(words("a.test", &fine), None, "there is time");
        let late = Standing { is_late: true, ..fine };
        let expected = "the bundle endpoint's certificate for a.test ends at 2027-01-15T08:00:00Z and was \
                        not renewed: refused (next attempt at 2023-11-14T22:13:20Z)";
        assert_eq!(words("a.test", &late).as_deref(), Some(expected));
        let none = Standing { not_after: None, error: String::new(), next_attempt: None, ..late };
        let expected = "the bundle endpoint has no certificate for a.test yet";
        assert_eq!(words("a.test", &none).as_deref(), Some(expected));
    }
}
