//! The house's own rules, held by a test: who may know whom, where `unsafe` is, what files may not
//! hold.

mod imports;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{circles, imports_of};
use names::{head_of, is_there, names_in};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Each crate and the crates of the workspace it may know.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("batch", &[]),
    ("wire", &["penstock-batch"]),
    ("storage", &["penstock-batch"]),
    ("ring", &[]),
    ("coordinator", &["penstock-wire"]),
    (
        "server",
        &[
            "penstock-batch",
            "penstock-wire",
            "penstock-storage",
            "penstock-ring",
            "penstock-coordinator",
        ],
    ),
    ("load", &["penstock-batch", "penstock-wire"]),
];

/// Words of unfinished work.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "#[ignore"];

#[test]
fn no_crate_knows_more_than_it_may() {
    for (name, may_know) in MAY_KNOW {
        let manifest = Path::new(ROOT).join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let names = dependencies(&manifest);
        for known in names.filter(|name| name.starts_with("penstock-")) {
            assert!(may_know.contains(&known), "{name} depends on {known}");
        }
    }
}

#[test]
fn every_crate_is_in_the_plan() {
    let mut crates: Vec<String> = fs::read_dir(Path::new(ROOT).join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    crates.sort();
    let mut planned: Vec<&str> = MAY_KNOW.iter().map(|(name, _)| *name).collect();
    planned.sort_unstable();
    assert_eq!(crates, planned);
}

#[test]
fn unsafe_is_in_one_file() {
    let lifts: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains("allow(unsafe_code"))
        .filter(|path| !is_test(path))
        .collect();
    assert_eq!(lifts, [Path::new(ROOT).join("crates/ring/src/sys.rs")]);
}

/// A simulated disk sees only what goes through the trait.
#[test]
fn storage_touches_files_through_its_disk_alone() {
    let folder = Path::new(ROOT).join("crates/storage/src");
    let within = sources().into_iter().filter(|path| path.starts_with(&folder));
    for path in within.filter(|path| !path.ends_with("disk.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for way in ["fs::read", "fs::write", "fs::re", "fs::create", "File::open", "OpenOptions"] {
            assert!(!code.contains(way), "{} has {way}", path.display());
        }
    }
}

/// They panic where the system has no thread: `penstock_ring::blocking` has threads that are always
/// there.
#[test]
fn no_thread_is_taken_for_granted() {
    let folders =
        ["crates/ring/src", "crates/server/src"].map(|folder| Path::new(ROOT).join(folder));
    let is_within = |path: &PathBuf| folders.iter().any(|folder| path.starts_with(folder));
    // Tests have files, or the end of one, of their own.
    let is_of_tests = |path: &Path| {
        ["tests.rs", "starved.rs", "kernel_contract.rs", "probe.rs"]
            .iter()
            .any(|name| path.ends_with(name))
    };
    for path in sources().iter().filter(|path| is_within(path) && !is_of_tests(path)) {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for way in ["spawn_blocking(", "block_in_place(", "thread::spawn(", "scope.spawn("] {
            assert!(!code.contains(way), "{} has {way}", path.display());
        }
    }
}

/// The server refuses the tests' own variables as unknown settings.
#[test]
fn tests_start_programs_without_their_own_variables() {
    for path in sources().iter().filter(|path| is_test(path) && !path.ends_with("process.rs")) {
        let text = fs::read_to_string(path).unwrap();
        let bare = ["Command::new(", "binary("].concat();
        assert!(!text.contains(&bare), "{}: use program()", path.display());
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for path in sources().iter().filter(|path| !path.ends_with("tests/house/main.rs")) {
        let text = fs::read_to_string(path).unwrap();
        for word in UNFINISHED {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn every_source_file_says_at_its_head_what_it_is() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no head comment", path.display());
    }
}

/// What a manifest depends on, in whatever form; what its tests alone use does not count.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut section = "";
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            section = line;
        }
        let counts = section.contains("dependencies") && !section.contains("dev-dependencies");
        let name = line.trim().trim_start_matches("[dependencies.");
        counts.then(|| name.split(['.', '=', ' ', ']']).next()).flatten()
    })
}

