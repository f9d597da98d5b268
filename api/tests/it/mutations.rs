//! Proof that the comparison fails: each kind of difference, made on purpose in a copy.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto,
};

use crate::{additions, differences, ours, reference, surface};

/// What is done to the copy, and what the report must then say.
type Mutation = (fn(&mut FileDescriptorSet), &'static str);

/// Each kind of difference at least once. Names in the report are those of the mutated element.
const MUTATIONS: &[Mutation] = &[
    // Packages.
    (
        |set| {
            file(set, "spire.api.server.svid.v1").package = Some("spire.api.server.svid.v2".into())
        },
        "missing: spire.api.server.svid.v1.SVID.MintX509SVID",
    ),
    (|set| file(set, "").package = Some("spiffe".into()), "missing: SpiffeWorkloadAPI"),
    // Services and methods.
    (|set| drop(file(set, "").service.remove(0)), "missing: SpiffeWorkloadAPI.FetchX509SVID"),
    (
        |set| service(set, "grpc.health.v1").name = Some("Wealth".into()),
        "missing: grpc.health.v1.Health: service",
    ),
    (
        |set| service(set, "grpc.health.v1").method.retain(|method| method.name() != "List"),
        "missing: grpc.health.v1.Health.List",
    ),
    (
        |set| method(set, "spire.api.server.agent.v1", "BanAgent").name = Some("BarAgent".into()),
        "unexpected: spire.api.server.agent.v1.Agent.BarAgent",
    ),
    (
        |set| {
            method(set, "spire.api.server.agent.v1", "AttestAgent").client_streaming = Some(false)
        },
        "changed: spire.api.server.agent.v1.Agent.AttestAgent",
    ),
    (
        |set| method(set, "", "FetchJWTSVID").server_streaming = Some(true),
        "changed: SpiffeWorkloadAPI.FetchJWTSVID",
    ),
    (
        |set| method(set, "", "FetchJWTSVID").input_type = Some(".JWTBundlesRequest".into()),
        "changed: SpiffeWorkloadAPI.FetchJWTSVID",
    ),
    (
        |set| {
            let method = method(set, "spire.api.server.agent.v1", "BanAgent");
            method.output_type = Some(".spire.api.types.Agent".into());
        },
        "changed: spire.api.server.agent.v1.Agent.BanAgent",
    ),
    (
        |set| {
            let extra = MethodDescriptorProto {
                name: Some("Extra".into()),
                ..method(set, "", "FetchJWTSVID").clone()
            };
            service(set, "").method.push(extra);
        },
        "unexpected: SpiffeWorkloadAPI.Extra",
    ),
    (
        |set| {
            let extra = ServiceDescriptorProto { name: Some("Extra".into()), ..Default::default() };
            file(set, "grpc.health.v1").service.push(extra);
        },
        "unexpected: grpc.health.v1.Extra",
    ),
    // Messages.
    (
        |set| message(set, "spire.api.types", "Status").name = Some("State".into()),
        "missing: spire.api.types.Status: proto3 message",
    ),
    (
        |set| {
            let parent = message(set, "spire.api.server.agent.v1", "ListAgentsRequest");
            parent.nested_type.clear();
        },
        "missing: spire.api.server.agent.v1.ListAgentsRequest.Filter",
    ),
    (
        |set| {
            let extra = DescriptorProto { name: Some("Extra".into()), ..Default::default() };
            file(set, "grpc.health.v1").message_type.push(extra);
        },
        "unexpected: grpc.health.v1.Extra",
    ),
    (
        |set| file(set, "grpc.health.v1").syntax = Some("proto2".into()),
        "changed: grpc.health.v1.HealthCheckRequest: expected proto3 message, found proto2",
    ),
    (
        |set| message(set, "", "JWTBundlesResponse").nested_type[0].options = None,
        "changed: JWTBundlesResponse.BundlesEntry",
    ),
    // Fields.
    (
        |set| message(set, "spire.api.types", "Entry").field.retain(|one| one.name() != "hint"),
        "missing: spire.api.types.Entry.hint",
    ),
    (
        |set| field(set, "spire.api.types", "Entry", "hint").name = Some("hind".into()),
        "unexpected: spire.api.types.Entry.hind",
    ),
    (
        |set| field(set, "spire.api.types", "Entry", "hint").number = Some(99),
        "changed: spire.api.types.Entry.hint",
    ),
    (
        |set| field(set, "spire.api.types", "Entry", "hint").r#type = Some(Type::Bytes.into()),
        "changed: spire.api.types.Entry.hint",
    ),
    (
        |set| field(set, "spire.api.types", "Agent", "id").type_name = Some(".X509SVID".into()),
        "changed: spire.api.types.Agent.id",
    ),
    (
        |set| {
            let one = field(set, "spire.api.types", "Entry", "dns_names");
            one.label = Some(Label::Optional.into());
        },
        "changed: spire.api.types.Entry.dns_names",
    ),
    (
        |set| field(set, "spire.api.types", "Entry", "hint").json_name = Some("Hint".into()),
        "changed: spire.api.types.Entry.hint",
    ),
    (
        |set| {
            let one = field(set, "spire.api.types", "Entry", "additional_attributes");
            one.proto3_optional = None;
            one.oneof_index = None;
        },
        "changed: spire.api.types.Entry.additional_attributes",
    ),
    (
        |set| {
            let parent = message(set, "", "JWTBundlesResponse");
            parent.nested_type[0].field[1].r#type = Some(Type::String.into());
        },
        "changed: JWTBundlesResponse.BundlesEntry.value",
    ),
    (
        |set| {
            let extra = FieldDescriptorProto {
                name: Some("extra".into()),
                number: Some(99),
                ..field(set, "spire.api.types", "Entry", "hint").clone()
            };
            message(set, "spire.api.types", "Entry").field.push(extra);
        },
        "unexpected: spire.api.types.Entry.extra",
    ),
    // Oneofs.
    (
        |set| {
            let parent = message(set, "spire.api.server.agent.v1", "AttestAgentRequest");
            parent.oneof_decl =
                vec![OneofDescriptorProto { name: Some("phase".into()), ..Default::default() }];
        },
        "changed: spire.api.server.agent.v1.AttestAgentRequest.params",
    ),
    (
        |set| {
            let package = "spire.api.server.agent.v1";
            field(set, package, "AttestAgentResponse", "challenge").oneof_index = None;
        },
        "changed: spire.api.server.agent.v1.AttestAgentResponse.challenge",
    ),
    // Enums.
    (
        |set| serving_status(set).name = Some("Status".into()),
        "missing: grpc.health.v1.HealthCheckResponse.ServingStatus: enum",
    ),
    (
        |set| drop(serving_status(set).value.pop()),
        "missing: grpc.health.v1.HealthCheckResponse.ServingStatus.SERVICE_UNKNOWN",
    ),
    (
        |set| serving_status(set).value[1].number = Some(9),
        "changed: grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING",
    ),
    (
        |set| serving_status(set).value[1].name = Some("UP".into()),
        "unexpected: grpc.health.v1.HealthCheckResponse.ServingStatus.UP",
    ),
    (
        |set| {
            serving_status(set).value.push(EnumValueDescriptorProto {
                name: Some("EXTRA".into()),
                number: Some(9),
                ..Default::default()
            });
        },
        "unexpected: grpc.health.v1.HealthCheckResponse.ServingStatus.EXTRA",
    ),
];

#[test]
fn every_kind_of_difference_is_caught_and_named() {
    let reference = additions::add_to(reference::surface()).unwrap();
    for (mutate, text) in MUTATIONS {
        let mut mutated = ours();
        mutate(&mut mutated);
        let report = surface::report(&differences(&mutated, &reference));
        assert!(report.contains(text), "{text:?} is not in:\n{report}");
    }
}

#[test]
fn an_unlisted_addition_and_a_stale_one_are_caught() {
    let published = reference::surface();
    let unlisted = surface::report(&differences(&ours(), &published));
    assert!(unlisted.contains("unexpected: spire.api.types.Entry.additional_attributes"));

    // A reference that has them already, as a newer published file would.
    let newer = additions::add_to(published).unwrap();
    let stale = additions::add_to(newer).unwrap_err();
    assert!(stale.contains("spire.api.types.Entry.additional_attributes is in a published file"));
}

#[test]
fn losing_any_single_field_or_method_is_caught() {
    let reference = additions::add_to(reference::surface()).unwrap();
    let set = ours();
    for (at, file) in set.file.iter().enumerate() {
        if !crate::SERVED.contains(&file.package()) {
            continue;
        }
        for (i, message) in file.message_type.iter().enumerate() {
            for j in 0..message.field.len() {
                let mut mutated = set.clone();
                mutated.file[at].message_type[i].field.remove(j);
                assert_eq!(differences(&mutated, &reference).len(), 1, "{}", message.name());
            }
        }
        for (i, service) in file.service.iter().enumerate() {
            for j in 0..service.method.len() {
                let mut mutated = set.clone();
                mutated.file[at].service[i].method.remove(j);
                assert_eq!(differences(&mutated, &reference).len(), 1, "{}", service.name());
            }
        }
    }
}

fn file<'a>(set: &'a mut FileDescriptorSet, package: &str) -> &'a mut FileDescriptorProto {
    set.file.iter_mut().find(|file| file.package() == package).expect(package)
}

fn service<'a>(set: &'a mut FileDescriptorSet, package: &str) -> &'a mut ServiceDescriptorProto {
    file(set, package).service.first_mut().expect(package)
}

fn method<'a>(
    set: &'a mut FileDescriptorSet,
    package: &str,
    name: &str,
) -> &'a mut MethodDescriptorProto {
    service(set, package).method.iter_mut().find(|method| method.name() == name).expect(name)
}

/// A top-level message; a package may have several files.
fn message<'a>(
    set: &'a mut FileDescriptorSet,
    package: &str,
    name: &str,
) -> &'a mut DescriptorProto {
    set.file
        .iter_mut()
        .filter(|file| file.package() == package)
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == name)
        .expect(name)
}

fn field<'a>(
    set: &'a mut FileDescriptorSet,
    package: &str,
    message_name: &str,
    name: &str,
) -> &'a mut FieldDescriptorProto {
    let message = message(set, package, message_name);
    message.field.iter_mut().find(|field| field.name() == name).expect(name)
}

fn serving_status(set: &mut FileDescriptorSet) -> &mut EnumDescriptorProto {
    let message = message(set, "grpc.health.v1", "HealthCheckResponse");
    message.enum_type.first_mut().expect("ServingStatus")
}
