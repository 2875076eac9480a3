//! Request and response headers.

use thiserror::Error;

use crate::api::ApiKey;
use crate::field::{Field, Label, Str};
use crate::reader::{DecodeError, Problem, Reader};
use crate::schema::Version;
use crate::writer::Writer;

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API.
    pub api_key: ApiKey,
    /// The version of the request, and so of its answer.
    pub api_version: i16,
    /// The client's number for this request; the answer repeats it.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<Str>,
}

/// The part that is the same in all versions. It is read before the version is known.
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

/// ApiVersions answers without tags in every version, so that a client can read the answer before
/// it knows the server (KIP-511).
pub(crate) fn response_header_has_tags(api_key: ApiKey, version: Version) -> bool {
    version.flexible && api_key != ApiKey::ApiVersions
}

/// A request that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No request at all: there is nothing to answer to, so the connection is closed.
    #[error("no request header: {0}")]
    Header(DecodeError),
    /// An API or version that is not served. ApiVersions (18) is answered with error 35 in version
    /// 0. For anything else the connection is closed: the client knows which versions there are.
    #[error("API {api_key} version {api_version} is not supported")]
    UnsupportedVersion {
        /// The number in the frame.
        api_key: i16,
        /// The number in the frame.
        api_version: i16,
        /// For the answer.
        correlation_id: i32,
    },
    /// A known request with a wrong body.
    #[error("{} version {api_version} (correlation id {correlation_id}): {error}", api_key.name())]
    Body {
        /// The API.
        api_key: ApiKey,
        /// The version.
        api_version: i16,
        /// The number in the frame.
        correlation_id: i32,
        /// The error.
        error: DecodeError,
    },
}

impl RequestError {
    /// The API, if the frame has more array elements and tagged fields than its decoder takes.
    pub fn too_many_elements_of(&self) -> Option<ApiKey> {
        let RequestError::Body { api_key, error, .. } = self else { return None };
        matches!(error.problem, Problem::TooManyElements { .. }).then_some(*api_key)
    }
}
