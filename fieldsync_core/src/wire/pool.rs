//! The pool: every text and byte string of a body that is not a repetition, one after the other, compressed as one.
//!
//! Texts end with a zero byte; in the rare text that holds byte 0 or 1 these become `1 3` and `1 2`. Byte strings stand as
//! they are, their lengths are in the decisions.

use super::budget::Budget;
use super::error::WireError;
use super::model::Number;
use super::range::{Reader, Writer};
use super::text_model::{self, TEXT_MODEL_BYTES_MAX};
use crate::number::{read_varint, write_varint};
use std::io::Read;

const END: u8 = 0;
const ESCAPE: u8 = 1;
const ESCAPED_ESCAPE: u8 = 2;
const ESCAPED_END: u8 = 3;

const STORED: u64 = 0;
const ZSTD: u64 = 1;
const MODEL: u64 = 2;
const METHODS: u64 = 3;

const WINDOW_LOG_MAX: u32 = 23;
/// Shorter pools never gain by it.
const ZSTD_BYTES_MIN: usize = 256;

/// The writer's side.
#[derive(Debug)]
pub(super) struct PoolWriter {
    bytes: Vec<u8>,
    lengths: Number,
}

impl PoolWriter {
    pub(super) fn new() -> PoolWriter {
        PoolWriter { bytes: Vec::new(), lengths: Number::modest() }
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        if text.iter().any(|byte| *byte <= ESCAPE) {
            for byte in text {
                match *byte {
                    END => self.bytes.extend([ESCAPE, ESCAPED_END]),
                    ESCAPE => self.bytes.extend([ESCAPE, ESCAPED_ESCAPE]),
                    byte => self.bytes.push(byte),
                }
            }
        } else {
            self.bytes.extend(text);
        }
        self.bytes.push(END);
    }

    pub(super) fn bytes(&mut self, writer: &mut Writer, bytes: &[u8]) {
        self.lengths.code(writer, bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    /// Its bytes before they are packed.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The pool as it travels: empty, or a number for length and method, and what that made of it; the shortest of all.
    pub(super) fn finish(self) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let model = (self.bytes.len() <= TEXT_MODEL_BYTES_MAX).then(|| model(&self.bytes));
        let zstd = (self.bytes.len() >= ZSTD_BYTES_MIN).then(|| compress(&self.bytes)).flatten();
        let packed = [(MODEL, model), (ZSTD, zstd), (STORED, Some(self.bytes))];
        let shortest = packed.into_iter().filter_map(|(method, bytes)| Some((method, bytes?)));
        let (method, bytes) = shortest.min_by_key(|(_, bytes)| bytes.len()).unwrap_or_default();
        let mut pool = Vec::with_capacity(bytes.len() + 10);
        write_varint(&mut pool, bytes.len() as u64 * METHODS + method);
        pool.extend(bytes);
        pool
    }
}

/// The reader's side.
#[derive(Debug)]
pub(super) struct PoolReader {
    bytes: Vec<u8>,
    at: usize,
    lengths: Number,
}

impl PoolReader {
    /// Without a pool there is nothing to read.
    pub(super) fn empty() -> PoolReader {
        PoolReader { bytes: Vec::new(), at: 0, lengths: Number::modest() }
    }

    /// Takes a pool from the beginning of `rest` and expands it; pays for what it becomes.
    pub(super) fn open(rest: &mut &[u8], budget: &mut Budget) -> Result<PoolReader, WireError> {
        const WHY: WireError = WireError::Damaged("its texts are missing");
        let number = read_varint(rest).ok_or(WHY)?;
        let length = usize::try_from(number / METHODS).ok().filter(|length| *length > 0).ok_or(WHY)?;
        let (packed, after) = rest.split_at_checked(length).ok_or(WHY)?;
        *rest = after;
        let bytes = match number % METHODS {
            STORED => packed.to_vec(),
            ZSTD => expand(packed, budget.left())?,
            _ => predict(packed)?,
        };
        budget.take(bytes.len())?;
        Ok(PoolReader { bytes, ..PoolReader::empty() })
    }

    /// The next text. Pays for it.
    pub(super) fn text(&mut self, budget: &mut Budget) -> Result<String, WireError> {
        const WHY: WireError = WireError::Damaged("a text is missing");
        let rest = self.bytes.get(self.at..).ok_or(WHY)?;
        let length = rest.iter().position(|byte| *byte == END).ok_or(WHY)?;
        budget.take(length)?;
        self.at += length + 1;
        let bytes = &rest[..length];
        let bytes = if bytes.contains(&ESCAPE) { unescape(bytes)? } else { bytes.to_vec() };
        String::from_utf8(bytes).map_err(|_| WireError::Damaged("a text is not UTF-8"))
    }

    /// The next byte string. Pays for it.
    pub(super) fn bytes(&mut self, reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Vec<u8>, WireError> {
        let length = usize::try_from(self.lengths.code(reader, 0)).unwrap_or(usize::MAX);
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Damaged("bytes are missing"))?;
        budget.take(length)?;
        let bytes = self.bytes[self.at..end].to_vec();
        self.at = end;
        Ok(bytes)
    }

    /// Everything has been read.
    pub(super) fn finish(&self) -> Result<(), WireError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(WireError::Damaged("bytes are left over"))
        }
    }
}

fn unescape(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        text.push(match (*byte, rest.as_slice().first()) {
            (ESCAPE, Some(&ESCAPED_END)) => END,
            (ESCAPE, Some(&ESCAPED_ESCAPE)) => ESCAPE,
            (ESCAPE, _) => return Err(WireError::Damaged("a text is written wrongly")),
            (byte, _) => byte,
        });
        if *byte == ESCAPE {
            rest.next();
        }
    }
    Ok(text)
}

fn model(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    write_varint(&mut packed, bytes.len() as u64);
    let mut writer = Writer::new();
    text_model::code(&mut writer, &mut bytes.to_vec());
    packed.extend(writer.finish());
    packed
}

fn predict(packed: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut rest = packed;
    let length = read_varint(&mut rest).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| (1..=TEXT_MODEL_BYTES_MAX).contains(length));
    let mut bytes = vec![0; length.ok_or(WireError::Damaged("its texts have a wrong length"))?];
    let mut reader = Reader::new(rest);
    text_model::code(&mut reader, &mut bytes);
    reader.finish()?;
    Ok(bytes)
}

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let level = match bytes.len() {
        0..=0x1_0000 => 19,
        0x1_0001..=0x8_0000 => 9,
        _ => 3,
    };
    let mut packer = zstd::bulk::Compressor::new(level).ok()?;
    // The envelope has a checksum, and the size is not to be believed anyway.
    packer.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(false)).ok()?;
    packer.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false)).ok()?;
    packer.compress(bytes).ok()
}

fn expand(packed: &[u8], most: usize) -> Result<Vec<u8>, WireError> {
    const WHY: WireError = WireError::Damaged("its texts do not expand");
    let mut reader = zstd::stream::read::Decoder::with_buffer(packed).map_err(|_| WHY)?.single_frame();
    reader.window_log_max(WINDOW_LOG_MAX).map_err(|_| WHY)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too large" from "just right".
    (&mut reader).take((most as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(|_| WHY)?;
    if bytes.len() > most {
        return Err(WireError::Limit { what: "expanded bytes", most });
    }
    if !reader.finish().is_empty() {
        return Err(WireError::Damaged("bytes are left over"));
    }
    Ok(bytes)
}
