//! Small text files that show whether they are whole, by a last line with the CRC-32C of all lines
//! before it. Pure.
//!
//! ```text
//!   1                      version
//!   …                      lines
//!   crc32c 0a1b2c3d        of every byte above
//! ```
//!
//! A file that is written by rename is the old or the new one after a power cut. The checksum finds
//! changes that a rename does not help against: a flipped bit, an edit, half a copy.

const LAST_LINE: &str = "crc32c ";

/// Adds the last line.
pub(crate) fn seal(mut text: String) -> String {
    let crc = crc_fast::crc32_iscsi(text.as_bytes());
    text += &format!("{LAST_LINE}{crc:08x}\n");
    text
}

/// The text that was sealed; `None` if it has changed since.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, last) = text.split_at(text.rfind(LAST_LINE)?);
    let digits = last.strip_prefix(LAST_LINE)?.strip_suffix('\n')?;
    let crc = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8)?;
    (crc == crc_fast::crc32_iscsi(body.as_bytes())).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_cut_or_flipped_anywhere_is_not_believed() {
        let sealed = seal("1\na 0 7\n".to_owned());
        assert_eq!(unseal(sealed.as_bytes()), Some("1\na 0 7\n"));
        for at in 0..sealed.len() {
            assert_eq!(unseal(&sealed.as_bytes()[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut flipped = sealed.clone().into_bytes();
                flipped[at] ^= 1 << bit;
                let unsealed = unseal(&flipped).is_some();
                // The checksum may be written in capitals as well.
                assert!(!unsealed || flipped.eq_ignore_ascii_case(sealed.as_bytes()), "{at} {bit}");
            }
        }
    }
}
