//! What this node counts, in Prometheus' text format: for `GET /metrics` on the admin socket, and on the address of
//! `[metrics]` if there is one.
//!
//! What the node knows is taken from the status that the driver publishes; only times are collected here, by the driver
//! and the handler host. Names are a promise to whoever has a dashboard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use picored_core::status::Status;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::memory::{self, Memory};

/// The path under which it is asked for.
pub const PATH: &str = "/metrics";
/// What the text is.
pub const CONTENT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// Bounds of the buckets for the times of runs and checks, in seconds.
const SECONDS: [f64; 9] = [0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Rest after the system could not give us a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The states of a member, and of an application: each has its line, also if it is 0.
const MEMBER_STATES: [&str; 5] = ["alive", "degraded", "suspect", "down", "left"];
const APP_STATES: [&str; 4] = ["up", "down", "unknown", "maintenance"];

/// The times that are collected. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    collected: Arc<Collected>,
}

#[derive(Debug)]
struct Collected {
    runs: HistogramVec,
    waits: HistogramVec,
    checks: HistogramVec,
    http_errors: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = |name, help, label| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            HistogramVec::new(options, &[label]).expect("the names are sound")
        };
        let errors = Opts::new(
            "picored_handler_http_errors_total",
            "Requests of a handler that got no response, by kind; denied: not granted",
        );
        Self {
            collected: Arc::new(Collected {
                runs: histogram("picored_handler_run_seconds", "How long a handler's runs took", "handler"),
                waits: histogram(
                    "picored_delivery_wait_seconds",
                    "How long a handler's deliveries waited from when they were due until they began",
                    "handler",
                ),
                checks: histogram("picored_check_seconds", "How long an application's checks took", "app"),
                http_errors: IntCounterVec::new(errors, &["handler", "kind"]).expect("the names are sound"),
            }),
        }
    }
}

impl Metrics {
    /// A handler's run began, after its delivery had been due for the time `wait`.
    pub fn run_began(&self, handler: &str, wait: Duration) {
        self.collected.waits.with_label_values(&[handler]).observe(wait.as_secs_f64());
    }

    /// A handler's run has ended.
    pub fn run_ended(&self, handler: &str, took: Duration) {
        self.collected.runs.with_label_values(&[handler]).observe(took.as_secs_f64());
    }

    /// An application's check has ended.
    pub fn checked(&self, app: &str, took: Duration) {
        self.collected.checks.with_label_values(&[app]).observe(took.as_secs_f64());
    }

    /// The part of one handler.
    pub fn of_handler(&self, handler: &str) -> HandlerMetrics {
        HandlerMetrics { handler: handler.into(), metrics: self.clone() }
    }

    /// All of it, as text.
    pub fn text(&self, status: &Status) -> Vec<u8> {
        let registry = Registry::new();
        let Collected { runs, waits, checks, http_errors } = &*self.collected;
        let collectors: [Box<dyn Collector>; 4] =
            [Box::new(runs.clone()), Box::new(waits.clone()), Box::new(checks.clone()), Box::new(http_errors.clone())];
        let add = |collector| registry.register(collector).expect("no name is there twice");
        collectors.into_iter().for_each(add);
        of_status(status).into_iter().chain(of_process()).for_each(add);
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("memory can be written to");
        text
    }
}

/// What is collected of one handler.
#[derive(Clone, Debug)]
pub struct HandlerMetrics {
    handler: Arc<str>,
    metrics: Metrics,
}

impl HandlerMetrics {
    /// A request got no response; `kind` as in `wit/handler.wit`.
    pub fn http_error(&self, kind: &str) {
        self.metrics.collected.http_errors.with_label_values(&[&*self.handler, kind]).inc();
    }
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect("the names are sound")
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("the names are sound")
}

