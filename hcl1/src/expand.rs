//! `-expandEnv`: replaces `$NAME` and `${NAME}` in a whole text before it is parsed.
//!
//! Follows Go's `os.Expand`, of which SPIRE makes `$$` a literal dollar. It knows no quotes and no
//! comments: the text is not parsed yet.

/// Replaces variables; one that `lookup` does not know becomes empty.
pub fn expand_env(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, from_dollar) = rest.split_at(dollar);
        out.push_str(before);
        let after = from_dollar.get(1..).unwrap_or_default();
        let (name, used) = shell_name(after);
        match name {
            "" if used == 0 => out.push('$'),
            // Bad syntax: Go eats it.
            "" => {}
            "$" => out.push('$'),
            name => out.push_str(&lookup(name).unwrap_or_default()),
        }
        rest = after.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The name after a dollar and how many bytes it and its braces take. No name and no byte: the
/// dollar stands for itself. No name but some bytes: bad syntax.
fn shell_name(text: &str) -> (&str, usize) {
    if let Some(inside) = text.strip_prefix('{') {
        // A special name may be the closing brace's neighbour only; all others end at a brace.
        return match inside.find('}') {
            Some(0) => ("", 2),
            Some(end) => (inside.get(..end).unwrap_or_default(), end + 2),
            None => ("", 1),
        };
    }
    let is_special = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    if text.starts_with(is_special) {
        return (text.get(..1).unwrap_or_default(), 1);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (text.get(..end).unwrap_or_default(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_go() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/home/user".to_owned()),
            "A_1" => Some("a".to_owned()),
            "odd name" => Some("odd".to_owned()),
            "1" => Some("one".to_owned()),
            _ => None,
        };
        let cases = [
            ("plain", "plain"),
            ("$HOME/x", "/home/user/x"),
            ("${HOME}x", "/home/userx"),
            ("$A_1-$A_1", "a-a"),
            ("[$UNSET][${UNSET}]", "[][]"),
            ("$$HOME", "$HOME"),
            ("${$}", "$"),
            ("100$", "100$"),
            ("$ x", "$ x"),
            ("$.", "$."),
            ("${}x", "x"),
            ("${x", "x"),
            ("$12", "one2"),
            ("${odd name}", "odd"),
            ("$ä", "$ä"),
            ("ä$HOMEä", "ä/home/userä"),
            ("# $HOME in a comment", "# /home/user in a comment"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand_env(text, &lookup), expected, "{text}");
        }
    }
}
