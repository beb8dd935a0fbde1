//! The gate: every request of every guest goes out here, whichever door it came in by.
//!
//! The order is fixed: count -> canonical URL and grant -> resolve once -> filter the addresses -> fence -> dial exactly those
//! -> TLS -> fence -> send -> read within limits -> scrub. A grant's secret is added to that very request, after the grant is found
//! and before it is sent; what comes back is rid of all secrets before the guest sees it. No redirect is followed, no name resolved twice, no connection shared. Called
//! by `serve` (`http.fetch`) and `door` (`wasi:http`); the policy itself is [`picored_core::policy`].

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use picored_core::policy::{self, Grant, Host, Refusal, RefusalKind, Scheme, Target};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::handler::dry::DryRun;
use crate::handler::fence::Fence;
use crate::handler::limits::HttpLimits;
use crate::handler::secrets::{Secrets, auth};
use crate::metrics::HandlerMetrics;
use crate::tls::Tls;

/// A guest's request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Bytes,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", kind.as_str())]
pub(crate) struct HttpError {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

/// The kinds of errors, as `wit/handler.wit` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Denied,
    Invalid,
    Resolve,
    Connect,
    Tls,
    Timeout,
    TooLarge,
    Protocol,
    Limit,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => RefusalKind::Denied.as_str(),
            Self::Invalid => RefusalKind::Invalid.as_str(),
            Self::Resolve => RefusalKind::Resolve.as_str(),
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::TooLarge => "too-large",
            Self::Protocol => "protocol",
            Self::Limit => "limit",
        }
    }

    pub(crate) fn because(self, reason: impl Into<String>) -> HttpError {
        HttpError { kind: self, reason: reason.into() }
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.kind {
            RefusalKind::Denied => Kind::Denied,
            RefusalKind::Invalid => Kind::Invalid,
            RefusalKind::Resolve => Kind::Resolve,
        };
        kind.because(refusal.reason)
    }
}

/// What a handler may reach, and what goes with it.
pub(crate) struct Reach {
    pub(crate) grants: Arc<[Grant]>,
    pub(crate) secrets: Arc<Secrets>,
}

/// One run's way out.
pub(crate) struct Gate {
    metrics: HandlerMetrics,
    reach: Reach,
    limits: HttpLimits,
    tls: Arc<Tls>,
    lookups: Arc<Semaphore>,
    fence: Fence,
    sent: AtomicU32,
    received: AtomicUsize,
    turn: Arc<Mutex<()>>,
    dry: Option<Arc<DryRun>>,
    denied: OnceLock<String>,
}

/// The right to send one request. One at a time: what a run holds in memory stays near one request and one response.
pub(crate) struct Turn {
    _held: OwnedMutexGuard<()>,
}

/// Sends `request` in a task of its own: guests' host calls are polled on the guest's small stack, on which neither a
/// TLS handshake nor an HTTP parser belongs. Dropped, it takes the request with it.
pub(crate) async fn send_apart(gate: &Arc<Gate>, turn: Turn, request: Request) -> Result<Response, HttpError> {
    let gate = gate.clone();
    let mut task = JoinSet::new();
    task.spawn(async move { gate.send(turn, request).await });
    match task.join_next().await {
        Some(Ok(result)) => result,
        _ => Err(Kind::Protocol.because("a fault in the host")),
    }
}

