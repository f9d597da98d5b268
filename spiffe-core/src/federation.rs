//! Federation relationships: where the bundle of a foreign trust domain is fetched, and how the
//! endpoint that serves it is authenticated.
//!
//! Owns the checks that SPIRE makes on the endpoint's URL: https, a host, no user information. Stricter
//! than SPIRE in one way: characters that have to be percent-encoded are refused where SPIRE encodes
//! them by itself.

use std::fmt;

use crate::id::SpiffeId;
use crate::limits::ENDPOINT_URL_BYTES_MAX;
use crate::trust_domain::TrustDomain;

/// How one foreign trust domain is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationRelationship {
    /// Whose bundle is fetched.
    pub trust_domain: TrustDomain,
    /// Where.
    pub endpoint_url: EndpointUrl,
    /// From whom.
    pub profile: EndpointProfile,
}

/// How a bundle endpoint is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By the authorities that the system trusts, and by host name.
    HttpsWeb,
    /// By its SPIFFE id, whose trust domain may be another than the federated one.
    HttpsSpiffe {
        /// The only id that may serve.
        endpoint_id: SpiffeId,
    },
}

/// The checked URL of a bundle endpoint, its scheme in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl(String);

/// Why a text is no URL of a bundle endpoint. Texts are SPIRE's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    /// It is no URL.
    #[error("failed to parse bundle endpoint URL: parse {url:?}: {reason}")]
    Malformed {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another scheme, or none.
    #[error("bundle endpoint URL must use the https scheme")]
    NotHttps,
    /// No host.
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    /// A user name, which would be sent to whoever answers.
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    /// Longer than [`ENDPOINT_URL_BYTES_MAX`].
    #[error("bundle endpoint URL is longer than {ENDPOINT_URL_BYTES_MAX} bytes")]
    TooLong,
}

impl EndpointUrl {
    /// Parses an absolute https URL.
    ///
    /// # Errors
    ///
    /// If it is no URL that bundles may be fetched from.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > ENDPOINT_URL_BYTES_MAX {
            return Err(EndpointUrlError::TooLong);
        }
        let malformed = |reason| EndpointUrlError::Malformed { url: text.to_owned(), reason };
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(malformed("net/url: invalid control character in URL".to_owned()));
        }
        let (scheme, rest) = split_scheme(text).map_err(|reason| malformed(reason.to_owned()))?;
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(EndpointUrlError::NotHttps);
        }
        let Some(rest) = rest.strip_prefix("//") else { return Err(EndpointUrlError::NoHost) };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let has_host = check_place(place).map_err(malformed)?;
        check_tail(tail).map_err(malformed)?;
        match (has_host, user) {
            (false, _) => Err(EndpointUrlError::NoHost),
            (true, Some(_)) => Err(EndpointUrlError::UserInfo),
            (true, None) => Ok(Self(format!("https://{rest}"))),
        }
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scheme, or nothing, and what is behind its colon.
fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    match text.split_once(':') {
        Some(("", _)) => Err("missing protocol scheme"),
        Some((scheme, rest))
            if scheme.bytes().all(is_scheme) && scheme.starts_with(|c: char| c.is_alphabetic()) =>
        {
            Ok((scheme, rest))
        }
        Some((first, _)) if !first.contains(['/', '?', '#']) => {
            Err("first path segment in URL cannot contain colon")
        }
        Some(_) | None => Ok(("", text)),
    }
}

