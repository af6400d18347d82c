//! The body of a delta and of a reply: the few numbers at its front, then its tables.
//!
//! ```text
//! [varint count, that many zero bytes]   if the header says "padded"
//! [varint length, the pool]              if the header says "has texts"
//! decisions                              to the end
//! ```
//!
//! What is rare (conflicts, notices, rows asked for) is postcard, in the pool.

use super::budget::{self, Budget, VALUE_BYTES};
use super::column::{In, Out, Shared};
use super::error::WireError;
use super::model::{Number, Signed, Symbol};
use super::pool::PoolReader;
use super::range::{Bit, Coder, Reader};
use super::seal::Header;
use super::shape::{Shape, Shapes};
use super::table::{self, Clocks, Row, Rows};
use crate::clock::Hlc;
use crate::delta::{Base, BatchId, DeltaBody, Recovery, Settled, Want};
use crate::limits::Limits;
use crate::number::{read_varint, write_varint};
use crate::reply::{Notice, Outcomes, ReplyBody};
use crate::snapshot::Snapshot;
use crate::value::Kind;
use serde::{de::DeserializeOwned, Serialize};

/// A body's bytes, and what the header says about them.
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    pub(super) texts: bool,
    pub(super) padded: bool,
}

/// How much larger than its postcard form a rare structure can be in memory.
const RARE_BYTES_PER_BYTE: usize = 32;

/// Models of the numbers at the front.
struct Front {
    has: [Bit; 6],
    long_batch: Bit,
    seen_nothing: Bit,
    count: Number,
    table: Bit,
    xid: Signed,
    xid_gap: Number,
    clock: Clocks,
    high: Clocks,
}

impl Front {
    /// With what is expected of the flags, in 1/256 of a "no".
    fn new(flags: [u32; 6]) -> Front {
        Front {
            has: flags.map(Bit::expecting_false),
            long_batch: Bit::expecting_false(250),
            seen_nothing: Bit::expecting_false(250),
            count: Number::small(),
            table: Bit::default(),
            xid: Signed::new(Number::modest(), Bit::expecting_false(200)),
            xid_gap: Number::small(),
            clock: Clocks::new(),
            high: Clocks::new(),
        }
    }

    /// A batch's name: thirty-two bits where that is enough, as it is in this format.
    fn batch<C: Coder>(&mut self, coder: &mut C, batch: u64) -> u64 {
        let long = coder.bit(&mut self.long_batch, u32::try_from(batch).is_err());
        coder.direct(if long { 64 } else { 32 }, batch)
    }

    fn write_snapshot(&mut self, out: &mut Out, snapshot: &Snapshot, from: u64) {
        self.xid.code(&mut out.coder, snapshot.xmin.wrapping_sub(from) as i64);
        self.xid_gap.code(&mut out.coder, snapshot.xmax.wrapping_sub(snapshot.xmin));
        if snapshot.xmax == snapshot.xmin {
            return;
        }
        self.count.code(&mut out.coder, snapshot.xip.len() as u64);
        let _ = out.budget.take_many(snapshot.xip.len(), 8);
        let mut next = snapshot.xmin;
        for xid in &snapshot.xip {
            self.xid_gap.code(&mut out.coder, xid.wrapping_sub(next));
            next = xid.wrapping_add(1);
        }
    }

    fn read_snapshot(&mut self, input: &mut In<'_>, from: u64) -> Result<Snapshot, WireError> {
        let xmin = from.wrapping_add(self.xid.code(&mut input.coder, 0) as u64);
        let xmax = xmin.wrapping_add(self.xid_gap.code(&mut input.coder, 0));
        let mut snapshot = Snapshot { xmin, xmax, xip: Vec::new() };
        if xmax != xmin {
            let count = self.count.code(&mut input.coder, 0);
            let mut next = xmin;
            for _ in 0..count {
                input.coder.check()?;
                input.budget.take(8)?;
                let xid = next.wrapping_add(self.xid_gap.code(&mut input.coder, 0));
                next = xid.wrapping_add(1);
                snapshot.xip.push(xid);
            }
        }
        input.coder.check()?;
        if snapshot.is_well_formed() {
            Ok(snapshot)
        } else {
            Err(WireError::Damaged("a cursor is wrong"))
        }
    }
}

