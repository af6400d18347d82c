//! The way of a delta: received, judged, merged, answered.
//!
//! `prepare`, `commit` and `sync` walk the same rooms in the same order: [`crate::receive`] opens the blob, [`crate::course`]
//! judges it, [`crate::upload`] merges what it brings, [`crate::answer`] gathers what goes back, [`crate::batch`] keeps both.
//!
//! Invariants:
//! * `prepare` changes no application table: it merges on trial, in a subtransaction that is rolled back, and stages the
//!   blob with the verdicts. `commit` merges for good, in the caller's transaction.
//! * A blob is merged once. Repeated, it gives the stored answer; late, after a batch that held all of it, it changes nothing.
//! * Deltas of one client are handled one after another: the client's row is locked first.

use crate::answer;
use crate::batch::{self, Stored};
use crate::catch::SqlError;
use crate::course::{self, Course};
use crate::error::HubError;
use crate::feed;
use crate::guards::subtransaction;
use crate::history::{self, Hub};
use crate::log;
use crate::receive::{self, Received};
use crate::record;
use crate::schema::Schema;
use crate::shapes;
use crate::trigger::now_ms;
use crate::types::uuid_text;
use crate::upload;
use crate::verdicts::{outcomes_json, Verdicts};
use fieldsync_core::reply::Outcomes;
use fieldsync_core::wire::{self, BlobKind, WireError};
use serde_json::{json, Value as Json};

/// Changes applied as they came that `prepare` names one by one; the others it counts.
const APPLIED_NAMED_MAX: usize = 1_000;

/// `prepare`: what would become of a delta. Gives the batch, accepted, conflicts, rejected and the report.
pub fn prepare(blob: &[u8]) -> Result<([u8; 16], i64, i64, i64, Json), HubError> {
    refuse_standby()?;
    let (header, client) = receive::sender(blob)?;
    let known = shapes::of_deltas(client.number)?;
    let mut received = receive::open(blob, &header, client, &known)?;
    if let Some(known) = batch::stored(&received.batch)? {
        batch::keep_again(&received)?;
        let count = |name: &str| known.report["outcomes"][name].as_i64().unwrap_or(0);
        let accepted = count("applied") + count("merged") + count("superseded");
        return Ok((received.batch, accepted, count("conflict"), count("rejected"), known.report));
    }
    let mut hub = history::hub()?;
    let mut report =
        json!({ "client": received.client.client_id, "outcomes": outcomes_json(&Outcomes::default()), "changes": [] });
    let mut outcomes = Outcomes::default();
    match course::course(&received, &mut hub)? {
        Course::Merge => {
            course::correct_cursor(&mut received)?;
            let schema = Schema::load(&received.client)?;
            let version = feed::own_version();
            match trial(&mut received, schema, version) {
                Ok(verdicts) => {
                    outcomes = verdicts.outcomes;
                    report["outcomes"] = outcomes_json(&outcomes);
                    report["changes"] = verdicts.to_json();
                }
                Err(HubError::Blob(error @ WireError::UnknownShape(_))) => {
                    report["note"] = json!(format!("{error}; commit will ask the device for the names"));
                }
                Err(error) => return Err(error),
            }
        }
        Course::Superseded => report["note"] = json!("all of it is in a batch that has been committed"),
        Course::NewHistory(reason) => report["note"] = json!(reason),
        Course::Copy => report["note"] = json!("the device is a copy of another and will get an identity of its own"),
    }
    batch::stage(&received, &report)?;
    let accepted = outcomes.applied + outcomes.merged + outcomes.superseded;
    Ok((received.batch, accepted as i64, outcomes.conflict as i64, outcomes.rejected as i64, report))
}

/// Merges in a subtransaction that is rolled back.
fn trial(received: &mut Received<'_>, schema: Schema, version: u64) -> Result<Verdicts, HubError> {
    enum Tried {
        Well(Box<Verdicts>),
        Badly(HubError),
    }
    impl From<SqlError> for Tried {
        fn from(error: SqlError) -> Self {
            Tried::Badly(error.into())
        }
    }
    let earlier = feed::set_aside();
    let tried = subtransaction(|| -> Result<(), Tried> {
        let (_, merged) = upload::merge(received, schema, version, APPLIED_NAMED_MAX).map_err(Tried::Badly)?;
        Err(Tried::Well(Box::new(merged.verdicts)))
    });
    earlier.instead();
    match tried {
        Err(Tried::Well(verdicts)) => Ok(*verdicts),
        Err(Tried::Badly(error)) => Err(error),
        Ok(()) => Err(HubError::Sql(SqlError::new("XX000", "a trial gave no result"))),
    }
}

/// `commit`: the answer to a staged batch.
pub fn commit(batch: &[u8; 16]) -> Result<Vec<u8>, HubError> {
    refuse_standby()?;
    match batch::blob(batch)? {
        Some(blob) => sync(&blob),
        None => Err(HubError::UnknownBatch(uuid_text(batch))),
    }
}

