//! Maintenance: an operator takes this node's applications out, for a while or until told otherwise.
//!
//! It stands in the node's record as the application's state, so that every member draws the same from it: the
//! application is not up, and its removal passes every gate of the governor but the one that keeps a set from being
//! empty. Its checks go on. A restart does not end it.

use std::time::Duration;

use super::{Node, Output};
use crate::governor::Hold;
use crate::name::AppName;
use crate::time::{Instant, Now, Wall};

/// An application in maintenance: its name, and when that ends by itself.
pub type Maintained = (AppName, Option<Wall>);

/// There is no such application on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has no application {0}; it has {1}")]
pub struct NoSuchApp(AppName, String);

/// What a change of maintenance did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// The applications that are in maintenance now.
    pub apps: Vec<Maintained>,
    /// Those among them that stay published all the same, as they are up nowhere else.
    pub kept: Vec<AppName>,
}

impl Node {
    /// Puts `app`, or all applications of this node, into maintenance, `until` a time or until this is called again; or
    /// takes them out of it.
    ///
    /// # Errors
    /// If this node has no such application.
    pub fn maintain(
        &mut self,
        now: Now,
        app: Option<&AppName>,
        on: bool,
        limit: Option<Duration>,
    ) -> Result<Maintenance, NoSuchApp> {
        let own: Vec<AppName> = self.settings.apps.iter().map(|app| app.name.clone()).collect();
        let apps = match app {
            None => own,
            Some(app) if own.contains(app) => vec![app.clone()],
            Some(app) => return Err(self.no_such_app(app)),
        };
        let until = limit.map(|limit| now.wall.after(limit));
        for app in apps {
            match on {
                true => drop(self.settings.maintained.insert(app, until)),
                false => drop(self.settings.maintained.remove(&app)),
            }
        }
        self.maintenance_changed(now);
        self.settle(now);
        let apps: Vec<_> = self.settings.maintained.iter().map(|(app, until)| (app.clone(), *until)).collect();
        let kept = apps.iter().map(|(app, _)| app).filter(|app| self.is_kept(app)).cloned().collect();
        Ok(Maintenance { apps, kept })
    }

    /// Whether this node stays published for `app` because it is up nowhere else.
    pub(super) fn is_kept(&self, app: &AppName) -> bool {
        let own = &self.settings.name;
        self.governor.holds(app).any(|(member, hold)| member == own && hold == Hold::NeverEmpty)
    }

    pub(super) fn no_such_app(&self, app: &AppName) -> NoSuchApp {
        let names: Vec<_> = self.settings.apps.iter().map(|own| own.name.as_str()).collect();
        NoSuchApp(app.clone(), if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    }

    /// When the next maintenance ends by itself. The time of day decides, as it has to survive a restart; that it may be
    /// set is why it is looked at again after a while.
    pub(super) fn maintenance_ends(&self) -> Option<Instant> {
        self.in_at_most_a_minute(self.settings.maintained.values())
    }

    pub(super) fn in_at_most_a_minute<'a>(&self, times: impl Iterator<Item = &'a Option<Wall>>) -> Option<Instant> {
        let next = times.flatten().min()?;
        Some(self.seen.at + next.since(self.seen.wall).min(Duration::from_secs(60)))
    }

    pub(super) fn maintenance_due(&mut self, now: Now) {
        let before = self.settings.maintained.len();
        self.settings.maintained.retain(|_, until| until.is_none_or(|until| until > now.wall));
        if self.settings.maintained.len() != before {
            self.maintenance_changed(now);
        }
    }

    fn maintenance_changed(&mut self, now: Now) {
        let maintained = self.settings.maintained.iter().map(|(app, until)| (app.clone(), *until)).collect();
        self.outputs.push_back(Output::Maintain(maintained));
        self.change_own_record(now.at);
    }
}
