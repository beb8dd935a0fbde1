//! Cloudflare's DNS API as it is documented, for one zone in this process: lists with pages, batches that are carried out
//! whole or not at all, the envelope around each answer, its errors.
//!
//! Stricter than the real one in what it takes: parameters and fields that are not documented are refused, so that none
//! is sent in vain. It does what a test tells it: fail, or let somebody else write in between.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::form_urlencoded;

pub(crate) const ZONE: &str = "example.org";
pub(crate) const ZONE_ID: &str = "023e105f4ecef8ad9ca31a8372d0c353";
pub(crate) const TOKEN: &str = "YQSn-xWAQiiEh9qM58wZNnyQS7FUdoqGIUAbrh7T";

/// One record, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) content: String,
    pub(crate) ttl: u32,
    pub(crate) proxied: bool,
    pub(crate) comment: Option<String>,
    pub(crate) tags: Vec<String>,
}

/// The API with its zone. Dropped, it is gone.
pub(crate) struct Cloudflare {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    made: u64,
    seen: Vec<String>,
    answers: VecDeque<(u16, &'static str, String)>,
    meanwhile: Vec<Record>,
    fewest: Option<usize>,
}

/// Why a request is not carried out: status, code, message.
type Refused = (StatusCode, i64, String);

/// A request's body. Each part is carried out in this order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Batch {
    deletes: Vec<Identified>,
    patches: Vec<Fields>,
    puts: Vec<Fields>,
    posts: Vec<Fields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identified {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    content: Option<String>,
    ttl: Option<u32>,
    proxied: Option<bool>,
    comment: Option<String>,
    tags: Option<Vec<String>>,
}

impl Cloudflare {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<State>>::default());
        let (served, mut server) = (state.clone(), JoinSet::new());
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = served.clone();
                let service = service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(respond(&state, request).await) }
                });
                connections.spawn(async move {
                    // A client that breaks off is seen by the test as what it did.
                    _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, state, _server: server }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a record there by hand; its id.
    pub(crate) fn put(&self, name: &str, kind: &str, content: &str, ttl: u32, proxied: bool) -> String {
        let record = self.record(name, kind, content, ttl, proxied);
        self.state().records.push(record.clone());
        record.id
    }

    /// Somebody else writes this between the next list and the batch that follows from it.
    pub(crate) fn put_meanwhile(&self, name: &str, kind: &str, content: &str) {
        let record = self.record(name, kind, content, 60, false);
        self.state().meanwhile.push(record);
    }

    fn record(&self, name: &str, kind: &str, content: &str, ttl: u32, proxied: bool) -> Record {
        let (name, kind, content) = (name.to_owned(), kind.to_owned(), content.to_owned());
        let (comment, tags) = (Some("by hand".to_owned()), vec!["owner:ops".to_owned()]);
        Record { id: self.state().next_id(), name, kind, content, ttl, proxied, comment, tags }
    }

    /// The next request is answered so, and nothing is done.
    pub(crate) fn answer_next(&self, status: u16, header: &'static str, body: impl Into<String>) {
        self.state().answers.push_back((status, header, body.into()));
    }

    /// All records.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// The addresses that resolvers get for this name.
    pub(crate) fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        self.state().addresses(name)
    }

    /// Method, path and query of all requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state().seen.clone()
    }

    /// The least number of addresses that the name of a written record ever had, looked at after each change of a batch.
    pub(crate) fn fewest(&self) -> Option<usize> {
        self.state().fewest
    }
}