#[test]
fn a_dependency_is_seen_in_every_form() {
    let manifest = "[package]\nname = \"penstock-x\"\n[dependencies]\npenstock-a.workspace = true\n\
        penstock-b = { path = \"b\" }\n[dev-dependencies]\npenstock-c.workspace = true\n\
        [target.'cfg(unix)'.dependencies]\npenstock-d = \"1\"\n[dependencies.penstock-e]\npath = \"e\"\n";
    let seen: Vec<&str> =
        dependencies(manifest).filter(|name| name.starts_with("penstock-")).collect();
    assert_eq!(seen, ["penstock-a", "penstock-b", "penstock-d", "penstock-e"]);
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["crates", "tests", "benches"] {
        collect(&Path::new(ROOT).join(folder), &mut found);
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_protocol_page_lists_what_is_served() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/PROTOCOL.md")).unwrap();
    let listed: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("## APIs"))
        .take_while(|line| !line.starts_with("## Requests"))
        .filter(|line| line.starts_with('|') && line[2..].starts_with(char::is_numeric))
        .collect();
    let served = penstock_wire::SUPPORTED;
    assert_eq!(listed.len(), served.len());
    for (row, api) in listed.iter().zip(served) {
        let (key, name) = (api.key as i16, api.key.name());
        let start = format!("| {key} | {name} | {}-{} |", api.min_version, api.max_version);
        assert!(row.starts_with(&start), "the page says {row}, served is {start}");
    }
}

/// Each API is found by its row in the head comment of a file of the api room.
#[test]
fn every_api_has_a_row_in_the_head_of_its_file() {
    let server = Path::new(ROOT).join("crates/server/src");
    let is_of_api =
        |path: &PathBuf| path == &server.join("api.rs") || path.starts_with(server.join("api"));
    let heads: Vec<String> = sources()
        .iter()
        .filter(|path| is_of_api(path))
        .map(|path| head_of(&fs::read_to_string(path).unwrap()))
        .collect();
    for api in penstock_wire::SUPPORTED {
        let (key, name) = (api.key as i16, api.key.name());
        let row = format!("//! | {key} | {name} | {}-{} |", api.min_version, api.max_version);
        let with_it = heads.iter().filter(|head| head.contains(&row)).count();
        assert_eq!(with_it, 1, "heads with `{row}`");
    }
}

/// Circles of imports that stay, each with its reason.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "server",
        &["net/connection", "net/worker"],
        "a worker begins connections, a connection lives on its worker",
    ),
    (
        "server",
        &["broker/partition/group_commit", "broker/partition/queue"],
        "a commit's lead is what the queue hands on",
    ),
    (
        "server",
        &["adopt/committed_offsets", "adopt/committed_offsets/replay"],
        "one module in two files",
    ),
    ("server", &["adopt/metadata_log", "adopt/metadata_log/replay"], "one module in two files"),
    (
        "wire",
        &["api", "field", "header", "reader", "sample", "schema", "writer"],
        "the macro of the messages names all that a field needs",
    ),
];

/// The rooms (folders) of crates: the crate, the room, and the rooms and root modules that it may
/// know.
const ROOMS: &[(&str, &str, &[&str])] = &[
    (
        "server",
        "net",
        &["api", "broker", "causes", "config", "clock", "log_budget", "pace", "stop"],
    ),
    ("server", "api", &["broker", "causes", "config", "clock", "log_budget", "pace", "stop"]),
    (
        "server",
        "broker",
        &["adopt", "causes", "config", "clock", "log_budget", "pace", "small_file", "stop"],
    ),
    ("server", "background", &["broker", "config", "clock", "stop"]),
    ("server", "http", &["broker", "config", "stop"]),
    ("server", "commands", &["adopt", "broker", "causes", "config", "export"]),
    ("server", "adopt", &[]),
    ("server", "export", &["broker"]),
    ("server", "config", &["log_budget"]),
    (
        "storage",
        "data_dir",
        &["checkpoint", "disk", "error", "log", "log_config", "recovery", "topic_name", "units"],
    ),
    (
        "storage",
        "recovery",
        &[
            "checkpoint",
            "damage",
            "disk",
            "error",
            "find",
            "log",
            "log_config",
            "segment",
            "topic_name",
            "units",
        ],
    ),
    ("storage", "scrub", &["damage", "disk", "error", "log", "log_config", "segment", "units"]),
    (
        "storage",
        "log",
        &[
            "checkpoint",
            "damage",
            "disk",
            "error",
            "find",
            "log_config",
            "segment",
            "topic_name",
            "units",
        ],
    ),
    ("storage", "find", &["segment", "units"]),
    ("storage", "segment", &["damage", "disk", "error", "units"]),
    ("storage", "checkpoint", &["disk", "error", "topic_name", "units"]),
    (
        "ring",
        "transfer",
        &["counters", "error", "file_range", "ring_config", "shortage", "sight", "sys"],
    ),
    ("ring", "scans", &["file_range"]),
    (
        "ring",
        "uring",
        &[
            "counters",
            "epoll",
            "error",
            "file_range",
            "operations",
            "ring_config",
            "shortage",
            "socket",
            "sys",
        ],
    ),
];

