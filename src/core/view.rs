//! What this node holds to be true of the cluster, and what happened between one look and the next.
//!
//! Events are differences between two views, never echoes of messages: a message lost, repeated or late changes at most
//! when a difference is seen. An application counts as up while its member is active and its owner says so; an owner
//! that has just restarted and does not know yet leaves things as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::claim::{AppStanding, Claim};
use crate::event::{Event, EventKind};
use crate::name::{AppName, NodeName};
use crate::record::{AppState, HandlerTag, Record, ShortDigest};
use crate::snapshot::{Endpoint, MemberInfo, MemberState};
use crate::stale::Stale;
use crate::time::Wall;

/// What is known of one member now.
#[derive(Clone, Debug)]
pub struct Fact<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Where it gossips.
    pub address: SocketAddr,
    /// Its life.
    pub generation: u64,
    /// How foca holds it.
    pub state: MemberState,
    /// What it says of itself.
    pub record: Option<&'a Record>,
}

/// One member of the view.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where it gossips.
    pub address: SocketAddr,
    /// Its life.
    pub generation: u64,
    /// Its state.
    pub state: MemberState,
    /// Its applications.
    pub apps: BTreeMap<AppName, MemberApp>,
    /// Whether it says that it can run handlers now.
    pub ready: bool,
    /// Its handlers; `None` before it has said anything of itself.
    pub handlers: Option<Vec<HandlerTag>>,
    /// The scopes and handlers in which its runs fail.
    pub failing: Vec<ShortDigest>,
    /// What an operator holds there.
    pub holding: Vec<ShortDigest>,
}

impl Member {
    /// What it says of the handler with this name, if it is there and has it.
    pub fn handler(&self, name: ShortDigest) -> Option<&HandlerTag> {
        self.handlers.iter().flatten().find(|tag| tag.name == name && self.state.is_active())
    }

    /// Whether nothing is missing here: it is gone, or has said how its applications stand, now or in an earlier life.
    fn is_known(&self) -> bool {
        let all_known = self.apps.values().all(|app| app.up || app.state != AppState::Unknown);
        !self.state.is_active() || (self.handlers.is_some() && all_known)
    }
}

/// An application on a member.
#[derive(Clone, Debug)]
pub struct MemberApp {
    /// What the owner says.
    pub state: AppState,
    /// Whether it counts as up.
    pub up: bool,
    /// The port of its check.
    pub port: u16,
    /// What to publish while it is up.
    pub publish: Vec<IpAddr>,
}

/// This node's view.
#[derive(Debug, Default)]
pub struct View {
    members: BTreeMap<NodeName, Member>,
    /// Who was ever a member here, also of those that are forgotten.
    seen: BTreeSet<NodeName>,
    claimed: BTreeMap<AppName, BTreeSet<IpAddr>>,
}

impl View {
    /// All members, by name.
    pub fn members(&self) -> &BTreeMap<NodeName, Member> {
        &self.members
    }

    /// Whether this node was ever a member here.
    pub fn has_seen(&self, name: &NodeName) -> bool {
        self.seen.contains(name)
    }

    /// Whether it is known of every application of every active member whether it is up. Where that is not so, the
    /// endpoints lack some that others, who have been there for longer, hold to be up.
    pub fn is_complete(&self) -> bool {
        self.members.values().all(Member::is_known)
    }

    /// Who says that it can run which handler.
    pub fn runners(&self) -> BTreeSet<(NodeName, ShortDigest)> {
        let can_run = self.members.iter().filter(|(_, member)| member.ready && member.state.is_active());
        can_run
            .flat_map(|(name, member)| member.handlers.iter().flatten().map(|tag| (name.clone(), tag.name)))
            .collect()
    }

    /// The members as handlers see them.
    pub fn infos(&self) -> Vec<MemberInfo> {
        let info = |(name, member): (&NodeName, &Member)| MemberInfo {
            name: name.clone(),
            state: member.state,
            address: member.address.ip(),
        };
        self.members.iter().map(info).collect()
    }

    /// The names of all applications that any member ever had.
    pub fn apps(&self) -> impl Iterator<Item = &AppName> {
        self.claimed.keys()
    }

