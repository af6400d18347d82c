//! What a device had seen of a row when it changed it.
//!
//! Invariant: a change counts as made in knowledge of another's only where the device was shown that one, or has answered it: by writing
//! over it, or by being told of it in a conflict.

use crate::clocks::{Origin, RowClocks, Stamp};
use crate::snapshot::Snapshot;

/// What a device had seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Its cursor. None: nothing.
    pub base: Option<&'a Snapshot>,
    /// What the cursor calls seen and was not shown, where the row's table was withheld from the device.
    pub withheld: Option<&'a Withheld>,
}

/// A row of a table that was withheld from a device for a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Withheld {
    /// What the device was shown of the table.
    pub shown: Snapshot,
    /// What conflicts have told it of the row.
    pub told: Vec<Told>,
}

/// What a conflict tells a device of the hub's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The values of those fields of a live row that have clocks of their own here.
    Fields(RowClocks),
    /// The whole of a live row.
    Row(RowClocks),
    /// That the row is deleted.
    Deletion(Stamp),
}

impl<'a> From<Option<&'a Snapshot>> for Seen<'a> {
    fn from(base: Option<&'a Snapshot>) -> Seen<'a> {
        Seen { base, withheld: None }
    }
}

impl Seen<'_> {
    /// Whether somebody other than `origin`, whose change it is, left this stamp or was written over by it, unseen.
    pub fn misses(&self, origin: Origin, stamp: Stamp) -> bool {
        let foreign = stamp.latest_foreign_to(origin);
        let unseen = |seen: Option<&Snapshot>| foreign != 0 && seen.is_none_or(|seen| !seen.visible(foreign));
        match self.withheld {
            // What it wrote over was decided then, shown or not.
            Some(withheld) if stamp.origin != origin => unseen(Some(&withheld.shown)) || unseen(self.base),
            _ => unseen(self.base),
        }
    }

    /// Whether somebody else changed a field of a live row unseen.
    pub fn misses_field(&self, origin: Origin, row: &RowClocks, number: u16) -> bool {
        self.misses(origin, row.field(number)) && !self.is_told(row, number)
    }

    /// Whether somebody else made a live row unseen.
    pub fn misses_making(&self, origin: Origin, row: &RowClocks) -> bool {
        self.misses(origin, row.insert) && !self.is_told_whole(row)
    }

    /// Whether somebody else deleted a row unseen.
    pub fn misses_deletion(&self, origin: Origin, deletion: Stamp) -> bool {
        self.misses(origin, deletion) && !self.told().contains(&Told::Deletion(deletion))
    }

    /// Whether somebody else made a live row, or changed any field of it, unseen.
    pub fn misses_any(&self, origin: Origin, row: &RowClocks) -> bool {
        self.misses_making(origin, row) || row.stamped().any(|(number, _)| self.misses_field(origin, row, number))
    }

    /// The latest change of a row by somebody else that was not seen: the other side of a conflict over the row.
    pub fn latest_missed(&self, origin: Origin, row: &RowClocks) -> Option<Stamp> {
        let making = Some(row.insert).filter(|_| self.misses_making(origin, row));
        let fields = row.stamped().filter(|(number, _)| self.misses_field(origin, row, *number));
        let missed = making.into_iter().chain(fields.map(|(_, stamp)| stamp)).filter(|stamp| stamp.origin != origin);
        missed.max_by_key(|stamp| (stamp.clock, stamp.version))
    }

    fn told(&self) -> &[Told] {
        self.withheld.map_or(&[], |withheld| &withheld.told)
    }

    fn is_told(&self, row: &RowClocks, number: u16) -> bool {
        let is_it = |told: &Told| match told {
            Told::Fields(clocks) => clocks.stamped().any(|told| told == (number, row.field(number))),
            Told::Row(clocks) => clocks == row,
            Told::Deletion(_) => false,
        };
        self.told().iter().any(is_it)
    }

    fn is_told_whole(&self, row: &RowClocks) -> bool {
        self.told().iter().any(|told| matches!(told, Told::Row(clocks) if clocks == row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hlc;
    use proptest::prelude::*;

    const DEVICE: Origin = 7;

    /// What happens to the row's one field that is logged.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        /// Somebody else's change, which the device has not heard of.
        Unheard,
        /// Somebody else's change; the device is shown the field.
        Shown,
        /// Somebody else's change; the device's cursor moves over it.
        PassedOver,
        /// Somebody else's change; a conflict tells the device of it.
        Told,
        /// The device's own change, on top of whatever is there.
        Own,
        /// The cursor moves, and the device is not shown the table.
        Moved,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        use Step::*;
        let step = prop::sample::select(vec![Unheard, Shown, PassedOver, Told, Own, Moved]);
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #[test]
        fn missed_is_what_was_neither_shown_nor_told_nor_answered(steps in steps()) {
            let mut row = RowClocks::new(Stamp::first(1, Hlc(1), 1));
            let (mut shown_to, mut cursor_to, mut foreign) = (2, 2, 1);
            let mut is_known = true;
            let mut told = Vec::new();
            for (version, step) in (2..).zip(&steps) {
                if *step == Step::Own {
                    row.touch(3, version, Hlc(version), DEVICE);
                } else if *step != Step::Moved {
                    row.touch(3, version, Hlc(version), 1);
                    foreign = version;
                }
                if !matches!(step, Step::Own | Step::Unheard) {
                    cursor_to = version + 1;
                }
                match step {
                    Step::Shown => (shown_to, is_known) = (version + 1, true),
                    Step::Unheard | Step::PassedOver => is_known = false,
                    Step::Told => {
                        let mut entry = RowClocks::new(row.insert);
                        entry.set(3, row.field(3));
                        told.push(Told::Fields(entry));
                        is_known = true;
                    }
                    Step::Own => is_known = true,
                    Step::Moved => {}
                }
            }
            let up_to = |xmax: u64| Snapshot { xmin: xmax, xmax, xip: Vec::new() };
            let withheld = Withheld { shown: up_to(shown_to), told };
            let base = up_to(cursor_to);
            let seen = Seen { base: Some(&base), withheld: Some(&withheld) };
            let missed = foreign >= cursor_to || !is_known;
            prop_assert_eq!(seen.misses_field(DEVICE, &row, 3), missed);
            prop_assert_eq!(seen.misses_any(DEVICE, &row), missed);
            prop_assert_eq!(Seen::from(Some(&base)).misses_field(DEVICE, &row, 3), foreign >= cursor_to);
        }
    }

    #[test]
    fn a_row_told_whole_and_a_deletion_are_told_as_they_were_and_no_later() {
        let mut row = RowClocks::new(Stamp::first(5, Hlc(5), 1));
        let base = Snapshot { xmin: 50, xmax: 50, xip: Vec::new() };
        let deletion = row.latest().followed_by(8, Hlc(8), 2);
        let told = vec![Told::Row(row.clone()), Told::Deletion(deletion)];
        let withheld = Withheld { shown: Snapshot::default(), told };
        let seen = Seen { base: Some(&base), withheld: Some(&withheld) };
        assert!(!seen.misses_any(DEVICE, &row) && !seen.misses_field(DEVICE, &row, 3));
        assert!(!seen.misses_deletion(DEVICE, deletion));
        assert!(seen.misses_deletion(DEVICE, deletion.followed_by(9, Hlc(9), 1)));
        row.touch(3, 9, Hlc(9), 1);
        assert!(seen.misses_any(DEVICE, &row) && seen.misses_field(DEVICE, &row, 3));
        assert_eq!(seen.latest_missed(DEVICE, &row), Some(row.field(3)));
    }
}
