//! What of a row travels to a device, given what the device has seen and what it has just sent.
//!
//! Invariants:
//! * A field travels if its stamp is not visible in the device's cursor; which writer it was does not matter. It is left
//!   out only if the device, by the very delta that is answered, has that value already.
//! * Whatever the device sent and the hub holds otherwise goes back, visible or not.
//! * A row whose making the device has not seen travels whole, unless that delta makes it: the device may have been told to
//!   drop it before, and learns that it is there again only by its coming, also where nothing in it is new.

use crate::clocks::RowClocks;
use crate::snapshot::Snapshot;
use crate::value::Value;

/// What a delta has to do with a row, where the hub took it.
pub trait Sent {
    /// Whether it says anything of the row, new or answered before. If not, the row only came along: the parent of another.
    fn says_anything(&self) -> bool;
    /// It makes the row, and does not take it away after: the device has it whole.
    fn made_it(&self) -> bool;
    /// The device has no such row (any more): it deleted it, or what it made under this key came and went unseen.
    fn took_it_away(&self) -> bool;
    /// The device needs the row whole, whatever it has seen: the merge says so, or the delta repeats what was answered before and
    /// made or deleted the row, or it spells the key otherwise.
    fn needs_it_whole(&self) -> bool;
    /// The value that the device has in a field by changes that had not been answered before, if they touch it.
    fn says(&self, field: u16) -> Option<&Value>;
    /// Whether changes that were answered before touch the field: the device may have missed that answer, and show something else
    /// by now.
    fn repeats(&self, field: u16) -> bool;
    /// Whether the hub holds the field in another form than the device.
    fn must_hear(&self, field: u16) -> bool;
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// What the device has seen; None: nothing.
    pub cursor: Option<&'a Snapshot>,
    /// Deletions travel even to a device without a cursor: it holds rows of an earlier history, or an answer was lost.
    pub deletions_too: bool,
}

impl Reader<'_> {
    /// Whether the device has not seen what was written under a version.
    pub fn unseen(&self, version: u64) -> bool {
        self.cursor.is_none_or(|cursor| !cursor.visible(version))
    }

    /// Whether a deletion under a version travels. `named`: the device asks for the row, or an entry in its conflicts about it has
    /// been settled.
    pub fn hears_of_deletion(&self, version: u64, named: bool, sent: Option<&impl Sent>) -> bool {
        let tells = self.cursor.is_some() || self.deletions_too;
        let knows = sent.is_some_and(Sent::took_it_away);
        // What the device has just written, and what stays deleted, goes from the device as well.
        let returns = sent.is_some_and(Sent::says_anything);
        !knows && ((tells && self.unseen(version)) || returns || named)
    }

    /// Whether a live row travels whole. `back`: the version under which it was unmarked, if it had been marked as deleted.
    pub fn needs_whole(&self, clocks: &RowClocks, back: Option<u64>, named: bool, sent: Option<&impl Sent>) -> bool {
        let unseen = self.unseen(clocks.insert.version) || back.is_some_and(|version| self.unseen(version));
        let asked = named || sent.is_some_and(|sent| sent.needs_it_whole() || sent.took_it_away());
        asked || (unseen && !sent.is_some_and(Sent::made_it))
    }

    /// Whether a field of a row that does not travel whole does. `is_sum`: the device rebases it without a log entry, so what it sent
    /// is not what it shows.
    pub fn hears_of_field(
        &self,
        clocks: &RowClocks,
        field: u16,
        value: &Value,
        is_sum: bool,
        sent: Option<&impl Sent>,
    ) -> bool {
        if let Some(sent) = sent {
            if sent.must_hear(field) {
                return true;
            }
            if let Some(said) = sent.says(field) {
                return is_sum || said != value;
            }
            if sent.repeats(field) {
                return true;
            }
        }
        self.unseen(clocks.field(field).version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hlc;
    use crate::clocks::Stamp;

    #[derive(Default)]
    struct Said {
        made_it: bool,
        value: Option<Value>,
    }

    impl Sent for Said {
        fn says_anything(&self) -> bool {
            true
        }
        fn made_it(&self) -> bool {
            self.made_it
        }
        fn took_it_away(&self) -> bool {
            false
        }
        fn needs_it_whole(&self) -> bool {
            false
        }
        fn says(&self, _: u16) -> Option<&Value> {
            self.value.as_ref()
        }
        fn repeats(&self, _: u16) -> bool {
            false
        }
        fn must_hear(&self, _: u16) -> bool {
            false
        }
    }

    /// Found by the simulator (seed 10109391): a device was told to delete a row, kept it for a child, and edited it; meanwhile
    /// somebody had made the row again. Every field that the hub held was as the device had sent it, nothing came back, and the
    /// device still waited to delete the row.
    #[test]
    fn a_row_made_again_by_another_comes_also_to_who_has_all_its_values() {
        let cursor = Snapshot { xmin: 20, xmax: 20, xip: vec![] };
        let reader = Reader { cursor: Some(&cursor), deletions_too: true };
        let made = |version| RowClocks::new(Stamp::first(version, Hlc(5), 0));
        let edited = Said { made_it: false, value: Some(Value::Int(1)) };
        assert!(reader.needs_whole(&made(30), None, false, Some(&edited)), "made by another, unseen");
        assert!(!reader.needs_whole(&made(10), None, false, Some(&edited)), "known");
        assert!(reader.needs_whole(&made(10), Some(30), false, Some(&edited)), "marked as deleted and back");
        let made_here = Said { made_it: true, ..edited };
        assert!(!reader.needs_whole(&made(30), None, false, Some(&made_here)), "its own");
        assert!(!reader.hears_of_field(&made(30), 1, &Value::Int(1), false, Some(&made_here)), "an echo");
        assert!(reader.hears_of_field(&made(30), 1, &Value::Int(1), true, Some(&made_here)), "a counter is rebased");
        assert!(
            reader.hears_of_field(&made(10), 1, &Value::Int(2), false, Some(&made_here)),
            "held otherwise, though seen"
        );
    }
}
