//! Giving up the rights of root once everything that needs them is done.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Who the process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// For the supplementary groups; `None` for a bare number, which has none.
    name: Option<CString>,
}

/// The privileges were not dropped. The server must not go on.
#[derive(Debug)]
pub enum PrivilegeError {
    UnknownUser(String),
    UnknownGroup(String),
    /// Only root can become somebody else.
    NotRoot,
    /// A call that must succeed failed.
    Call {
        call: &'static str,
        error: io::Error,
    },
    /// After the change root could still be regained.
    NotDropped,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::UnknownUser(name) => {
                write!(f, "user: this machine has no user {name:?}; create it or name another")
            }
            PrivilegeError::UnknownGroup(name) => {
                write!(f, "group: this machine has no group {name:?}; create it or name another")
            }
            PrivilegeError::NotRoot => f.write_str(
                "user, group: only root can become somebody else; start as root or remove the keys",
            ),
            PrivilegeError::Call { call, error } => write!(f, "{call} failed: {error}"),
            PrivilegeError::NotDropped => f.write_str("root's rights could not be given up"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// Whether the process runs with the rights of root.
pub fn is_root() -> bool {
    effective_uid() == 0
}

pub fn effective_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// The user at the other end of a connected Unix socket: by name, or by number where there is none.
pub fn peer_user(stream: &UnixStream) -> io::Result<String> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` and `length` outlive the call, the length is that of `credentials`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(user_name(credentials.uid).unwrap_or_else(|| credentials.uid.to_string()))
}

fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; RECORD_BYTES_MAX];
    let mut found = std::ptr::null_mut();
    // SAFETY: as in `look_up_user`; the name points into `buffer`, and is copied before it goes.
    unsafe {
        let mut record: libc::passwd = std::mem::zeroed();
        let result =
            libc::getpwuid_r(uid, &mut record, buffer.as_mut_ptr(), buffer.len(), &mut found);
        let is_found = result == 0 && !found.is_null();
        is_found.then(|| CStr::from_ptr(record.pw_name).to_string_lossy().into_owned())
    }
}

/// Finds a user by name or number. `group` overrides the user's own group.
pub fn look_up(user: &str, group: Option<&str>) -> Result<Identity, PrivilegeError> {
    let mut identity = look_up_user(user)?;
    if let Some(group) = group {
        identity.gid = look_up_group(group)?;
    }
    Ok(identity)
}

/// Becomes `identity` in all threads, for good.
pub fn become_identity(identity: &Identity) -> Result<(), PrivilegeError> {
    if !is_root() {
        return Err(PrivilegeError::NotRoot);
    }
    let Identity { uid, gid, name } = identity;
    // SAFETY: the group list is one number that outlives the call; `name` is a C string.
    let groups = unsafe {
        match name {
            Some(name) => libc::initgroups(name.as_ptr(), *gid),
            None => libc::setgroups(1, gid),
        }
    };
    succeeded("setgroups", groups)?;
    // SAFETY: numbers only; the C library changes every thread.
    succeeded("setresgid", unsafe { libc::setresgid(*gid, *gid, *gid) })?;
    // SAFETY: as above.
    succeeded("setresuid", unsafe { libc::setresuid(*uid, *uid, *uid) })?;
    // SAFETY: as above; this one must fail.
    if *uid != 0 && unsafe { libc::setuid(0) } == 0 {
        return Err(PrivilegeError::NotDropped);
    }
    Ok(())
}

/// From now on no program started here gains rights by a set-user-id bit. Threads started later
/// inherit it.
pub fn forbid_new_privileges() -> Result<(), PrivilegeError> {
    // SAFETY: numbers only.
    succeeded("prctl", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn succeeded(call: &'static str, result: libc::c_int) -> Result<(), PrivilegeError> {
    if result == 0 {
        Ok(())
    } else {
        Err(PrivilegeError::Call { call, error: io::Error::last_os_error() })
    }
}

fn look_up_user(user: &str) -> Result<Identity, PrivilegeError> {
    let unknown = || PrivilegeError::UnknownUser(user.to_owned());
    if let Ok(uid) = user.parse() {
        return Ok(Identity { uid, gid: uid, name: None });
    }
    let name = CString::new(user).map_err(|_| unknown())?;
    let mut buffer = vec![0; RECORD_BYTES_MAX];
    let mut found = std::ptr::null_mut();
    // SAFETY: `record`, `buffer` and `found` outlive the call, the length is the buffer's; `found`
    // points to `record` only when the record was filled.
    unsafe {
        let mut record: libc::passwd = std::mem::zeroed();
        let result = libc::getpwnam_r(
            name.as_ptr(),
            &mut record,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        );
        if result != 0 || found.is_null() {
            return Err(unknown());
        }
        Ok(Identity { uid: record.pw_uid, gid: record.pw_gid, name: Some(name) })
    }
}

fn look_up_group(group: &str) -> Result<u32, PrivilegeError> {
    let unknown = || PrivilegeError::UnknownGroup(group.to_owned());
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let name = CString::new(group).map_err(|_| unknown())?;
    let mut buffer = vec![0; RECORD_BYTES_MAX];
    let mut found = std::ptr::null_mut();
    // SAFETY: as in `look_up_user`.
    unsafe {
        let mut record: libc::group = std::mem::zeroed();
        let result = libc::getgrnam_r(
            name.as_ptr(),
            &mut record,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        );
        if result != 0 || found.is_null() {
            return Err(unknown());
        }
        Ok(record.gr_gid)
    }
}

/// Room for one record of the user or group database.
const RECORD_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let root = look_up("root", None).expect("every machine has root");
        assert_eq!((root.uid, root.gid), (0, 0));
        let number = look_up("65534", Some("root")).expect("a number needs no record");
        assert_eq!((number.uid, number.gid), (65534, 0));
        let error = look_up("no such user", None).expect_err("unknown").to_string();
        assert!(error.contains("no user \"no such user\""), "{error}");
        let error = look_up("root", Some("no such group")).expect_err("unknown").to_string();
        assert!(error.contains("no group"), "{error}");
        assert!(look_up("a\0b", None).is_err());
    }

    #[test]
    fn the_other_end_of_a_socket_is_known_by_name() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let user = peer_user(&ours).expect("connected");
        assert_eq!(look_up(&user, None).expect("known").uid, effective_uid());
        assert_eq!(user_name(u32::MAX - 1), None);
    }
}
