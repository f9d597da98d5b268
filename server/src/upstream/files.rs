//! Files that operators put in place: read whole, errors with the path.

use std::fs;
use std::path::Path;

use steeple_spiffe_core::pem;
use zeroize::Zeroizing;

/// The certificates of a file in PEM, as DER.
pub(super) fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = read(path)?;
    pem::decode_certificates(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A file's text, wiped after use: it may be a key.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Zeroizing::new(text))
}
