//! The envelope: header, checksum, MAC.

use super::error::WireError;
use super::packing::Packed;
use crate::delta::{BatchId, ClientTag, HistoryTag};
use crate::enrolment::MacKey;
use crate::limits::Limits;
use xxhash_rust::xxh3::{xxh3_128, Xxh3};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 22;
/// Bytes of a MAC after the body.
pub const MAC_BYTES: usize = 16;

pub(super) const FORMAT: u8 = 1;
const MAGIC: [u8; 2] = *b"FS";
const CHECKSUM: std::ops::Range<usize> = 18..22;
/// The bits of the flags that hold what of the sender's time does not go into five bytes.
const LATE: u8 = 7 << 2;
const PADDED: u8 = 1 << 5;
const TEXTS: u8 = 1 << 6;
const SIGNED: u8 = 1 << 7;
const NOW_MS_MAX: u64 = (1 << 43) - 1;

/// The direction of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// Device to hub.
    Delta,
    /// Hub to device.
    Reply,
}

impl BlobKind {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            BlobKind::Delta => "delta",
            BlobKind::Reply => "reply",
        }
    }
}

/// What can be read of a blob before its MAC is checked. Only the checksum vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its direction.
    pub kind: BlobKind,
    /// Whose it is.
    pub client: ClientTag,
    /// Which history it speaks of.
    pub history: HistoryTag,
    /// The sender's wall clock.
    pub now_ms: u64,
    /// The checksum, which is also the batch's identity.
    pub batch: BatchId,
    /// Whether a MAC follows the body.
    pub signed: bool,
    /// Whether the body begins with texts.
    pub texts: bool,
    /// Whether the body begins with zeros that only make it longer.
    pub padded: bool,
}

/// Reads a blob's header and checks the checksum.
pub fn peek(blob: &[u8]) -> Result<Header, WireError> {
    if blob.len() < HEADER_BYTES || blob[..2] != MAGIC {
        return Err(WireError::NotABlob);
    }
    if blob[2] != FORMAT {
        return Err(WireError::UnknownFormat(blob[2]));
    }
    let flags = blob[3];
    let kind = match flags & !(LATE | PADDED | TEXTS | SIGNED) {
        1 => BlobKind::Delta,
        2 => BlobKind::Reply,
        _ => return Err(WireError::Damaged("unknown kind of blob")),
    };
    let header = Header {
        kind,
        client: little_endian(&blob[4..9]),
        history: little_endian(&blob[9..13]) as u32,
        now_ms: little_endian(&blob[13..18]) | u64::from(flags & LATE) << 38,
        batch: little_endian(&blob[CHECKSUM]),
        signed: flags & SIGNED != 0,
        texts: flags & TEXTS != 0,
        padded: flags & PADDED != 0,
    };
    let covered = covered(blob, header.signed)?;
    if u64::from(checksum(covered)) != header.batch {
        return Err(WireError::Damaged("the checksum does not fit"));
    }
    Ok(header)
}

/// The identity that SQL knows a batch by: xxh3-128 of the blob, as a UUID's bytes.
pub fn blob_uuid(blob: &[u8]) -> [u8; 16] {
    xxh3_128(blob).to_be_bytes()
}

/// 43 bits hold milliseconds until the year 2248.
pub(super) fn fitting_ms(now_ms: u64) -> u64 {
    now_ms.min(NOW_MS_MAX)
}

pub(super) fn seal(
    kind: BlobKind,
    client: ClientTag,
    history: HistoryTag,
    now_ms: u64,
    body: &Packed,
    key: Option<&MacKey>,
) -> (Vec<u8>, BatchId) {
    let mut blob = Vec::with_capacity(HEADER_BYTES + body.bytes.len() + MAC_BYTES);
    blob.extend(MAGIC);
    blob.push(FORMAT);
    let kind = match kind {
        BlobKind::Delta => 1,
        BlobKind::Reply => 2,
    };
    let flag = |flag: u8, on: bool| if on { flag } else { 0 };
    let late = (now_ms >> 38) as u8 & LATE;
    blob.push(kind | late | flag(PADDED, body.padded) | flag(TEXTS, body.texts) | flag(SIGNED, key.is_some()));
    blob.extend(&client.to_le_bytes()[..5]);
    blob.extend(history.to_le_bytes());
    blob.extend(&now_ms.to_le_bytes()[..5]);
    blob.extend([0; CHECKSUM.end - CHECKSUM.start]);
    blob.extend(&body.bytes);
    let batch = checksum(&blob);
    blob[CHECKSUM].copy_from_slice(&batch.to_le_bytes());
    if let Some(key) = key {
        let mac = key.sign(&blob);
        blob.extend(mac);
    }
    (blob, u64::from(batch))
}

/// Checks everything that can be checked before the body is read, and gives the body.
pub(super) fn open<'a>(
    blob: &'a [u8],
    wanted: BlobKind,
    key: Option<&MacKey>,
    limits: &Limits,
) -> Result<(Header, &'a [u8]), WireError> {
    if blob.len() > limits.blob_bytes_max {
        return Err(WireError::Limit { what: "bytes", most: limits.blob_bytes_max });
    }
    let header = peek(blob)?;
    if let Some(key) = key {
        if !header.signed {
            return Err(WireError::Unsigned);
        }
        let (message, mac) = blob.split_at(blob.len() - MAC_BYTES);
        let mac: &[u8; MAC_BYTES] = mac.try_into().map_err(|_| WireError::BadMac)?;
        if !key.verifies(message, mac) {
            return Err(WireError::BadMac);
        }
    }
    if header.kind != wanted {
        return Err(WireError::WrongKind { found: header.kind.word(), wanted: wanted.word() });
    }
    let body = &covered(blob, header.signed)?[HEADER_BYTES..];
    Ok((header, body))
}

/// The blob without its MAC.
fn covered(blob: &[u8], signed: bool) -> Result<&[u8], WireError> {
    let end = if signed { blob.len().checked_sub(MAC_BYTES) } else { Some(blob.len()) };
    match end {
        Some(end) if end >= HEADER_BYTES => Ok(&blob[..end]),
        _ => Err(WireError::Damaged("it ends early")),
    }
}

fn checksum(covered: &[u8]) -> u32 {
    let mut hasher = Xxh3::new();
    hasher.update(&covered[..CHECKSUM.start]);
    hasher.update(&covered[CHECKSUM.end..]);
    (hasher.digest() as u32).max(1) // 0 means "no batch" wherever batches are named
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
