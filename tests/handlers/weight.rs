//! Small files that would be large once instantiated. They are refused before anything is compiled, and named.
//!
//! Written byte by byte onto a good handler, since no toolchain makes such things.

use std::fs;

use picored::handler::Limits;
use tempfile::TempDir;

use crate::support::{fixture, handler, host_in};

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Ids of sections: in a component, then in a module.
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
const NESTED: u8 = 4;
const INSTANCE: u8 = 5;
const TYPE: u8 = 7;
const IMPORT: u8 = 10;
const GLOBAL: u8 = 6;
const ELEMENT: u8 = 9;

/// A number as WebAssembly writes it.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], number(content.len()).as_slice(), content].concat()
}

/// `count` times the same item.
fn items(count: usize, item: &[u8]) -> Vec<u8> {
    [number(count), item.repeat(count)].concat()
}

/// How many sections of this id `component` has.
fn sections(component: &[u8], id: u8) -> usize {
    let (mut at, mut count) = (COMPONENT.len(), 0);
    while at < component.len() {
        count += usize::from(component[at] == id);
        let (mut size, mut shift) = (0, 0);
        loop {
            at += 1;
            size |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] < 0x80 {
                break;
            }
        }
        at += 1 + size;
    }
    count
}

/// A good handler that also makes 60 instances of a module with these sections.
fn with_module(sections_of_module: &[u8]) -> Vec<u8> {
    let good = fs::read(fixture("ok")).unwrap();
    // One module a section: its index is how many came before. Instantiated without arguments.
    let instance = [&[0], number(sections(&good, CORE_MODULE)).as_slice(), &[0]].concat();
    let module = section(CORE_MODULE, &[MODULE, sections_of_module].concat());
    [good, module, section(CORE_INSTANCE, &items(60, &instance))].concat()
}

async fn refusal(component: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("given.wasm");
    fs::write(&path, component).unwrap();
    // A cache of its own: what was compiled before there was a limit would be found in another.
    match host_in(&directory.path().join("cache"), Limits::default()).load(&handler(path)).await {
        Ok(_) => panic!("{} bytes were taken", component.len()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn an_instance_of_a_module_is_bounded() {
    // Mutable 64-bit globals that begin as 1; function references to nothing.
    let globals = section(GLOBAL, &items(70_000, &[0x7e, 1, 0x42, 1, 0x0b]));
    let elements = [&[1, 5, 0x70], items(30_000, &[0xd0, 0x70, 0x0b]).as_slice()].concat();
    for module in [globals, section(ELEMENT, &elements)] {
        let said = refusal(&with_module(&module)).await;
        assert!(said.contains("an instance takes 1") && said.ends_with("the limit is 1048576"), "{said}");
    }
}

#[tokio::test]
async fn components_in_components_are_bounded() {
    let holding =
        |inner: &[u8]| [COMPONENT, &section(NESTED, inner), &section(INSTANCE, &items(400, &[0, 0, 0]))].concat();
    let said = refusal(&holding(&holding(COMPONENT))).await;
    assert!(
        said.ends_with("it is made of 160400 or more instances, functions and types; the limit is 100000"),
        "{said}"
    );

    // Nobody can tell what one is made of that comes from elsewhere.
    let given = [section(TYPE, &[1, 0x41, 0]), section(IMPORT, b"\x01\0\x01c\x04\0"), section(INSTANCE, &[1, 0, 0, 0])];
    let said = refusal(&[COMPONENT, &given.concat()].concat()).await;
    assert!(said.ends_with("it instantiates a component that it is handed, of unknown size"), "{said}");
}
