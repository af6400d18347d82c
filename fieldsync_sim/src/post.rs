//! How blobs are written and read: by the real wire code, or in a plain form that takes a tenth of the time.
//!
//! Most of the wire's time goes into guessing letters, which proves nothing about merging. So one history in thirty-two
//! travels as the extensions would send it, and the others as plain postcard with a checksum that depends on the key. In both
//! forms names are left out where the other end is thought to know them, and a blob whose names are not known says so.

use fieldsync_core::delta::{BatchId, ClientTag, Delta, DeltaBody, TableChanges};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{Reply, ReplyBody, TableRows};
use fieldsync_core::wire::{self, DeltaStream, Shape, Shapes, WireError};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const PLAIN: u8 = 0xfa;
const HEAD: usize = 1 + 8 + 8;

/// Why a blob cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is damaged, or its MAC is wrong.
    Damaged,
    /// It leaves out names that this end does not know.
    NamesUnknown,
}

/// What is known of a delta before its sender's key is.
#[derive(Debug, Clone, Copy)]
pub struct Envelope {
    /// Whose it is.
    pub client: ClientTag,
    /// Its identity.
    pub batch: BatchId,
}

fn damaged(error: WireError) -> Unreadable {
    match error {
        WireError::UnknownShape(_) => Unreadable::NamesUnknown,
        _ => Unreadable::Damaged,
    }
}

fn seed(key: &MacKey) -> u64 {
    xxh3_64(&key.0)
}

fn sealed(client: ClientTag, key: &MacKey, body: &[u8]) -> (Vec<u8>, BatchId) {
    let mut blob = Vec::with_capacity(HEAD + body.len());
    blob.push(PLAIN);
    blob.extend(client.to_le_bytes());
    blob.extend([0; 8]);
    blob.extend(body);
    // As wide as the wire's own identities.
    let batch = xxh3_64(&blob) & 0xffff_ffff;
    let check = xxh3_64_with_seed(&blob, seed(key)) & !0xffff_ffff | batch;
    blob[9..HEAD].copy_from_slice(&check.to_le_bytes());
    (blob, batch)
}

fn number(blob: &[u8], at: usize) -> u64 {
    blob[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

fn opened<'b>(blob: &'b [u8], key: &MacKey) -> Result<&'b [u8], Unreadable> {
    peek(blob)?;
    let mut bare = blob.to_vec();
    bare[9..HEAD].fill(0);
    if (xxh3_64_with_seed(&bare, seed(key)) ^ number(blob, 9)) >> 32 != 0 {
        return Err(Unreadable::Damaged);
    }
    Ok(&blob[HEAD..])
}

/// Whose a delta is.
pub fn peek(blob: &[u8]) -> Result<Envelope, Unreadable> {
    if blob.first() != Some(&PLAIN) {
        let header = wire::peek(blob).map_err(damaged)?;
        return Ok(Envelope { client: header.client, batch: header.batch });
    }
    if blob.len() < HEAD {
        return Err(Unreadable::Damaged);
    }
    let mut bare = blob.to_vec();
    bare[9..HEAD].fill(0);
    let batch = xxh3_64(&bare) & 0xffff_ffff;
    if batch != number(blob, 9) & 0xffff_ffff {
        return Err(Unreadable::Damaged);
    }
    Ok(Envelope { client: number(blob, 1), batch })
}

/// A name that stands for a shape.
fn stand_in(tag: u16) -> String {
    format!("#{tag}")
}

fn known_by<'s>(name: &str, known: &'s Shapes) -> Result<Option<&'s Shape>, Unreadable> {
    let Some(tag) = name.strip_prefix('#') else { return Ok(None) };
    let tag = tag.parse().map_err(|_| Unreadable::Damaged)?;
    known.get(tag).map(Some).ok_or(Unreadable::NamesUnknown)
}

