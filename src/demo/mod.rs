//! `picored demo`: a website of three servers on this machine that survives the loss of two of them.
//!
//! [`stage`] sets it up, [`story`] plays it, [`report`] shows it. Everything is on loopback addresses and in a folder
//! for temporary files; nothing needs root, and nothing is left behind. `picored demo dns` and `picored demo web` run
//! the DNS server and a web server alone, for one's own experiments.

pub mod api;
pub mod client;
pub mod dns;
pub mod journal;
pub mod process;
pub mod report;
pub mod scratch;
pub mod stage;
pub mod story;
pub mod web;
pub mod zone;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use report::Timeline;
use stage::{RECORD, Stage};
use zone::Zone;

/// `picored demo`
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    /// Print each step as a JSON object on a line of its own, and nothing else
    #[arg(long)]
    json: bool,
    /// Leave everything running after the last step, and print what to try; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    piece: Option<Piece>,
}

/// A part of the demo that can run alone.
#[derive(Clone, Debug, clap::Subcommand)]
enum Piece {
    /// Run only the DNS server, with its PowerDNS-like API, until Ctrl-C
    Dns(DnsArgs),
    /// Run only a tiny web server, until Ctrl-C
    Web(WebArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct DnsArgs {
    /// Where to answer questions, over UDP and TCP; a loopback address and a port
    #[arg(long, default_value = "127.0.0.1:5300")]
    listen: SocketAddr,
    /// Where to serve the API; a loopback address and a port
    #[arg(long, default_value = "127.0.0.1:8081")]
    api: SocketAddr,
    /// What requests to the API must send as X-API-Key
    #[arg(long)]
    api_key: String,
    /// The zone's name, with the dot at its end
    #[arg(long, default_value = "example.org.")]
    zone: String,
}

#[derive(Clone, Debug, clap::Args)]
struct WebArgs {
    /// Where to listen; a loopback address and a port
    #[arg(long)]
    listen: SocketAddr,
    /// What to answer with
    #[arg(long)]
    name: String,
}

/// Runs the demo, or the part of it that was asked for.
///
/// The exit code is a success only if every step came true; after a signal it is 128 and the signal's number. To be
/// called on the main thread: the processes it starts die with the thread that started them.
///
/// # Errors
/// If it cannot be set up. What goes wrong later is shown as a step that failed.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // From here on no signal ends the program by itself, so that it can always clean up.
    let mut interrupts = Interrupts::new()?;
    match args.piece {
        None => whole(args.json, args.keep, &mut interrupts).await,
        Some(Piece::Dns(args)) => dns_alone(args, &mut interrupts).await,
        Some(Piece::Web(args)) => web_alone(args, &mut interrupts).await,
    }
}

async fn whole(json: bool, keep: bool, interrupts: &mut Interrupts) -> anyhow::Result<ExitCode> {
    let timeline = Timeline::new(json);
    let mut stage = tokio::select! {
        stage = Stage::set_up() => stage?,
        code = interrupts.next() => return Ok(code),
    };
    let result = tokio::select! {
        result = perform(&mut stage, &timeline) => result,
        code = interrupts.next() => {
            timeline.broken_off();
            stage.tear_down().await;
            return Ok(code);
        }
    };
    let result = match result {
        Ok(true) if keep => {
            let kept = tokio::select! {
                kept = keep_on(&stage, &timeline) => kept,
                _ = interrupts.next() => Ok(()),
            };
            kept.map(|()| true)
        }
        result => result,
    };
    stage.tear_down().await;
    Ok(if result? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the story: whether every step came true. If not, shows what the processes said last.
async fn perform(stage: &mut Stage, timeline: &Timeline) -> anyhow::Result<bool> {
    timeline.say(&format!(
        "Three nodes and their web servers on 127.0.0.11 to 127.0.0.13, port {}; a DNS server on {}.\n",
        stage.web_port, stage.dns
    ))?;
    let came_true = story::play(stage, timeline).await?;
    if !came_true {
        let mut out = io::stderr().lock();
        for (process, lines) in stage.journal().borrow().tails() {
            writeln!(out, "\nThe last lines of {process}:")?;
            for line in lines {
                writeln!(out, "  {line}")?;
            }
        }
    }
    Ok(came_true)
}

/// Says what to try, then tells of every change of the record; only an output that is closed ends it.
async fn keep_on(stage: &Stage, timeline: &Timeline) -> anyhow::Result<()> {
    timeline.aside(&what_to_try(stage))?;
    let begin = Instant::now();
    let (mut contents, mut journal) = (stage.contents(), stage.journal());
    contents.mark_unchanged();
    let mut ended = None;
    loop {
        let news = tokio::select! {
            changed = contents.changed() => {
                changed?;
                let addresses = stage.addresses(&contents.borrow_and_update());
                let list: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                format!("{RECORD}: {}", list.join(" "))
            }
            spoke = journal.wait_for(|journal| journal.ended_by_itself() != ended.as_deref()) => {
                ended = spoke?.ended_by_itself().map(str::to_owned);
                format!("{} ended", ended.as_deref().unwrap_or_default())
            }
        };
        timeline.say(&format!("{:>8.1} s  {news}", begin.elapsed().as_secs_f64()))?;
    }
}

fn what_to_try(stage: &Stage) -> String {
    let program = std::env::args_os().next().unwrap_or_else(|| "picored".into());
    let program = program.to_string_lossy();
    let (dns, web_port) = (stage.dns, stage.web_port);
    let socket = stage.socket_path(0);
    let mut text = format!(
        "\nAll of it goes on until Ctrl-C. In another terminal:\n\
         \n  ask DNS           dig @{} -p {} {RECORD} A +short\
         \n  ask a node        {program} members --socket {}",
        dns.ip(),
        dns.port(),
        socket.display()
    );
    for (index, site) in stage.sites.iter().enumerate() {
        let [node, web] = [&site.node, &site.web].map(|process| {
            process.as_ref().map_or_else(|| "-".into(), |process| process.pid().as_raw_pid().to_string())
        });
        let (name, address, config) = (site.name, site.address, stage.config_path(index));
        text += &format!(
            "\n\n  {name}\
             \n    kill the node   kill -9 {node}\
             \n    and restart it  {program} run --config {}\
             \n    stop the site   kill -9 {web}      (or let it hang: kill -STOP {web})\
             \n    and restart it  {program} demo web --listen {address}:{web_port} --name {name}",
            config.display()
        );
    }
    text + "\n"
}

async fn dns_alone(args: DnsArgs, interrupts: &mut Interrupts) -> anyhow::Result<ExitCode> {
    let DnsArgs { listen, api, api_key, zone } = args;
    loopback_only("--listen", listen)?;
    loopback_only("--api", api)?;
    let zone = Arc::new(Zone::new(&zone, listen.ip()).context("--zone")?);
    let server = dns::Server::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    let listener = TcpListener::bind(api).await.with_context(|| format!("--api {api}"))?;
    let (dns, api, origin) = (server.address(), listener.local_addr()?, zone.origin());
    say(&format!("DNS for {origin} on {dns}, its API on http://{api}"))?;
    let mut contents = zone.subscribe();
    let tell = async {
        while contents.changed().await.is_ok() {
            say(&contents.borrow_and_update().to_string())?;
        }
        Ok(())
    };
    tokio::select! {
        result = server.serve(Arc::clone(&zone)) => result.context("the DNS server ended").map(|()| ExitCode::FAILURE),
        result = api::serve(listener, Arc::clone(&zone), &api_key) => {
            result.context("the API ended").map(|()| ExitCode::FAILURE)
        }
        result = tell => result.map(|()| ExitCode::FAILURE),
        _ = interrupts.next() => Ok(ExitCode::SUCCESS),
    }
}

async fn web_alone(args: WebArgs, interrupts: &mut Interrupts) -> anyhow::Result<ExitCode> {
    let WebArgs { listen, name } = args;
    loopback_only("--listen", listen)?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    say(&format!("{name} on http://{}", listener.local_addr()?))?;
    tokio::select! {
        result = web::serve(listener, &name) => result.context("the web server ended").map(|()| ExitCode::FAILURE),
        _ = interrupts.next() => Ok(ExitCode::SUCCESS),
    }
}

/// These servers are made to be looked at, not to stand in a network.
fn loopback_only(option: &str, address: SocketAddr) -> anyhow::Result<()> {
    ensure!(address.ip().is_loopback(), "{option} {address}: only a loopback address is taken, such as 127.0.0.1");
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("the output is closed")
}

/// The signals that ask a program to end. While this lives they end nothing by themselves.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one: the exit code of a program that it ends.
    async fn next(&mut self) -> ExitCode {
        let number = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
        .as_raw_value();
        ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
    }
}
