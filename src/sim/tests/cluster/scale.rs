//! Many machines in one process: what a node costs does not grow with its cluster.

use picored_sim::{Report, Scenario, Simulation, System, Template};

use std::time::Duration;

use crate::setting::{lossy, number, secs};

/// Joins `count` machines, lets them be, and kills one.
fn grown(count: usize) -> (f64, Report) {
    let mut simulation = Simulation::new(1, System::Picored, Template::membership(), count);
    for _ in 0..count {
        simulation.add();
        simulation.run(Duration::from_millis(20));
    }
    simulation.settle(secs(120)).expect("they find each other");
    simulation.run(secs(60));
    let (before, length) = (simulation.report(), secs(60));
    simulation.run(length);
    let after = simulation.report();
    let bytes = (after.packets.bytes - before.packets.bytes) as f64 / length.as_secs_f64() / count as f64;
    simulation.kill(count - 1);
    simulation.run_until(secs(60), Simulation::all_detected).expect("all know");
    (bytes, simulation.report())
}

#[test]
fn a_node_sends_no_more_in_a_large_cluster() {
    let many = number("PICORED_NODES").map_or(120, |nodes| nodes as usize);
    let (few_bytes, _) = grown(many.min(100));
    let (many_bytes, report) = grown(many);
    let second = |share| Report::quantile(&report.detections, share).unwrap().as_secs_f64();
    let figures = format!(
        "{many} nodes: {many_bytes:.0} bytes a node and second ({few_bytes:.0} with 100); a crash is known to the first \
         after {:.1} s, to half after {:.1} s, to all after {:.1} s",
        second(0.0),
        second(0.5),
        second(1.0)
    );
    std::io::Write::write_all(&mut std::io::stderr(), (figures.clone() + "\n").as_bytes()).unwrap();
    assert!(many_bytes <= few_bytes * 1.5, "{figures}");
    assert_eq!(report.false_downs(), 0, "{figures}");
}

#[test]
fn a_hundred_nodes_bear_loss() {
    let scenario = Scenario {
        seed: 1,
        system: System::Picored,
        template: Template::membership(),
        nodes: 100,
        stagger: Duration::from_millis(100),
        conditions: lossy(0.05),
        length: secs(300),
        faults: Vec::new(),
    };
    let (report, simulation) = scenario.run(|_| {}).unwrap();
    assert_eq!((report.false_downs(), report.renewals), (0, 0), "{report:?}");
    assert!(simulation.all_see_each_other());
}
