//! Private keys of authorities: sealed in the journal, opened in memory.
//!
//! Owns the form in which a private key enters the replicated log (`sealed`), the set of keys this
//! replica has opened (`ring`), the test that one signs (`trial`) and what SIGHUP does to the cluster
//! keys they are opened with (`reload`). What a key may sign, and when, is `authority`'s business; keys
//! held elsewhere (KMS, Vault, PKCS#11) would come in beside `ring`, behind the same `Signer`.

mod reload;
mod ring;
mod sealed;
mod trial;

pub use reload::KeyReload;
pub use ring::KeyRing;
pub use sealed::{
    OpenKeyError, SealContext, SealKeyError, ValueContext, open_key, open_value, seal_key,
    seal_key_under, seal_value,
};
pub use trial::{Tested, test_signature, test_signatures};
