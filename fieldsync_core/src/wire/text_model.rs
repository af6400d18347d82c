//! Small texts, bit by bit, by mixing what several contexts predict (after Mahoney's lpaq).
//!
//! A blob of one edit has twenty bytes of text, and no dictionary coder gets anything out of so little. This model begins
//! with some practice in what field teams write (`prime.txt`), so that it needs about half of the bytes. It takes half a
//! microsecond per byte, so larger pools go to zstd.
//!
//! All arithmetic is on integers: every machine predicts the same.

use super::range::Coder;
use std::cell::Cell;
use std::sync::OnceLock;

/// Pools above this are not worth the time.
pub(super) const TEXT_MODEL_BYTES_MAX: usize = 16 << 10;

const PRACTICE: &str = include_str!("prime.txt");
const CONTEXTS: usize = 6;
const SLOT_BITS: u32 = 14;

/// What is known in one context about one bit of the next byte.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// That it is 1, of 65536.
    share: u16,
    seen: u8,
    /// Other contexts end up in the same place; this tells them apart.
    check: u8,
}

const UNSEEN: Slot = Slot { share: 1 << 15, seen: 0, check: 0 };

/// How far a share moves after the n-th bit: 1/(n + 1.5), of 65536.
const PACE: [u32; 31] = {
    let mut pace = [0; 31];
    let mut seen = 0;
    while seen < 31 {
        pace[seen] = (131_072 / (2 * seen + 3)) as u32;
        seen += 1;
    }
    pace
};

/// How much a prediction counts by the number of bits it comes from, in sixteenths.
const TRUST: [i32; 31] = {
    let mut trust = [20; 31];
    trust[0] = 0;
    trust[1] = 10;
    trust[2] = 13;
    trust[3] = 15;
    trust[4] = 17;
    trust[5] = 18;
    trust
};

/// The model of all contexts.
#[derive(Debug, Clone)]
pub(super) struct TextModel {
    slots: Vec<Slot>,
    /// By the longest context that knows something.
    weights: [[i32; CONTEXTS]; CONTEXTS + 1],
    history: u64,
    word: u32,
    /// What changed slots were before, if somebody wants to know.
    changed: Option<Vec<(u32, Slot)>>,
}

/// With practice, and at the beginning of a text.
fn practised() -> &'static TextModel {
    static PRACTISED: OnceLock<TextModel> = OnceLock::new();
    PRACTISED.get_or_init(|| {
        let mut model = TextModel {
            slots: vec![UNSEEN; CONTEXTS << SLOT_BITS],
            weights: [[18_000; CONTEXTS]; CONTEXTS + 1],
            history: 0,
            word: 0,
            changed: None,
        };
        for text in PRACTICE.split_inclusive('\n') {
            // As words by themselves in the first line, as sentences else: how columns hold them.
            for byte in text.trim_end().bytes().chain([0]) {
                model.code(&mut Listener, byte);
            }
        }
        model
    })
}

/// Up to so many bytes the model is borrowed and put right again, which takes less than a copy of it.
const BORROWED_BYTES_MAX: usize = 1024;

thread_local! {
    static LENT: Cell<Option<Box<TextModel>>> = const { Cell::new(None) };
}

/// Writes, or reads, so many bytes. A reader stops where its input fails.
pub(super) fn code<C: Coder>(coder: &mut C, bytes: &mut [u8]) {
    let borrowed = bytes.len() <= BORROWED_BYTES_MAX;
    let mut model = if borrowed { LENT.take() } else { None }.unwrap_or_else(|| Box::new(practised().clone()));
    model.changed = borrowed.then(Vec::new);
    for byte in bytes {
        *byte = model.code(coder, *byte);
        if coder.failed() {
            break;
        }
    }
    if let Some(changed) = model.changed.take() {
        for (place, slot) in changed.into_iter().rev() {
            model.slots[place as usize] = slot;
        }
        let practised = practised();
        model.weights = practised.weights;
        model.history = practised.history;
        model.word = practised.word;
        LENT.set(Some(model));
    }
}

/// A coder that does nothing: the model learns from what it is shown.
struct Listener;

impl Coder for Listener {
    const READS: bool = false;

    fn bit(&mut self, _model: &mut super::range::Bit, value: bool) -> bool {
        value
    }

