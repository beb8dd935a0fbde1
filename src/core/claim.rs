//! What is seen of an application on one member: whether it shall be published, and what.

use crate::snapshot::Endpoint;

/// How an application stands on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppStanding {
    /// Up.
    Up,
    /// Nobody knows yet: things stay as they are.
    Unknown,
    /// Its check fails.
    CheckFailed,
    /// Its member is down.
    MemberDown,
    /// An operator wants it so: its member has left, or it is in maintenance.
    TakenOut,
}

/// An application on one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How it stands.
    pub standing: AppStanding,
    /// Whether an operator holds it: it is not taken out because it fails.
    pub is_held: bool,
    /// Where it answers while it is up.
    pub endpoints: Vec<Endpoint>,
}
