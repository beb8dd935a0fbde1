//! Membership by itself, on a virtual clock: one or two nodes, and what is said to them.

use std::time::Duration;

use foca::{Codec, Message, PostcardCodec};
use rand::SeedableRng;

use super::tempo::{MIN_TRANSMISSIONS, suspicion};
use super::*;

fn identity(name: &str, generation: u64) -> Identity {
    let port = 7000 + name.bytes().map(u16::from).sum::<u16>();
    Identity {
        name: NodeName::new(name).unwrap(),
        generation,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
    }
}

fn is_obituary(mut data: &[u8]) -> bool {
    let header = <PostcardCodec as Codec<Identity>>::decode_header(&mut PostcardCodec, &mut data);
    header.unwrap().message == Message::TurnUndead
}

fn node(name: &str) -> Membership {
    Membership::new(identity(name, 1), Profile::Lan, 1000, StdRng::seed_from_u64(1))
}

fn at(ms: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(ms))
}

fn alive(name: &str, generation: u64) -> (Identity, Standing) {
    (identity(name, generation), Standing { generation, down: false, incarnation: 0, suspect: false })
}

#[test]
fn small_clusters_repeat_every_update() {
    for nodes in [1, 2, 3, 5, 300] {
        let config = config(&tempo(Profile::Lan), nodes, 1000);
        assert!(config.max_transmissions.get() >= MIN_TRANSMISSIONS, "{nodes}");
    }
}

#[test]
fn suspicion_grows_with_the_cluster() {
    let lan = tempo(Profile::Lan);
    let ms = Duration::from_millis;
    assert_eq!(suspicion(&lan, 3), ms(3500));
    assert_eq!(suspicion(&lan, 10), ms(3500));
    assert_eq!(suspicion(&lan, 100), ms(4375));
    assert_eq!(suspicion(&tempo(Profile::Wan), 3), Duration::from_secs(30));
}

#[test]
fn an_announce_makes_both_sides_members() {
    let (mut a, mut b) = (node("a"), node("b"));
    a.announce(at(0), identity("b", 1));
    for round in 0..4 {
        for (to, data) in a.take_sends() {
            assert_eq!(to.name.as_str(), "b");
            b.handle_data(at(round), &data).unwrap();
        }
        for (_, data) in b.take_sends() {
            a.handle_data(at(round), &data).unwrap();
        }
    }
    assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 1)]);
    assert_eq!(b.active().collect::<Vec<_>>(), [&identity("a", 1)]);
    let changes = b.take_changes();
    assert!(changes.members.includes(&identity("a", 1).name) && changes.returned == [identity("a", 1)]);
    assert_eq!(b.take_changes(), Changes::default());
}

#[test]
fn a_silent_member_is_suspected_and_then_down() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1)]);
    let mut suspected = None;
    for ms in (0..12_000).step_by(50) {
        a.handle_timeout(at(ms));
        if suspected.is_none() && a.suspects().count() == 1 {
            suspected = Some(ms);
        }
        if a.active().count() == 0 {
            let suspected = suspected.expect("a suspicion comes first");
            assert!((3500..4000).contains(&(ms - suspected)), "{suspected} {ms}");
            return;
        }
    }
    panic!("never declared down");
}

#[test]
fn a_round_of_gossip_waits_for_something_to_tell() {
    let (mut a, mut b) = (node("a"), node("b"));
    a.announce(at(0), identity("b", 1));
    let mut now = at(0);
    let mut pass = |a: &mut Membership, b: &mut Membership, until: Instant| {
        let (mut wakes, mut gossip) = (0, 0);
        loop {
            for (_, mut data) in a.take_sends().iter().map(|(to, data)| (to, data.as_slice())) {
                b.handle_data(now, data).unwrap();
                let header = <PostcardCodec as Codec<Identity>>::decode_header(&mut PostcardCodec, &mut data);
                gossip += u32::from(header.unwrap().message == Message::Gossip);
            }
            for (_, data) in b.take_sends() {
                a.handle_data(now, &data).unwrap();
            }
            let next = [a.poll_timeout(), b.poll_timeout()].into_iter().flatten().min().unwrap().max(now);
            if next > until {
                return (wakes, gossip);
            }
            now = next;
            wakes += u32::from(a.poll_timeout().is_some_and(|due| due <= now));
            a.handle_timeout(now);
            b.handle_timeout(now);
        }
    };
    pass(&mut a, &mut b, at(30_000));
    assert_eq!(a.active().count(), 1);
    // Told often enough: what is left is one probe a period, with its timers.
    let (wakes, gossip) = pass(&mut a, &mut b, at(40_000));
    assert!(wakes <= 30 && gossip == 0, "{wakes} {gossip}");
    a.apply(at(40_000), vec![alive("c", 1)]);
    let (_, gossip) = pass(&mut a, &mut b, at(40_000) + tempo(Profile::Lan).gossip_period);
    assert!(gossip > 0, "news do not wait longer than a round");
}

#[test]
fn a_suspect_has_more_time_in_a_larger_cluster() {
    let mut a = node("a");
    a.apply(at(0), (0..99).map(|i| alive(&format!("n{i}"), 1)).collect());
    let mut ms = 0;
    while a.suspects().count() == 0 {
        a.handle_timeout(at(ms));
        ms += 50;
    }
    (ms..ms + 7900).step_by(50).for_each(|ms| a.handle_timeout(at(ms)));
    assert_eq!(a.active().count(), 99);
}

