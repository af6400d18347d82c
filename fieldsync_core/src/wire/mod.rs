//! The blob: one versioned format for both directions.
//!
//! ```text
//! offset  bytes
//!      0  2   magic "FS"
//!      2  1   format version
//!      3  1   kind (bits 0-1: 1 delta, 2 reply), bits 2-4: the upper bits of now, bit 5: padded, bit 6: has texts,
//!             bit 7: a MAC follows the body
//!      4  5   client tag                      little endian, like all fixed numbers here
//!      9  4   history tag
//!     13  5   the sender's now, milliseconds since 1970, lower 40 bits
//!     18  4   checksum: the lower half of xxh3-64 of everything else but the MAC; also the batch's identity
//!     22  …   body
//!      …  16  MAC (HMAC-SHA256, shortened), over everything before it
//! ```
//!
//! The whole format is on the page `docs/wire.md`, with test vectors. By room: `seal` the envelope; `packing` its sections;
//! `body` and `front` what is before the tables; `tables` and `shapers` tables and what they look like; `table` rows and blocks;
//! `column` a column's values by class (`classes`); `numbers` integers of all kinds; `sixteens` UUIDs; `strings`, `pool` and
//! `text_model` texts; `model` and `range` how decisions become bits; `budget` what it may expand to.
//!
//! Invariants of the reader: header, MAC (or checksum) and limits are checked before anything is parsed; nothing is
//! allocated from a claimed size; expansion is bounded while it happens; left-over bytes are an error; there is no recursion.
//!
//! What was tried, on the data sets of `make bench`: the whole blob without MAC as a share of compact JSON of the full rows
//! with their `sync_` columns. Each line adds to the one above. (The first two have no names of tables and columns in them, as if
//! they were known; ours has them known where it says so.)
//!
//! | n = 1 / 20 / 500 | pbcseq update | LaborSupply update | covid_testing insert | surveys insert |
//! |---|---|---|---|---|
//! | postcard row by row, zstd 12 | .50 / .20 / .16 | .65 / .20 / .15 | .51 / .14 / .095 | .48 / .071 / .042 |
//! | columns, adaptive range coder, texts in a pool under zstd; names in it | .46 / .097 / .053 | .48 / .096 / .071 | .49 / .085 / .047 | .52 / .040 / .010 |
//! | shapes that both ends know travel as a tag | .23 / .085 / – | .30 / .087 / .070 | .29 / .076 / .047 | .26 / .028 / .010 |
//! | a single number needs no plan; tags of 16 bits | .22 / .086 / .074 | .29 / .086 / .070 | .28 / .076 / .047 | .25 / .027 / .010 |
//! | small pools by mixing contexts, with practice | .22 / .086 / .074 | .29 / .086 / .070 | .23 / .071 / .046 | .25 / .026 / .010 |
//! | models that expect the usual; sets as bits; header of 23 bytes | .20 / .084 / .074 | .26 / .084 / .070 | .21 / .070 / .046 | .22 / .025 / .009 |
//! | no export counter, 43 bits of time, header of 22 bytes | .19 / .084 / .074 | .25 / .083 / .070 | .20 / .070 / .046 | .21 / .024 / .009 |
//!
//! Not kept: 64-bit checksums and batch names (8 bytes of a blob of 60); lengths instead of ends for texts (the text model
//! guesses where a word ends, a length is a guess of its own); one stream of rows instead of blocks (2 % smaller at 100,000
//! rows, with all of them in memory).

mod body;
mod budget;
mod classes;
mod column;
mod delta_writer;
mod error;
mod front;
mod model;
mod numbers;
mod packing;
mod parts;
mod pool;
mod range;
mod repeats;
mod reply_writer;
mod seal;
mod shape;
mod shapers;
mod sixteens;
mod stream;
mod strings;
mod table;
mod tables;
mod text_model;

pub use delta_writer::DeltaWriter;
pub use error::WireError;
pub use reply_writer::{encode_packed_reply, PackedRows};
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
