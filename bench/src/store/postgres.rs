//! PostgreSQL with one synchronous standby, doing what SPIRE's server does to create an entry.
//!
//! The transaction is an imitation, by pgbench: a lookup of a similar entry, inserts of the entry, two
//! selectors and the event, and the entry read again, in ten round trips.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{User, getuid};
use steeple_testkit::ports;
use steeple_testkit::process::{Process, wait_for};

use crate::closed_loop::{Round, percentiles_ms};
use crate::machine::{children, cpu_micros, cpu_micros_with_ended};

/// How long a start or an end may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Then something else is wrong.
const LONGEST_ROUND_S: u64 = 20;

const CONFIG: &str = "\
listen_addresses = ''
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 300
shared_buffers = 128MB
logging_collector = off
log_min_messages = warning
";

const SCHEMA: &str = "\
CREATE TABLE registered_entries (id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz,
  entry_id varchar(255) UNIQUE, spiffe_id varchar(255), parent_id varchar(255), ttl integer,
  admin boolean, downstream boolean, expiry bigint, store_svid boolean, hint varchar(255),
  jwt_svid_ttl integer, revision_number bigint);
CREATE INDEX idx_parent ON registered_entries (parent_id);
CREATE INDEX idx_spiffe ON registered_entries (spiffe_id);
CREATE INDEX idx_expiry ON registered_entries (expiry);
CREATE INDEX idx_hint ON registered_entries (hint);
CREATE TABLE selectors (id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz,
  registered_entry_id integer, type varchar(255), value varchar(255),
  UNIQUE (registered_entry_id, type, value));
CREATE INDEX idx_selectors ON selectors (type, value);
CREATE TABLE registered_entries_events (id serial PRIMARY KEY, created_at timestamptz,
  updated_at timestamptz, entry_id varchar(255));
CREATE TABLE dns_names (id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz,
  registered_entry_id integer, value varchar(255), UNIQUE (registered_entry_id, value));
";

const CREATE_ENTRY: &str = "\
\\set n random(1, 1000000000)
\\set agent random(1, 10000)
BEGIN;
SELECT e.id FROM registered_entries e JOIN selectors s ON s.registered_entry_id = e.id WHERE e.spiffe_id = 'spiffe://example.org/ns/bench/sa/workload-' || :n AND e.parent_id = 'spiffe://example.org/spire/agent/node-' || :agent AND s.type = 'k8s' AND s.value = 'sa:workload-' || :n;
INSERT INTO registered_entries (created_at, updated_at, entry_id, spiffe_id, parent_id, ttl, admin, downstream, expiry, store_svid, hint, jwt_svid_ttl, revision_number) VALUES (now(), now(), gen_random_uuid()::text, 'spiffe://example.org/ns/bench/sa/workload-' || :n, 'spiffe://example.org/spire/agent/node-' || :agent, 3600, false, false, 0, false, '', 0, 0) RETURNING id, entry_id \\gset
INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, value) VALUES (now(), now(), :id, 'k8s', 'ns:bench');
INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, value) VALUES (now(), now(), :id, 'k8s', 'sa:workload-' || :n);
INSERT INTO registered_entries_events (created_at, updated_at, entry_id) VALUES (now(), now(), ':entry_id');
SELECT * FROM registered_entries WHERE id = :id;
SELECT * FROM selectors WHERE registered_entry_id = :id;
SELECT * FROM dns_names WHERE registered_entry_id = :id;
COMMIT;
";

/// A primary and its synchronous standby.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    port: u16,
    servers: Vec<Process>,
    runs: usize,
    /// What is printed of its settings.
    pub(crate) settings: String,
}

