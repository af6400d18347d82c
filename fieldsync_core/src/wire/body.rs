//! The body of a delta and of a reply: the few numbers at its front, then its tables.

use super::budget::VALUE_BYTES;
use super::error::WireError;
use super::front::Front;
use super::packing::{read_rare, unpack, write_rare, Packed};
use super::parts::Out;
use super::range::Coder;
use super::seal::Header;
use super::shape::{Shape, Shapes};
use super::tables::{Tables, TablesWriter};
use crate::clock::Hlc;
use crate::delta::{Base, BatchId, DeltaBody, Recovery, Settled, Want};
use crate::limits::Limits;
use crate::reply::{Notice, Outcomes, ReplyBody};

/// Has a parent, a cursor, more to send; unanswered batches, bases, something rare.
const DELTA_FLAGS: [u32; 6] = [40, 40, 230, 200, 200, 240];
/// Answers a batch, has more to send, notices, outcomes.
const REPLY_FLAGS: [u32; 6] = [20, 230, 220, 100, 128, 128];

/// What of a delta is rare: postcard, in this order. A field that is added goes to the end, under a new format version.
type RareOfDelta = (Option<Recovery>, Vec<Want>, Vec<Settled>, bool);

pub(super) fn write_delta(body: &DeltaBody, now_ms: u64, shapes: &Shapes) -> Packed {
    let mut writer = begin_delta(body, now_ms, shapes);
    let mut latest = None;
    for table in &body.tables {
        let shape = Shape::of_changes(table);
        writer.table(&shape, false);
        writer.blocks(&shape, &table.changes);
        latest = latest.max(table.changes.iter().map(|change| change.clock).max());
    }
    writer.finish_delta(body.high, latest.unwrap_or(body.watermark))
}

/// Writes what is before a delta's tables.
pub(super) fn begin_delta<'k>(body: &DeltaBody, now_ms: u64, shapes: &'k Shapes) -> TablesWriter<'k> {
    // All fields are named, here and where they are read: one that is added cannot be forgotten.
    let DeltaBody {
        parent,
        unanswered,
        cursor,
        bases,
        watermark,
        high: _,
        more,
        recovery,
        wants,
        settled,
        names_wanted,
        tables: _,
    } = body;
    let mut out = Out::new();
    let mut front = Front::new(DELTA_FLAGS);
    let now = Hlc::from_ms(now_ms);
    let rare = recovery.is_some() || !wants.is_empty() || !settled.is_empty() || *names_wanted;
    let flags = [*parent != 0, cursor.is_some(), *more, !unanswered.is_empty(), !bases.is_empty(), rare];
    for (model, flag) in front.has.iter_mut().zip(flags) {
        out.coder.bit(model, flag);
    }
    if *parent != 0 {
        front.batch(&mut out.coder, *parent);
    }
    if !unanswered.is_empty() {
        front.count.code(&mut out.coder, unanswered.len() as u64 - 1);
        let _ = out.budget.take_many(unanswered.len(), 8);
        for batch in unanswered {
            front.batch(&mut out.coder, *batch);
        }
    }
    let from = cursor.as_ref().map_or(0, |cursor| cursor.xmin);
    if let Some(cursor) = cursor {
        front.write_snapshot(&mut out, cursor, 0);
    }
    front.clock.code(&mut out.coder, *watermark, now);
    if !bases.is_empty() {
        front.count.code(&mut out.coder, bases.len() as u64 - 1);
        let _ = out.budget.take_many(bases.len(), VALUE_BYTES);
        let mut last = *watermark;
        for base in bases {
            last = front.clock.code(&mut out.coder, base.until, last);
            out.coder.bit(&mut front.seen_nothing, base.snapshot.is_none());
            if let Some(snapshot) = &base.snapshot {
                front.write_snapshot(&mut out, snapshot, from);
            }
        }
    }
    if rare {
        write_rare(&mut out, &(recovery, wants, settled, names_wanted));
    }
    TablesWriter::new(out, front, now, shapes)
}

