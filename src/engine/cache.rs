//! The session cache: least recently used goes first, bounded by bytes, what is in use stays.
//!
//! Versions are immutable and named by the hash of their bytes, so nothing ever has to be invalidated.

use std::sync::Arc;

use lru::LruCache;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::session::Session;

/// What makes two sessions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The sha256 of the model's bytes.
    pub hash: [u8; 32],
    /// Where it runs.
    pub device: Device,
    /// With how many threads.
    pub threads: usize,
}

/// Sessions by key.
pub struct Cache {
    entries: LruCache<Key, Arc<Session>>,
}

impl Default for Cache {
    fn default() -> Self {
        // Bounded by bytes, not by number.
        Self { entries: LruCache::unbounded() }
    }
}

impl Cache {
    /// The session with this key. One that a cancelled run still sits in is dropped instead: its thread ends it.
    pub fn get(&mut self, key: &Key) -> Option<Arc<Session>> {
        let session = Arc::clone(self.entries.get(key)?);
        if session.is_abandoned() {
            self.entries.pop(key);
            return None;
        }
        Some(session)
    }

    /// Makes room for a session of so many bytes, or says that it can never fit.
    pub fn make_room(&mut self, needed: usize, limit: usize) -> Result<()> {
        if needed > limit {
            return Err(Error::CacheTooSmall { needed, limit });
        }
        let mut bytes = self.bytes();
        while bytes + needed > limit {
            // Another holder of the Arc is a query that uses the session.
            let Some((key, idle)) =
                self.entries.iter().rev().find(|(_, s)| Arc::strong_count(s) == 1).map(|(k, s)| (k.clone(), s.bytes()))
            else {
                break;
            };
            self.entries.pop(&key);
            bytes -= idle;
        }
        Ok(())
    }

    /// Keeps a session.
    pub fn insert(&mut self, key: Key, session: Arc<Session>) {
        self.entries.put(key, session);
    }

    /// Bytes of all sessions kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, s)| s.bytes()).sum()
    }

    /// Sessions kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
