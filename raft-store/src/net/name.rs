//! What a peer certificate says: the URI in its subject alternative name, parsed and printed.
//!
//! Owns the two forms and nothing of certificates. `steeple://<cluster id>/<member id>` names a
//! member; `steeple://name/<cluster name>/<member id>` one that knows no cluster id yet, which is good
//! for Hello, Adopt and Join only.

use std::fmt;

use crate::ids::{ClusterId, MemberId};

/// Who a peer certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerName {
    /// A member of a cluster.
    Member {
        /// Which cluster.
        cluster: ClusterId,
        /// Which member.
        member: MemberId,
    },
    /// One that is about to form or join the cluster of that name.
    Newcomer {
        /// The configured cluster name.
        cluster_name: String,
        /// Which member.
        member: MemberId,
    },
}

const SCHEME: &str = "steeple://";

/// A cluster id has 32 characters, so that no id reads `name`.
const NEWCOMER: &str = "name";

impl PeerName {
    /// From the URI of a certificate; `None` if it is not one of the two forms, letter by letter.
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix(SCHEME)?;
        let (first, rest) = path.split_once('/')?;
        if first == NEWCOMER {
            let (name, member) = rest.rsplit_once('/')?;
            let cluster_name = unescape(name)?;
            return Some(Self::Newcomer { cluster_name, member: parse_member(member)? });
        }
        Some(Self::Member { cluster: parse_cluster(first)?, member: parse_member(rest)? })
    }

    /// Which member it names, in either form.
    pub(crate) fn member(&self) -> MemberId {
        match self {
            Self::Member { member, .. } | Self::Newcomer { member, .. } => *member,
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member { cluster, member } => write!(f, "{SCHEME}{cluster}/{member}"),
            Self::Newcomer { cluster_name, member } => {
                write!(f, "{SCHEME}{NEWCOMER}/{}/{member}", escape(cluster_name))
            }
        }
    }
}

fn parse_cluster(text: &str) -> Option<ClusterId> {
    let canonical = text.len() == 32 && text.bytes().all(is_lower_hex);
    canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(ClusterId)
}

fn parse_member(text: &str) -> Option<MemberId> {
    let canonical = text.len() == 16 && text.bytes().all(is_lower_hex);
    canonical.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(MemberId)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// A cluster name is free text, a URI is ASCII: everything else becomes `%xx`.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02x}"));
        }
    }
    escaped
}

fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(first) = rest.chars().next() {
        if first == '%' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = rest.get(3..)?;
        } else {
            bytes.push(u8::try_from(first).ok()?);
            rest = rest.get(first.len_utf8()..)?;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    // One spelling for each name, so that two certificates never name one member differently.
    (escape(&name) == escaped).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_and_parsed_back() {
        let member = MemberId(0x1f);
        let cluster = ClusterId(7);
        let cases = [
            PeerName::Member { cluster, member },
            PeerName::Newcomer { cluster_name: "prod".to_owned(), member },
            PeerName::Newcomer { cluster_name: "a b/ü%".to_owned(), member },
            PeerName::Newcomer { cluster_name: String::new(), member },
        ];
        for name in cases {
            assert_eq!(PeerName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            "",
            "spiffe://prod/000000000000001f",
            "steeple://",
            "steeple://00000000000000000000000000000007",
            "steeple://00000000000000000000000000000007/",
            "steeple://00000000000000000000000000000007/1f",
            "steeple://00000000000000000000000000000007/000000000000001F",
            "steeple://00000000000000000000000000000007/000000000000001f/",
            "steeple://7/000000000000001f",
            "steeple://name/000000000000001f",
            "steeple://name/prod/1f",
            "steeple://name/a b/000000000000001f",
            "steeple://name/a%2/000000000000001f",
            "steeple://name/%61/000000000000001f",
            "steeple://name/%ff/000000000000001f",
        ];
        for uri in cases {
            assert_eq!(PeerName::parse(uri), None, "{uri}");
        }
    }
}
