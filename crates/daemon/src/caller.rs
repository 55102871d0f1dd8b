//! Who calls, and what that caller may do.

use std::collections::HashMap;
use std::time::Duration;

use apt_ostree_ipc::{Action, Error, Result};
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus::names::{BusName, OwnedUniqueName, UniqueName};
use zbus::proxy::CacheProperties;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// A user has this long to answer a question of polkit.
const ASK_TIMEOUT: Duration = Duration::from_secs(120);

/// Polkit itself has this long when it need not ask anybody.
const CHECK_TIMEOUT: Duration = Duration::from_secs(25);

/// The sender of a call. The bus vouches for its name, and for the user behind that name.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Its name on the bus, never given to another connection.
    pub(crate) name: OwnedUniqueName,
    pub(crate) uid: u32,
    /// The caller allows that a user is asked.
    interactive: bool,
    subject: SubjectName,
    /// `client(...)` for messages.
    pub(crate) description: String,
}

type SubjectName = OwnedUniqueName;

impl Caller {
    /// Asks the bus for the user behind the sender of a message.
    pub(crate) async fn of(connection: &Connection, header: &Header<'_>) -> Result<Self> {
        let Some(sender) = header.sender() else {
            return Err(Error::NotAuthorized("the call has no sender".into()));
        };
        let bus = bus(connection).await?;
        let uid = bus
            .get_connection_unix_user(BusName::Unique(sender.clone()))
            .await
            .map_err(|_| Error::NotAuthorized("the caller is gone".into()))?;
        let name: OwnedUniqueName = sender.to_owned().into();
        Ok(Self {
            description: format!("client(dbus:{} uid:{uid})", name.trim_start_matches(':')),
            subject: name.clone(),
            name,
            uid,
            interactive: header
                .primary()
                .flags()
                .contains(Flags::AllowInteractiveAuth),
        })
    }

    /// Requires that polkit allows every one of `actions`; root needs no polkit.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`], also when there is no polkit or it does not answer.
    pub(crate) async fn require(
        &self,
        connection: &Connection,
        actions: impl IntoIterator<Item = Action>,
        details: &HashMap<&str, &str>,
    ) -> Result<()> {
        if self.uid == 0 {
            return Ok(());
        }
        for action in actions {
            self.require_one(connection, action, details, self.interactive)
                .await?;
        }
        Ok(())
    }

    /// As [`Caller::require`], but nobody is ever asked.
    pub(crate) async fn require_silently(
        &self,
        connection: &Connection,
        action: Action,
    ) -> Result<()> {
        if self.uid == 0 {
            return Ok(());
        }
        self.require_one(connection, action, &HashMap::new(), false)
            .await
    }

    async fn require_one(
        &self,
        connection: &Connection,
        action: Action,
        details: &HashMap<&str, &str>,
        interactive: bool,
    ) -> Result<()> {
        let refused = |why: String| Error::NotAuthorized(format!("{}: {why}", action.id()));
        let limit = if interactive {
            ASK_TIMEOUT
        } else {
            CHECK_TIMEOUT
        };
        let check = check(connection, &self.subject, action, details, interactive);
        match tokio::time::timeout(limit, check).await {
            Ok(Ok(Answer::Yes)) => Ok(()),
            Ok(Ok(Answer::Challenge)) => Err(refused(
                "authentication is needed, but nobody could be asked".into(),
            )),
            Ok(Ok(Answer::No)) => Err(refused("not allowed".into())),
            Ok(Err(error)) => Err(refused(format!(
                "polkit can't be asked, so only root may: {error}"
            ))),
            Err(_) => Err(refused("polkit did not answer in time".into())),
        }
    }
}

enum Answer {
    Yes,
    Challenge,
    No,
}

async fn check(
    connection: &Connection,
    subject: &SubjectName,
    action: Action,
    details: &HashMap<&str, &str>,
    interactive: bool,
) -> zbus::Result<Answer> {
    // The subject is the name on the bus: polkit asks the bus who that is, so no other process can
    // take the caller's place in between.
    let name = zbus::zvariant::Value::from(subject.as_str()).try_into_owned()?;
    let subject = Subject {
        subject_kind: "system-bus-name".to_owned(),
        subject_details: HashMap::from([("name".to_owned(), name)]),
    };
    let polkit = AuthorityProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let flags = if interactive {
        CheckAuthorizationFlags::AllowUserInteraction.into()
    } else {
        Default::default()
    };
    let result = polkit
        .check_authorization(&subject, action.id(), details, flags, "")
        .await?;
    Ok(match (result.is_authorized, result.is_challenge) {
        (true, _) => Answer::Yes,
        (false, true) => Answer::Challenge,
        (false, false) => Answer::No,
    })
}

/// Waits until nobody has `name` any more.
pub(crate) async fn vanished(connection: &Connection, name: &UniqueName<'_>) -> zbus::Result<()> {
    use futures_util::StreamExt as _;
    let bus = bus(connection).await?;
    let mut changes = bus
        .receive_name_owner_changed_with_args(&[(0, name.as_str())])
        .await?;
    // It may have gone before the bus knew that we want to hear of it.
    if !bus.name_has_owner(BusName::Unique(name.clone())).await? {
        return Ok(());
    }
    while let Some(change) = changes.next().await {
        if change.args()?.new_owner().is_none() {
            return Ok(());
        }
    }
    Ok(())
}

async fn bus(connection: &Connection) -> zbus::Result<DBusProxy<'static>> {
    DBusProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await
}
