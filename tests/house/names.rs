//! File names in prose: in the README, in docs/ and in the head comments of sources.
//!
//! A name is good if a file of the repository ends with it: `transfer.rs`, `ring/src/transfer.rs`.

use std::collections::BTreeSet;

/// Ends of names that can only be files of ours. A partition's files (.log, .index) are a server's.
const ENDS: &[&str] = &[".rs", ".md", ".py", ".toml", ".sh", ".service", ".yml", ".yaml"];

/// What looks like a file's name in a page, and whether the whole page or only its head comment
/// counts.
pub(crate) fn names_in(prose: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_alphanumeric() || "_-./*<>{}$~:".contains(c);
    prose
        .split(|c: char| !is_of_name(c))
        .map(|word| word.split('#').next().unwrap_or_default())
        .map(|word| word.trim_end_matches([':', '.']).trim_start_matches(['<', '.', '/']))
        .filter(|word| ENDS.iter().any(|end| word.len() > end.len() && word.ends_with(end)))
        .filter(|word| !word.contains(['*', '<', '>', '{', '$', '~', ':']))
        .collect()
}

/// The head comment of a source file.
pub(crate) fn head_of(source: &str) -> String {
    source.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}

/// Whether a file of the repository, by its path from the root, is meant by the name.
pub(crate) fn is_there(name: &str, files: &BTreeSet<String>) -> bool {
    files.iter().any(|file| {
        file.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

#[test]
fn names_of_files_are_told_from_words_and_patterns() {
    let prose =
        "See `ring/src/sys.rs`, [FORMAT](FORMAT.md#records), `*.rs`, e.g. <name>.toml: a.rs.";
    assert_eq!(names_in(prose), BTreeSet::from(["ring/src/sys.rs", "FORMAT.md", "a.rs"]));
    let files = BTreeSet::from(["crates/ring/src/sys.rs".to_owned()]);
    assert!(is_there("ring/src/sys.rs", &files) && is_there("sys.rs", &files));
    assert!(!is_there("ys.rs", &files) && !is_there("src/gone.rs", &files));
}
