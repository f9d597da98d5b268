//! Values that are kept sealed, and the command that writes one.

use crate::codec::{CodecError, sealed_key_from_pb, sealed_key_to_pb};
use crate::command::WriteSealed;
use crate::pb;
use crate::sealed_values::{SealedName, SealedValue};

pub(crate) fn sealed_value_to_pb(name: SealedName, value: &SealedValue) -> pb::store::SealedRow {
    pb::store::SealedRow {
        name: name_to_pb(name),
        version: value.version,
        sealed: Some(sealed_key_to_pb(&value.sealed)),
    }
}

pub(crate) fn sealed_value_from_pb(
    row: pb::store::SealedRow,
) -> Result<(SealedName, SealedValue), CodecError> {
    let sealed = row.sealed.ok_or_else(|| CodecError::missing("sealed value"))?;
    let value = SealedValue { version: row.version, sealed: sealed_key_from_pb(sealed) };
    Ok((name_from_pb(row.name)?, value))
}

pub(super) fn write_sealed_to_pb(write: &WriteSealed) -> pb::store::WriteSealed {
    pb::store::WriteSealed {
        name: name_to_pb(write.name),
        expected: write.expected,
        sealed: Some(sealed_key_to_pb(&write.sealed)),
    }
}

pub(super) fn write_sealed_from_pb(
    write: pb::store::WriteSealed,
) -> Result<WriteSealed, CodecError> {
    let sealed = write.sealed.ok_or_else(|| CodecError::missing("sealed value"))?;
    Ok(WriteSealed {
        name: name_from_pb(write.name)?,
        expected: write.expected,
        sealed: sealed_key_from_pb(sealed),
    })
}

fn name_to_pb(name: SealedName) -> i32 {
    let name = match name {
        SealedName::AcmeAccount => pb::store::SealedName::AcmeAccount,
        SealedName::AcmeCertificate => pb::store::SealedName::AcmeCertificate,
        SealedName::AcmeAttempt => pb::store::SealedName::AcmeAttempt,
    };
    name.into()
}

fn name_from_pb(number: i32) -> Result<SealedName, CodecError> {
    match pb::store::SealedName::try_from(number) {
        Ok(pb::store::SealedName::AcmeAccount) => Ok(SealedName::AcmeAccount),
        Ok(pb::store::SealedName::AcmeCertificate) => Ok(SealedName::AcmeCertificate),
        Ok(pb::store::SealedName::AcmeAttempt) => Ok(SealedName::AcmeAttempt),
        Ok(pb::store::SealedName::Unspecified) | Err(_) => {
            Err(CodecError::new("name of a sealed value", number))
        }
    }
}