impl State {
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("{:032x}", self.made)
    }

    fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        let records = self.records.iter().filter(|record| record.name == name && record.kind != "CNAME");
        records.filter_map(|record| record.content.parse().ok()).collect()
    }

    fn zones(&self, query: &str) -> Result<Value, Refused> {
        let query = Query::read(query, &["name"], 20, 5..=50)?;
        let zone = json!({ "id": ZONE_ID, "name": ZONE, "status": "active", "paused": false, "type": "full" });
        let wanted = query.filters.iter().all(|(_, value)| value == ZONE);
        Ok(query.page_of(wanted.then_some(zone).into_iter().collect()))
    }

    fn list(&self, query: &str) -> Result<Value, Refused> {
        let query = Query::read(query, &["name.exact", "content.exact", "type"], 100, 1..=5_000_000)?;
        let is_wanted = |record: &&Record| {
            query.filters.iter().all(|(key, value)| match key.as_str() {
                "name.exact" => record.name.eq_ignore_ascii_case(value),
                "content.exact" => record.content.eq_ignore_ascii_case(value),
                _ => record.kind == *value,
            })
        };
        Ok(query.page_of(self.records.iter().filter(is_wanted).map(shown).collect()))
    }

    /// Carries out the whole, or says what the first fault is.
    fn batch(&mut self, body: &[u8]) -> Result<Value, Refused> {
        let batch: Batch =
            serde_json::from_slice(body).map_err(|error| bad(9207, format!("Request body is invalid: {error}")))?;
        let meanwhile = std::mem::take(&mut self.meanwhile);
        self.records.extend(meanwhile);
        let before = (self.records.clone(), self.fewest);
        let done = self.carry_out(batch);
        if done.is_err() {
            (self.records, self.fewest) = before;
        }
        Ok(enveloped(done?, None))
    }

    fn carry_out(&mut self, batch: Batch) -> Result<Value, Refused> {
        let [mut deletes, mut patches, mut puts, mut posts] = [const { Vec::new() }; 4];
        for Identified { id } in batch.deletes {
            let record = self.records.remove(self.place(&id)?);
            self.look(&record.name);
            deletes.push(shown(&record));
        }
        for fields in batch.patches {
            let place = self.place(fields.id.as_deref().ok_or_else(|| bad(9207, "a patch has no id"))?)?;
            let old = self.records[place].clone();
            patches.push(self.store(place, fields, old)?);
        }
        for fields in batch.puts {
            let id = fields.id.clone().ok_or_else(|| bad(9207, "a put has no id"))?;
            let place = self.place(&id)?;
            puts.push(self.store(place, fields, Record::empty(id))?);
        }
        for fields in batch.posts {
            let id = self.next_id();
            posts.push(self.store(self.records.len(), fields, Record::empty(id))?);
        }
        Ok(json!({ "deletes": deletes, "patches": patches, "puts": puts, "posts": posts }))
    }

    fn place(&self, id: &str) -> Result<usize, Refused> {
        let place = self.records.iter().position(|record| record.id == id);
        place.ok_or_else(|| (StatusCode::NOT_FOUND, 81_044, "Record does not exist.".to_owned()))
    }

    /// Puts a record with those fields in `place`, and the others as in `old`.
    fn store(&mut self, place: usize, fields: Fields, old: Record) -> Result<Value, Refused> {
        let mut record = Record {
            id: old.id,
            name: fields.name.unwrap_or(old.name),
            kind: fields.r#type.unwrap_or(old.kind),
            content: fields.content.unwrap_or(old.content),
            ttl: fields.ttl.unwrap_or(old.ttl),
            proxied: fields.proxied.unwrap_or(old.proxied),
            comment: fields.comment.or(old.comment),
            tags: fields.tags.unwrap_or(old.tags),
        };
        if record.name != ZONE && !record.name.ends_with(&format!(".{ZONE}")) {
            record.name = format!("{}.{ZONE}", record.name);
        }
        let address = record.content.parse::<IpAddr>().ok();
        match (record.kind.as_str(), address) {
            ("A", Some(IpAddr::V4(_))) => {}
            ("AAAA", Some(IpAddr::V6(address))) => record.content = address.to_string(),
            ("A", _) => return Err(bad(9005, "Content for A record must be a valid IPv4 address.")),
            ("AAAA", _) => return Err(bad(9006, "Content for AAAA record must be a valid IPv6 address.")),
            (kind, _) => return Err(bad(1004, format!("no handler should write a record of type {kind:?}"))),
        }
        if record.ttl != 1 && !(60..=86_400).contains(&record.ttl) {
            return Err(bad(9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic."));
        }
        if record.proxied {
            record.ttl = 1;
        }
        let mut others = self.records.iter().filter(|other| other.id != record.id && other.name == record.name);
        let is_same = |other: &Record| other.kind == record.kind && other.content == record.content;
        if others.clone().any(is_same) {
            return Err(bad(81_058, "An identical record already exists."));
        }
        if others.any(|other| other.kind == "CNAME") {
            return Err(bad(81_054, "A CNAME record with that host already exists."));
        }
        let answer = shown(&record);
        let name = record.name.clone();
        match self.records.get_mut(place) {
            Some(old) => *old = record,
            None => self.records.push(record),
        }
        self.look(&name);
        Ok(answer)
    }

    fn look(&mut self, name: &str) {
        let count = self.addresses(name).len();
        self.fewest = Some(self.fewest.map_or(count, |fewest| fewest.min(count)));
    }
}

impl Record {
    fn empty(id: String) -> Self {
        let (name, kind, content) = Default::default();
        Self { id, name, kind, content, ttl: 1, proxied: false, comment: None, tags: Vec::new() }
    }
}

/// What a list is asked for.
struct Query {
    filters: Vec<(String, String)>,
    page: usize,
    per_page: usize,
}

impl Query {
    fn read(query: &str, filters: &[&str], per_page: usize, sizes: RangeInclusive<usize>) -> Result<Self, Refused> {
        let mut read = Self { filters: Vec::new(), page: 1, per_page };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse().map_err(|_| bad(1004, format!("{key} is no number")));
            match &*key {
                "page" => read.page = number()?,
                "per_page" => read.per_page = number()?,
                known if filters.contains(&known) => read.filters.push((key.into_owned(), value.into_owned())),
                unknown => return Err(bad(1004, format!("{unknown} is not documented"))),
            }
        }
        if read.page == 0 || !sizes.contains(&read.per_page) {
            return Err(bad(1004, "page or per_page is out of range"));
        }
        Ok(read)
    }

    fn page_of(&self, all: Vec<Value>) -> Value {
        let (total, pages) = (all.len(), all.len().div_ceil(self.per_page));
        let page: Vec<Value> = all.into_iter().skip((self.page - 1) * self.per_page).take(self.per_page).collect();
        let info = json!({
            "count": page.len(), "page": self.page, "per_page": self.per_page,
            "total_count": total, "total_pages": pages,
        });
        enveloped(page.into(), Some(info))
    }
}

