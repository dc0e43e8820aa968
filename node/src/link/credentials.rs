//! Who may connect to a unix socket of this node, by what the kernel says of the peer (SO_PEERCRED, unix(7)).
//!
//! The uid and gid are those that the peer had when it connected. Its pid is not looked at: across containers it names
//! another process, or none. The kernel does not tell the peer's supplementary groups; they are looked up in the user
//! database of this machine (getgrouplist(3)), which is a matter of the daemon's view: a process that joined a group
//! without being listed in it (`newgrp`, `sg`, `SupplementaryGroups=` of systemd) counts by its primary group alone.

use std::{collections::BTreeSet, ffi::CString, fs};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::config::{Account, LocalConfig};

/// What Linux calls every id that has no counterpart in the observer's user namespace, unless it was configured.
const OVERFLOW_ID_DEFAULT: u32 = 65_534;

/// The user and primary group of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Peer {
    /// As the kernel would tell of this process itself.
    pub(crate) fn own() -> Self {
        Self { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() }
    }
}

impl From<tokio::net::unix::UCred> for Peer {
    fn from(credentials: tokio::net::unix::UCred) -> Self {
        Self { uid: credentials.uid(), gid: credentials.gid() }
    }
}

/// Who may connect: root, the daemon's own user, and whom the configuration names.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    own_uid: u32,
    overflow_uid: u32,
    overflow_gid: u32,
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
    /// What a stranger is told.
    remedy: &'static str,
}

/// Why a process was refused. Nothing that it sent was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The kernel has no name for the peer's user.
    #[error(
        "uid {uid} stands for every user that this machine's user namespace does not know, so that nobody can be told \
         apart by it: map the process's user into the namespace of the node, or run the node in that of the process"
    )]
    Overflow { uid: u32 },
    /// Nothing in the configuration allows it.
    #[error("uid {uid} (gid {gid}) may not connect: {remedy}")]
    Stranger { uid: u32, gid: u32, remedy: &'static str },
}

/// A user or group that the configuration names does not exist, or could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The database has no such name.
    #[error("{key}: there is no {kind} {name:?} on this machine; create it, or correct the name")]
    Unknown {
        /// Where the configuration names it: `local.users` or `local.groups`.
        key: &'static str,
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The database did not answer.
    #[error("{key}: the {kind} {name:?} could not be looked up: {reason}")]
    LookUp {
        /// Where the configuration names it: `local.users` or `local.groups`.
        key: &'static str,
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// What the system said.
        reason: String,
    },
}

impl Allowed {
    /// For the local socket. Names are looked up now, once.
    ///
    /// # Errors
    /// [`AccountError`] for the first name that is not known here.
    pub(crate) fn to_attach(local: &LocalConfig) -> Result<Self, AccountError> {
        Ok(Self {
            uids: local.users.iter().map(uid_of).collect::<Result<_, _>>()?,
            gids: local.groups.iter().map(gid_of).collect::<Result<_, _>>()?,
            remedy: "add the user to `users`, or one of its groups to `groups`, in [local] of the node's configuration",
            ..Self::to_administer()
        })
    }

    /// For the admin socket: root and the daemon's own user.
    pub(crate) fn to_administer() -> Self {
        Self {
            own_uid: Uid::effective().as_raw(),
            overflow_uid: overflow_id("/proc/sys/kernel/overflowuid"),
            overflow_gid: overflow_id("/proc/sys/kernel/overflowgid"),
            uids: BTreeSet::new(),
            gids: BTreeSet::new(),
            remedy: "only root and the node's own user may; become one of them",
        }
    }

    /// Whether the node itself runs as the user that is always refused.
    pub(crate) fn refuses_own_user(&self) -> bool {
        self.own_uid == self.overflow_uid
    }

    /// Whether `peer` may connect. Asks the user database only when `groups` are configured and nothing else allows it;
    /// that look-up blocks the thread.
    ///
    /// # Errors
    /// [`Denied`], whose text is for the peer and the log.
    pub(crate) fn check(&self, peer: Peer) -> Result<(), Denied> {
        self.check_with(peer, groups_in_database)
    }

    fn check_with(&self, peer: Peer, groups_of: impl FnOnce(u32) -> Vec<u32>) -> Result<(), Denied> {
        let Peer { uid, gid } = peer;
        if uid == self.overflow_uid {
            return Err(Denied::Overflow { uid });
        }
        if uid == 0 || uid == self.own_uid || self.uids.contains(&uid) {
            return Ok(());
        }
        let admits = |gid: &u32| *gid != self.overflow_gid && self.gids.contains(gid);
        if !self.gids.is_empty() && (admits(&gid) || groups_of(uid).iter().any(admits)) {
            return Ok(());
        }
        Err(Denied::Stranger { uid, gid, remedy: self.remedy })
    }
}

