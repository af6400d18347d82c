//! Batches: what is kept of a blob, from its staging to its answer.
//!
//! Invariant: a batch has one answer. What is stored of it is what was said, and is said again when it is repeated.

use crate::catch::SqlError;
use crate::entry::jsonb_text;
use crate::guards::AsOwner;
use crate::receive::Received;
use crate::sql::{self, Cells, Param};
use crate::types::uuid_text;
use crate::verdicts::{outcomes_json, Verdict, Verdicts};
use fieldsync_core::merge::Outcome;
use fieldsync_core::reply::Outcomes;
use fieldsync_core::{Hlc, Snapshot};
use serde_json::{json, Value as Json};

/// What is stored of a batch.
pub struct Stored {
    /// staged, committed or superseded.
    pub status: String,
    /// The answer, once there is one.
    pub reply: Option<Vec<u8>>,
    /// What `prepare` or `commit` found.
    pub report: Json,
}

/// What is known of a batch.
pub fn stored(batch: &[u8; 16]) -> Result<Option<Stored>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT status, reply, report::text FROM fieldsync.batch WHERE batch = $1::text::uuid",
        &[Param::Text(&uuid_text(batch))],
    )?;
    Ok(rows.rows.first().map(|row| Stored {
        status: row.text(0).to_owned(),
        reply: (!row.is_null(1)).then(|| row.bytes(1).to_vec()),
        report: serde_json::from_str(row.text(2)).unwrap_or(Json::Null),
    }))
}

/// The blob of a batch, as long as it is kept.
pub fn blob(batch: &[u8; 16]) -> Result<Option<Vec<u8>>, SqlError> {
    let _owner = AsOwner::new();
    let rows =
        sql::run("SELECT delta FROM fieldsync.batch WHERE batch = $1::text::uuid", &[Param::Text(&uuid_text(batch))])?;
    Ok(rows.rows.first().filter(|row| !row.is_null(0)).map(|row| row.bytes(0).to_vec()))
}

/// Keeps a blob with its report, if it is not kept yet.
pub fn stage(received: &Received<'_>, report: &Json) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let unanswered = unanswered(received);
    sql::run(
        "INSERT INTO fieldsync.batch (batch, client_no, batch_id, status, delta, report, unanswered, shapes)
         VALUES ($1::text::uuid, $2, $3, 'staged', $4, $5::text::jsonb, $6, $7::bigint[]::integer[]) ON CONFLICT (batch) DO NOTHING",
        &[
            Param::Text(&uuid_text(&received.batch)),
            Param::Int(i64::from(received.client.number)),
            Param::Int(received.batch_id as i64),
            Param::Bytes(received.blob),
            Param::Text(&jsonb_text(report)),
            Param::Ints(&unanswered),
            Param::Ints(&known_shapes(received)),
        ],
    )?;
    Ok(())
}

/// Keeps a blob that was purged and has come once more: it may be committed once more, too.
pub fn keep_again(received: &Received<'_>) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.batch SET delta = $2 WHERE batch = $1::text::uuid AND delta IS NULL",
        &[Param::Text(&uuid_text(&received.batch)), Param::Bytes(received.blob)],
    )
    .map(|_| ())
}

/// Batches that the device has not heard of, by their ids.
fn unanswered(received: &Received<'_>) -> Vec<Option<i64>> {
    received.delta.body.unanswered.iter().map(|batch| Some(*batch as i64)).collect()
}

fn known_shapes(received: &Received<'_>) -> Vec<Option<i64>> {
    received.known.numbers.iter().copied().map(Some).collect()
}

/// Verdicts of this batch and of those whose answers were lost on the way: the device has not heard of either.
pub fn with_unanswered(received: &Received<'_>, mut outcomes: Outcomes) -> Result<Outcomes, SqlError> {
    let unanswered = unanswered(received);
    if unanswered.is_empty() {
        return Ok(outcomes);
    }
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT (report -> 'outcomes')::text FROM fieldsync.batch
         WHERE client_no = $1 AND status = 'committed' AND batch_id = ANY ($2)",
        &[Param::Int(i64::from(received.client.number)), Param::Ints(&unanswered)],
    )?;
    for row in &rows.rows {
        let counted: Json = serde_json::from_str(row.text(0)).unwrap_or(Json::Null);
        let count = |name: &str| counted[name].as_u64().unwrap_or(0);
        outcomes.applied += count("applied");
        outcomes.merged += count("merged");
        outcomes.superseded += count("superseded");
        outcomes.conflict += count("conflict");
        outcomes.rejected += count("rejected");
    }
    Ok(outcomes)
}

