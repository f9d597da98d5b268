//! The binary `spire-server`: hands its arguments to the command line library, with `run` and
//! `validate` mounted from this crate.

/// Consensus, RPC and storage allocate little and often, and free on other threads than they allocate
/// on; what that costs with the C library's allocator is in `bench/BUDGETS.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    #[cfg(feature = "mutants")]
    if let Some(failure) = switch_on_mutant() {
        return failure;
    }
    steeple_server::commands::main()
}

/// Switches on the deliberate bug that the environment names, and says so on standard error.
#[cfg(feature = "mutants")]
fn switch_on_mutant() -> Option<std::process::ExitCode> {
    use std::io::Write as _;
    let name = std::env::var("STEEPLE_MUTANT").ok()?;
    let is_on = steeple_raft_store::testing::switch_on_mutant(&name)
        || steeple_server::switch_on_mutant(&name);
    let text = if is_on { "is on" } else { "does not exist" };
    // Whoever waits for this line misses it if it cannot be written.
    writeln!(std::io::stderr(), "deliberate bug {name} {text}").ok();
    (!is_on).then(|| std::process::ExitCode::from(2))
}
