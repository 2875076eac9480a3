//! Who imports whom within a crate, read from its sources.
//!
//! ```text
//!   src/a/b:  use crate::c::{D, e::F};   ──►  a/b imports c and c/e
//! ```
//!
//! A module is named by its path below `src`, without `.rs`. Tests, and modules that exist for
//! tests alone, do not count. A name that the crate's root re-exports counts as an import of the
//! module it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module of a crate, and the modules of the same crate that it imports.
pub(crate) type Imports = BTreeMap<String, BTreeSet<String>>;

/// Reads a crate's `src`.
pub(crate) fn imports_of(src: &Path) -> Imports {
    let mut sources = BTreeMap::new();
    read(src, src, &mut sources);
    remove_tests(&mut sources);
    let root = sources.get("lib").or(sources.get("main")).expect("a crate has a root").clone();
    let re_exports = re_exports(&root);
    let names: BTreeSet<String> = sources.keys().cloned().collect();
    let of = |(module, code): (&String, &String)| {
        let imported = paths(code).into_iter().filter_map(|path| {
            let path = absolute(module, &path)?;
            let from_root = || re_exports.get(path.first()?).cloned();
            longest(&names, &path).or_else(from_root).filter(|found| found != module)
        });
        (module.clone(), imported.collect())
    };
    sources.iter().filter(|(module, _)| !matches!(&***module, "lib" | "main")).map(of).collect()
}

/// The circles: sets of modules each of which reaches all others of its set.
pub(crate) fn circles(imports: &Imports) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|module| (&**module, reach(imports, module))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (module, others) in &reached {
        if !others.contains(module) || circles.iter().any(|circle| circle.contains(*module)) {
            continue;
        }
        let returns = |other: &&&str| reached[**other].contains(module);
        circles.push(others.iter().filter(returns).map(|other| (*other).to_owned()).collect());
    }
    circles
}

fn reach<'a>(imports: &'a Imports, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = imports[from].iter().map(|module| &**module).collect();
    while let Some(module) = next.pop() {
        if reached.insert(module)
            && let Some(further) = imports.get(module)
        {
            next.extend(further.iter().map(|module| &**module));
        }
    }
    reached
}

fn read(src: &Path, folder: &Path, sources: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            read(src, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src).unwrap().with_extension("");
            let name = name.to_str().unwrap().to_owned();
            if name.split('/').all(|part| part != "tests") {
                sources.insert(name, code(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
}

/// Takes out every module that is declared for tests alone, with all below it.
fn remove_tests(sources: &mut BTreeMap<String, String>) {
    let of = |(module, code): (&String, &String)| -> Vec<String> {
        let folder = match &**module {
            "lib" | "main" => String::new(),
            _ => format!("{module}/"),
        };
        modules_of_tests(code).map(|name| format!("{folder}{name}")).collect()
    };
    let tests: Vec<String> = sources.iter().flat_map(of).collect();
    let is_below = |module: &str, test: &str| {
        module.strip_prefix(test).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    sources.retain(|module, _| !tests.iter().any(|test| is_below(module, test)));
}

/// What `#[cfg(test)] mod name;` declares.
fn modules_of_tests(code: &str) -> impl Iterator<Item = &str> {
    let declared = code.split("#[cfg(test)]\nmod ").skip(1);
    declared.filter_map(|rest| rest.lines().next()?.strip_suffix(';'))
}

/// Without comments, and without the module of tests at the end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

/// What `pub use module::{Name, …};` in a crate's root gives out: name to module.
fn re_exports(root: &str) -> BTreeMap<String, String> {
    let given = root.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next());
    given
        .flat_map(expand)
        .filter_map(|path| Some((path.last()?.clone(), path.first()?.clone())))
        .collect()
}

/// Every path in the code that begins with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            found.extend(expand(&code[at..]));
        }
    }
    found
}

/// `a::{b, c::d}` is a::b and a::c::d; what follows the path is left alone.
fn expand(text: &str) -> Vec<Vec<String>> {
    let mut prefix = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let name_bytes =
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if name_bytes > 0 {
            prefix.push(rest[..name_bytes].to_owned());
            rest = &rest[name_bytes..];
        } else if let Some(group) = rest.strip_prefix('{') {
            let tails = parts(group).into_iter().flat_map(expand);
            return tails.map(|tail| [prefix.clone(), tail].concat()).collect();
        }
        match rest.strip_prefix("::") {
            Some(further) => rest = further,
            None => return vec![prefix],
        }
    }
}

/// What stands between the commas of a group, up to its closing brace.
fn parts(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

/// From the crate's root. `None`: above it.
fn absolute(module: &str, path: &[String]) -> Option<Vec<String>> {
    let mut base: Vec<String> = match &*path[0] {
        "crate" => Vec::new(),
        _ => module.split('/').map(str::to_owned).collect(),
    };
    let mut rest = path;
    while let Some(first) =
        rest.first().filter(|name| matches!(&***name, "crate" | "self" | "super"))
    {
        if first == "super" {
            base.pop()?;
        }
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The innermost module on the path.
fn longest(names: &BTreeSet<String>, path: &[String]) -> Option<String> {
    (1..=path.len()).rev().map(|len| path[..len].join("/")).find(|name| names.contains(name))
}

#[test]
fn paths_are_found_in_every_form() {
    let code =
        "use crate::a::{B, c::{self, D}};\nuse super::e;\nfn f() { crate::g::h(super::super::I) }";
    let found: Vec<String> = paths(code).iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::a::B",
        "crate::a::c::self",
        "crate::a::c::D",
        "crate::g::h",
        "super::e",
        "super::super::I",
    ];
    assert_eq!(found, expected);
    let from = |path: &str| {
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        absolute("x/y", &path).map(|path| path.join("/"))
    };
    assert_eq!(from("super::e").as_deref(), Some("x/e"));
    assert_eq!(from("super::super::I").as_deref(), Some("I"));
    assert_eq!(from("crate::a::c::D").as_deref(), Some("a/c/D"));
}

#[test]
fn a_module_for_tests_alone_is_left_out_with_what_is_below_it() {
    let sources = [("lib", "#[cfg(test)]\nmod a;\nmod ab;\n"), ("a", ""), ("a/b", ""), ("ab", "")];
    let mut sources: BTreeMap<String, String> =
        sources.map(|(module, code)| (module.to_owned(), code.to_owned())).into();
    remove_tests(&mut sources);
    assert_eq!(sources.into_keys().collect::<Vec<_>>(), ["ab", "lib"]);
}

#[test]
fn a_circle_is_found_and_a_chain_is_none() {
    let imports = |pairs: &[(&str, &[&str])]| -> Imports {
        let of = |(from, to): &(&str, &[&str])| {
            ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect())
        };
        pairs.iter().map(of).collect()
    };
    let chain = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &[])]);
    assert!(circles(&chain).is_empty());
    let circle = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
    assert_eq!(circles(&circle), [BTreeSet::from(["b".to_owned(), "c".to_owned()])]);
}
