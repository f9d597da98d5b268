//! Where servers are: host and port as configured, resolved anew at each dial.
//!
//! Owns parsing and resolving. One name may stand for several servers; all of them are tried.

use std::fmt;
use std::net::SocketAddr;

/// A configured server address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// A configured address is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No host.
    #[error("server address \"{0}\" has no host")]
    NoHost(String),
    /// No port, or not a number from 1 to 65535.
    #[error("server address \"{0}\" must be formatted as host:port")]
    NoPort(String),
}

impl ServerAddress {
    /// From a host name or IP address and a port; brackets around an IPv6 address are taken off.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(AddressError::NoHost(host.to_owned()));
        }
        Ok(Self { host: bare.to_owned(), port })
    }

    /// Parses `host:port`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let bad_port = || AddressError::NoPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad_port)?;
        let port: u16 = port.parse().map_err(|_not_a_number| bad_port())?;
        if port == 0 {
            return Err(bad_port());
        }
        Self::new(host, port).map_err(|_no_host| AddressError::NoHost(text.to_owned()))
    }

    /// The host as configured, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks the resolver; several answers are several servers.
    pub(super) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let cases = [
            ("server:8081", Some("server:8081")),
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[::1]:8081", Some("[::1]:8081")),
            ("server", None),
            ("server:", None),
            ("server:0", None),
            ("server:70000", None),
            (":8081", None),
            ("", None),
        ];
        for (text, want) in cases {
            let got = ServerAddress::parse(text).ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }
}