/// Models of what tables look like.
struct Shapers {
    known: Bit,
    columns: Number,
    key_len: Number,
    kind: Symbol,
    sum: Bit,
}

impl Shapers {
    fn new() -> Shapers {
        Shapers {
            known: Bit::expecting_false(64),
            columns: Number::modest(),
            key_len: Number::small(),
            kind: Symbol::new(),
            sum: Bit::expecting_false(240),
        }
    }

    fn write(&mut self, out: &mut Out, shape: &Shape, shapes: &Shapes, of_reply: bool) {
        let names: usize = shape.columns.iter().map(String::len).sum();
        let _ = out.budget.take(names + shape.table.len() + 32 * shape.columns.len());
        if out.coder.bit(&mut self.known, shapes.knows(shape)) {
            out.coder.direct(16, u64::from(shape.tag()));
            return;
        }
        out.pool.text(shape.table.as_bytes());
        self.columns.code(&mut out.coder, shape.columns.len() as u64);
        self.key_len.code(&mut out.coder, u64::from(shape.key_len));
        for (at, column) in shape.columns.iter().enumerate() {
            out.pool.text(column.as_bytes());
            if of_reply {
                let kind = shape.kinds.get(at).and_then(|kind| KINDS.iter().position(|known| known == kind));
                self.kind.code(&mut out.coder, kind.unwrap_or(0) as u8, KINDS.len() as u8);
                out.coder.bit(&mut self.sum, shape.sums.contains(&(at as u16)));
            }
        }
    }

    fn read(
        &mut self,
        input: &mut In<'_>,
        shapes: &Shapes,
        limits: &Limits,
        of_reply: bool,
    ) -> Result<Shape, WireError> {
        if input.coder.bit(&mut self.known, false) {
            let tag = input.coder.direct(16, 0) as u16;
            input.coder.check()?;
            let shape = shapes.get(tag).ok_or(WireError::UnknownShape(tag))?;
            input.budget.take(shape.columns.iter().map(|column| column.len() + 32).sum())?;
            return fitting(shape.clone(), limits, of_reply);
        }
        let mut shape = Shape { table: input.pool.text(&mut input.budget)?, ..Shape::default() };
        let columns = self.columns.code(&mut input.coder, 0);
        if columns > limits.columns_max as u64 {
            return Err(WireError::Limit { what: "columns", most: limits.columns_max });
        }
        let key_len = self.key_len.code(&mut input.coder, 0);
        shape.key_len = u16::try_from(key_len).unwrap_or(u16::MAX);
        for at in 0..columns {
            input.coder.check()?;
            input.budget.take(32)?;
            shape.columns.push(input.pool.text(&mut input.budget)?);
            if of_reply {
                shape.kinds.push(KINDS[usize::from(self.kind.code(&mut input.coder, 0, KINDS.len() as u8))]);
                if input.coder.bit(&mut self.sum, false) {
                    shape.sums.push(at as u16);
                }
            }
        }
        fitting(shape, limits, of_reply)
    }
}

const KINDS: [Kind; 11] = [
    Kind::Text,
    Kind::Int,
    Kind::Real,
    Kind::Numeric,
    Kind::Bool,
    Kind::Instant,
    Kind::Uuid,
    Kind::Bytes,
    Kind::Json,
    Kind::Jsonb,
    Kind::Array,
];

fn fitting(shape: Shape, limits: &Limits, of_reply: bool) -> Result<Shape, WireError> {
    let columns = shape.columns.len();
    if columns > limits.columns_max.min(usize::from(u16::MAX) - 1) {
        return Err(WireError::Limit { what: "columns", most: limits.columns_max });
    }
    let fits = (1..=columns).contains(&usize::from(shape.key_len))
        && shape.kinds.len() == if of_reply { columns } else { 0 }
        && shape.sums.iter().all(|column| usize::from(*column) < columns);
    if fits {
        Ok(shape)
    } else {
        Err(WireError::Damaged("a table's columns are wrong"))
    }
}

