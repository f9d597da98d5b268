//! `cluster snapshot save`, `inspect` and `list`.
//!
//! Owns the calls and what is printed of a file. Its layout and checks are `steeple-api`'s; what is in
//! it only a server with the cluster key can read.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Write};
use std::path::Path;

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{
    SaveSnapshotRequest, SnapshotFile, SnapshotFiles, SnapshotHeader, SnapshotMember,
};
use steeple_api::snapshot_file::{FORMAT, SnapshotFileError, SnapshotReader};

use super::table::{line, or_dash, write_table};
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::error::{Error, errno_text};
use crate::files::{NewFile, PRIVATE};
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_time_utc};

/// How the files of a schedule end.
const EXTENSION: &str = "snapshot";

/// Saves the registry, as any member has it, to a file.
#[derive(Debug, Default)]
pub(crate) struct Save {
    socket: ServerSocket,
    output: OutputFlag,
    file: String,
    force: bool,
}

/// Checks a file and prints its header.
#[derive(Debug, Default)]
pub(crate) struct Inspect {
    output: OutputFlag,
    file: String,
}

/// Lists the files of a folder by their headers, and which of them are whole.
#[derive(Debug, Default)]
pub(crate) struct List {
    output: OutputFlag,
    folder: String,
}

impl Command for Save {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.word("FILE", &mut self.file);
        flags.flag("force", &mut self.force, "Replace FILE if it exists");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let path = required(&self.file, "a file", "save FILE")?;
            self.check_free(path)?;
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let mut pieces = client.save_snapshot(SaveSnapshotRequest {}).await?.into_inner();
            let mut file = NewFile::create(path, PRIVATE)?;
            let mut unconfirmed = String::new();
            while let Some(piece) = pieces.message().await? {
                file.write(&piece.bytes)?;
                if !piece.unconfirmed.is_empty() {
                    unconfirmed = piece.unconfirmed;
                }
            }
            // What the server sent is checked before it replaces an older file.
            let saved = checked(path, file.reopen()?)?;
            // A large registry takes minutes: someone may have used the name meanwhile.
            self.check_free(path)?;
            file.finish()?;
            if !unconfirmed.is_empty() {
                io.warn(&format!(
                    "no quorum has confirmed the snapshot, the newest changes may be missing: {unconfirmed}"
                ))?;
            }
            print(&saved, &self.output, io)
        })
    }
}

impl Save {
    /// A snapshot may be the only one of its time: none is replaced unless that was asked for.
    /// No file takes the place of a folder.
    fn check_free(&self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            let inside = path.join("NAME.snapshot");
            let text = format!(
                "{} is a folder; name a file in it, for instance {}",
                self.file,
                inside.display()
            );
            return Err(Error::invalid(text));
        }
        if self.force || std::fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        let text = format!("{} exists; give another name, or replace it with -force", self.file);
        Err(Error::invalid(text))
    }
}

impl Command for Inspect {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.output.declare(flags);
        flags.word("FILE", &mut self.file);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let path = required(&self.file, "a file", "inspect FILE")?;
            print(&checked(path, open(path)?)?, &self.output, io)
        })
    }
}

impl Command for List {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.output.declare(flags);
        flags.word("FOLDER", &mut self.folder);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let folder = required(&self.folder, "a folder", "list FOLDER")?;
            let message = SnapshotFiles { files: files_of(folder)? };
            if !self.output.print_json(io, "steeple.cluster.v1.SnapshotFiles", &message)? {
                write_table(io.stdout, &rows(&message.files))?;
            }
            let broken = message.files.iter().filter(|file| !file.problem.is_empty());
            let broken: Vec<&str> = broken.map(|file| file.file.as_str()).collect();
            let names = broken.join(", ");
            match broken.len() {
                0 => Ok(()),
                1 => Err(Error::Batch(format!(
                    "1 file is no whole snapshot: {names}; copy it again or take another"
                ))),
                count => Err(Error::Batch(format!(
                    "{count} files are no whole snapshots: {names}; copy them again or take others"
                ))),
            }
        })
    }
}

pub(super) fn required<'a>(word: &'a str, what: &str, usage: &str) -> Result<&'a Path, Error> {
    if word.is_empty() {
        let text = format!("{what} is required: spire-server cluster snapshot {usage}");
        return Err(Error::invalid(text));
    }
    Ok(Path::new(word))
}

pub(super) fn open(path: &Path) -> Result<File, Error> {
    File::open(path)
        .map_err(|error| Error::invalid(format!("open {}: {}", path.display(), errno_text(&error))))
}

fn refused(path: &Path, error: &SnapshotFileError) -> Error {
    Error::invalid(format!("{} {error}", path.display()))
}

/// Reads a file from end to end.
pub(super) fn checked(path: &Path, file: File) -> Result<SnapshotFile, Error> {
    let reader =
        SnapshotReader::open(BufReader::new(file)).map_err(|error| refused(path, &error))?;
    let header = reader.header().clone();
    let (sha256, bytes) = reader.check().map_err(|error| refused(path, &error))?;
    Ok(SnapshotFile {
        file: path.display().to_string(),
        bytes,
        sha256: hex(&sha256),
        format: FORMAT,
        header: Some(header),
        problem: String::new(),
    })
}

