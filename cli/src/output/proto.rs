//! The JSON shape SPIRE gives protobuf replies.
//!
//! Owns protojson by descriptor: proto field names, unpopulated fields present, 64-bit integers as
//! strings, bytes in base64, enums by name, wrappers as bare values, absent messages left out.
//! The generated types know nothing of this; a reply is encoded once more and read by its
//! descriptor, which costs a command-line tool nothing.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, ReflectMessage as _};
use serde_json::{Map, Number, Value};

use crate::error::Error;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    let mut pool = DescriptorPool::global();
    pool.decode_file_descriptor_set(steeple_api::FILE_DESCRIPTOR_SET).ok()?;
    Some(pool)
});

/// The JSON tree of a message whose full protobuf name is given.
///
/// # Errors
///
/// Only if the name is not that of the message's type: a mistake of ours, told as such.
pub(crate) fn proto_value<M: prost::Message>(full_name: &str, message: &M) -> Result<Value, Error> {
    let unknown = || Error::Internal(format!("no descriptor describes {full_name}"));
    let pool = POOL.as_ref().ok_or_else(unknown)?;
    let descriptor = pool.get_message_by_name(full_name).ok_or_else(unknown)?;
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|_bad| unknown())?;
    Ok(message_value(&dynamic))
}

/// The tree without members that are null, as SPIRE removes them.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(key, member)| (key, without_nulls(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => leaf,
    }
}

fn message_value(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Struct" => field_value(message, "fields"),
        "google.protobuf.ListValue" => field_value(message, "values"),
        "google.protobuf.Value" => dynamic_value(message),
        name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
            field_value(message, "value")
        }
        _ => {
            let mut members = Map::new();
            for field in descriptor.fields() {
                // A field with presence that is absent would be null, and nulls are removed.
                if !field.supports_presence() || message.has_field(&field) {
                    let value = value_of(&message.get_field(&field), &field.kind());
                    members.insert(field.name().to_owned(), value);
                }
            }
            Value::Object(members)
        }
    }
}

fn field_value(message: &DynamicMessage, name: &str) -> Value {
    match message.descriptor().get_field_by_name(name) {
        Some(field) => value_of(&message.get_field(&field), &field.kind()),
        None => Value::Null,
    }
}

/// `google.protobuf.Value`: whichever of its kinds is set.
fn dynamic_value(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    let set = descriptor.fields().find(|field| message.has_field(field));
    match set {
        Some(field) if field.name() != "null_value" => {
            value_of(&message.get_field(&field), &field.kind())
        }
        Some(_) | None => Value::Null,
    }
}

fn value_of(value: &prost_reflect::Value, kind: &Kind) -> Value {
    match value {
        prost_reflect::Value::Bool(bool) => Value::Bool(*bool),
        prost_reflect::Value::I32(number) => Value::from(*number),
        prost_reflect::Value::U32(number) => Value::from(*number),
        prost_reflect::Value::I64(number) => Value::String(number.to_string()),
        prost_reflect::Value::U64(number) => Value::String(number.to_string()),
        prost_reflect::Value::F32(number) => float_value(f64::from(*number)),
        prost_reflect::Value::F64(number) => float_value(*number),
        prost_reflect::Value::String(string) => Value::String(string.clone()),
        prost_reflect::Value::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
        prost_reflect::Value::EnumNumber(number) => enum_value(*number, kind),
        prost_reflect::Value::Message(message) => message_value(message),
        prost_reflect::Value::List(items) => {
            Value::Array(items.iter().map(|item| value_of(item, kind)).collect())
        }
        prost_reflect::Value::Map(entries) => Value::Object(
            entries.iter().map(|(key, value)| (map_key(key), map_value(value, kind))).collect(),
        ),
    }
}

/// JSON has no word for what is no number: protojson writes the word in quotes.
fn float_value(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}

fn enum_value(number: i32, kind: &Kind) -> Value {
    let name = kind.as_enum().and_then(|descriptor| descriptor.get_value(number));
    name.map_or_else(|| Value::from(number), |name| Value::String(name.name().to_owned()))
}

fn map_key(key: &prost_reflect::MapKey) -> String {
    match key {
        prost_reflect::MapKey::Bool(bool) => bool.to_string(),
        prost_reflect::MapKey::I32(number) => number.to_string(),
        prost_reflect::MapKey::I64(number) => number.to_string(),
        prost_reflect::MapKey::U32(number) => number.to_string(),
        prost_reflect::MapKey::U64(number) => number.to_string(),
        prost_reflect::MapKey::String(string) => string.clone(),
    }
}

/// A map's kind is that of its entry message; the value's own kind is the entry's second field.
fn map_value(value: &prost_reflect::Value, kind: &Kind) -> Value {
    match kind.as_message() {
        Some(entry) => value_of(value, &entry.map_entry_value_field().kind()),
        None => value_of(value, kind),
    }
}

#[cfg(test)]
mod tests {
    use steeple_api::pb;

    use super::*;
    use crate::output::go_json;

    fn json<M: prost::Message>(full_name: &str, message: &M) -> String {
        go_json(&proto_value(full_name, message).expect("the name is in the descriptor set"))
    }

    #[test]
    fn the_shape_is_that_of_protojson_with_proto_names() {
        let bundle = pb::types::Bundle {
            trust_domain: "example.org".to_owned(),
            x509_authorities: vec![pb::types::X509Certificate {
                asn1: vec![1, 2, 255],
                tainted: true,
            }],
            sequence_number: 7,
            ..Default::default()
        };
        assert_eq!(
            json("spire.api.types.Bundle", &bundle),
            r#"{"jwt_authorities":[],"refresh_hint":"0","sequence_number":"7","trust_domain":"example.org","wit_authorities":[],"x509_authorities":[{"asn1":"AQL/","tainted":true}]}"#
        );
    }

    #[test]
    fn absent_messages_are_left_out_and_wrappers_are_bare() {
        let request = pb::server::entry::v1::ListEntriesRequest {
            filter: Some(pb::server::entry::v1::list_entries_request::Filter {
                by_downstream: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            json("spire.api.server.entry.v1.ListEntriesRequest", &request),
            r#"{"filter":{"by_downstream":false},"page_size":0,"page_token":""}"#
        );
    }

    #[test]
    fn enums_are_names() {
        let logger = pb::types::Logger { current_level: 5, launch_level: 99 };
        assert_eq!(
            json("spire.api.types.Logger", &logger),
            r#"{"current_level":"INFO","launch_level":99}"#
        );
    }

    #[test]
    fn maps_and_structs_are_plain_objects() {
        let response = pb::workload::JwtBundlesResponse {
            bundles: [("spiffe://b".to_owned(), vec![1]), ("spiffe://a".to_owned(), vec![2])]
                .into(),
        };
        assert_eq!(
            json("JWTBundlesResponse", &response),
            r#"{"bundles":{"spiffe://a":"Ag==","spiffe://b":"AQ=="}}"#
        );
        let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(5.0)) };
        let null = prost_types::Value { kind: Some(prost_types::value::Kind::NullValue(0)) };
        let list = prost_types::ListValue { values: vec![number.clone()] };
        let list = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
        let claims = prost_types::Struct {
            fields: [("exp", number), ("gone", null), ("aud", list)]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
        };
        let value = proto_value("google.protobuf.Struct", &claims).expect("a well-known type");
        assert_eq!(go_json(&without_nulls(value)), r#"{"aud":[5],"exp":5}"#);
    }
}
