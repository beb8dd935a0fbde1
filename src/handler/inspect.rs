//! What can be told of a component without giving it anything: what it is made of, and what it says of itself.
//!
//! The bytes are read as they are, and nothing in them is believed; `describe` runs as the daemon would run it, from a
//! compiler's process with its limits, with nothing granted. Called by `picored handler inspect`.

use std::io::Read;

use picored_core::config::{Handler, Source};
use ring::digest;
use wasmparser::{CustomSectionReader, Encoding, KnownCustom, Parser, Payload, ProducersSectionReader};

use crate::handler::limits::MAX_COMPONENT_BYTES;
use crate::handler::source::Wasm;
use crate::handler::text::clean;
use crate::handler::{Description, Host, LoadError};

/// So many names of a kind are told.
const NAMES: usize = 256;
/// A name is cut to about so many bytes.
const NAME: usize = 256;

/// What a file says by its bytes alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// Its size in bytes.
    pub size: usize,
    /// Its SHA-256.
    pub digest: [u8; 32],
    /// The names of what it imports, in order.
    pub imports: Vec<String>,
    /// The names of what it exports, in order.
    pub exports: Vec<String>,
    /// Who says to have made it, of all its parts: field, name and version.
    pub producers: Vec<[String; 3]>,
}

/// Takes the component apart. What is malformed ends the list; whether it is whole is for the compiler to say.
///
/// # Errors
/// If it cannot be read, is too large, or is no component by its first bytes.
pub fn anatomy(source: &Source) -> Result<Anatomy, LoadError> {
    let wasm = Wasm::look(source)?;
    let read_error = |error| LoadError::Read { source_text: source.to_string(), error };
    let mut reader = wasm.reader().map_err(read_error)?.take(MAX_COMPONENT_BYTES);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(read_error)?;
    let digest = crate::handler::engine::as_array(digest::digest(&digest::SHA256, &bytes));
    let mut anatomy = Anatomy { size: bytes.len(), digest, ..Anatomy::default() };
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(&bytes) {
        let Ok(payload) = payload else { break };
        match payload {
            Payload::Version { encoding: Encoding::Component | Encoding::Module, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                let names = section.into_iter().map_while(Result::ok).map(|import| clean(import.name.name, NAME));
                anatomy.imports.extend(names.take(NAMES - anatomy.imports.len()));
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                let names = section.into_iter().map_while(Result::ok).map(|export| clean(export.name.name, NAME));
                anatomy.exports.extend(names.take(NAMES - anatomy.exports.len()));
            }
            Payload::CustomSection(section) => producers(&section, &mut anatomy.producers),
            _ => {}
        }
    }
    Ok(anatomy)
}

/// Adds what a section names, each once.
fn producers(section: &CustomSectionReader<'_>, found: &mut Vec<[String; 3]>) {
    let KnownCustom::Producers(fields) = section.as_known() else { return };
    let fields: ProducersSectionReader<'_> = fields;
    for field in fields.into_iter().map_while(Result::ok) {
        for value in field.values.into_iter().map_while(Result::ok) {
            let producer = [field.name, value.name, value.version].map(|text| clean(text, NAME));
            if found.len() < NAMES && !found.contains(&producer) {
                found.push(producer);
            }
        }
    }
}

impl Host {
    /// What the handler's component says of itself, as the daemon would hear it.
    ///
    /// # Errors
    /// Why the daemon would not load it.
    pub async fn describe(&self, handler: &Handler) -> Result<Description, LoadError> {
        Ok(self.load(handler).await?.description().clone())
    }
}
