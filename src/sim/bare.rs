//! Foca as it comes, with its own configuration for a LAN and its own periodic tasks: what picored is measured against.
//!
//! What a program around foca has to bring is here and nothing more: an ordered queue of timers, an identity that renews
//! itself, and a first announce that is repeated until somebody answers. It speaks as a node does ([`Output`]).

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec};
use picored_core::config::Profile;
use picored_core::event::{Event, EventKind};
use picored_core::identity::Identity;
use picored_core::node::{Notice, Output};
use picored_core::time::{Instant, Now, TimerQueue, Wall};
use rand::rngs::StdRng;

/// How often somebody is asked to take this node in, until one does.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

enum Timer {
    Foca(foca::Timer<Identity>),
    Announce,
}

pub(crate) struct Bare {
    foca: Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    timers: TimerQueue<Timer>,
    outputs: VecDeque<Output>,
    seeds: Vec<Identity>,
}

impl Bare {
    /// A node of a cluster that is expected to have `size` members.
    pub(crate) fn new(
        now: Instant,
        identity: Identity,
        profile: Profile,
        size: NonZeroU32,
        seeds: Vec<Identity>,
        rng: StdRng,
    ) -> Self {
        let config = match profile {
            Profile::Wan => foca::Config::new_wan(size),
            // Foca has no others.
            _ => foca::Config::new_lan(size),
        };
        let mut timers = TimerQueue::default();
        timers.push(now, Timer::Announce);
        let seeds = seeds.into_iter().filter(|seed| seed.name != identity.name).collect();
        let (runtime, outputs) = (AccumulatingRuntime::new(), VecDeque::new());
        Self { foca: Foca::new(identity, config, rng, PostcardCodec), runtime, timers, outputs, seeds }
    }

    pub(crate) fn handle_datagram(&mut self, now: Now, data: &[u8]) {
        // What is malformed or meant for an earlier life is dropped, as in any program around foca.
        let _ = self.foca.handle_data(data, &mut self.runtime);
        self.collect(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.at) {
            match timer {
                Timer::Foca(timer) => drop(self.foca.handle_timer(timer, &mut self.runtime)),
                Timer::Announce => {
                    if self.foca.num_members() == 0 {
                        for seed in self.seeds.clone() {
                            let _ = self.foca.announce(seed, &mut self.runtime);
                        }
                        self.timers.push(now.at + ANNOUNCE_AGAIN, Timer::Announce);
                    }
                }
            }
            self.collect(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next_at()
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The names of those that it holds to be there.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Identity> {
        self.foca.iter_members().map(foca::Member::id)
    }

    fn collect(&mut self, now: Now) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push(now.at + after, Timer::Foca(timer));
        }
        while let Some((to, data)) = self.runtime.to_send() {
            self.outputs.push_back(Output::Send { to: to.address, data: data.into() });
        }
        while let Some(notification) = self.runtime.to_notify() {
            let notice = match notification {
                OwnedNotification::MemberUp(member) => event(now.wall, EventKind::MemberUp, &member),
                OwnedNotification::MemberDown(member) => event(now.wall, EventKind::MemberDown, &member),
                OwnedNotification::Rejoin(identity) => Notice::Rejoined { generation: identity.generation },
                _ => continue,
            };
            self.outputs.push_back(Output::Notice(notice));
        }
    }
}

fn event(wall: Wall, kind: EventKind, member: &Identity) -> Notice {
    let id = format!("{kind}/{}/{}", member.name, member.generation);
    Notice::Event(Event { id, kind, app: None, member: Some(member.name.clone()), time: wall })
}
