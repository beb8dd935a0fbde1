//! What others have published is where a node begins, and ends what knows less.

use super::Input;
use super::net::{Line, Net, What, node_name, seeds, wanted};
use crate::digest::Digest;
use crate::receipt::Receipt;
use crate::versions::Takeover;

#[test]
fn who_restarts_takes_nobody_out_whom_the_others_hold() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 7);
        (3..7).for_each(|slot| net.set_app(slot, false));
        net.run(60_000);
        assert_eq!(net.record.len(), 5, "of seven two may be removed: {:?}", net.record);
        net.trace.clear();
        // Each in its turn, the one first that runs the scope.
        let runner = net.writer.unwrap();
        for slot in [runner].into_iter().chain((0..7).filter(|slot| *slot != runner)) {
            net.kill(slot);
            net.run(500);
            net.start(slot);
            net.set_app(slot, slot < 3);
            net.run(30_000);
        }
        assert!(net.runs().iter().any(|(_, node, _)| *node == runner), "it has taken the scope over again");
        for (at, node, run) in net.runs() {
            let least = if at < 300_000 { 5 } else { 4 };
            assert!(wanted(run).len() >= least, "{node} removes what is held, at {at} ms: {:?}", wanted(run));
        }
    }
}

/// Two that wrote in the same moment had not heard of each other, and which of the sets was written last nobody knows.
#[test]
fn who_hears_that_another_has_published_another_set_looks_again() {
    let look = |epoch_is_later: bool, is_same_set: bool| {
        let mut net = Net::settled(1, 3);
        let runner = net.writer.unwrap();
        let held = net.node(runner).receipts.iter().next().unwrap().clone();
        let epoch = if epoch_is_later { held.epoch + 1 } else { held.epoch - 1 };
        let revision = if is_same_set { held.revision.clone() } else { "0123456789abcdef".into() };
        let foreign = Receipt { node: node_name((runner + 1) % 3), epoch, revision, ..held };
        let now = net.now();
        net.trace.clear();
        net.slots[runner].node.as_mut().unwrap().take_receipts(now.at, vec![foreign]);
        net.run(9_000);
        assert_eq!(net.runs().len(), 0, "a run of the other's may still go on");
        net.run(2_000);
        net.runs().len()
    };
    assert_eq!((look(true, false), look(false, false)), (1, 1));
    assert_eq!((look(true, true), look(false, true)), (0, 0));
}

#[test]
fn a_run_that_knows_less_than_what_was_published_is_fenced() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        let runner = net.writer.unwrap();
        let other = (runner + 1) % 3;
        net.slow.insert(runner);
        net.set_app(other, false);
        net.trace.clear();
        net.run_until("it runs", 30_000, |net| !net.runs().is_empty());
        assert!(net.record.contains(&node_name(other).to_string()), "the slow run has not written yet");
        let late = net.runs().last().unwrap().2.delivery.id.clone();
        // Who has another component than most runs nothing more, and another node takes over.
        net.trace.clear();
        let (handler, version) = (late.handler.clone(), Digest::new([9; 32]));
        net.handle(runner, Input::HandlerReady { handler, version, takeover: Takeover::Upgrade });
        net.run(8000);
        let fenced: Vec<_> = net.trace.iter().filter(|line| matches!(&line.what, What::Fenced(_))).collect();
        assert!(matches!(fenced[..], [Line { node, what: What::Fenced(id), .. }] if *node == runner && *id == late));
        assert_ne!(net.writer, Some(runner));
        net.run(30_000);
        assert_ne!(net.writer, Some(runner), "what it would have written is refused");
        assert_eq!(net.record, net.healthy());
    }
}
