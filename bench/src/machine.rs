//! What a figure was taken on: processor, load, and the CPU time of processes.

use std::fs;

use anyhow::{Context, Result};

/// Linux counts CPU time of processes in hundredths of a second on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One line: processor, cores, kernel, load.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let model = model.unwrap_or("unknown processor");
    format!("{model}, {cores} cores, Linux {}, load {load} at the start", kernel.trim())
}

/// Microseconds of CPU that a process has used, in user and kernel mode.
pub(crate) fn cpu_micros(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name in parentheses may hold blanks: fields are counted behind it, the state being the
    // third; user and system time are the 14th and 15th.
    let (_, rest) = text.rsplit_once(')').context("a process' status")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> {
        fields.get(index).context("a field of CPU time")?.parse().context("CPU time")
    };
    Ok((ticks(11)? + ticks(12)?) * 1e6 / TICKS_PER_SECOND)
}
