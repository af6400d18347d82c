//! A binary range coder with adaptive bits, after the one in LZMA (Martin 1979; Pavlov).
//!
//! Everything small in a body is a sequence of decisions, and the coder spends on each what it is worth: a decision that
//! always falls the same way costs next to nothing, so columns need neither run lengths nor bit packing of their own.
//!
//! Reader and writer share the code above this module: both walk through the same decisions with the same models. The
//! writer is told what to write and gives it back; the reader ignores what it is told and gives what it found.
//!
//! Invariant of the reader: damaged input never panics and never makes it read more than [`TAIL_BYTES_MAX`] bytes beyond
//! the end; from then on (`failed`) what it gives is arbitrary but in range, and callers stop at the next row.

use super::error::WireError;

/// Zero bytes that a reader assumes behind the end, because the writer left them out.
const TAIL_BYTES_MAX: usize = 4;
const RANGE_MIN: u32 = 1 << 24;
/// Bits of a share; the coder uses the upper sixteen.
const SHARE_BITS: u32 = 22;
const SHARE_ONE: u32 = 1 << SHARE_BITS;
/// A decision is never certain: 1/2048 remains for the other outcome.
const SHARE_MIN: u32 = SHARE_ONE >> 11;
/// Decisions after which a model stops slowing down: it then follows changes at this pace.
const MEMORY_MAX: u8 = 126;

/// What a model has learned about one decision: how likely it is false, and from how many decisions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit {
    share: u32,
    seen: u8,
}

/// How far the share moves after the n-th decision, in 1/65536: 1/(n + 1.6), as for few observations with an open mind.
const PACE: [u32; MEMORY_MAX as usize + 1] = {
    let mut pace = [0; MEMORY_MAX as usize + 1];
    let mut seen = 0;
    while seen <= MEMORY_MAX as usize {
        pace[seen] = (655_360 / (10 * seen + 16)) as u32;
        seen += 1;
    }
    pace
};

impl Default for Bit {
    fn default() -> Bit {
        Bit { share: SHARE_ONE / 2, seen: 0 }
    }
}

impl Bit {
    /// A decision that is expected to be false in so many of 256 cases.
    pub(super) const fn expecting_false(of_256: u32) -> Bit {
        Bit { share: of_256 << (SHARE_BITS - 8), seen: 1 }
    }

    /// Of 65536.
    #[inline(always)]
    fn false_share(self) -> u32 {
        self.share >> (SHARE_BITS - 16)
    }

    #[inline(always)]
    fn learn(&mut self, bit: bool) {
        let pace = u64::from(PACE[usize::from(self.seen)]);
        let part = |share: u32| ((u64::from(share) * pace) >> 16) as u32;
        let moved = if bit { self.share - part(self.share) } else { self.share + part(SHARE_ONE - self.share) };
        self.share = moved.clamp(SHARE_MIN, SHARE_ONE - SHARE_MIN);
        self.seen = (self.seen + 1).min(MEMORY_MAX);
    }
}

/// One direction of the coder. `value` is what to write; a reader ignores it.
pub(super) trait Coder {
    /// Whether this one reads.
    const READS: bool;

    /// A decision by a model, which learns from it.
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool;

    /// A decision with a share (of 65536) that somebody else knows.
    fn shared_bit(&mut self, false_share: u32, value: bool) -> bool;

    /// One of `size` equally likely values, 1 ≤ size ≤ 65536.
    fn below(&mut self, size: u32, value: u32) -> u32;

    /// A reader: whether the input was damaged. What follows is arbitrary.
    fn failed(&self) -> bool;

    /// The lowest `width` ≤ 64 bits of a number, as they are.
    #[inline]
    fn direct(&mut self, width: u32, value: u64) -> u64 {
        let mut left = width;
        let mut number = 0;
        while left > 0 {
            let step = left.min(16);
            left -= step;
            let part = (value >> left) as u32 & ((1 << step) - 1);
            number = number << step | u64::from(self.below(1 << step, part));
        }
        number
    }
}

/// Writes decisions.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    out: Vec<u8>,
    low: u64,
    range: u32,
    cache: u8,
    started: bool,
    pending: usize,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { out: Vec::new(), low: 0, range: u32::MAX, cache: 0, started: false, pending: 0 }
    }

    /// What has been spent, in bits.
    pub(super) fn bits(&self) -> f64 {
        8.0 * (self.out.len() + self.pending + usize::from(self.started)) as f64 + 32.0 - f64::from(self.range).log2()
    }

    #[inline]
    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > 0xffff_ffff {
            let carry = (self.low >> 32) as u8;
            if self.started {
                self.out.push(self.cache.wrapping_add(carry));
            }
            for _ in 0..self.pending {
                self.out.push(0xff_u8.wrapping_add(carry));
            }
            self.pending = 0;
            self.started = true;
            self.cache = (self.low >> 24) as u8;
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    #[inline(always)]
    fn normalise(&mut self) {
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.shift();
        }
    }

    /// The bytes. Of all numbers in the final interval the one with the most zeros at its end is taken, and zero bytes
    /// among its last four are left out.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let last = self.low + u64::from(self.range) - 1;
        let number = (0..=32)
            .rev()
            .map(|zeros| (self.low + (1u64 << zeros) - 1) >> zeros << zeros)
            .find(|number| *number <= last)
            .unwrap_or(self.low);
        self.low = number;
        for _ in 0..5 {
            self.shift();
        }
        for _ in 0..TAIL_BYTES_MAX {
            if self.out.last() == Some(&0) {
                self.out.pop();
            } else {
                break;
            }
        }
        self.out
    }
}

