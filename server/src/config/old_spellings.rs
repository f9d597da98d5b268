//! Spellings of 2019 to 2021 whose whole section has moved since, rewritten in the tree of the file
//! before any section is read.
//!
//! Owns the decisions of `spec/seeds.md` 3 about federation, `UpstreamCA`, the `ttl` of plugin disk
//! and `service_account_whitelist`: one warning a key that names the new spelling, or a refusal.
//! Old and new for one thing are refused together. Whoever reads a section sees the new spelling
//! alone, at the place of the old one. Old names of single keys are read beside the new ones, in
//! `server` and `plugins`.

use steeple_hcl1::decode::{Block, Label};
use steeple_hcl1::{Body, Item, Key, Pos, Value, ValueKind};
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use super::error::ConfigError;
use super::load::Notice;
use super::section::Section;

/// The port of a bundle endpoint that named none, its own or a peer's, up to SPIRE 1.0.
const OLD_PORT: u16 = 443;

/// A name in a path that any name fits.
const ANY: &str = "*";

/// Keys of `experimental` that became `federation.bundle_endpoint` with SPIRE 0.12.
const ENDPOINT_KEYS: [&str; 3] =
    ["bundle_endpoint_enabled", "bundle_endpoint_address", "bundle_endpoint_port"];

/// What the keys of an old relationship are called.
struct PeerKeys {
    address: &'static str,
    port: &'static str,
    id: &'static str,
}

/// In `experimental.federates_with`, up to SPIRE 0.12.
const EXPERIMENTAL_PEER: PeerKeys = PeerKeys {
    address: "bundle_endpoint_address",
    port: "bundle_endpoint_port",
    id: "bundle_endpoint_spiffe_id",
};

/// In `federation.federates_with` with a section `bundle_endpoint`, up to SPIRE 1.0.
const FEDERATION_PEER: PeerKeys = PeerKeys { address: "address", port: "port", id: "spiffe_id" };

/// Asks the web's authorities instead of a SPIFFE bundle, in both.
const USE_WEB_PKI: &str = "use_web_pki";

/// Rewrites old spellings.
pub(super) fn translate(mut file: Body, notices: &mut Vec<Notice>) -> Result<Body, ConfigError> {
    let added = moved(&file, notices)?;
    for key in ENDPOINT_KEYS {
        remove(&mut file, &["server", "experimental"], key);
    }
    remove(&mut file, &["server", "experimental"], "federates_with");
    remove(&mut file, &["server", "federation", "federates_with", ANY], "bundle_endpoint");
    at(&mut file, &["server"], &mut |server| server.items.retain(|item| !is_left_empty(item)));
    for kind in ["UpstreamCA", "UpstreamAuthority"] {
        remove(&mut file, &["plugins", kind, "disk", "plugin_data"], "ttl");
    }
    at(&mut file, &["plugins"], &mut |plugins| rename(plugins, "UpstreamCA", "UpstreamAuthority"));
    for name in ["k8s_psat", "k8s_sat"] {
        allow_list(&mut file, name, notices)?;
    }
    append(&mut file, added);
    Ok(file)
}

/// What the `server` section gets for its own old keys and for those of plugins.
fn moved(file: &Body, notices: &mut Vec<Notice>) -> Result<Vec<Item>, ConfigError> {
    let file = Section::new("top-level", Block::of_file(file));
    let Some(server) = file.section("server")? else { return Ok(Vec::new()) };
    let mut items = federation(&server, notices)?;
    if let Some(plugins) = file.section("plugins")? {
        items.extend(ca_ttl(&server, &plugins, notices)?);
    }
    Ok(items)
}

