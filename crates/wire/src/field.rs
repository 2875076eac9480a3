//! The encoding of each type of field, in both directions.

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::ErrorCode;
use crate::answer::{Records, RecordsSlot};
use crate::reader::{DecodeError, MAX_STRING_BYTES, Problem, Reader, Width};
use crate::schema::Version;
use crate::writer::Writer;

/// A string that is a slice of its frame, and keeps the frame in memory. A string that is stored
/// for long should be copied (`Str::from(&*name)`).
pub type Str = ByteString;

/// Text that is kept or passed on and identifies nothing. Bytes that are not UTF-8 are replaced, as
/// in Kafka: a host name in Latin-1 is no reason to close a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label(Str);

impl Label {
    /// The text.
    pub fn into_str(self) -> Str {
        self.0
    }
}

impl std::ops::Deref for Label {
    type Target = Str;

    fn deref(&self) -> &Str {
        &self.0
    }
}

impl<T: Into<Str>> From<T> for Label {
    fn from(text: T) -> Label {
        Label(text.into())
    }
}

/// An array that mostly has one element; one element needs no memory of its own.
pub type Few<T> = SmallVec<[T; 1]>;

/// 16 bytes; all zero means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// A type of a field.
pub(crate) trait Field: Sized {
    /// The least bytes on the wire, against which a claimed count is checked.
    fn min_bytes(version: Version) -> usize;
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError>;
    fn encode(&self, writer: &mut Writer);
    /// A random value that `version` can express.
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => { $(
        impl Field for $number {
            fn min_bytes(_: Version) -> usize {
                size_of::<$number>()
            }
            fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
                reader.array().map(<$number>::from_be_bytes)
            }
            fn encode(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }
            #[cfg(test)]
            fn sample(sampler: &mut crate::sample::Sampler) -> Self {
                sampler.number() as $number
            }
        }
    )* };
}
numbers! { i8 i16 i32 i64 }

impl Field for bool {
    fn min_bytes(_: Version) -> usize {
        1
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.array().map(|[byte]| byte != 0)
    }
    fn encode(&self, writer: &mut Writer) {
        writer.put(&[u8::from(*self)]);
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        sampler.number() & 1 == 1
    }
}

impl Field for ErrorCode {
    fn min_bytes(version: Version) -> usize {
        i16::min_bytes(version)
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        i16::decode(reader).map(ErrorCode)
    }
    fn encode(&self, writer: &mut Writer) {
        self.0.encode(writer);
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        ErrorCode(i16::sample(sampler))
    }
}

impl Field for Uuid {
    fn min_bytes(_: Version) -> usize {
        16
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.array().map(Uuid)
    }
    fn encode(&self, writer: &mut Writer) {
        writer.put(&self.0);
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        Uuid(std::array::from_fn(|_| sampler.number() as u8))
    }
}

/// A type with its length in front. It can be null, and then is wrapped in an `Option`.
pub(crate) trait Prefixed: Sized {
    const WIDTH: Width;
    fn length(&self) -> usize;
    fn decode_content(reader: &mut Reader, length: usize) -> Result<Self, DecodeError>;
    fn encode_content(&self, writer: &mut Writer);
    #[cfg(test)]
    fn sample_content(sampler: &mut crate::sample::Sampler) -> Self;
}

impl<T: Prefixed> Field for T {
    fn min_bytes(version: Version) -> usize {
        match T::WIDTH {
            _ if version.flexible => 1,
            Width::Short => 2,
            Width::Long => 4,
        }
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.length(T::WIDTH)? {
            Some(length) => T::decode_content(reader, length),
            None => Err(reader.error(Problem::Null)),
        }
    }
    fn encode(&self, writer: &mut Writer) {
        writer.put_length(T::WIDTH, Some(self.length()));
        self.encode_content(writer);
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        T::sample_content(sampler)
    }
}

impl<T: Prefixed> Field for Option<T> {
    fn min_bytes(version: Version) -> usize {
        T::min_bytes(version)
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.length(T::WIDTH)? {
            Some(length) => T::decode_content(reader, length).map(Some),
            None => Ok(None),
        }
    }
    fn encode(&self, writer: &mut Writer) {
        match self {
            Some(value) => value.encode(writer),
            None => writer.put_length(T::WIDTH, None),
        }
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        (sampler.number() & 3 != 0).then(|| T::sample_content(sampler))
    }
}

