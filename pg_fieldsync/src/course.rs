//! What is to be done with a delta: judged by its history and its place in the chain, before anything of it is merged.
//!
//! Invariant: the history is checked before the chain.

use crate::catch::SqlError;
use crate::error::HubError;
use crate::guards::AsOwner;
use crate::history::{self, Hub};
use crate::receive::Received;
use crate::sql::{self, Cells, Param};
use fieldsync_core::chain::{judge, Known, Standing};

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
    let (knows_parent, superseded) = {
        let _owner = AsOwner::new();
        let rows = sql::run(
            "SELECT EXISTS (SELECT 1 FROM fieldsync.batch b JOIN fieldsync.client c ON c.client_no = $1
                            WHERE b.batch_id = $2 AND b.client_no IN (c.client_no, c.copied_from)
                              AND b.status <> 'staged'),
                    EXISTS (SELECT 1 FROM fieldsync.batch b
                            WHERE b.client_no = $1 AND b.status = 'committed' AND $3 = ANY (b.unanswered))",
            &[
                Param::Int(i64::from(received.client.number)),
                Param::Int(body.parent as i64),
                Param::Int(received.batch_id as i64),
            ],
        )?;
        rows.rows.first().map_or((false, false), |row| (row.truth(0), row.truth(1)))
    };
    let known = Known {
        hub_id: &hub.hub_id,
        epoch: hub.epoch,
        last_batch: received.client.last_batch,
        knows_parent: knows_parent || body.parent == received.client.last_batch,
        highest_version: hub.highest_version,
    };
    Ok(match judge(&received.delta, &known) {
        Standing::Continues => Course::Merge,
        Standing::Copy if superseded => Course::Superseded,
        Standing::Copy => Course::Copy,
        Standing::OtherHub => return Err(HubError::OtherHub(received.client.client_id.clone())),
        Standing::EarlierEpoch => {
            Course::NewHistory("the hub was restored or promoted since this device last synced".to_owned())
        }
        Standing::HubLostHistory => {
            let reason = "a device has seen what this hub has no record of: the hub was set back to an earlier state";
            *hub = history::open_epoch(reason)?;
            Course::NewHistory(reason.to_owned())
        }
    })
}

/// Takes out of the device's cursor what transactions wrote after they had answered it.
pub fn correct_cursor(received: &mut Received<'_>) -> Result<(), SqlError> {
    let client = Param::Int(i64::from(received.client.number));
    let body = &mut received.delta.body;
    if body.cursor.is_none() {
        return Ok(());
    }
    let _owner = AsOwner::new();
    let rows = sql::run("SELECT DISTINCT version, batch_id FROM fieldsync.late_write WHERE client_no = $1", &[client])?;
    for row in &rows.rows {
        let (version, batch) = (row.int(0) as u64, row.int(1) as u64);
        if !body.cursor.as_ref().is_some_and(|cursor| cursor.visible(version)) {
            continue;
        }
        if body.parent != batch {
            // A later answer, which held all of it, has been applied.
            sql::run(
                "DELETE FROM fieldsync.late_write WHERE client_no = $1 AND version = $2",
                &[client, Param::Int(version as i64)],
            )?;
            continue;
        }
        let cursors = body.bases.iter_mut().filter_map(|base| base.snapshot.as_mut()).chain(body.cursor.as_mut());
        for cursor in cursors.filter(|cursor| cursor.visible(version)) {
            cursor.xip.push(version);
            cursor.xip.sort_unstable();
            cursor.xmin = cursor.xmin.min(version);
        }
    }
    Ok(())
}
