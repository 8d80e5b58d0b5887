//! The session cache: least recently used goes first, bounded by bytes, what is in use stays.
//!
//! Versions are immutable and named by the hash of their bytes, so nothing ever has to be invalidated.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// With weights that stay in their file.
    pub share_weights: bool,
}

/// A session, and when it was last used.
struct Kept {
    session: Arc<Session>,
    used: Instant,
}

impl Kept {
    /// Whether a query uses it: another holder of the Arc.
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.session) > 1
    }
}

/// Sessions by key.
pub struct Cache {
    entries: LruCache<Key, Kept>,
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
        let kept = self.entries.get_mut(key)?;
        kept.used = Instant::now();
        let session = Arc::clone(&kept.session);
        if session.is_abandoned() {
            self.entries.pop(key);
            return None;
        }
        Some(session)
    }

    /// Makes room for a session of so many bytes, or says that it can never fit. Gives the keys of those that went.
    pub fn make_room(&mut self, needed: usize, limit: usize) -> Result<Vec<Key>> {
        if needed > limit {
            return Err(Error::CacheTooSmall { needed, limit });
        }
        let mut bytes = self.bytes();
        let mut gone = Vec::new();
        while bytes + needed > limit {
            let mut idle = self.entries.iter().rev().filter(|(_, kept)| !kept.is_busy());
            let Some((key, idle)) = idle.next().map(|(k, kept)| (k.clone(), kept.session.bytes())) else {
                break;
            };
            self.entries.pop(&key);
            gone.push(key);
            bytes -= idle;
        }
        Ok(gone)
    }

    /// Takes out the sessions that nobody has used for so long, and says when to look again: none where none is kept.
    pub fn take_idle(&mut self, timeout: Duration) -> (Vec<Arc<Session>>, Option<Duration>) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut next: Option<Duration> = None;
        for (key, kept) in self.entries.iter_mut() {
            if kept.is_busy() {
                kept.used = now;
            }
            let idle = now.duration_since(kept.used);
            if idle >= timeout {
                gone.push(key.clone());
            } else {
                let left = timeout - idle;
                next = Some(next.map_or(left, |n| n.min(left)));
            }
        }
        (gone.iter().filter_map(|key| self.entries.pop(key)).map(|kept| kept.session).collect(), next)
    }

    /// Whether a session with this key is kept.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains(key)
    }

    /// Keeps a session.
    pub fn insert(&mut self, key: Key, session: Arc<Session>) {
        self.entries.put(key, Kept { session, used: Instant::now() });
    }

    /// Bytes of all sessions kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, kept)| kept.session.bytes()).sum()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{config, model};

    fn session(bytes: usize) -> Arc<Session> {
        let mut config = config(Device::Cpu);
        config.session_bytes = bytes;
        let content = crate::session::Content::of(model("models/credit.onnx"));
        Arc::new(Session::load(content, &crate::options::Options::default(), &config).unwrap())
    }

    fn key(n: u8) -> Key {
        Key { hash: [n; 32], device: Device::Cpu, threads: 1, share_weights: false }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_in_use_stays() {
        let mut cache = Cache::default();
        for n in 1..=3 {
            cache.insert(key(n), session(100_000));
        }
        // 1 is used again, 2 is in use: 3 is the only one that may go.
        let used = cache.get(&key(2)).unwrap();
        assert!(cache.get(&key(1)).is_some());
        assert_eq!(cache.make_room(100_000, 300_000), Ok(vec![key(3)]));
        assert!(cache.get(&key(3)).is_none());
        assert_eq!((cache.len(), cache.bytes()), (2, 200_000));
        drop(used);
        // Now 2 is idle, and the older of the two.
        cache.make_room(200_000, 300_000).unwrap();
        assert!(cache.get(&key(2)).is_none() && cache.get(&key(1)).is_some());
    }

    #[test]
    fn sessions_that_nobody_uses_for_a_time_go_and_what_is_in_use_stays() {
        let mut cache = Cache::default();
        for n in 1..=2 {
            cache.insert(key(n), session(1));
        }
        assert_eq!(cache.take_idle(Duration::from_secs(60)).0.len(), 0);
        let used = cache.get(&key(2)).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let (gone, next) = cache.take_idle(Duration::from_millis(20));
        assert_eq!((gone.len(), next), (1, Some(Duration::from_millis(20))));
        assert!(!cache.contains(&key(1)) && cache.contains(&key(2)));
        drop(used);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(cache.take_idle(Duration::from_millis(20)).0.len(), 1);
        assert_eq!((cache.len(), cache.take_idle(Duration::ZERO).1), (0, None));
    }

    #[test]
    fn what_can_never_fit_is_refused() {
        let refused = Error::CacheTooSmall { needed: 2, limit: 1 };
        assert_eq!(Cache::default().make_room(2, 1), Err(refused));
    }

    #[test]
    fn a_session_that_a_cancelled_run_sits_in_is_not_given_out() {
        let mut cache = Cache::default();
        let session = session(1);
        cache.insert(key(1), Arc::clone(&session));
        session.abandon();
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.is_empty());
    }
}
