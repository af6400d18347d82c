//! Whether a delta continues what the hub knows of its client.
//!
//! Each batch names the last one whose answer the device applied (`parent`) and those exported since (`unanswered`). The
//! hub remembers the last batch it committed for the client. A lost answer is among the unanswered, so it never looks like
//! a copy; only a database that did not make the hub's last batch (a clone, or a restored backup) does.
//!
//! The history is checked before the chain: after the hub itself was restored or promoted every chain looks broken.

use crate::clock::Hlc;
use crate::delta::{history_tag, BatchId, Delta, HistoryTag};
use crate::snapshot::Snapshot;

/// What the hub knows when a delta arrives.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The hub's identity.
    pub hub_id: &'a [u8; 16],
    /// Its present epoch; epochs count from 1.
    pub epoch: u32,
    /// The last batch committed for this client; 0: none.
    pub last_batch: BatchId,
    /// Whether the hub has a record of the delta's parent as a batch of this client (or of the one it was copied from).
    pub knows_parent: bool,
    /// The greatest transaction id that this cluster has given out.
    pub highest_version: u64,
}

/// How a delta stands to the hub's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It continues.
    Continues,
    /// It speaks of an earlier epoch of this hub: tell the device of the new one.
    EarlierEpoch,
    /// The device has seen what this hub has never done: the hub lost history. Open a new epoch, tell the device.
    HubLostHistory,
    /// It speaks of another hub: refuse (55000).
    OtherHub,
    /// It comes from a copy of the client's database: give it an identity of its own.
    Copy,
}

/// How many lost epochs of a hub are recognised.
const LOST_EPOCHS_MAX: u32 = 100_000;

/// The epoch to open when a device with this history shows that the hub has lost some: beyond the device's own, so that no
/// number stands for two histories.
pub fn next_epoch(hub_id: &[u8; 16], present: u32, device: HistoryTag) -> u32 {
    (present + 1..=present.saturating_add(LOST_EPOCHS_MAX))
        .find(|epoch| history_tag(hub_id, *epoch) == device)
        .map_or(present.saturating_add(1), |lost| lost + 1)
}

/// Whether a delta that speaks of no history comes from before the hub lost some: its client was registered in an earlier
/// epoch, and may have heard of that one since. It is to be answered like one of an earlier epoch. Merged, it would become the
/// last batch of a chain that its device does not have: found by the simulator, where the device then passed for a copy and
/// counted everything twice.
pub fn begins_in_a_lost_history(delta: &Delta, registered_in_earlier_epoch: bool) -> bool {
    delta.history == 0 && registered_in_earlier_epoch
}

/// Whether the hub's own memory of its answer to the delta's parent disproves what the device has seen: the device's cursor is
/// the one of that answer, always; so another one comes from a history that this hub has lost. Needed where the hub had
/// worked on after it was put back, until its transaction ids reached the device's cursor again, and an old blob that came
/// once more made the parent known again: found by the simulator, where rows were then skipped without a trace.
/// `answered_with`: the cursor in the stored answer to the parent; None if there is no such answer.
pub fn has_seen_another_answer(delta: &Delta, answered_with: Option<&Snapshot>) -> bool {
    match (&delta.body.cursor, answered_with) {
        (Some(cursor), Some(answer)) => cursor != answer,
        _ => false,
    }
}

/// Whether the device was told of more than the hub remembers to have applied of it (`last_batch`, `watermark`): the answer came
/// from a history that this hub has lost. Found by the simulator: a part of the device's changes, sent before that answer came,
/// was merged by the restored hub, so that cursor, parent and chain were right and the rest of the changes was forgotten.
pub fn was_told_more(delta: &Delta, last_batch: BatchId, watermark: Hlc) -> bool {
    last_batch != 0 && delta.history != 0 && delta.body.watermark > watermark
}

