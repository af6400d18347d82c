//! Hostile blobs: real ones, changed, with a right checksum again. Shared by tests, the stable harness and cargo-fuzz.
#![allow(dead_code)]

use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{self, Shape, Shapes, WireError, HEADER_BYTES};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use xxhash_rust::xxh3::Xxh3;

const CHECKSUM: std::ops::Range<usize> = 18..22;
const FLAGS: usize = 3;
const TEXTS: u8 = 1 << 6;
const SIGNED: u8 = 1 << 7;

/// Blobs of arbitrary changesets, and the shapes that their readers know. The same ones in every run.
pub struct Corpus {
    /// Deltas and replies, with and without names.
    pub blobs: Vec<Vec<u8>>,
    /// What both ends know.
    pub shapes: Shapes,
}

impl Corpus {
    /// About so many blobs, none larger than that.
    pub fn new(count: usize, bytes_max: usize) -> Corpus {
        let mut runner = TestRunner::deterministic();
        let mut blobs = Vec::new();
        let mut shapes = Shapes::none();
        let mut tried = 0;
        while blobs.len() < count {
            let Ok(delta) = super::support::deltas().new_tree(&mut runner) else { continue };
            let Ok(reply) = super::support::replies().new_tree(&mut runner) else { continue };
            let (mut delta, mut reply) = (delta.current(), reply.current());
            // Few tables and rows: what is small is tried more often.
            delta.body.tables.truncate(blobs.len() % 3);
            reply.body.tables.truncate(blobs.len() % 3);
            let rows = 1 + blobs.len() % 7;
            for table in &mut delta.body.tables {
                table.changes.truncate(rows);
                shapes.add(Shape::of_changes(table));
            }
            for table in &mut reply.body.tables {
                table.rows.truncate(rows);
                shapes.add(Shape::of_rows(table));
            }
            if tried % 8 != 0 {
                delta.body.wants.clear();
                delta.body.settled.clear();
                reply.body.notices.clear();
            }
            let known = if tried % 8 == 1 { Shapes::none() } else { shapes.clone() };
            let made = [wire::encode_delta_for(&delta, None, &known).0, wire::encode_reply_for(&reply, None, &known)];
            // Texts take most of the time, and are a small part of the code: one blob in twelve has some.
            blobs.extend(made.into_iter().filter(|blob| {
                tried += 1;
                blob.len() <= bytes_max && (blob[FLAGS] & TEXTS == 0 || tried % 12 == 0)
            }));
        }
        Corpus { blobs, shapes }
    }
}

/// Makes the checksum right, and whatever else would have the blob refused before its body is looked at.
pub fn forge(blob: &mut Vec<u8>) {
    if blob.len() < HEADER_BYTES {
        blob.resize(HEADER_BYTES, 0);
    }
    blob[..3].copy_from_slice(b"FS\x01");
    blob[FLAGS] &= !SIGNED;
    if !matches!(blob[FLAGS] & 3, 1 | 2) {
        blob[FLAGS] = blob[FLAGS] & !3 | 1;
    }
    let mut hasher = Xxh3::new();
    hasher.update(&blob[..CHECKSUM.start]);
    hasher.update(&blob[CHECKSUM.end..]);
    let checksum = (hasher.digest() as u32).max(1);
    blob[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// Opens a blob as what it says it is. What can be read must be possible to write and read again, as the same.
pub fn open(blob: &[u8], shapes: &Shapes, limits: &Limits) -> Result<(), WireError> {
    if blob.get(FLAGS).is_some_and(|flags| flags & 3 == 2) {
        let reply = wire::decode_reply_with(blob, None, limits, shapes)?;
        let again = wire::encode_reply_for(&reply, None, shapes);
        assert_eq!(wire::decode_reply_with(&again, None, &Limits::default(), shapes).as_ref(), Ok(&reply));
    } else {
        let delta = wire::decode_delta_with(blob, None, limits, shapes)?;
        let (again, _) = wire::encode_delta_for(&delta, None, shapes);
        assert_eq!(wire::decode_delta_with(&again, None, &Limits::default(), shapes).as_ref(), Ok(&delta));
    }
    Ok(())
}

/// A small generator of numbers (xorshift64*), the same on every machine.
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below another one.
    pub fn below(&mut self, size: usize) -> usize {
        (self.roll() >> 33) as usize % size.max(1)
    }
}

/// A blob of the corpus, changed in one to four places behind its header (now and then in it), with a right checksum.
pub fn mutant(corpus: &Corpus, dice: &mut Dice, blob: &mut Vec<u8>) {
    blob.clear();
    blob.extend(&corpus.blobs[dice.below(corpus.blobs.len())]);
    for _ in 0..=dice.below(4) {
        let from = if dice.below(16) == 0 { 3 } else { HEADER_BYTES };
        let at = from + dice.below(blob.len().saturating_sub(from));
        match dice.below(10) {
            0..=3 => change(blob, at, |byte| byte ^ 1 << (at % 8)),
            4 => {
                let byte = dice.roll() as u8;
                change(blob, at, |_| byte);
            }
            5 => change(blob, at, |_| 0xff),
            6 => change(blob, at, |_| 0),
            7 => blob.insert(at.min(blob.len()), dice.roll() as u8),
            8 => blob.truncate(at),
            _ => {
                let other = &corpus.blobs[dice.below(corpus.blobs.len())];
                let cut = dice.below(other.len());
                blob.truncate(at);
                blob.extend(&other[cut..]);
            }
        }
    }
    forge(blob);
}

fn change(blob: &mut [u8], at: usize, to: impl Fn(u8) -> u8) {
    if let Some(byte) = blob.get_mut(at) {
        *byte = to(*byte);
    }
}
