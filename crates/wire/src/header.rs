//! What stands before a message's body.

use thiserror::Error;

use crate::api::ApiKey;
use crate::field::{Field, Label, Str};
use crate::reader::{DecodeError, Problem, Reader};
use crate::schema::Version;
use crate::writer::Writer;

/// Who asks for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which request it is.
    pub api_key: ApiKey,
    /// In which version; the answer is encoded in the same.
    pub api_version: i16,
    /// The client's number for this request; the answer repeats it.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<Str>,
}

/// The part that has never changed, read before it is known whether the rest can be.
pub(crate) struct RequestStart {
    pub(crate) api_key: i16,
    pub(crate) api_version: i16,
    pub(crate) correlation_id: i32,
}

impl RequestStart {
    pub(crate) fn decode(reader: &mut Reader) -> Result<RequestStart, DecodeError> {
        Ok(RequestStart {
            api_key: i16::from_be_bytes(reader.array()?),
            api_version: i16::from_be_bytes(reader.array()?),
            correlation_id: i32::from_be_bytes(reader.array()?),
        })
    }

    /// The client id (never in compact form, KIP-482) and, in flexible versions, the tags.
    pub(crate) fn decode_rest(reader: &mut Reader) -> Result<Option<Str>, DecodeError> {
        let version = reader.version;
        reader.version = Version { flexible: false, ..version };
        reader.field = "client_id";
        let client_id: Option<Label> = Field::decode(reader)?;
        reader.version = version;
        if version.flexible {
            reader.skip_tagged()?;
        }
        Ok(client_id.map(Label::into_str))
    }
}

pub(crate) fn encode_request_header(
    writer: &mut Writer,
    api_key: ApiKey,
    correlation_id: i32,
    client_id: &str,
) {
    let version = writer.version;
    writer.put(&(api_key as i16).to_be_bytes());
    writer.put(&version.number.to_be_bytes());
    writer.put(&correlation_id.to_be_bytes());
    writer.version = Version { flexible: false, ..version };
    Str::from(client_id).encode(writer);
    writer.version = version;
    if version.flexible {
        writer.put_unsigned_varint(0);
    }
}

/// ApiVersions answers without tags in every version, so that a client that does not know the
/// server yet can read them (KIP-511).
pub(crate) fn response_header_has_tags(api_key: ApiKey, version: Version) -> bool {
    version.flexible && api_key != ApiKey::ApiVersions
}

/// A request that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not even a request: nothing to answer to, close the connection.
    #[error("no request header: {0}")]
    Header(DecodeError),
    /// No such API or version here. ApiVersions (18) is answered with error 35 in version 0, for
    /// anything else the connection is closed: the client was told what there is.
    #[error("API {api_key} version {api_version} is not supported")]
    UnsupportedVersion {
        /// As it came.
        api_key: i16,
        /// As it came.
        api_version: i16,
        /// To answer with.
        correlation_id: i32,
    },
    /// A header of a known request, and a body that is none.
    #[error("{} version {api_version} (correlation id {correlation_id}): {error}", api_key.name())]
    Body {
        /// Which request.
        api_key: ApiKey,
        /// In which version.
        api_version: i16,
        /// As it came.
        correlation_id: i32,
        /// What is wrong with it.
        error: DecodeError,
    },
}

impl RequestError {
    /// Whether the frame has more array elements than its decoder takes.
    pub fn is_of_too_many_elements(&self) -> bool {
        let (RequestError::Header(error) | RequestError::Body { error, .. }) = self else {
            return false;
        };
        matches!(error.problem, Problem::TooManyElements { .. })
    }
}
