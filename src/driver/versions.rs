//! Finds, keeps and loads the versions of a handler: the source's, one that was sent, the one before.
//!
//! Each ends in a version that has been compiled, linked and has described itself, or in why there is none; nothing
//! that runs is touched. Tasks of the driver's `handlers`.

use std::path::Path;
use std::sync::Arc;

use hyper::StatusCode;
use picored_core::config::{Handler, Source};
use picored_core::digest::Digest;

use crate::admin::{Refusal, Upload};
use crate::handler::{self, Host, LoadError, Loaded};
use crate::store::{Components, Installed};

/// A version of a handler that can run.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) loaded: Arc<Loaded>,
    pub(super) origin: Origin,
}

/// Where a version's component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Where the config says.
    Source,
    /// Among what was installed over the source.
    Installed,
}

impl Version {
    pub(super) fn digest(&self) -> Digest {
        self.loaded.digest()
    }
}

/// A version that may take over.
pub(super) struct Found {
    pub(super) version: Version,
    /// What the source held meanwhile, if it was looked at.
    pub(super) source: Option<Digest>,
}

/// What a handler has when a reload begins.
pub(super) struct Standing {
    pub(super) config: Handler,
    pub(super) components: Components,
    pub(super) current: Option<Version>,
    /// What the source held when it was last looked at.
    pub(super) source: Option<Digest>,
}

/// The version for another `config` of a handler: what was installed over its source, as long as that source is the same
/// (`is_replaced`: with other bytes), else the source's.
pub(super) async fn of_config(
    host: &Host,
    config: &Handler,
    standing: Option<&Standing>,
    is_replaced: bool,
) -> Result<Found, LoadError> {
    let current = standing.and_then(|standing| standing.current.as_ref());
    let is_same = |standing: &&Standing| standing.config.source == config.source && !is_replaced;
    let installed = current.filter(|version| version.origin == Origin::Installed).zip(standing.filter(is_same));
    let before = current.map(|version| version.loaded.clone());
    match installed {
        Some((version, standing)) => {
            let handler = at(config, &standing.components.path(&version.digest()));
            let loaded = host.load_after(&handler, before).await?;
            Ok(Found { version: Version { loaded, origin: Origin::Installed }, source: standing.source })
        }
        None => {
            let loaded = host.load_after(config, before).await?;
            let source = Some(loaded.digest());
            Ok(Found { version: Version { loaded, origin: Origin::Source }, source })
        }
    }
}

/// The version that a start runs, and what the source holds, if that is known: what was installed over the source, as
/// long as the source is what it was then, else the source's.
pub(super) async fn first(
    host: Host,
    components: Components,
    config: Handler,
) -> (Option<Digest>, Result<Version, String>) {
    let (kept, wanted) = (components.clone(), config.clone());
    let looked = apart(move || in_force(&kept, &wanted)).await;
    let (source, installed) = looked.unwrap_or_else(|fault| {
        tracing::error!(target: "picored::handler", handler = %config.name, fault, "the source runs");
        (None, None)
    });
    let (handler, origin) = match installed {
        Some(digest) => (at(&config, &components.path(&digest)), Origin::Installed),
        None => (config, Origin::Source),
    };
    match host.load(&handler).await {
        Ok(loaded) => {
            let source = source.or_else(|| (origin == Origin::Source).then(|| loaded.digest()));
            (source, Ok(Version { loaded, origin }))
        }
        Err(error) => (source, Err(error.to_string())),
    }
}

/// What the source holds, if there is anything to compare it with, and what was installed over it and still counts.
fn in_force(components: &Components, config: &Handler) -> (Option<Digest>, Option<Digest>) {
    let handler = &config.name;
    let installed = components.installed().unwrap_or_else(|error| {
        let text = "what was installed over the source is not known any more: the source runs";
        tracing::error!(target: "picored::handler", %handler, %error, "{text}");
        None
    });
    let Some(Installed { source, replaced, current, previous }) = installed else {
        components.tidy(&[]);
        return (None, None);
    };
    let now = handler::digest(&config.source).ok();
    // A source that cannot be read is not newer: what was installed is all there is.
    if source != config.source.to_string() || (now.is_some() && now != replaced) {
        let version = current.short();
        let text = "the source is another since this version was installed over it: the source runs";
        tracing::warn!(target: "picored::handler", %handler, version, "{text}");
        if let Err(error) = components.clear() {
            tracing::error!(target: "picored::handler", %handler, %error, "cannot forget the installed version");
        }
        components.tidy(&[]);
        return (now, None);
    }
    components.tidy(&[Some(current), previous].into_iter().flatten().collect::<Vec<_>>());
    let path = components.path(&current);
    match handler::digest(&Source::File(path.clone())) {
        Ok(found) if found == current => (now, Some(current)),
        found => {
            let file = path.display();
            let error = found.err().map_or_else(|| "its bytes are others".into(), |error| error.to_string());
            let text = "the installed version is damaged: the source runs";
            tracing::error!(target: "picored::handler", %handler, %file, error, "{text}");
            (now, None)
        }
    }
}

