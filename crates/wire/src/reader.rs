//! Takes a frame apart. Every length is compared with what is left before it is believed.

use bytes::{Buf, Bytes};
use penstock_batch::varint;
use thiserror::Error;

use crate::field::Field;
use crate::schema::Version;

/// Kafka refuses longer strings in compact form too.
pub(crate) const MAX_STRING_BYTES: usize = i16::MAX as usize;

/// What is left of a frame, and how to read it.
pub(crate) struct Reader {
    bytes: Bytes,
    pub(crate) version: Version,
    /// The field being read, for errors.
    pub(crate) field: &'static str,
    max_elements: usize,
    elements_left: usize,
}

/// How wide a length is in versions that are not flexible.
#[derive(Clone, Copy)]
pub(crate) enum Width {
    /// Strings.
    Short,
    /// Everything else.
    Long,
}

impl Reader {
    /// `max_elements` bounds the array elements in the frame. A small element takes up to fifty
    /// times its wire size in memory, so the frame's length alone does not bound what decoding
    /// costs.
    pub(crate) fn new(bytes: Bytes, version: Version, max_elements: usize) -> Reader {
        Reader { bytes, version, field: "header", max_elements, elements_left: max_elements }
    }

    /// The next `N` bytes, a number.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = *self.bytes.first_chunk::<N>().ok_or_else(|| self.end(N))?;
        self.bytes.advance(N);
        Ok(array)
    }

    /// The next bytes, a slice of the frame.
    pub(crate) fn take(&mut self, len_bytes: usize) -> Result<Bytes, DecodeError> {
        if len_bytes > self.bytes.len() {
            return Err(self.end(len_bytes));
        }
        Ok(self.bytes.split_to(len_bytes))
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut rest = &self.bytes[..];
        let value = varint::take_u32(&mut rest).ok_or_else(|| self.error(Problem::Varint))?;
        let used = self.bytes.len() - rest.len();
        self.bytes.advance(used);
        Ok(value)
    }

    /// The length of a string, byte field or array; `None` is null.
    pub(crate) fn length(&mut self, width: Width) -> Result<Option<usize>, DecodeError> {
        let length = if self.version.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            match width {
                Width::Short => i64::from(i16::from_be_bytes(self.array()?)),
                Width::Long => i64::from(i32::from_be_bytes(self.array()?)),
            }
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length)
                .map(Some)
                .map_err(|_| self.error(Problem::NegativeLength { length })),
        }
    }

    /// Refuses an array of `count` elements, each of which takes at least a byte on the wire, if it
    /// cannot be in what is left or is more than the frame may have.
    pub(crate) fn admit_elements<T: Field>(&mut self, count: usize) -> Result<(), DecodeError> {
        let least = T::min_bytes(self.version).max(1);
        if count > self.bytes.len() / least {
            let left_bytes = self.bytes.len();
            return Err(self.error(Problem::Count { count, element_min_bytes: least, left_bytes }));
        }
        self.count_elements(count)
    }

    fn count_elements(&mut self, count: usize) -> Result<(), DecodeError> {
        self.elements_left = self
            .elements_left
            .checked_sub(count)
            .ok_or_else(|| self.error(Problem::TooManyElements { limit: self.max_elements }))?;
        Ok(())
    }

    /// The next tagged field: its tag and a reader of its bytes alone. It counts as an element: a
    /// frame of nothing else would take as long to decode.
    pub(crate) fn tagged(&mut self) -> Result<(u32, Reader), DecodeError> {
        self.field = "tagged fields";
        self.count_elements(1)?;
        let tag = self.unsigned_varint()?;
        let len_bytes = self.unsigned_varint()? as usize;
        let bytes = self.take(len_bytes)?;
        let value = Reader {
            bytes,
            version: self.version,
            field: self.field,
            max_elements: self.max_elements,
            elements_left: self.elements_left,
        };
        Ok((tag, value))
    }

    /// Passes over tagged fields none of which is known.
    pub(crate) fn skip_tagged(&mut self) -> Result<(), DecodeError> {
        for _ in 0..self.unsigned_varint()? {
            self.tagged()?;
        }
        Ok(())
    }

    /// Reads a message's body. What follows it is passed over, as Kafka does: librdkafka ends its
    /// Metadata 9 with a byte that no definition has.
    pub(crate) fn body<T: Field>(mut self) -> Result<T, DecodeError> {
        T::decode(&mut self)
    }

    /// Reads a value that must use up all that is left.
    pub(crate) fn whole<T: Field>(mut self, field: &'static str) -> Result<T, DecodeError> {
        self.field = field;
        let value = T::decode(&mut self)?;
        match self.bytes.len() {
            0 => Ok(value),
            bytes => Err(DecodeError { field, problem: Problem::LeftOver { bytes } }),
        }
    }

    pub(crate) fn peek(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn error(&self, problem: Problem) -> DecodeError {
        DecodeError { field: self.field, problem }
    }

    fn end(&self, need_bytes: usize) -> DecodeError {
        self.error(Problem::End { need_bytes, left_bytes: self.bytes.len() })
    }
}

/// A frame that cannot be what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct DecodeError {
    /// The innermost field that was being read.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// The frame ends inside it.
    #[error("needs {need_bytes} bytes, {left_bytes} are left")]
    End {
        /// Bytes the field needs.
        need_bytes: usize,
        /// Bytes there are.
        left_bytes: usize,
    },
    /// An array that cannot fit into what is left.
    #[error("{count} elements of at least {element_min_bytes} bytes, {left_bytes} are left")]
    Count {
        /// Elements claimed.
        count: usize,
        /// The least an element takes.
        element_min_bytes: usize,
        /// Bytes there are.
        left_bytes: usize,
    },
    /// More array elements and tagged fields in one frame than its decoder takes.
    #[error("more than {limit} array elements in one frame")]
    TooManyElements {
        /// The limit.
        limit: usize,
    },
    /// A length below -1.
    #[error("a length of {length}")]
    NegativeLength {
        /// What it says.
        length: i64,
    },
    /// Null where the version does not allow it.
    #[error("null is not allowed")]
    Null,
    /// A string longer than 32 767 bytes.
    #[error("a string of {len_bytes} bytes, the limit is 32767")]
    StringTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// A string that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A variable-length integer that is cut or longer than 32 bits.
    #[error("a variable-length integer is cut or too long")]
    Varint,
    /// A tagged field goes on after its value.
    #[error("{bytes} bytes are left over")]
    LeftOver {
        /// How many.
        bytes: usize,
    },
}
