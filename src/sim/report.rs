//! What a simulation came to, in figures.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::network::Packets;

/// The figures of one simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The seed: with it and the same settings, every figure is the same again.
    pub seed: u64,
    /// How many machines there were.
    pub nodes: usize,
    /// How long they were up, all together.
    pub node_time: Duration,
    /// How often which node called which other down that was up and could be reached, or had been away for no longer
    /// than three seconds. Machines are numbered from 0.
    pub false_downs_of: BTreeMap<(usize, usize), u64>,
    /// How often a node was told that it is dead while it lived, and took a new generation.
    pub renewals: u64,
    /// From a crash until one other node called it down: one figure for each crash and each node, ascending.
    pub detections: Vec<Duration>,
    /// From a crash until the last of the others called it down: one figure for each crash, ascending.
    pub detected_by_all: Vec<Duration>,
    /// How many verdicts on a crash are outstanding.
    pub undetected: u64,
    /// From the end of a cut until all that run hold each other to be up: one figure for each, ascending.
    pub heals: Vec<Duration>,
    /// After how many cuts this is not so.
    pub unhealed: u64,
    /// From an owner's verdict on its application until all others know: one figure for each change, ascending.
    pub app_changes: Vec<Duration>,
    /// How many changes were not known to all when the next came, or at the end.
    pub unknown_app_changes: u64,
    /// How often a run of a handler saw a wanted set without a node that was up with its application up, where the rules
    /// of failover do not allow it: its absence is explained by a cut or a crash of more than three seconds that ended
    /// less than a minute ago, and the node that runs the handler reaches more than half of the cluster.
    pub wrong_removals: u64,
    /// How often the record of an application was empty that had not been.
    pub empty_records: u64,
    /// How many deliveries ended more than once in one life of a node.
    pub double_outcomes: u64,
    /// How many runs of handlers there were.
    pub runs: u64,
    /// How often the provider changed a record.
    pub writes: u64,
    /// The longest time in which a machine that was down, or stood still, was in a record.
    pub dead_published: Duration,
    /// The datagrams.
    pub packets: Packets,
}

impl Report {
    /// How often a node called another down that was up.
    pub fn false_downs(&self) -> u64 {
        self.false_downs_of.values().sum()
    }

    /// Bytes of UDP payload that a node sent, a second.
    pub fn bytes_per_node_second(&self) -> f64 {
        self.packets.bytes as f64 / self.node_time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The figure that the given share of all, from 0 to 1, does not exceed; none if there are none.
    pub fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1).min(sorted.len().checked_sub(1)?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        let second = |share| Report::quantile(&sorted, share).unwrap().as_secs();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(second), [1, 50, 99, 100]);
        assert_eq!(Report::quantile(&sorted[..1], 0.5), Some(Duration::from_secs(1)));
        assert_eq!(Report::quantile(&[], 0.5), None);
    }
}