/// Reads what is before a delta's tables; `high` comes after them.
pub(super) fn read_delta<'a>(
    bytes: &'a [u8],
    header: &Header,
    shapes: &'a Shapes,
    limits: &Limits,
) -> Result<(DeltaBody, Tables<'a>), WireError> {
    let mut input = unpack(bytes, header, limits)?;
    let mut front = Front::new(DELTA_FLAGS);
    let now = Hlc::from_ms(header.now_ms);
    let mut flags = [false; 6];
    for (model, flag) in front.has.iter_mut().zip(&mut flags) {
        *flag = input.coder.bit(model, false);
    }
    let [has_parent, has_cursor, more, has_unanswered, has_bases, rare] = flags;
    let parent = if has_parent { front.batch(&mut input.coder, 0) } else { 0 };
    let mut unanswered: Vec<BatchId> = Vec::new();
    if has_unanswered {
        for _ in 0..=front.count.code(&mut input.coder, 0) {
            input.budget.take(8)?;
            unanswered.push(front.batch(&mut input.coder, 0));
            input.coder.check()?;
        }
    }
    let cursor = if has_cursor { Some(front.read_snapshot(&mut input, 0)?) } else { None };
    let from = cursor.as_ref().map_or(0, |cursor| cursor.xmin);
    let watermark = front.clock.code(&mut input.coder, Hlc::default(), now);
    let mut bases: Vec<Base> = Vec::new();
    if has_bases {
        let mut last = watermark;
        for _ in 0..=front.count.code(&mut input.coder, 0) {
            input.budget.take(VALUE_BYTES)?;
            last = front.clock.code(&mut input.coder, Hlc::default(), last);
            let nothing = input.coder.bit(&mut front.seen_nothing, false);
            let snapshot = if nothing { None } else { Some(front.read_snapshot(&mut input, from)?) };
            input.coder.check()?;
            bases.push(Base { until: last, snapshot });
        }
    }
    let (recovery, wants, settled, names_wanted) =
        if rare { read_rare::<RareOfDelta>(&mut input)? } else { RareOfDelta::default() };
    input.coder.check()?;
    let body = DeltaBody {
        parent,
        unanswered,
        cursor,
        bases,
        watermark,
        high: watermark,
        more,
        recovery,
        wants,
        settled,
        names_wanted,
        tables: Vec::new(),
    };
    Ok((body, Tables::new(input, front, now, shapes, limits)))
}

/// What is before a reply's tables; they and the end are for the caller.
pub(super) fn begin_reply<'k>(body: &ReplyBody, now_ms: u64, shapes: &'k Shapes) -> TablesWriter<'k> {
    let ReplyBody { batch, watermark, cursor, clock, outcomes, more, notices, tables: _ } = body;
    let mut out = Out::new();
    let mut front = Front::new(REPLY_FLAGS);
    let now = Hlc::from_ms(now_ms);
    let counted = *outcomes != Outcomes::default();
    let flags = [*batch != 0, *more, !notices.is_empty(), counted];
    for (model, flag) in front.has.iter_mut().zip(flags) {
        out.coder.bit(model, flag);
    }
    if *batch != 0 {
        front.batch(&mut out.coder, *batch);
    }
    front.write_snapshot(&mut out, cursor, 0);
    front.clock.code(&mut out.coder, *watermark, now);
    front.high.code(&mut out.coder, *clock, *watermark);
    if counted {
        for count in counts(outcomes) {
            front.count.code(&mut out.coder, count);
        }
    }
    if !notices.is_empty() {
        write_rare(&mut out, notices);
    }
    TablesWriter::new(out, front, now, shapes)
}

pub(super) fn write_reply(body: &ReplyBody, now_ms: u64, shapes: &Shapes) -> Packed {
    let mut writer = begin_reply(body, now_ms, shapes);
    for table in &body.tables {
        let shape = Shape::of_rows(table);
        assert!(table.kinds.len() == table.columns.len(), "table {}: a column has no kind", table.table);
        writer.table(&shape, true);
        writer.blocks(&shape, &table.rows);
    }
    writer.finish_reply()
}

/// Reads what is before a reply's tables.
pub(super) fn read_reply<'a>(
    bytes: &'a [u8],
    header: &Header,
    shapes: &'a Shapes,
    limits: &Limits,
) -> Result<(ReplyBody, Tables<'a>), WireError> {
    let mut input = unpack(bytes, header, limits)?;
    let mut front = Front::new(REPLY_FLAGS);
    let now = Hlc::from_ms(header.now_ms);
    let mut flags = [false; 4];
    for (model, flag) in front.has.iter_mut().zip(&mut flags) {
        *flag = input.coder.bit(model, false);
    }
    let [has_batch, more, has_notices, counted] = flags;
    let batch = if has_batch { front.batch(&mut input.coder, 0) } else { 0 };
    let cursor = front.read_snapshot(&mut input, 0)?;
    let watermark = front.clock.code(&mut input.coder, Hlc::default(), now);
    let clock = front.high.code(&mut input.coder, Hlc::default(), watermark);
    let mut outcomes = Outcomes::default();
    if counted {
        let [applied, merged, superseded, conflict, rejected] = [(); 5].map(|()| front.count.code(&mut input.coder, 0));
        outcomes = Outcomes { applied, merged, superseded, conflict, rejected };
    }
    let notices = if has_notices { read_rare::<Vec<Notice>>(&mut input)? } else { Vec::new() };
    input.coder.check()?;
    let body = ReplyBody { batch, watermark, cursor, clock, outcomes, more, notices, tables: Vec::new() };
    Ok((body, Tables::new(input, front, now, shapes, limits)))
}

fn counts(outcomes: &Outcomes) -> [u64; 5] {
    [outcomes.applied, outcomes.merged, outcomes.superseded, outcomes.conflict, outcomes.rejected]
}
