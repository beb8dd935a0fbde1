//! From TOML to the checked config: every default, range and rule of the sections, each mistake with a remedy.
//!
//! A mistake does not end the reading: each value is read by itself, and a section is put together at the end if all of
//! it is there. Rules between values are held only where those values are sound, so that one mistake is told once.

mod app;
mod app_check;
mod exec_check;
mod handler;
mod secret;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub use self::value::{Spoken, parse_duration};
use self::value::{is_resolvable, not_dialable, parse_path, socket_address};
use super::error::{Findings, Reported, all};
use super::raw::{Table, Text, did_you_mean, document};
use super::{
    Cluster, Config, Drain, GovernorRules, MAX_APPS, MAX_EXPECT, MAX_HANDLERS, MAX_SEEDS, MAX_TEXT_LEN, Node, Profile,
    Seed, TwoNode,
};
use crate::policy::quoted;

/// Longest `flap_hold`: where doubling it ends.
pub const LONGEST_FLAP_HOLD: Duration = Duration::from_secs(600);
/// The gossip port where none is said.
const DEFAULT_PORT: u16 = 7946;
/// The admin socket's path where none is said.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/picored/picored.sock";
/// Longest path of a Unix socket on Linux, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Reads and checks the whole text.
pub(super) fn config(text: &str, findings: &mut Findings) -> Result<Config, Reported> {
    if text.len() > MAX_TEXT_LEN {
        let message = format!("the config has {} bytes, the limit is {MAX_TEXT_LEN}", text.len());
        return Err(findings.report(0..0, message, "is this the right file?"));
    }
    let document = document(text, findings)?;
    let root =
        Table::root(&document, &["node", "cluster", "governor", "app", "handler", "metrics", "secrets"], findings);

    let node_table = section(&root, "node", "[node]", &NODE_KEYS, "name = \"web1\"", findings);
    let cluster_table = section(&root, "cluster", "[cluster]", &CLUSTER_KEYS, "name = \"example\"", findings);
    let node = node_table.as_ref().map_err(|reported| *reported).and_then(|table| node(table, findings));
    let cluster = cluster_table.as_ref().map_err(|reported| *reported).and_then(|table| cluster(table, findings));
    // With an unknown key around, a default may stand where the operator meant to set a value.
    if let (Ok(node_table), Ok(node), Ok(cluster_table), Ok(cluster)) = (&node_table, &node, &cluster_table, &cluster)
        && node_table.all_known()
        && cluster_table.all_known()
    {
        reachability(node_table, node, cluster_table, cluster, findings);
    }

    let handlers = root.tables("handler", "[[handler]]", &handler::KEYS, findings);
    let handler_count = handlers.as_ref().map_or(0, Vec::len);
    let apps = root.tables("app", "[[app]]", &app::KEYS, findings).and_then(|tables| {
        at_most(MAX_APPS, "[[app]]", tables.iter().map(Table::place), findings)?;
        unique("apps", &tables, findings);
        app::apps(&tables, handler_count, findings)
    });
    let secrets = secret::secrets(&root, findings);
    let handlers = handlers.and_then(|tables| {
        at_most(MAX_HANDLERS, "[[handler]]", tables.iter().map(Table::place), findings)?;
        unique("handlers", &tables, findings);
        all(tables.iter().map(|table| handler::handler(table, &secrets, findings)))
    });
    let governor = governor(&root, findings);
    let metrics = metrics(&root, findings);
    Ok(Config {
        node: node?,
        cluster: cluster?,
        apps: apps?,
        handlers: handlers?,
        governor: governor?,
        metrics: metrics?,
        secrets: secrets.sources?,
    })
}

fn governor(root: &Table<'_>, findings: &mut Findings) -> Result<GovernorRules, Reported> {
    let default = GovernorRules::default();
    let keys = ["budget_ratio", "panic_ratio", "flap_hold"];
    let Some(table) = root.table("governor", "[governor]", Some(&keys), findings)? else { return Ok(default) };
    let budget_ratio = value::ratio(&table, "budget_ratio", default.budget_ratio, findings);
    let panic_ratio = value::ratio(&table, "panic_ratio", default.panic_ratio, findings);
    let range = Duration::ZERO..=LONGEST_FLAP_HOLD;
    let flap_hold = value::duration(&table, "flap_hold", default.flap_hold, range, findings);
    Ok(GovernorRules { budget_ratio: budget_ratio?, panic_ratio: panic_ratio?, flap_hold: flap_hold? })
}

/// Where metrics are served over TCP. The section has one key, so it makes no sense without.
fn metrics(root: &Table<'_>, findings: &mut Findings) -> Result<Option<SocketAddr>, Reported> {
    let Some(table) = root.table("metrics", "[metrics]", Some(&["listen"]), findings)? else { return Ok(None) };
    let text = table.required("listen", "\"127.0.0.1:9946\"", findings)?;
    socket_address("listen", &text, findings).map(Some)
}

