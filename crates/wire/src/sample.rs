//! Random messages for tests: `Field::sample` fills every field that a version has.

use crate::schema::Version;

/// A source of random values; the same seed gives the same message.
pub(crate) struct Sampler {
    pub(crate) version: Version,
    state: u64,
}

impl Sampler {
    pub(crate) fn new(version: Version, seed: u64) -> Sampler {
        Sampler { version, state: seed }
    }

    /// SplitMix64.
    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Mostly short, at times long enough for two length bytes, rarely for a piece of its own.
    pub(crate) fn string(&mut self) -> String {
        let longest = [12, 12, 12, 300, 12, 12, 9000, 12][(self.number() & 7) as usize];
        let chars = self.number() % longest;
        (0..chars)
            .map(|_| ['a', 'Z', '.', '0', 'é', '→', '𝄞'][(self.number() % 7) as usize])
            .collect()
    }
}