/// The uid of an entry of `local.users`.
pub(crate) fn uid_of(account: &Account) -> Result<u32, AccountError> {
    id_of("local.users", "user", account, |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// The gid of an entry of `local.groups`.
pub(crate) fn gid_of(account: &Account) -> Result<u32, AccountError> {
    id_of("local.groups", "group", account, |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn id_of(
    key: &'static str,
    kind: &'static str,
    account: &Account,
    look_up: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, AccountError> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    match look_up(name) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(AccountError::Unknown { key, kind, name: name.clone() }),
        Err(reason) => Err(AccountError::LookUp { key, kind, name: name.clone(), reason: reason.to_string() }),
    }
}

/// The groups that the user database gives to a user; none if it does not know the user or does not answer.
fn groups_in_database(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

fn overflow_id(path: &str) -> u32 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW_ID_DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const OWN: u32 = 500;
    const NOBODY: u32 = 65_534;

    fn allowed(uids: &[u32], gids: &[u32]) -> Allowed {
        Allowed {
            own_uid: OWN,
            overflow_uid: NOBODY,
            overflow_gid: NOBODY,
            uids: uids.iter().copied().collect(),
            gids: gids.iter().copied().collect(),
            remedy: "ask",
        }
    }

    fn no_look_up(_: u32) -> Vec<u32> {
        panic!("the user database was asked")
    }

    fn local(users: &[Account], groups: &[Account]) -> LocalConfig {
        LocalConfig { socket: PathBuf::from("local.sock"), users: users.to_vec(), groups: groups.to_vec() }
    }

    #[test]
    fn the_own_user_and_root_need_no_entry() {
        let nobody_else = allowed(&[], &[]);
        assert_eq!(nobody_else.check_with(Peer { uid: OWN, gid: 7 }, no_look_up), Ok(()));
        assert_eq!(nobody_else.check_with(Peer { uid: 0, gid: 0 }, no_look_up), Ok(()));
        let denied = nobody_else.check_with(Peer { uid: 1_001, gid: OWN }, no_look_up);
        assert_eq!(denied, Err(Denied::Stranger { uid: 1_001, gid: OWN, remedy: "ask" }));
    }

    #[test]
    fn a_listed_user_is_let_in_without_a_look_up() {
        let listed = allowed(&[1_001], &[9]);
        assert_eq!(listed.check_with(Peer { uid: 1_001, gid: 1 }, no_look_up), Ok(()));
    }

    #[test]
    fn a_group_counts_whether_it_is_primary_or_supplementary() {
        let listed = allowed(&[], &[9]);
        assert_eq!(listed.check_with(Peer { uid: 1_001, gid: 9 }, no_look_up), Ok(()));
        assert_eq!(listed.check_with(Peer { uid: 1_001, gid: 1 }, |_| vec![1, 9]), Ok(()));
        assert!(listed.check_with(Peer { uid: 1_001, gid: 1 }, |_| vec![1, 8]).is_err());
    }

    #[test]
    fn the_overflow_user_is_refused_even_when_listed_and_even_as_ourselves() {
        let mut listed = allowed(&[NOBODY], &[9]);
        let overflow = Err(Denied::Overflow { uid: NOBODY });
        assert_eq!(listed.check_with(Peer { uid: NOBODY, gid: 9 }, no_look_up), overflow);
        listed.own_uid = NOBODY;
        assert!(listed.refuses_own_user());
        assert_eq!(listed.check_with(Peer { uid: NOBODY, gid: 9 }, no_look_up), overflow);
    }

    #[test]
    fn the_overflow_group_admits_nobody_even_when_listed() {
        let listed = allowed(&[], &[NOBODY]);
        assert!(listed.check_with(Peer { uid: 1_001, gid: NOBODY }, |_| vec![NOBODY]).is_err());
    }

    #[test]
    fn a_stranger_is_told_which_key_would_let_it_in() {
        let denied = Allowed::to_attach(&local(&[], &[])).unwrap().check(Peer { uid: 4_000_000, gid: 4_000_001 });
        let text = denied.unwrap_err().to_string();
        assert_eq!(
            text,
            "uid 4000000 (gid 4000001) may not connect: add the user to `users`, or one of its groups to `groups`, in \
             [local] of the node's configuration"
        );
    }

    #[test]
    fn names_become_ids_and_unknown_ones_name_their_key() {
        let names = local(&[Account::Name("root".into()), Account::Id(1_001)], &[Account::Name("root".into())]);
        let allowed = Allowed::to_attach(&names).unwrap();
        assert_eq!(allowed.uids, BTreeSet::from([0, 1_001]));
        assert_eq!(allowed.gids, BTreeSet::from([0]));
        let error = Allowed::to_attach(&local(&[Account::Name("no-such-user".into())], &[])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "local.users: there is no user \"no-such-user\" on this machine; create it, or correct the name"
        );
        let error = Allowed::to_attach(&local(&[], &[Account::Name("no-such-group".into())])).unwrap_err();
        assert!(error.to_string().starts_with("local.groups: there is no group \"no-such-group\""), "{error}");
    }

    #[test]
    fn the_user_database_tells_the_groups_of_root() {
        assert!(groups_in_database(0).contains(&0));
        assert_eq!(groups_in_database(4_000_000), Vec::<u32>::new());
    }
}
