//! From a command line to a command and its exit code.
//!
//! Owns what SPIRE's dispatcher does: the longest command that the leading words name, help and
//! version, the usage text after a bad flag, the prefix before an error. Exit codes: 0 done, 1
//! failed or a group without a command, 127 no such command.

use crate::Mounted;
use crate::error::Error;
use crate::flags::{FlagError, FlagSet};
use crate::io::Io;
use crate::program::{Action, ErrorStyle, Mount, Program};
use std::collections::BTreeMap;
use std::io::ErrorKind;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const NO_SUCH_COMMAND: i32 = 127;

/// What the command line names.
enum Named<'p> {
    Command(&'p Mount, Vec<String>),
    Group(String),
    Nothing,
    Version,
    Help,
}

/// Runs what the words name.
pub(crate) async fn dispatch(
    program: &'static Program,
    args: Vec<String>,
    mounted: Mounted,
    io: &mut Io<'_>,
) -> i32 {
    let mounts = mounts(program, io);
    let outcome = match name(&mounts, &args) {
        Named::Command(mount, rest) => run(mount, rest, mounted, io).await,
        Named::Group(group) => {
            let code = if asks_for_help(&args) { DONE } else { FAILED };
            group_help(&mounts, &group, io).map(|()| code)
        }
        Named::Nothing => {
            writeln!(io.stderr, "{}", top_help(program, &mounts)).map(|()| NO_SUCH_COMMAND)
        }
        Named::Help => writeln!(io.stderr, "{}", top_help(program, &mounts)).map(|()| DONE),
        Named::Version => writeln!(io.stderr, "{}", env!("CARGO_PKG_VERSION")).map(|()| DONE),
    };
    // Only our own streams can fail here, and there is nowhere left to say so.
    let flushed = io.stdout.flush();
    match (outcome, flushed) {
        (Ok(code), Ok(())) => code,
        (Ok(_) | Err(_), Ok(()) | Err(_)) => FAILED,
    }
}

/// The commands that are there: SPIRE reads its feature flags from the environment for some.
fn mounts(program: &'static Program, io: &Io<'_>) -> Vec<&'static Mount> {
    let flags = (io.env)("SPIRE_SERVER_FFLAGS").unwrap_or_default();
    let is_on = |feature: &str| feature.is_empty() || flags.split(' ').any(|flag| flag == feature);
    program.mounts.iter().filter(|mount| is_on(mount.feature)).collect()
}

fn name<'p>(mounts: &[&'p Mount], args: &[String]) -> Named<'p> {
    let leading: Vec<&str> = args.iter().map(String::as_str).take_while(|w| is_word(w)).collect();
    if leading.is_empty() {
        return match args.first().map(String::as_str) {
            Some("-v" | "-version" | "--version") => Named::Version,
            Some("-h" | "-help" | "--help") => Named::Help,
            Some(_) | None => Named::Nothing,
        };
    }
    for count in (1..=leading.len().min(3)).rev() {
        let words = leading.get(..count).unwrap_or_default().join(" ");
        if let Some(mount) = mounts.iter().find(|mount| mount.words == words) {
            return Named::Command(mount, args.get(count..).unwrap_or_default().to_vec());
        }
        let prefix = format!("{words} ");
        if mounts.iter().any(|mount| mount.words.starts_with(&prefix)) {
            return Named::Group(words);
        }
    }
    Named::Nothing
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && !word.contains(' ')
}

