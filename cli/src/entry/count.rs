//! `entry count`.
//!
//! Owns one call and its line; filters are `filter`'s.

use steeple_api::pb::server::entry::v1::CountEntriesRequest;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;

use super::filter::Filter;
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Counts entries.
#[derive(Debug, Default)]
pub(crate) struct Count {
    socket: ServerSocket,
    output: OutputFlag,
    filter: Filter,
}

impl Command for Count {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        self.filter.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let filter = self.filter.to_count()?;
            let mut client = EntryClient::new(self.socket.connect(io).await?);
            let request = CountEntriesRequest { filter: Some(filter) };
            let response = client.count_entries(request).await?.into_inner();
            let name = "spire.api.server.entry.v1.CountEntriesResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let noun = if response.count == 1 { "entry" } else { "entries" };
            writeln!(io.stdout, "{} registration {noun}", response.count)?;
            Ok(())
        })
    }
}
