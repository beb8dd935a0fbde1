//! `picored init`: a first config from four questions, or from flags that answer them.
//!
//! Everything that is asked has a flag, and everything that can be guessed a default. What is written has passed the same
//! check as `picored check` makes of a text; nothing that is there already is ever overwritten.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use picored_core::config::Config;
use picored_core::name::NodeName;
use picored_core::policy::closed_range;

use crate::log::printable;
use crate::store;

/// Where nodes gossip.
const PORT: u16 = 7946;

/// Write a first config, asking four questions
///
/// Asks for this node's name, its public addresses, where other nodes are, and what to check; what a flag says is not
/// asked. Answers are read from standard input, a line each, so a pipe can give them too; an empty line takes the default.
/// Makes the cluster's key where this is the first node. Never overwrites a file.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored init\n  picored init --yes --publish 203.0.113.5 --seed 203.0.113.6 --check \
                        http://127.0.0.1:8080/health"
)]
pub(super) struct Args {
    /// Where the config goes
    #[arg(long, value_name = "FILE", default_value = "/etc/picored.toml")]
    out: PathBuf,
    /// Where the cluster's key is, or goes if there is none and this is the first node
    #[arg(long, value_name = "FILE", default_value = "/etc/picored/key")]
    key: PathBuf,
    /// The cluster's name, the same on every node
    #[arg(long, value_name = "NAME", default_value = "site")]
    cluster: String,
    /// Ask nothing: take the default of each question that no flag answers
    #[arg(long, short)]
    yes: bool,
    /// This node's name, unique in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A public address of this machine, which visitors use; may come several times [default: those of the default routes, if they are public]
    #[arg(long, value_name = "ADDRESS")]
    publish: Vec<String>,
    /// Another node's address or name, with a port if it is not 7946; may come several times [default: none, which makes
    /// this the first node]
    #[arg(long, value_name = "HOST")]
    seed: Vec<String>,
    /// What tells whether the website works: a URL, or HOST:PORT for a TCP connection [default: http://127.0.0.1:80/]
    #[arg(long, value_name = "CHECK")]
    check: Option<String>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if fs::symlink_metadata(&args.out).is_ok() {
        bail!("{} is there already and stays as it is: name another file with --out", args.out.display());
    }
    let answers = Answers::collect(&args)?;
    let text = answers.config(&args);
    let parsed = Config::parse(&text);
    let parsed = parsed.map_err(|errors| anyhow::anyhow!("these answers make no good config\n{errors}"))?;
    let key = make_key(&args, answers.seeds.is_empty())?;
    write_new(&args.out, &text).with_context(|| format!("cannot write {}", args.out.display()))?;
    let (out, config) = (args.out.display(), shell_word(&args.out));
    let advice = parsed.advice().map(|advice| format!("note: {advice}\n")).unwrap_or_default();
    super::print(&format!(
        "{advice}wrote {out}\n{key}\nnext: picored check --config {config} && picored run --config {config}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for.
struct Answers {
    name: String,
    publish: Vec<IpAddr>,
    seeds: Vec<String>,
    check: String,
}

impl Answers {
    fn collect(args: &Args) -> anyhow::Result<Self> {
        let mut ask = Asker { yes: args.yes, is_terminal: io::stdin().is_terminal() };
        let given = |list: &[String]| (!list.is_empty()).then(|| list.join(" "));
        let name = |text: &str| NodeName::new(text).map(|name| name.to_string()).map_err(|error| error.to_string());
        let default = host_name();
        let name =
            ask.question("--name", "This node's name, unique in the cluster", Some(&default), args.name.clone(), name)?;
        let default = own_addresses();
        let what = "Its public addresses, which visitors use (several with spaces between)";
        let default = Some(default.as_str()).filter(|addresses| !addresses.is_empty());
        let publish = ask.question("--publish", what, default, given(&args.publish), addresses)?;
        let what = "Other nodes, address or name each (none if this is the first)";
        let seeds = ask.question("--seed", what, Some(""), given(&args.seed), |text| {
            Ok(text.split_whitespace().map(with_port).collect())
        })?;
        let what = "What tells whether the website works: a URL, or HOST:PORT";
        let check = ask.question("--check", what, Some("http://127.0.0.1:80/"), args.check.clone(), check)?;
        Ok(Self { name, publish, seeds, check })
    }

    fn config(&self, args: &Args) -> String {
        let Self { name, publish, seeds, check } = self;
        let first = publish[0];
        let any = match first {
            _ if first.is_loopback() => first,
            IpAddr::V4(_) => IpAddr::from([0_u8; 4]),
            IpAddr::V6(_) => IpAddr::from([0_u16; 8]),
        };
        let list = |items: Vec<String>| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
        let publish = list(publish.iter().map(ToString::to_string).collect());
        format!(
            "\
# picored's config on {name}. `picored check --config FILE` says what is wrong with it, where, and what to do.

[node]
# Unique in the cluster.
name = {name_text}
# Gossip, over UDP and TCP: where this node listens, and what the others dial.
bind = \"{bind}\"
advertise = \"{advertise}\"
# state_dir = \"/var/lib/picored\"
# admin_socket = \"{socket}\"

[cluster]
# The same on every node.
name = {cluster}
# Where to look for other nodes; a few are enough.
seeds = [{seeds}]
# The same file on every node. `picored keygen` makes one.
key_file = {key}
# Nobody is taken out without a majority of so many nodes, or of those that were seen or are seeds, if that is more.
# expect = 3
# Between sites: slower to act, more patient. Others: \"lan\" (the default), \"local\", \"fast\".
# profile = \"wan\"

# What is kept up: its addresses stay in the record while the check is good. One section for each application.
# A check can also be a command, {{ exec = [\"/usr/bin/...\"] }}, or `picored beat www` once in {{ ttl = \"30s\" }}.
[[app]]
name = \"www\"
publish = [{publish}]
check = {check}
# interval = \"5s\"
# timeout = \"2s\"
# So many good checks in a row make it up, so many bad ones down.
# rise = 2
# fall = 3

# What acts on it. `picored handler inspect builtin:dns-powerdns` says what this one asks for.
# [[handler]]
# name = \"dns\"
# source = \"builtin:dns-powerdns\"
# apps = [\"www\"]
#
# [handler.config]
# api = \"https://dns.example.org\"
# zone = \"example.org.\"
# record = \"www.example.org.\"
# ttl = 30
#
# What it may call; everything else is refused.
# [[handler.http]]
# allow = \"https://dns.example.org\"
# methods = [\"GET\", \"PATCH\"]
# paths = [\"/api/v1/servers/localhost/zones/example.org.\"]
",
            name_text = quoted(name),
            bind = SocketAddr::new(any, PORT),
            advertise = SocketAddr::new(first, PORT),
            socket = picored_core::config::DEFAULT_ADMIN_SOCKET,
            cluster = quoted(&args.cluster),
            seeds = list(seeds.clone()),
            key = quoted(&args.key.to_string_lossy()),
        )
    }
}

/// Puts the questions.
struct Asker {
    yes: bool,
    is_terminal: bool,
}

impl Asker {
    /// What `flag` gives, or else the answer on standard input, or the default. At a terminal a bad answer is asked for
    /// again; elsewhere it is an error.
    fn question<T>(
        &mut self,
        flag: &str,
        what: &str,
        default: Option<&str>,
        given: Option<String>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        if let Some(given) = given {
            return read(&given).map_err(|why| anyhow::anyhow!("{flag}: {why}"));
        }
        if self.yes {
            let default = default.with_context(|| format!("there is no default for this: give {flag}"))?;
            return read(default).map_err(|why| anyhow::anyhow!("{flag}: {why}"));
        }
        let shown = default.map(|default| format!(" [{}]", if default.is_empty() { "none" } else { default }));
        loop {
            // Standard output is for the result.
            let mut prompt = io::stderr().lock();
            write!(prompt, "{what}{}: ", shown.as_deref().unwrap_or_default()).and_then(|()| prompt.flush())?;
            drop(prompt);
            let mut line = String::new();
            if io::stdin().lock().read_line(&mut line)? == 0 {
                bail!("standard input has ended: answer with {flag}, or take the defaults with --yes");
            }
            if !self.is_terminal {
                // Nobody typed the line's end.
                writeln!(io::stderr())?;
            }
            let answer = if line.trim().is_empty() { default.unwrap_or_default() } else { line.trim() };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(why) if self.is_terminal => writeln!(io::stderr(), "  {}", printable(&why))?,
                Err(why) => bail!("{}", printable(&why)),
            }
        }
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let found: Vec<IpAddr> = text
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|_| format!("`{word}` is no IP address, such as 203.0.113.5 or 2001:db8::5")))
        .collect::<Result<_, _>>()?;
    if found.is_empty() { Err("at least one address is needed".into()) } else { Ok(found) }
}

/// A seed as the config has it.
fn with_port(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, PORT).to_string(),
        Err(_) if host.contains(':') => host.to_owned(),
        Err(_) => format!("{host}:{PORT}"),
    }
}

