//! Where a component's bytes come from, and the first look at them.
//!
//! Bytes are streamed, never kept: the daemon needs their digest, and the compiler's process the rest.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use picored_core::config::Source;
use ring::digest;

use crate::handler::LoadError;
use crate::handler::engine::as_array;
use crate::handler::limits::MAX_COMPONENT_BYTES;

/// The handlers inside the binary.
const BUILTIN: &[(&str, &[u8])] = &[
    ("dns-cloudflare", include_bytes!("../../handlers-wasm/dist/dns-cloudflare.wasm")),
    ("dns-powerdns", include_bytes!("../../handlers-wasm/dist/dns-powerdns.wasm")),
    ("webhook", include_bytes!("../../handlers-wasm/dist/webhook.wasm")),
];

/// What the first eight bytes of WebAssembly say: the magic, then version and layer.
const MAGIC: &[u8] = b"\0asm";
const MODULE: &[u8] = &[1, 0, 0, 0];
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

/// A component's bytes, by where they are and what they hash to.
#[derive(Clone, Debug)]
pub(crate) struct Wasm {
    place: Place,
    /// SHA-256.
    pub(crate) digest: [u8; 32],
}

#[derive(Clone, Debug)]
enum Place {
    Inside(&'static [u8]),
    File(PathBuf),
}

impl Wasm {
    /// Finds the component, sees that it is one by its first bytes, and hashes it. Reads the whole file.
    pub(crate) fn look(source: &Source) -> Result<Self, LoadError> {
        let place = match source {
            Source::Builtin(name) => Place::Inside(builtin(name)?),
            Source::File(path) => Place::File(path.clone()),
        };
        let mut wasm = Self { place, digest: [0; 32] };
        let read_error = |error| LoadError::Read { source_text: source.to_string(), error };
        let mut reader = wasm.reader().map_err(read_error)?;
        let mut head = Vec::new();
        reader.by_ref().take(8).read_to_end(&mut head).map_err(read_error)?;
        check_head(&head).map_err(|why| LoadError::NotAComponent { source_text: source.to_string(), why })?;
        let rest = io::copy(&mut reader.by_ref().take(MAX_COMPONENT_BYTES), &mut io::sink()).map_err(read_error)?;
        if head.len() as u64 + rest > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge { source_text: source.to_string() });
        }
        wasm.digest = reader.digest();
        Ok(wasm)
    }

    /// The bytes, hashed while they are read.
    pub(crate) fn reader(&self) -> io::Result<Reader> {
        let bytes: Box<dyn Read + Send> = match &self.place {
            Place::Inside(bytes) => Box::new(*bytes),
            Place::File(path) => {
                // Before it is opened: opening a pipe would wait for a writer.
                if !std::fs::metadata(path)?.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                Box::new(File::open(path)?)
            }
        };
        Ok(Reader { bytes, context: digest::Context::new(&digest::SHA256) })
    }
}

fn builtin(name: &str) -> Result<&'static [u8], LoadError> {
    BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes).ok_or_else(|| LoadError::UnknownBuiltin {
        name: name.to_owned(),
        known: BUILTIN.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
    })
}

fn check_head(head: &[u8]) -> Result<(), &'static str> {
    match head.strip_prefix(MAGIC) {
        Some(COMPONENT) => Ok(()),
        Some(MODULE) => Err("it is a core module; wrap it with `wasm-tools component new`"),
        Some(_) => Err("it is WebAssembly of a version that is not known here"),
        None if head.is_empty() => Err("it is empty"),
        None => Err("it is not WebAssembly"),
    }
}

/// Reads and hashes.
pub(crate) struct Reader {
    bytes: Box<dyn Read + Send>,
    context: digest::Context,
}

impl Reader {
    /// The digest of what was read so far.
    pub(crate) fn digest(self) -> [u8; 32] {
        as_array(self.context.finish())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_look_tells_what_it_is() {
        assert_eq!(check_head(b"\0asm\x0d\0\x01\0"), Ok(()));
        assert!(check_head(b"\0asm\x01\0\0\0").unwrap_err().contains("core module"));
        assert!(check_head(b"\0asm\x63\0\0\0").unwrap_err().contains("version"));
        assert!(check_head(b"#!/bin/s").unwrap_err().contains("not WebAssembly"));
        assert!(check_head(b"\0as").unwrap_err().contains("not WebAssembly"));
        assert!(check_head(b"").unwrap_err().contains("empty"));
    }
}
