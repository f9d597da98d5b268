//! Key types and secrets.
//!
//! Owns the names of key types as SPIRE's configuration spells them, and a wrapper that keeps
//! private bytes out of logs and wipes them.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

/// Kinds of keys that authorities and SVIDs may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// ECDSA on P-256: `ec-p256`, the default.
    #[default]
    EcP256,
    /// ECDSA on P-384: `ec-p384`.
    EcP384,
    /// ECDSA on P-521: `ec-p521`. Authorities that somebody else made may have it; it cannot be
    /// configured, as in SPIRE.
    EcP521,
    /// RSA of 2048 bits: `rsa-2048`.
    Rsa2048,
    /// RSA of 4096 bits: `rsa-4096`.
    Rsa4096,
}

impl KeyType {
    /// SPIRE's spelling in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::EcP521 => "ec-p521",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The configuration names no key type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key type \"{0}\" is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyType(String);

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.to_ascii_lowercase().as_str() {
            "ec-p256" => Ok(Self::EcP256),
            "ec-p384" => Ok(Self::EcP384),
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-4096" => Ok(Self::Rsa4096),
            _ => Err(UnknownKeyType(name.to_owned())),
        }
    }
}

/// Private bytes: wiped when dropped, never printed, never serialised.
///
/// ```compile_fail
/// let secret = steeple_spiffe_core::Secret::new(vec![1]);
/// println!("{:?}", secret);
/// ```
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a secret must not be printable")]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes private bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The private bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_types_read_in_any_case_and_print_as_configured() {
        for name in ["ec-p256", "ec-p384", "rsa-2048", "rsa-4096"] {
            let read: KeyType = name.to_uppercase().parse().unwrap();
            assert_eq!(read.to_string(), name);
        }
        let error = "ec-p521".parse::<KeyType>().unwrap_err().to_string();
        assert_eq!(
            error,
            "key type \"ec-p521\" is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]"
        );
    }
}
