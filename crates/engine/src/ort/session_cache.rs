//! Caches sessions, bounded by bytes. Evicts the least recently used sessions first and keeps sessions in use.
//!
//! Versions are immutable and named by the hash of their bytes, so no entry ever has to be invalidated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::options::Trees;
use crate::ort::session::Session;

/// Identifies a session. Sessions with equal keys are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The sha256 of everything that the session is loaded from: `Version::content_key`.
    pub hash: [u8; 32],
    /// The device that it runs on.
    pub device: Device,
    /// The number of threads inside one run.
    pub threads: usize,
    /// Whether the weights are used from their file, without prepacking.
    pub share_weights: bool,
    /// Whether the session is in a model process.
    pub isolated: bool,
    /// What runs its tree ensembles.
    pub trees: Trees,
}

/// A session that can be cached: in this process, or in another one.
pub trait CachedSession {
    /// Returns the bytes that the session is assumed to need.
    fn bytes(&self) -> usize;
    /// Whether the session cannot be used again: a cancelled run occupies it, or its process has ended.
    fn is_lost(&self) -> bool;
}

impl CachedSession for Session {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_lost(&self) -> bool {
        self.is_abandoned()
    }
}

/// A session and the time of its last use.
struct KeptSession<S> {
    session: Arc<S>,
    used: Instant,
}

impl<S> KeptSession<S> {
    /// Whether a query uses the session, that is, holds another reference to it.
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.session) > 1
    }
}

/// The cached sessions, by key.
pub struct Cache<S> {
    entries: LruCache<SessionKey, KeptSession<S>>,
}

impl<S> Default for Cache<S> {
    fn default() -> Self {
        // The caller bounds the cache by bytes, with `make_room`, instead of by the number of entries.
        Self { entries: LruCache::unbounded() }
    }
}

impl<S: CachedSession> Cache<S> {
    /// Returns the session with this key. A session that is lost is removed from the cache instead. If a cancelled run
    /// occupies it, the thread of that run frees it.
    pub fn get(&mut self, key: &SessionKey) -> Option<Arc<S>> {
        let kept = self.entries.get_mut(key)?;
        kept.used = Instant::now();
        let session = Arc::clone(&kept.session);
        if session.is_lost() {
            self.entries.pop(key);
            return None;
        }
        Some(session)
    }

    /// Evicts idle sessions, least recently used first, until `needed` bytes fit into `limit`. Returns their keys.
    ///
    /// Sessions in use stay, even if the limit is then exceeded. It is an error if `needed` exceeds `limit` by itself.
    pub fn make_room(&mut self, needed: usize, limit: usize) -> Result<Vec<SessionKey>> {
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

    /// Removes and returns the sessions that have been idle for `timeout`. Also returns the time until the next check,
    /// or `None` if no session remains.
    pub fn take_idle(&mut self, timeout: Duration) -> (Vec<Arc<S>>, Option<Duration>) {
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

    /// Whether the cache contains a session with this key.
    #[must_use]
    pub fn contains(&self, key: &SessionKey) -> bool {
        self.entries.contains(key)
    }

    /// Adds a session.
    pub fn insert(&mut self, key: SessionKey, session: Arc<S>) {
        self.entries.put(key, KeptSession { session, used: Instant::now() });
    }

    /// Returns the bytes of all cached sessions.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, kept)| kept.session.bytes()).sum()
    }

    /// Returns the number of cached sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the cache is empty.
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
        let content = crate::onnx::content::Content::of(model("models/credit.onnx"));
        Arc::new(Session::load(content, &crate::options::Options::default(), &config).unwrap())
    }

    fn key(n: u8) -> SessionKey {
        SessionKey {
            hash: [n; 32],
            device: Device::Cpu,
            threads: 1,
            share_weights: false,
            isolated: false,
            trees: Trees::Compiled,
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_in_use_stays() {
        let mut cache = Cache::<Session>::default();
        for n in 1..=3 {
            cache.insert(key(n), session(100_000));
        }
        // 1 was used again and 2 is in use, so only 3 may be evicted.
        let used = cache.get(&key(2)).unwrap();
        assert!(cache.get(&key(1)).is_some());
        assert_eq!(cache.make_room(100_000, 300_000), Ok(vec![key(3)]));
        assert!(cache.get(&key(3)).is_none());
        assert_eq!((cache.len(), cache.bytes()), (2, 200_000));
        drop(used);
        // Now 2 is idle, and less recently used than 1.
        cache.make_room(200_000, 300_000).unwrap();
        assert!(cache.get(&key(2)).is_none() && cache.get(&key(1)).is_some());
    }

    #[test]
    fn sessions_that_nobody_uses_for_a_time_go_and_what_is_in_use_stays() {
        let mut cache = Cache::<Session>::default();
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
        assert_eq!(Cache::<Session>::default().make_room(2, 1), Err(refused));
    }

    #[test]
    fn a_session_that_a_cancelled_run_sits_in_is_not_given_out() {
        let mut cache = Cache::<Session>::default();
        let session = session(1);
        cache.insert(key(1), Arc::clone(&session));
        session.abandon();
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.is_empty());
    }
}
