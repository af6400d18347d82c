//! The way of a delta: received, checked, merged, answered.
//!
//! Invariants:
//! * `prepare` changes no application table: it merges on trial, in a subtransaction that is rolled back, and stages the
//!   blob with the verdicts. `commit` merges for good, in the caller's transaction.
//! * A blob is merged once. Repeated, it gives the stored answer; late, after a batch that held all of it, it changes nothing.
//! * The history is checked before the chain, and both before anything is merged.
//! * Deltas of one client are handled one after another: the client's row is locked first.

use crate::applying;
use crate::catalog::{self, Table};
use crate::catch::SqlError;
use crate::client::{self, Client};
use crate::copies;
use crate::decide::Deciding;
use crate::error::HubError;
use crate::feed;
use crate::guards::{subtransaction, AsOwner};
use crate::history::{self, Hub};
use crate::merge;
use crate::notices;
use crate::pull::{self, Asked, Pulled, Reading};
use crate::record::{self, Logged, Verdict};
use crate::settings;
use crate::sql::{self, Cells, Param};
use crate::trigger::now_ms;
use crate::types::uuid_text;
use crate::work::{self, Sender, Work};
use fieldsync_core::chain::{judge, Known, Standing};
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::delta::Delta;
use fieldsync_core::limits::Limits;
use fieldsync_core::order::parents_first;
use fieldsync_core::reply::{Notice, Outcomes, Reply, ReplyBody};
use fieldsync_core::rules::TableRules;
use fieldsync_core::wire::{self, BlobKind};
use fieldsync_core::{Hlc, Snapshot};
use serde_json::{json, Value as Json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

fn limits() -> Limits {
    Limits {
        blob_bytes_max: settings::max_delta_bytes(),
        expanded_bytes_max: settings::max_expanded_bytes(),
        rows_max: settings::max_rows(),
        ..Limits::default()
    }
}

/// A delta whose sender is known and whose seal is good.
struct Received {
    client: Client,
    delta: Delta,
    batch_id: u64,
    batch: [u8; 16],
}

/// Decodes a blob and finds its sender.
fn receive(blob: &[u8]) -> Result<Received, HubError> {
    let limits = limits();
    if blob.len() > limits.blob_bytes_max {
        return Err(HubError::Limit(format!(
            "{} bytes, and at most {} are accepted",
            blob.len(),
            limits.blob_bytes_max
        )));
    }
    let header = wire::peek(blob)?;
    if header.kind != BlobKind::Delta {
        return Err(HubError::Blob(wire::WireError::WrongKind {
            found: header.kind.word(),
            wanted: BlobKind::Delta.word(),
        }));
    }
    let client = client::find(header.client)?;
    let delta = wire::decode_delta(blob, client.key.as_ref(), &limits).map_err(|error| match error {
        wire::WireError::BadMac | wire::WireError::Unsigned => {
            HubError::BadSignature { client_id: client.client_id.clone(), what: error.to_string() }
        }
        other => other.into(),
    })?;
    Ok(Received { client, delta, batch_id: header.batch, batch: wire::blob_uuid(blob) })
}

/// What is stored of a batch.
struct Stored {
    status: String,
    reply: Option<Vec<u8>>,
    report: Json,
}

fn stored(batch: &[u8; 16]) -> Result<Option<Stored>, SqlError> {
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

/// How a delta is to be handled.
enum Course {
    /// As usual.
    Merge,
    /// Everything in it was in a batch that has been committed already.
    Superseded,
    /// It comes from an earlier history.
    NewHistory(String),
    /// It comes from a copy.
    Copy,
}

fn course(received: &Received, hub: &mut Hub) -> Result<Course, HubError> {
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

/// Everything about tables that one sync needs.
struct Schema {
    /// Tables with their rules and `priority_field`, parents first.
    tables: Vec<work::Ruled>,
    /// Direction by table, where one is set for this client.
    directions: HashMap<String, String>,
}

impl Schema {
    fn load(client: &Client) -> Result<Schema, HubError> {
        let tables = catalog::tables()?;
        let rules = work::rules(&tables)?;
        let place: HashMap<_, usize> = tables.iter().enumerate().map(|(at, table)| (table.oid, at)).collect();
        let edges: Vec<(usize, usize)> = tables
            .iter()
            .enumerate()
            .flat_map(|(child, table)| {
                let place = &place;
                table.references.iter().filter_map(move |reference| Some((child, *place.get(&reference.parent)?)))
            })
            .collect();
        let order = parents_first(tables.len(), &edges);
        let tables = order
            .into_iter()
            .map(|at| {
                let table = Rc::clone(&tables[at]);
                let (rules, priority) = rules.get(&table.table_id).cloned().unwrap_or_default();
                (table, rules, priority)
            })
            .collect();
        let _owner = AsOwner::new();
        let rows = sql::run(
            "SELECT table_name, sync_direction, sync_filter IS NOT NULL FROM sync_control.table_sync_state WHERE client_id = $1",
            &[Param::Text(&client.client_id)],
        )?;
        let mut directions = HashMap::new();
        for row in &rows.rows {
            if row.truth(2) {
                return Err(HubError::FilterSet { client_id: client.client_id.clone(), table: row.text(0).to_owned() });
            }
            if row.text(1) != "bidirectional" {
                directions.insert(row.text(0).to_owned(), row.text(1).to_owned());
            }
        }
        Ok(Schema { tables, directions })
    }

    fn direction(&self, table: &str) -> &str {
        let qualified = || {
            let (known, _, _) = self.tables.iter().find(|(known, _, _)| known.name == table)?;
            self.directions.get(&format!("{}.{}", known.schema, known.name))
        };
        self.directions.get(table).or_else(qualified).map_or("bidirectional", String::as_str)
    }

    fn find(&self, name: &str) -> Option<work::Ruled> {
        self.tables
            .iter()
            .find(|(table, _, _)| table.name == name)
            .or_else(|| {
                self.tables.iter().find(|(table, _, _)| {
                    name.strip_prefix(&table.schema).and_then(|rest| rest.strip_prefix('.')) == Some(&table.name)
                })
            })
            .cloned()
    }
}

/// A delta that has been merged (for good or on trial).
struct Outcome {
    work: Work,
    outcomes: Outcomes,
    verdicts: Vec<Verdict>,
}

/// Merges a delta into the hub.
fn merge_delta(received: &mut Received, schema: &Schema, version: u64) -> Result<Outcome, HubError> {
    let client = &received.client;
    let correction = SkewCorrection::new(received.delta.device_now_ms, now_ms());
    let corrected = corrected_clocks(&received.delta, &correction);
    let already_made = copies::delivered_by_others(client, &limits())?;
    let sender = Sender {
        watermark: client.watermark,
        correct: &|clock| match corrected.binary_search_by_key(&clock, |(raw, _)| *raw) {
            Ok(at) => corrected[at].1,
            Err(_) => correction.correct(clock),
        },
        already_made: &already_made,
        no_push: &|table| matches!(schema.direction(table), "pull" | "none"),
    };
    let mut work = work::read(&mut received.delta, &sender, &|name| schema.find(name))?;
    // In the order of the schema: parents first.
    let place = |table: &Table| schema.tables.iter().position(|(known, _, _)| known.oid == table.oid);
    work.tables.sort_by_key(|table| place(&table.table));
    record::settle(client, &received.delta.body.settled, version)?;
    let separate = record::separate_records(client)?;
    for table in &mut work.tables {
        table.mark_separate(&separate);
    }
    let names = client::names()?;
    let deciding = Deciding {
        origin: client.number,
        version,
        lost_history: received.delta.history != 0 && received.delta.body.cursor.is_none(),
        names: &names,
    };
    applying::write_for(Some(&client.client_id));
    let merged = merge::merge(&mut work, &deciding);
    applying::write_for(None);
    merged?;
    let (outcomes, verdicts) = record::verdicts(&work);
    Ok(Outcome { work, outcomes, verdicts })
}

/// Every stamp of the delta in the hub's time, in the device's order.
fn corrected_clocks(delta: &Delta, correction: &SkewCorrection) -> Vec<(Hlc, Hlc)> {
    let mut raw: Vec<Hlc> =
        delta.body.tables.iter().flat_map(|table| &table.changes).map(|change| change.clock).collect();
    raw.sort_unstable();
    raw.dedup();
    let corrected = correction.correct_all(raw.iter().copied());
    raw.into_iter().zip(corrected).collect()
}

fn log_skew(received: &Received) -> Result<(), SqlError> {
    let correction = SkewCorrection::new(received.delta.device_now_ms, now_ms());
    if !correction.is_notable() {
        return Ok(());
    }
    let seconds = correction.skew_ms() / 1000;
    let message = format!(
        "the device's clock is {} seconds {}",
        seconds.unsigned_abs(),
        if seconds > 0 { "ahead" } else { "behind" }
    );
    record::log(
        &received.client,
        &Logged {
            operation: "clock_skew",
            table: None,
            rows: 0,
            duration_ms: 0,
            status: "success",
            message: Some(&message),
        },
    )
}

/// `prepare`: what would become of a delta. Gives the batch, accepted, conflicts, rejected and the report.
pub fn prepare(blob: &[u8]) -> Result<([u8; 16], i64, i64, i64, Json), HubError> {
    refuse_standby()?;
    let mut received = receive(blob)?;
    if let Some(known) = stored(&received.batch)? {
        let count = |name: &str| known.report["outcomes"][name].as_i64().unwrap_or(0);
        let accepted = count("applied") + count("merged") + count("superseded");
        return Ok((received.batch, accepted, count("conflict"), count("rejected"), known.report));
    }
    let mut hub = history::hub()?;
    let mut report =
        json!({ "client": received.client.client_id, "outcomes": outcomes_json(&Outcomes::default()), "changes": [] });
    let mut outcomes = Outcomes::default();
    match course(&received, &mut hub)? {
        Course::Merge => {
            correct_cursor(&mut received)?;
            let schema = Schema::load(&received.client)?;
            let version = feed::own_version();
            let tried = trial(&mut received, &schema, version)?;
            outcomes = tried.outcomes;
            report["outcomes"] = outcomes_json(&outcomes);
            report["changes"] = tried.verdicts.iter().map(Verdict::to_json).collect();
        }
        Course::Superseded => report["note"] = json!("all of it is in a batch that has been committed"),
        Course::NewHistory(reason) => report["note"] = json!(reason),
        Course::Copy => report["note"] = json!("the device is a copy of another and will get an identity of its own"),
    }
    stage(&received, blob, &report)?;
    let accepted = outcomes.applied + outcomes.merged + outcomes.superseded;
    Ok((received.batch, accepted as i64, outcomes.conflict as i64, outcomes.rejected as i64, report))
}

/// Merges in a subtransaction that is rolled back.
fn trial(received: &mut Received, schema: &Schema, version: u64) -> Result<Outcome, HubError> {
    enum Tried {
        Well(Box<Outcome>),
        Badly(HubError),
    }
    impl From<SqlError> for Tried {
        fn from(error: SqlError) -> Self {
            Tried::Badly(error.into())
        }
    }
    let tried = subtransaction(|| -> Result<(), Tried> {
        let outcome = merge_delta(received, schema, version).map_err(Tried::Badly)?;
        Err(Tried::Well(Box::new(outcome)))
    });
    match tried {
        Err(Tried::Well(outcome)) => Ok(*outcome),
        Err(Tried::Badly(error)) => Err(error),
        Ok(()) => Err(HubError::Sql(SqlError::new("XX000", "a trial gave no result"))),
    }
}

fn outcomes_json(outcomes: &Outcomes) -> Json {
    json!({
        "applied": outcomes.applied, "merged": outcomes.merged, "superseded": outcomes.superseded,
        "conflict": outcomes.conflict, "rejected": outcomes.rejected,
    })
}

fn stage(received: &Received, blob: &[u8], report: &Json) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let unanswered: Vec<Option<i64>> = received.delta.body.unanswered.iter().map(|batch| Some(*batch as i64)).collect();
    sql::run(
        "INSERT INTO fieldsync.batch (batch, client_no, batch_id, status, delta, report, unanswered)
         VALUES ($1::text::uuid, $2, $3, 'staged', $4, $5::text::jsonb, $6) ON CONFLICT (batch) DO NOTHING",
        &[
            Param::Text(&uuid_text(&received.batch)),
            Param::Int(i64::from(received.client.number)),
            Param::Int(received.batch_id as i64),
            Param::Bytes(blob),
            Param::Text(&clean(report)),
            Param::Ints(&unanswered),
        ],
    )?;
    Ok(())
}

/// JSON text that jsonb takes: it knows no NUL.
fn clean(json: &Json) -> String {
    json.to_string().replace("\\u0000", "\\ufffd")
}

/// `commit`: the answer to a staged batch.
pub fn commit(batch: &[u8; 16]) -> Result<Vec<u8>, HubError> {
    refuse_standby()?;
    let rows = {
        let _owner = AsOwner::new();
        sql::run("SELECT delta FROM fieldsync.batch WHERE batch = $1::text::uuid", &[Param::Text(&uuid_text(batch))])?
    };
    match rows.rows.first() {
        Some(row) if !row.is_null(0) => sync(row.bytes(0)),
        _ => Err(HubError::UnknownBatch(uuid_text(batch))),
    }
}

/// `sync`: merges a delta for good and answers it.
pub fn sync(blob: &[u8]) -> Result<Vec<u8>, HubError> {
    refuse_standby()?;
    let started = now_ms();
    let mut received = receive(blob)?;
    // Read only now that the client's row is locked: the same blob may have been committed a moment ago.
    let known = stored(&received.batch)?;
    let mut hub = history::hub()?;
    if let Some(Stored { status, reply: Some(reply), .. }) = &known {
        let present = wire::peek(reply).is_ok_and(|header| header.history == hub.tag());
        if status != "staged" && present {
            return Ok(reply.clone());
        }
    }
    log_skew(&received)?;
    match course(&received, &mut hub)? {
        Course::Merge => merged(&mut received, &hub, blob, started),
        Course::Superseded => superseded(&mut received, &hub, blob),
        Course::NewHistory(reason) => new_history(&received, &hub, &reason),
        Course::Copy => copied(&received, &hub),
    }
}

/// The usual course.
fn merged(received: &mut Received, hub: &Hub, blob: &[u8], started: u64) -> Result<Vec<u8>, HubError> {
    let schema = Schema::load(&received.client)?;
    let version = feed::own_version();
    correct_cursor(received)?;
    if !received.delta.body.reaches(received.client.watermark) {
        return behind(received, hub, blob);
    }
    let outcome = merge_delta(received, &schema, version)?;
    record::conflicts(&outcome.work, &received.client, version, &received.batch)?;
    record::ledger(&received.client, &outcome.outcomes)?;
    log_push(received, &outcome, started)?;
    let watermark = received.client.watermark.max(received.delta.body.high);
    let outcomes = with_unanswered(received, outcome.outcomes)?;
    let answered = received.delta.body.answered_up_to(watermark);
    let (reply, cursor, pulled) = answer(received, hub, &schema, &outcome.work, outcomes, answered, version)?;
    log_pull(received, &pulled, started)?;
    let reply = wire::encode_reply(&reply, received.client.key.as_ref());
    close(received, blob, &outcome, &reply, watermark, Some(&cursor))?;
    history::remember_version(version)?;
    Ok(reply)
}

/// Verdicts of this batch and of those whose answers were lost on the way: the device has not heard of either.
fn with_unanswered(received: &Received, mut outcomes: Outcomes) -> Result<Outcomes, SqlError> {
    let unanswered: Vec<Option<i64>> = received.delta.body.unanswered.iter().map(|batch| Some(*batch as i64)).collect();
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

/// A delta that ends before what the hub has applied of its client already (a larger export's answer was lost). Nothing in it
/// is news; and no rows travel, because what the device's other pending changes hide cannot be told from here.
fn behind(received: &mut Received, hub: &Hub, blob: &[u8]) -> Result<Vec<u8>, HubError> {
    let reply = short_answer(received, hub, Outcomes::default());
    let outcome = Outcome {
        work: Work { tables: Vec::new(), homeless: Vec::new() },
        outcomes: Outcomes::default(),
        verdicts: Vec::new(),
    };
    let watermark = received.client.watermark;
    close(received, blob, &outcome, &reply, watermark, None)?;
    Ok(reply)
}

/// A batch that comes late: nothing in it is news, and the device has been (or will be) answered for it.
fn superseded(received: &mut Received, hub: &Hub, blob: &[u8]) -> Result<Vec<u8>, HubError> {
    let reply = short_answer(received, hub, Outcomes::default());
    stage(received, blob, &json!({ "note": "all of it is in a batch that has been committed", "changes": [] }))?;
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.batch SET status = 'superseded', reply = $2, committed_at = clock_timestamp()
         WHERE batch = $1::text::uuid",
        &[Param::Text(&uuid_text(&received.batch)), Param::Bytes(&reply)],
    )?;
    Ok(reply)
}

/// An answer without rows and news: the device's cursor stays where it is.
fn short_answer(received: &Received, hub: &Hub, outcomes: Outcomes) -> Vec<u8> {
    let body = &received.delta.body;
    let reply = Reply {
        client: received.client.tag,
        history: hub.tag(),
        hub_now_ms: now_ms(),
        body: ReplyBody {
            batch: received.batch_id,
            watermark: body.answered_up_to(received.client.watermark),
            cursor: body.cursor.clone().unwrap_or_default(),
            outcomes,
            more: true,
            ..ReplyBody::default()
        },
    };
    wire::encode_reply(&reply, received.client.key.as_ref())
}

/// Takes out of the device's cursor what transactions wrote after they had answered it.
fn correct_cursor(received: &mut Received) -> Result<(), SqlError> {
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

/// Everything that the device has not seen, as a reply.
fn answer(
    received: &Received,
    hub: &Hub,
    schema: &Schema,
    work: &Work,
    outcomes: Outcomes,
    watermark: Hlc,
    version: u64,
) -> Result<(Reply, Snapshot, Pulled), HubError> {
    let body = &received.delta.body;
    feed::flush();
    let reading = Reading::begin();
    let cursor = reading.cursor(version)?;
    let tables: Vec<(Rc<Table>, Rc<TableRules>)> =
        schema.tables.iter().map(|(table, rules, _)| (Rc::clone(table), Rc::clone(rules))).collect();
    // A device whose cursor is older than the deletions that are still known must compare everything.
    let asked_cursor = body.cursor.as_ref().filter(|cursor| cursor.xmin >= hub.tombstone_floor);
    let known: Vec<Rc<Table>> = schema.tables.iter().map(|(table, _, _)| Rc::clone(table)).collect();
    let news = notices::conflicts(&received.client, &known, body.cursor.as_ref(), version)?;
    let asked = Asked {
        settled: &news.settled,
        cursor: asked_cursor,
        // A first answer may have been lost, or be on its way: only who was never answered holds nothing to delete.
        deletions_too: received.delta.history != 0 || received.client.last_batch != 0,
        work,
        wants: &body.wants,
        no_pull: &|table| matches!(schema.direction(table), "push" | "none"),
    };
    let mut pulled = pull::pull(&tables, hub, &asked)?;
    let mut notices = news.notices;
    drop(reading);
    feed::answered(received.client.number, received.batch_id);
    let unknown: HashSet<&str> = work.homeless.iter().map(|homeless| homeless.table.as_str()).collect();
    notices.extend(
        unknown.into_iter().map(|table| {
            Notice::Warning(format!("changes of table \"{table}\" were parked: the hub cannot take them"))
        }),
    );
    let reply = Reply {
        client: received.client.tag,
        history: hub.tag(),
        hub_now_ms: now_ms(),
        body: ReplyBody {
            batch: received.batch_id,
            watermark,
            cursor: cursor.clone(),
            clock: pulled.clock,
            outcomes,
            more: false,
            notices,
            tables: std::mem::take(&mut pulled.tables),
        },
    };
    Ok((reply, cursor, pulled))
}

/// Stores the answer, and what the client's next delta is measured by.
fn close(
    received: &Received,
    blob: &[u8],
    outcome: &Outcome,
    reply: &[u8],
    watermark: Hlc,
    cursor: Option<&Snapshot>,
) -> Result<(), SqlError> {
    let listed: Vec<Json> = outcome
        .verdicts
        .iter()
        .filter(|verdict| {
            !matches!(
                verdict.outcome,
                fieldsync_core::merge::Outcome::Applied | fieldsync_core::merge::Outcome::Superseded
            )
        })
        .take(1_000)
        .map(Verdict::to_json)
        .collect();
    let report = json!({
        "client": received.client.client_id, "outcomes": outcomes_json(&outcome.outcomes), "changes": listed,
    });
    stage(received, blob, &report)?;
    let _owner = AsOwner::new();
    let batch = uuid_text(&received.batch);
    sql::run(
        "UPDATE fieldsync.batch SET status = 'committed', reply = $2, report = $3::text::jsonb, committed_at = clock_timestamp()
         WHERE batch = $1::text::uuid",
        &[Param::Text(&batch), Param::Bytes(reply), Param::Text(&clean(&report))],
    )?;
    let held: Vec<Option<i64>> = received.delta.body.unanswered.iter().map(|batch| Some(*batch as i64)).collect();
    sql::run(
        "UPDATE fieldsync.batch SET status = 'superseded'
         WHERE client_no = $1 AND status = 'staged' AND batch_id = ANY ($2)",
        &[Param::Int(i64::from(received.client.number)), Param::Ints(&held)],
    )?;
    sql::run(
        "UPDATE fieldsync.client SET watermark = $2, last_batch = $3, seen = COALESCE($4, seen) WHERE client_no = $1",
        &[
            Param::Int(i64::from(received.client.number)),
            Param::Int(watermark.as_i64()),
            Param::Int(received.batch_id as i64),
            Param::MaybeText(cursor.map(ToString::to_string).as_deref()),
        ],
    )?;
    let Some(cursor) = cursor else { return Ok(()) };
    sql::run(
        "UPDATE sync_control.client_state SET last_sync_timestamp = now(), last_sync_version = $2,
                sync_status = CASE WHEN EXISTS (SELECT 1 FROM fieldsync.conflict WHERE client_no = $3 AND status = 'open')
                                   THEN 'conflict' ELSE 'active' END
         WHERE client_id = $1",
        &[
            Param::Text(&received.client.client_id),
            Param::Int(cursor.xmax.saturating_sub(1) as i64),
            Param::Int(i64::from(received.client.number)),
        ],
    )?;
    Ok(())
}

fn log_push(received: &Received, outcome: &Outcome, started: u64) -> Result<(), SqlError> {
    if outcome.verdicts.is_empty() {
        return Ok(());
    }
    let tables: BTreeSet<&str> = outcome.verdicts.iter().map(|verdict| verdict.table.as_str()).collect();
    let rejected: Vec<&Verdict> = outcome.verdicts.iter().filter(|verdict| verdict.error.is_some()).collect();
    let message = rejected.first().map(|first| {
        let error = first.error.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} rejected; first: {} {}: {error}", rejected.len(), first.table, first.row_id)
    });
    record::log(
        &received.client,
        &Logged {
            operation: "push",
            table: tables.iter().next().copied().filter(|_| tables.len() == 1),
            rows: outcome.outcomes.total(),
            duration_ms: now_ms().saturating_sub(started),
            status: record::push_status(&outcome.outcomes),
            message: message.as_deref(),
        },
    )
}

fn log_pull(received: &Received, pulled: &Pulled, started: u64) -> Result<(), SqlError> {
    record::log(
        &received.client,
        &Logged {
            operation: "pull",
            table: pulled.per_table.first().map(|(table, _)| table.as_str()).filter(|_| pulled.per_table.len() == 1),
            rows: pulled.rows,
            duration_ms: now_ms().saturating_sub(started),
            status: "success",
            message: None,
        },
    )?;
    let _owner = AsOwner::new();
    for (table, rows) in &pulled.per_table {
        sql::run(
            "INSERT INTO sync_control.table_sync_state AS s (client_id, table_name, last_synced_version, last_synced_at, row_count_synced)
             VALUES ($1, $2, pg_current_xact_id()::text::bigint, now(), $3)
             ON CONFLICT (client_id, table_name) DO UPDATE SET last_synced_version = EXCLUDED.last_synced_version,
                 last_synced_at = EXCLUDED.last_synced_at, row_count_synced = s.row_count_synced + EXCLUDED.row_count_synced",
            &[Param::Text(&received.client.client_id), Param::Text(table), Param::Int(*rows as i64)],
        )?;
    }
    Ok(())
}

/// The hub's history is another one: nothing is merged, the device offers again what it still holds.
fn new_history(received: &Received, hub: &Hub, reason: &str) -> Result<Vec<u8>, HubError> {
    record::log(
        &received.client,
        &Logged {
            operation: "new_epoch",
            table: None,
            rows: 0,
            duration_ms: 0,
            status: "success",
            message: Some(reason),
        },
    )?;
    let reply = Reply {
        client: received.client.tag,
        history: hub.tag(),
        hub_now_ms: now_ms(),
        body: ReplyBody {
            batch: received.batch_id,
            watermark: received.client.watermark,
            more: true,
            notices: vec![Notice::NewHistory {
                watermark: received.client.watermark,
                last_batch: received.client.last_batch,
                reason: reason.to_owned(),
            }],
            ..ReplyBody::default()
        },
    };
    Ok(wire::encode_reply(&reply, received.client.key.as_ref()))
}

/// The sender is a copy: it goes on under an identity of its own.
fn copied(received: &Received, hub: &Hub) -> Result<Vec<u8>, HubError> {
    let body = &received.delta.body;
    let client_id = client::split(&received.client, received.delta.device_now_ms, received.batch_id, body.parent)?;
    let reason = format!(
        "this database is a copy of the one that is client \"{}\"; it goes on as \"{client_id}\"",
        received.client.client_id
    );
    record::log(
        &received.client,
        &Logged {
            operation: "new_identity",
            table: None,
            rows: 0,
            duration_ms: 0,
            status: "success",
            message: Some(&reason),
        },
    )?;
    let reply = Reply {
        client: received.client.tag,
        history: hub.tag(),
        hub_now_ms: now_ms(),
        body: ReplyBody {
            batch: received.batch_id,
            watermark: body.watermark,
            cursor: body.cursor.clone().unwrap_or_default(),
            more: true,
            notices: vec![Notice::NewIdentity { client_id, reason }],
            ..ReplyBody::default()
        },
    };
    Ok(wire::encode_reply(&reply, received.client.key.as_ref()))
}

fn refuse_standby() -> Result<(), HubError> {
    // SAFETY: both read the backend's state.
    if unsafe { pgrx::pg_sys::RecoveryInProgress() || pgrx::pg_sys::XactReadOnly } {
        return Err(HubError::ReadOnly);
    }
    Ok(())
}

/// `inspect`: what is in a blob. No key is needed: nothing in it is acted on.
pub fn inspect(blob: &[u8]) -> Result<Json, HubError> {
    let limits = limits();
    match wire::peek(blob)?.kind {
        BlobKind::Delta => {
            let delta = wire::decode_delta(blob, None, &limits)?;
            Ok(fieldsync_core::inspect::delta_to_json(&delta, blob.len()))
        }
        BlobKind::Reply => {
            let reply = wire::decode_reply(blob, None, &limits)?;
            Ok(fieldsync_core::inspect::reply_to_json(&reply, blob.len()))
        }
    }
}