    fn shared_bit(&mut self, _false_share: u32, value: bool) -> bool {
        value
    }

    fn below(&mut self, _size: u32, value: u32) -> u32 {
        value
    }

    fn failed(&self) -> bool {
        false
    }
}

impl TextModel {
    fn code<C: Coder>(&mut self, coder: &mut C, byte: u8) -> u8 {
        let mut hashes = [0u32; CONTEXTS];
        for (order, hash) in hashes.iter_mut().enumerate().take(CONTEXTS - 1) {
            let seen = self.history & ((1u64 << (8 * order)) - 1);
            *hash = mix(seen.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (order as u64) << 56);
        }
        hashes[CONTEXTS - 1] = mix(u64::from(self.word).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ 0x77);
        let mut node = 1u32;
        while node < 256 {
            let at = node.ilog2();
            let bit = self.code_bit(coder, &hashes, node, byte >> (7 - at) & 1 == 1);
            node = node << 1 | u32::from(bit);
        }
        let byte = node as u8;
        self.history = self.history << 8 | u64::from(byte);
        self.word = if byte.is_ascii_alphanumeric() || byte >= 128 {
            (self.word ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
        } else {
            0x811c_9dc5
        };
        byte
    }

    fn code_bit<C: Coder>(&mut self, coder: &mut C, hashes: &[u32; CONTEXTS], node: u32, bit: bool) -> bool {
        let mut places = [0usize; CONTEXTS];
        let mut inputs = [0i32; CONTEXTS];
        let mut longest = 0;
        for (context, hash) in hashes.iter().enumerate() {
            let here = (hash ^ node.wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
            let place = context << SLOT_BITS | (here >> (32 - SLOT_BITS)) as usize;
            let check = (here >> 4) as u8;
            let slot = &mut self.slots[place];
            if let Some(changed) = &mut self.changed {
                changed.push((place as u32, *slot));
            }
            if slot.check != check {
                *slot = Slot { check, ..UNSEEN };
            }
            places[context] = place;
            if slot.seen > 0 {
                inputs[context] = stretch(slot.share >> 4) * TRUST[usize::from(slot.seen)] / 16;
                longest = context + 1;
            }
        }
        let weights = &mut self.weights[longest];
        let sum: i64 = weights.iter().zip(&inputs).map(|(weight, input)| i64::from(*weight) * i64::from(*input)).sum();
        let share = squash((sum >> 16) as i32);
        let bit = coder.shared_bit((65_536 - share * 16).clamp(32, 65_504) as u32, bit);
        let error = (i32::from(bit) * 4095 - share) * 14;
        for (weight, input) in weights.iter_mut().zip(&inputs) {
            *weight = (*weight + ((input * error + 0x8000) >> 16)).clamp(-(1 << 20), 1 << 20);
        }
        for place in places {
            let slot = &mut self.slots[place];
            let share = u32::from(slot.share);
            let pace = PACE[usize::from(slot.seen)];
            let moved = if bit { share + (((65_535 - share) * pace) >> 16) } else { share - ((share * pace) >> 16) };
            slot.share = moved.clamp(16, 65_519) as u16;
            slot.seen = (slot.seen + 1).min(30);
        }
        bit
    }
}

fn mix(number: u64) -> u32 {
    let number = (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (number >> 32) as u32
}

/// ln(share / (1 - share)) in 1/256, of a share in 1/4096.
fn stretch(share: u16) -> i32 {
    static TABLE: OnceLock<Vec<i16>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = vec![0; 4096];
        let mut next = 0;
        for input in -2047..=2047 {
            let share = squash(input) as usize;
            for entry in &mut table[next.min(share + 1)..=share] {
                *entry = input as i16;
            }
            next = next.max(share + 1);
        }
        for entry in &mut table[next..] {
            *entry = 2047;
        }
        table
    });
    table.get(usize::from(share)).map_or(0, |entry| i32::from(*entry))
}

/// The inverse, by a table of 33 points and straight lines between them.
fn squash(input: i32) -> i32 {
    const POINTS: [i32; 33] = [
        1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785, 3901,
        3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094,
    ];
    let input = input.clamp(-2047, 2047);
    let within = input & 127;
    let at = ((input >> 7) + 16) as usize;
    (POINTS[at] * (128 - within) + POINTS[at + 1] * within + 64) >> 7
}
