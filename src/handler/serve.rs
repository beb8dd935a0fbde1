//! What the host answers by itself: the cluster, the handler's config, its log lines, and `http.fetch`.
//!
//! Answers come from the store's state alone; nothing here reaches the daemon.

use picored_core::name::AppName;
use picored_core::snapshot::{MemberInfo, Snapshot};
use tracing::Level;

use crate::handler::bindings::picored::handler::{cluster, http};
use crate::handler::bindings::wasi::config::store as config;
use crate::handler::bindings::wasi::logging::logging;
use crate::handler::http::{Request, send_apart};
use crate::handler::store::State;
use crate::handler::text::clean;

/// Each log line costs this much beside its bytes, so that empty ones are not free.
const LINE_BYTES: usize = 64;

impl State {
    fn snapshot(&self) -> wasmtime::Result<&Snapshot> {
        self.authority
            .snapshot
            .as_deref()
            .ok_or_else(|| wasmtime::Error::msg("`describe` must not ask for the cluster"))
    }
}

fn member(info: &MemberInfo) -> cluster::Member {
    cluster::Member {
        name: info.name.to_string(),
        status: info.state.to_string(),
        addresses: vec![info.address.to_string()],
        attributes: Vec::new(),
    }
}

impl cluster::Host for State {
    fn node(&mut self) -> wasmtime::Result<cluster::Member> {
        Ok(member(&self.snapshot()?.node))
    }

    fn members(&mut self) -> wasmtime::Result<Vec<cluster::Member>> {
        Ok(self.snapshot()?.members.iter().map(member).collect())
    }

    fn apps(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.snapshot()?.apps.keys().map(AppName::to_string).collect())
    }

    fn endpoints(&mut self, app: String) -> wasmtime::Result<Result<cluster::EndpointSet, String>> {
        let Some(set) = self.snapshot()?.apps.get(app.as_str()) else {
            return Ok(Err(format!("{app:?} is no application that this handler may see")));
        };
        if set.endpoints.is_empty() {
            return Ok(Err(format!("{app} has nothing to publish")));
        }
        let endpoint = |endpoint: &picored_core::snapshot::Endpoint| cluster::Endpoint {
            member: endpoint.member.to_string(),
            address: endpoint.address.to_string(),
            port: endpoint.port,
            attributes: Vec::new(),
        };
        Ok(Ok(cluster::EndpointSet {
            revision: set.revision.clone(),
            endpoints: set.endpoints.iter().map(endpoint).collect(),
            attributes: set.claimed.iter().map(|address| ("claimed".to_owned(), address.to_string())).collect(),
        }))
    }

    fn revision(&mut self) -> wasmtime::Result<String> {
        Ok(self.snapshot()?.revision.clone())
    }
}

impl config::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.authority.config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.authority.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        self.log.take(context.len() + message.len() + LINE_BYTES)?;
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        self.write_line(level, &context, &message);
        Ok(())
    }
}

impl State {
    /// A guest's line in the daemon's log.
    pub(crate) fn write_line(&self, level: Level, topic: &str, message: &str) {
        let (handler, topic) = (self.authority.handler.as_str(), clean(&self.authority.secrets.scrub(topic), 63));
        let message = clean(&self.authority.secrets.scrub(message), self.log_line_bytes);
        // An event's level is part of its code, hence one line each.
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(target: "picored::guest", Level::$level, handler, topic, "{message}")
            };
        }
        match level {
            Level::TRACE => line!(TRACE),
            Level::DEBUG => line!(DEBUG),
            Level::INFO => line!(INFO),
            Level::WARN => line!(WARN),
            Level::ERROR => line!(ERROR),
        }
    }
}

impl http::Host for State {
    async fn fetch(&mut self, request: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        let http::Request { method, url, headers, body } = request;
        let headers = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let request = Request { method, url, headers, body: body.into() };
        let answer = match self.authority.gate.turn().await {
            Ok(turn) => send_apart(&self.authority.gate, turn, request).await,
            Err(error) => Err(error),
        };
        Ok(match answer {
            Ok(response) => {
                let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                let headers = response.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                Ok(http::Response { status: response.status.as_u16(), headers, body: response.body.into() })
            }
            Err(error) => Err(http::Error { kind: error.kind.as_str().to_owned(), reason: error.reason }),
        })
    }
}
