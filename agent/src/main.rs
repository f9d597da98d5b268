//! The `spire-agent` binary: the agent itself and the commands that talk to it.

use steeple_agent::command;
use steeple_cli::Mounted;

fn main() -> std::process::ExitCode {
    let words = std::env::args().skip(1).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let Ok(runtime) = runtime else { return std::process::ExitCode::FAILURE };
    let mounted = Mounted { run: Box::new(command::run), validate: Box::new(command::validate) };
    let code = runtime.block_on(steeple_cli::agent_main(words, mounted));
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
