//! Private keys where none may be: looked for in every form in which one could leak.
//!
//! Owns the forms: raw, hexadecimal, and base64 in both alphabets wherever its groups begin, which is
//! what DER, PEM and JWK come down to. Texts are searched as they are printed and without what breaks
//! their lines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;
use x509_parser::der_parser::ber::{BerObject, BerObjectContent};
use x509_parser::der_parser::der::parse_der;

/// Shorter ones would be found by chance.
const BYTES_MIN: usize = 16;

/// An integer of RSA that is no exponent of a public key.
const RSA_BYTES_MIN: usize = 64;

/// What stands before the scalar, or the numbers, of every private key in PKCS#8: version, algorithm,
/// and what wraps the rest.
const FRAMES: [(&str, &[u8]); 4] = [
    (
        "the frame of a P-256 key",
        &[
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
            0x04, 0x20,
        ],
    ),
    (
        "the frame of a P-384 key",
        &[
            0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x22, 0x04, 0x81, 0x9e, 0x30, 0x81, 0x9b, 0x02, 0x01, 0x01, 0x04,
            0x30,
        ],
    ),
    (
        "the frame of a P-521 key",
        &[
            0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x23, 0x04, 0x81, 0xd6, 0x30, 0x81, 0xd3, 0x02, 0x01, 0x01, 0x04,
            0x42,
        ],
    ),
    (
        "the frame of an RSA key",
        &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
            0x00, 0x04, 0x82,
        ],
    ),
];

/// What must not be found.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    forms: Vec<Form>,
}

/// One way to write one secret.
#[derive(Clone, Debug)]
struct Form {
    /// Of which secret, and how: never the secret.
    what: String,
    is_text: bool,
    bytes: Vec<u8>,
}

impl Secrets {
    /// Adds private bytes.
    ///
    /// # Errors
    ///
    /// They are so short that they would be found by chance.
    pub fn add(&mut self, name: &str, secret: &[u8]) -> Result<()> {
        let leading = secret.iter().take_while(|byte| **byte == 0).count();
        let secret = secret.get(leading..).unwrap_or_default();
        if secret.len() < BYTES_MIN {
            bail!("{name} has {} bytes only", secret.len());
        }
        let mut add = |how: &str, is_text: bool, bytes: Vec<u8>| {
            self.forms.push(Form { what: format!("{name}, {how}"), is_text, bytes });
        };
        add("raw", false, secret.to_vec());
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        add("in upper hexadecimal", true, hex.to_uppercase().into_bytes());
        add("in hexadecimal", true, hex.into_bytes());
        // Groups of three bytes begin at the secret's first, second or third.
        for skipped in 0..3 {
            let rest = secret.get(skipped..).unwrap_or_default();
            let whole = rest.get(..rest.len() - rest.len() % 3).unwrap_or_default();
            add("in base64", true, STANDARD_NO_PAD.encode(whole).into_bytes());
            add("in base64 of URLs", true, URL_SAFE_NO_PAD.encode(whole).into_bytes());
        }
        Ok(())
    }

    /// Adds the private numbers of a key in PKCS#8 (DER): the scalar of a curve, or RSA's.
    ///
    /// # Errors
    ///
    /// It is no such key.
    pub fn add_key(&mut self, name: &str, pkcs8: &[u8]) -> Result<()> {
        let mut numbers = Vec::new();
        collect(pkcs8, &mut numbers);
        if numbers.is_empty() {
            bail!("{name} has no private number");
        }
        numbers.iter().try_for_each(|number| self.add(name, number))
    }

    /// Adds what every private key in PKCS#8 begins with, so that keys are found that nobody here knows.
    ///
    /// # Panics
    ///
    /// Never: each is long enough.
    pub fn add_frames(&mut self) {
        for (name, frame) in FRAMES {
            self.add(name, frame).expect("a frame is long enough");
        }
    }

    /// How many ways of writing are looked for.
    pub fn forms(&self) -> usize {
        self.forms.len()
    }

    /// What of it is in there: `CA key, in base64`.
    pub fn found_in(&self, content: &[u8]) -> Vec<String> {
        let joined = join_lines(content);
        let is_in = |form: &&Form| {
            memmem::find(content, &form.bytes).is_some()
                || form.is_text && memmem::find(&joined, &form.bytes).is_some()
        };
        self.forms.iter().filter(is_in).map(|form| form.what.clone()).collect()
    }

    /// What of it is in the files of a folder and those below, but for some; and how many files were
    /// searched.
    pub fn found_below(&self, folder: &Path, except: &[PathBuf]) -> Result<(usize, Vec<String>)> {
        let (mut searched, mut found) = (0, Vec::new());
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
            for entry in entries {
                let entry = entry.context("read a folder")?;
                let (path, kind) = (entry.path(), entry.file_type().context("type of a file")?);
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && !except.contains(&path) {
                    let content = fs::read(&path).with_context(|| path.display().to_string())?;
                    let here = self.found_in(&content).into_iter();
                    found.extend(here.map(|what| format!("{}: {what}", path.display())));
                    searched += 1;
                }
            }
        }
        Ok((searched, found))
    }
}

