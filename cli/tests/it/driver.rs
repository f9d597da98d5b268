//! Runs a command line and compares what it did with a golden file.
//!
//! A golden file holds the exit code, stdout and stderr. A stream that does not end with a newline
//! is marked, since scripts notice. Set `UPDATE_GOLDEN=1` to write the files from what was printed:
//! only ever to see a difference, the files are written from the specification.

use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};

use steeple_cli::{Interrupt, Io, Mounted};
use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::time::FixedClock;
use tokio::sync::Notify;

use crate::fake::Fake;

/// 2026-01-02 03:04:05 UTC: now, in every test.
pub(crate) const NOW: i64 = 1_767_323_045;

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command line about to be run.
pub(crate) struct CommandLine {
    words: Vec<String>,
    stdin: String,
    variables: Vec<(String, String)>,
    interrupt_after: Option<usize>,
}

/// A command line of `spire-server` or `spire-agent`, split at blanks; the program's name first.
/// `'…'` keeps blanks.
pub(crate) fn line(text: &str) -> CommandLine {
    let mut words = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 0 {
            words.extend(part.split_whitespace().map(str::to_owned));
        } else {
            words.push(part.to_owned());
        }
    }
    let variables = vec![("TZ".to_owned(), String::new())];
    CommandLine { words, stdin: String::new(), variables, interrupt_after: None }
}

impl CommandLine {
    pub(crate) fn stdin(mut self, text: &str) -> Self {
        text.clone_into(&mut self.stdin);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Interrupts the command once stdout holds so many lines.
    pub(crate) fn interrupt_after(mut self, lines: usize) -> Self {
        self.interrupt_after = Some(lines);
        self
    }

    /// Runs it against the fake, which the environment names.
    pub(crate) async fn on(self, fake: &Fake) -> Outcome {
        let socket = fake.socket().display().to_string();
        self.variable("SPIRE_SERVER_PRIVATE_SOCKET", &socket)
            .variable("SPIRE_AGENT_PUBLIC_SOCKET", &socket)
            .run()
            .await
    }

    /// Runs it.
    pub(crate) async fn run(self) -> Outcome {
        let (program, args) = self.words.split_first().expect("a line names a program");
        let args = args.to_vec();
        let (out, err) = (Buffer::default(), Buffer::default());
        let interrupt: Interrupt<'_> = match self.interrupt_after {
            Some(lines) => Box::pin(out.clone().reaches(lines)),
            None => Box::pin(pending()),
        };
        let clock = FixedClock::new(Timestamp::from_unix_s(NOW));
        let env = |name: &str| {
            self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        let mut io = Io {
            stdin: &mut self.stdin.as_bytes(),
            stdout: &mut out.clone(),
            stderr: &mut err.clone(),
            env: &env,
            clock: &clock,
            interrupt,
        };
        let (run, validate) = (out.clone(), out.clone());
        let mounted = Mounted {
            run: Box::new(move |args| run.say(&format!("run {args:?}\n"), 7)),
            validate: Box::new(move |args| validate.say(&format!("validate {args:?}\n"), 8)),
        };
        let code = if program == "spire-server" {
            steeple_cli::server_main_with(args, mounted, &mut io).await
        } else {
            assert_eq!(program, "spire-agent");
            steeple_cli::agent_main_with(args, mounted, &mut io).await
        };
        drop(io);
        Outcome { code, stdout: out.text(), stderr: err.text() }
    }
}

impl Outcome {
    /// Compares with `tests/golden/<name>.txt`.
    pub(crate) fn matches(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
        let printed = self.transcript();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &printed).expect("the golden folder can be written");
        }
        let expected = std::fs::read_to_string(&path).expect("the golden file exists");
        assert_eq!(printed, expected, "{name}: printed on the left, expected on the right");
    }

    /// The same with a path of this run left out.
    pub(crate) fn without(self, path: &str) -> Self {
        let shorten = |text: String| text.replace(path, "PATH");
        Self { code: self.code, stdout: shorten(self.stdout), stderr: shorten(self.stderr) }
    }

    /// Checks for success and returns stdout.
    pub(crate) fn success(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }

    /// Checks for a failure without output and returns stderr.
    pub(crate) fn failure(self) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (1, ""), "{}", self.stderr);
        self.stderr
    }

    fn transcript(&self) -> String {
        let stream = |name: &str, text: &str| match text {
            "" => String::new(),
            text if text.ends_with('\n') => format!("--- {name}\n{text}"),
            text => format!("--- {name}, no newline at the end\n{text}\n"),
        };
        let (stdout, stderr) = (stream("stdout", &self.stdout), stream("stderr", &self.stderr));
        format!("exit {}\n{stdout}{stderr}", self.code)
    }
}

/// A stream that is kept.
#[derive(Clone, Default)]
struct Buffer {
    bytes: Arc<Mutex<Vec<u8>>>,
    written: Arc<Notify>,
}

impl Buffer {
    fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("no test panics with it held").clone();
        String::from_utf8(bytes).expect("commands print text")
    }

    fn say(&self, text: &str, code: i32) -> i32 {
        std::io::Write::write_all(&mut self.clone(), text.as_bytes()).expect("a buffer takes all");
        code
    }

    async fn reaches(self, lines: usize) {
        while self.text().lines().count() < lines {
            self.written.notified().await;
        }
    }
}

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().expect("no test panics with it held").extend_from_slice(bytes);
        self.written.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