/// Fails loudly where an adapter breaks the structures' own rules; no input from outside gets here.
fn assert_fits<R: Row>(shape: &Shape, rows: &[R]) {
    let columns = shape.columns.len();
    let key_len = usize::from(shape.key_len);
    assert!((1..=columns).contains(&key_len), "table {}: {key_len} key columns of {columns}", shape.table);
    for row in rows {
        let mut next = key_len;
        let ascending = row.columns().all(|column| {
            let fits = (next..columns).contains(&usize::from(column));
            next = usize::from(column) + 1;
            fits
        });
        assert!(ascending && row.key().0.len() == key_len, "table {}: a row does not fit its columns", shape.table);
    }
}

/// Has a parent, a cursor, more to send; unanswered batches, bases, something rare.
const DELTA_FLAGS: [u32; 6] = [40, 40, 230, 200, 200, 240];
/// Answers a batch, has more to send, notices, outcomes.
const REPLY_FLAGS: [u32; 6] = [20, 230, 220, 100, 128, 128];

/// What of a delta is rare: postcard, in this order. A field that is added goes to the end, under a new format version.
type RareOfDelta = (Option<Recovery>, Vec<Want>, Vec<Settled>, bool);

/// A body's tables on their way out, block by block.
pub(super) struct TablesWriter<'k> {
    out: Out,
    front: Front,
    rows: Rows,
    shapers: Shapers,
    known: &'k Shapes,
}

impl<'k> TablesWriter<'k> {
    fn new(out: Out, front: Front, now: Hlc, known: &'k Shapes) -> TablesWriter<'k> {
        TablesWriter { out, front, rows: Rows::new(now), shapers: Shapers::new(), known }
    }

    /// Begins a table.
    pub(super) fn table(&mut self, shape: &Shape, of_reply: bool) {
        self.out.coder.bit(&mut self.front.table, true);
        self.shapers.write(&mut self.out, shape, self.known, of_reply);
    }

    /// A block of the table: [`table::BLOCK_ROWS`] rows; the last one fewer, none if need be.
    pub(super) fn block<R: Row>(&mut self, shape: &Shape, rows: &[R]) {
        assert_fits(shape, rows);
        table::write_block(&mut self.out, &mut self.rows, rows, usize::from(shape.key_len), shape.columns.len());
    }

    /// All rows of the table.
    fn blocks<R: Row>(&mut self, shape: &Shape, rows: &[R]) {
        for block in rows.chunks(table::BLOCK_ROWS) {
            self.block(shape, block);
        }
        if rows.len() % table::BLOCK_ROWS == 0 {
            self.block::<R>(shape, &[]);
        }
    }

    /// Ends a delta. `latest`: the latest clock of all changes, or else the watermark: what `high` is in most deltas.
    pub(super) fn finish_delta(mut self, high: Hlc, latest: Hlc) -> Packed {
        self.out.coder.bit(&mut self.front.table, false);
        self.front.high.code(&mut self.out.coder, high, latest);
        pack(self.out)
    }

    fn finish_reply(mut self) -> Packed {
        self.out.coder.bit(&mut self.front.table, false);
        pack(self.out)
    }
}

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

/// The tables of a body, block by block.
pub(super) struct Tables<'a> {
    input: In<'a>,
    front: Front,
    models: Rows,
    shapers: Shapers,
    known: &'a Shapes,
    limits: Limits,
    rows_left: usize,
    tables: usize,
    /// The table whose next block follows.
    open: Option<Shape>,
}

/// A block of a table.
pub(super) struct Block<R> {
    pub(super) shape: Shape,
    /// Whether the block before was of the same table.
    pub(super) continues: bool,
    pub(super) rows: Vec<R>,
}

