//! One command's flags: declaration, parsing, usage text.
//!
//! Owns the grammar and the layout of Go's `flag.FlagSet` with `ContinueOnError`. A flag writes
//! into a field borrowed from the command, so a flag that exists in the table exists in the types.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::value::{FlagValue, Kind};
use crate::output::go_quote;

/// Why a command line is refused. Texts are those of Go's `flag` package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// `-h` or `-help` was given.
    #[error("flag: help requested")]
    Help,
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    NotDefined(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(String),
    /// A word of dashes that names nothing, such as `---x` or `-=x`.
    #[error("bad flag syntax: {0}")]
    BadSyntax(String),
    /// A value that the flag's kind refuses.
    #[error("invalid value {} for flag -{flag}: {reason}", go_quote(.value))]
    InvalidValue {
        /// The name without dashes.
        flag: String,
        /// What was typed.
        value: String,
        /// Why it is refused.
        reason: String,
    },
    /// As above, for a boolean: Go words it differently.
    #[error("invalid boolean value {} for -{flag}: {reason}", go_quote(.value))]
    InvalidBoolean {
        /// The name without dashes.
        flag: String,
        /// What was typed.
        value: String,
        /// Why it is refused.
        reason: String,
    },
}

/// The flags of one command.
pub(crate) struct FlagSet<'a> {
    command: String,
    flags: BTreeMap<&'static str, Flag<'a>>,
    /// What the command acts on, in order: a name for the usage text and the place it goes to.
    words: VecDeque<(&'static str, &'a mut String)>,
}

struct Flag<'a> {
    usage: &'static str,
    kind: Kind,
    default: Option<String>,
    listed: bool,
    value: &'a mut dyn FlagValue,
}

impl<'a> FlagSet<'a> {
    /// An empty set for the command of this name, for instance `entry create`.
    pub(crate) fn new(command: &str) -> Self {
        Self { command: command.to_owned(), flags: BTreeMap::new(), words: VecDeque::new() }
    }

    /// Declares a flag. The field's present value is the default the usage text shows.
    pub(crate) fn flag(
        &mut self,
        name: &'static str,
        value: &'a mut dyn FlagValue,
        usage: &'static str,
    ) {
        self.insert(name, value, usage, true);
    }

    /// Declares an old spelling: it works, and the usage text does not list it.
    pub(crate) fn old_flag(&mut self, name: &'static str, value: &'a mut dyn FlagValue) {
        self.insert(name, value, "", false);
    }

    /// Declares a word that stands for itself, before, between or behind the flags. SPIRE has none;
    /// our own commands name files so.
    pub(crate) fn word(&mut self, name: &'static str, value: &'a mut String) {
        self.words.push_back((name, value));
    }

    /// Fills the fields from the words and returns those left over: parsing stops at the first
    /// word that is no flag and was not declared, and after `--`.
    pub(crate) fn parse(&mut self, words: &[String]) -> Result<Vec<String>, FlagError> {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                return Ok(words.filter(|word| !self.take_word(word)).cloned().collect());
            }
            let Some(body) = flag_body(word) else {
                if self.take_word(word) {
                    continue;
                }
                return Ok(std::iter::once(word).chain(words).cloned().collect());
            };
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(FlagError::BadSyntax(word.clone()));
            }
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            self.assign(name, attached, &mut words)?;
        }
        Ok(Vec::new())
    }

    /// The usage text in Go's layout, with a final newline.
    pub(crate) fn usage(&self) -> String {
        let words: String = self.words.iter().map(|(name, _)| format!(" {name}")).collect();
        let mut text = format!("Usage of {}{words}:\n", self.command);
        for (name, flag) in self.flags.iter().filter(|(_, flag)| flag.listed) {
            flag.describe(name, &mut text);
        }
        text
    }

    /// Puts a word where the next declared one goes; false if none is left.
    fn take_word(&mut self, word: &str) -> bool {
        let Some((_, value)) = self.words.pop_front() else { return false };
        word.clone_into(value);
        true
    }

    fn insert(
        &mut self,
        name: &'static str,
        value: &'a mut dyn FlagValue,
        usage: &'static str,
        listed: bool,
    ) {
        let (kind, default) = (value.kind(), value.shown());
        self.flags.insert(name, Flag { usage, kind, default, listed, value });
    }

    fn assign<'w>(
        &mut self,
        name: &str,
        attached: Option<String>,
        words: &mut impl Iterator<Item = &'w String>,
    ) -> Result<(), FlagError> {
        let Some(flag) = self.flags.get_mut(name) else {
            return Err(match name {
                "h" | "help" => FlagError::Help,
                _ => FlagError::NotDefined(name.to_owned()),
            });
        };
        let value = match attached {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => {
                words.next().cloned().ok_or_else(|| FlagError::NeedsArgument(name.to_owned()))?
            }
        };
        flag.value.set(&value).map_err(|reason| {
            let flag_name = name.to_owned();
            if flag.kind == Kind::Bool {
                FlagError::InvalidBoolean { flag: flag_name, value, reason }
            } else {
                FlagError::InvalidValue { flag: flag_name, value, reason }
            }
        })
    }
}

