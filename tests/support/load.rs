//! What processes use, from /proc, and how busy the machine is.

use std::collections::HashSet;
use std::fs;

/// Clock ticks of /proc/<pid>/stat per second; Linux has told programs 100 on every platform for decades.
const TICKS: f64 = 100.0;

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of all its threads, in seconds.
    pub cpu_s: f64,
    /// Resident memory, in MB.
    pub rss_mb: u64,
    /// Established TCP connections of its own.
    pub connections: usize,
}

impl Usage {
    /// Of process `pid`; zeroes when it is gone.
    pub fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold blanks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let rss_kb: u64 = rss.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self { cpu_s: (ticks(11) + ticks(12)) / TICKS, rss_mb: rss_kb / 1024, connections: connections(pid) }
    }
}

fn connections(pid: u32) -> usize {
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| {
            fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    let tables = ["tcp", "tcp6"].map(|t| fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default());
    let established = tables.iter().flat_map(|table| table.lines()).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(3) == Some(&"01") && fields.get(9).is_some_and(|inode| sockets.contains(*inode))
    });
    established.count()
}

/// Processes that wanted to run, on average over the last minute.
pub fn average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}
