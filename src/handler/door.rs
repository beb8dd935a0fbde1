//! The second door: `wasi:http`, for libraries that speak it. It ends in the same gate as `http.fetch`.
//!
//! Bodies are held whole, in both directions, within the gate's limits; a guest's own timeouts are not looked at, the
//! host's are shorter.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use picored_core::policy::{MAX_URL_LEN, forbidden_request_header};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{HostOutgoingRequest, Method, OutgoingRequest};
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks, WasiHttpView};

use crate::handler::http::{Gate, HttpError, Kind, Request, send_apart};
use crate::handler::store::State;

/// Hands requests of `wasi:http` to the gate.
pub(crate) struct WasiDoor {
    gate: Arc<Gate>,
}

impl WasiDoor {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Done), Error>> + Send>;

impl WasiHttpHooks for WasiDoor {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        // Libraries set a length by themselves. It passes here, and `send` compares it with the body.
        Arc::new(|name: &HeaderName| *name != CONTENT_LENGTH && forbidden_request_header(name.as_str()))
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    /// What a request that waits for its turn holds of its body, in bytes.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        16 << 10
    }

    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sent {
        let gate = self.gate.clone();
        Box::new(async move {
            let response = send(&gate, request).await?;
            let done: Done = Box::new(async { Ok(()) });
            Ok((response, done))
        })
    }
}

/// Bounds the texts of a request before the library keeps them: it takes a method or an authority of any length, and a
/// guest can hold as many requests as there is room for resources.
pub(crate) fn bound_texts(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Asked = wasmtime::Result<(Result<(), ()>,)>;
    type Store<'a> = StoreContextMut<'a, State>;
    type Request = Resource<OutgoingRequest>;
    let too_long = |text: Option<&str>| text.is_some_and(|text| text.len() > MAX_URL_LEN);

    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        move |mut store: Store<'_>, (request, method): (Request, Method)| -> Asked {
            let other = if let Method::Other(name) = &method { Some(name.as_str()) } else { None };
            let refused = too_long(other);
            Ok((if refused { Err(()) } else { store.data_mut().http().set_method(request, method)? },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        move |mut store: Store<'_>, (request, authority): (Request, Option<String>)| -> Asked {
            let refused = too_long(authority.as_deref());
            Ok((if refused { Err(()) } else { store.data_mut().http().set_authority(request, authority)? },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        move |mut store: Store<'_>, (request, path): (Request, Option<String>)| -> Asked {
            let refused = too_long(path.as_deref());
            Ok((if refused { Err(()) } else { store.data_mut().http().set_path_with_query(request, path)? },))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn send(gate: &Arc<Gate>, request: hyper::Request<WasiBody>) -> Result<hyper::Response<WasiBody>, Error> {
    let turn = gate.turn().await.map_err(error_code)?;
    let (parts, body) = request.into_parts();
    let limit = gate.limits().request_body_bytes;
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { Error::HttpRequestBodySize(None) } else { Error::HttpProtocolError }
    })?;
    let body = body.to_bytes();
    let mut headers = parts.headers;
    take_length(&mut headers, &body).map_err(error_code)?;
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    let request = Request { method: parts.method.to_string(), url: parts.uri.to_string(), headers, body };
    let response = send_apart(gate, turn, request).await.map_err(error_code)?;
    let body = Full::new(response.body).map_err(|never| match never {}).boxed_unsync();
    let mut message = hyper::Response::new(body);
    *message.status_mut() = response.status;
    *message.headers_mut() = response.headers;
    Ok(message)
}

/// The host writes the length of the body that it sends. A guest's is taken away if it says the same, else refused.
fn take_length(headers: &mut HeaderMap, body: &Bytes) -> Result<(), HttpError> {
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().map(|value| value.as_bytes().to_vec()).collect();
    if lengths.iter().any(|length| *length != body.len().to_string().into_bytes()) {
        return Err(Kind::Invalid.because(format!("content-length is not the {} bytes of the body", body.len())));
    }
    headers.remove(CONTENT_LENGTH);
    Ok(())
}

fn error_code(error: HttpError) -> Error {
    match error.kind {
        Kind::Denied => Error::HttpRequestDenied,
        // The only code that carries a text; what is malformed here is for the author to read.
        Kind::Invalid => Error::InternalError(Some(error.to_string())),
        Kind::Resolve => Error::DnsError { rcode: Some(error.reason), info_code: None },
        Kind::Connect => Error::ConnectionRefused,
        Kind::Tls => Error::TlsProtocolError,
        Kind::Timeout => Error::HttpResponseTimeout,
        Kind::TooLarge => Error::HttpResponseBodySize(None),
        Kind::Protocol => Error::HttpProtocolError,
        Kind::Limit => Error::ConnectionLimitReached,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_true_length_goes_and_a_false_one_is_refused() {
        let body = Bytes::from_static(b"12345");
        let mut headers = HeaderMap::new();
        take_length(&mut headers, &body).unwrap();
        headers.insert(CONTENT_LENGTH, "5".parse().unwrap());
        take_length(&mut headers, &body).unwrap();
        assert!(headers.is_empty());
        headers.insert(CONTENT_LENGTH, "5".parse().unwrap());
        headers.append(CONTENT_LENGTH, "6".parse().unwrap());
        assert_eq!(take_length(&mut headers, &body).unwrap_err().kind, Kind::Invalid);
    }
}
