//! As whom a command of a check is run: a name of the config's becomes numbers of the system's.
//!
//! Only /etc/passwd is looked at: a directory service would be asked over the network by code that lives in this process.
//! Called by the prober when a config is read.

use std::path::Path;

/// Who runs a command, where that is not the daemon's own user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// The user's id.
    pub(super) user: u32,
    /// That of its first group. It has no others.
    pub(super) group: u32,
}

/// The account of `user`; none if that is the daemon's own.
pub(super) fn find(user: &str) -> Result<Option<Account>, String> {
    let passwd = super::read(Path::new("/etc/passwd"));
    let passwd = passwd.map_err(|error| format!("/etc/passwd cannot be read: {error}"))?;
    judge(&String::from_utf8_lossy(&passwd), user, rustix::process::geteuid().as_raw())
}

fn judge(passwd: &str, user: &str, own: u32) -> Result<Option<Account>, String> {
    let account = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(user) {
            return None;
        }
        let user = fields.nth(1)?.parse().ok()?;
        Some(Account { user, group: fields.next()?.parse().ok()? })
    });
    match account {
        None => Err("/etc/passwd has no such user".into()),
        Some(account) if account.user == own => Ok(None),
        Some(account) if own == 0 => Ok(Some(account)),
        Some(_) => Err(format!(
            "this runs as user id {own}, and only root can run a command as somebody else; leave `user` out, or run picored \
             as root"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_taken_by_root_alone() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nnagios2:x:7:8::/:/bin/false\nbad:x:y\n\nnagios:x:998:997:,,:/:/bin/false\n";
        let account = Account { user: 998, group: 997 };
        assert_eq!(judge(passwd, "nagios", 0), Ok(Some(account)));
        assert_eq!(judge(passwd, "nagios", 998), Ok(None), "it is itself");
        assert!(judge(passwd, "nagios", 5).unwrap_err().starts_with("this runs as user id 5, and only root"));
        assert_eq!(judge(passwd, "root", 0), Ok(None));
        for none in ["nagio", "bad", "x", ""] {
            assert_eq!(judge(passwd, none, 0), Err("/etc/passwd has no such user".into()), "{none}");
        }
    }
}
