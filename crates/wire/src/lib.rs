//! Kafka's wire protocol: bytes in, bytes out.
//!
//! The server decodes requests and encodes responses; clients (the load generator, tests, `penstock
//! topic`) do the reverse. Both use the declarations in [`messages`]. Nothing here does I/O, waits,
//! or knows a file. Where records come from a file, the caller puts a slot into the response and
//! gets the answer back in pieces.
//!
//! A message is declared once, with the versions of its fields; the declaration gives both
//! directions. Records are bytes or a slot ([`Records`]); a slot splits the encoded [`Answer`] into
//! pieces. So there is one encoder, and zero copy is a property of the data.
//!
//! ```text
//! request frame:   length i32 · api_key i16 · api_version i16 · correlation_id i32 · client_id ·
//!                  [tags] · body                                  (tags: flexible versions only)
//! response frame:  length i32 · correlation_id i32 · [tags] · body
//! ```
//!
//! Hostile bytes never panic and never reserve memory by their claims: every length and count is
//! first compared with the bytes left.

mod answer;
mod api;
mod error_code;
mod field;
pub mod frame;
mod header;
pub mod messages;
mod reader;
mod schema;
mod writer;

pub use answer::{Answer, Piece, Pieces, Records, RecordsSlot};
pub use api::{
    ApiKey, Request, Response, SUPPORTED, SupportedApi, decode_request, decode_request_within,
    decode_response, negotiate,
};
pub use error_code::ErrorCode;
pub use field::{Few, Label, Str, Uuid};
pub use header::{RequestError, RequestHeader};
pub use reader::{DecodeError, Problem};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod sample;
