//! The binary `spire-server`: hands its arguments to the command line library, with `run` and
//! `validate` mounted from this crate.

fn main() -> std::process::ExitCode {
    steeple_server::commands::main()
}