/// `sync`: merges a delta for good and answers it.
pub fn sync(blob: &[u8]) -> Result<Vec<u8>, HubError> {
    refuse_standby()?;
    let started = now_ms();
    let (header, client) = receive::sender(blob)?;
    let known = shapes::of_deltas(client.number)?;
    let mut received = receive::open(blob, &header, client, &known)?;
    // Read only now that the client's row is locked: the same blob may have been committed a moment ago.
    let known = batch::stored(&received.batch)?;
    let mut hub = history::hub()?;
    if let Some(Stored { status, reply: Some(reply), .. }) = &known {
        let present = wire::peek(reply).is_ok_and(|header| header.history == hub.tag());
        if status != "staged" && present {
            return Ok(reply.clone());
        }
    }
    log::skew(&received)?;
    let course = course::course(&received, &mut hub)?;
    if !matches!(course, Course::Merge) {
        match received.read_on() {
            // Its rows do not matter: the device sends them again, with the names.
            Ok(()) | Err(HubError::Blob(WireError::UnknownShape(_))) => {}
            Err(error) => return Err(error),
        }
    }
    match course {
        Course::Merge => match merged(&mut received, &hub, started) {
            Err(HubError::Blob(WireError::UnknownShape(_))) => answer::names_wanted(&received, &hub),
            answered => answered,
        },
        Course::Superseded => superseded(&received, &hub),
        Course::NewHistory(reason) => {
            batch::nothing_waits(&received, true)?;
            answer::new_history(&received, &hub, &reason)
        }
        Course::Copy => {
            batch::nothing_waits(&received, false)?;
            answer::copied(&received, &hub)
        }
    }
}

/// The usual course.
fn merged(received: &mut Received<'_>, hub: &Hub, started: u64) -> Result<Vec<u8>, HubError> {
    let schema = Schema::load(&received.client)?;
    let version = feed::own_version();
    course::correct_cursor(received)?;
    if received.client.watermark > received.delta.body.watermark {
        received.read_on()?;
        if !received.delta.body.reaches(received.client.watermark) {
            return behind(received, hub);
        }
    }
    let (schema, merged) = upload::merge(received, schema, version, 0)?;
    record::conflicts(&merged.work, &received.client, version, &received.batch)?;
    record::ledger(&received.client, &merged.verdicts.outcomes)?;
    log::push(received, &merged.verdicts, started)?;
    let watermark = received.client.watermark.max(received.delta.body.high);
    let outcomes = batch::with_unanswered(received, merged.verdicts.outcomes)?;
    let answered = received.delta.body.answered_up_to(watermark);
    let (reply, cursor, mut pulled) = answer::answer(received, hub, schema, &merged.work, outcomes, answered, version)?;
    drop(merged.work);
    log::pull(received, &pulled, started)?;
    let body = &received.delta.body;
    let told = shapes::of_replies(&received.client, body.parent, body.names_wanted)?;
    let tables = std::mem::take(&mut pulled.tables);
    shapes::tell(&received.client, &told, reply.body.batch, tables.iter().map(|(shape, _)| shape))?;
    shapes::learn(&received.client, received.known, &received.shapes)?;
    let reply = wire::encode_packed_reply(&reply, tables, received.client.key.as_ref(), &told.shapes);
    batch::close(received, &merged.verdicts, &reply, watermark, Some(&cursor))?;
    history::remember_version(version)?;
    Ok(reply)
}

/// A delta that ends before what the hub has applied of its client already (a larger export's answer was lost). Nothing in it
/// is news; and no rows travel, because what the device's other pending changes hide cannot be told from here.
fn behind(received: &Received<'_>, hub: &Hub) -> Result<Vec<u8>, HubError> {
    let reply = answer::short(received, hub, Vec::new());
    shapes::learn(&received.client, received.known, &received.shapes)?;
    batch::close(received, &Verdicts::default(), &reply, received.client.watermark, None)?;
    Ok(reply)
}

/// A batch that comes late: nothing in it is news, and the device has been (or will be) answered for it.
fn superseded(received: &Received<'_>, hub: &Hub) -> Result<Vec<u8>, HubError> {
    let reply = answer::short(received, hub, Vec::new());
    shapes::learn(&received.client, received.known, &received.shapes)?;
    batch::close_superseded(received, &reply)?;
    Ok(reply)
}

fn refuse_standby() -> Result<(), HubError> {
    // SAFETY: both read the backend's state.
    if unsafe { pgrx::pg_sys::RecoveryInProgress() || pgrx::pg_sys::XactReadOnly } {
        return Err(HubError::ReadOnly);
    }
    Ok(())
}

/// `inspect`: what is in a blob. No key is needed: nothing in it is acted on. Names that it leaves out are those of the client
/// whose tag it bears.
pub fn inspect(blob: &[u8]) -> Result<Json, HubError> {
    let limits = receive::limits();
    let header = wire::peek(blob)?;
    let known = shapes::for_inspection(header.client, header.kind == BlobKind::Reply)?;
    match header.kind {
        BlobKind::Delta => {
            let delta = wire::decode_delta_with(blob, None, &limits, &known.shapes)?;
            Ok(fieldsync_core::inspect::delta_to_json(&delta, blob.len()))
        }
        BlobKind::Reply => {
            let reply = wire::decode_reply_with(blob, None, &limits, &known.shapes)?;
            Ok(fieldsync_core::inspect::reply_to_json(&reply, blob.len()))
        }
    }
}
