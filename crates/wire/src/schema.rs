//! The two forms in which the protocol is declared: `schema!` for structures (in `messages`),
//! `apis!` for the table of requests and responses (in `api`).
//!
//! A structure is declared once, in a form close to Kafka's own message definitions
//! (clients/src/main/resources/common/message/*.json); the declaration gives both directions:
//!
//! ```text
//! schema! {
//!     /// One partition of a topic.
//!     Partition {
//!         index: i32 [0..],                            in every version
//!         leader_epoch: i32 [7..] = -1,                from version 7; -1 in those before
//!         rack: Option<Str> [0.., null 1..],           null is allowed from version 1
//!         snapshot: SnapshotId [12.., tag 2],          a tagged field of flexible versions
//!     }
//! }
//! ```
//!
//! A field that a version does not have is left out when encoding, and has its default when
//! decoded. Tagged fields are declared in the order of their tags, and sent if they differ from
//! their default.

use std::ops::RangeBounds;

/// The version of a message, and its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) number: i16,
    /// Compact lengths and tagged fields (KIP-482).
    pub(crate) flexible: bool,
}

impl Version {
    pub(crate) fn is_in(self, versions: impl RangeBounds<i16>) -> bool {
        versions.contains(&self.number)
    }
}

macro_rules! schema {
    ($(
        $(#[$doc:meta])*
        $name:ident {
            $(
                $(#[$field_doc:meta])*
                $field:ident: $type:ty
                    [$versions:expr $(, null $null:expr)? $(, tag $tag:literal)?] $(= $default:expr)?
            ),* $(,)?
        }
    )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "Kafka's field names, described in its message definitions")]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $( $field: $crate::schema::default!($type $(, $default)?), )* }
            }
        }

        impl $crate::field::Field for $name {
            fn min_bytes(version: $crate::schema::Version) -> usize {
                let mut bytes = usize::from(version.flexible);
                $( $crate::schema::untagged! { [$($tag)?]
                    if version.is_in($versions) {
                        bytes += <$type as $crate::field::Field>::min_bytes(version);
                    }
                } )*
                bytes
            }

            fn decode(
                reader: &mut $crate::reader::Reader,
            ) -> Result<$name, $crate::reader::DecodeError> {
                let mut value = $name::default();
                $( $crate::schema::untagged! { [$($tag)?]
                    if reader.version.is_in($versions) {
                        reader.field = stringify!($field);
                        value.$field = $crate::schema::decode!(reader $(, $null)?)?;
                    }
                } )*
                if reader.version.flexible {
                    reader.field = "tagged fields";
                    for _ in 0..reader.unsigned_varint()? {
                        let (_tag, _content) = reader.tagged()?;
                        $( $crate::schema::tagged! { [$($tag)?]
                            if _tag == $($tag)? && _content.version.is_in($versions) {
                                value.$field = _content.whole(stringify!($field))?;
                                continue;
                            }
                        } )*
                    }
                }
                Ok(value)
            }

            fn encode(&self, writer: &mut $crate::writer::Writer) {
                let version = writer.version;
                $( $crate::schema::untagged! { [$($tag)?]
                    if version.is_in($versions) {
                        $crate::schema::encode!(self.$field, writer $(, $null)?);
                    }
                } )*
                if version.flexible {
                    #[allow(unused_mut, reason = "not every structure has tagged fields")]
                    let mut tagged = $crate::writer::Tagged::new(version);
                    $( $crate::schema::tagged! { [$($tag)?]
                        if version.is_in($versions)
                            && self.$field != $crate::schema::default!($type $(, $default)?)
                        {
                            tagged.push($($tag)?, &self.$field);
                        }
                    } )*
                    writer.put_tagged(tagged);
                }
            }

            #[cfg(test)]
            fn sample(sampler: &mut $crate::sample::Sampler) -> $name {
                let mut value = $name::default();
                $(
                    if sampler.version.is_in($versions) {
                        value.$field = $crate::schema::sample!(sampler, $type $(, $null)?);
                    }
                )*
                value
            }
        }
    )* };
}

