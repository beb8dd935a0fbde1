//! What is owed survives the daemon's death at any moment: retries, dead letters, and what handlers keep.
//!
//! `PICORED_KILLS` makes it long, `PICORED_SEED` kills at other moments.

use std::collections::BTreeMap;
use std::time::Duration;

use picored::admin::HandlerRun;
use picored::admin::client::{self, ClientError};
use picored_core::event::EventKind;
use picored_core::ledger::DEAD_LETTERS;
use picored_core::name::{AppName, HandlerName};
use picored_core::status::DeliveryStatus;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::site::{Setup, Site, fixture};
use crate::wait::found;
use crate::website::{Answer, Website};

const APPS: [&str; 3] = ["a0", "a1", "a2"];
const APP: &str = "interval = \"100ms\"\nrise = 1";
/// Events that do not come: the handlers run when they are told to.
const QUIET: &str = "on = [\"member-left\"]";
/// A node lives no longer than this after it joined, or, in each fourth life, after it was asked for the first time.
const LIFE: Duration = Duration::from_millis(400);

/// What was promised by answers that came before a kill.
#[derive(Default)]
struct Promised {
    /// The last run that `state` said it had counted.
    runs: u64,
    /// The newest retry of each application, and whether a newer one may be under way that nobody has heard of.
    retries: BTreeMap<&'static str, (u64, bool)>,
    /// What was given up, in order.
    dead: Vec<u64>,
}

impl Promised {
    /// What a node says that it owes, against what was promised.
    fn check(&self, pending: &[DeliveryStatus], dead: &[DeliveryStatus]) {
        for (app, (number, is_open)) in &self.retries {
            let waits: Vec<_> = pending.iter().filter(|it| it.handler == "later" && it.scope == *app).collect();
            let [kept] = waits[..] else { panic!("retry {number} of {app} is lost: {pending:?}") };
            let found = number_of(&kept.delivery);
            assert!(found == *number || (*is_open && found > *number), "{app}: {number} was promised: {kept:?}");
            assert!(kept.state == "waiting" && kept.last.as_ref().unwrap().text.starts_with("as told"), "{kept:?}");
        }
        let kept: Vec<_> = dead.iter().map(|it| number_of(&it.delivery)).collect();
        // With as many as there may be, the oldest have gone.
        let oldest = if kept.len() < DEAD_LETTERS { 0 } else { kept[0] };
        for number in self.dead.iter().filter(|number| **number >= oldest) {
            assert!(kept.contains(number), "dead letter {number} is lost: {kept:?}");
        }
        assert!(kept.len() <= DEAD_LETTERS && kept.is_sorted(), "{kept:?}");
    }
}

fn number_of(delivery: &str) -> u64 {
    delivery.rsplit_once('/').unwrap().1.parse().unwrap()
}

/// Runs a handler as soon as the node is ready to.
async fn run(setup: &Setup, handler: &str, app: &str) -> Option<HandlerRun> {
    let (handler, app) = (HandlerName::new(handler).unwrap(), AppName::new(app).unwrap());
    let ask = async || match client::run(&setup.socket, &handler, EventKind::Reconcile, Some(&app), false).await {
        Ok(ran) => Some(Some(ran)),
        Err(ClientError::Refused { status: 404 | 409, .. }) => None,
        // It was killed meanwhile.
        Err(_) => Some(None),
    };
    found(ask).await
}

/// Keeps all handlers busy until the node is gone.
async fn work(setup: &Setup, promised: &mut Promised) {
    let Promised { runs, retries, dead } = promised;
    let count = async {
        while let Some(ran) = run(setup, "state", "a0").await {
            assert_eq!(ran.outcome.as_deref(), Some("done"), "{ran:?}");
            let now = ran.text.strip_prefix("run ").unwrap().parse().unwrap();
            assert!(now > *runs, "run {runs} was promised: {ran:?}");
            *runs = now;
        }
    };
    let retry = async {
        for app in APPS.iter().cycle() {
            if let Some((_, is_open)) = retries.get_mut(app) {
                *is_open = true;
            }
            let Some(ran) = run(setup, "later", app).await else { break };
            assert_eq!(ran.outcome.as_deref(), Some("retry"), "{ran:?}");
            retries.insert(app, (number_of(&ran.delivery.unwrap()), false));
        }
    };
    let give_up = async {
        while let Some(ran) = run(setup, "never", "a1").await {
            assert_eq!(ran.outcome.as_deref(), Some("permanent"), "{ran:?}");
            dead.push(number_of(&ran.delivery.unwrap()));
        }
    };
    tokio::join!(count, retry, give_up);
}

#[tokio::test]
async fn what_is_owed_survives_a_kill_at_any_moment() {
    let kills = std::env::var("PICORED_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let mut dice = std::env::var("PICORED_SEED").map_or(1_u64, |seed| seed.parse().unwrap());
    let (site, website) = (Site::new(), Website::start(|_| Answer::Good).await);
    let mut setup = site.setup("n1", "127.0.0.1:0");
    for app in APPS {
        setup = setup.app_called(app, &website, "192.0.2.1", APP);
    }
    let config = |values: &str| format!("{QUIET}\n[handler.config]\n{values}");
    setup = setup
        .handler("state", &fixture("state"), QUIET)
        .handler("later", &fixture("fail"), &config("failure = \"retry-after\"\nmilliseconds = \"3600000\""))
        .handler("never", &fixture("fail"), &config("failure = \"permanent\""));
    let mut promised = Promised::default();
    for number in 0..kills {
        let node = site.start(&setup);
        let ask = async || client::deliveries(&setup.socket).await.ok();
        let owed = site.until(&format!("life {number} shows its deliveries"), found(ask)).await;
        promised.check(&owed.pending, &owed.dead);
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let life = LIFE.mul_f64((dice >> 33) as f64 / f64::from(1_u32 << 31));
        // The first life promises something, so that there is something to lose.
        let kill = async {
            if number % 4 != 3 {
                node.joined().await;
            }
            if number == 0 {
                node.shows_handler("never", "dead letters", |shown| shown.dead > 2).await;
            }
            let _ = timeout(life, std::future::pending::<()>()).await;
            node.signal(Signal::KILL);
        };
        tokio::join!(work(&setup, &mut promised), kill);
        node.end().await;
    }
    println!(
        "{kills} kills: {} runs counted, {} retries, {} given up",
        promised.runs,
        promised.retries.len(),
        promised.dead.len()
    );
    assert!(promised.runs > 0 && promised.retries.len() == APPS.len() && promised.dead.len() > 2);

    let node = site.start(&setup);
    let dead = site.until("the last life", found(async || client::deliveries(&setup.socket).await.ok())).await.dead;
    let newest = dead.last().unwrap().delivery.as_str();
    // As long as it does not know how its own applications are, it refuses.
    let ready = async || {
        let (_, out, error) = node.told(&["redeliver", newest]).await;
        (!error.contains("it runs no handler now")).then_some((out, error))
    };
    let said = site.until("it is delivered again", found(ready)).await;
    assert_eq!(said, (format!("{newest} is in line again for a1\n"), String::new()));
}
