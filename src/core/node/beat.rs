//! Beats: applications with a `ttl` say themselves how they are, and one that is late is down.
//!
//! A beat counts for this node's own verdict and goes the way of any check's from there. Called by the driver when one
//! comes over the admin socket, and by the node's clock when one is due.

use super::{AppState, Check, Instant, NoSuchApp, Node, Now};
use crate::name::AppName;

/// Why a beat does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeatError {
    /// There is no such application.
    #[error(transparent)]
    NoSuchApp(#[from] NoSuchApp),
    /// Its checks decide.
    #[error("this node checks {0} itself: beats count where the config has check = {{ ttl = \"30s\" }}")]
    IsChecked(AppName),
}

impl Node {
    /// The application `app` says how it is: well, or why not. Its state from now on.
    ///
    /// # Errors
    /// If this node has no such application, or does not wait for its beats.
    pub fn beat(&mut self, now: Now, app: &AppName, result: &Result<(), String>) -> Result<AppState, BeatError> {
        let index = self.settings.apps.iter().position(|own| own.name == *app).ok_or_else(|| self.no_such_app(app))?;
        let (own, health) = (&self.settings.apps[index], &mut self.health[index]);
        let Check::Ttl(ttl) = own.check else { return Err(BeatError::IsChecked(app.clone())) };
        if health.beat(now.at, own, ttl, result) {
            self.verdict_changed(now.at, index);
        }
        self.settle(now);
        let state = self.health[index].state();
        Ok(if self.settings.maintained.contains_key(app) { AppState::Maintenance } else { state })
    }

    /// Finds those whose beat is late.
    pub(super) fn look_for_beats(&mut self, now: Instant) {
        for index in 0..self.health.len() {
            let app = &self.settings.apps[index];
            if let Check::Ttl(ttl) = app.check
                && self.health[index].look_for_beat(now, app, ttl)
            {
                self.verdict_changed(now, index);
            }
        }
    }
}
