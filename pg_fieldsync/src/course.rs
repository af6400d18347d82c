//! What is to be done with a delta: judged by its history and its place in the chain, before anything of it is merged.
//!
//! Invariant: the history is checked before the chain.

use crate::catch::SqlError;
use crate::error::HubError;
use crate::feed;
use crate::guards::AsOwner;
use crate::history::{self, Hub};
use crate::receive::Received;
use crate::sql::{self, Cells, Param};
use fieldsync_core::chain::{
    begins_in_a_lost_history, has_seen_another_answer, judge, next_epoch, was_told_more, Known, Standing,
};
use fieldsync_core::Snapshot;

/// How a delta is to be handled.
pub enum Course {
    /// As usual.
    Merge,
    /// Everything in it was in a batch that has been committed already.
    Superseded,
    /// It comes from an earlier history.
    NewHistory(String),
    /// It comes from a copy.
    Copy,
}

/// Judges a delta. A hub that finds itself set back opens a new epoch first.
pub fn course(received: &Received<'_>, hub: &mut Hub) -> Result<Course, HubError> {
    let body = &received.delta.body;
    let (knows_parent, superseded, of_earlier_epoch, answered_with) = {
        let _owner = AsOwner::new();
        let rows = sql::run(
            "SELECT EXISTS (SELECT 1 FROM fieldsync.batch b
                            WHERE b.batch_id = $2 AND b.client_no IN (c.client_no, c.copied_from) AND b.status <> 'staged'),
                    EXISTS (SELECT 1 FROM fieldsync.batch b
                            WHERE b.client_no = $1 AND b.status = 'committed' AND $3 = ANY (b.unanswered)),
                    c.of_earlier_epoch,
                    (SELECT b.cursor FROM fieldsync.batch b WHERE b.client_no = $1 AND b.batch_id = $2 AND b.cursor IS NOT NULL
                     ORDER BY b.committed_at DESC LIMIT 1)
             FROM fieldsync.client c WHERE c.client_no = $1",
            &[
                Param::Int(i64::from(received.client.number)),
                Param::Int(body.parent as i64),
                Param::Int(received.batch_id as i64),
            ],
        )?;
        rows.rows.first().map_or((false, false, false, None), |row| {
            (row.truth(0), row.truth(1), row.truth(2), row.maybe_text(3).and_then(|text| text.parse::<Snapshot>().ok()))
        })
    };
    let known = Known {
        hub_id: &hub.hub_id,
        epoch: hub.epoch,
        last_batch: received.client.last_batch,
        knows_parent: knows_parent || body.parent == received.client.last_batch,
        highest_version: hub.highest_version,
    };
    let delta = &received.delta;
    let standing = match judge(delta, &known) {
        Standing::Continues | Standing::Copy if begins_in_a_lost_history(delta, of_earlier_epoch) => {
            Standing::EarlierEpoch
        }
        Standing::Continues | Standing::Copy
            if has_seen_another_answer(delta, answered_with.as_ref())
                || was_told_more(delta, received.client.last_batch, received.client.watermark) =>
        {
            Standing::HubLostHistory
        }
        standing => standing,
    };
    Ok(match standing {
        Standing::Continues => Course::Merge,
        Standing::Copy if superseded => Course::Superseded,
        Standing::Copy => Course::Copy,
        Standing::OtherHub => return Err(HubError::OtherHub(received.client.client_id.clone())),
        Standing::EarlierEpoch => {
            Course::NewHistory("the hub was restored or promoted since this device last synced".to_owned())
        }
        Standing::HubLostHistory => {
            let reason = "a device has seen what this hub has no record of: the hub was set back to an earlier state";
            *hub = history::open_epoch(reason, next_epoch(&hub.hub_id, hub.epoch, delta.history))?;
            Course::NewHistory(reason.to_owned())
        }
    })
}

/// Takes out of the device's cursors what transactions wrote after they had answered it with them: out of the one that it has, and
/// out of those that it had when it made its changes.
pub fn correct_cursor(received: &mut Received<'_>) -> Result<(), SqlError> {
    let body = &mut received.delta.body;
    if body.cursor.is_none() {
        return Ok(());
    }
    let bases: Vec<String> = body.bases.iter().filter_map(|base| base.snapshot.as_ref()?.for_postgres()).collect();
    let bases: Vec<Option<&str>> = bases.iter().map(|base| Some(base.as_str())).collect();
    // Of this transaction there is no record before its end.
    let (own, late_here) = feed::late_in_this_transaction(received.client.number);
    let late_here: Vec<Option<i64>> = late_here.into_iter().map(|batch| Some(batch as i64)).collect();
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT l.version, l.batch_id = $2, b.cursor
         FROM (SELECT version, batch_id FROM fieldsync.late_write WHERE client_no = $1
               UNION ALL SELECT $4, batch_id FROM unnest($5::bigint[]) AS here(batch_id)) AS l
         LEFT JOIN fieldsync.batch b ON b.client_no = $1 AND b.batch_id = l.batch_id AND b.cursor IS NOT NULL
         WHERE l.batch_id = $2 OR b.cursor = ANY ($3::text[])",
        &[
            Param::Int(i64::from(received.client.number)),
            Param::Int(body.parent as i64),
            Param::Texts(&bases),
            Param::Int(own as i64),
            Param::Ints(&late_here),
        ],
    )?;
    for row in &rows.rows {
        let version = row.int(0) as u64;
        let told = row.maybe_text(2);
        let bases = body.bases.iter_mut().filter_map(|base| base.snapshot.as_mut());
        let bases = bases.filter(|base| told.is_some() && base.for_postgres().as_deref() == told);
        let present = body.cursor.as_mut().filter(|_| row.truth(1));
        for cursor in bases.chain(present).filter(|cursor| cursor.visible(version)) {
            cursor.xip.push(version);
            cursor.xip.sort_unstable();
            cursor.xmin = cursor.xmin.min(version);
        }
    }
    Ok(())
}