/// Shapes that a delta names in full.
pub fn named_by_delta(tables: &[TableChanges], known: &Shapes) -> Vec<Shape> {
    tables.iter().map(Shape::of_changes).filter(|shape| !known.knows(shape)).collect()
}

/// Shapes that a reply names in full.
pub fn named_by_reply(tables: &[TableRows], known: &Shapes) -> Vec<Shape> {
    tables.iter().map(Shape::of_rows).filter(|shape| !known.knows(shape)).collect()
}

/// A delta as a blob.
pub fn write_delta(delta: &Delta, key: &MacKey, known: &Shapes, plain: bool) -> (Vec<u8>, BatchId) {
    if !plain {
        return wire::encode_delta_for(delta, Some(key), known);
    }
    let mut body = delta.body.clone();
    for table in &mut body.tables {
        let shape = Shape::of_changes(table);
        if known.knows(&shape) {
            table.table = stand_in(shape.tag());
            table.columns.clear();
        }
    }
    let bytes = postcard::to_allocvec(&(delta.history, delta.device_now_ms, body)).unwrap_or_default();
    sealed(delta.client, key, &bytes)
}

/// A reply as a blob.
pub fn write_reply(reply: &Reply, key: &MacKey, known: &Shapes, plain: bool) -> Vec<u8> {
    if !plain {
        return wire::encode_reply_for(reply, Some(key), known);
    }
    let mut body = reply.body.clone();
    for table in &mut body.tables {
        let shape = Shape::of_rows(table);
        if known.knows(&shape) {
            table.table = stand_in(shape.tag());
            table.columns.clear();
        }
    }
    let bytes = postcard::to_allocvec(&(reply.history, reply.hub_now_ms, body)).unwrap_or_default();
    sealed(reply.client, key, &bytes).0
}

/// A delta from a blob. Where names are missing: what stands before its tables, and no table.
pub fn read_delta(blob: &[u8], key: &MacKey, known: &Shapes) -> Result<(Delta, bool), Unreadable> {
    let limits = Limits::default();
    if blob.first() != Some(&PLAIN) {
        return match wire::decode_delta_with(blob, Some(key), &limits, known) {
            Ok(delta) => Ok((delta, true)),
            Err(WireError::UnknownShape(_)) => {
                let stream = DeltaStream::open(blob, Some(key), &limits, known).map_err(damaged)?;
                Ok((stream.delta, false))
            }
            Err(error) => Err(damaged(error)),
        };
    }
    let envelope = peek(blob)?;
    let bytes = opened(blob, key)?;
    let (history, device_now_ms, mut body): (_, _, DeltaBody) =
        postcard::from_bytes(bytes).map_err(|_| Unreadable::Damaged)?;
    let mut complete = true;
    for table in &mut body.tables {
        match known_by(&table.table, known) {
            Ok(None) => {}
            Ok(Some(shape)) => {
                table.table.clone_from(&shape.table);
                table.columns.clone_from(&shape.columns);
            }
            Err(Unreadable::NamesUnknown) => complete = false,
            Err(error) => return Err(error),
        }
    }
    if !complete {
        body.tables.clear();
    }
    Ok((Delta { client: envelope.client, history, device_now_ms, body }, complete))
}

/// A reply from a blob.
pub fn read_reply(blob: &[u8], key: &MacKey, known: &Shapes) -> Result<Reply, Unreadable> {
    if blob.first() != Some(&PLAIN) {
        return wire::decode_reply_with(blob, Some(key), &Limits::default(), known).map_err(damaged);
    }
    let envelope = peek(blob)?;
    let bytes = opened(blob, key)?;
    let (history, hub_now_ms, mut body): (_, _, ReplyBody) =
        postcard::from_bytes(bytes).map_err(|_| Unreadable::Damaged)?;
    for table in &mut body.tables {
        if let Some(shape) = known_by(&table.table, known)? {
            table.table.clone_from(&shape.table);
            table.columns.clone_from(&shape.columns);
        }
    }
    Ok(Reply { client: envelope.client, history, hub_now_ms, body })
}