/// The section at `key`, which has to be there.
fn section<'t>(
    root: &Table<'t>,
    key: &str,
    title: &'static str,
    keys: &[&str],
    example: &str,
    findings: &mut Findings,
) -> Result<Table<'t>, Reported> {
    root.table(key, title, Some(keys), findings)?.ok_or_else(|| {
        findings.report(root.place(), format!("there is no section {title}"), format!("add {title} with {example}"))
    })
}

const NODE_KEYS: [&str; 8] =
    ["name", "bind", "advertise", "state_dir", "admin_socket", "drain_timeout", "drain_wait", "drain_on_term"];

fn node(table: &Table<'_>, findings: &mut Findings) -> Result<Node, Reported> {
    let name = value::name(table, "name", "\"web1\"", findings);
    let bind = match table.text("bind", findings) {
        Ok(Some(text)) => bind(&text, findings),
        Ok(None) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT)),
        Err(reported) => Err(reported),
    };
    let advertise = match table.text("advertise", findings) {
        Ok(Some(text)) => dialable("advertise", &text, findings).map(Some),
        Ok(None) => Ok(None),
        Err(reported) => Err(reported),
    };
    let state_dir = value::path(table, "state_dir", findings);
    let admin_socket = match table.text("admin_socket", findings) {
        Ok(Some(text)) => parse_path("admin_socket", &text, text.get_ref(), MAX_SOCKET_PATH, findings),
        Ok(None) => Ok(PathBuf::from(DEFAULT_ADMIN_SOCKET)),
        Err(reported) => Err(reported),
    };
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let drain_timeout =
        value::duration(table, "drain_timeout", Duration::from_secs(30), Duration::ZERO..=10 * minute, findings);
    let drain_wait = value::duration(table, "drain_wait", minute, Duration::ZERO..=hour, findings);
    let drain_on_term = table.truth("drain_on_term", findings);
    Ok(Node {
        name: name?,
        bind: bind?,
        advertise: advertise?,
        state_dir: state_dir?.unwrap_or_else(|| PathBuf::from("/var/lib/picored")),
        admin_socket: admin_socket?,
        drain: Drain { timeout: drain_timeout?, wait: drain_wait? },
        drain_on_term: drain_on_term?.unwrap_or(false),
    })
}

/// Where to listen: one's own address, or the unspecified one for all of them.
fn bind(text: &Text<'_>, findings: &mut Findings) -> Result<SocketAddr, Reported> {
    let address = socket_address("bind", text, findings)?;
    if !address.ip().is_unspecified()
        && let Some((what, help)) = not_dialable(address.ip())
    {
        return Err(findings.report(text.span(), format!("`bind` is {what}: {}", address.ip()), help));
    }
    if address.port() == 0 && !address.ip().is_loopback() {
        let message = "`bind` has port 0, a random port, which is for loopback addresses only";
        let help = format!("choose a port: \"{}\"", SocketAddr::new(address.ip(), DEFAULT_PORT));
        return Err(findings.report(text.span(), message, help));
    }
    Ok(address)
}

/// An address and port that others dial.
fn dialable(key: &str, text: &Text<'_>, findings: &mut Findings) -> Result<SocketAddr, Reported> {
    let address = socket_address(key, text, findings)?;
    if let Some((what, help)) = not_dialable(address.ip()) {
        return Err(findings.report(text.span(), format!("`{key}` is {what}: {}", address.ip()), help));
    }
    if address.port() == 0 {
        let help = format!("write the port that is listened on: \"{}\"", SocketAddr::new(address.ip(), DEFAULT_PORT));
        return Err(findings.report(text.span(), format!("`{key}` has port 0, which nobody can dial"), help));
    }
    Ok(address)
}

const CLUSTER_KEYS: [&str; 6] = ["name", "seeds", "key_file", "profile", "expect", "two_node"];

fn cluster(table: &Table<'_>, findings: &mut Findings) -> Result<Cluster, Reported> {
    let name = value::name(table, "name", "\"example\"", findings);
    let seeds = table.texts("seeds", findings).map(Option::unwrap_or_default).and_then(|texts| {
        at_most(MAX_SEEDS, "seeds", texts.iter().map(Text::span), findings)?;
        let seeds = all(texts.iter().map(|text| seed(text, findings)))?;
        for (index, seed) in seeds.iter().enumerate() {
            if seeds[..index].contains(seed) {
                let message = format!("`seeds` names \"{}\" twice", quoted(texts[index].get_ref()));
                findings.report(texts[index].span(), message, "leave one of them out");
            }
        }
        Ok(seeds)
    });
    let key_file = value::path(table, "key_file", findings);
    let profile = choice(table, "profile", &Profile::NAMES, findings);
    let most = u32::try_from(MAX_EXPECT).expect("a few thousand");
    let expect = value::count(table, "expect", 1, 1..=most, findings);
    let two_node = choice(table, "two_node", &TwoNode::NAMES, findings);
    Ok(Cluster {
        name: name?,
        seeds: seeds?,
        key_file: key_file?,
        profile: profile?,
        expect: expect? as usize,
        two_node: two_node?,
    })
}

