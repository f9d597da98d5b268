//! A program of ours in Go's own cryptography that does for each SVID what SPIRE does: SPIRE cannot
//! be cheaper. It is `interop/go-floor`; the program is the one that `STEEPLE_GO_FLOOR` names.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steeple_spiffe_core::KeyType;
use tokio::process::Command;

use super::work::Work;
use crate::closed_loop::Round;

/// The program.
#[derive(Clone, Debug)]
pub(crate) struct Go {
    program: PathBuf,
    key_type: KeyType,
    /// What is printed of it.
    pub(crate) settings: String,
}

impl Go {
    /// Finds it, for authorities of a key type.
    pub(crate) async fn find(key_type: KeyType) -> Result<Self> {
        let named = std::env::var_os("STEEPLE_GO_FLOOR").map(PathBuf::from);
        let program = named.context(
            "STEEPLE_GO_FLOOR names no program (`cargo xtask bench` builds one where there is Go)",
        )?;
        let mut go = Self { program, key_type, settings: String::new() };
        let first = go.said(Work::Single, Duration::from_millis(1)).await?;
        let version = first.get("go").and_then(Value::as_str).context("Go's version")?;
        go.settings = format!(
            "Go: {version}, its standard library, one processor: checks the request, makes the certificate (which Go verifies) and reads it; for a token signs and reads it"
        );
        Ok(go)
    }

    /// One round of it, on one processor.
    pub(crate) async fn round(&self, work: Work, slice: Duration) -> Result<Round> {
        let said = self.said(work, slice).await?;
        let cpu_us = said.get("cpu_us").and_then(Value::as_f64).context("its CPU time")?;
        Ok(Round::of_cpu(cpu_us))
    }

    async fn said(&self, work: Work, slice: Duration) -> Result<Value> {
        let mut command = Command::new(&self.program);
        let kind = match work {
            Work::Batch | Work::Single => "x509",
            Work::Jwt => "jwt",
        };
        command.arg(kind).arg(self.key_type.as_str()).arg(slice.as_millis().to_string());
        command.kill_on_drop(true);
        let output = command.output().await.context("run the program in Go")?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {error}", output.status);
        serde_json::from_slice(&output.stdout).context("read what the program in Go says")
    }
}
