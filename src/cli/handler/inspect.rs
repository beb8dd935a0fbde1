//! `picored handler inspect`: what a component is made of, what it asks for, and what a config grants of that.
//!
//! No daemon is needed and nothing is granted. The component is compiled and described as the daemon would do it, with
//! the same limits, in a folder of its own that is gone afterwards.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use picored_core::ask;
use picored_core::config::{Config, Handler, Source};
use picored_core::name::HandlerName;
use serde::Serialize;

use crate::handler::{Anatomy, Description, Host, HostConfig, Limits, Secrets, anatomy};
use crate::log::printable;
use crate::metrics::Metrics;
use crate::store;

/// Look at a component before it is granted anything
///
/// Shows its imports, size, digest and makers, and what it asks for. With --config and --handler, also which of its asks
/// that handler's section grants, and the lines that would grant the rest; the component then is the section's own, or
/// SOURCE in its place. A component can import what it likes: what it may do is decided by grants alone.
///
/// With --json: an object with `source`, `size`, `sha256`, `imports`, `exports`, `producers`, `description` and `asks`,
/// and `error` if the daemon would not load it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored handler inspect handler.wasm\n  picored handler inspect \
                        builtin:dns-powerdns\n  picored handler inspect --config /etc/picored.toml --handler dns\n\n\
                        Exit code 1 if the daemon would not load it.")]
pub(super) struct Args {
    /// A component's file, or builtin:NAME
    #[arg(required_unless_present = "handler")]
    source: Option<String>,
    /// The config whose grants are compared
    #[arg(long, value_name = "FILE", requires = "handler")]
    config: Option<PathBuf>,
    /// The handler in that config
    #[arg(long, value_name = "NAME", requires = "config")]
    handler: Option<HandlerName>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut handler = match (&args.config, &args.handler) {
        (Some(path), Some(name)) => configured(path, name)?,
        _ => nothing_granted(),
    };
    if let Some(source) = &args.source {
        handler.source = parse(source);
    }
    let anatomy = anatomy(&handler.source)?;
    let described = describe(&handler)?;
    let report = Report::new(&handler, anatomy, &described, args.handler.is_some());
    if args.json {
        crate::cli::print_json(&report)?;
    } else {
        crate::cli::print(&report.text())?;
    }
    match described {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(reason) => bail!(reason),
    }
}

fn parse(source: &str) -> Source {
    match source.split_once(':') {
        Some(("builtin", name)) => Source::Builtin(name.to_owned()),
        Some(("file", path)) => Source::File(path.into()),
        _ => Source::File(source.into()),
    }
}

fn configured(path: &Path, name: &HandlerName) -> anyhow::Result<Handler> {
    let handlers = crate::config_file::read(path)?.handlers;
    let known: Vec<String> = handlers.iter().map(|handler| handler.name.to_string()).collect();
    let found = handlers.into_iter().find(|handler| handler.name == *name);
    found.with_context(|| format!("{} has no handler {name}; it has: {}", path.display(), known.join(", ")))
}

/// A section with no more than it must have.
fn nothing_granted() -> Handler {
    let text = "node = { name = \"a\", bind = \"127.0.0.1:0\" }\ncluster = { name = \"a\" }\n\
                [[handler]]\nname = \"inspected\"\nsource = \"builtin:any\"\n";
    let config = Config::parse(text).expect("the text is sound");
    config.handlers.into_iter().next().expect("it has a handler")
}

/// What it says of itself, or why the daemon would not load it.
fn describe(handler: &Handler) -> anyhow::Result<Result<Description, String>> {
    let folder = Folder::new()?;
    let runtime = crate::cli::runtime()?;
    runtime.block_on(async {
        let host = Host::new(HostConfig {
            cache_dir: folder.0.join("code"),
            compiler: std::env::current_exe().context("cannot find this program's own file")?,
            node_key: store::new_key(),
            limits: Limits::default(),
            metrics: Metrics::default(),
            secrets: Secrets::none(),
        })?;
        // Its grants are only for comparing; the secrets that go with them are not even read.
        let handler = Handler { http: Vec::new(), ..handler.clone() };
        tokio::select! {
            described = host.describe(&handler) => Ok(described.map_err(|error| error.to_string())),
            // So that the folder goes.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// A folder of this process's own, open to nobody else; removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let id: String = store::new_key()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("picored-inspect-{id}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| {
            format!("cannot make the folder {}: set TMPDIR to one that can be written", path.display())
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a folder for temporary files is harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Serialize)]
struct Report {
    source: String,
    size: usize,
    sha256: String,
    imports: Vec<String>,
    exports: Vec<String>,
    producers: Vec<Producer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<About>,
    asks: Vec<Ask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Producer {
    field: String,
    name: String,
    version: String,
}

#[derive(Serialize)]
struct About {
    name: String,
    version: String,
    summary: String,
}

#[derive(Serialize)]
struct Ask {
    kind: String,
    value: String,
    reason: String,
    /// Only where there is a section to hold it against.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Report {
    fn new(handler: &Handler, anatomy: Anatomy, described: &Result<Description, String>, compare: bool) -> Self {
        let Anatomy { size, digest, imports, exports, producers } = anatomy;
        let said = described.as_ref().ok();
        let ask = |want: &crate::handler::Want| {
            let standing = compare.then(|| ask::standing(&want.kind, &want.value, handler));
            Ask {
                kind: want.kind.clone(),
                value: want.value.clone(),
                reason: want.reason.clone(),
                standing: standing.as_ref().map(ask::Standing::as_str),
                remedy: standing.map(|standing| standing.remedy().to_owned()).unwrap_or_default(),
            }
        };
        Self {
            source: handler.source.to_string(),
            size,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            imports,
            exports,
            producers: producers.into_iter().map(|[field, name, version]| Producer { field, name, version }).collect(),
            description: said.map(|said| About {
                name: said.name.clone(),
                version: said.version.clone(),
                summary: said.summary.clone(),
            }),
            asks: said.map_or_else(Vec::new, |said| said.wants.iter().map(ask).collect()),
            error: described.as_ref().err().cloned(),
        }
    }

    fn text(&self) -> String {
        let maker = |maker: &Producer| format!("{} {}", maker.name, maker.version).trim_end().to_owned();
        let mut rows = vec![
            ("source", self.source.clone()),
            ("size", format!("{} bytes", self.size)),
            ("sha256", self.sha256.clone()),
            ("made by", listed(&self.producers.iter().map(maker).collect::<Vec<_>>())),
            ("exports", listed(&self.exports)),
        ];
        if let Some(About { name, version, summary }) = &self.description {
            rows.push(("says it is", format!("{name} {version}: {summary}")));
        }
        let mut text: String = rows.iter().map(|(name, value)| format!("{name:<10}  {}\n", printable(value))).collect();
        text += "imports\n";
        text.extend(self.imports.iter().map(|import| format!("  {}\n", printable(import))));
        if !self.asks.is_empty() {
            text += "asks\n";
        }
        for ask in &self.asks {
            let standing = ask.standing.map(|standing| format!("{standing:<8}")).unwrap_or_default();
            let line = format!("{standing}{} {} ({})", ask.kind, ask.value, ask.reason);
            text += &format!("  {}\n{}", printable(&line), super::indented(&ask.remedy));
        }
        text
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}