fn shown(record: &Record) -> Value {
    json!({
        "id": record.id, "name": record.name, "type": record.kind, "content": record.content, "proxiable": true,
        "proxied": record.proxied, "ttl": record.ttl, "settings": {}, "meta": {}, "comment": record.comment,
        "tags": record.tags, "created_on": "2026-01-31T12:00:00.000000Z", "modified_on": "2026-01-31T12:00:00.000000Z",
    })
}

fn enveloped(result: Value, info: Option<Value>) -> Value {
    let mut answer = json!({ "result": result, "success": true, "errors": [], "messages": [] });
    if let Some(info) = info {
        answer["result_info"] = info;
    }
    answer
}

/// The envelope of an error.
pub(crate) fn complaint(code: i64, message: &str) -> String {
    let errors = [json!({ "code": code, "message": message })];
    json!({ "result": null, "success": false, "errors": errors, "messages": [] }).to_string()
}

fn bad(code: i64, message: impl Into<String>) -> Refused {
    (StatusCode::BAD_REQUEST, code, message.into())
}

async fn respond(state: &Mutex<State>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let target = request.uri().path_and_query().unwrap().to_string();
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Response::new(Full::default()) };
    let body = body.to_bytes();
    let mut state = state.lock().unwrap();
    state.seen.push(format!("{} {target}", parts.method));
    let mut response = Response::builder().header(CONTENT_TYPE, "application/json");
    if let Some((status, header, body)) = state.answers.pop_front() {
        if let Some((name, value)) = header.split_once(": ") {
            response = response.header(name, value);
        }
        return response.status(status).body(Full::from(body)).unwrap();
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let answer = authorized(&parts).and_then(|()| {
        let Some(path) = path.strip_prefix("/client/v4/zones") else {
            return Err((StatusCode::NOT_FOUND, 7000, "No route for that URI".to_owned()));
        };
        if path.is_empty() && parts.method == Method::GET {
            return state.zones(query);
        }
        let (zone, path) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        if zone.len() != 32 {
            let message = format!("Could not route to {target}, perhaps your object identifier is invalid?");
            return Err((StatusCode::NOT_FOUND, 7003, message));
        }
        if zone != ZONE_ID {
            return Err((StatusCode::FORBIDDEN, 10_000, "Authentication error".to_owned()));
        }
        match (&parts.method, path) {
            (&Method::GET, "dns_records") => state.list(query),
            (&Method::POST, "dns_records/batch") => {
                let is_json = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
                if is_json { state.batch(&body) } else { Err(bad(9207, "Request body is no JSON.")) }
            }
            _ => Err((StatusCode::METHOD_NOT_ALLOWED, 7001, "Method not available for that URI".to_owned())),
        }
    });
    match answer {
        Ok(answer) => response.body(Full::from(answer.to_string())).unwrap(),
        Err((status, code, message)) => response.status(status).body(Full::from(complaint(code, &message))).unwrap(),
    }
}

fn authorized(parts: &hyper::http::request::Parts) -> Result<(), Refused> {
    let Some(given) = parts.headers.get(AUTHORIZATION) else {
        return Err(bad(9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers"));
    };
    match given.to_str().ok().and_then(|given| given.strip_prefix("Bearer ")) {
        Some(TOKEN) => Ok(()),
        Some(_) => Err((StatusCode::FORBIDDEN, 9109, "Invalid access token".to_owned())),
        None => Err(bad(6003, "Invalid request headers")),
    }
}
