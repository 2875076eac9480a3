//! The number of rounds of the fault tests, and their random numbers.
//!
//! `make test` runs a small share of each test. `PENSTOCK_SOAK=100` runs all rounds, another number
//! that many percent of them. Every test prints its seed; `PENSTOCK_SEED` repeats its random
//! numbers.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A seeded generator: Sebastiano Vigna's splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

/// Rounds to run: `few` of them in `make test`, `all` of them in `make soak`.
pub fn rounds(few: usize, all: usize) -> usize {
    few.max(all * percent() / 100)
}

/// Whether this is a soak. Bounds that a busy machine may miss are checked only then.
pub fn is_soak() -> bool {
    percent() > 0
}

fn percent() -> usize {
    let Some(asked) = std::env::var_os("PENSTOCK_SOAK") else { return 0 };
    let asked = asked.to_str().and_then(|percent| percent.parse().ok());
    asked.expect("PENSTOCK_SOAK is a percentage of the rounds")
}

/// Prints a line about a test. Unlike that of `println!`, it is not captured if the test passes.
pub fn say(words: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

impl Dice {
    /// The random numbers of a test. Prints the seed.
    pub fn of(test: &str) -> Dice {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        let asked = std::env::var("PENSTOCK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or(now as u64);
        say(format_args!("{test}: PENSTOCK_SEED={seed}"));
        Dice(seed)
    }

    /// Separate random numbers for another thread, which draws at other moments.
    pub fn split(&mut self) -> Dice {
        Dice(self.throw())
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range.
    pub fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + (self.throw() % range.len() as u64) as usize
    }
}
