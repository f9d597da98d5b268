//! `steeple-check FILE`: checks one history and says what came of it. Exit code 0 means pass, 1 any
//! other verdict, 2 that the history could not be checked.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufReader, Write as _, stderr, stdout};
use std::process::ExitCode;

use steeple_checker::history::ReadLimits;
use steeple_checker::{History, Report, Requirements, Settings, check};

const USAGE: &str = "usage: steeple-check [--json] [--require FILE] [--steps N] HISTORY
  --json          print the report as JSON
  --require FILE  what the run must have exercised (JSON, see the README)
  --steps N       steps of the black-box search for one object";

struct Words {
    history: String,
    is_json: bool,
    require: Option<String>,
    steps: Option<u64>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = parse(&words).and_then(|words| Ok((words.is_json, run(&words)?)));
    match outcome {
        Ok((is_json, report)) => print(&report, is_json),
        Err(error) => {
            // Nothing better can be done about a closed stderr.
            let _printed = writeln!(stderr(), "steeple-check: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &Report, is_json: bool) -> ExitCode {
    let text = if is_json {
        serde_json::to_string_pretty(report).unwrap_or_else(|error| error.to_string())
    } else {
        report.to_string()
    };
    let printed = writeln!(stdout(), "{text}");
    if report.overall().is_pass() && printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(words: &[String]) -> Result<Words, String> {
    let mut found = Words { history: String::new(), is_json: false, require: None, steps: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => found.is_json = true,
            "--require" => found.require = Some(words.next().ok_or(USAGE)?.clone()),
            "--steps" => {
                let number = words.next().ok_or(USAGE)?;
                found.steps = Some(number.parse().map_err(|_error| USAGE.to_owned())?);
            }
            _ if word.starts_with('-') || !found.history.is_empty() => return Err(USAGE.to_owned()),
            _ => found.history.clone_from(word),
        }
    }
    if found.history.is_empty() { Err(USAGE.to_owned()) } else { Ok(found) }
}

fn run(words: &Words) -> Result<Report, String> {
    let mut settings = Settings::default();
    if let Some(path) = &words.require {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        settings.requirements = serde_json::from_str::<Requirements>(&text)
            .map_err(|error| format!("{path}: {error}"))?;
    }
    settings.steps_max = words.steps.unwrap_or(settings.steps_max);
    let path = &words.history;
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let history = History::read(BufReader::new(file), ReadLimits::default())
        .map_err(|error| format!("{path}: {}", chain(&error)))?;
    Ok(check(&history, &settings))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
