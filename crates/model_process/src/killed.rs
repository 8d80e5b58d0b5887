//! Waits for killed processes without holding up the backend. A process that used a GPU takes long to end, because the
//! driver waits for its kernels and frees its memory first.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// How long a killed process is waited for at once. A cancel is honoured within 100 ms, and this is a part of it.
const AT_ONCE: Duration = Duration::from_millis(20);

/// The killed processes that have not ended yet.
static ENDING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether a process has ended. Collects its status if it has.
fn has_ended(pid: Pid) -> bool {
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Err(Errno::EINTR) => {}
            _ => return true,
        }
    }
}

/// Waits briefly for a killed process. One that has not ended by then is collected later.
pub(crate) fn wait_briefly(pid: Pid) {
    collect();
    let started = Instant::now();
    while !has_ended(pid) {
        if started.elapsed() >= AT_ONCE {
            ENDING.lock().push(pid);
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Collects the killed processes that have ended since.
pub(crate) fn collect() {
    ENDING.lock().retain(|pid| !has_ended(*pid));
}

/// Waits for the end of all killed processes. Call this before the backend ends: process 1 would inherit them.
pub fn wait_for_all() {
    for pid in std::mem::take(&mut *ENDING.lock()) {
        while matches!(waitpid(pid, None), Err(Errno::EINTR)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_ends_late_holds_nobody_up_and_is_collected() {
        let mut child = Command::new("sleep").arg("0.5").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let started = Instant::now();
        wait_briefly(pid);
        assert!(started.elapsed() < Duration::from_millis(200));
        collect();
        assert!(ENDING.lock().contains(&pid));
        wait_for_all();
        assert!(started.elapsed() >= Duration::from_millis(450));
        assert!(child.wait().is_err(), "nobody has collected it");
    }
}
