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
    let model = model.unwrap_or("unknown processor");
    format!("{model}, {cores} cores, Linux {}, load {} at the start", kernel.trim(), load())
}

/// Runnable processes over one, five and fifteen minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Microseconds of CPU that a process has used, in user and kernel mode.
pub(crate) fn cpu_micros(pid: u32) -> Result<f64> {
    let status = Status::of(pid)?;
    Ok(status.ticks(USER_TIME)? + status.ticks(SYSTEM_TIME)?)
}

/// As [`cpu_micros`], with the time of the children that it has waited for.
pub(crate) fn cpu_micros_with_ended(pid: u32) -> Result<f64> {
    let status = Status::of(pid)?;
    let ended = status.ticks(CHILDREN_USER_TIME)? + status.ticks(CHILDREN_SYSTEM_TIME)?;
    Ok(cpu_micros(pid)? + ended)
}

/// The processes that a process has started and that have not ended.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let own = pid.to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        // One that ends meanwhile is no child any more.
        .filter(|child| {
            Status::of(*child)
                .is_ok_and(|status| status.field(PARENT).is_ok_and(|parent| parent == own))
        })
        .collect()
}

/// Bytes of memory that a process has in use, and how many of them no file backs.
pub(crate) fn memory(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("a size")?;
        Ok(kib.parse::<f64>().context("a size")? * 1024.0)
    };
    Ok((bytes("VmRSS:")?, bytes("RssAnon:")?))
}

// Fields of /proc/PID/stat behind the name, from zero.
const PARENT: usize = 1;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const CHILDREN_USER_TIME: usize = 13;
const CHILDREN_SYSTEM_TIME: usize = 14;

/// The fields of /proc/PID/stat.
struct Status {
    text: String,
}

impl Status {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The name in parentheses may hold blanks: fields are counted behind it.
        let (_, rest) = text.rsplit_once(')').context("a process' status")?;
        Ok(Self { text: rest.to_owned() })
    }

    fn field(&self, index: usize) -> Result<&str> {
        self.text.split_whitespace().nth(index).context("a field of a process' status")
    }

    fn ticks(&self, index: usize) -> Result<f64> {
        let ticks: f64 = self.field(index)?.parse().context("CPU time")?;
        Ok(ticks * 1e6 / TICKS_PER_SECOND)
    }
}

/// What all processors have done since the machine started, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    all: f64,
    idle: f64,
    stolen: f64,
}

impl Times {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let line = text.lines().next().context("the line of all processors")?;
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0);
        Ok(Self { all: ticks.iter().sum(), idle: at(3) + at(4), stolen: at(7) })
    }

    /// Load, idle and stolen time since then, as words.
    pub(crate) fn since(self, earlier: &Self) -> String {
        let all = (self.all - earlier.all).max(1.0);
        let part = |now: f64, then: f64| (now - then) * 100.0 / all;
        format!(
            "load {}; meanwhile {:.0} % idle, {:.1} % stolen by other guests of the host",
            load(),
            part(self.idle, earlier.idle),
            part(self.stolen, earlier.stolen)
        )
    }
}
