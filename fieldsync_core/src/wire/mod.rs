//! The blob: one versioned format for both directions.
//!
//! ```text
//! offset  bytes
//!      0  2   magic "FS"
//!      2  1   format version
//!      3  1   kind (bits 0-1: 1 delta, 2 reply), bit 6: body compressed, bit 7: a MAC follows the body
//!      4  8   client tag                      little endian, like all fixed numbers here
//!     12  4   history tag
//!     16  6   the sender's now, milliseconds since 1970
//!     22  8   checksum: xxh3-64 of everything else but the MAC; also the batch's identity
//!     30  …   body
//!      …  16  MAC (HMAC-SHA256, shortened), over everything before it
//! ```
//!
//! Invariants of the reader: header, MAC (or checksum) and limits are checked before anything is parsed; nothing is
//! allocated from a claimed size; expansion is bounded while it happens; left-over bytes are an error; there is no recursion.

mod body;
mod error;
mod seal;

pub use error::WireError;
pub use seal::{blob_uuid, peek, BlobKind, Header, HEADER_BYTES, MAC_BYTES};

use crate::delta::{BatchId, Delta, DeltaBody};
use crate::enrolment::MacKey;
use crate::limits::Limits;
use crate::reply::{Reply, ReplyBody};

/// A delta as a blob, and the identity of the batch that it is.
pub fn encode_delta(delta: &Delta, key: Option<&MacKey>) -> (Vec<u8>, BatchId) {
    let header = Header {
        kind: BlobKind::Delta,
        client: delta.client,
        history: delta.history,
        now_ms: delta.device_now_ms,
        batch: 0,
        signed: key.is_some(),
        compressed: false,
    };
    seal::seal(header, &body::write_delta(&delta.body), key)
}

/// A delta from a blob. With a key the blob must carry its MAC.
pub fn decode_delta(blob: &[u8], key: Option<&MacKey>, limits: &Limits) -> Result<Delta, WireError> {
    let (header, bytes) = seal::open(blob, BlobKind::Delta, key, limits)?;
    let body: DeltaBody = body::read_delta(&bytes, limits)?;
    Ok(Delta { client: header.client, history: header.history, device_now_ms: header.now_ms, body })
}

/// A reply as a blob.
pub fn encode_reply(reply: &Reply, key: Option<&MacKey>) -> Vec<u8> {
    let header = Header {
        kind: BlobKind::Reply,
        client: reply.client,
        history: reply.history,
        now_ms: reply.hub_now_ms,
        batch: 0,
        signed: key.is_some(),
        compressed: false,
    };
    seal::seal(header, &body::write_reply(&reply.body), key).0
}

/// A reply from a blob. With a key the blob must carry its MAC.
pub fn decode_reply(blob: &[u8], key: Option<&MacKey>, limits: &Limits) -> Result<Reply, WireError> {
    let (header, bytes) = seal::open(blob, BlobKind::Reply, key, limits)?;
    let body: ReplyBody = body::read_reply(&bytes, limits)?;
    Ok(Reply { client: header.client, history: header.history, hub_now_ms: header.now_ms, body })
}
