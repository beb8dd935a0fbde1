//! The part of PowerDNS's HTTP API that a handler needs: reading one zone and changing its sets.
//!
//! `GET` and `PATCH` of `/api/v1/servers/localhost/zones/ZONE`, with the answers, codes and error texts of PowerDNS 4.6
//! and later, so that what works here works there. A PATCH is made whole or not at all. It knows one zone and one key;
//! it never creates, deletes or signs a zone.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::form_urlencoded;

use super::zone::{Edit, NewSet, Set, Zone, absolute};

/// Where zones are.
const ZONES: &str = "/api/v1/servers/localhost/zones/";
/// The largest body taken, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// Serves `zone` to those who send `key` as `X-API-Key`, until dropped.
///
/// # Errors
/// Never returns but with the fault of a listener that can take no more connections.
pub async fn serve(listener: TcpListener, zone: Arc<Zone>, key: &str) -> io::Result<()> {
    let key: Arc<str> = key.into();
    crate::http::serve(&listener, move |request| {
        let (zone, key) = (Arc::clone(&zone), Arc::clone(&key));
        async move { respond(request, &zone, &key).await.unwrap_or_else(Refusal::into_response) }
    })
    .await
}

/// Why a request was not carried out.
struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// What the request asks for makes no sense, as PowerDNS says it.
    fn senseless(reason: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason.to_string())
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = answer(self.status, &json!({ "error": self.reason }));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, PATCH"));
        }
        response
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn respond(request: Request<Incoming>, zone: &Zone, key: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    if request.headers().get("x-api-key").is_none_or(|given| given.as_bytes() != key.as_bytes()) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    let Some(id) = request.uri().path().strip_prefix(ZONES).filter(|id| !id.is_empty() && !id.contains('/')) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "Not Found"));
    };
    // PowerDNS takes a zone's id with and without its last dot.
    let named = absolute(id).or_else(|_| absolute(&format!("{id}.")));
    if named.as_ref() != Ok(zone.origin()) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("Could not find domain '{id}'")));
    }
    match *request.method() {
        Method::GET => Ok(answer(StatusCode::OK, &describe(zone, request.uri().query().unwrap_or_default())?)),
        Method::PATCH => {
            let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await.map_err(|error| {
                let too_large = error.downcast_ref::<http_body_util::LengthLimitError>().is_some();
                let status = if too_large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
                Refusal::new(status, format!("the body could not be read: {error}"))
            })?;
            zone.apply(&edits(&body.to_bytes())?).map_err(Refusal::senseless)?;
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")),
    }
}

/// The zone as PowerDNS shows it, with the sets that `query` asks for.
fn describe(zone: &Zone, query: &str) -> Result<Value, Refusal> {
    let (mut name, mut kind, mut with_sets) = (None, None, true);
    for (parameter, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*parameter {
            "rrset_name" => name = Some(absolute(&value).map_err(Refusal::senseless)?),
            "rrset_type" => kind = Some(value.to_ascii_uppercase()),
            "rrsets" => with_sets = value != "false",
            _ => {}
        }
    }
    if kind.is_some() && name.is_none() {
        return Err(Refusal::senseless("rrset_type can only be used together with rrset_name"));
    }
    let contents = zone.subscribe().borrow().clone();
    let id = zone.origin().to_string();
    let mut answer = json!({
        "id": id, "name": id, "type": "Zone", "url": format!("{ZONES}{id}"), "kind": "Native",
        "serial": contents.serial, "notified_serial": 0, "edited_serial": contents.serial, "masters": [],
        "dnssec": false, "account": "",
    });
    if with_sets {
        let wanted = |have_name: &str, have_kind: &str| {
            name.as_ref().is_none_or(|name| name.to_string() == have_name)
                && kind.as_ref().is_none_or(|kind| kind == have_kind)
        };
        let own = zone.own_records().into_iter().map(|record| {
            let content = record.data.to_string();
            let records = vec![json!({ "content": content, "disabled": false })];
            (record.name.to_string(), record.record_type().to_string(), record.ttl, records)
        });
        let kept =
            contents.sets.iter().map(|((name, kind), set)| (name.to_string(), kind.to_string(), set.ttl, show(set)));
        let sets: Vec<Value> = own
            .chain(kept)
            .filter(|(name, kind, ..)| wanted(name, kind))
            .map(|(name, kind, ttl, records)| {
                json!({ "name": name, "type": kind, "ttl": ttl, "records": records, "comments": [] })
            })
            .collect();
        answer["rrsets"] = sets.into();
    }
    Ok(answer)
}

fn show(set: &Set) -> Vec<Value> {
    let entries = set.entries.iter();
    entries.map(|entry| json!({ "content": entry.address.to_string(), "disabled": entry.disabled })).collect()
}

/// A PATCH's body. What PowerDNS ignores is ignored here as well.
#[derive(Deserialize)]
struct Patch {
    rrsets: Vec<PatchSet>,
}

#[derive(Deserialize)]
struct PatchSet {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    changetype: String,
    ttl: Option<u32>,
    records: Option<Vec<PatchRecord>>,
}

#[derive(Deserialize)]
struct PatchRecord {
    content: String,
    #[serde(default)]
    disabled: bool,
}

fn edits(body: &[u8]) -> Result<Vec<Edit>, Refusal> {
    // Two steps, for two codes: what is no JSON at all, and JSON of another shape.
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}")))?;
    let patch: Patch = serde_json::from_value(value).map_err(Refusal::senseless)?;
    patch.rrsets.into_iter().map(edit).collect()
}

fn edit(set: PatchSet) -> Result<Edit, Refusal> {
    let PatchSet { name, kind, changetype, ttl, records } = set;
    let set = match changetype.as_str() {
        "DELETE" => None,
        "REPLACE" => {
            let Some(records) = records else {
                return Err(Refusal::senseless(format!("No change for RRset {name} IN {kind}: it has no records")));
            };
            // An empty set is deleted, so it needs no TTL.
            let ttl = match ttl {
                None if !records.is_empty() => {
                    return Err(Refusal::senseless(format!("RRset {name} IN {kind}: Key 'ttl' not present")));
                }
                ttl => ttl.unwrap_or_default(),
            };
            let records = records.into_iter().map(|record| (record.content, record.disabled)).collect();
            Some(NewSet { ttl, records })
        }
        _ => return Err(Refusal::senseless(format!("Changetype not understood: {changetype}: REPLACE or DELETE"))),
    };
    Ok(Edit { name, kind, set })
}