impl<'a> Tables<'a> {
    fn new(input: In<'a>, front: Front, now: Hlc, known: &'a Shapes, limits: &Limits) -> Tables<'a> {
        let (models, shapers) = (Rows::new(now), Shapers::new());
        Tables {
            input,
            front,
            models,
            shapers,
            known,
            limits: *limits,
            rows_left: limits.rows_max,
            tables: 0,
            open: None,
        }
    }

    /// The next block. None: there are no more tables.
    pub(super) fn next<R: Row>(&mut self, of_reply: bool) -> Result<Option<Block<R>>, WireError> {
        let continues = self.open.is_some();
        let shape = match self.open.take() {
            Some(shape) => shape,
            None => {
                let another = self.input.coder.bit(&mut self.front.table, false);
                self.input.coder.check()?;
                if !another {
                    return Ok(None);
                }
                if self.tables == self.limits.tables_max {
                    return Err(WireError::Limit { what: "tables", most: self.limits.tables_max });
                }
                self.tables += 1;
                self.shapers.read(&mut self.input, self.known, &self.limits, of_reply)?
            }
        };
        let (key_len, columns) = (usize::from(shape.key_len), shape.columns.len());
        let rows: Vec<R> = table::read_block(
            &mut self.input,
            &mut self.models,
            key_len,
            columns,
            &mut self.rows_left,
            self.limits.rows_max,
        )?;
        if rows.len() == table::BLOCK_ROWS {
            self.open = Some(shape.clone());
        }
        Ok(Some(Block { shape, continues, rows }))
    }

    /// At the end of a delta: `high`, told from the latest clock there was.
    pub(super) fn high(&mut self, latest: Hlc) -> Hlc {
        self.front.high.code(&mut self.input.coder, Hlc::default(), latest)
    }

    /// Nothing is left over.
    pub(super) fn finish(&self) -> Result<(), WireError> {
        self.input.coder.finish()?;
        self.input.pool.finish()
    }
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

pub(super) fn write_reply(body: &ReplyBody, now_ms: u64, shapes: &Shapes) -> Packed {
    let ReplyBody { batch, watermark, cursor, clock, outcomes, more, notices, tables } = body;
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
    let mut writer = TablesWriter::new(out, front, now, shapes);
    for table in tables {
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

fn write_rare<T: Serialize>(out: &mut Out, rare: &T) {
    // Writing into a vector cannot fail for these types: every sequence knows its length.
    let bytes = postcard::to_allocvec(rare).unwrap_or_default();
    let _ = out.budget.take_many(bytes.len(), RARE_BYTES_PER_BYTE + 1);
    out.pool.bytes(&mut out.coder, &bytes);
}

fn read_rare<T: DeserializeOwned + Serialize>(input: &mut In<'_>) -> Result<T, WireError> {
    let bytes = input.pool.bytes(&mut input.coder, &mut input.budget)?;
    input.budget.take_many(bytes.len(), RARE_BYTES_PER_BYTE)?;
    match postcard::take_from_bytes::<T>(&bytes) {
        // Postcard takes over-long integers; what was written in another way than ours is refused.
        Ok((rare, [])) if postcard::to_allocvec(&rare).is_ok_and(|again| again == bytes) => Ok(rare),
        Ok((_, [_, ..])) => Err(WireError::Damaged("bytes are left over")),
        _ => Err(WireError::Damaged("its notices cannot be read")),
    }
}

fn pack(out: Out) -> Packed {
    let spent = out.budget.spent().saturating_add(out.pool.len());
    let pool = out.pool.finish();
    let decisions = out.coder.finish();
    let texts = !pool.is_empty();
    let mut bytes = Vec::with_capacity(pool.len() + decisions.len() + 10);
    let padding = budget::padding(pool.len() + decisions.len(), spent);
    if padding > 0 {
        write_varint(&mut bytes, padding as u64);
        bytes.resize(bytes.len() + padding, 0);
    }
    bytes.extend(pool);
    bytes.extend(decisions);
    Packed { bytes, texts, padded: padding > 0 }
}

fn unpack<'a>(bytes: &'a [u8], header: &Header, limits: &Limits) -> Result<In<'a>, WireError> {
    let mut budget = Budget::new(bytes.len(), limits);
    let mut rest = bytes;
    if header.padded {
        let padding = section(&mut rest)?;
        if padding.is_empty() || padding.iter().any(|byte| *byte != 0) {
            return Err(WireError::Damaged("its padding is wrong"));
        }
    }
    let pool = if header.texts { PoolReader::open(&mut rest, &mut budget)? } else { PoolReader::empty() };
    Ok(In { coder: Reader::new(rest), pool, shared: Shared::new(), budget })
}

/// A length and that many bytes.
fn section<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    const WHY: WireError = WireError::Damaged("it ends early");
    let length = read_varint(rest).and_then(|length| usize::try_from(length).ok()).ok_or(WHY)?;
    let (section, after) = rest.split_at_checked(length).ok_or(WHY)?;
    *rest = after;
    Ok(section)
}
