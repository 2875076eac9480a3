//! Variable-length integers: seven bits a byte, least significant first. A set top bit means that
//! more bytes follow. Signed numbers are zigzagged first (0, -1, 1, -2, … become 0, 1, 2, 3, …).
//!
//! Records use the signed forms, flexible messages the unsigned one. The `take` functions move the
//! slice past the bytes they read. `None`: the slice ended early, or the number is too long for its
//! type.

use bytes::BufMut;

/// Bytes of the longest form of 32 bits.
pub const MAX_LEN: usize = 5;

/// Reads up to 5 bytes.
#[inline]
pub fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input, 32).map(|value| value as u32)
}

/// Reads a zigzagged number of up to 5 bytes.
#[inline]
pub fn take_i32(input: &mut &[u8]) -> Option<i32> {
    take_u32(input).map(|value| (value >> 1) as i32 ^ -((value & 1) as i32))
}

/// Reads a zigzagged number of up to 10 bytes.
#[inline]
pub fn take_i64(input: &mut &[u8]) -> Option<i64> {
    take(input, 64).map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Writes 1 to 5 bytes.
pub fn put_u32(output: &mut impl BufMut, value: u32) {
    put(output, u64::from(value));
}

/// Writes 1 to 5 bytes, zigzagged.
pub fn put_i32(output: &mut impl BufMut, value: i32) {
    put_u32(output, ((value << 1) ^ (value >> 31)) as u32);
}

/// Writes 1 to 10 bytes, zigzagged.
pub fn put_i64(output: &mut impl BufMut, value: i64) {
    put(output, ((value << 1) ^ (value >> 63)) as u64);
}

/// Almost every number of a record has one byte or two, which this reads without a loop.
#[inline]
fn take(input: &mut &[u8], bits: u32) -> Option<u64> {
    match **input {
        [one @ 0..0x80, ref rest @ ..] => {
            *input = rest;
            Some(one.into())
        }
        [one, two @ 0..0x80, ref rest @ ..] => {
            *input = rest;
            Some(u64::from(one & 0x7f) | u64::from(two) << 7)
        }
        _ => take_long(input, bits),
    }
}

fn take_long(input: &mut &[u8], bits: u32) -> Option<u64> {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let seven = u64::from(byte & 0x7f);
        if bits - shift < 7 && seven >> (bits - shift) != 0 {
            return None;
        }
        value |= seven << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
        if shift >= bits {
            return None;
        }
    }
}

fn put(output: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        output.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    output.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_and_leaves_what_follows(u: u32, i: i32, l: i64) {
            let mut bytes = Vec::new();
            put_u32(&mut bytes, u);
            put_i32(&mut bytes, i);
            put_i64(&mut bytes, l);
            bytes.push(77);
            let mut input = &bytes[..];
            prop_assert_eq!(take_u32(&mut input), Some(u));
            prop_assert_eq!(take_i32(&mut input), Some(i));
            prop_assert_eq!(take_i64(&mut input), Some(l));
            prop_assert_eq!(input, &[77][..]);
        }
    }

    #[test]
    fn the_ends_of_the_range_have_their_known_bytes() {
        let mut bytes = Vec::new();
        put_i32(&mut bytes, i32::MIN);
        assert_eq!(bytes, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(take_i32(&mut &bytes[..]), Some(i32::MIN));
    }

    #[test]
    fn numbers_too_long_for_their_type_or_cut_are_refused() {
        assert_eq!(take_u32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), None);
        assert_eq!(take_u32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]), None);
        assert_eq!(take_i64(&mut &[0xff; 11][..]), None);
        assert_eq!(take_u32(&mut &[0x80][..]), None);
    }
}