/// `federation { … }` for the old federation of `experimental`, and for old relationships.
fn federation(server: &Section<'_>, notices: &mut Vec<Notice>) -> Result<Vec<Item>, ConfigError> {
    let mut items = Vec::new();
    let new = server.section("federation")?;
    if let Some(old) = server.section("experimental")? {
        items.extend(endpoint(&old, new.as_ref(), notices)?);
        for (label, peer) in peers(&old)? {
            if let Some(new) = &new
                && peers(new)?.iter().any(|(other, _)| other.text == label.text)
            {
                let path = new.path("federates_with");
                let text = format!("use {path}[{:?}] alone; this is its old spelling", label.text);
                return Err(old.refuse("federates_with", text));
            }
            items.push(relationship(&label, &peer, &EXPERIMENTAL_PEER, notices)?);
        }
    }
    for (label, peer) in new.as_ref().map(peers).transpose()?.unwrap_or_default() {
        let Some(old) = peer.section("bundle_endpoint")? else { continue };
        if let Some(key) =
            ["bundle_endpoint_url", "bundle_endpoint_profile"].into_iter().find(|key| peer.has(key))
        {
            let text = format!("use {key} alone; bundle_endpoint is its old spelling");
            return Err(peer.refuse("bundle_endpoint", text));
        }
        items.push(relationship(&label, &old, &FEDERATION_PEER, notices)?);
    }
    let pos = server.pos("experimental");
    let section = |items| item("federation", None, ValueKind::Object(Body { items }), pos);
    Ok(if items.is_empty() { items } else { vec![section(items)] })
}

/// The relationships of a section.
fn peers<'a>(section: &Section<'a>) -> Result<Vec<(Label, Section<'a>)>, ConfigError> {
    let path = section.path("federates_with");
    let found = section.block().labelled("federates_with");
    let found = found.map_err(|error| ConfigError::decode(&path, error))?.into_iter();
    let named = |(label, block): (Label, Block<'a>)| {
        let name = format!("{path}[{:?}]", label.text);
        (label, Section::new(name, block))
    };
    Ok(found.map(named).collect())
}

/// `bundle_endpoint { … }` for the keys of `experimental`, if they switch an endpoint on.
fn endpoint(
    old: &Section<'_>,
    new: Option<&Section<'_>>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Item>, ConfigError> {
    const ACME: &str = "bundle_endpoint_acme";
    let given: Vec<&str> = ENDPOINT_KEYS.into_iter().filter(|key| old.has(key)).collect();
    if old.has(ACME) {
        return Err(old.refuse(
            ACME,
            "this spelling ended with SPIRE 0.12: use server.federation { bundle_endpoint { profile \"https_web\" { … } } }",
        ));
    }
    let Some(first) = given.first() else { return Ok(None) };
    if new.is_some_and(|new| new.has("bundle_endpoint")) {
        let text = "use server.federation.bundle_endpoint alone; this is its old spelling";
        return Err(old.refuse(first, text));
    }
    let enabled = old.bool("bundle_endpoint_enabled")?.unwrap_or(false);
    for key in &given {
        let path = old.path(key);
        let new_key = key.trim_start_matches("bundle_endpoint_");
        let text = match (enabled, new_key) {
            (true, "enabled") => format!(
                "{path} is an old spelling: use server.federation {{ bundle_endpoint {{ … profile \"https_spiffe\" {{}} }} }}"
            ),
            (true, _) => format!(
                "{path} is an old spelling: use server.federation.bundle_endpoint.{new_key}"
            ),
            (false, "enabled") => format!(
                "{path} is an old spelling: drop it, no endpoint is served without server.federation.bundle_endpoint"
            ),
            (false, _) => {
                format!("{path} has no effect without bundle_endpoint_enabled = true: drop it")
            }
        };
        notices.push(Notice::deprecated(text));
    }
    if !enabled {
        return Ok(None);
    }
    let port = old.port("bundle_endpoint_port")?.unwrap_or(OLD_PORT);
    let pos = old.pos("bundle_endpoint_port");
    let mut items = vec![item("port", None, ValueKind::Number(port.into()), pos)];
    if let Some(address) = old.string("bundle_endpoint_address")? {
        items.push(text("address", address, old.pos("bundle_endpoint_address")));
    }
    let pos = old.pos("bundle_endpoint_enabled");
    items.push(item("profile", Some("https_spiffe"), ValueKind::Object(Body::default()), pos));
    Ok(Some(item("bundle_endpoint", None, ValueKind::Object(Body { items }), pos)))
}