    /// How `app` stands on each member that has it, and where it answers.
    pub fn claims(&self, app: &AppName) -> BTreeMap<NodeName, Claim> {
        let having = self.members.iter().filter_map(|(name, member)| Some((name, member, member.apps.get(app)?)));
        let is_app_held = self.is_held(app.as_str());
        let claims = having.map(|(name, member, app)| {
            let is_held = is_app_held || self.is_held(name.as_str());
            let standing = match (member.state, app.up, app.state) {
                (_, true, _) => AppStanding::Up,
                (MemberState::Left, ..) | (_, _, AppState::Maintenance) => AppStanding::TakenOut,
                (MemberState::Down, ..) => AppStanding::MemberDown,
                (_, _, AppState::Unknown) => AppStanding::Unknown,
                (_, _, AppState::Up | AppState::Down) => AppStanding::CheckFailed,
            };
            let (member, port) = (name, app.port);
            let endpoints = app.publish.iter().map(|&address| Endpoint { member: member.clone(), address, port });
            (name.clone(), Claim { standing, is_held, endpoints: endpoints.collect() })
        });
        claims.collect()
    }

    /// Who holds the application or the member of this name. Who is down may not have changed its mind.
    pub fn holders(&self, name: &str) -> impl Iterator<Item = &NodeName> {
        let tag = ShortDigest::of_held(name);
        let holds = move |member: &Member| member.state != MemberState::Left && member.holding.contains(&tag);
        self.members.iter().filter(move |(_, member)| holds(member)).map(|(name, _)| name)
    }

    fn is_held(&self, name: &str) -> bool {
        // Nearly always nothing is, and nothing is computed.
        self.members.values().any(|member| !member.holding.is_empty()) && self.holders(name).next().is_some()
    }

    /// Every address that any member ever claimed for `app`, sorted.
    pub fn claimed(&self, app: &AppName) -> Vec<IpAddr> {
        self.claimed.get(app).into_iter().flatten().copied().collect()
    }

    /// Takes in what is known now of those that are `stale`, and tells what happened; who is stale and not among the facts
    /// is gone. `own` is this node: its coming and going is no event to it.
    pub fn update<'a>(
        &mut self,
        wall: Wall,
        own: &NodeName,
        stale: &Stale,
        facts: impl Iterator<Item = Fact<'a>>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let before = match stale {
            Stale::These(names) => names.iter().filter_map(|name| self.members.remove_entry(name)).collect(),
            Stale::All => std::mem::take(&mut self.members),
        };
        for fact in facts.filter(|fact| stale.includes(fact.name)) {
            let before = before.get(fact.name);
            let member_event = member_event(wall, own, before, &fact);
            let apps = apps_after(before, &fact);
            for app in fact.record.into_iter().flat_map(|record| &record.apps) {
                self.claimed.entry(app.name.clone()).or_default().extend(&app.publish);
            }
            events.extend(member_event.clone());
            events.extend(app_events(wall, before, &apps, &fact, member_event.as_ref()));
            if before.is_none() {
                self.seen.insert(fact.name.clone());
            }
            let Fact { address, generation, state, record, .. } = fact;
            let (ready, handlers) = (record.is_some_and(|record| record.ready), record.map(|it| it.handlers.clone()));
            let failing = record.map(|record| record.failing.clone()).unwrap_or_default();
            let holding = record.map(|record| record.holding.clone()).unwrap_or_default();
            let member = Member { address, generation, state, apps, ready, handlers, failing, holding };
            self.members.insert(fact.name.clone(), member);
        }
        events
    }
}

fn member_event(wall: Wall, own: &NodeName, before: Option<&Member>, fact: &Fact<'_>) -> Option<Event> {
    let was_active = before.is_some_and(|member| member.state.is_active());
    let kind = match (was_active, fact.state) {
        _ if fact.name == own => return None,
        (false, state) if state.is_active() => EventKind::MemberUp,
        (true, MemberState::Left) => EventKind::MemberLeft,
        (true, MemberState::Down) => EventKind::MemberDown,
        _ => return None,
    };
    let id = format!("{kind}/{}/{}", fact.name, fact.generation);
    Some(Event { id, kind, app: None, member: Some(fact.name.clone()), time: wall })
}

fn apps_after(before: Option<&Member>, fact: &Fact<'_>) -> BTreeMap<AppName, MemberApp> {
    let apps = fact.record.into_iter().flat_map(|record| &record.apps);
    // What was said in an earlier life is no word on this one.
    let is_said_now = fact.record.is_some_and(|record| record.is_of_life(fact.generation));
    apps.map(|app| {
        let was_up = before.and_then(|member| member.apps.get(&app.name)).filter(|before| before.up);
        let is_there = fact.state.is_active();
        let said = if is_said_now || !is_there { app.state } else { AppState::Unknown };
        let after = match (said, was_up) {
            // As it was, at its old address if that has changed: at the new one nothing was ever seen to be up.
            (AppState::Unknown, Some(before)) => {
                MemberApp { state: said, up: is_there, port: before.port, publish: before.publish.clone() }
            }
            (state, _) => {
                let up = state == AppState::Up && is_there;
                MemberApp { state, up, port: app.port, publish: app.publish.clone() }
            }
        };
        (app.name.clone(), after)
    })
    .collect()
}

