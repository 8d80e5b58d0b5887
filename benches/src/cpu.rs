//! Processor time of the server and of the clients, read from Linux's own files.
//!
//! A tree is a process with all that descend from it. What its dead children used is counted by their parent as soon as
//! it has waited for them, so that a worker which ended between two looks is not lost. The kernel counts in hundredths
//! of a second: a figure is good over several runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Ticks of the kernel's counters in a second; Linux shows this number to every program.
const TICKS: f64 = 100.0;

/// One process as it is now.
struct Process {
    parent: u32,
    seconds: f64,
}

/// Seconds that the trees below these processes have used until now.
pub fn seconds(roots: &[u32]) -> Result<f64> {
    let processes = look()?;
    let belongs = |mut pid: u32| loop {
        if roots.contains(&pid) {
            return true;
        }
        match processes.get(&pid) {
            Some(process) if process.parent != 0 => pid = process.parent,
            _ => return false,
        }
    };
    Ok(processes.iter().filter(|(pid, _)| belongs(**pid)).map(|(_, process)| process.seconds).sum())
}

/// The parent of a process.
pub fn parent(pid: u32) -> Result<u32> {
    look()?.get(&pid).map(|process| process.parent).with_context(|| format!("there is no process {pid}"))
}

/// Every process of the machine.
fn look() -> Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while we look.
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name stands in brackets and may hold anything; what follows is numbers.
        let Some((_, rest)) = text.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok());
        let (Some(parent), Some(own), Some(system), Some(dead), Some(dead_system)) =
            (fields.get(1).and_then(|field| field.parse().ok()), number(11), number(12), number(13), number(14))
        else {
            continue;
        };
        found.insert(pid, Process { parent, seconds: (own + system + dead + dead_system) / TICKS });
    }
    Ok(found)
}