/// `federates_with "…" { … }` for an old relationship.
fn relationship(
    label: &Label,
    old: &Section<'_>,
    keys: &PeerKeys,
    notices: &mut Vec<Notice>,
) -> Result<Item, ConfigError> {
    let address = old.string(keys.address)?;
    let address = address.ok_or_else(|| old.refuse(keys.address, "must be configured"))?;
    let port = old.port(keys.port)?.unwrap_or(OLD_PORT);
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    let url = format!("https://{host}:{port}");
    let id = old.string(keys.id)?;
    let web = old.bool(USE_WEB_PKI)?.unwrap_or(false);
    if web && id.is_some() {
        return Err(old.refuse(keys.id, format!("is not allowed with {USE_WEB_PKI}: drop one")));
    }
    let unknown = old.unknown();
    if !unknown.is_empty() {
        return Err(ConfigError::Unknown(unknown));
    }
    let id = match id {
        Some(id) => id,
        None => default_endpoint_id(label)?,
    };
    let (name, body) = if web {
        ("https_web", Body::default())
    } else {
        let id = text("endpoint_spiffe_id", id.clone(), old.pos(keys.id));
        ("https_spiffe", Body { items: vec![id] })
    };
    let new = format!("server.federation.federates_with[{:?}]", label.text);
    for (key, instead) in [
        (keys.address, format!("{new}.bundle_endpoint_url = {url:?}")),
        (keys.port, format!("{new}.bundle_endpoint_url, which has the port")),
        (
            keys.id,
            format!(
                "{new}.bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = {id:?} }}"
            ),
        ),
        (USE_WEB_PKI, format!("{new}.bundle_endpoint_profile {name:?} {{ … }}")),
    ] {
        if old.has(key) {
            let path = old.path(key);
            notices.push(Notice::deprecated(format!("{path} is an old spelling: use {instead}")));
        }
    }
    let profile = item("bundle_endpoint_profile", Some(name), ValueKind::Object(body), label.pos);
    let items = vec![text("bundle_endpoint_url", url, old.pos(keys.address)), profile];
    let kind = ValueKind::Object(Body { items });
    Ok(item("federates_with", Some(&label.text), kind, label.pos))
}

/// Whom an endpoint without a name is: the peer's server.
fn default_endpoint_id(label: &Label) -> Result<String, ConfigError> {
    let trust_domain = TrustDomain::parse_name_or_id(&label.text);
    let trust_domain = trust_domain
        .map_err(|error| ConfigError::value(label.pos, "federates_with", error.to_string()))?;
    Ok(SpiffeId::server(trust_domain).to_string())
}

