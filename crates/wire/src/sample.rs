//! Random messages for tests: `Field::sample` fills every field that a version has.

use bytes::Bytes;

use crate::schema::Version;
use crate::{Answer, ApiKey, Request, Response, SUPPORTED, frame};

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

    /// Mostly short, sometimes with a length of two bytes, rarely large enough for a piece of its
    /// own.
    pub(crate) fn string(&mut self) -> String {
        let longest = [12, 12, 12, 300, 12, 12, 9000, 12][(self.number() & 7) as usize];
        let chars = self.number() % longest;
        (0..chars)
            .map(|_| ['a', 'Z', '.', '0', 'é', '→', '𝄞'][(self.number() % 7) as usize])
            .collect()
    }
}

/// Every API in every version that is decoded here.
pub(crate) fn every_version() -> impl Iterator<Item = (ApiKey, Version)> {
    SUPPORTED.iter().flat_map(|api| {
        (api.min_version..=api.max_version)
            .map(|number| (api.key, api.version(number).expect("it is in the range")))
    })
}

/// A random request and a random response of one version.
pub(crate) fn pair(key: ApiKey, version: Version, seed: u64) -> (Request, Response) {
    let mut sampler = Sampler::new(version, seed);
    let mut request = Request::sample(key, &mut sampler);
    if let (Request::Metadata(metadata), 0) = (&mut request, version.number) {
        metadata.empty_means_all();
    }
    (request, Response::sample(key, &mut sampler))
}

/// The frame of an answer without slots.
pub(crate) fn whole(answer: Answer) -> Bytes {
    answer.into_bytes(|slot| panic!("slot {} was not asked for", slot.id))
}

/// A frame without its length prefix, which is checked.
pub(crate) fn unframed(frame: Bytes) -> Bytes {
    let length = frame::length(&frame, u32::MAX >> 1).unwrap().unwrap();
    assert_eq!(length as usize + frame::PREFIX_LEN, frame.len());
    frame.slice(frame::PREFIX_LEN..)
}