#[test]
fn a_process_that_stood_still_gives_no_verdict_at_once() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1), alive("c", 1)]);
    let mut ms = 0;
    while a.suspects().count() == 0 {
        a.handle_timeout(at(ms));
        ms += 50;
    }
    // Ten minutes of sleep; the first thing after it must not be a death sentence.
    let woken = ms + 600_000;
    a.handle_timeout(at(woken));
    assert_eq!(a.active().count(), 2);
    for later in (woken..woken + 15_000).step_by(50) {
        a.handle_timeout(at(later));
    }
    assert_eq!(a.active().count(), 0, "the verdict is postponed, not dropped");
}

#[test]
fn who_comes_late_itself_waits_longer_for_others() {
    // How long `b` may refute where each timer is served so much too late.
    let patience = |late: u64| {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        let (mut suspected, mut now) = (None, at(0));
        while a.active().count() == 1 {
            now = a.poll_timeout().unwrap().max(now) + Duration::from_millis(late);
            a.handle_timeout(now);
            suspected = suspected.or_else(|| a.suspects().next().map(|_| now));
        }
        now.since(suspected.unwrap())
    };
    assert!(patience(0) < Duration::from_secs(5));
    assert!(patience(300) >= Duration::from_secs(8), "{:?}", patience(300));
}

#[test]
fn those_that_are_asked_late_to_reach_a_member_get_their_time() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1), alive("c", 1)]);
    let begins = a.poll_timeout().unwrap().max(at(1000));
    a.handle_timeout(begins);
    let Tempo { probe_period: period, probe_rtt, .. } = tempo(Profile::Lan);
    // This node stands still while the one it probes should have answered, and while others should have been asked.
    let woken = begins + period + Duration::from_millis(200);
    a.handle_timeout(woken);
    assert_eq!(a.suspects().count(), 0, "nobody could answer in no time");
    a.handle_timeout(woken + (period - probe_rtt));
    assert_eq!(a.suspects().count(), 1);
}

#[test]
fn no_obituary_goes_to_a_member_that_refuted() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1)]);
    let mut ms = 0;
    while a.suspects().count() == 0 {
        a.handle_timeout(at(ms));
        ms += 50;
    }
    let (_, mut refuted) = alive("b", 1);
    refuted.incarnation = 1;
    a.apply(at(ms), vec![(identity("b", 1), refuted)]);
    assert_eq!(a.suspects().count(), 0);
    a.take_sends();
    // The old suspicion's timer fires; nothing may tell b that it is dead while a holds it alive.
    let deadline = ms + 4_100;
    let mut obituaries = 0;
    while ms < deadline {
        a.handle_timeout(at(ms));
        obituaries += a.take_sends().iter().filter(|(_, data)| is_obituary(data)).count();
        ms += 50;
    }
    assert_eq!(obituaries, 0);
}

#[test]
fn a_suspected_node_refutes() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1)]);
    a.take_sends();
    a.refute(at(1), &identity("a", 1), 0, &identity("b", 1).name);
    assert!(!a.take_sends().is_empty(), "the refutal is spread at once");
    a.refute(at(2), &identity("a", 9), 0, &identity("b", 1).name);
    assert!(a.take_sends().is_empty(), "another life is not this one's to refute");
}

#[test]
fn a_refutal_goes_straight_to_whoever_asked_for_it() {
    let names = ["b", "c", "d", "e", "f", "g", "h"];
    for asker in names {
        let mut a = node("a");
        a.apply(at(0), names.map(|name| alive(name, 1)).into());
        a.take_sends();
        a.refute(at(1), &identity("a", 1), 0, &identity(asker, 1).name);
        let answers: Vec<_> = a.take_sends().into_iter().filter(|(to, _)| to.name.as_str() == asker).collect();
        let [(_, data)] = &answers[..] else { panic!("one answer: {answers:?}") };
        let mut b = node(asker);
        b.apply(at(0), vec![alive("a", 1)]);
        b.apply(at(0), vec![(identity("a", 1), Standing { suspect: true, ..own_standing(&identity("a", 1)) })]);
        assert_eq!(b.suspects().count(), 1);
        b.handle_data(at(2), data).unwrap();
        assert_eq!(b.suspects().count(), 0);
    }
}

#[test]
fn a_restart_is_a_new_life_of_the_same_member() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1)]);
    a.take_changes();
    a.apply(at(1), vec![alive("b", 2)]);
    assert_eq!(a.take_changes().returned, [identity("b", 2)]);
    assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 2)]);
    a.apply(at(2), vec![alive("b", 1)]);
    assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 2)], "the earlier life is over");
}

#[test]
fn nodes_that_heard_of_a_death_in_different_ways_hold_the_same() {
    let standings = [0, 7].map(|incarnation| {
        let mut a = node("a");
        let dead = Standing { generation: 1, down: true, incarnation, suspect: false };
        a.apply(at(0), vec![alive("b", 1)]);
        a.apply(at(1), vec![(identity("b", 1), dead)]);
        a.members().map(|(_, standing)| standing).collect::<Vec<_>>()
    });
    assert_eq!(standings[0], standings[1]);
}

#[test]
fn an_earlier_life_of_this_node_is_no_member() {
    let mut a = Membership::new(identity("a", 5), Profile::Lan, 1000, StdRng::seed_from_u64(1));
    a.apply(at(0), vec![alive("b", 1), alive("a", 4)]);
    assert_eq!(a.members().map(|(identity, _)| identity.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_node_taken_for_dead_takes_a_new_identity() {
    let mut a = node("a");
    a.apply(at(0), vec![alive("b", 1)]);
    a.take_changes();
    let (own, mut standing) = (identity("a", 1), own_standing(&identity("a", 1)));
    standing.down = true;
    a.apply(at(1), vec![(own, standing)]);
    assert!(a.take_changes().rejoined);
    assert_eq!(a.identity().generation, 2);
}
