//! Who may import whom: the table of `docs/ARCHITECTURE.md`, between crates and inside them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Source, crate_of};

/// A crate, the own crates it may use, and words that may stand in none of its Rust files.
struct Row {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const TABLE: &[Row] = &[
    Row {
        name: "spiffe-core",
        may_use: &[],
        never: &["tokio::", "tonic::", "prost::", "rocksdb", "openraft"],
    },
    Row { name: "hcl1", may_use: &[], never: &["tokio::", "tonic::", "spiffe"] },
    Row {
        name: "api",
        may_use: &["spiffe-core"],
        never: &["tokio::runtime", "rocksdb::", "openraft::"],
    },
    Row {
        name: "raft-store",
        may_use: &["spiffe-core"],
        never: &["steeple_api", "steeple_server"],
    },
    Row {
        name: "federation",
        may_use: &["spiffe-core"],
        never: &["steeple_api", "steeple_raft_store", "steeple_server"],
    },
    Row {
        name: "cli",
        may_use: &["spiffe-core", "api"],
        never: &["steeple_raft_store", "steeple_server", "steeple_agent"],
    },
    Row {
        name: "agent",
        may_use: &["spiffe-core", "hcl1", "api", "cli"],
        never: &["steeple_raft_store", "steeple_server", "rocksdb::"],
    },
    Row {
        name: "server",
        may_use: &["spiffe-core", "hcl1", "api", "raft-store", "federation", "cli"],
        never: &["steeple_agent", "rocksdb::", "openraft::"],
    },
    Row {
        name: "testkit",
        may_use: &["spiffe-core", "api"],
        never: &["steeple_raft_store", "steeple_server", "steeple_agent"],
    },
    Row {
        name: "bench",
        may_use: &["spiffe-core", "api", "testkit"],
        never: &["steeple_raft_store", "steeple_server"],
    },
    Row {
        name: "interop",
        may_use: &["spiffe-core", "api", "testkit"],
        never: &["steeple_raft_store", "steeple_server"],
    },
    Row {
        name: "checker",
        may_use: &[],
        never: &["steeple_raft_store", "steeple_server", "steeple_agent", "steeple_spiffe_core"],
    },
    Row {
        name: "sim",
        may_use: &["spiffe-core", "raft-store", "checker"],
        never: &["steeple_server", "steeple_agent", "openraft::", "rocksdb"],
    },
    Row {
        name: "chaos",
        may_use: &["spiffe-core", "api", "testkit", "checker"],
        never: &["steeple_raft_store", "steeple_server", "steeple_agent"],
    },
    Row { name: "xtask", may_use: &[], never: &[] },
];

/// Compares the manifests with the table. Development dependencies may add testkit.
pub(super) fn crate_table(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata.get("packages").and_then(Value::as_array).context("no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let folder = name.strip_prefix("steeple-").unwrap_or(name);
        let Some(row) = TABLE.iter().find(|row| row.name == folder) else {
            problems.push(format!("crate {name} is not in the import table"));
            continue;
        };
        for dependency in
            package.get("dependencies").and_then(Value::as_array).into_iter().flatten()
        {
            problems.extend(dependency_problem(row, dependency));
        }
    }
    Ok(problems)
}

fn dependency_problem(row: &Row, dependency: &Value) -> Option<String> {
    let name = text(dependency, "name");
    let is_dev = text(dependency, "kind") == "dev";
    if matches!(name, "openraft" | "rocksdb") && row.name != "raft-store" {
        return Some(format!("{} depends on {name}; only raft-store may", row.name));
    }
    let own = name.strip_prefix("steeple-")?;
    let allowed = row.may_use.contains(&own) || own == row.name || (is_dev && own == "testkit");
    (!allowed).then(|| format!("{} may not depend on {own}", row.name))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Forbidden names between modules, by the text of `use` lines and paths.
pub(super) fn inside(file: &Source) -> Vec<String> {
    if !file.is_rust() || file.is_test() {
        return Vec::new();
    }
    let crate_rules =
        TABLE.iter().filter(|row| row.name == crate_of(&file.path)).flat_map(|row| row.never);
    let module_rules =
        MODULES.iter().filter(|rule| file.path.starts_with(rule.0)).flat_map(|rule| rule.1);
    let words: Vec<&&str> = crate_rules.chain(module_rules).collect();
    let mut problems = Vec::new();
    for (number, line) in file.product_lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for word in words.iter().filter(|word| code.contains(**word)) {
            problems.push(format!("{}:{} names `{word}`", file.path, number + 1));
        }
    }
    problems
}

/// Modules that must not see their siblings.
const MODULES: &[(&str, &[&str])] = &[
    ("raft-store/src/apply/", &["crate::rocks", "crate::raft", "openraft::", "rocksdb::"]),
    ("raft-store/src/net/", &["rocksdb::"]),
    ("raft-store/src/cluster/", &["rocksdb::"]),
    ("server/src/view/", &["crate::service", "crate::authority", "crate::gate", "steeple_api"]),
    ("server/src/authority/planner", &["crate::service", "crate::gate", "tokio::"]),
    ("server/src/attest/", &["crate::service"]),
    ("server/src/authority/", &["crate::service"]),
    ("server/src/gate/", &["crate::service::agent", "crate::service::entry"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Value {
        serde_json::json!({"packages": [{"name": name, "dependencies": [{"name": dependency, "kind": kind}]}]})
    }

    #[test]
    fn forbidden_dependencies_are_found() {
        for (name, dependency, kind, wrong) in [
            ("steeple-agent", "steeple-raft-store", None, true),
            ("steeple-server", "rocksdb", None, true),
            ("steeple-raft-store", "rocksdb", None, false),
            ("steeple-server", "steeple-testkit", Some("dev"), false),
            ("steeple-server", "steeple-testkit", None, true),
            ("steeple-unknown", "serde", None, true),
            ("steeple-cli", "steeple-api", None, false),
        ] {
            let problems = crate_table(&package(name, dependency, kind)).unwrap();
            assert_eq!(!problems.is_empty(), wrong, "{name} -> {dependency}: {problems:?}");
        }
    }

    #[test]
    fn forbidden_names_are_found_in_code_but_not_in_comments_or_tests() {
        let file = |text: &str| Source {
            path: "raft-store/src/apply/entries.rs".to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(inside(&file("use crate::rocks::Db;\n")).len(), 1);
        assert!(inside(&file("// as crate::rocks does\n")).is_empty());
        assert!(inside(&file("#[cfg(test)]\nuse crate::rocks::Db;\n")).is_empty());
    }
}
