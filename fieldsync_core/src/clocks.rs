//! Who changed which field of a hub row, and when: the row's field clocks.
//!
//! Invariant: for every field, "has an origin other than D changed it after base B?" is answered exactly from its
//! [`Stamp`] alone. A stamp keeps the last change and the version of the last change by anybody other than its author, so a
//! device's own later write never hides a foreign one. Versions along one row are seen in order by every snapshot, because
//! row locks serialise its writers; so the latest foreign version is the only one that needs checking.
//!
//! Stored as bytes in the row's `fieldsync_clocks` column: format byte, insert stamp, then per changed field its number
//! (the attribute number) and stamp. Numbers are LEB128; a field's version and clock are relative to the insert stamp's.

use crate::clock::Hlc;
use crate::number::{read_varint, write_varint};

/// An origin: 0 is the hub, others are `client_no`.
pub type Origin = u32;

/// The hub as an origin.
pub const HUB: Origin = 0;

/// The last change of a field (or the making of a row).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    /// The hub transaction that wrote it.
    pub version: u64,
    /// When it was made, in the hub's time.
    pub clock: Hlc,
    /// Who made it.
    pub origin: Origin,
    /// The version of the latest change by anybody other than `origin`; 0 if there was none.
    pub foreign: u64,
}

impl Stamp {
    /// The stamp after `origin` has written on top of this one.
    pub fn followed_by(self, version: u64, clock: Hlc, origin: Origin) -> Stamp {
        let foreign = if origin == self.origin { self.foreign } else { self.version };
        Stamp { version, clock, origin, foreign }
    }

    /// A first stamp.
    pub fn first(version: u64, clock: Hlc, origin: Origin) -> Stamp {
        Stamp { version, clock, origin, foreign: 0 }
    }

    /// The version of the latest change by somebody other than `origin`; 0 if there was none.
    pub fn latest_foreign_to(&self, origin: Origin) -> u64 {
        if self.origin == origin {
            self.foreign
        } else {
            self.version
        }
    }
}

/// All clocks of one row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowClocks {
    /// The making of the row: stands for every field without a stamp of its own.
    pub insert: Stamp,
    /// Fields changed since, by ascending field number.
    fields: Vec<(u16, Stamp)>,
}

/// The bytes were not field clocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged field clocks")]
pub struct DamagedClocks;

const FORMAT: u8 = 1;

impl RowClocks {
    /// A new row's clocks.
    pub fn new(insert: Stamp) -> RowClocks {
        RowClocks { insert, fields: Vec::new() }
    }

