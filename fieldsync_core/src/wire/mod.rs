//! The blob: one versioned format for both directions.
//!
//! ```text
//! offset  bytes
//!      0  2   magic "FS"
//!      2  1   format version
//!      3  1   kind (bits 0-1: 1 delta, 2 reply), bit 5: padded, bit 6: has texts, bit 7: a MAC follows the body
//!      4  5   client tag                      little endian, like all fixed numbers here
//!      9  4   history tag
//!     13  6   the sender's now, milliseconds since 1970
//!     19  4   checksum: the lower half of xxh3-64 of everything else but the MAC; also the batch's identity
//!     23  …   body
//!      …  16  MAC (HMAC-SHA256, shortened), over everything before it
//! ```
//!
//! Invariants of the reader: header, MAC (or checksum) and limits are checked before anything is parsed; nothing is
//! allocated from a claimed size; expansion is bounded while it happens; left-over bytes are an error; there is no recursion.

mod body;
mod budget;
mod classes;
mod column;
mod error;
mod model;
mod numbers;
mod pool;
mod range;
mod seal;
mod shape;
mod stream;
mod table;
mod text_model;

pub use error::WireError;
pub use seal::{blob_uuid, peek, BlobKind, Header, HEADER_BYTES, MAC_BYTES};
pub use shape::{Shape, Shapes};
pub use stream::{DeltaStream, ReplyStream};

use crate::delta::{BatchId, Delta, TableChanges};
use crate::enrolment::MacKey;
use crate::limits::Limits;
use crate::reply::{Reply, TableRows};

/// A delta as a blob, with all names, and the identity of the batch that it is.
pub fn encode_delta(delta: &Delta, key: Option<&MacKey>) -> (Vec<u8>, BatchId) {
    encode_delta_for(delta, key, &Shapes::none())
}

/// A delta as a blob, and the identity of the batch that it is. Tables whose shape the hub is known to know travel
/// without their names.
pub fn encode_delta_for(delta: &Delta, key: Option<&MacKey>, known: &Shapes) -> (Vec<u8>, BatchId) {
    let now_ms = seal::fitting_ms(delta.device_now_ms);
    let body = body::write_delta(&delta.body, now_ms, known);
    seal::seal(BlobKind::Delta, delta.client, delta.history, now_ms, &body, key)
}

/// A delta from a blob that names all its tables. With a key the blob must carry its MAC.
pub fn decode_delta(blob: &[u8], key: Option<&MacKey>, limits: &Limits) -> Result<Delta, WireError> {
    decode_delta_with(blob, key, limits, &Shapes::none())
}

/// A delta from a blob; `known` holds the shapes of earlier deltas. With a key the blob must carry its MAC.
pub fn decode_delta_with(
    blob: &[u8],
    key: Option<&MacKey>,
    limits: &Limits,
    known: &Shapes,
) -> Result<Delta, WireError> {
    let mut stream = DeltaStream::open(blob, key, limits, known)?;
    let mut tables: Vec<TableChanges> = Vec::new();
    while let Some((table, continues)) = stream.next_block()? {
        match tables.last_mut().filter(|_| continues) {
            Some(last) => last.changes.extend(table.changes),
            None => tables.push(table),
        }
    }
    let mut delta = stream.delta;
    delta.body.tables = tables;
    Ok(delta)
}

/// A reply as a blob, with all names.
pub fn encode_reply(reply: &Reply, key: Option<&MacKey>) -> Vec<u8> {
    encode_reply_for(reply, key, &Shapes::none())
}

/// A reply as a blob. Tables whose shape the device is known to know travel without their names.
pub fn encode_reply_for(reply: &Reply, key: Option<&MacKey>, known: &Shapes) -> Vec<u8> {
    let now_ms = seal::fitting_ms(reply.hub_now_ms);
    let body = body::write_reply(&reply.body, now_ms, known);
    seal::seal(BlobKind::Reply, reply.client, reply.history, now_ms, &body, key).0
}

/// A reply from a blob that names all its tables. With a key the blob must carry its MAC.
pub fn decode_reply(blob: &[u8], key: Option<&MacKey>, limits: &Limits) -> Result<Reply, WireError> {
    decode_reply_with(blob, key, limits, &Shapes::none())
}

/// A reply from a blob; `known` holds the shapes of earlier replies. With a key the blob must carry its MAC.
pub fn decode_reply_with(
    blob: &[u8],
    key: Option<&MacKey>,
    limits: &Limits,
    known: &Shapes,
) -> Result<Reply, WireError> {
    let mut stream = ReplyStream::open(blob, key, limits, known)?;
    let mut tables: Vec<TableRows> = Vec::new();
    while let Some((table, continues)) = stream.next_block()? {
        match tables.last_mut().filter(|_| continues) {
            Some(last) => last.rows.extend(table.rows),
            None => tables.push(table),
        }
    }
    let mut reply = stream.reply;
    reply.body.tables = tables;
    Ok(reply)
}
