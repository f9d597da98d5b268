//! What the operator says about the certificate.

/// Where certificates are ordered unless the file says otherwise (SPIRE: the same).
pub const LETS_ENCRYPT_URL: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// An `acme` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// `directory_url`: the server of certificates.
    pub directory_url: String,
    /// `domain_name`: the name that the certificate is for, in lower case.
    pub domain_name: String,
    /// `email`: where the server may write to; `None`: it is not told.
    pub email: Option<String>,
    /// `tos_accepted`: whether the server's terms of service are agreed to.
    pub tos_accepted: bool,
}
