//! How much one user, and all users together, may have under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use apt_ostree_ipc::{Error, Result};

/// Calls of one user at a time; each may wait for an answer of polkit.
const CALLS_PER_USER: usize = 16;

/// Calls of root at a time.
const CALLS_OF_ROOT: usize = 256;

/// Calls of all users but root at a time.
const CALLS_IN_ALL: usize = 64;

/// Counts calls under way.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    by_user: HashMap<u32, usize>,
    last: Instant,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            by_user: HashMap::new(),
            last: Instant::now(),
        }
    }
}

impl Gate {
    /// Lets a call of `uid` in, until the pass is dropped.
    pub(crate) fn enter(self: &Arc<Self>, uid: u32) -> Result<Pass> {
        let mut counts = self.lock();
        counts.last = Instant::now();
        let others: usize = counts
            .by_user
            .iter()
            .filter(|(user, _)| **user != 0)
            .map(|(_, count)| count)
            .sum();
        let own = counts.by_user.entry(uid).or_default();
        let limit = if uid == 0 {
            CALLS_OF_ROOT
        } else {
            CALLS_PER_USER
        };
        if *own >= limit {
            return Err(Error::LimitsExceeded(format!(
                "user {uid} has {own} calls under way; wait for their answers"
            )));
        }
        if uid != 0 && others >= CALLS_IN_ALL {
            return Err(Error::LimitsExceeded(
                "too many calls are under way; try again later".into(),
            ));
        }
        *own += 1;
        Ok(Pass {
            gate: Arc::clone(self),
            uid,
        })
    }

    /// Since when nothing has been under way; `None`: something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let counts = self.lock();
        let idle = counts.by_user.values().all(|count| *count == 0);
        idle.then_some(counts.last)
    }

    /// Something happened that is no call.
    pub(crate) fn touch(&self) {
        self.lock().last = Instant::now();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    uid: u32,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.last = Instant::now();
        if let Some(count) = counts.by_user.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.by_user.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_lock_out_others() {
        let gate = Arc::new(Gate::default());
        let passes: Vec<Pass> = (0..CALLS_PER_USER)
            .map(|_| gate.enter(1000).unwrap())
            .collect();
        assert!(matches!(gate.enter(1000), Err(Error::LimitsExceeded(_))));
        assert!(gate.idle_since().is_none());
        drop(gate.enter(1001).unwrap());
        drop(passes);
        drop(gate.enter(1000).unwrap());
        assert!(gate.idle_since().is_some());
    }

    #[test]
    fn all_users_together_do_not_lock_out_root() {
        let gate = Arc::new(Gate::default());
        let mut passes = Vec::new();
        for uid in 1000.. {
            match gate.enter(uid) {
                Ok(pass) => passes.push(pass),
                Err(_) => break,
            }
        }
        assert_eq!(passes.len(), CALLS_IN_ALL);
        drop(gate.enter(0).unwrap());
    }
}
