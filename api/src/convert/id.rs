//! SPIFFE ids and trust domains of requests.
//!
//! Owns the three kinds of id a request may ask for (member, workload, agent) and SPIRE's texts
//! about them. The grammar is `steeple-spiffe-core`'s.

use steeple_spiffe_core::id::SpiffeIdError;
use steeple_spiffe_core::trust_domain::TrustDomainError;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::pb;

/// Why an id is refused. Texts are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The message has no id.
    #[error("request must specify SPIFFE ID")]
    Missing,
    /// The trust domain is malformed.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// The path is malformed.
    #[error(transparent)]
    Path(#[from] SpiffeIdError),
    /// The id is of another trust domain.
    #[error("\"{id}\" is not a member of trust domain \"{trust_domain}\"")]
    Foreign {
        /// The refused id.
        id: SpiffeId,
        /// The server's trust domain.
        trust_domain: TrustDomain,
    },
    /// The path is not one of the wanted kind.
    #[error("\"{id}\" is not {wanted} trust domain \"{trust_domain}\"; path is {problem}")]
    WrongPath {
        /// The refused id.
        id: SpiffeId,
        /// The server's trust domain.
        trust_domain: TrustDomain,
        /// What the id had to be, with its preposition: `a workload in`.
        wanted: &'static str,
        /// What is wrong with the path.
        problem: &'static str,
    },
}

/// The message of an id.
pub fn to_pb(id: &SpiffeId) -> pb::types::Spiffeid {
    pb::types::Spiffeid {
        trust_domain: id.trust_domain().as_str().to_owned(),
        path: id.path().to_owned(),
    }
}

/// Any SPIFFE id, of whatever trust domain, with or without a path.
pub fn any_id(message: Option<&pb::types::Spiffeid>) -> Result<SpiffeId, IdError> {
    let message = message.ok_or(IdError::Missing)?;
    let trust_domain = TrustDomain::parse_name_or_id(&message.trust_domain)?;
    Ok(SpiffeId::new(trust_domain, &message.path)?)
}

/// An id of the trust domain, with a path.
pub fn member_id(
    message: Option<&pb::types::Spiffeid>,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, IdError> {
    let id = any_id(message)?;
    check_member(&id, trust_domain)?;
    Ok(id)
}

/// An id that a workload may have: a member outside the reserved paths.
pub fn workload_id(
    message: Option<&pb::types::Spiffeid>,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, IdError> {
    let id = any_id(message)?;
    check_workload(&id, trust_domain)?;
    Ok(id)
}

/// The id of an agent: a member below `/spire/agent/`.
pub fn agent_id(
    message: Option<&pb::types::Spiffeid>,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, IdError> {
    let id = any_id(message)?;
    check_agent(&id, trust_domain)?;
    Ok(id)
}

/// A trust domain, given as a name or as a SPIFFE id.
pub fn trust_domain(text: &str) -> Result<TrustDomain, TrustDomainError> {
    TrustDomain::parse_name_or_id(text)
}

/// Checks that an id is one of the trust domain, with a path.
pub fn check_member(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IdError> {
    check(id, trust_domain, "a member of", |_| None)
}

/// Checks that an id is one that a workload may have.
pub fn check_workload(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IdError> {
    check(id, trust_domain, "a workload in", |id| {
        id.is_reserved().then_some("in the reserved namespace")
    })
}

/// Checks that an id is one of an agent.
pub fn check_agent(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IdError> {
    check(id, trust_domain, "an agent in", |id| {
        (!id.is_agent()).then_some("not in the agent namespace")
    })
}

fn check(
    id: &SpiffeId,
    trust_domain: &TrustDomain,
    wanted: &'static str,
    path_problem: impl FnOnce(&SpiffeId) -> Option<&'static str>,
) -> Result<(), IdError> {
    if !id.is_member_of(trust_domain) {
        return Err(IdError::Foreign { id: id.clone(), trust_domain: trust_domain.clone() });
    }
    let problem = if id.path().is_empty() { Some("empty") } else { path_problem(id) };
    match problem {
        None => Ok(()),
        Some(problem) => Err(IdError::WrongPath {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
            wanted,
            problem,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(Option<&pb::types::Spiffeid>, &TrustDomain) -> Result<SpiffeId, IdError>;

    fn message(trust_domain: &str, path: &str) -> pb::types::Spiffeid {
        pb::types::Spiffeid { trust_domain: trust_domain.to_owned(), path: path.to_owned() }
    }

    fn example_org() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    #[test]
    fn each_kind_of_id_takes_its_own_paths() {
        let table: [(Check, &str); 6] = [
            (member_id, "/web"),
            (member_id, "/spire/server"),
            (member_id, "/spire/agent/join_token/x"),
            (workload_id, "/ns/a.b/sa-c_d/E"),
            (workload_id, "/spirex"),
            (agent_id, "/spire/agent/join_token/x"),
        ];
        for (check, path) in table {
            let id = check(Some(&message("example.org", path)), &example_org()).unwrap();
            assert_eq!(id.path(), path);
            assert_eq!(to_pb(&id), message("example.org", path));
        }
    }

    #[test]
    fn an_id_of_the_wrong_kind_is_named_with_the_reason() {
        let reserved = "; path is in the reserved namespace";
        let no_agent = "; path is not in the agent namespace";
        let table: [(Check, &str, &str, &str, &str); 9] = [
            (member_id, "other.org", "/web", "a member of", ""),
            (workload_id, "other.org", "/web", "a member of", ""),
            (agent_id, "other.org", "", "a member of", ""),
            (member_id, "example.org", "", "a member of", "; path is empty"),
            (workload_id, "example.org", "", "a workload in", "; path is empty"),
            (agent_id, "example.org", "", "an agent in", "; path is empty"),
            (workload_id, "example.org", "/spire", "a workload in", reserved),
            (workload_id, "example.org", "/spire/agent/x", "a workload in", reserved),
            (agent_id, "example.org", "/spire/server", "an agent in", no_agent),
        ];
        for (check, trust_domain, path, wanted, problem) in table {
            let error = check(Some(&message(trust_domain, path)), &example_org()).unwrap_err();
            let text = format!(
                "\"spiffe://{trust_domain}{path}\" is not {wanted} trust domain \"example.org\"\
                 {problem}"
            );
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_malformed_id_is_refused_with_the_text_of_its_grammar() {
        let table = [
            ("", "/web", "trust domain is missing"),
            (
                "Example.org",
                "/web",
                "trust domain characters are limited to lowercase letters, numbers, dots, dashes, \
                 and underscores",
            ),
            ("example.org", "web", "path must have a leading slash"),
            ("example.org", "/web/", "path cannot have a trailing slash"),
            ("example.org", "/a//b", "path cannot contain empty segments"),
            ("example.org", "/a/../b", "path cannot contain dot segments"),
        ];
        for (trust_domain, path, text) in table {
            let error = member_id(Some(&message(trust_domain, path)), &example_org()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn an_absent_id_is_asked_for() {
        let checks: [Check; 3] = [member_id, workload_id, agent_id];
        for check in checks {
            let error = check(None, &example_org()).unwrap_err();
            assert_eq!(error.to_string(), "request must specify SPIFFE ID");
        }
    }

    #[test]
    fn a_trust_domain_may_be_a_name_or_an_id() {
        for text in ["example.org", "spiffe://example.org", "spiffe://example.org/web"] {
            assert_eq!(trust_domain(text).unwrap(), example_org(), "{text}");
        }
        assert!(trust_domain("http://example.org").is_err());
    }
}