/// Encodes null in a version without null, as an empty value.
pub(crate) fn encode_without_null<T: Prefixed + Default>(value: &Option<T>, writer: &mut Writer) {
    match value {
        Some(value) => value.encode(writer),
        None => T::default().encode(writer),
    }
}

impl Prefixed for Str {
    const WIDTH: Width = Width::Short;

    fn length(&self) -> usize {
        cut(self).len()
    }
    fn decode_content(reader: &mut Reader, len_bytes: usize) -> Result<Self, DecodeError> {
        Str::try_from(string_bytes(reader, len_bytes)?).map_err(|_| reader.error(Problem::Utf8))
    }
    fn encode_content(&self, writer: &mut Writer) {
        writer.put(cut(self).as_bytes());
    }
    #[cfg(test)]
    fn sample_content(sampler: &mut crate::sample::Sampler) -> Self {
        sampler.string().into()
    }
}

impl Prefixed for Label {
    const WIDTH: Width = Width::Short;

    fn length(&self) -> usize {
        self.0.length()
    }
    fn decode_content(reader: &mut Reader, len_bytes: usize) -> Result<Self, DecodeError> {
        let bytes = string_bytes(reader, len_bytes)?;
        // Checked first, because the conversion does not give back what it refuses. Valid text is
        // not copied.
        match std::str::from_utf8(&bytes) {
            Ok(_) => Str::try_from(bytes).map(Label).map_err(|_| reader.error(Problem::Utf8)),
            Err(_) => Ok(Label(String::from_utf8_lossy(&bytes).into_owned().into())),
        }
    }
    fn encode_content(&self, writer: &mut Writer) {
        self.0.encode_content(writer);
    }
    #[cfg(test)]
    fn sample_content(sampler: &mut crate::sample::Sampler) -> Self {
        Label(Str::sample_content(sampler))
    }
}

fn string_bytes(reader: &mut Reader, len_bytes: usize) -> Result<Bytes, DecodeError> {
    match len_bytes <= MAX_STRING_BYTES {
        true => reader.take(len_bytes),
        false => Err(reader.error(Problem::StringTooLong { len_bytes })),
    }
}

/// As much of a string as fits. An error message with a client's text in it may be too long.
fn cut(string: &str) -> &str {
    let mut end = string.len().min(MAX_STRING_BYTES);
    while !string.is_char_boundary(end) {
        end -= 1;
    }
    &string[..end]
}

impl Prefixed for Bytes {
    const WIDTH: Width = Width::Long;

    fn length(&self) -> usize {
        self.len()
    }
    fn decode_content(reader: &mut Reader, length: usize) -> Result<Self, DecodeError> {
        reader.take(length)
    }
    fn encode_content(&self, writer: &mut Writer) {
        writer.put_shared(self);
    }
    #[cfg(test)]
    fn sample_content(sampler: &mut crate::sample::Sampler) -> Self {
        sampler.string().into()
    }
}

macro_rules! arrays {
    ($($array:ident)*) => { $(
        impl<T: Field> Prefixed for $array<T> {
            const WIDTH: Width = Width::Long;

            fn length(&self) -> usize {
                self.len()
            }
            fn decode_content(reader: &mut Reader, length: usize) -> Result<Self, DecodeError> {
                reader.admit_elements::<T>(length)?;
                let mut elements = $array::with_capacity(length);
                for _ in 0..length {
                    elements.push(T::decode(reader)?);
                }
                Ok(elements)
            }
            fn encode_content(&self, writer: &mut Writer) {
                self.iter().for_each(|element| element.encode(writer));
            }
            #[cfg(test)]
            fn sample_content(sampler: &mut crate::sample::Sampler) -> Self {
                (0..sampler.number() & 3).map(|_| T::sample(sampler)).collect()
            }
        }
    )* };
}
arrays! { Vec Few }

impl Field for Records {
    fn min_bytes(version: Version) -> usize {
        Bytes::min_bytes(version)
    }
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Option::decode(reader).map(Records::Bytes)
    }
    fn encode(&self, writer: &mut Writer) {
        match *self {
            Records::Bytes(ref bytes) => bytes.encode(writer),
            Records::Slot(slot @ RecordsSlot { len_bytes, .. }) => {
                writer.put_length(Width::Long, Some(len_bytes as usize));
                writer.put_slot(slot);
            }
        }
    }
    #[cfg(test)]
    fn sample(sampler: &mut crate::sample::Sampler) -> Self {
        Records::Bytes(Option::sample(sampler))
    }
}