/// Stores the answer to a batch that came late.
pub fn close_superseded(received: &Received<'_>, reply: &[u8]) -> Result<(), SqlError> {
    stage(received, &json!({ "note": "all of it is in a batch that has been committed", "changes": [] }))?;
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.batch SET status = 'superseded', reply = $2, committed_at = clock_timestamp()
         WHERE batch = $1::text::uuid",
        &[Param::Text(&uuid_text(&received.batch)), Param::Bytes(reply)],
    )?;
    Ok(())
}

/// What was staged is not going to be merged: the device offers it again, in batches of a new history or under another identity. The
/// staged batch can be committed again, for the same answer, but nothing in it waits. `all`: in none of this client's.
pub fn nothing_waits(received: &Received<'_>, all: bool) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.batch SET report = report || $4::text::jsonb
         WHERE status = 'staged' AND client_no = $1 AND ($3 OR batch = $2::text::uuid)",
        &[
            Param::Int(i64::from(received.client.number)),
            Param::Text(&uuid_text(&received.batch)),
            Param::Bool(all),
            Param::Text(&json!({ "outcomes": outcomes_json(&Outcomes::default()), "changes": [] }).to_string()),
        ],
    )?;
    Ok(())
}

/// Lines of a committed batch's report. Who wants to know more finds it in the conflicts.
const NAMED_MAX: usize = 1_000;

/// Stores the answer, and what the client's next delta is measured by.
pub fn close(
    received: &Received<'_>,
    verdicts: &Verdicts,
    reply: &[u8],
    watermark: Hlc,
    cursor: Option<&Snapshot>,
) -> Result<(), SqlError> {
    let named: Vec<Json> = verdicts
        .named
        .iter()
        .filter(|verdict| !matches!(verdict.outcome, Outcome::Applied | Outcome::Superseded))
        .take(NAMED_MAX)
        .map(Verdict::to_json)
        .collect();
    let report = json!({
        "client": received.client.client_id, "outcomes": outcomes_json(&verdicts.outcomes), "changes": named,
    });
    let unanswered = unanswered(received);
    let client = Param::Int(i64::from(received.client.number));
    let seen = cursor;
    let cursor = seen.map(ToString::to_string);
    let held = received.delta.body.cursor.as_ref().and_then(Snapshot::for_postgres);
    let _owner = AsOwner::new();
    sql::run(
        "INSERT INTO fieldsync.batch (batch, client_no, batch_id, status, delta, report, unanswered, reply, shapes,
                                      cursor, committed_at)
         VALUES ($1::text::uuid, $2, $3, 'committed', $4, $5::text::jsonb, $6, $7, $8::bigint[]::integer[], $9,
                 clock_timestamp())
         ON CONFLICT (batch) DO UPDATE SET status = EXCLUDED.status, report = EXCLUDED.report, reply = EXCLUDED.reply,
             shapes = EXCLUDED.shapes, cursor = EXCLUDED.cursor, committed_at = EXCLUDED.committed_at",
        &[
            Param::Text(&uuid_text(&received.batch)),
            client,
            Param::Int(received.batch_id as i64),
            Param::Bytes(received.blob),
            Param::Text(&jsonb_text(&report)),
            Param::Ints(&unanswered),
            Param::Bytes(reply),
            Param::Ints(&known_shapes(received)),
            Param::MaybeText(cursor.as_deref()),
        ],
    )?;
    if !unanswered.is_empty() {
        sql::run(
            "UPDATE fieldsync.batch SET status = 'superseded'
             WHERE client_no = $1 AND status = 'staged' AND batch_id = ANY ($2)",
            &[client, Param::Ints(&unanswered)],
        )?;
    }
    sql::run(
        "UPDATE fieldsync.client SET watermark = $2, last_batch = $3, seen = COALESCE($4, seen), held = COALESCE($5, held, $4)
         WHERE client_no = $1",
        &[
            client,
            Param::Int(watermark.as_i64()),
            Param::Int(received.batch_id as i64),
            Param::MaybeText(cursor.as_deref()),
            Param::MaybeText(held.as_deref()),
        ],
    )?;
    let Some(seen) = seen else { return Ok(()) };
    sql::run(
        // Somebody may have shut the client out since its delta came.
        "UPDATE sync_control.client_state SET last_sync_timestamp = now(), last_sync_version = $2,
                sync_status = CASE sync_status WHEN 'disabled' THEN sync_status ELSE 'active' END
         WHERE client_id = $1",
        &[Param::Text(&received.client.client_id), Param::Int(seen.xmax.saturating_sub(1) as i64)],
    )?;
    Ok(())
}