impl Coder for Writer {
    const READS: bool = false;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool {
        let bit = self.shared_bit(model.false_share(), value);
        model.learn(bit);
        bit
    }

    #[inline(always)]
    fn shared_bit(&mut self, false_share: u32, value: bool) -> bool {
        let bound = (self.range >> 16) * false_share;
        if value {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        self.normalise();
        value
    }

    #[inline]
    fn below(&mut self, size: u32, value: u32) -> u32 {
        self.range /= size;
        self.low += u64::from(value) * u64::from(self.range);
        self.normalise();
        value
    }

    fn failed(&self) -> bool {
        false
    }
}

/// Reads decisions.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    input: &'a [u8],
    taken: usize,
    range: u32,
    code: u32,
    failed: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Reader<'a> {
        let mut reader = Reader { input, taken: 0, range: u32::MAX, code: 0, failed: false };
        for _ in 0..4 {
            reader.take();
        }
        reader
    }

    #[inline]
    fn take(&mut self) {
        let byte = match self.input.get(self.taken) {
            Some(byte) => *byte,
            None => {
                self.failed |= self.taken >= self.input.len() + TAIL_BYTES_MAX;
                0
            }
        };
        self.taken += 1;
        self.code = self.code << 8 | u32::from(byte);
    }

    #[inline(always)]
    fn normalise(&mut self) {
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.take();
        }
    }

    /// An error if the input was damaged so far.
    #[inline]
    pub(super) fn check(&self) -> Result<(), WireError> {
        if self.failed {
            Err(WireError::Damaged("it ends early"))
        } else {
            Ok(())
        }
    }

    /// At the end: everything has been read, nothing is left over, and the end is in its shortest form.
    pub(super) fn finish(&self) -> Result<(), WireError> {
        self.check()?;
        let needed = self.taken - TAIL_BYTES_MAX;
        if self.input.len() > self.taken || (self.input.len() > needed && self.input.last() == Some(&0)) {
            return Err(WireError::Damaged("bytes are left over"));
        }
        Ok(())
    }
}

impl Coder for Reader<'_> {
    const READS: bool = true;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool {
        let bit = self.shared_bit(model.false_share(), value);
        model.learn(bit);
        bit
    }

    #[inline(always)]
    fn shared_bit(&mut self, false_share: u32, _value: bool) -> bool {
        let bound = (self.range >> 16) * false_share;
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        self.normalise();
        bit
    }

    #[inline]
    fn below(&mut self, size: u32, _value: u32) -> u32 {
        self.range /= size;
        let mut value = self.code / self.range;
        if value >= size {
            // No writer gets here: what a division left over is never used.
            self.failed = true;
            value = size - 1;
        }
        self.code = self.code.wrapping_sub(value.wrapping_mul(self.range));
        self.normalise();
        value
    }

    fn failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<C: Coder>(coder: &mut C, script: &[(u8, u64)]) -> Vec<u64> {
        let mut models = [Bit::default(); 4];
        script
            .iter()
            .map(|(what, value)| match what {
                0..=3 => u64::from(coder.bit(&mut models[usize::from(*what)], value & 1 == 1)),
                4 => u64::from(coder.below(1000, (value % 1000) as u32)),
                width => coder.direct(u32::from(*width), value & (u64::MAX >> (64 - width))),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn decisions_go_there_and_back(script in prop::collection::vec((0u8..=64, any::<u64>()), 0..300)) {
            let mut writer = Writer::new();
            let written = run(&mut writer, &script);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(run(&mut reader, &script), written);
            prop_assert!(reader.finish().is_ok());
            let mut longer = bytes.clone();
            longer.extend([0; 5]);
            let mut reader = Reader::new(&longer);
            run(&mut reader, &script);
            prop_assert!(reader.finish().is_err());
        }

        #[test]
        fn any_bytes_can_be_read(script in prop::collection::vec((0u8..=64, any::<u64>()), 0..300), bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(&bytes);
            for value in run(&mut reader, &script).into_iter().zip(&script) {
                prop_assert!(value.1.0 > 3 || value.0 <= 1);
            }
        }
    }

    #[test]
    fn a_decision_that_is_always_the_same_costs_next_to_nothing() {
        let mut writer = Writer::new();
        let mut model = Bit::default();
        for _ in 0..100_000 {
            writer.bit(&mut model, false);
        }
        assert!(writer.finish().len() < 20); // 1/2048 of a decision, 0.0007 bits each
    }
}
