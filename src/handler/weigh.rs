//! What a component takes of the host to be instantiated at all, told from its bytes alone.
//!
//! The limits of a run count a guest's memories, tables and core instances, but not what these instances are made of:
//! a module may have a million globals, and a component may hold components that hold components, so that a small file
//! becomes gigabytes of the host's memory before the guest has done anything. Called by the compiler's process, which
//! then validates; what is malformed passes here.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, ElementItems,
    Encoding, Parser, Payload,
};

use crate::handler::limits::compiler::{COMPONENT_PARTS, INSTANCE_BYTES};

// What an instance holds of each, in bytes, on a machine of 64 bits.
const IMPORT: u64 = 32;
const GLOBAL: u64 = 16;
const TAG: u64 = 16;
/// A function that can be pointed to has a record; nearly all exports are functions.
const EXPORT: u64 = 32;
/// The pointer, and the record of the function that is pointed to.
const ELEMENT: u64 = 8 + EXPORT;

/// One component on the way down to the one that is read.
#[derive(Default)]
struct Scope {
    /// Its parts, with those of the components that it instantiates.
    parts: u64,
    /// The parts of each component that it can name; `None` for one that somebody else hands it.
    components: Vec<Option<u64>>,
}

/// Whether instances of `component` keep within what [`compiler`](super::limits::compiler) says of them.
///
/// # Errors
/// A line that says what is too much.
pub(crate) fn check(component: &[u8]) -> Result<(), String> {
    let mut scopes: Vec<Scope> = Vec::new();
    let mut encoding = vec![];
    let mut module = 0_u64;
    for payload in Parser::new(0).parse_all(component) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { encoding: found, .. } => {
                encoding.push(found);
                match found {
                    Encoding::Module => module = 0,
                    Encoding::Component => scopes.push(Scope::default()),
                }
            }
            Payload::ImportSection(section) => add(&mut module, section.into_imports().count(), IMPORT),
            Payload::GlobalSection(section) => add(&mut module, section.count() as usize, GLOBAL),
            Payload::TagSection(section) => add(&mut module, section.count() as usize, TAG),
            Payload::ExportSection(section) => add(&mut module, section.count() as usize, EXPORT),
            Payload::ElementSection(section) => {
                for element in section.into_iter().flatten() {
                    let count = match element.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    add(&mut module, count as usize, ELEMENT);
                }
            }
            Payload::End(_) if encoding.pop() == Some(Encoding::Component) => {
                let done = scopes.pop().map_or(0, |scope| scope.parts);
                if let Some(outer) = scopes.last_mut() {
                    outer.components.push(Some(done.saturating_add(1)));
                }
            }
            other => match scopes.last_mut() {
                Some(_) => component_section(other, &mut scopes)?,
                None => return Ok(()),
            },
        }
        if module > INSTANCE_BYTES {
            return Err(format!(
                "a module of it has so many imports, globals, exports or elements that an instance takes {module} bytes \
                 of the host; the limit is {INSTANCE_BYTES}"
            ));
        }
        if let Some(scope) = scopes.last().filter(|scope| scope.parts > COMPONENT_PARTS) {
            return Err(format!(
                "it is made of {} or more instances, functions and types; the limit is {COMPONENT_PARTS}",
                scope.parts
            ));
        }
    }
    Ok(())
}

fn add(sum: &mut u64, count: usize, each: u64) {
    *sum = sum.saturating_add((count as u64).saturating_mul(each));
}

/// Counts a section of the innermost of `scopes`.
fn component_section(section: Payload<'_>, scopes: &mut [Scope]) -> Result<(), String> {
    let Some((scope, outer)) = scopes.split_last_mut() else { return Ok(()) };
    match section {
        Payload::InstanceSection(section) => add(&mut scope.parts, section.count() as usize, 1),
        Payload::ComponentCanonicalSection(section) => add(&mut scope.parts, section.count() as usize, 1),
        Payload::ComponentTypeSection(section) => add(&mut scope.parts, section.count() as usize, 1),
        Payload::ComponentImportSection(section) => {
            let components =
                section.into_iter().flatten().filter(|one| matches!(one.ty, ComponentTypeRef::Component(_)));
            scope.components.extend(components.map(|_| None));
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section.into_iter().flatten() {
                match alias {
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                        scope.components.push(None);
                    }
                    ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                        let from = (count as usize).checked_sub(1).and_then(|up| outer.iter().rev().nth(up));
                        let found = from.unwrap_or(scope).components.get(index as usize).copied().flatten();
                        scope.components.push(found);
                    }
                    _ => {}
                }
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section.into_iter().flatten().filter(|one| one.kind == ComponentExternalKind::Component) {
                let found = scope.components.get(export.index as usize).copied().flatten();
                scope.components.push(found);
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section.into_iter().flatten() {
                let ComponentInstance::Instantiate { component_index, .. } = instance else { continue };
                match scope.components.get(component_index as usize) {
                    Some(Some(parts)) => scope.parts = scope.parts.saturating_add(*parts),
                    Some(None) => return Err("it instantiates a component that it is handed, of unknown size".into()),
                    None => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}