/// A check as the config has it.
fn check(text: &str) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(format!("{{ http = {} }}", quoted(text)));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(format!("{{ tcp = {} }}", quoted(text)))
        }
        _ => Err(format!("`{text}` is neither a URL, such as http://127.0.0.1:80/, nor HOST:PORT")),
    }
}

/// A text as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// This machine's name, if it can be a node's.
fn host_name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let first = host.split('.').next().unwrap_or_default();
    NodeName::new(first).map_or_else(|_| "web1".into(), |name| name.to_string())
}

/// The public addresses from which this machine would reach others; nothing is sent. Others than public ones are for an
/// operator to give: they would end up in the site's DNS.
fn own_addresses() -> String {
    let own = |bind: &str, public: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(public).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| closed_range(*address).is_none())
    };
    let found = [own("0.0.0.0:0", "192.0.2.1:9"), own("[::]:0", "[2001:db8::1]:9")];
    found.into_iter().flatten().map(|address| address.to_string()).collect::<Vec<_>>().join(" ")
}

/// Makes the cluster's key if this is its first node, and says what to do about it.
fn make_key(args: &Args, is_first: bool) -> anyhow::Result<String> {
    let path = args.key.display();
    if fs::symlink_metadata(&args.key).is_ok() {
        store::read_key(&args.key)?;
        return Ok(format!("the key {path} is there already"));
    }
    if !is_first {
        // One made here would cut this node off from the others, which have theirs.
        return Ok(format!(
            "there is no key {path} yet: copy that of another node to it (mode 0600), or, if there is none on any, make \
             one with `picored keygen --out {path}` and copy it to each"
        ));
    }
    if let Some(folder) = args.key.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    store::create_key_file(&args.key, &store::new_key()).with_context(|| format!("cannot write the key to {path}"))?;
    Ok(format!("made the cluster's key {path}: copy it to every other node, and to nobody else"))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // A handler's section may get secrets.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
        // A config that is cut short is worse than none.
        if fs::remove_file(path).is_err_and(|error| error.kind() != ErrorKind::NotFound) {
            let _ = writeln!(io::stderr(), "{} is left behind", path.display());
        }
    })
}

/// A path as a shell takes it.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_what_the_config_takes() {
        assert_eq!(with_port("203.0.113.6"), "203.0.113.6:7946");
        assert_eq!(with_port("2001:db8::6"), "[2001:db8::6]:7946");
        assert_eq!(with_port("web2.example.org"), "web2.example.org:7946");
        assert_eq!(with_port("[2001:db8::6]:99"), "[2001:db8::6]:99");
        assert_eq!(addresses("203.0.113.5, 2001:db8::5").unwrap().len(), 2);
        assert!(addresses("203.0.113").unwrap_err().contains("`203.0.113` is no IP address"));
        assert!(addresses(" ").is_err());
        assert_eq!(check("127.0.0.1:5432").unwrap(), "{ tcp = \"127.0.0.1:5432\" }");
        assert_eq!(check("http://a/\"").unwrap(), "{ http = \"http://a/\\\"\" }");
        assert!(check("the website").unwrap_err().contains("neither"));
        assert_eq!(quoted("a\"\\\n"), "\"a\\\"\\\\\\u000A\"");
        assert_eq!(shell_word(Path::new("/a b'c")), "'/a b'\\''c'");
    }
}