/// The one of `names` that is at `key`, or the default.
fn choice<T: Copy + Default, const N: usize>(
    table: &Table<'_>,
    key: &str,
    names: &[(&str, T); N],
    findings: &mut Findings,
) -> Result<T, Reported> {
    let Some(text) = table.text(key, findings)? else { return Ok(T::default()) };
    let found = names.iter().find(|(name, _)| name == text.get_ref());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let message = format!("there is no `{key}` \"{}\"", quoted(text.get_ref()));
        let names = names.each_ref().map(|(name, _)| *name);
        findings.report(text.span(), message, did_you_mean(text.get_ref(), &names))
    })
}

fn seed(text: &Text<'_>, findings: &mut Findings) -> Result<Seed, Reported> {
    let written = *text.get_ref();
    if written.parse::<SocketAddr>().is_ok() {
        return dialable("seeds", text, findings).map(Seed::Address);
    }
    let mut report = |help: String| {
        let message = format!("`seeds` has no address or name with a port in \"{}\"", quoted(written));
        Err(findings.report(text.span(), message, help))
    };
    if let Ok(address) = written.parse::<IpAddr>() {
        return report(format!("add a port: \"{}\"", SocketAddr::new(address, DEFAULT_PORT)));
    }
    match written.rsplit_once(':') {
        Some((host, port)) if is_resolvable(host) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Seed::Name(host.to_ascii_lowercase(), port)),
            _ => report(format!("the port is 1 to 65535: \"{host}:{DEFAULT_PORT}\"")),
        },
        None if is_resolvable(written) => report(format!("add a port: \"{written}:{DEFAULT_PORT}\"")),
        _ => report("write \"203.0.113.6:7946\", \"[2001:db8::6]:7946\" or \"seeds.example.org:7946\"".into()),
    }
}

/// The rules between where this node listens, what others dial, and whether the gossip is sealed.
fn reachability(
    node_table: &Table<'_>,
    node: &Node,
    cluster_table: &Table<'_>,
    cluster: &Cluster,
    findings: &mut Findings,
) {
    let bind = node.bind.ip();
    let bind_place = node_table.place_of("bind");
    match node.advertise {
        None if bind.is_unspecified() => {
            let message =
                format!("`bind` is {}, every address of this machine: which one shall others dial?", node.bind);
            let help = format!("set advertise = \"203.0.113.5:{}\" with this machine's own address", node.bind.port());
            findings.report(bind_place.clone(), message, help);
        }
        Some(advertise) if advertise.is_ipv4() != bind.is_ipv4() => {
            let family = |v4| if v4 { "IPv4" } else { "IPv6" };
            let (listens, told) = (family(bind.is_ipv4()), family(advertise.is_ipv4()));
            let message = format!("`advertise` is {told}, but `bind` ({}) listens on {listens} alone", node.bind);
            let any = if advertise.is_ipv4() { "0.0.0.0" } else { "[::]" };
            let help = format!("use addresses of one family, such as bind = \"{any}:{}\"", advertise.port());
            findings.report(node_table.place_of("advertise"), message, help);
        }
        _ => {}
    }
    if cluster.key_file.is_some() {
        return;
    }
    let mut open = |place: Range<usize>, what: String| {
        let message = format!("without a key only loopback addresses are taken, {what} is none");
        let help = "make a key with `picored keygen` and set key_file in [cluster], or use 127.0.0.1 or ::1";
        findings.report(place, message, help);
    };
    if !bind.is_loopback() {
        open(bind_place, format!("`bind` ({})", node.bind));
    }
    if let Some(advertise) = node.advertise.filter(|advertise| !advertise.ip().is_loopback()) {
        open(node_table.place_of("advertise"), format!("`advertise` ({advertise})"));
    }
    for seed in &cluster.seeds {
        let (loopback, what) = match seed {
            Seed::Address(address) => (address.ip().is_loopback(), address.to_string()),
            Seed::Name(name, port) => (name == "localhost", format!("{name}:{port}")),
        };
        if !loopback {
            open(cluster_table.place_of("seeds"), format!("the seed {}", quoted(&what)));
        }
    }
}

/// Holds a list to its limit; the mistake stands at the first one too many.
fn at_most(
    limit: usize,
    what: &str,
    mut places: impl ExactSizeIterator<Item = Range<usize>>,
    findings: &mut Findings,
) -> Result<(), Reported> {
    let length = places.len();
    match places.nth(limit) {
        None => Ok(()),
        Some(place) => {
            let message = format!("there are {length} {what}, the limit is {limit}");
            Err(findings.report(place, message, "leave some out"))
        }
    }
}

/// Names that stand twice among `tables`.
fn unique(what: &str, tables: &[Table<'_>], findings: &mut Findings) {
    let mut seen = BTreeMap::new();
    for table in tables {
        let Some(name) = table.get("name").and_then(|value| value.get_ref().as_str()) else { continue };
        if seen.insert(name, ()).is_some() {
            let message = format!("two {what} have the name `{}`", quoted(name));
            findings.report(table.place_of("name"), message, "give each its own name");
        }
    }
}
