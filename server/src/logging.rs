//! Log lines in the two formats of SPIRE (logrus): `time=… level=… msg=… key=value` and JSON.
//!
//! Owns the format, the sink (standard output or a file that SIGUSR2 reopens) and the filter: our
//! own crates at the configured level, libraries from `warn` up. What is logged is everyone's own
//! business, once, where it is consumed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use steeple_raft_store::REFUSED_CHANGE_TARGET;
use steeple_spiffe_core::{Clock, Timestamp};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Mode of a log file that has to be made (SPIRE's).
const FILE_MODE: u32 = 0o640;

/// Prefix of the targets of our own crates.
const OWN_TARGETS: &str = "steeple";

/// Prefix of the targets of the consensus library.
const CONSENSUS_TARGETS: &str = "openraft";

/// Why lines cannot be logged.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The file cannot be opened.
    #[error("could not open log file {}; make its folder writable or change log_file", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another subscriber is installed: two servers in one process.
    #[error("install log subscriber")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

/// The installed log, for reopening its file.
#[derive(Clone, Debug)]
pub struct Logging {
    sink: Arc<Mutex<Sink>>,
}

impl Logging {
    /// Installs the log for this process.
    ///
    /// # Errors
    ///
    /// [`LoggingError`].
    pub fn install(config: &LogConfig, clock: Arc<dyn Clock>) -> Result<Self, LoggingError> {
        let sink = Sink::open(config.file.as_deref())?;
        let sink = Arc::new(Mutex::new(sink));
        let layer = Lines {
            sink: Arc::clone(&sink),
            format: config.format,
            source_location: config.source_location,
            clock,
        };
        tracing_subscriber::registry()
            .with(layer.with_filter(filter(config.level)))
            .try_init()
            .map_err(LoggingError::Installed)?;
        Ok(Self { sink })
    }

    /// Opens the log file anew, after a rotation has moved it away. Without a file nothing happens.
    pub fn reopen(&self) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let path = match &*sink {
            Sink::Stdout => return,
            Sink::File { path, .. } => path.clone(),
        };
        // The old file stays in place if the new one cannot be opened: lines are not to be lost.
        if let Ok(reopened) = Sink::open(Some(&path)) {
            *sink = reopened;
        }
    }
}

/// What is logged at a configured level.
fn filter(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // The consensus library warns at each failed heartbeat; what matters of that we say ourselves. Its
    // errors are those of the storage, or its end.
    let (consensus, refused) = match own == LevelFilter::TRACE {
        true => (own, own),
        false => (LevelFilter::ERROR, LevelFilter::OFF),
    };
    Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target(OWN_TARGETS, own)
        .with_target(CONSENSUS_TARGETS, consensus)
        .with_target(REFUSED_CHANGE_TARGET, refused)
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, LoggingError> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(|source| LoggingError::Open { path: path.to_owned(), source })?;
        Ok(Self::File { path: path.to_owned(), file })
    }

    /// A line that cannot be written is lost: there is nowhere to say so.
    fn write(&mut self, line: &str) {
        let written = match self {
            Self::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Self::File { file, .. } => file.write_all(line.as_bytes()),
        };
        written.ok();
    }
}

/// Writes each event as one line.
struct Lines {
    sink: Arc<Mutex<Sink>>,
    format: LogFormat,
    source_location: bool,
    clock: Arc<dyn Clock>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        if self.source_location {
            let file = metadata.file().unwrap_or_default();
            let line = metadata.line().unwrap_or_default();
            fields.rest.push(("file".into(), Value::String(format!("{file}:{line}"))));
            fields.rest.push(("func".into(), Value::String(metadata.target().to_owned())));
        }
        let time = time_text(self.clock.now());
        let line = match self.format {
            LogFormat::Text => text_line(&time, level_text(metadata.level()), fields),
            LogFormat::Json => json_line(&time, level_text(metadata.level()), fields),
        };
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
    }
}

