//! What an operator holds: an application, or a member, is not taken out of any set because it fails.
//!
//! It is for whoever knows better for a while, as the checks are wrong or the provider is being worked on. The hold stands
//! in the record of the node where it was said, so that every member draws the same from it, and stays while that node is
//! down; a restart does not end it. What an operator takes out passes it: maintenance, a leave, `forget`.

use std::time::Duration;

use super::{Node, Output};
use crate::name::HoldName;
use crate::record::{MAX_HOLDING, ShortDigest};
use crate::status::OperatorHoldStatus;
use crate::time::{Instant, Now, Wall};

/// What this node holds: an application's or a member's name, and when that ends by itself.
pub type Held = (HoldName, Option<Wall>);

/// Why something is not held, or not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// Nothing goes by that name.
    #[error("no application and no member {0} is known here")]
    Unknown(HoldName),
    /// It has as many holds as can be told.
    #[error(
        "this node holds {MAX_HOLDING} already, which is as many as it can tell of: release one, or hold on another node"
    )]
    TooMany,
    /// Nobody holds it.
    #[error("nobody holds {0}")]
    NotHeld(HoldName),
    /// It was said elsewhere.
    #[error(
        "{name} is not held here but by {holders}: release it there; who is gone for good is forgotten with `picored forget`"
    )]
    HeldElsewhere {
        /// What.
        name: HoldName,
        /// The nodes where it was said.
        holders: String,
    },
}

impl Node {
    /// Keeps an application, or a member, in what is published though it fails, `limit` long or until it is released. What
    /// this node holds then.
    ///
    /// # Errors
    /// If nothing goes by that name, or too much is held here.
    pub fn hold(&mut self, now: Now, name: &HoldName, limit: Option<Duration>) -> Result<Vec<Held>, HoldError> {
        let is_app = self.view.apps().any(|app| app.as_str() == name.as_str());
        let is_member = self.view.members().keys().any(|member| member.as_str() == name.as_str());
        if !is_app && !is_member {
            return Err(HoldError::Unknown(name.clone()));
        }
        let held = &mut self.settings.held;
        if held.len() >= MAX_HOLDING && !held.contains_key(name) {
            return Err(HoldError::TooMany);
        }
        held.insert(name.clone(), limit.map(|limit| now.wall.after(limit)));
        self.holds_changed(now);
        self.settle(now);
        Ok(self.held())
    }

    /// Ends a hold. What this node holds then.
    ///
    /// # Errors
    /// If this node does not hold it.
    pub fn release(&mut self, now: Now, name: &HoldName) -> Result<Vec<Held>, HoldError> {
        if self.settings.held.remove(name).is_none() {
            let holders: Vec<_> = self.view.holders(name.as_str()).map(|node| node.as_str()).collect();
            return Err(match holders[..] {
                [] => HoldError::NotHeld(name.clone()),
                _ => HoldError::HeldElsewhere { name: name.clone(), holders: holders.join(", ") },
            });
        }
        self.holds_changed(now);
        self.settle(now);
        Ok(self.held())
    }

    fn held(&self) -> Vec<Held> {
        self.settings.held.iter().map(|(name, until)| (name.clone(), *until)).collect()
    }

    /// For this node's record.
    pub(super) fn holding_tags(&self) -> Vec<ShortDigest> {
        self.settings.held.keys().take(MAX_HOLDING).map(|name| ShortDigest::of_held(name.as_str())).collect()
    }

    /// When the next hold ends by itself; see [`Self::maintenance_ends`].
    pub(super) fn hold_ends(&self) -> Option<Instant> {
        self.in_at_most_a_minute(self.settings.held.values())
    }

    pub(super) fn holds_due(&mut self, now: Now) {
        let before = self.settings.held.len();
        self.settings.held.retain(|_, until| until.is_none_or(|until| until > now.wall));
        if self.settings.held.len() != before {
            self.holds_changed(now);
        }
    }

    fn holds_changed(&mut self, now: Now) {
        self.outputs.push_back(Output::Hold(self.held()));
        self.change_own_record(now.at);
    }

    /// What operators hold, and where they said so.
    pub(super) fn operator_holds(&self) -> Vec<OperatorHoldStatus> {
        let apps = self.view.apps().map(|app| app.as_str());
        let members = self.view.members().keys().map(|member| member.as_str());
        let mut names: Vec<_> = apps.chain(members).collect();
        names.sort_unstable();
        names.dedup();
        let status = names.into_iter().flat_map(|name| {
            self.view.holders(name).map(move |node| {
                let own = self.settings.held.iter().find(|(held, _)| held.as_str() == name);
                let until = own.filter(|_| *node == self.settings.name).and_then(|(_, until)| *until);
                OperatorHoldStatus {
                    name: name.to_owned(),
                    node: node.to_string(),
                    until: until.map(|until| until.rfc3339()),
                }
            })
        });
        status.collect()
    }
}
