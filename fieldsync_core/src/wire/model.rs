//! Models over the range coder: numbers of any size, symbols of small alphabets, indexes into a growing dictionary.

use super::range::{Bit, Coder};

/// Bits of a number below its highest one that are worth learning; the rest is noise.
const LEARNED_BITS: u32 = 3;
/// The bucket of the largest number: buckets are bit lengths, 0 for 0.
pub(super) const BUCKET_MAX: u32 = 64;

/// Unsigned numbers: the bit length by a tree of decisions, then the bits below the highest one.
#[derive(Debug, Clone)]
pub(super) struct Number {
    length: [Bit; 128],
    top: Vec<[Bit; 1 << LEARNED_BITS]>,
}

/// The bit length of a number.
pub(super) fn bucket(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

impl Number {
    /// Nothing known yet.
    pub(super) fn new() -> Number {
        Number { length: [Bit::default(); 128], top: Vec::new() }
    }

    /// Below 2^32 most likely, as counts and times are.
    pub(super) fn modest() -> Number {
        let mut number = Number::new();
        number.length[1] = Bit::expecting_false(254);
        number.length[2] = Bit::expecting_false(236);
        number
    }

    /// Below 2^16 most likely, as values are.
    pub(super) fn value() -> Number {
        let mut number = Number::modest();
        number.length[4] = Bit::expecting_false(226);
        number
    }

    /// Most likely 0.
    pub(super) fn small() -> Number {
        let mut number = Number::modest();
        number.length[4] = Bit::expecting_false(240);
        for node in [8, 16, 32, 64] {
            number.length[node] = Bit::expecting_false(200);
        }
        number
    }

    /// A number whose bucket is known to be at most `most`.
    #[inline]
    pub(super) fn code_up_to<C: Coder>(&mut self, coder: &mut C, value: u64, most: u32) -> u64 {
        let wanted = bucket(value);
        let mut prefix = 0u32;
        for level in (0..7).rev() {
            let upper = (prefix << 1 | 1) << level;
            let bit = upper <= most
                && coder.bit(&mut self.length[(1 << (6 - level) | prefix) as usize], wanted >> level & 1 == 1);
            prefix = prefix << 1 | u32::from(bit);
        }
        let bucket = prefix.min(BUCKET_MAX);
        if bucket <= 1 {
            return u64::from(bucket);
        }
        if self.top.len() <= bucket as usize {
            self.top.resize(bucket as usize + 1, [Bit::default(); 1 << LEARNED_BITS]);
        }
        let tops = &mut self.top[bucket as usize];
        let below = bucket - 1;
        let learned = below.min(LEARNED_BITS);
        let mut node = 1usize;
        for at in 0..learned {
            let bit = coder.bit(&mut tops[node], value >> (below - 1 - at) & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        let rest = below - learned;
        (node as u64) << rest | coder.direct(rest, value & ((1 << rest) - 1))
    }

    /// Any number.
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, value: u64) -> u64 {
        self.code_up_to(coder, value, BUCKET_MAX)
    }
}

/// Signed numbers: how large, and which side of zero.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    magnitude: Number,
    negative: Bit,
}

impl Signed {
    pub(super) fn new(magnitude: Number, negative: Bit) -> Signed {
        Signed { magnitude, negative }
    }

    /// Any number; a magnitude that no `i64` has wraps around.
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, value: i64) -> i64 {
        let magnitude = self.magnitude.code(coder, value.unsigned_abs()) as i64;
        if magnitude != 0 && coder.bit(&mut self.negative, value < 0) {
            magnitude.wrapping_neg()
        } else {
            magnitude
        }
    }
}

/// Symbols of an alphabet of up to 128.
#[derive(Debug, Clone)]
pub(super) struct Symbol {
    nodes: [Bit; 128],
}

impl Symbol {
    pub(super) fn new() -> Symbol {
        Symbol { nodes: [Bit::default(); 128] }
    }

    /// With something known of some decisions: the node (1 is the first one, 2n and 2n + 1 follow n) and how many of 256
    /// are false.
    pub(super) fn expecting(nodes: &[(usize, u32)]) -> Symbol {
        let mut symbol = Symbol::new();
        for (node, of_256) in nodes {
            symbol.nodes[*node] = Bit::expecting_false(*of_256);
        }
        symbol
    }

    /// A symbol below `size` ≤ 128.
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, value: u8, size: u8) -> u8 {
        let mut prefix = 0u32;
        let bits = u32::BITS - u32::from(size.saturating_sub(1)).leading_zeros();
        for level in (0..bits).rev() {
            let upper = (prefix << 1 | 1) << level;
            let bit = upper < u32::from(size)
                && coder.bit(&mut self.nodes[(1 << (bits - 1 - level) | prefix) as usize], value >> level & 1 == 1);
            prefix = prefix << 1 | u32::from(bit);
        }
        prefix as u8
    }
}

/// Entries of a dictionary that grows on both sides alike.
pub(super) const ENTRIES_MAX: usize = 1 << 16;

/// Indexes into a dictionary that grows as values appear: the last one again, a known one, or a new one.
#[derive(Debug, Clone)]
pub(super) struct Index {
    again: [Bit; 2],
    fresh: [Bit; 2],
    levels: Vec<Vec<Bit>>,
    last: Option<usize>,
    was_again: bool,
    was_fresh: bool,
}

impl Index {
    pub(super) fn new() -> Index {
        Index {
            again: [Bit::default(); 2],
            fresh: [Bit::default(); 2],
            levels: vec![Vec::new(); 16],
            last: None,
            was_again: false,
            was_fresh: true,
        }
    }

    /// The index of a value among the `len` known ones. `None`: it is new, and the caller codes it and appends it
    /// (unless [`ENTRIES_MAX`] are there).
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, value: Option<usize>, len: usize) -> Option<usize> {
        if let Some(last) = self.last {
            self.was_again = coder.bit(&mut self.again[usize::from(self.was_again)], value == Some(last));
            if self.was_again {
                return Some(last);
            }
        }
        self.was_fresh = len == 0 || coder.bit(&mut self.fresh[usize::from(self.was_fresh)], value.is_none());
        if self.was_fresh {
            self.last = (len < ENTRIES_MAX).then_some(len);
            return None;
        }
        let wanted = value.unwrap_or(0);
        let mut prefix = 0usize;
        for (level, nodes) in self.levels.iter_mut().enumerate().rev() {
            let upper = (prefix << 1 | 1) << level;
            let mut bit = false;
            if upper < len {
                if nodes.len() <= prefix {
                    nodes.resize(prefix + 1, Bit::default());
                }
                bit = coder.bit(&mut nodes[prefix], wanted >> level & 1 == 1);
            }
            prefix = prefix << 1 | usize::from(bit);
        }
        self.last = Some(prefix);
        Some(prefix)
    }
}

/// A hasher for the writer's dictionaries. They hold the writer's own rows and are looked up for every value, so speed
/// counts; nothing that is read comes near it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QuickHasher(u64);

/// A map with it.
pub(super) type QuickMap<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<QuickHasher>>;

impl std::hash::Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = self.0.rotate_left(23) ^ xxhash_rust::xxh3::xxh3_64(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
