//! A request frame: the first two bytes choose the API and the version, the rest is what comes
//! after them on the wire. Whatever is decoded is encoded and decoded again, to the same.

#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use penstock_wire::{SUPPORTED, decode_request};

fuzz_target!(|input: &[u8]| {
    let [api, version, rest @ ..] = input else { return };
    let api = &SUPPORTED[usize::from(*api) % SUPPORTED.len()];
    let version = api.min_version + i16::from(*version) % (api.max_version - api.min_version + 1);

    let mut frame = BytesMut::new();
    frame.put_i16(api.key as i16);
    frame.put_i16(version);
    frame.put_slice(rest);
    if let Ok((header, request)) = decode_request(frame.freeze()) {
        let client_id = header.client_id.unwrap_or_default();
        let again = request.encode(version, header.correlation_id, &client_id).slice(4..);
        assert_eq!(decode_request(again).expect("we encoded it").1, request);
    }
});