/// Without what separates the lines and bytes of a printed key, also where a log has escaped it.
fn join_lines(content: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(content.len());
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escapes = byte == b'\\' && bytes.next_if(|next| matches!(next, b'n' | b'r')).is_some();
        if !escapes && !byte.is_ascii_whitespace() && byte != b':' {
            joined.push(byte);
        }
    }
    joined
}

/// The private numbers of a key: octet strings of curves, integers of RSA but the modulus.
fn collect(der: &[u8], numbers: &mut Vec<Vec<u8>>) {
    if let Ok((_, object)) = parse_der(der) {
        collect_from(&object, numbers);
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other types hold no private number")]
fn collect_from(object: &BerObject<'_>, numbers: &mut Vec<Vec<u8>>) {
    match &object.content {
        BerObjectContent::Sequence(parts) => {
            let big = |part: &&BerObject<'_>| matches!(&part.content, BerObjectContent::Integer(bytes) if bytes.len() >= RSA_BYTES_MIN);
            let modulus = parts.iter().position(|part| big(&part));
            for (at, part) in parts.iter().enumerate() {
                if Some(at) != modulus {
                    collect_from(part, numbers);
                }
            }
        }
        BerObjectContent::Integer(bytes) if bytes.len() >= RSA_BYTES_MIN => {
            numbers.push(bytes.to_vec());
        }
        BerObjectContent::OctetString(bytes) if matches!(bytes.len(), 32 | 48) => {
            numbers.push(bytes.to_vec());
        }
        BerObjectContent::OctetString(bytes) => collect(bytes, numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{KeyType, LocalSigner, Signer as _, pem};

    use super::*;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        for (key_type, numbers) in
            [(KeyType::EcP256, 1), (KeyType::EcP384, 1), (KeyType::Rsa2048, 6)]
        {
            let (_, pkcs8) = LocalSigner::generate(key_type).unwrap();
            let der = pkcs8.expose();
            let mut secrets = Secrets::default();
            secrets.add_key("the key", der).unwrap();
            assert_eq!(secrets.forms(), numbers * 9, "{key_type}");
            let text = pem::encode_private_key(der);
            let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
            let colons = der.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
            let shifted = [b"ab".as_slice(), der].concat();
            for written in [
                der.to_vec(),
                text.as_bytes().to_vec(),
                text.replace('\n', "\\n").into_bytes(),
                hex.into_bytes(),
                colons.into_bytes(),
                STANDARD_NO_PAD.encode(&shifted).into_bytes(),
                URL_SAFE_NO_PAD.encode(&shifted[1..]).into_bytes(),
            ] {
                let around = [b"before ".as_slice(), &written, b" after"].concat();
                let found = secrets.found_in(&around);
                assert!(!found.is_empty(), "{key_type}: {}", String::from_utf8_lossy(&written));
            }
            assert!(secrets.found_in(b"something else").is_empty());
        }
    }

    #[test]
    fn the_public_half_is_no_secret() {
        for key_type in [KeyType::EcP256, KeyType::Rsa2048] {
            let (signer, pkcs8) = LocalSigner::generate(key_type).unwrap();
            let mut secrets = Secrets::default();
            secrets.add_key("the key", pkcs8.expose()).unwrap();
            assert!(secrets.found_in(signer.public_key_spki()).is_empty());
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_found_by_its_frame_and_a_public_one_is_not() {
        let mut secrets = Secrets::default();
        secrets.add_frames();
        for key_type in
            [KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa2048, KeyType::Rsa4096]
        {
            let (signer, pkcs8) = LocalSigner::generate(key_type).unwrap();
            let text = pem::encode_private_key(pkcs8.expose());
            for written in [pkcs8.expose(), text.as_bytes()] {
                assert!(!secrets.found_in(written).is_empty(), "{key_type}");
            }
            assert!(secrets.found_in(signer.public_key_spki()).is_empty(), "{key_type}");
        }
    }

    #[test]
    fn every_file_below_is_searched_but_for_the_exceptions() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let (leak, kept) = (deep.join("leak"), folder.path().join("kept"));
        let secret = *b"sixteen bytes +.";
        for path in [&leak, &kept] {
            fs::write(path, [b"x".as_slice(), &secret].concat()).unwrap();
        }
        let mut secrets = Secrets::default();
        secrets.add("it", &secret).unwrap();
        secrets.add("short", b"short").unwrap_err();
        let (searched, found) = secrets.found_below(folder.path(), &[kept]).unwrap();
        assert_eq!((searched, found), (1, vec![format!("{}: it, raw", leak.display())]));
    }
}
