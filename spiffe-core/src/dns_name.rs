//! DNS names in entries, certificate requests and certificates.
//!
//! Owns the check that SPIRE applies: ASCII, IDNA's label rules, at most one wildcard and that as the
//! whole first label, no trailing dot. Two corners differ from SPIRE's library: characters that no
//! host name has (a space, a slash, a colon …) are refused here and let through there; punycode is
//! not decoded here, so that an `xn--` label which decodes to nothing passes.

/// Why a DNS name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// The name is empty.
    #[error("empty or only whitespace")]
    Empty,
    /// A character is not ASCII.
    #[error("name must be ascii")]
    NotAscii,
    /// The name ends with a dot.
    #[error("domain ends with dot")]
    TrailingDot,
    /// The name is longer than 253 bytes.
    #[error("idna error\nidna: invalid label {0:?}")]
    TooLong(String),
    /// More than one asterisk.
    #[error("too many wildcards")]
    TooManyWildcards,
    /// An asterisk elsewhere than as the whole first label of several.
    #[error("wildcard must be first label")]
    MisplacedWildcard,
    /// Two dots in a row, or one at the start.
    #[error("idna error\nidna: invalid label {0:?}")]
    EmptyLabel(String),
    /// A label of more than 63 bytes.
    #[error("idna error\nidna: invalid label {0:?}")]
    LabelTooLong(String),
    /// A character outside letters, digits, the dash and the underscore.
    #[error("label contains an invalid character")]
    BadCharacter,
    /// A label starts or ends with a dash.
    #[error("idna error\nidna: invalid label {0:?}")]
    EdgeDash(String),
    /// Dashes in the third and fourth place of a label that is no `xn--` label.
    #[error("idna error\nidna: invalid label {0:?}")]
    ReservedDashes(String),
    /// A name that a wildcard of the same list already covers.
    #[error("name \"{0}\" overlaps with an existing wildcard name in the list: wildcard overlap")]
    WildcardOverlap(String),
}

/// Checks one DNS name.
pub fn check_dns_name(name: &str) -> Result<(), DnsNameError> {
    if name.trim().is_empty() {
        return Err(DnsNameError::Empty);
    }
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    if name.ends_with('.') {
        return Err(DnsNameError::TrailingDot);
    }
    if name.len() > 253 {
        return Err(DnsNameError::TooLong(name.to_owned()));
    }
    let plain = match name.matches('*').count() {
        0 => name,
        1 => name.strip_prefix("*.").ok_or(DnsNameError::MisplacedWildcard)?,
        _ => return Err(DnsNameError::TooManyWildcards),
    };
    if plain.split('.').any(str::is_empty) {
        return Err(DnsNameError::EmptyLabel(plain.to_owned()));
    }
    plain.split('.').try_for_each(check_label)
}

/// Checks that no name of the list is covered by a wildcard of the list (SPIRE: MintX509SVID).
pub fn check_wildcard_overlap(names: &[String]) -> Result<(), DnsNameError> {
    for name in names.iter().filter(|name| !name.starts_with('*')) {
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        let covers = |other: &String| other.strip_prefix("*.") == Some(parent);
        if !parent.is_empty() && names.iter().any(covers) {
            return Err(DnsNameError::WildcardOverlap(name.clone()));
        }
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), DnsNameError> {
    if label.len() > 63 {
        return Err(DnsNameError::LabelTooLong(label.to_owned()));
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Err(DnsNameError::BadCharacter);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(DnsNameError::EdgeDash(label.to_owned()));
    }
    let reserved = label.get(2..4) == Some("--");
    if reserved && !label.starts_with("xn") {
        return Err(DnsNameError::ReservedDashes(label.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_spire_judges_them() {
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(127);
        let cases: [(&str, Result<(), DnsNameError>); 24] = [
            ("example.org", Ok(())),
            ("localhost", Ok(())),
            ("*.example.org", Ok(())),
            ("xn--bcher-kva.example", Ok(())),
            ("10-0-0-1.default.pod.cluster.local", Ok(())),
            ("", Err(DnsNameError::Empty)),
            ("  ", Err(DnsNameError::Empty)),
            ("bücher.example", Err(DnsNameError::NotAscii)),
            ("example.org.", Err(DnsNameError::TrailingDot)),
            (long_name.trim_end_matches('.'), Ok(())),
            ("*", Err(DnsNameError::MisplacedWildcard)),
            ("a.*.example", Err(DnsNameError::MisplacedWildcard)),
            ("*a.example", Err(DnsNameError::MisplacedWildcard)),
            ("*.*.example", Err(DnsNameError::TooManyWildcards)),
            ("a..example", Err(DnsNameError::EmptyLabel("a..example".to_owned()))),
            ("under_score.example", Ok(())),
            ("Example.ORG", Ok(())),
            ("abc--d.example", Ok(())),
            ("a b.example", Err(DnsNameError::BadCharacter)),
            ("a/b.example", Err(DnsNameError::BadCharacter)),
            (
                "XN--bcher-kva.example",
                Err(DnsNameError::ReservedDashes("XN--bcher-kva".to_owned())),
            ),
            ("-a.example", Err(DnsNameError::EdgeDash("-a".to_owned()))),
            ("ab--c.example", Err(DnsNameError::ReservedDashes("ab--c".to_owned()))),
            (&long_label, Err(DnsNameError::LabelTooLong(long_label.clone()))),
        ];
        for (name, expected) in cases {
            assert_eq!(check_dns_name(name), expected, "{name:?}");
        }
        let long = "a.".repeat(128)[..255].to_owned();
        assert_eq!(check_dns_name(&long), Err(DnsNameError::TooLong(long.clone())));
    }

    #[test]
    fn labels_are_refused_in_the_words_recorded_from_spire_1_15_3() {
        let long_label = "a".repeat(64);
        let long_name = format!("{long_label}.org");
        for (name, named) in
            [("a..b", "a..b"), ("-a.b", "-a"), (long_name.as_str(), long_label.as_str())]
        {
            let error = check_dns_name(name).unwrap_err().to_string();
            assert_eq!(error, format!("idna error\nidna: invalid label \"{named}\""));
        }
    }

    #[test]
    fn wildcards_may_not_cover_other_names_of_the_list() {
        let cases = [
            (&["example.com", "*.example.com"][..], None),
            (&["example.com", "*.example.com", "foo.example.com"], Some("foo.example.com")),
            (&["foo.example.com", "*.example.com"], Some("foo.example.com")),
            (&["*.example.com", "foo.bar.example.com"], None),
            (&["localhost"], None),
            (&["*.example.com", "example.com"], None),
            (&["*.example.com"], None),
        ];
        for (names, covered) in cases {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let expected = covered.map(|name| DnsNameError::WildcardOverlap(name.to_owned()));
            assert_eq!(check_wildcard_overlap(&names).err(), expected, "{names:?}");
        }
    }
}