/// `ca_ttl` for the `ttl` of plugin disk. Looks at every `UpstreamCA` on the way.
fn ca_ttl(
    server: &Section<'_>,
    plugins: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Item>, ConfigError> {
    let declared = plugins.block().paths(2);
    let declared = declared.map_err(|error| ConfigError::decode("plugins", error))?;
    let is_new = |path: &[Label]| path.first().is_some_and(|kind| kind.text == "UpstreamAuthority");
    let has_new = declared.iter().any(|(path, _)| is_new(path));
    let mut found = None;
    for (path, block) in declared {
        let [kind, name] = path.as_slice() else { continue };
        let title = format!("plugins.{} {:?}", kind.text, name.text);
        match (kind.text.as_str(), name.text.as_str()) {
            ("UpstreamCA", "disk") if has_new => {
                let text = "use UpstreamAuthority alone; UpstreamCA is its old spelling";
                return Err(ConfigError::value(kind.pos, title, text));
            }
            ("UpstreamCA", "disk") => notices.push(Notice::deprecated(
                "UpstreamCA \"disk\" is an old spelling: use UpstreamAuthority \"disk\"",
            )),
            ("UpstreamCA", name) => {
                let text = format!(
                    "unsupported plugin type \"UpstreamCA\": the type is called UpstreamAuthority since SPIRE 0.11; write UpstreamAuthority {name:?} with the keys of today"
                );
                return Err(ConfigError::value(kind.pos, title, text));
            }
            ("UpstreamAuthority", "disk") => {}
            _ => continue,
        }
        let section = Section::new(title, block);
        if section.bool("enabled")?.unwrap_or(true) {
            found = disk_ttl(server, &section, notices)?;
        }
    }
    Ok(found)
}

/// `ca_ttl` for the `ttl` of one plugin.
fn disk_ttl(
    server: &Section<'_>,
    plugin: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Item>, ConfigError> {
    // What is wrong with the section is told by whoever reads it.
    let Ok(Some(data)) = plugin.block().block("plugin_data") else { return Ok(None) };
    let data = Section::new(plugin.path("plugin_data"), data);
    let Some(ttl) = data.duration("ttl")?.filter(|ttl| !ttl.is_zero()) else { return Ok(None) };
    let path = data.path("ttl");
    if server.duration("ca_ttl")?.is_some_and(|ca_ttl| !ca_ttl.is_zero()) {
        let text = format!("{path} has no effect beside server.ca_ttl: drop it");
        notices.push(Notice::deprecated(text));
        return Ok(None);
    }
    notices.push(Notice::deprecated(format!(
        "{path} is an old spelling: use server.ca_ttl, which is {ttl:?} by it"
    )));
    let value = data.block().value("ttl");
    Ok(value.map(|value| item("ca_ttl", None, value.kind.clone(), value.pos)))
}

/// `service_account_allow_list` for its old name, in each cluster of a node attestor.
fn allow_list(file: &mut Body, name: &str, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    const OLD: &str = "service_account_whitelist";
    const NEW: &str = "service_account_allow_list";
    let mut both = None;
    let path = ["plugins", "NodeAttestor", name, "plugin_data", "clusters", ANY];
    at(file, &path, &mut |cluster| {
        let has = |key: &str| cluster.items.iter().find(|item| is_named(item, key));
        let Some(old) = has(OLD) else { return };
        if has(NEW).is_some() {
            both = both.or(Some(old.key.pos));
        }
        notices.push(Notice::deprecated(format!(
            "NodeAttestor {name:?}: {OLD} at {} is an old spelling: use {NEW}",
            old.key.pos
        )));
        rename(cluster, OLD, NEW);
    });
    match both {
        None => Ok(()),
        Some(pos) => {
            let text = format!("use {NEW} alone; this is its old spelling");
            Err(ConfigError::value(pos, format!("plugins.NodeAttestor {name:?}.{OLD}"), text))
        }
    }
}

fn item(key: &str, label: Option<&str>, kind: ValueKind, pos: Pos) -> Item {
    Item {
        key: Key { text: key.to_owned(), pos },
        labels: label.map(|label| (label.to_owned(), pos)).into_iter().collect(),
        value: Value { kind, pos },
    }
}

fn text(key: &str, text: String, pos: Pos) -> Item {
    item(key, None, ValueKind::String(text), pos)
}

fn is_named(item: &Item, name: &str) -> bool {
    item.key.text.eq_ignore_ascii_case(name)
}

/// Whether this is an `experimental` without a key. SPIRE warns of one that has any.
fn is_left_empty(item: &Item) -> bool {
    let is_empty = matches!(&item.value.kind, ValueKind::Object(body) if body.items.is_empty());
    is_named(item, "experimental") && is_empty
}

fn rename(body: &mut Body, old: &str, new: &str) {
    for item in body.items.iter_mut().filter(|item| is_named(item, old)) {
        new.clone_into(&mut item.key.text);
    }
}

fn remove(file: &mut Body, path: &[&str], key: &str) {
    at(file, path, &mut |body| body.items.retain(|item| !is_named(item, key)));
}

/// Adds items at the end of the `server` section, where they win over empty ones.
fn append(file: &mut Body, items: Vec<Item>) {
    let server = file.items.iter_mut().rev().find(|item| is_named(item, "server"));
    if let Some(body) = server.and_then(|item| bodies(&mut item.value).pop()) {
        body.items.extend(items);
    }
}

/// Visits each section at a path, whether its names are labels, nested sections or JSON's objects.
fn at(body: &mut Body, path: &[&str], visit: &mut dyn FnMut(&mut Body)) {
    if path.is_empty() {
        return visit(body);
    }
    for item in &mut body.items {
        let depth = item.labels.len() + 1;
        let (Some(first), Some(rest)) = (path.get(..depth), path.get(depth..)) else { continue };
        let labels = item.labels.iter().map(|(label, _)| label);
        let mut names = std::iter::once(&item.key.text).chain(labels).zip(first);
        if names.all(|(name, wanted)| *wanted == ANY || name.eq_ignore_ascii_case(wanted)) {
            for inner in bodies(&mut item.value) {
                at(inner, rest, visit);
            }
        }
    }
}

/// The bodies of an object or of a list of objects.
fn bodies(value: &mut Value) -> Vec<&mut Body> {
    match &mut value.kind {
        ValueKind::Object(body) => vec![body],
        ValueKind::List(values) => values.iter_mut().flat_map(bodies).collect(),
        ValueKind::String(_) | ValueKind::Number(_) | ValueKind::Float(_) | ValueKind::Bool(_) => {
            Vec::new()
        }
    }
}

#[cfg(test)]
#[path = "old_spellings_tests.rs"]
mod tests;
