//! Values that are kept sealed: written whole, by compare-and-set on their version.

use std::sync::Arc;

use crate::apply::authorities::sealed_under_current;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::change::Change;
use crate::codec::{sealed_value_from_pb, sealed_value_to_pb};
use crate::command::WriteSealed;
use crate::limits::SEALED_BYTES_MAX;
use crate::outcome::{Outcome, Rejection};
use crate::pb;
use crate::sealed_values::SealedValue;

pub(super) fn write(step: &mut Step<'_, '_>, write: WriteSealed) -> Verdict {
    let WriteSealed { name, expected, sealed } = write;
    if sealed.ciphertext.len() > SEALED_BYTES_MAX {
        let limit = SEALED_BYTES_MAX as u64;
        return Ok(Err(Rejection::LimitReached { what: "bytes of a sealed value".into(), limit }));
    }
    if let Err(rejection) = sealed_under_current(step, &sealed) {
        return Ok(Err(rejection));
    }
    let key = [name.number()];
    let actual = match step.read::<pb::store::SealedRow>(Table::Sealed, &key)? {
        Some(row) => sealed_value_from_pb(row)?.1.version,
        None => 0,
    };
    if actual != expected {
        return Ok(Err(Rejection::SealedMoved { expected, actual }));
    }
    let value = SealedValue { version: actual + 1, sealed };
    step.put(Table::Sealed, &key, &sealed_value_to_pb(name, &value));
    step.changes.push(Change::SealedWritten { name, value: Arc::new(value) });
    Ok(Ok(Outcome::Done))
}