#[test]
fn modules_import_in_one_direction() {
    for (name, _) in MAY_KNOW {
        let imports = imports_of(&Path::new(ROOT).join("crates").join(name).join("src"));
        for circle in circles(&imports) {
            let is_listed = CIRCLES.iter().any(|(krate, modules, _)| {
                krate == name && circle.iter().all(|module| modules.contains(&&**module))
            });
            assert!(is_listed, "{name}: a circle of imports: {circle:?}");
        }
    }
}

#[test]
fn no_room_knows_more_than_it_may() {
    let room = |module: &str| module.split('/').next().unwrap_or_default().to_owned();
    let crates: BTreeSet<&str> = ROOMS.iter().map(|(krate, ..)| *krate).collect();
    for krate in crates {
        let plan: BTreeMap<&str, &[&str]> =
            ROOMS.iter().filter(|row| row.0 == krate).map(|row| (row.1, row.2)).collect();
        let imports = imports_of(&Path::new(ROOT).join("crates").join(krate).join("src"));
        for (module, imported) in &imports {
            let name = room(module);
            let Some(may_know) = plan.get(&*name) else {
                assert!(!module.contains('/'), "{krate}: {module} is in a room without a plan");
                continue;
            };
            for other in imported.iter().map(|other| room(other)).filter(|other| *other != name) {
                assert!(may_know.contains(&&*other), "{krate}: {module} imports from {other}");
            }
        }
        for name in plan.keys() {
            assert!(imports.contains_key(*name), "{krate} has no room {name}");
        }
    }
}

/// Files that prose names and the repository does not hold: a server's own, or a machine's.
const NOT_OURS: &[&str] = &[
    "penstock-topics.toml",
    "etc/penstock.toml",
    "etc/penstock/penstock.toml",
    "kafka-topics.sh",
    "takeover.sh",
];

#[test]
fn every_file_that_prose_names_is_there() {
    let files = files();
    let mut gone = Vec::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(Path::new(ROOT).join(file)) else { continue };
        let prose = match Path::new(file).extension().and_then(|extension| extension.to_str()) {
            Some("md") => text,
            Some("rs") => head_of(&text),
            _ => continue,
        };
        let names = names_in(&prose).into_iter();
        let missing = names.filter(|name| !NOT_OURS.contains(name) && !is_there(name, &files));
        gone.extend(missing.map(|name| format!("{file} names {name}")));
    }
    assert!(gone.is_empty(), "{gone:#?}");
}

/// Diagrams, between fences, may be a little wider; a row of a table cannot be broken.
#[test]
fn no_comment_is_wider_than_a_page() {
    const PROSE: usize = 100;
    const DIAGRAM: usize = 120;
    let mut wide = Vec::new();
    for path in sources() {
        let mut is_fenced = false;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            is_fenced = is_comment && (is_fenced != line.contains("```"));
            let most = if is_fenced { DIAGRAM } else { PROSE };
            let is_row = line.contains("//! |") || line.contains("/// |");
            if is_comment && !is_row && line.chars().count() > most {
                wide.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{} comments are too wide: {wide:#?}", wide.len());
}

/// The files of the repository, by their path from its root.
fn files() -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut folders = vec![PathBuf::from(ROOT)];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default();
            let is_made =
                ["target", ".git", "demo-out", "bench-out"].iter().any(|made| name == *made);
            if path.is_dir() && !is_made {
                folders.push(path);
            } else if path.is_file() {
                let path = path.strip_prefix(ROOT).unwrap();
                files.extend(path.to_str().map(str::to_owned));
            }
        }
    }
    files
}