/// An event's fields, the message apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // `r#type` is how Rust spells a field that SPIRE calls `type`.
        let name = field.name().trim_start_matches("r#");
        self.rest.push((name.to_owned(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, Value::String(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, Value::String(value.to_owned()));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.put(field, Value::String(text));
    }
}

fn text_line(time: &str, level: &str, mut fields: Fields) -> String {
    // logrus sorts fields by name.
    fields.rest.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut line = format!("time=\"{time}\" level={level} msg={}", quoted(&fields.message, true));
    for (name, value) in &fields.rest {
        let text = match value {
            Value::String(text) => quoted(text, false),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => value.to_string(),
        };
        line.push(' ');
        line.push_str(name);
        line.push('=');
        line.push_str(&text);
    }
    line.push('\n');
    line
}

fn json_line(time: &str, level: &str, mut fields: Fields) -> String {
    // logrus writes keys sorted, the three fixed ones among them.
    fields.rest.push(("level".into(), Value::String(level.to_owned())));
    fields.rest.push(("msg".into(), Value::String(std::mem::take(&mut fields.message))));
    fields.rest.push(("time".into(), Value::String(time.to_owned())));
    fields.rest.sort_by(|(a, _), (b, _)| a.cmp(b));
    let object: Map<String, Value> = fields.rest.into_iter().collect();
    format!("{}\n", Value::Object(object))
}

/// A text as logrus writes it: in quotes when it holds anything but plain characters. The message
/// always is.
fn quoted(text: &str, always: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if always || text.is_empty() || !text.chars().all(plain) {
        Value::String(text.to_owned()).to_string()
    } else {
        text.to_owned()
    }
}

fn level_text(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

pub(crate) fn time_text(now: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(now.unix_ms()) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The lines that are logged while something is done, without their times.
#[cfg(test)]
pub(crate) fn captured(act: impl FnOnce()) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let sink = Sink::open(Some(file.path())).unwrap();
    let layer = Lines {
        sink: Arc::new(Mutex::new(sink)),
        format: LogFormat::Text,
        source_location: false,
        clock: Arc::new(steeple_spiffe_core::time::FixedClock::new(Timestamp::UNIX_EPOCH)),
    };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
    text.lines().map(without_time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "Agent banned".into(),
            rest: vec![
                ("zone".into(), Value::from(3)),
                ("agent_id".into(), Value::String("spiffe://example.org/a".into())),
                ("empty".into(), Value::String(String::new())),
                ("plain".into(), Value::String("a-b.c".into())),
            ],
        }
    }

    #[test]
    fn of_the_consensus_library_only_errors_that_nobody_else_tells_of_are_logged() {
        let (storage, refused) = ("openraft::core::raft_core", REFUSED_CHANGE_TARGET);
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug] {
            let filter = filter(level);
            assert!(filter.would_enable(storage, &Level::ERROR), "{level:?}");
            assert!(filter.would_enable("openraft::storage::helper", &Level::ERROR), "{level:?}");
            assert!(!filter.would_enable(storage, &Level::WARN), "{level:?}");
            assert!(!filter.would_enable(refused, &Level::ERROR), "{level:?}");
            let warns = filter.would_enable("rustls", &Level::WARN);
            assert_eq!(warns, level != LogLevel::Error, "{level:?}");
        }
        let all = filter(LogLevel::Trace);
        assert!(
            all.would_enable(storage, &Level::DEBUG) && all.would_enable(refused, &Level::ERROR)
        );
    }

    #[test]
    fn text_lines_look_like_those_of_logrus() {
        let time = time_text(Timestamp::from_unix_ms(1_700_000_000_250));
        assert_eq!(time, "2023-11-14T22:13:20.25Z");
        assert_eq!(
            text_line(&time, "info", fields()),
            "time=\"2023-11-14T22:13:20.25Z\" level=info msg=\"Agent banned\" \
             agent_id=\"spiffe://example.org/a\" empty=\"\" plain=a-b.c zone=3\n"
        );
    }

    #[test]
    fn json_lines_have_sorted_keys() {
        assert_eq!(
            json_line("T", "warning", fields()),
            "{\"agent_id\":\"spiffe://example.org/a\",\"empty\":\"\",\"level\":\"warning\",\
             \"msg\":\"Agent banned\",\"plain\":\"a-b.c\",\"time\":\"T\",\"zone\":3}\n"
        );
    }

    #[test]
    fn line_breaks_cannot_forge_a_second_line() {
        let forged = Fields { message: "a\nlevel=error".into(), rest: Vec::new() };
        assert_eq!(text_line("T", "info", forged).matches('\n').count(), 1);
    }
}
