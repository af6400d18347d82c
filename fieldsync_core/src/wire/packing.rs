//! The sections of a body, and what in it is rare (conflicts, notices, rows asked for): postcard, in the pool.
//!
//! ```text
//! [varint count, that many zero bytes]   if the header says "padded"
//! [the pool]                             if the header says "has texts"
//! decisions                              to the end
//! ```

use super::budget::{self, Budget};
use super::error::WireError;
use super::parts::{In, Out, Shared};
use super::pool::PoolReader;
use super::range::Reader;
use super::seal::Header;
use crate::limits::Limits;
use crate::number::{read_varint, write_varint};
use serde::{de::DeserializeOwned, Serialize};

/// A body's bytes, and what the header says about them.
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    pub(super) texts: bool,
    pub(super) padded: bool,
}

pub(super) fn pack(out: Out) -> Packed {
    let spent = out.budget.spent().saturating_add(out.pool.len());
    let pool = out.pool.finish();
    let decisions = out.coder.finish();
    let texts = !pool.is_empty();
    let mut bytes = Vec::with_capacity(pool.len() + decisions.len() + 10);
    let padding = budget::padding(pool.len() + decisions.len(), spent);
    if padding > 0 {
        write_varint(&mut bytes, padding as u64);
        bytes.resize(bytes.len() + padding, 0);
    }
    bytes.extend(pool);
    bytes.extend(decisions);
    Packed { bytes, texts, padded: padding > 0 }
}

pub(super) fn unpack<'a>(bytes: &'a [u8], header: &Header, limits: &Limits) -> Result<In<'a>, WireError> {
    let mut budget = Budget::new(bytes.len(), limits);
    let mut rest = bytes;
    if header.padded {
        let padding = section(&mut rest)?;
        if padding.is_empty() || padding.iter().any(|byte| *byte != 0) {
            return Err(WireError::Damaged("its padding is wrong"));
        }
    }
    let pool = if header.texts { PoolReader::open(&mut rest, &mut budget)? } else { PoolReader::empty() };
    Ok(In { coder: Reader::new(rest), pool, shared: Shared::new(), budget })
}

/// A length and that many bytes.
fn section<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    const WHY: WireError = WireError::Damaged("it ends early");
    let length = read_varint(rest).and_then(|length| usize::try_from(length).ok()).ok_or(WHY)?;
    let (section, after) = rest.split_at_checked(length).ok_or(WHY)?;
    *rest = after;
    Ok(section)
}

/// How much larger than its postcard form a rare structure can be in memory.
const RARE_BYTES_PER_BYTE: usize = 32;

pub(super) fn write_rare<T: Serialize>(out: &mut Out, rare: &T) {
    // Writing into a vector cannot fail for these types: every sequence knows its length.
    let bytes = postcard::to_allocvec(rare).unwrap_or_default();
    let _ = out.budget.take_many(bytes.len(), RARE_BYTES_PER_BYTE + 1);
    out.pool.bytes(&mut out.coder, &bytes);
}

pub(super) fn read_rare<T: DeserializeOwned + Serialize>(input: &mut In<'_>) -> Result<T, WireError> {
    let bytes = input.pool.bytes(&mut input.coder, &mut input.budget)?;
    input.budget.take_many(bytes.len(), RARE_BYTES_PER_BYTE)?;
    match postcard::take_from_bytes::<T>(&bytes) {
        // Postcard takes over-long integers; what was written in another way than ours is refused.
        Ok((rare, [])) if postcard::to_allocvec(&rare).is_ok_and(|again| again == bytes) => Ok(rare),
        Ok((_, [_, ..])) => Err(WireError::Damaged("bytes are left over")),
        _ => Err(WireError::Damaged("its notices cannot be read")),
    }
}
