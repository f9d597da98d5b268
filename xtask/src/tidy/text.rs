//! Rules about the text of files: headers, lengths, front pages, words and calls, the ADR index.

use super::Source;

/// Product lines a file may have (docs/STYLE.md: 400 is the aim, 800 the limit).
const LINES_MAX: usize = 800;

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helpers", "misc", "types"];

/// Words that must not stand in product code, and why.
const WORDS: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "mend it or write it in docs/ROADMAP.md"),
    (concat!("TO", "DO"), "mend it or write it in docs/ROADMAP.md"),
    (concat!("dbg", "!("), "left over"),
    (concat!("unbounded_", "channel"), "every queue has a bound"),
    (concat!("#[al", "low("), "use #[expect(lint, reason = \"…\")]"),
    (LIBRARY_RANDOM, "take a Random"),
];

/// What libraries call their randomness.
const LIBRARY_RANDOM: &str = concat!("thread_", "rng");

/// Implements the runtime trait of consensus, which has a method of that name, over a seam.
const RUNTIME: &str = "raft-store/src/raft/runtime.rs";

/// Calls that only one place may make.
const CALLS: &[(&str, &str, &str)] = &[
    (concat!("SystemTime::", "now("), "spiffe-core/src/time.rs", "take a Clock"),
    (
        concat!("std::time::Instant::", "now("),
        "spiffe-core/src/time.rs",
        "take a Clock or tokio's Instant",
    ),
];

/// As [`CALLS`], for the server alone: one file maps errors to codes and texts.
const SERVER_CALLS: &[(&str, &str, &str)] =
    &[(concat!("Status", "::permission_denied("), "server/src/status.rs", "map errors there")];

/// Every Rust file starts by saying what it owns.
pub(super) fn header(file: &Source) -> Vec<String> {
    if !file.is_rust() || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{} does not start with a `//!` header", file.path)]
}

/// Long files are two files.
pub(super) fn length(file: &Source) -> Vec<String> {
    let lines = file.product_lines().count();
    if !file.is_rust() || file.is_test() || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{} has {lines} product lines, more than {LINES_MAX}", file.path)]
}

/// `mod.rs` is a front page: no functions; and no module is called `util`.
pub(super) fn front_page(file: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let parts: Vec<&str> = file.path.trim_end_matches(".rs").split('/').collect();
    if file.is_rust()
        && parts.iter().any(|part| EMPTY_NAMES.contains(part))
        && !file.path.starts_with("raft-store/src/raft/")
    {
        problems.push(format!("{}: a module name that says nothing", file.path));
    }
    problems
}

/// Forbidden words and calls.
pub(super) fn words(file: &Source) -> Vec<String> {
    if !file.is_rust() || file.is_test() || file.path.starts_with("xtask/src/tidy/") {
        return Vec::new();
    }
    let of_server = if file.path.starts_with("server/") { SERVER_CALLS } else { &[] };
    let calls = CALLS.iter().chain(of_server);
    let mut problems = Vec::new();
    for (number, line) in file.product_lines().enumerate() {
        let place = || format!("{}:{}", file.path, number + 1);
        let has = |(word, _): &&(&str, &str)| {
            line.contains(word) && !(*word == LIBRARY_RANDOM && file.path == RUNTIME)
        };
        for (word, why) in WORDS.iter().filter(has) {
            problems.push(format!("{} has `{word}`: {why}", place()));
        }
        for (call, home, why) in
            calls.clone().filter(|(call, home, _)| line.contains(call) && file.path != *home)
        {
            problems.push(format!("{} calls `{call}…)`: {why} ({home} alone may)", place()));
        }
    }
    problems
}

/// Every decision record is in the index, and the index names no other.
pub(super) fn adr_index(files: &[Source]) -> Vec<String> {
    let Some(index) = files.iter().find(|file| file.path == "docs/adr/README.md") else {
        return vec!["docs/adr/README.md is missing".to_owned()];
    };
    let records = files.iter().filter_map(|file| file.path.strip_prefix("docs/adr/"));
    records
        .filter(|name| *name != "README.md" && !index.text.contains(name))
        .map(|name| format!("docs/adr/{name} is not in docs/adr/README.md"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn missing_headers_and_long_files_are_found() {
        assert_eq!(header(&rust("a/src/b.rs", "use std::fmt;\n")).len(), 1);
        assert!(header(&rust("a/src/b.rs", "//! Owns b.\n")).is_empty());
        assert_eq!(length(&rust("a/src/b.rs", &"x\n".repeat(801))).len(), 1);
        assert!(
            length(&rust("a/src/b.rs", &format!("#[cfg(test)]\n{}", "x\n".repeat(801)))).is_empty()
        );
    }

    #[test]
    fn forbidden_words_calls_and_names_are_found() {
        for line in WORDS.iter().map(|row| row.0).chain(CALLS.iter().map(|row| row.0)) {
            assert_eq!(words(&rust("a/src/b.rs", line)).len(), 1, "{line}");
        }
        assert!(words(&rust("spiffe-core/src/time.rs", CALLS[0].0)).is_empty());
        assert!(words(&rust("a/src/b.rs", SERVER_CALLS[0].0)).is_empty());
        assert_eq!(words(&rust("server/src/b.rs", SERVER_CALLS[0].0)).len(), 1);
        assert_eq!(front_page(&rust("a/src/util.rs", "")).len(), 1);
    }

    #[test]
    fn records_outside_the_index_are_found() {
        let index = rust("docs/adr/README.md", "- 0001-a.md\n");
        let listed = rust("docs/adr/0001-a.md", "");
        let forgotten = rust("docs/adr/0002-b.md", "");
        assert_eq!(adr_index(&[index, listed, forgotten]).len(), 1);
    }
}