impl Postgres {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let folder = folder.join("postgres");
        fs::create_dir(&folder).context("create PostgreSQL's folder")?;
        let user = unprivileged(&folder)?;
        let [port, standby_port] = ports::lease()?;
        let (programs, servers) = (programs()?, Vec::new());
        let mut postgres =
            Self { folder, programs, user, port, servers, runs: 0, settings: String::new() };
        let (primary, standby) = (postgres.folder.join("primary"), postgres.folder.join("standby"));
        let version = postgres.output("postgres", ["--version"])?;
        let locale = ["-A", "trust", "-U", "bench", "--no-locale", "-E", "UTF8", "-D"];
        postgres
            .output("initdb", locale.map(OsStr::new).into_iter().chain([primary.as_os_str()]))?;
        // Its own connection for replication comes through the socket's folder, too.
        let sockets = format!("unix_socket_directories = '{}'\n", postgres.folder.display());
        append(&primary.join("postgresql.conf"), &format!("{CONFIG}{sockets}port = {port}\n"))?;
        postgres.serve(&primary, port).await?;
        let backup = ["-U", "bench", "-R", "-X", "stream", "-c", "fast", "-D"].map(OsStr::new);
        let standby_folder = standby.clone();
        postgres.client("pg_basebackup", backup.into_iter().chain([standby_folder.as_os_str()]))?;
        append(&standby.join("postgresql.conf"), &format!("port = {standby_port}\n"))?;
        postgres.serve(&standby, standby_port).await?;
        postgres.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        postgres.sql("SELECT pg_reload_conf()")?;
        wait_for("the synchronous standby", PATIENCE, async || {
            let state = postgres.sql("SELECT sync_state FROM pg_stat_replication")?;
            ensure!(state.trim() == "sync", "it is {state:?}");
            Ok(())
        })
        .await?;
        postgres.sql(SCHEMA)?;
        fs::write(postgres.folder.join("create.sql"), CREATE_ENTRY).context("write the script")?;
        postgres.settings = format!(
            "{}: a primary and one synchronous standby (synchronous_commit on, fsync on, shared_buffers 128 MB), pgbench by Unix socket, SPIRE's create-entry transaction in ten round trips; a batch is a loop of these, as in SPIRE",
            version.trim()
        );
        Ok(postgres)
    }

    /// One round with so many clients.
    pub(crate) fn round(&mut self, clients: usize, slice: Duration) -> Result<Round> {
        // pgbench knows whole seconds only, and on a busy machine hundreds of clients take longer to
        // connect than the shortest rounds last.
        let mut seconds = slice.as_secs().max(1);
        loop {
            match self.round_of(clients, seconds)? {
                Some(round) => return Ok(round),
                None if seconds > LONGEST_ROUND_S => bail!("no transaction in {seconds} s"),
                None => seconds *= 2,
            }
        }
    }

    /// `None` if no transaction ended in time.
    fn round_of(&mut self, clients: usize, seconds: u64) -> Result<Option<Round>> {
        self.runs += 1;
        let prefix = self.folder.join(format!("latencies-{}", self.runs));
        let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
        let seconds = seconds.to_string();
        let script = self.folder.join("create.sql").display().to_string();
        let prefix = prefix.display().to_string();
        let arguments = [
            "-U",
            "bench",
            "-n",
            "-c",
            &clients,
            "-j",
            &threads,
            "-T",
            &seconds,
            "-l",
            "--log-prefix",
            &prefix,
            "-f",
            &script,
            "postgres",
        ];
        let own = std::process::id();
        let before = (self.cpu()?, cpu_micros_with_ended(own)?);
        let said = self.client("pgbench", arguments)?;
        let after = (self.cpu()?, cpu_micros_with_ended(own)?);
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        let Some(rate) = rate else { return Ok(None) };
        let rate: f64 = rate.parse().context("a rate")?;
        let took = latencies(&self.folder, &prefix)?;
        let operations = took.len().max(1) as f64;
        let (p50_ms, p99_ms) = percentiles_ms(took);
        Ok(Some(Round {
            rate,
            p50_ms,
            p99_ms,
            cpu_us: (after.0 - before.0) / operations,
            called_cpu_us: (after.0 - before.0) / operations,
            caller_cpu_us: (after.1 - before.1) / operations,
        }))
    }

    /// Ends both servers, the standby first.
    pub(crate) async fn stop(mut self) -> Result<()> {
        while let Some(mut server) = self.servers.pop() {
            server.terminate(PATIENCE).await?;
        }
        Ok(())
    }

    /// CPU of both servers with their children, those that have ended included.
    fn cpu(&self) -> Result<f64> {
        let mut sum = 0.0;
        for server in &self.servers {
            sum += cpu_micros_with_ended(server.pid())?;
            // A child may end while we look: then its parent has its time.
            sum += children(server.pid())
                .into_iter()
                .filter_map(|pid| cpu_micros(pid).ok())
                .sum::<f64>();
        }
        Ok(sum)
    }

    async fn serve(&mut self, data: &Path, port: u16) -> Result<()> {
        let log = data.with_extension("log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(data);
        let server = Process::spawn("postgres", &mut command, &log)?;
        self.servers.push(server);
        let port = port.to_string();
        wait_for("PostgreSQL", PATIENCE, async || {
            self.output(
                "pg_isready",
                [OsStr::new("-h"), self.folder.as_os_str(), OsStr::new("-p"), OsStr::new(&port)],
            )
        })
        .await
        .map(drop)
    }

    fn sql(&self, statement: &str) -> Result<String> {
        self.client(
            "psql",
            [
                "-U",
                "bench",
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                statement,
                "postgres",
            ],
        )
    }

    /// A client of the primary.
    fn client<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.command(name);
        command.env("PGHOST", &self.folder).env("PGPORT", self.port.to_string());
        command.args(arguments);
        output(command)
    }

    fn output<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.command(name);
        command.args(arguments);
        output(command)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(&self.folder).env("LC_ALL", "C");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for server in &self.servers {
            // After an error only: its children end with it. One that is gone needs no signal.
            server.signal(Signal::SIGQUIT).ok();
        }
    }
}

/// Where Debian puts the programs, the newest version's.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("pgbench").is_file() && bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().context("no PostgreSQL below /usr/lib/postgresql (Debian: postgresql)")
}

/// PostgreSQL refuses to run as root: then its package's own user, who is given the folder.
fn unprivileged(folder: &Path) -> Result<Option<User>> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("look for the user postgres")?;
    let user = user.context("there is no user postgres, and it does not run as root")?;
    chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .context("give it its folder")?;
    Ok(Some(user))
}

fn append(file: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    fs::write(file, old + "\n" + text).with_context(|| format!("write {}", file.display()))
}

fn output(mut command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Microseconds of every transaction of a run: the third word of each line, one file a thread.
fn latencies(folder: &Path, prefix: &str) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for file in fs::read_dir(folder).context("read the latencies")? {
        let path = file?.path();
        if !path.display().to_string().starts_with(&format!("{prefix}.")) {
            continue;
        }
        let text = fs::read_to_string(&path).context("read latencies")?;
        took.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
        fs::remove_file(&path).context("remove latencies")?;
    }
    Ok(took)
}
