//! Log lines in SPIRE's two formats: logrus text and JSON.
//!
//! Owns the form (`spire-config` 4.3, `seeds` 7) and where lines go; what is logged stands where it
//! happens. SIGUSR2 opens the file anew, so that log rotation works.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use steeple_spiffe_core::{Clock, Timestamp};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer};

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// logrus text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the configuration says about logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Lines below this level are dropped.
    pub level: Level,
    /// The form.
    pub format: LogFormat,
    /// The file; `None` = standard error.
    pub file: Option<PathBuf>,
    /// Whether lines name the place in the source.
    pub source_location: bool,
}

/// Where lines go; shared with whoever opens the file anew.
#[derive(Clone, Debug)]
pub struct LogSink {
    path: Option<PathBuf>,
    file: Arc<Mutex<Option<File>>>,
}

impl LogSink {
    /// Opens the file, if there is one.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(open_file).transpose()?;
        Ok(Self { path: path.map(Path::to_owned), file: Arc::new(Mutex::new(file)) })
    }

    /// Opens the file anew after it was moved away.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let new = open_file(path)?;
            *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
        }
        Ok(())
    }

    fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A line that can't be written has nowhere to be reported.
        drop(match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        });
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// Writes each event as one line.
#[derive(Debug)]
pub struct LogLayer {
    settings: LogSettings,
    sink: LogSink,
    clock: Arc<dyn Clock>,
}

impl LogLayer {
    /// With the settings, a sink and the time for the lines.
    pub fn new(settings: LogSettings, sink: LogSink, clock: Arc<dyn Clock>) -> Self {
        Self { settings, sink, clock }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        // Libraries speak at their own levels; of them only what a person must see is shown.
        let is_ours =
            metadata.target().starts_with("steeple") || metadata.target().starts_with("spire");
        let level =
            if is_ours { self.settings.level } else { self.settings.level.min(Level::WARN) };
        *metadata.level() <= level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.settings.level.max(Level::WARN)))
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        if self.settings.source_location {
            let place = metadata.file().zip(metadata.line());
            if let Some((file, line)) = place {
                fields.others.insert("file".to_owned(), format!("{file}:{line}").into());
            }
        }
        let (level, now) = (*metadata.level(), self.clock.now());
        self.sink.write(&match self.settings.format {
            LogFormat::Text => text_line(now, level, fields),
            LogFormat::Json => json_line(now, level, fields),
        });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: BTreeMap<String, serde_json::Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
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

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn text_line(now: Timestamp, level: Level, fields: Fields) -> String {
    let mut line = format!("time=\"{}\" level={} msg=", time_text(now), level_name(level));
    push_value(&mut line, &fields.message);
    for (name, value) in &fields.others {
        // Writing to a String doesn't fail.
        let _infallible = write!(line, " {name}=");
        match value.as_str() {
            Some(text) => push_value(&mut line, text),
            None => push_value(&mut line, &value.to_string()),
        }
    }
    line.push('\n');
    line
}

/// Quotes what holds anything outside logrus's plain characters.
fn push_value(line: &mut String, value: &str) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        line.push_str(value);
    } else {
        let _infallible = write!(line, "{value:?}");
    }
}

fn json_line(now: Timestamp, level: Level, fields: Fields) -> String {
    let mut object = serde_json::Map::new();
    for (name, value) in fields.others {
        object.insert(name, value);
    }
    object.insert("level".to_owned(), level_name(level).into());
    object.insert("msg".to_owned(), fields.message.into());
    object.insert("time".to_owned(), time_text(now).into());
    let mut line = serde_json::Value::Object(object).to_string();
    line.push('\n');
    line
}

/// RFC 3339 in UTC with seconds, as logrus writes it.
fn time_text(now: Timestamp) -> String {
    let seconds = now.unix_s();
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01, by eras of 400 years that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        let others = [
            ("spiffe_id", serde_json::Value::from("spiffe://example.org/a b")),
            ("entry", "e-1".into()),
            ("registered", false.into()),
            ("empty", "".into()),
            ("uid", 7.into()),
        ];
        Fields {
            message: "Entry created".to_owned(),
            others: others.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        }
    }

    #[test]
    fn text_lines_look_like_those_of_logrus() {
        let line = text_line(Timestamp::from_unix_s(1_700_000_000), Level::WARN, fields());
        let want = "time=\"2023-11-14T22:13:20Z\" level=warning msg=\"Entry created\" empty=\"\" \
                    entry=e-1 registered=false spiffe_id=\"spiffe://example.org/a b\" uid=7\n";
        assert_eq!(line, want);
    }

    #[test]
    fn json_lines_are_objects_with_level_message_and_time() {
        let line = json_line(Timestamp::from_unix_s(0), Level::INFO, fields());
        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(object["level"], "info");
        assert_eq!(object["msg"], "Entry created");
        assert_eq!(object["time"], "1970-01-01T00:00:00Z");
        assert_eq!(object["registered"], false);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn line_breaks_and_quotes_cannot_forge_a_line() {
        let mut line = String::new();
        push_value(&mut line, "a\nlevel=info \"x\"");
        assert_eq!(line, r#""a\nlevel=info \"x\"""#);
    }

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        for (seconds, want) in [
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(time_text(Timestamp::from_unix_s(seconds)), want);
        }
    }
}
