//! The floors of the house, held by a test: no module imports one that stands above it, and neighbours leave each other
//! alone. ARCHITECTURE.md draws the same picture. A module that is not listed here fails the test: give it its place.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the sources reads the sources")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the ground up. A module may import what stands on a lower floor; on its own floor only where `together` says so.
struct House {
    root: &'static str,
    floors: &'static [Floor],
}

struct Floor {
    name: &'static str,
    together: bool,
    modules: &'static [&'static str],
}

const CORE: House = House {
    root: "",
    floors: &[
        Floor {
            name: "values",
            together: true,
            modules: &[
                "ask",
                "broadcast",
                "claim",
                "config",
                "defences",
                "digest",
                "envelope",
                "event",
                "identity",
                "letter",
                "message",
                "name",
                "policy",
                "receipt",
                "record",
                "route",
                "snapshot",
                "stale",
                "status",
                "time",
            ],
        },
        Floor {
            name: "machines",
            together: false,
            modules: &[
                "agreement",
                "contacts",
                "governor",
                "health",
                "ledger",
                "membership",
                "plan",
                "reload",
                "versions",
                "view",
            ],
        },
        Floor { name: "node", together: false, modules: &["node"] },
    ],
};

const SHELL: House = House {
    root: "..",
    floors: &[
        Floor { name: "rock", together: false, modules: &["accept", "journal", "stamp"] },
        Floor {
            name: "ground",
            together: false,
            modules: &["config_file", "events", "http", "log", "memory", "service", "signals", "tls"],
        },
        Floor { name: "metrics", together: false, modules: &["metrics"] },
        Floor { name: "shells", together: false, modules: &["admin", "check", "handler", "net", "notices", "store"] },
        Floor { name: "driver", together: false, modules: &["driver"] },
        Floor { name: "daemon", together: false, modules: &["daemon"] },
        Floor { name: "demo", together: false, modules: &["demo"] },
        Floor { name: "cli", together: false, modules: &["cli"] },
    ],
};

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a source names after `crate::`.
fn imports(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .filter(|word| !word.is_empty())
        .collect()
}

fn check(house: &House) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(house.root);
    let place = |module: &str| house.floors.iter().position(|floor| floor.modules.contains(&module));
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_module = path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
        // Other packages, tests and golden files.
        if !is_module || ["core", "sim", "lib", "main", "tests", "golden", "target"].contains(&module.as_str()) {
            continue;
        }
        let Some(floor) = place(&module) else {
            wrong.push(format!("{module}: has no floor"));
            continue;
        };
        seen.insert(module.clone());
        let mut files = Vec::new();
        if path.is_dir() {
            sources(&path, &mut files);
        } else {
            files.push(path);
        }
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for import in imports(&text).into_iter().filter(|import| *import != module) {
                let Some(other) = place(import) else { continue };
                let may = other < floor || (other == floor && house.floors[floor].together);
                if !may {
                    let (here, there) = (house.floors[floor].name, house.floors[other].name);
                    wrong.push(format!("{} ({here}) imports {import} ({there})", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() >= 8, "the sources were found: {seen:?}");
}

#[test]
fn the_core_keeps_its_floors() {
    check(&CORE);
}

#[test]
fn the_shell_keeps_its_floors() {
    check(&SHELL);
}

#[test]
fn the_test_sees_imports() {
    let text = "use crate::view::View;\n// crate::ledger\nlet x = crate::plan::revision(&[]);";
    assert_eq!(imports(text), BTreeSet::from(["plan", "view"]));
}