/// Judges a delta.
pub fn judge(delta: &Delta, known: &Known<'_>) -> Standing {
    let present: HistoryTag = history_tag(known.hub_id, known.epoch);
    let body = &delta.body;
    if delta.history != 0 && delta.history != present {
        let earlier = (1..known.epoch).any(|epoch| history_tag(known.hub_id, epoch) == delta.history);
        if earlier {
            return Standing::EarlierEpoch;
        }
        // The same backup was restored a second time: the device knows an epoch that this hub has lost with the rest.
        let lost = next_epoch(known.hub_id, known.epoch, delta.history) > known.epoch + 1;
        return if lost { Standing::HubLostHistory } else { Standing::OtherHub };
    }
    let bases = body.bases.iter().filter_map(|base| base.snapshot.as_ref());
    if bases.chain(&body.cursor).any(|cursor| cursor.xmax > known.highest_version.saturating_add(1)) {
        return Standing::HubLostHistory;
    }
    if body.parent != 0 && !known.knows_parent {
        return Standing::HubLostHistory;
    }
    let continues = match known.last_batch {
        0 => true,
        last => last == body.parent || body.unanswered.contains(&last),
    };
    if continues {
        Standing::Continues
    } else {
        Standing::Copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::DeltaBody;

    const HUB: [u8; 16] = [9; 16];

    fn standing(parent: BatchId, unanswered: &[BatchId], last_batch: BatchId, knows_parent: bool) -> Standing {
        let body = DeltaBody { parent, unanswered: unanswered.to_vec(), ..DeltaBody::default() };
        let delta = Delta { history: history_tag(&HUB, 1), body, ..Delta::default() };
        judge(&delta, &Known { hub_id: &HUB, epoch: 1, last_batch, knows_parent, highest_version: 1000 })
    }

    #[test]
    fn a_lost_answer_never_looks_like_a_copy() {
        assert_eq!(standing(0, &[], 0, false), Standing::Continues);
        assert_eq!(standing(0, &[7], 7, false), Standing::Continues);
        assert_eq!(standing(7, &[], 7, true), Standing::Continues);
        assert_eq!(standing(7, &[8, 9], 9, true), Standing::Continues);
        assert_eq!(standing(7, &[8, 9], 8, true), Standing::Continues);
    }

    #[test]
    fn a_copy_and_a_lost_history_are_told_apart() {
        assert_eq!(standing(7, &[], 8, true), Standing::Copy);
        assert_eq!(standing(0, &[], 8, false), Standing::Copy);
        assert_eq!(standing(8, &[], 7, false), Standing::HubLostHistory);
        assert_eq!(standing(8, &[], 0, false), Standing::HubLostHistory);
    }

    /// Found by the simulator (seed 47): a first blob of the lost history came late, was merged, and broke the chain.
    #[test]
    fn a_first_blob_from_before_the_loss_is_not_merged() {
        let first = Delta::default();
        assert!(begins_in_a_lost_history(&first, true));
        assert!(!begins_in_a_lost_history(&first, false));
        let later = Delta { history: history_tag(&HUB, 1), ..Delta::default() };
        assert!(!begins_in_a_lost_history(&later, true), "the history itself is judged");
    }

    /// Found by the simulator (seed 28283): transaction ids had caught up, and the parent was known by a repetition.
    #[test]
    fn a_cursor_that_the_hub_never_gave_shows_a_lost_history() {
        let seen = Snapshot { xmin: 102, xmax: 102, xip: vec![] };
        let given = Snapshot { xmin: 103, xmax: 105, xip: vec![103] };
        let body = DeltaBody { parent: 7, cursor: Some(seen.clone()), ..DeltaBody::default() };
        let delta = Delta { history: history_tag(&HUB, 1), body, ..Delta::default() };
        let known = Known { hub_id: &HUB, epoch: 1, last_batch: 7, knows_parent: true, highest_version: 105 };
        assert_eq!(judge(&delta, &known), Standing::Continues, "nothing else tells");
        assert!(has_seen_another_answer(&delta, Some(&given)));
        assert!(!has_seen_another_answer(&delta, Some(&seen)));
        assert!(!has_seen_another_answer(&delta, None));
    }

    /// Found by the simulator (seed 33176).
    #[test]
    fn a_watermark_that_the_hub_never_reached_shows_a_lost_history() {
        let body = DeltaBody { watermark: Hlc(9), ..DeltaBody::default() };
        let delta = Delta { history: history_tag(&HUB, 1), body, ..Delta::default() };
        assert!(was_told_more(&delta, 7, Hlc(8)));
        assert!(!was_told_more(&delta, 7, Hlc(9)));
        assert!(!was_told_more(&delta, 0, Hlc(0)), "a copy's new identity has applied nothing yet");
    }

    #[test]
    fn a_cursor_ahead_of_the_hub_and_other_hubs() {
        let ahead = Snapshot { xmin: 2000, xmax: 2000, xip: vec![] };
        let body = DeltaBody { cursor: Some(ahead), ..DeltaBody::default() };
        let known = Known { hub_id: &HUB, epoch: 2, last_batch: 0, knows_parent: false, highest_version: 1000 };
        let delta = Delta { history: history_tag(&HUB, 2), body, ..Delta::default() };
        assert_eq!(judge(&delta, &known), Standing::HubLostHistory);
        let earlier = Delta { history: history_tag(&HUB, 1), ..Delta::default() };
        assert_eq!(judge(&earlier, &known), Standing::EarlierEpoch);
        // Found by the simulator: restored twice from one backup, the hub took its own devices for another hub's.
        let lost = Delta { history: history_tag(&HUB, 5), ..Delta::default() };
        assert_eq!(judge(&lost, &known), Standing::HubLostHistory);
        assert_eq!(next_epoch(&HUB, 2, lost.history), 6);
        let other = Delta { history: history_tag(&[1; 16], 1), ..Delta::default() };
        assert_eq!(judge(&other, &known), Standing::OtherHub);
    }
}
