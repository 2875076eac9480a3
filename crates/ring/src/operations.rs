//! A slab of operations in flight, which owns their resources while the kernel works on them.
//!
//! All that the kernel has pointers or numbers of (descriptors, buffers, pipe) lies in the entry
//! from before the push until the last completion. A future holds a [`Key`] and nothing else.
//!
//! ```text
//!            insert                complete, owed = 0              take
//!  (nothing) ───────> owed, awaited ───────────────> ready ───────────────> back with the future
//!                          │                           │
//!                 abandon  │                  abandon  │
//!                          v      complete, owed = 0   v
//!                    owed, orphaned ────────────> released with the last completion
//! ```
//!
//! Called by uring.rs and sys.rs. It knows nothing of io_uring, so a fake kernel can drive it. It
//! must never hand resources out while a completion is owed, and never panic over an unexpected
//! completion.

use std::any::Any;
use std::ops::Deref;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::ring_config::CHAIN_OPERATIONS;

/// `user_data` of entries whose completion no future waits for (cancellations).
pub(crate) const UNAWAITED: u64 = u64::MAX;

/// Bits of `user_data`: position in the chain, then slot, then generation.
const POSITION_BITS: u32 = 8;
const SLOT_BITS: u32 = 24;

/// What an operation owns while it is in flight.
pub(crate) trait Resources: Any {
    /// Called when the future is gone and nothing is owed: the last chance to act on the results.
    fn abandoned(self: Box<Self>, _results: &[i32]) {}
}

/// Names one operation for ever. A slot is used again; a generation is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub(crate) fn user_data(self, position: usize) -> u64 {
        debug_assert!(position < CHAIN_OPERATIONS);
        (u64::from(self.generation) << (SLOT_BITS + POSITION_BITS))
            | (u64::from(self.slot) << POSITION_BITS)
            | position as u64
    }

    fn from_user_data(user_data: u64) -> (Key, usize) {
        let position = user_data & ((1 << POSITION_BITS) - 1);
        let slot = (user_data >> POSITION_BITS) & ((1 << SLOT_BITS) - 1);
        let generation = user_data >> (SLOT_BITS + POSITION_BITS);
        (Key { slot: slot as u32, generation: generation as u32 }, position as usize)
    }
}

/// The kernel's results, one number for each operation of the chain, in the chain's order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Results {
    values: [i32; CHAIN_OPERATIONS],
    len: usize,
}

impl Deref for Results {
    type Target = [i32];

    fn deref(&self) -> &[i32] {
        &self.values[..self.len]
    }
}

/// The meaning of a completion.
pub(crate) enum Completed {
    /// It belongs to no operation in flight.
    Stale,
    /// More completions are owed.
    Partly,
    /// It was the last one, and the future is to be woken.
    Ready(Option<Waker>),
    /// It was the last one, and the future is gone.
    Released(Box<dyn Resources>, Results),
}

/// What became of an operation whose future is gone.
pub(crate) enum Abandoned {
    /// The kernel still owns its resources.
    Orphaned,
    /// Nothing was owed.
    Released(Box<dyn Resources>, Results),
}

/// The operations in flight on one ring.
#[derive(Default)]
pub(crate) struct Operations {
    entries: Slab<Entry>,
    generation: u32,
}

struct Entry {
    generation: u32,
    resources: Box<dyn Resources>,
    results: Results,
    /// One bit for each position whose completion has not come; of a quiet chain one bit for all.
    owed: u32,
    is_quiet: bool,
    holder: Holder,
}

/// The completions that the kernel owes for a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owed<'a> {
    /// One for each of so many operations.
    Each(usize),
    /// One in all: that of the last operation, or of the first that did not do all of its work, at
    /// which the chain breaks. The results of operations that did all of it are known beforehand.
    One(&'a [i32]),
}

enum Holder {
    Future(Option<Waker>),
    Gone,
}

const _: () = assert!(CHAIN_OPERATIONS < u32::BITS as usize);

impl Operations {
    /// Takes over the `resources` of a chain about to be pushed.
    pub(crate) fn insert(&mut self, resources: Box<dyn Resources>, owed: Owed) -> Key {
        let (len, is_quiet) = match owed {
            Owed::Each(len) => (len, false),
            Owed::One(results) => (results.len(), true),
        };
        assert!((1..=CHAIN_OPERATIONS).contains(&len), "a chain of {len} operations");
        let mut values = [0; CHAIN_OPERATIONS];
        if let Owed::One(results) = owed {
            values[..len].copy_from_slice(results);
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.entries.insert(Entry {
            generation: self.generation,
            resources,
            results: Results { values, len },
            owed: if is_quiet { 1 } else { (1 << len) - 1 },
            is_quiet,
            holder: Holder::Future(None),
        });
        assert!(slot < 1 << SLOT_BITS, "{slot} operations in flight");
        Key { slot: slot as u32, generation: self.generation }
    }

    /// Records one completion.
    pub(crate) fn complete(&mut self, user_data: u64, result: i32) -> Completed {
        let (key, position) = Key::from_user_data(user_data);
        let Some(entry) = self.get(key) else { return Completed::Stale };
        let bit = if entry.is_quiet { 1 } else { 1 << position };
        if position >= entry.results.len || entry.owed & bit == 0 {
            return Completed::Stale;
        }
        entry.results.values[position] = result;
        if entry.is_quiet {
            entry.results.values[position + 1..].fill(-libc::ECANCELED);
        }
        entry.owed &= !bit;
        if entry.owed != 0 {
            return Completed::Partly;
        }
        match &mut entry.holder {
            Holder::Future(waker) => Completed::Ready(waker.take()),
            Holder::Gone => {
                let (resources, results) = self.remove(key);
                Completed::Released(resources, results)
            }
        }
    }

    /// Returns the resources once nothing is owed.
    pub(crate) fn poll_take(
        &mut self,
        key: Key,
        waker: &Waker,
    ) -> Poll<(Box<dyn Resources>, Results)> {
        let entry = self.get(key).expect("a future's entry lives as long as the future");
        if entry.owed == 0 {
            return Poll::Ready(self.remove(key));
        }
        if let Holder::Future(known) = &mut entry.holder
            && !known.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            *known = Some(waker.clone());
        }
        Poll::Pending
    }

    /// Records that the future is gone.
    pub(crate) fn abandon(&mut self, key: Key) -> Abandoned {
        let entry = self.get(key).expect("a future's entry lives as long as the future");
        if entry.owed != 0 {
            entry.holder = Holder::Gone;
            return Abandoned::Orphaned;
        }
        let (resources, results) = self.remove(key);
        Abandoned::Released(resources, results)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(key.slot as usize).filter(|entry| entry.generation == key.generation)
    }

    fn remove(&mut self, key: Key) -> (Box<dyn Resources>, Results) {
        let entry = self.entries.remove(key.slot as usize);
        (entry.resources, entry.results)
    }
}