/// Checks host and port; false if there is no host.
fn check_place(place: &str) -> Result<bool, String> {
    let (host, port) = if place.starts_with('[') {
        let end = place.rfind(']').ok_or("missing ']' in host")?;
        let (host, port) = place.split_at(end + 1);
        (host, port)
    } else {
        place.split_at(place.rfind(':').unwrap_or(place.len()))
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || (port == digits && !port.is_empty()) {
        return Err(format!("invalid port {port:?} after host"));
    }
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_known = |c: &char| match name {
        Some(_) => c.is_ascii_hexdigit() || matches!(c, ':' | '.'),
        None => c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~'),
    };
    let name = name.unwrap_or(host);
    match name.chars().find(|c| !is_known(c)) {
        Some(wrong) => Err(format!("invalid character {:?} in host name", wrong.to_string())),
        None => Ok(!name.is_empty()),
    }
}

/// Checks path, query and fragment.
fn check_tail(tail: &str) -> Result<(), String> {
    let wrong = |c: &char| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c);
    if let Some(wrong) = tail.chars().find(wrong) {
        return Err(format!("invalid character {:?} in URL: percent-encode it", wrong.to_string()));
    }
    for (at, _) in tail.match_indices('%') {
        let escape = tail.get(at..(at + 3).min(tail.len())).unwrap_or_default();
        let is_escape =
            escape.len() == 3 && escape.bytes().skip(1).all(|byte| byte.is_ascii_hexdigit());
        if !is_escape {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_urls_with_a_host_are_kept_as_they_are() {
        for url in [
            "https://example.org",
            "https://example.org/",
            "https://example.org:8443/bundle?of=us#x",
            "https://example.org:/bundle",
            "https://127.0.0.1:1/a%20b",
            "https://[::1]:8443/bundle",
            "https://under_score.test/@not-a-user",
        ] {
            assert_eq!(EndpointUrl::parse(url).unwrap().as_str(), url);
        }
        let upper = EndpointUrl::parse("HTTPS://Example.org/A").unwrap();
        assert_eq!(upper.to_string(), "https://Example.org/A");
    }

    #[test]
    fn what_bundles_may_not_be_fetched_from_is_refused_in_spires_words() {
        let not_https = "bundle endpoint URL must use the https scheme";
        let no_host = "bundle endpoint URL must specify the host";
        let user = "bundle endpoint URL must not contain user info";
        for (url, text) in [
            ("", not_https),
            ("http://example.org", not_https),
            ("http://user@example.org", not_https),
            ("example.org/bundle", not_https),
            ("example.org:8443/bundle", not_https),
            ("/bundle:x", not_https),
            ("https:", no_host),
            ("https:/bundle", no_host),
            ("https:example.org", no_host),
            ("https:///bundle", no_host),
            ("https://?x", no_host),
            ("https://:8443/bundle", no_host),
            ("https://[]:1", no_host),
            ("https://user@", no_host),
            ("https://user@example.org", user),
            ("https://user:password@example.org/x", user),
            ("https://@example.org", user),
        ] {
            assert_eq!(EndpointUrl::parse(url).unwrap_err().to_string(), text, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_its_reason() {
        for (url, reason) in [
            ("https://exa mple.org", "invalid character \" \" in host name"),
            ("https://example.org\\x", "invalid character \"\\\\\" in host name"),
            ("https://ex\u{e4}mple.org", "invalid character \"\u{e4}\" in host name"),
            ("https://example.org:x", "invalid port \":x\" after host"),
            ("https://example.org:-1/", "invalid port \":-1\" after host"),
            ("https://[::1", "missing ']' in host"),
            ("https://[::1]x", "invalid port \"x\" after host"),
            ("https://[::g]", "invalid character \"g\" in host name"),
            ("https://example.org/%zz", "invalid URL escape \"%zz\""),
            ("https://example.org/%1", "invalid URL escape \"%1\""),
            ("https://example.org/a b", "invalid character \" \" in URL: percent-encode it"),
            ("https://example.org/\n", "net/url: invalid control character in URL"),
            ("127.0.0.1:8443/x", "first path segment in URL cannot contain colon"),
            ("://example.org", "missing protocol scheme"),
        ] {
            let text = EndpointUrl::parse(url).unwrap_err().to_string();
            let expected = format!("failed to parse bundle endpoint URL: parse {url:?}: {reason}");
            assert_eq!(text, expected);
        }
        let long = format!("https://example.org/{}", "x".repeat(ENDPOINT_URL_BYTES_MAX));
        assert_eq!(EndpointUrl::parse(&long), Err(EndpointUrlError::TooLong));
    }
}