async fn run(
    mount: &Mount,
    args: Vec<String>,
    mounted: Mounted,
    io: &mut Io<'_>,
) -> std::io::Result<i32> {
    let make = match mount.action {
        Action::Run => return Ok(call(mounted.run, args)),
        Action::Validate => return Ok(call(mounted.validate, args)),
        Action::Ours(make) => make,
    };
    let mut command = make();
    {
        let mut flags = FlagSet::new(mount.words);
        command.declare(&mut flags);
        if asks_for_help(&args) {
            write!(io.stderr, "{}", flags.usage())?;
            return Ok(DONE);
        }
        match flags.parse(&args) {
            Ok(rest) => warn_of_rest(&rest, io)?,
            Err(error) => {
                bad_flag(mount, &error, &flags, io)?;
                return Ok(FAILED);
            }
        }
    }
    if !mount.heir.is_empty() {
        io.warn(&format!("{} is an old spelling; use {}", mount.words, mount.heir))?;
    }
    match command.run(io).await {
        Ok(()) => Ok(DONE),
        // The reader has seen enough (`entry show | head -1`): nothing to tell, nobody to tell it.
        Err(Error::Stream(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(FAILED),
        Err(error) => {
            io.stdout.flush()?;
            report(mount, &error, io)?;
            Ok(FAILED)
        }
    }
}

/// SPIRE's dispatcher looks for help before a command's flags are read, wherever it stands.
fn asks_for_help(args: &[String]) -> bool {
    let help = |word: &String| matches!(word.as_str(), "-h" | "-help" | "--help");
    args.iter().take_while(|word| *word != "--").any(help)
}

/// Calls a binary's own command. Such a command starts a runtime of its own, which a thread of a
/// runtime may only do after leaving it.
fn call(handler: crate::Handler, args: Vec<String>) -> i32 {
    match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => {
            tokio::task::block_in_place(|| handler(args))
        }
        Ok(_) | Err(_) => handler(args),
    }
}

/// SPIRE ignores such words in silence; most often they are flags after a stray word.
fn warn_of_rest(rest: &[String], io: &mut Io<'_>) -> std::io::Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(first) => io.warn(&format!(
            "{} and everything after it is ignored: flags end at the first word that is no flag",
            crate::output::go_quote(first)
        )),
    }
}

fn bad_flag(
    mount: &Mount,
    error: &FlagError,
    flags: &FlagSet<'_>,
    io: &mut Io<'_>,
) -> std::io::Result<()> {
    write!(io.stderr, "{error}\n{}", flags.usage())?;
    match mount.errors {
        ErrorStyle::Prefixed | ErrorStyle::Plain => Ok(()),
        ErrorStyle::Bare => writeln!(io.stderr, "{error}"),
    }
}

fn report(mount: &Mount, error: &Error, io: &mut Io<'_>) -> std::io::Result<()> {
    let prefix = match mount.errors {
        ErrorStyle::Prefixed => "Error: ",
        ErrorStyle::Plain | ErrorStyle::Bare => "",
    };
    writeln!(io.stderr, "{prefix}{}", error.chain())?;
    match error.hint() {
        Some(hint) => writeln!(io.stderr, "Hint: {hint}"),
        None => Ok(()),
    }
}

fn top_help(program: &Program, mounts: &[&'static Mount]) -> String {
    let mut listed: BTreeMap<&str, &str> = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| !mount.synopsis.is_empty()) {
        match mount.words.split_once(' ') {
            None => listed.insert(mount.words, mount.synopsis),
            Some((group, _)) => listed.insert(group, group_synopsis(program, group)),
        };
    }
    format!(
        "Usage: {} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n{}",
        program.name,
        table(&listed)
    )
}

fn group_synopsis<'p>(program: &'p Program, group: &str) -> &'p str {
    program.groups.iter().find(|(name, _)| *name == group).map_or("", |(_, synopsis)| synopsis)
}

/// The usage of every command of the group, then the list of them.
fn group_help(mounts: &[&Mount], group: &str, io: &mut Io<'_>) -> std::io::Result<()> {
    let prefix = format!("{group} ");
    let mut listed: BTreeMap<&str, &str> = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| !mount.synopsis.is_empty()) {
        let Some(name) = mount.words.strip_prefix(&prefix) else { continue };
        listed.insert(name, mount.synopsis);
        if let Action::Ours(make) = mount.action {
            let mut command = make();
            let mut flags = FlagSet::new(mount.words);
            command.declare(&mut flags);
            write!(io.stderr, "{}", flags.usage())?;
        }
    }
    write!(
        io.stderr,
        "This command is accessed by using one of the subcommands below.\n\nSubcommands:\n{}",
        table(&listed)
    )
}

fn table(listed: &BTreeMap<&str, &str>) -> String {
    let width = listed.keys().map(|name| name.len()).max().unwrap_or_default();
    listed.iter().map(|(name, synopsis)| format!("    {name:width$}    {synopsis}\n")).collect()
}
