//! Results of many runs: an append-only file with a line of JSON a run, so that a long series may be
//! killed and gone on with.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why results cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ResultsError {
    #[error("cannot open results {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("cannot read results {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot append to results {path}")]
    Append { path: PathBuf, source: std::io::Error },
    #[error("cannot encode a result")]
    Encode(#[from] serde_json::Error),
}

/// All results of a file, of which there are none if it does not exist.
///
/// A torn line, of a run that was killed as it wrote, is left out.
///
/// # Errors
///
/// If the file exists and cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ResultsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ResultsError::Open { path: path.to_owned(), source }),
    };
    let mut results = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|source| ResultsError::Read { path: path.to_owned(), source })?;
        results.extend(serde_json::from_str::<T>(&line).ok());
    }
    Ok(results)
}

/// Appends one result, in one write.
///
/// # Errors
///
/// If the file cannot be opened or written.
pub fn append<T: Serialize>(path: &Path, result: &T) -> Result<(), ResultsError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.map_err(|source| ResultsError::Open { path: path.to_owned(), source })?;
    // A newline first: whatever stands there torn is left behind on a line of its own.
    let text = format!("\n{}\n", serde_json::to_string(result)?);
    file.write_all(text.as_bytes())
        .map_err(|source| ResultsError::Append { path: path.to_owned(), source })
}

/// Writes a line for people.
pub fn say(text: &str) {
    // Nobody to tell if that fails.
    writeln!(std::io::stdout(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_again_and_a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        assert_eq!(read::<(u64, String)>(&path).unwrap(), [], "there is no file yet");
        append(&path, &(5, "pass")).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"[6,\"pa").unwrap();
        append(&path, &(7, "fail")).unwrap();
        let results = read::<(u64, String)>(&path).unwrap();
        assert_eq!(results, [(5, "pass".to_owned()), (7, "fail".to_owned())]);
    }

    #[test]
    fn results_that_cannot_be_opened_name_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join("r.jsonl");
        let error = append(&path, &1).unwrap_err().to_string();
        assert_eq!(error, format!("cannot open results {}", path.display()));
    }
}