macro_rules! apis {
    ($(
        $key:literal => $name:ident($request:ident, $response:ident)
            $min:literal..=$max:literal, flexible $flexible:literal;
    )*) => {
        /// The APIs spoken here, by their numbers in the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "Kafka's names")]
        pub enum ApiKey { $( $name = $key, )* }

        /// What is decoded and advertised, by rising key.
        pub const SUPPORTED: &[SupportedApi] = &[$(
            SupportedApi {
                key: ApiKey::$name,
                min_version: $min,
                max_version: $max,
                flexible_from: $flexible,
            },
        )*];

        impl ApiKey {
            /// Kafka's name for it.
            pub fn name(self) -> &'static str {
                match self { $( ApiKey::$name => stringify!($name), )* }
            }
        }

        $crate::schema::message_enum! {
            /// Any request.
            Request { $( $name($request), )* }
        }
        $crate::schema::message_enum! {
            /// Any response.
            Response { $( $name($response), )* }
        }
    };
}

macro_rules! message_enum {
    ($(#[$doc:meta])* $enum:ident { $( $name:ident($message:ident), )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "Kafka's names")]
        pub enum $enum { $( $name($message), )* }

        impl $enum {
            /// Which API it belongs to.
            pub fn api_key(&self) -> ApiKey {
                match self { $( $enum::$name(_) => ApiKey::$name, )* }
            }

            fn decode_body(api_key: ApiKey, reader: Reader) -> Result<$enum, DecodeError> {
                match api_key { $( ApiKey::$name => reader.body().map($enum::$name), )* }
            }

            fn encode_body(&self, writer: &mut Writer) {
                match self { $( $enum::$name(message) => message.encode(writer), )* }
            }

            #[cfg(test)]
            pub(crate) fn sample(api_key: ApiKey, sampler: &mut $crate::sample::Sampler) -> $enum {
                match api_key { $( ApiKey::$name => $enum::$name(Field::sample(sampler)), )* }
            }
        }

        $(
            impl From<$message> for $enum {
                fn from(message: $message) -> $enum {
                    $enum::$name(message)
                }
            }
        )*
    };
}

macro_rules! default {
    ($type:ty) => {
        <$type as Default>::default()
    };
    ($type:ty, $default:expr) => {
        $default
    };
}

macro_rules! untagged {
    ([] $($code:tt)*) => { $($code)* };
    ([$tag:literal] $($code:tt)*) => {};
}

macro_rules! tagged {
    ([] $($code:tt)*) => {};
    ([$tag:literal] $($code:tt)*) => { $($code)* };
}

macro_rules! decode {
    ($reader:ident) => {
        $crate::field::Field::decode($reader)
    };
    ($reader:ident, $null:expr) => {
        if $reader.version.is_in($null) {
            $crate::field::Field::decode($reader)
        } else {
            $crate::field::Field::decode($reader).map(Some)
        }
    };
}

macro_rules! encode {
    ($value:expr, $writer:ident) => {
        $crate::field::Field::encode(&$value, $writer)
    };
    ($value:expr, $writer:ident, $null:expr) => {
        if $writer.version.is_in($null) {
            $crate::field::Field::encode(&$value, $writer)
        } else {
            $crate::field::encode_without_null(&$value, $writer)
        }
    };
}

#[cfg(test)]
macro_rules! sample {
    ($sampler:ident, $type:ty) => {
        <$type as $crate::field::Field>::sample($sampler)
    };
    ($sampler:ident, $type:ty, $null:expr) => {
        if $sampler.version.is_in($null) {
            <$type as $crate::field::Field>::sample($sampler)
        } else {
            Some($crate::field::Field::sample($sampler))
        }
    };
}

#[cfg(test)]
pub(crate) use sample;
pub(crate) use {apis, decode, default, encode, message_enum, schema, tagged, untagged};
