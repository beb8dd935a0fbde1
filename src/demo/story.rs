//! The demo's plot: what happens to the three sites, in order, and what must come of it.
//!
//! Every step waits for the record to say what it should, under a ceiling far above what it takes. The first that does
//! not come true ends the story.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use hickory_proto::rr::Name;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::client::{Tally, Visit, visit_all_along};
use super::report::{Split, Step, Timeline};
use super::stage::{RECORD, Stage};

/// What a step may take. It takes seconds; a machine under great load takes longer.
const CEILING: Duration = Duration::from_secs(60);
/// How often the running time of a step is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// Plays the story to its end: whether every step came true.
///
/// # Errors
/// If the output is closed.
pub async fn play(stage: &mut Stage, timeline: &Timeline) -> anyhow::Result<bool> {
    let mut visitor = JoinSet::new();
    let tally = watch::Sender::new(Tally::default());
    match acts(stage, timeline, &mut visitor, &tally).await {
        Ok(()) => Ok(true),
        Err(Broken::Step) => Ok(false),
        Err(Broken::Output(error)) => Err(error).context("the output is closed"),
    }
}

/// Why the story was broken off.
enum Broken {
    /// A step did not come true, which the timeline says.
    Step,
    /// Nobody reads it any more.
    Output(std::io::Error),
}

async fn acts(
    stage: &mut Stage,
    timeline: &Timeline,
    visitor: &mut JoinSet<()>,
    tally: &watch::Sender<Tally>,
) -> Result<(), Broken> {
    let begin = SystemTime::now();
    let title = "three nodes started and joined";
    step(timeline, "nodes-joined", title, async {
        for site in 0..stage.sites.len() {
            stage.start_web(site)?;
            stage.start_node(site)?;
        }
        let joined = stage.all_join(begin).await?;
        Ok(Step { seconds: joined.duration_since(begin).unwrap_or_default(), ..Step::default() })
    })
    .await?;

    let all: BTreeSet<IpAddr> = stage.sites.iter().map(|site| site.address.into()).collect();
    let mut writer = String::new();
    step(timeline, "three-addresses", &format!("three addresses in {RECORD}"), async {
        let (changed, run) = stage.record_becomes(begin, &all).await?;
        writer = run.node;
        let seconds = changed.duration_since(begin).unwrap_or_default();
        Ok(Step { seconds, addresses: Some(all.clone()), ..Step::default() })
    })
    .await?;

    // The node that wrote the record is the one to lose: another must take over. The web server stops elsewhere, and is
    // back before that: of three no more than one is taken out within five minutes.
    let lost = stage.sites.iter().position(|site| site.name == writer).unwrap_or_default();
    let stopped = (lost + 1) % stage.sites.len();
    let [lost_name, stopped_name] = [lost, stopped].map(|site| stage.sites[site].name);
    let [lost_address, stopped_address] = [lost, stopped].map(|site| IpAddr::from(stage.sites[site].address));
    let without = |gone: IpAddr| all.iter().copied().filter(|address| *address != gone).collect();

    let name = RECORD.parse::<Name>().expect("the record's name is a name");
    let visit = Visit { dns: stage.dns, name, port: stage.web_port };
    let visits_begin = Instant::now();
    visitor.spawn(visit_all_along(visit, tally.clone()));

    let title = format!("{stopped_name}: web server stopped, its address goes");
    step(timeline, "web-stopped", &title, async {
        let begin = SystemTime::now();
        if let Some(web) = stage.sites[stopped].web.take() {
            web.kill().await;
        }
        record_after(stage, begin, stopped_name, without(stopped_address)).await
    })
    .await?;

    let title = format!("{stopped_name}: web server started, its address is back");
    step(timeline, "web-back", &title, async {
        let begin = SystemTime::now();
        stage.start_web(stopped)?;
        record_after(stage, begin, stopped_name, all.clone()).await
    })
    .await?;

    let title = format!("{lost_name}: SIGKILLed with its web server, its address goes");
    step(timeline, "node-killed", &title, async {
        let begin = SystemTime::now();
        let site = &mut stage.sites[lost];
        for process in [site.node.take(), site.web.take()].into_iter().flatten() {
            process.kill().await;
        }
        record_after(stage, begin, lost_name, without(lost_address)).await
    })
    .await?;

    let title = format!("{lost_name}: node and web server started, its address is back");
    step(timeline, "node-back", &title, async {
        let begin = SystemTime::now();
        stage.start_web(lost)?;
        stage.start_node(lost)?;
        record_after(stage, begin, lost_name, all.clone()).await
    })
    .await?;

    let title = "a visitor asked DNS and fetched a page all along";
    step(timeline, "client", title, async {
        // All is well again, so the visitor must be served again.
        let since = *tally.borrow();
        let served = |now: &Tally| now.requests - now.failures > since.requests - since.failures && !now.is_failing();
        tally.subscribe().wait_for(served).await.context("the visitor went away")?;
        visitor.shutdown().await;
        let seconds = visits_begin.elapsed();
        let visits = Some(tally.borrow().closed(seconds).into());
        Ok(Step { seconds, visits, ..Step::default() })
    })
    .await
}

/// What came of something that was done to `node` at `begin`, once the record says `wanted`.
async fn record_after(
    stage: &Stage,
    begin: SystemTime,
    node: &'static str,
    wanted: BTreeSet<IpAddr>,
) -> anyhow::Result<Step> {
    let (changed, run) = stage.record_becomes(begin, &wanted).await?;
    Ok(Step {
        node: Some(node),
        seconds: changed.duration_since(begin).unwrap_or_default(),
        split: Split::new(begin, &run, changed),
        addresses: Some(wanted),
        ..Step::default()
    })
}

/// Does `work` under the ceiling, shows how it goes and writes how it went.
async fn step(
    timeline: &Timeline,
    name: &'static str,
    title: &str,
    work: impl Future<Output = anyhow::Result<Step>>,
) -> Result<(), Broken> {
    let begin = Instant::now();
    let limited = async {
        match timeout(CEILING, work).await {
            Ok(result) => result,
            Err(_) => bail!("it did not happen within {} s", CEILING.as_secs()),
        }
    };
    tokio::pin!(limited);
    let mut ticks = interval(SHOWN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let result = loop {
        tokio::select! {
            result = &mut limited => break result,
            _ = ticks.tick() => timeline.pending(title, begin.elapsed()).map_err(Broken::Output)?,
        }
    };
    let (step, outcome) = match result {
        Ok(step) => (Step { step: name, ok: true, ..step }, Ok(())),
        Err(error) => {
            let error = Some(format!("{error:#}"));
            (Step { step: name, ok: false, seconds: begin.elapsed(), error, ..Step::default() }, Err(Broken::Step))
        }
    };
    timeline.ended(title, &step).map_err(Broken::Output)?;
    outcome
}
