//! What the results were measured on: read from Linux's own files, "unknown" where a file does not say.

use serde::Serialize;

/// The machine.
#[derive(Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that this program may use.
    pub processors: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The distribution.
    pub system: String,
    /// The kernel's release.
    pub kernel: String,
    /// The load averages just before the first timing: other work on the machine shows here.
    pub load_before: String,
}

impl Machine {
    /// Looks at the machine.
    pub fn look() -> Self {
        let memory_kib: u64 = field("/proc/meminfo", "MemTotal:")
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse().ok()))
            .unwrap_or(0);
        let unknown = || "unknown".to_owned();
        Self {
            processor: field("/proc/cpuinfo", "model name")
                .map(|text| text.trim_start_matches(':').trim().to_owned())
                .unwrap_or_else(unknown),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory_kib.div_ceil(1024 * 1024),
            system: field("/etc/os-release", "PRETTY_NAME=")
                .map(|text| text.trim_matches('"').to_owned())
                .unwrap_or_else(unknown),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_else(unknown),
            load_before: read("/proc/loadavg")
                .map(|text| text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
                .unwrap_or_else(unknown),
        }
    }
}

fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// What follows a word at the start of a line, in the first such line.
fn field(file: &str, word: &str) -> Option<String> {
    read(file)?.lines().find_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned())
}