fn app_events(
    wall: Wall,
    before: Option<&Member>,
    after: &BTreeMap<AppName, MemberApp>,
    fact: &Fact<'_>,
    cause: Option<&Event>,
) -> Vec<Event> {
    let was_up = |name| before.and_then(|member| member.apps.get(name)).is_some_and(|app| app.up);
    let is_up = |name| after.get(name).is_some_and(|app| app.up);
    let before_names = before.into_iter().flat_map(|member| member.apps.keys());
    let names: BTreeSet<&AppName> = before_names.chain(after.keys()).collect();
    let changed = names.into_iter().filter(|name| was_up(*name) != is_up(*name));
    changed
        .map(|name| {
            let kind = if is_up(name) { EventKind::AppUp } else { EventKind::AppDown };
            let id = match (cause, fact.record) {
                // It went or came with its member: the same on every node, like the member's event.
                (Some(cause), _) => format!("{}/{name}", cause.id),
                (None, Some(record)) => {
                    let changed =
                        record.apps.iter().find(|app| app.name == *name).map_or(record.sequence, |app| app.changed);
                    format!("{kind}/{name}/{}/{}/{changed}", fact.name, record.boot)
                }
                (None, None) => format!("{kind}/{name}/{}/{}", fact.name, fact.generation),
            };
            Event { id, kind, app: Some(name.clone()), member: Some(fact.name.clone()), time: wall }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    /// How many members `www` is up on.
    fn up_on(view: &View) -> usize {
        let claims = view.claims(&AppName::new("www").unwrap());
        claims.values().filter(|claim| claim.standing == AppStanding::Up).count()
    }

    /// One step of a history: each member's name, generation, state and record; the kinds and ids of what happened.
    fn step(view: &mut View, facts: &[(&str, u64, MemberState, Option<&Record>)]) -> Vec<String> {
        let names: Vec<_> = facts.iter().map(|fact| name(fact.0)).collect();
        let facts = facts.iter().zip(&names).map(|(&(_, generation, state, record), name)| Fact {
            name,
            address: "127.0.0.1:1".parse().unwrap(),
            generation,
            state,
            record,
        });
        view.update(Wall(0), &name("me"), &Stale::All, facts).into_iter().map(|event| event.id).collect()
    }

    use MemberState::{Alive, Down, Left, Suspect};

    #[test]
    fn a_member_comes_fails_and_returns() {
        let mut view = View::default();
        let up = record("a", 1, 2, AppState::Up);
        assert_eq!(step(&mut view, &[("a", 1, Alive, None)]), ["member-up/a/1"]);
        assert_eq!(step(&mut view, &[("a", 1, Alive, Some(&up))]), ["app-up/www/a/1/2"]);
        assert_eq!(step(&mut view, &[("a", 1, Suspect, Some(&up))]), [""; 0]);
        assert_eq!(step(&mut view, &[("a", 1, Down, Some(&up))]), ["member-down/a/1", "member-down/a/1/www"]);
        assert_eq!(step(&mut view, &[("a", 1, Down, Some(&up))]), [""; 0], "once");
        // It was taken for dead and refuted: the same life, in which it was up.
        assert_eq!(step(&mut view, &[("a", 2, Alive, Some(&up))]), ["member-up/a/2", "member-up/a/2/www"]);
    }

    #[test]
    fn what_a_member_said_in_an_earlier_life_does_not_bring_it_back() {
        let mut view = View::default();
        let (up, later) = (record("a", 1, 2, AppState::Up), record("a", 5000, 2, AppState::Up));
        step(&mut view, &[("a", 1, Alive, Some(&up))]);
        step(&mut view, &[("a", 1, Down, Some(&up))]);
        assert_eq!(step(&mut view, &[("a", 5000, Alive, Some(&up))]), ["member-up/a/5000"]);
        assert_eq!(step(&mut view, &[("a", 5000, Alive, Some(&later))]), ["app-up/www/a/5000/2"]);
    }

    #[test]
    fn a_leave_is_told_apart_from_a_failure() {
        let mut view = View::default();
        let up = record("a", 1, 2, AppState::Up);
        step(&mut view, &[("a", 1, Alive, Some(&up))]);
        assert_eq!(step(&mut view, &[("a", 1, Left, Some(&up))]), ["member-left/a/1", "member-left/a/1/www"]);
        assert_eq!(step(&mut view, &[("a", 1, Down, Some(&up))]), [""; 0], "gone is gone");
    }

    #[test]
    fn this_nodes_own_coming_is_no_event_but_its_applications_are() {
        let mut view = View::default();
        let up = record("me", 1, 2, AppState::Up);
        assert_eq!(step(&mut view, &[("me", 1, Alive, Some(&up))]), ["app-up/www/me/1/2"]);
    }

    #[test]
    fn a_quick_restart_moves_nothing_until_the_owner_knows() {
        let mut view = View::default();
        let (up, fresh) = (record("a", 1, 2, AppState::Up), record("a", 2, 1, AppState::Unknown));
        step(&mut view, &[("a", 1, Alive, Some(&up))]);
        assert_eq!(step(&mut view, &[("a", 2, Alive, Some(&fresh))]), [""; 0]);
        assert_eq!(up_on(&view), 1);
        let down = record("a", 2, 3, AppState::Down);
        assert_eq!(step(&mut view, &[("a", 2, Alive, Some(&down))]), ["app-down/www/a/2/3"]);
    }

    #[test]
    fn only_those_are_looked_at_of_whom_it_may_be_wrong() {
        let (mut view, up) = (View::default(), record("a", 1, 2, AppState::Up));
        step(&mut view, &[("a", 1, Alive, Some(&up)), ("b", 1, Alive, None)]);
        let fact =
            |name, state| Fact { name, address: "127.0.0.1:1".parse().unwrap(), generation: 1, state, record: None };
        let (a, b) = (name("a"), name("b"));
        let events = view.update(
            Wall(0),
            &name("me"),
            &Stale::These([b.clone()].into()),
            [fact(&a, Down), fact(&b, Down)].into_iter(),
        );
        let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["member-down/b/1"]);
        assert_eq!(view.members()[&a].state, Alive);
        view.update(Wall(0), &name("me"), &Stale::These([b].into()), std::iter::empty());
        assert_eq!(view.members().keys().collect::<Vec<_>>(), [&a], "who is forgotten is gone");
    }

    #[test]
    fn unknown_is_not_up_for_a_newcomer() {
        let mut view = View::default();
        let fresh = record("a", 1, 1, AppState::Unknown);
        assert_eq!(step(&mut view, &[("a", 1, Alive, Some(&fresh))]), ["member-up/a/1"]);
        assert_eq!(up_on(&view), 0);
    }

    #[test]
    fn nodes_that_learn_in_another_order_agree_on_ids() {
        let up = record("a", 1, 2, AppState::Up);
        let (mut slow, mut fast) = (View::default(), View::default());
        let all: Vec<_> = [(Alive, None), (Alive, Some(&up)), (Down, Some(&up))]
            .into_iter()
            .flat_map(|(state, record)| step(&mut slow, &[("a", 1, state, record)]))
            .collect();
        let skipped: Vec<_> = [(Alive, Some(&up)), (Down, Some(&up))]
            .into_iter()
            .flat_map(|(state, record)| step(&mut fast, &[("a", 1, state, record)]))
            .collect();
        assert_eq!(all.last(), skipped.last());
        assert_eq!(all[0], skipped[0]);
    }

    #[test]
    fn an_application_no_longer_configured_goes_down() {
        let mut view = View::default();
        let up = record("a", 1, 2, AppState::Up);
        step(&mut view, &[("a", 1, Alive, Some(&up))]);
        let none = Record { sequence: 3, apps: vec![], ..up };
        assert_eq!(step(&mut view, &[("a", 1, Alive, Some(&none))]), ["app-down/www/a/1/3"]);
    }

    #[test]
    fn claims_are_remembered_when_their_member_is_gone_or_moves() {
        let mut view = View::default();
        let first = record("a", 1, 2, AppState::Up);
        let mut moved = record("a", 2, 1, AppState::Up);
        moved.apps[0].publish = vec!["192.0.2.9".parse().unwrap()];
        step(&mut view, &[("a", 1, Alive, Some(&first))]);
        step(&mut view, &[("a", 2, Alive, Some(&moved))]);
        step(&mut view, &[]);
        let www = AppName::new("www").unwrap();
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap()];
        assert_eq!(view.claimed(&www), expected);
        assert_eq!(up_on(&view), 0);
    }
}
