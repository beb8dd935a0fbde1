//! What the machines of a simulation are configured as: one config for all, as on a real site.
//!
//! What has to differ from machine to machine (name, address, published addresses) is made up from the machine's number.
//! Seeds are the first machines.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use picored_core::config::{
    App, Check, Config, GovernorRules, Handler, Pattern, Profile, RunOn, Seed, Source, TcpCheck, TwoNode,
};
use picored_core::envelope::ClusterKey;
use picored_core::event::EventKind;
use picored_core::name::{AppName, ClusterName, HandlerName, NodeName};

use crate::provider::RUN_TIMEOUT;

/// What all machines have in common.
#[derive(Clone, Debug)]
pub struct Template {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its key.
    pub key: ClusterKey,
    /// The gossip's tempo.
    pub profile: Profile,
    /// Of so many members the cluster consists at least.
    pub expect: usize,
    /// What the survivor of two does.
    pub two_node: TwoNode,
    /// How careful removals are.
    pub governor: GovernorRules,
    /// The applications; what they publish is replaced on each machine.
    pub apps: Vec<App>,
    /// The handlers; a run of one ends well and writes what it saw.
    pub handlers: Vec<Handler>,
    /// So many of the first machines are seeds.
    pub seeds: usize,
}

/// The name of a machine, from 0: `web1` is the first.
pub fn node_name(machine: usize) -> NodeName {
    NodeName::new(&format!("web{}", machine + 1)).expect("letters and digits")
}

/// Where a machine gossips that has moved so often.
pub(crate) fn address(machine: usize, moves: u8) -> SocketAddr {
    SocketAddr::from(([10, moves, (machine / 250) as u8, (machine % 250) as u8 + 1], 7946))
}

/// An address for the public, of the range for measurements between networks (RFC 2544).
fn published(machine: usize, index: usize) -> IpAddr {
    let number = machine * 8 + index % 8;
    IpAddr::from([198, 18 + (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

impl Template {
    /// A website: one application, one handler that keeps its record.
    pub fn website() -> Self {
        let name = |text| AppName::new(text).expect("a name");
        let app = App {
            name: name("www"),
            publish: vec![published(0, 0)],
            check: Check::Tcp(TcpCheck { host: "127.0.0.1".into(), port: 80 }),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        };
        let handler = Handler {
            name: HandlerName::new("dns").expect("a name"),
            source: Source::Builtin("dns-powerdns".into()),
            on: EventKind::ALL.to_vec(),
            apps: vec![Pattern::new("www")],
            run_on: RunOn::One,
            watch: false,
            reconcile_every: Duration::from_secs(300),
            timeout: RUN_TIMEOUT,
            config: BTreeMap::new(),
            http: Vec::new(),
        };
        Self {
            cluster: ClusterName::new("simulated").expect("a name"),
            key: ClusterKey::new([7; 32]),
            profile: Profile::Lan,
            expect: 1,
            two_node: TwoNode::Hold,
            governor: GovernorRules::default(),
            apps: vec![app],
            handlers: vec![handler],
            seeds: 2,
        }
    }

    /// A machine without applications and handlers: membership alone.
    pub fn membership() -> Self {
        Self { apps: Vec::new(), handlers: Vec::new(), ..Self::website() }
    }

    /// What a config says, as far as it matters here: profile, applications and handlers.
    pub fn of(config: &Config) -> Self {
        Self {
            cluster: config.cluster.name.clone(),
            profile: config.cluster.profile,
            expect: config.cluster.expect,
            two_node: config.cluster.two_node,
            governor: config.governor,
            apps: config.apps.clone(),
            handlers: config.handlers.clone(),
            ..Self::website()
        }
    }

    pub(crate) fn apps_of(&self, machine: usize) -> Vec<App> {
        let own = |app: &App| {
            let publish = (0..app.publish.len()).map(|index| published(machine, index)).collect();
            App { publish, ..app.clone() }
        };
        self.apps.iter().map(own).collect()
    }

    pub(crate) fn seeds(&self) -> Vec<Seed> {
        (0..self.seeds).map(|machine| Seed::Address(address(machine, 0))).collect()
    }
}
