//! A response frame: the first two bytes choose the API and the version, the rest is the frame.
//! Whatever is decoded is encoded and decoded again, to the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use penstock_wire::{ErrorCode, Response, SUPPORTED, decode_response};

fuzz_target!(|input: &[u8]| {
    let [api, version, frame @ ..] = input else { return };
    let api = &SUPPORTED[usize::from(*api) % SUPPORTED.len()];
    let mut version =
        api.min_version + i16::from(*version) % (api.max_version - api.min_version + 1);

    let frame = Bytes::copy_from_slice(frame);
    if let Ok((correlation_id, response)) = decode_response(api.key, version, frame) {
        // A refused ApiVersions request is answered in version 0, whatever was asked.
        if matches!(&response, Response::ApiVersions(body)
            if body.error_code == ErrorCode::UNSUPPORTED_VERSION)
        {
            version = 0;
        }
        let answer = response.encode(version, correlation_id);
        let again = answer.into_bytes(|_| panic!("decoding makes no slots")).slice(4..);
        let decoded = decode_response(api.key, version, again).expect("we encoded it");
        assert_eq!(decoded, (correlation_id, response));
    }
});
