//! The length prefix of every frame, and peers of other protocols that are recognised by it.
//!
//! The connection calls [`length`] on received bytes. It must not reserve memory by the answer, but
//! grow its buffer with the bytes that arrive.

use thiserror::Error;

/// Bytes of the length prefix.
pub const PREFIX_LEN: usize = 4;

const HTTP_METHODS: [&[u8; 4]; 8] =
    [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN"];

/// The number of bytes behind the prefix; `None` until the prefix is complete.
///
/// `limit_bytes` is the largest frame accepted, at most 2^31-1.
pub fn length(received: &[u8], limit_bytes: u32) -> Result<Option<u32>, FrameError> {
    let Some(prefix) = received.first_chunk::<PREFIX_LEN>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    match u32::try_from(length) {
        Err(_) => Err(FrameError::Negative { length }),
        Ok(length) if length <= limit_bytes => Ok(Some(length)),
        Ok(_) if prefix.starts_with(&[0x16, 0x03]) => Err(FrameError::Tls),
        Ok(_) if HTTP_METHODS.contains(&prefix) => Err(FrameError::Http),
        Ok(length) => Err(FrameError::TooLarge { length, limit_bytes }),
    }
}

/// Why a connection must end: its bytes cannot be understood after this.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// 22, 3: a handshake record of TLS 1.x.
    #[error("a TLS handshake on a plain port: set the client's security.protocol to PLAINTEXT")]
    Tls,
    /// The first letters of an HTTP request.
    #[error("an HTTP request on a port that speaks Kafka's protocol: is this the wrong port?")]
    Http,
    /// A length below 0.
    #[error("a frame of {length} bytes: the peer does not speak Kafka's protocol")]
    Negative {
        /// The prefix.
        length: i32,
    },
    /// A longer frame than is accepted.
    #[error("a frame of {length} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// The prefix.
        length: u32,
        /// The limit.
        limit_bytes: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 100 << 20;

    #[test]
    fn nothing_is_known_before_the_prefix_is_whole() {
        for received in [&[][..], &[0], &[0, 0], &[0x16, 3, 1]] {
            assert_eq!(length(received, LIMIT), Ok(None));
        }
        assert_eq!(length(&[0, 0, 1, 2, 9, 9], LIMIT), Ok(Some(258)));
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        assert_eq!(length(&LIMIT.to_be_bytes(), LIMIT), Ok(Some(LIMIT)));
        assert_eq!(
            length(&(LIMIT + 1).to_be_bytes(), LIMIT),
            Err(FrameError::TooLarge { length: LIMIT + 1, limit_bytes: LIMIT })
        );
    }

    #[test]
    fn strangers_are_named() {
        assert_eq!(length(&[0x16, 3, 1, 2], LIMIT), Err(FrameError::Tls));
        assert_eq!(length(b"GET / HTTP/1.1", LIMIT), Err(FrameError::Http));
        assert_eq!(length(b"POST /", LIMIT), Err(FrameError::Http));
        assert_eq!(length(&[0xff; 4], LIMIT), Err(FrameError::Negative { length: -1 }));
    }
}
