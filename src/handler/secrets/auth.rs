//! Puts a secret into the one request that a grant with `auth` allowed, after everything else about it is decided.
//!
//! What the guest set in the same place goes. Nothing here is reached by a guest: there is no call that signs for it.
//! Called by the gate alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, RANGE};
use picored_core::policy::{Auth, AuthScheme, Target, path_with_secret, same_header};
use ring::hmac;
use zeroize::Zeroizing;

use crate::handler::http::{HttpError, Kind};
use crate::handler::secrets::Secrets;

/// Adds the secret that `auth` names to `message`, which goes to `target` with `body`.
pub(crate) fn attach(
    secrets: &Secrets,
    auth: &Auth,
    target: &Target,
    body: &[u8],
    message: &mut Request<Full<Bytes>>,
) -> Result<(), HttpError> {
    let value = secrets.value(&auth.secret);
    let value = value.ok_or_else(|| Kind::Denied.because(format!("the secret {} is not there", auth.secret)))?;
    let secret = value.bytes();
    if auth.scheme.discloses() {
        // An answer that is compressed, or comes in pieces, could show the secret in a form that nobody looks for.
        message.headers_mut().remove(ACCEPT_ENCODING);
        message.headers_mut().remove(RANGE);
    }
    match &auth.scheme {
        AuthScheme::Path => {
            let path = Zeroizing::new(path_with_secret(target, secret)?);
            *message.uri_mut() =
                path.parse().map_err(|_| Kind::Invalid.because("no path with this secret can be sent"))?;
            Ok(())
        }
        AuthScheme::Bearer => set(message.headers_mut(), &auth.scheme, &[b"Bearer ", secret].concat()),
        AuthScheme::Basic { user } => {
            let pair = Zeroizing::new([user.as_bytes(), b":", secret].concat());
            let encoded = Zeroizing::new(STANDARD.encode(&*pair));
            set(message.headers_mut(), &auth.scheme, format!("Basic {}", *encoded).as_bytes())
        }
        AuthScheme::Header { .. } => set(message.headers_mut(), &auth.scheme, secret),
        AuthScheme::HmacSha256Header { .. } => {
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
            let text: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            set(message.headers_mut(), &auth.scheme, format!("sha256={text}").as_bytes())
        }
    }
}

/// Sets the scheme's header in place of all that the guest set and some server could take for it.
fn set(headers: &mut HeaderMap, scheme: &AuthScheme, value: &[u8]) -> Result<(), HttpError> {
    let header = scheme.header().unwrap_or_default();
    let wrong = || Kind::Invalid.because(format!("the secret cannot be in the header {header:?}"));
    let name: HeaderName = header.parse().map_err(|_| wrong())?;
    let mut value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
    // Keeps it out of `Debug`.
    value.set_sensitive(true);
    let same: Vec<HeaderName> = headers.keys().filter(|key| same_header(key.as_str(), header)).cloned().collect();
    for name in same {
        headers.remove(name);
    }
    headers.insert(name, value);
    Ok(())
}