/// What the node knows.
fn of_status(status: &Status) -> Vec<Box<dyn Collector>> {
    let joined = gauge("picored_joined", "Whether this node has found its cluster", &[]);
    joined.with_label_values::<&str>(&[]).set((status.state == "joined").into());
    let quorum = gauge("picored_quorum", "Whether this node sees a majority of its cluster", &[]);
    quorum.with_label_values::<&str>(&[]).set(status.quorum.into());
    let held =
        gauge("picored_held", "Members in or out of an application's set against how they look", &["app", "reason"]);
    for hold in &status.holds {
        held.with_label_values(&[&hold.app, &hold.reason]).inc();
    }
    let members = gauge("picored_members", "Known members, this node among them, by state", &["state"]);
    for state in MEMBER_STATES {
        let count = status.members.iter().filter(|member| member.state == state).count();
        members.with_label_values(&[state]).set(count.try_into().unwrap_or(i64::MAX));
    }
    let own = gauge("picored_app_state", "Whether an application of this node is in a state", &["app", "state"]);
    for app in status.members.iter().filter(|member| member.name == status.node).flat_map(|member| &member.apps) {
        for state in APP_STATES {
            own.with_label_values(&[app.name.as_str(), state]).set((app.state == state).into());
        }
    }
    let apps = gauge("picored_apps", "Instances of an application on live members, by state", &["app", "state"]);
    let alive = status.members.iter().filter(|member| matches!(member.state.as_str(), "alive" | "suspect"));
    for app in alive.flat_map(|member| &member.apps) {
        apps.with_label_values(&[&app.name, &app.state]).inc();
    }
    let ready = gauge("picored_handler_ready", "Whether a handler can be run", &["handler"]);
    let pending = gauge("picored_deliveries_pending", "A handler's deliveries that wait or run", &["handler"]);
    let dead = gauge("picored_deliveries_dead", "A handler's deliveries that were given up and are kept", &["handler"]);
    let outcomes = counter("picored_deliveries_total", "A handler's deliveries by outcome", &["handler", "outcome"]);
    for handler in &status.handlers {
        let name = handler.name.as_str();
        ready.with_label_values(&[name]).set((handler.state == "ready").into());
        pending.with_label_values(&[name]).set(handler.pending.try_into().unwrap_or(i64::MAX));
        dead.with_label_values(&[name]).set(handler.dead.try_into().unwrap_or(i64::MAX));
        for (outcome, count) in &handler.outcomes {
            outcomes.with_label_values(&[name, outcome.as_str()]).inc_by(*count);
        }
    }
    let datagrams = counter("picored_datagrams_total", "Gossip datagrams by fate", &["fate"]);
    for (fate, count) in &status.datagrams {
        datagrams.with_label_values(&[fate]).inc_by(*count);
    }
    vec![
        Box::new(joined),
        Box::new(quorum),
        Box::new(held),
        Box::new(members),
        Box::new(own),
        Box::new(apps),
        Box::new(ready),
        Box::new(pending),
        Box::new(dead),
        Box::new(outcomes),
        Box::new(datagrams),
    ]
}

