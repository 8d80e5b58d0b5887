//! Requests that runs in progress stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::{NoSelectedOutputs, RunOptions};

use crate::error::{Error, Result};

/// A handle that stops the runs started with it at their next graph node.
#[derive(Clone)]
pub struct Stop {
    pub(crate) options: Arc<RunOptions<NoSelectedOutputs>>,
    pub(crate) asked: Arc<AtomicBool>,
}

impl Stop {
    /// Creates a handle that has not been asked to stop.
    pub fn new() -> Result<Self> {
        let options = RunOptions::new().map_err(|e| Error::Run { reason: e.message().to_owned() })?;
        Ok(Self { options: Arc::new(options), asked: Arc::default() })
    }

    /// Creates a handle whose runs release the arena memory that earlier runs allocated. `device` lists the arenas,
    /// such as `cpu:0;gpu:0`.
    pub(crate) fn shrinking(device: &str) -> Result<Self> {
        let mut options = RunOptions::new().map_err(|e| Error::Run { reason: e.message().to_owned() })?;
        options
            .set("memory.enable_memory_arena_shrinkage", device)
            .map_err(|e| Error::Run { reason: e.message().to_owned() })?;
        Ok(Self { options: Arc::new(options), asked: Arc::default() })
    }

    /// Asks the runs to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // Fails only if the run has already ended.
        let _ = self.options.terminate();
    }

    /// Whether the runs were asked to stop.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}