impl Flag<'_> {
    /// One flag in the layout of Go's `PrintDefaults`: two spaces and the name with the kind of
    /// its value, then the explanation on a line of its own.
    fn describe(&self, name: &str, text: &mut String) {
        let kind = self.kind.word();
        let head = if kind.is_empty() { format!("  -{name}") } else { format!("  -{name} {kind}") };
        // Go puts a boolean of one letter and its text on one line.
        let gap = if head.len() <= 4 { "\t" } else { "\n    \t" };
        let usage = self.usage.replace('\n', "\n    \t");
        let default = match &self.default {
            Some(value) if self.kind == Kind::Text => format!(" (default {})", go_quote(value)),
            Some(value) => format!(" (default {value})"),
            None => String::new(),
        };
        writeln!(text, "{head}{gap}{usage}{default}").expect("writing to a String cannot fail");
    }
}

/// The flag without its one or two dashes; `None` for a word that is no flag (a lone dash is a
/// word: it names standard input).
fn flag_body(word: &str) -> Option<&str> {
    let body = word.strip_prefix('-')?;
    if body.is_empty() {
        return None;
    }
    Some(body.strip_prefix('-').unwrap_or(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Sample {
        name: String,
        count: i64,
        admin: bool,
        list: Vec<String>,
    }

    fn parse(line: &str) -> Result<(Sample, Vec<String>), FlagError> {
        let mut sample = Sample::default();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut flags = FlagSet::new("sample");
        flags.flag("name", &mut sample.name, "a name");
        flags.flag("count", &mut sample.count, "a count");
        flags.flag("admin", &mut sample.admin, "a switch");
        flags.flag("list", &mut sample.list, "a list");
        let rest = flags.parse(&words)?;
        Ok((sample, rest))
    }

    #[test]
    fn every_way_go_takes_to_write_a_flag_is_taken() {
        for line in [
            "-name x -count 7 -admin -list a -list b",
            "--name x --count 7 --admin --list a --list b",
            "-name=x -count=7 -admin=true -list=a -list=b",
            "--name=x --count=0x7 --admin=1 --list=a --list=b",
            "-list a -admin -list b -count 7 -name x",
        ] {
            let (sample, rest) = parse(line).expect(line);
            let expected = Sample {
                name: "x".to_owned(),
                count: 7,
                admin: true,
                list: vec!["a".to_owned(), "b".to_owned()],
            };
            assert_eq!(sample, expected, "{line}");
            assert_eq!(rest, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_boolean_never_eats_the_next_word() {
        let (sample, rest) = parse("-admin false -count 7").expect("the words are well formed");
        assert!(sample.admin);
        assert_eq!(sample.count, 0);
        assert_eq!(rest, ["false", "-count", "7"]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let (sample, _) = parse("-name -count -count -3").expect("the words are well formed");
        assert_eq!((sample.name.as_str(), sample.count), ("-count", -3));
    }

    #[test]
    fn declared_words_may_stand_anywhere_and_only_the_rest_is_left_over() {
        for (line, expected_file, expected_rest) in [
            ("f -admin", "f", ""),
            ("-admin f", "f", ""),
            ("-admin -- f", "f", ""),
            ("-admin -- f g", "f", "g"),
            ("f -admin g -count 7", "f", "g -count 7"),
            ("-admin", "", ""),
        ] {
            let (mut file, mut admin, mut count) = (String::new(), false, 0_i64);
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let mut flags = FlagSet::new("sample");
            flags.word("FILE", &mut file);
            flags.flag("admin", &mut admin, "a switch");
            flags.flag("count", &mut count, "a count");
            assert!(flags.usage().starts_with("Usage of sample FILE:\n"));
            let rest = flags.parse(&words).expect(line);
            assert_eq!(rest.join(" "), expected_rest, "{line}");
            assert_eq!((file.as_str(), admin, count), (expected_file, true, 0), "{line}");
        }
    }

    #[test]
    fn parsing_stops_at_the_first_other_word_and_after_two_dashes() {
        for (line, expected) in [
            ("-admin word -count 7", "word -count 7"),
            ("-admin -- -count 7", "-count 7"),
            ("-", "-"),
        ] {
            let (_, rest) = parse(line).expect(line);
            assert_eq!(rest.join(" "), expected, "{line}");
        }
    }

    #[test]
    fn refusals_have_the_texts_of_go() {
        for (line, expected) in [
            ("-foo", "flag provided but not defined: -foo"),
            ("--foo=1", "flag provided but not defined: -foo"),
            ("-NAME x", "flag provided but not defined: -NAME"),
            ("-name", "flag needs an argument: -name"),
            ("---name x", "bad flag syntax: ---name"),
            ("-=x", "bad flag syntax: -=x"),
            ("-count ten", "invalid value \"ten\" for flag -count: parse error"),
            ("-admin=maybe", "invalid boolean value \"maybe\" for -admin: parse error"),
            ("-h", "flag: help requested"),
            ("--help", "flag: help requested"),
        ] {
            assert_eq!(parse(line).expect_err(line).to_string(), expected, "{line}");
        }
    }
}