/// This process and this build.
fn of_process() -> Vec<Box<dyn Collector>> {
    let build = gauge("picored_build_info", "1; the version is in the label", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let mut all: Vec<Box<dyn Collector>> = vec![Box::new(build)];
    let Memory { resident_bytes, anonymous_bytes } = memory::current();
    for (name, help, bytes) in [
        ("process_resident_memory_bytes", "Memory in RAM, mapped files among it", resident_bytes),
        ("picored_anonymous_memory_bytes", "Memory that no file stands behind", anonymous_bytes),
    ] {
        if let Some(bytes) = bytes {
            let gauge = gauge(name, help, &[]);
            gauge.with_label_values::<&str>(&[]).set(bytes.try_into().unwrap_or(i64::MAX));
            all.push(Box::new(gauge));
        }
    }
    all
}

/// Answers at a TCP address until dropped. There is no password: who can reach it can read it.
pub async fn serve(listener: TcpListener, metrics: Metrics, status: watch::Receiver<Arc<Status>>) {
    let respond = move |request: Request<_>| {
        let response = respond(&request, &metrics, &status);
        async { response }
    };
    loop {
        if let Err(error) = crate::http::serve(&listener, respond.clone()).await {
            tracing::warn!(%error, "the metrics address cannot take a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn respond<B>(
    request: &Request<B>,
    metrics: &Metrics,
    status: &watch::Receiver<Arc<Status>>,
) -> Response<Full<bytes::Bytes>> {
    let plain = |code, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = code;
        response
    };
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "there is /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let status = Arc::clone(&status.borrow());
    let mut response = Response::new(Full::from(metrics.text(&status)));
    response.headers_mut().insert(CONTENT_TYPE, CONTENT);
    response
}

/// Listens at the address of `[metrics]`.
///
/// # Errors
/// If the system refuses; the error names the key.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on metrics.listen {address}: {error}: choose another port"))
}

#[cfg(test)]
mod tests {
    use picored_core::status::{AppStatus, HandlerStatus, HoldStatus, MemberStatus};

    use super::*;

    fn status() -> Status {
        let app = |state: &str| AppStatus { name: "www".into(), state: state.into(), publish: vec![] };
        let member = |name: &str, state: &str, app_state: &str| MemberStatus {
            name: name.into(),
            address: "127.0.0.1:1".into(),
            state: state.into(),
            generation: 1,
            apps: vec![app(app_state)],
            evidence: None,
        };
        Status {
            node: "a".into(),
            cluster: "c".into(),
            state: "joined".into(),
            members: vec![member("a", "alive", "up"), member("b", "suspect", "down"), member("c", "down", "up")],
            handlers: vec![HandlerStatus {
                name: "d\"ns".into(),
                state: "ready".into(),
                outcomes: [("done".into(), 7), ("retry".into(), 2)].into(),
                pending: 3,
                dead: 1,
                ..Default::default()
            }],
            quorum: true,
            deliveries: Vec::new(),
            dead: Vec::new(),
            known_size: 3,
            receipts: Vec::new(),
            operator_holds: Vec::new(),
            holds: vec![HoldStatus { app: "www".into(), member: "c".into(), reason: "budget".into() }],
            datagrams: [("sent".into(), 40), ("replay".into(), 1)].into(),
        }
    }

    #[test]
    fn what_is_known_and_what_was_counted_is_told() {
        let metrics = Metrics::default();
        metrics.clone().run_ended("dns", Duration::from_millis(3));
        metrics.run_began("dns", Duration::ZERO);
        metrics.checked("www", Duration::from_secs(2));
        metrics.of_handler("dns").http_error("denied");
        let text = String::from_utf8(metrics.text(&status())).unwrap();
        for line in [
            "picored_joined 1",
            "picored_quorum 1",
            "picored_held{app=\"www\",reason=\"budget\"} 1",
            "picored_members{state=\"alive\"} 1",
            "picored_members{state=\"suspect\"} 1",
            "picored_members{state=\"left\"} 0",
            "picored_app_state{app=\"www\",state=\"up\"} 1",
            "picored_app_state{app=\"www\",state=\"down\"} 0",
            "picored_apps{app=\"www\",state=\"down\"} 1",
            "picored_apps{app=\"www\",state=\"up\"} 1",
            "picored_deliveries_total{handler=\"d\\\"ns\",outcome=\"done\"} 7",
            "picored_deliveries_pending{handler=\"d\\\"ns\"} 3",
            "picored_deliveries_dead{handler=\"d\\\"ns\"} 1",
            "picored_datagrams_total{fate=\"sent\"} 40",
            "picored_handler_run_seconds_bucket{handler=\"dns\",le=\"0.001\"} 0",
            "picored_handler_run_seconds_bucket{handler=\"dns\",le=\"0.005\"} 1",
            "picored_delivery_wait_seconds_count{handler=\"dns\"} 1",
            "picored_check_seconds_sum{app=\"www\"} 2",
            "picored_handler_http_errors_total{handler=\"dns\",kind=\"denied\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