impl Gate {
    /// A gate for a run behind its `fence`. All runs of a handler share `lookups`, which bounds how many names are
    /// resolved for it at a time. With `dry`, which then hears of each request, nothing that writes gets out.
    pub(crate) fn new(
        metrics: HandlerMetrics,
        reach: Reach,
        limits: HttpLimits,
        tls: Arc<Tls>,
        lookups: Arc<Semaphore>,
        fence: Fence,
        dry: Option<Arc<DryRun>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            reach,
            limits,
            tls,
            lookups,
            fence,
            sent: AtomicU32::new(0),
            received: AtomicUsize::new(0),
            turn: Arc::default(),
            dry,
            denied: OnceLock::new(),
        })
    }

    /// Why the first call of this run that no grant allows was refused, and what would allow it.
    pub(crate) fn denied(&self) -> Option<&str> {
        self.denied.get().map(String::as_str)
    }

    /// Whether this run may still send something.
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    fn check_fence(&self) -> Result<(), HttpError> {
        // What is only read for a look harms nobody.
        if self.dry.is_some() {
            return Ok(());
        }
        self.fence.check().map_err(|reason| Kind::Denied.because(format!("fenced: {reason}")))
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.limits
    }

    /// Counts a request, before anything of it is looked at, and waits for the ones before it.
    pub(crate) async fn turn(&self) -> Result<Turn, HttpError> {
        if self.sent.fetch_add(1, Ordering::Relaxed) >= self.limits.requests {
            let reason = format!("more than {} requests in one run", self.limits.requests);
            return self.count_error(Err(Kind::Limit.because(reason)));
        }
        Ok(Turn { _held: self.turn.clone().lock_owned().await })
    }

    async fn send(&self, _turn: Turn, request: Request) -> Result<Response, HttpError> {
        if let Some(dry) = &self.dry {
            dry.begin(&request, &self.reach.secrets);
        }
        let result = self.scrubbed(self.count_error(self.pass(request).await));
        if let Some(dry) = &self.dry {
            dry.end(&result);
        }
        result
    }

    fn count_error<T>(&self, result: Result<T, HttpError>) -> Result<T, HttpError> {
        result.inspect_err(|error| self.metrics.http_error(error.kind.as_str()))
    }

    async fn pass(&self, request: Request) -> Result<Response, HttpError> {
        let target = Target::canonical(&request.url)?;
        let grant = policy::check(&self.reach.grants, &request.method, &target).inspect_err(|refusal| {
            if refusal.kind == RefusalKind::Denied {
                self.denied.get_or_init(|| self.reach.secrets.scrub(&refusal.reason).into_owned());
            }
        })?;
        let (message, host) = self.message(request, &target, grant)?;
        if let Some(dry) = &self.dry {
            if !DryRun::lets_out(message.method()) {
                return Ok(DryRun::stub());
            }
            dry.leaves();
        }

        let deadline = self.fence.until.min(Instant::now() + self.limits.total);
        let late = || Kind::Timeout.because(format!("{host} did not answer within {:?}", self.limits.total));
        let work = async {
            let resolved = self.resolve(&target).await?;
            let addresses = policy::allowed_addresses(grant, &resolved)?;
            self.check_fence()?;
            let stream = self.dial(&addresses, target.port()).await?;
            match target.scheme() {
                Scheme::Http => self.exchange(stream, message).await,
                Scheme::Https => {
                    let handshake = self.tls.handshake(target.host(), stream);
                    let stream = timeout(self.limits.connect, handshake).await.map_err(|_| {
                        Kind::Timeout.because(format!("no TLS with {host} within {:?}", self.limits.connect))
                    })?;
                    self.exchange(stream.map_err(|error| Kind::Tls.because(error))?, message).await
                }
            }
        };
        timeout_at(deadline, work).await.map_err(|_| late())?
    }

    /// The message to send: the guest's headers, checked, the host's own, and the secret of the grant.
    fn message(
        &self,
        request: Request,
        target: &Target,
        grant: &Grant,
    ) -> Result<(hyper::Request<Full<Bytes>>, String), HttpError> {
        let invalid = |reason: String| Kind::Invalid.because(reason);
        let limits = &self.limits;
        if request.body.len() > limits.request_body_bytes {
            let (size, limit) = (request.body.len(), limits.request_body_bytes);
            return Err(Kind::TooLarge.because(format!("the request's body has {size} bytes, the limit is {limit}")));
        }
        let bytes: usize = request.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        if bytes > limits.request_header_bytes {
            let limit = limits.request_header_bytes;
            return Err(
                Kind::TooLarge.because(format!("the request's headers have {bytes} bytes, the limit is {limit}"))
            );
        }
        let host = target.authority();
        let uri: Uri =
            target.path_and_query().parse().map_err(|_| invalid("the URL has no path that can be sent".into()))?;
        let method: Method = request.method.parse().map_err(|_| invalid("the method is malformed".into()))?;
        let mut message = hyper::Request::new(Full::new(request.body.clone()));
        *message.method_mut() = method;
        *message.uri_mut() = uri;
        let headers = message.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(&host).map_err(|_| invalid("the host is malformed".into()))?);
        for (name, value) in request.headers {
            if policy::forbidden_request_header(&name) {
                return Err(invalid(format!("the header {:?} is the host's to set", clip(&name))));
            }
            let name: HeaderName = name.parse().map_err(|_| invalid(format!("{:?} is no header name", clip(&name))))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| invalid(format!("the value of {name} cannot be in a header")))?;
            headers.try_append(name, value).map_err(|_| invalid("too many headers".into()))?;
        }
        if let Some(auth) = &grant.auth {
            auth::attach(&self.reach.secrets, auth, target, &request.body, &mut message)?;
        }
        Ok((message, host))
    }

    /// All addresses of the host, asked for once.
    async fn resolve(&self, target: &Target) -> Result<Vec<IpAddr>, HttpError> {
        let name = match target.host() {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let asked = (name.clone(), target.port());
        let lookup = blocking(&self.lookups, move || asked.to_socket_addrs());
        let found = timeout(self.limits.resolve, lookup).await;
        let found = found
            .map_err(|_| Kind::Timeout.because(format!("{name} was not resolved within {:?}", self.limits.resolve)))?;
        let found = found.map_err(|error| Kind::Resolve.because(format!("{name}: {error}")))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|address| address.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The first of these addresses that accepts.
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, HttpError> {
        let mut failures = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            match timeout(self.limits.connect, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests should not wait for more to come; a socket that cannot be told so works too.
                    _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => failures.push(format!("{address}: {error}")),
                Err(_) => failures.push(format!("{address}: no answer within {:?}", self.limits.connect)),
            }
        }
        failures.truncate(4);
        Err(Kind::Connect.because(failures.join("; ")))
    }

    /// One request, one response, and the connection is closed.
    async fn exchange<S>(&self, stream: S, message: hyper::Request<Full<Bytes>>) -> Result<Response, HttpError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(self.limits.response_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Kind::Protocol.because(error.to_string()))?;
        self.check_fence()?;
        let exchange = async {
            let response = sender.send_request(message).await.map_err(|error| self.broken(&error))?;
            let (parts, body) = response.into_parts();
            let body = self.collect(body).await?;
            Ok(Response { status: parts.status, headers: parts.headers, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            // The connection may be over before the last of the response is taken out of it.
            _ = connection => exchange.await,
        }
    }

    async fn collect(&self, mut body: hyper::body::Incoming) -> Result<Bytes, HttpError> {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            let limit = self.limits.response_body_bytes;
            if whole.len() + data.len() > limit {
                return Err(Kind::TooLarge.because(format!("the response's body has more than {limit} bytes")));
            }
            let limit = self.limits.run_body_bytes;
            if self.received.fetch_add(data.len(), Ordering::Relaxed) + data.len() > limit {
                return Err(Kind::Limit.because(format!("responses of more than {limit} bytes in one run")));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// What the guest may see of it. Names of headers are texts of the server too.
    fn scrubbed(&self, result: Result<Response, HttpError>) -> Result<Response, HttpError> {
        let mut response = match result {
            Ok(response) => response,
            Err(error) => return Err(error.kind.because(self.reach.secrets.scrub(&error.reason))),
        };
        let headers = &mut response.headers;
        let named: Vec<HeaderName> = headers
            .keys()
            .filter(|name| self.reach.secrets.scrub_bytes(name.as_str().as_bytes()).is_some())
            .cloned()
            .collect();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            if let Some(clean) = self.reach.secrets.scrub_bytes(value.as_bytes()) {
                *value = HeaderValue::try_from(clean).unwrap_or(HeaderValue::from_static(""));
            }
        }
        if let Some(clean) = self.reach.secrets.scrub_bytes(&response.body) {
            response.body = clean.into();
            if headers.contains_key(CONTENT_LENGTH) {
                headers.insert(CONTENT_LENGTH, response.body.len().into());
            }
        }
        Ok(response)
    }

    fn broken(&self, error: &hyper::Error) -> HttpError {
        if error.is_parse_too_large() {
            let limit = self.limits.response_header_bytes;
            return Kind::TooLarge
                .because(format!("the response's headers have more than {limit} bytes, or are too many"));
        }
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Kind::Protocol.because(format!("{error}{cause}"))
    }
}

/// Does `work` on a thread of its own, of which there are as many as `permits`. A thread that waits for a resolver cannot
/// be called back: given up, it keeps its permit until it returns, so that a name whose servers do not answer never takes
/// the threads by which the daemon and other handlers resolve theirs.
async fn blocking<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    task.await.map_err(io::Error::other)?
}

fn clip(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::limits::Limits;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_lookup_that_was_given_up_counts_until_it_returns() {
        let permits = Arc::new(Semaphore::new(2));
        let (answer, resolver) = std::sync::mpsc::channel::<()>();
        let hanging = blocking(&permits, move || resolver.recv().map_err(io::Error::other));
        assert!(timeout(std::time::Duration::from_millis(20), hanging).await.is_err());
        assert_eq!(permits.available_permits(), 1);

        assert_eq!(blocking(&permits, || Ok(7)).await.unwrap(), 7, "another one may go on beside it");
        answer.send(()).unwrap();
        let returned = timeout(std::time::Duration::from_secs(60), permits.acquire_many(2)).await;
        drop(returned.expect("its permit comes back").unwrap());
    }

    #[tokio::test]
    async fn names_wait_for_a_permit_and_addresses_need_none() {
        let limits = HttpLimits { resolve: std::time::Duration::from_millis(20), ..Limits::default().http };
        let (metrics, permits) = (Metrics::default().of_handler("test"), Arc::new(Semaphore::new(0)));
        let reach = Reach { grants: Arc::new([]), secrets: Secrets::none() };
        let fence = Fence::new(std::time::Duration::from_secs(60), Arc::default(), Arc::default());
        let gate = Gate::new(metrics, reach, limits, Arc::default(), permits, fence, None);
        let resolve = async |url: &str| gate.resolve(&Target::canonical(url).unwrap()).await;
        assert_eq!(resolve("http://localhost/").await.unwrap_err().kind, Kind::Timeout);
        assert_eq!(resolve("http://127.0.0.1/").await.unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
