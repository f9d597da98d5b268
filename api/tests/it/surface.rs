//! Descriptors as facts: everything about a package that a client of another make depends on.
//!
//! Each element (message, field, oneof by its fields, enum, value, service, method) becomes a name
//! and one line about it. Two surfaces are equal when the same names have the same lines. Comments,
//! file names and language options are no facts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

/// The facts of some packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surface {
    packages: BTreeSet<String>,
    facts: BTreeMap<String, String>,
}

/// How a surface differs from what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Expected and not there.
    Missing { name: String, expected: String },
    /// There and not expected.
    Unexpected { name: String, found: String },
    /// There, but otherwise.
    Changed { name: String, expected: String, found: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, expected } => write!(f, "missing: {name}: {expected}"),
            Self::Unexpected { name, found } => write!(f, "unexpected: {name}: {found}"),
            Self::Changed { name, expected, found } => {
                write!(f, "changed: {name}: expected {expected}, found {found}")
            }
        }
    }
}

/// The differences, a line each.
pub(crate) fn report(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(Difference::to_string).collect();
    lines.join("\n")
}

impl Surface {
    /// The facts of the given packages.
    pub(crate) fn of(descriptors: &FileDescriptorSet, packages: &[&str]) -> Self {
        let mut surface = Self::default();
        for file in &descriptors.file {
            if packages.contains(&file.package()) {
                surface.add_file(file);
            }
        }
        surface
    }

    /// The packages that have at least one file.
    pub(crate) fn packages(&self) -> BTreeSet<String> {
        self.packages.clone()
    }

    /// Adds one fact. An error if its name is there already: then it is no addition.
    pub(crate) fn add(&mut self, name: &str, fact: &str) -> Result<(), String> {
        match self.facts.insert(name.to_owned(), fact.to_owned()) {
            None => Ok(()),
            Some(before) => Err(format!("{name} is in a published file: {before}")),
        }
    }

    /// How this surface differs from the expected one.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<Difference> {
        let names: BTreeSet<&String> = self.facts.keys().chain(expected.facts.keys()).collect();
        names.into_iter().filter_map(|name| self.difference(expected, name)).collect()
    }

    fn difference(&self, expected: &Self, name: &str) -> Option<Difference> {
        let name = name.to_owned();
        match (expected.facts.get(&name).cloned(), self.facts.get(&name).cloned()) {
            (Some(expected), Some(found)) if expected == found => None,
            (Some(expected), Some(found)) => Some(Difference::Changed { name, expected, found }),
            (Some(expected), None) => Some(Difference::Missing { name, expected }),
            (None, Some(found)) => Some(Difference::Unexpected { name, found }),
            (None, None) => None,
        }
    }

    fn put(&mut self, name: String, fact: String) {
        self.facts.insert(name, fact);
    }

    fn add_file(&mut self, file: &FileDescriptorProto) {
        self.packages.insert(file.package().to_owned());
        for message in &file.message_type {
            self.add_message(file.package(), message, file.syntax());
        }
        for one in &file.enum_type {
            self.add_enum(file.package(), one);
        }
        for service in &file.service {
            self.add_service(file.package(), service);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, syntax: &str) {
        let name = join(scope, message.name());
        let map_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
        let kind = if map_entry { "map entry" } else { "message" };
        self.put(name.clone(), format!("{syntax} {kind}"));
        for field in &message.field {
            self.put(join(&name, field.name()), field_fact(message, field));
        }
        for nested in &message.nested_type {
            self.add_message(&name, nested, syntax);
        }
        for nested in &message.enum_type {
            self.add_enum(&name, nested);
        }
    }

    fn add_enum(&mut self, scope: &str, one: &EnumDescriptorProto) {
        let name = join(scope, one.name());
        self.put(name.clone(), "enum".to_owned());
        for value in &one.value {
            self.put(join(&name, value.name()), format!("value {}", value.number()));
        }
    }

    fn add_service(&mut self, scope: &str, service: &ServiceDescriptorProto) {
        let name = join(scope, service.name());
        self.put(name.clone(), "service".to_owned());
        for method in &service.method {
            let request = direction(method.client_streaming(), method.input_type());
            let response = direction(method.server_streaming(), method.output_type());
            let fact = format!("rpc ({request}) returns ({response})");
            self.put(join(&name, method.name()), fact);
        }
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

fn direction(streaming: bool, type_name: &str) -> String {
    let stream = if streaming { "stream " } else { "" };
    format!("{stream}{}", type_name.trim_start_matches('.'))
}

/// A line like `3: repeated string`, with what else counts on the wire or in JSON.
fn field_fact(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let kind = match &field.type_name {
        Some(name) => name.trim_start_matches('.').to_owned(),
        None => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let oneof = field
        .oneof_index
        .filter(|_| !field.proto3_optional())
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
        .map(|oneof| format!(", oneof {}", oneof.name()))
        .unwrap_or_default();
    let packed = match field.options.as_ref().and_then(|options| options.packed) {
        Some(packed) => format!(", packed {packed}"),
        None => String::new(),
    };
    format!("{}: {label}{kind}{oneof}{packed}, json {}", field.number(), field.json_name())
}