/// A file that may be a snapshot, read from end to end: a restore is chosen by this. `None` if it is gone
/// since the folder was read: a schedule removes old ones.
fn judged(path: &Path) -> Option<SnapshotFile> {
    let metadata = std::fs::metadata(path);
    let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
    let bad = |problem: String| SnapshotFile {
        file: path.display().to_string(),
        bytes,
        problem,
        ..Default::default()
    };
    let file = match metadata {
        // Opening a pipe waits for who writes to it.
        Ok(metadata) if !metadata.is_file() => return Some(bad("is no regular file".to_owned())),
        Ok(_) => File::open(path),
        Err(error) => Err(error),
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_link = std::fs::symlink_metadata(path).is_ok();
            return is_link.then(|| bad("is a link to nothing".to_owned()));
        }
        Err(error) => return Some(bad(format!("cannot be read: {}", errno_text(&error)))),
    };
    let reader = match SnapshotReader::open(BufReader::new(file)) {
        Ok(reader) => reader,
        Err(error) => return Some(bad(error.to_string())),
    };
    let header = Some(reader.header().clone());
    Some(match reader.check() {
        Ok((sha256, _)) => {
            let (sha256, format) = (hex(&sha256), FORMAT);
            SnapshotFile { sha256, format, header, ..bad(String::new()) }
        }
        Err(error) => SnapshotFile { format: FORMAT, header, ..bad(error.to_string()) },
    })
}

/// The snapshot files of a folder, newest first.
fn files_of(folder: &Path) -> Result<Vec<SnapshotFile>, Error> {
    let failed = |error: std::io::Error| {
        Error::invalid(format!("open {}: {}", folder.display(), errno_text(&error)))
    };
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        files.extend(judged(&path));
    }
    let saved_at = |file: &SnapshotFile| file.header.as_ref().map_or(0, |header| header.saved_at);
    files.sort_by(|a, b| saved_at(b).cmp(&saved_at(a)).then_with(|| b.file.cmp(&a.file)));
    Ok(files)
}

fn rows(files: &[SnapshotFile]) -> Vec<Vec<String>> {
    let heading =
        ["SAVED", "WHOLE", "CLUSTER", "EPOCH", "INDEX", "ENTRIES", "AGENTS", "BYTES", "FILE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(files.iter().map(row));
    rows
}

/// A file's row. One that is not whole says so twice: where the eye looks for the newest, and behind
/// its name why.
fn row(file: &SnapshotFile) -> Vec<String> {
    let dash = || "-".to_owned();
    // The fix, behind the semicolon, is in the error; the JSON has all of it.
    let problem = file.problem.split(';').next().unwrap_or_default();
    let (whole, name) = match problem {
        "" => ("yes", file.file.clone()),
        problem => ("NO", format!("{}: {problem}", file.file)),
    };
    let (saved, [cluster, epoch, index, entries, agents]) = match &file.header {
        None => (dash(), std::array::from_fn(|_| dash())),
        Some(header) => {
            let counts = header.counts.unwrap_or_default();
            let cells = [
                or_dash(&header.cluster_name),
                header.epoch.to_string(),
                header.index.to_string(),
                counts.entries.to_string(),
                counts.agents.to_string(),
            ];
            (go_time_utc(header.saved_at), cells)
        }
    };
    let (whole, bytes) = (whole.to_owned(), file.bytes.to_string());
    vec![saved, whole, cluster, epoch, index, entries, agents, bytes, name]
}

fn print(file: &SnapshotFile, output: &OutputFlag, io: &mut Io<'_>) -> Result<(), Error> {
    if output.print_json(io, "steeple.cluster.v1.SnapshotFile", file)? {
        return Ok(());
    }
    let header = file.header.clone().unwrap_or_default();
    let out = &mut *io.stdout;
    line(out, "File", &file.file)?;
    line(out, "Size", &format!("{} bytes, format {}", file.bytes, file.format))?;
    line(out, "SHA-256", &file.sha256)?;
    print_header(&header, out)?;
    writeln!(out)?;
    write_table(out, &members(&header.members))?;
    Ok(())
}

/// The header, a line each.
fn print_header(header: &SnapshotHeader, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let counts = header.counts.unwrap_or_default();
    let confirmed = match header.confirmed {
        true => "by a quorum",
        false => "no: the newest changes may be missing",
    };
    let saved = format!(
        "{} by {} (version {})",
        go_time_utc(header.saved_at),
        or_dash(&header.member_id),
        or_dash(&header.version)
    );
    line(out, "Cluster name", &or_dash(&header.cluster_name))?;
    line(out, "Cluster ID", &or_dash(&header.cluster_id))?;
    line(out, "Trust domain", &or_dash(&header.trust_domain))?;
    line(out, "Epoch", &header.epoch.to_string())?;
    line(out, "Feature level", &header.feature_level.to_string())?;
    line(out, "Log index", &format!("{} (term {})", header.index, header.term))?;
    line(out, "Revision", &header.revision.to_string())?;
    line(out, "Cluster time", &go_time_utc(header.cluster_time))?;
    line(out, "Saved", &saved)?;
    line(out, "Confirmed", confirmed)?;
    line(out, "Key ID", &or_dash(&header.key_id))?;
    line(out, "Entries", &counts.entries.to_string())?;
    line(out, "Agents", &counts.agents.to_string())?;
    line(out, "Join tokens", &format!("{} (a restore voids them)", counts.join_tokens))?;
    line(out, "Bundles", &counts.bundles.to_string())?;
    line(out, "Authorities", &counts.authorities.to_string())?;
    line(out, "Relationships", &counts.federation_relationships.to_string())
}

fn members(members: &[SnapshotMember]) -> Vec<Vec<String>> {
    let heading = ["MEMBER", "ADDRESS", "ROLE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(members.iter().map(|member| {
        let role = if member.voter { "voter" } else { "learner" };
        vec![member.id.clone(), or_dash(&member.address), role.to_owned()]
    }));
    rows
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
