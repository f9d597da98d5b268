//! `api fetch` and `api fetch x509`.
//!
//! Owns the files of `-write`. Reading and checking the reply is `svid`'s, the text `print`'s.

use std::path::Path;

use steeple_api::pb;
use steeple_spiffe_core::pem;

use super::call::{Call, first};
use super::print::{Style, write_reply};
use super::svid::{Certificate, Reply};
use crate::command::{Command, Running};
use crate::conn::workload_request;
use crate::error::Error;
use crate::files::{PRIVATE, PUBLIC, write_file};
use crate::flags::{FlagSet, GoDuration};
use crate::io::Io;
use crate::output::OutputFlag;

/// Fetches the caller's X509-SVIDs once.
#[derive(Debug, Default)]
pub(crate) struct FetchX509 {
    call: Call,
    output: OutputFlag,
    silent: bool,
    write: String,
}

impl Command for FetchX509 {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.call.declare(flags);
        self.output.declare(flags);
        flags.flag("silent", &mut self.silent, "Suppress stdout");
        flags.flag(
            "write",
            &mut self.write,
            "Write SVID data to the specified path (optional; only available for pretty output format)",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = self.call.client(io).await?;
            let started = io.clock.boot_time();
            let request = workload_request(pb::workload::X509svidRequest {});
            let message = self
                .call
                .within(async { first(client.fetch_x509svid(request).await).await })
                .await?;
            let took = GoDuration::from(io.clock.boot_time().saturating_sub(started));
            if self.output.print_json(io, "X509SVIDResponse", &message)? {
                return Ok(());
            }
            let reply = Reply::parse(&message)?;
            reply.verify(io.clock.now())?;
            if !self.silent {
                write_reply(io.stdout, &reply, took, Style::Fetch)?;
            }
            if !self.write.is_empty() {
                write_files(Path::new(&self.write), &reply, io)?;
            }
            Ok(())
        })
    }
}

/// Writes chains, keys and bundles, and says so even where nothing else is to be said.
fn write_files(folder: &Path, reply: &Reply, io: &mut Io<'_>) -> Result<(), Error> {
    for (n, svid) in reply.svids.iter().enumerate() {
        let path = folder.join(format!("svid.{n}.pem"));
        writeln!(io.stdout, "Writing SVID #{n} to file {}.", path.display())?;
        write_file(&path, pem::encode_certificates(&svid.chain()).as_bytes(), PUBLIC)?;

        let path = folder.join(format!("svid.{n}.key"));
        writeln!(io.stdout, "Writing key #{n} to file {}.", path.display())?;
        write_file(&path, pem::encode_private_key(svid.key.expose()).as_bytes(), PRIVATE)?;

        let path = folder.join(format!("bundle.{n}.pem"));
        writeln!(io.stdout, "Writing bundle #{n} to file {}.", path.display())?;
        write_certificates(&path, &svid.roots)?;

        for (m, (trust_domain, roots)) in reply.federated.iter().enumerate() {
            let path = folder.join(format!("federated_bundle.{n}.{m}.pem"));
            writeln!(
                io.stdout,
                "Writing federated bundle #{m} for trust domain {trust_domain} to file {}.",
                path.display()
            )?;
            write_certificates(&path, roots)?;
        }
    }
    Ok(())
}

fn write_certificates(path: &Path, certificates: &[Certificate]) -> Result<(), Error> {
    let ders: Vec<Vec<u8>> = certificates.iter().map(|c| c.der.clone()).collect();
    write_file(path, pem::encode_certificates(&ders).as_bytes(), PUBLIC)
}
