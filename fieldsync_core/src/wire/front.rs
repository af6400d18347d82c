//! Models of the numbers at the front of a body.

use super::error::WireError;
use super::model::{Number, Signed};
use super::parts::{In, Out};
use super::range::{Bit, Coder};
use super::table::Clocks;
use crate::snapshot::Snapshot;

/// Models of the numbers at the front.
pub(super) struct Front {
    pub(super) has: [Bit; 6],
    pub(super) long_batch: Bit,
    pub(super) seen_nothing: Bit,
    pub(super) count: Number,
    pub(super) table: Bit,
    pub(super) xid: Signed,
    pub(super) xid_gap: Number,
    pub(super) clock: Clocks,
    pub(super) high: Clocks,
}

impl Front {
    /// With what is expected of the flags, in 1/256 of a "no".
    pub(super) fn new(flags: [u32; 6]) -> Front {
        Front {
            has: flags.map(Bit::expecting_false),
            long_batch: Bit::expecting_false(250),
            seen_nothing: Bit::expecting_false(250),
            count: Number::small(),
            table: Bit::default(),
            xid: Signed::new(Number::modest(), Bit::expecting_false(200)),
            xid_gap: Number::small(),
            clock: Clocks::new(),
            high: Clocks::new(),
        }
    }

    /// A batch's name: thirty-two bits where that is enough, as it is in this format.
    pub(super) fn batch<C: Coder>(&mut self, coder: &mut C, batch: u64) -> u64 {
        let long = coder.bit(&mut self.long_batch, u32::try_from(batch).is_err());
        coder.direct(if long { 64 } else { 32 }, batch)
    }

    pub(super) fn write_snapshot(&mut self, out: &mut Out, snapshot: &Snapshot, from: u64) {
        self.xid.code(&mut out.coder, snapshot.xmin.wrapping_sub(from) as i64);
        self.xid_gap.code(&mut out.coder, snapshot.xmax.wrapping_sub(snapshot.xmin));
        if snapshot.xmax == snapshot.xmin {
            return;
        }
        self.count.code(&mut out.coder, snapshot.xip.len() as u64);
        let _ = out.budget.take_many(snapshot.xip.len(), 8);
        let mut next = snapshot.xmin;
        for xid in &snapshot.xip {
            self.xid_gap.code(&mut out.coder, xid.wrapping_sub(next));
            next = xid.wrapping_add(1);
        }
    }

    pub(super) fn read_snapshot(&mut self, input: &mut In<'_>, from: u64) -> Result<Snapshot, WireError> {
        let xmin = from.wrapping_add(self.xid.code(&mut input.coder, 0) as u64);
        let xmax = xmin.wrapping_add(self.xid_gap.code(&mut input.coder, 0));
        let mut snapshot = Snapshot { xmin, xmax, xip: Vec::new() };
        if xmax != xmin {
            let count = self.count.code(&mut input.coder, 0);
            let mut next = xmin;
            for _ in 0..count {
                input.coder.check()?;
                input.budget.take(8)?;
                let xid = next.wrapping_add(self.xid_gap.code(&mut input.coder, 0));
                next = xid.wrapping_add(1);
                snapshot.xip.push(xid);
            }
        }
        input.coder.check()?;
        if snapshot.is_well_formed() {
            Ok(snapshot)
        } else {
            Err(WireError::Damaged("a cursor is wrong"))
        }
    }
}
