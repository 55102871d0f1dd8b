//! Clients that want the daemon to stay.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use apt_ostree_ipc::{Error, Result};
use zbus::names::OwnedUniqueName;

use crate::caller::Caller;

/// Clients of one user.
const PER_USER: usize = 32;

/// Clients of all users but root.
const IN_ALL: usize = 256;

/// The registered clients by their names on the bus.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<OwnedUniqueName, Client>>);

#[derive(Debug)]
struct Client {
    uid: u32,
    id: String,
}

impl Clients {
    /// Adds `caller`; says whether it is new.
    pub(crate) fn register(&self, caller: &Caller, id: &str) -> Result<bool> {
        let mut clients = self.lock();
        let own = clients.values().filter(|c| c.uid == caller.uid).count();
        let known = clients.contains_key(&caller.name);
        if caller.uid != 0 && !known && (own >= PER_USER || clients.len() >= IN_ALL) {
            return Err(Error::LimitsExceeded(format!(
                "{own} clients of user {} and {} in all are registered",
                caller.uid,
                clients.len()
            )));
        }
        let client = Client {
            uid: caller.uid,
            id: apt_ostree_fsx::escape_cut(id, 64),
        };
        Ok(clients.insert(caller.name.clone(), client).is_none())
    }

    pub(crate) fn unregister(&self, name: &OwnedUniqueName) {
        self.lock().remove(name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The text by which messages name a client.
    pub(crate) fn describe(&self, caller: &Caller) -> String {
        match self.lock().get(&caller.name).filter(|c| !c.id.is_empty()) {
            Some(client) => format!(
                "client(id:{} dbus:{} uid:{})",
                client.id,
                caller.name.trim_start_matches(':'),
                caller.uid
            ),
            None => caller.description.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedUniqueName, Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
