//! The effect of a power cut on a file and a directory. Pure.
//!
//! ```text
//!   durable    │████████████│
//!   pending                 │▒▒▒▒ write ▒▒▒▒│▒▒ write ▒▒│
//!   found      │████████████│▒▒▒▒│0000│▒▒▒▒▒│0000          torn by block; zeros, or a shorter file
//! ```

use std::{collections::BTreeMap, ffi::OsString};

use crate::random::Random;

/// A change to a file since it was last synced.
#[derive(Clone, Debug)]
pub enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// A change to a directory's names since it was last synced. A rename is one change: it takes one
/// name away and gives another.
#[derive(Clone, Debug)]
pub struct Renaming<N> {
    pub takes: Option<OsString>,
    pub gives: Option<(OsString, N)>,
}

/// Which changes of one file survive.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    /// The first ones are kept, one is torn, the others are lost.
    Until(usize),
    /// Anything, for each block by itself.
    Any,
}

impl Change {
    fn end(&self) -> usize {
        match self {
            Change::Write { at, bytes } => at + bytes.len(),
            Change::SetLen(len) => *len,
        }
    }

    /// Applies the change to the content on the disk.
    pub fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(image, *at, bytes),
            Change::SetLen(len) => image.resize(*len, 0),
        }
    }
}

/// A file's content after the cut.
pub fn found_content(durable: &[u8], pending: &[Change], random: &mut Random) -> Vec<u8> {
    let mut image = durable.to_vec();
    let fate = match random.below(5) {
        0 => Fate::Kept,
        1 => Fate::Lost,
        2 => Fate::Until(random.below(pending.len() + 1)),
        _ => Fate::Any,
    };
    for (n, change) in pending.iter().enumerate() {
        match fate {
            Fate::Kept => change.apply(&mut image),
            Fate::Until(end) if n < end => change.apply(&mut image),
            Fate::Until(end) if n == end => tear(change, &mut image, random),
            Fate::Any => tear(change, &mut image, random),
            Fate::Lost | Fate::Until(_) => {}
        }
    }
    // The length may survive although the bytes do not.
    let longest = pending.iter().map(Change::end).max().unwrap_or(0);
    if longest > image.len() && random.one_in(2) {
        let extra = random.below(longest - image.len() + 1);
        image.resize(image.len() + extra, 0);
    }
    image
}

/// A directory's names after the cut.
pub fn found_names<N: Copy>(
    durable: &BTreeMap<OsString, N>,
    pending: &[Renaming<N>],
    random: &mut Random,
) -> BTreeMap<OsString, N> {
    let mut names = durable.clone();
    let (all, any) = (random.one_in(3), random.one_in(2));
    let upto = random.below(pending.len() + 1);
    for (n, change) in pending.iter().enumerate() {
        // Either a journal's changes up to some moment, or any, as the standard allows.
        if all || if any { random.one_in(2) } else { n < upto } {
            change.apply(&mut names);
        }
    }
    names
}

impl<N: Copy> Renaming<N> {
    pub fn apply(&self, names: &mut BTreeMap<OsString, N>) {
        if let Some(name) = &self.takes {
            names.remove(name);
        }
        if let Some((name, node)) = &self.gives {
            names.insert(name.clone(), *node);
        }
    }
}

/// Writes some of a change's blocks.
fn tear(change: &Change, image: &mut Vec<u8>, random: &mut Random) {
    let Change::Write { at, bytes } = change else {
        return if random.one_in(2) {
            change.apply(image)
        };
    };
    let block = if random.one_in(2) { 512 } else { 4096 };
    let mut from = 0;
    while from < bytes.len() {
        let until = (from + block - (at + from) % block).min(bytes.len());
        if random.one_in(2) {
            put(image, at + from, &bytes[from..until]);
        }
        from = until;
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}