    /// The stamp of a field.
    pub fn field(&self, number: u16) -> Stamp {
        match self.fields.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => self.fields[at].1,
            Err(_) => self.insert,
        }
    }

    /// Sets the stamp of a field.
    pub fn set(&mut self, number: u16, stamp: Stamp) {
        match self.fields.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => self.fields[at].1 = stamp,
            Err(at) => self.fields.insert(at, (number, stamp)),
        }
    }

    /// Records a change of a field on top of what is known of it.
    pub fn touch(&mut self, number: u16, version: u64, clock: Hlc, origin: Origin) {
        let stamp = self.field(number).followed_by(version, clock, origin);
        self.set(number, stamp);
    }

    /// The row's last change: the latest clock of any field.
    pub fn latest(&self) -> Stamp {
        self.fields.iter().map(|(_, stamp)| *stamp).fold(self.insert, |last, stamp| {
            if (stamp.clock, stamp.version) > (last.clock, last.version) {
                stamp
            } else {
                last
            }
        })
    }

    /// Fields with a stamp of their own.
    pub fn stamped(&self) -> impl Iterator<Item = (u16, Stamp)> + '_ {
        self.fields.iter().copied()
    }

    /// As stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 8 * self.fields.len());
        out.push(FORMAT);
        write_stamp(&mut out, &self.insert);
        for (number, stamp) in &self.fields {
            write_varint(&mut out, u64::from(*number));
            // Relative to the insert stamp, and exact for any pair of numbers.
            write_stamp(
                &mut out,
                &Stamp {
                    version: stamp.version.wrapping_sub(self.insert.version),
                    clock: Hlc(stamp.clock.0.wrapping_sub(self.insert.clock.0)),
                    ..*stamp
                },
            );
        }
        out
    }

    /// From the stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<RowClocks, DamagedClocks> {
        let (&format, mut rest) = bytes.split_first().ok_or(DamagedClocks)?;
        if format != FORMAT {
            return Err(DamagedClocks);
        }
        let insert = read_stamp(&mut rest)?;
        let mut clocks = RowClocks::new(insert);
        while !rest.is_empty() {
            let number = read_varint(&mut rest).ok_or(DamagedClocks)?;
            let number = u16::try_from(number).map_err(|_| DamagedClocks)?;
            if clocks.fields.last().is_some_and(|(last, _)| *last >= number) {
                return Err(DamagedClocks);
            }
            let relative = read_stamp(&mut rest)?;
            let stamp = Stamp {
                version: relative.version.wrapping_add(insert.version),
                clock: Hlc(relative.clock.0.wrapping_add(insert.clock.0)),
                ..relative
            };
            clocks.fields.push((number, stamp));
        }
        Ok(clocks)
    }
}

fn write_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    write_varint(out, stamp.version);
    write_varint(out, stamp.clock.0);
    write_varint(out, u64::from(stamp.origin));
    write_varint(out, stamp.foreign);
}

fn read_stamp(rest: &mut &[u8]) -> Result<Stamp, DamagedClocks> {
    let version = read_varint(rest).ok_or(DamagedClocks)?;
    let clock = Hlc(read_varint(rest).ok_or(DamagedClocks)?);
    let origin = read_varint(rest).and_then(|origin| Origin::try_from(origin).ok()).ok_or(DamagedClocks)?;
    let foreign = read_varint(rest).ok_or(DamagedClocks)?;
    Ok(Stamp { version, clock, origin, foreign })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::Seen;
    use crate::snapshot::Snapshot;
    use proptest::prelude::*;

    fn stamps() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(version, clock, origin, foreign)| Stamp {
            version,
            clock: Hlc(clock),
            origin,
            foreign,
        })
    }

    proptest! {
        #[test]
        fn bytes_go_there_and_back(insert in stamps(), fields in prop::collection::btree_map(any::<u16>(), stamps(), 0..8)) {
            let mut clocks = RowClocks::new(insert);
            for (number, stamp) in fields {
                clocks.set(number, stamp);
            }
            prop_assert_eq!(RowClocks::from_bytes(&clocks.to_bytes()), Ok(clocks));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(clocks) = RowClocks::from_bytes(&bytes) {
                prop_assert_eq!(RowClocks::from_bytes(&clocks.to_bytes()), Ok(clocks));
            }
        }

        /// The theorem of this module, against a full history of one field.
        #[test]
        fn a_stamp_answers_for_the_whole_history(
            writers in prop::collection::vec(0u32..4, 1..12), seen in 0usize..12, asker in 0u32..4,
        ) {
            // Write i has version 10 + i; the base has seen the first `seen` writes.
            let mut stamp = Stamp::first(10, Hlc(10), writers[0]);
            for (at, writer) in writers.iter().enumerate().skip(1) {
                stamp = stamp.followed_by(10 + at as u64, Hlc(10 + at as u64), *writer);
            }
            let base = Snapshot { xmin: 10 + seen as u64, xmax: 10 + seen as u64, xip: vec![] };
            let truth = writers.iter().enumerate().any(|(at, writer)| at >= seen && *writer != asker);
            prop_assert_eq!(Seen::from(Some(&base)).misses(asker, stamp), truth);
        }
    }
}