/// The version that was sent. It is kept in the handler's folder, and not in force yet.
pub(super) async fn of_upload(
    host: Host,
    components: Components,
    config: Handler,
    before: Option<Version>,
    upload: Upload,
) -> Result<Found, Refusal> {
    let (source, running) = (config.source.clone(), before.as_ref().map(Version::digest));
    let kept = apart(move || {
        let digest = handler::digest(&Source::File(upload.path().to_owned()));
        let digest = digest.map_err(|error| unfit(&error, upload.path()))?;
        if running == Some(digest) {
            return Ok((None, None));
        }
        let path = components.keep(upload.path(), &digest).map_err(|error| {
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, format!("cannot keep the component: {error}"))
        })?;
        Ok((Some(path), handler::digest(&source).ok()))
    });
    match (kept.await.map_err(fault)??, before) {
        ((None, source), Some(version)) => Ok(Found { version, source }),
        ((path, source), before) => {
            let path = path.expect("what is not kept runs already");
            let loaded = host.load_after(&at(&config, &path), before.map(|before| before.loaded)).await;
            let loaded = loaded.map_err(|error| unfit(&error, &path))?;
            Ok(Found { version: Version { loaded, origin: Origin::Installed }, source })
        }
    }
}

/// What the note of what was installed says to go back to: the version before, else the source's.
pub(super) async fn before_installed(
    host: Host,
    components: Components,
    config: Handler,
    before: Option<Version>,
) -> Result<Found, Refusal> {
    let folder = components.clone();
    let note = apart(move || folder.installed()).await.map_err(fault)?.map_err(|error| fault(error.to_string()))?;
    let Some(note) = note else {
        let reason = format!("there is nothing to go back to: {} runs what its source holds", config.name);
        return Err(Refusal::new(StatusCode::CONFLICT, reason));
    };
    let (handler, origin) = match &note.previous {
        Some(previous) => (at(&config, &components.path(previous)), Origin::Installed),
        None => (config, Origin::Source),
    };
    let loaded = host.load_after(&handler, before.map(|before| before.loaded)).await;
    let loaded = loaded.map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    let source = match origin {
        Origin::Source => Some(loaded.digest()),
        Origin::Installed => note.replaced,
    };
    Ok(Found { version: Version { loaded, origin }, source })
}

/// What the source holds now, unless that is what it held when it was looked at last: `known`.
pub(super) async fn of_source(
    host: Host,
    config: Handler,
    before: Option<Version>,
    known: Option<Digest>,
) -> Result<Option<Found>, Refusal> {
    let refused = |error: LoadError| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let source = config.source.clone();
    let digest = apart(move || handler::digest(&source)).await.map_err(fault)?.map_err(refused)?;
    if known == Some(digest) {
        return Ok(None);
    }
    let loaded = host.load_after(&config, before.map(|before| before.loaded)).await.map_err(refused)?;
    let source = Some(loaded.digest());
    Ok(Some(Found { version: Version { loaded, origin: Origin::Source }, source }))
}

/// The handler with its component at `path`.
fn at(config: &Handler, path: &Path) -> Handler {
    Handler { source: Source::File(path.to_owned()), ..config.clone() }
}

/// Why what was sent cannot run. Where it lies meanwhile means nothing to who sent it.
fn unfit(error: &LoadError, path: &Path) -> Refusal {
    let place = Source::File(path.to_owned()).to_string();
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string().replace(&place, "the component"))
}

fn fault(text: String) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// Runs `work`, which reads files, beside the driver's thread.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|fault| fault.to_string())
}
