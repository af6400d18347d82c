//! One table's rows, column by column: the same code for a delta's changes and a reply's rows.

use super::budget::{ROW_BYTES, VALUE_BYTES};
use super::classes;
use super::column;
use super::error::WireError;
use super::model::{Index, Number, QuickMap, Signed, Symbol, ENTRIES_MAX};
use super::numbers;
use super::parts::{In, Out};
use super::range::{Bit, Coder};
use crate::clock::Hlc;
use crate::delta::{Change, FieldChange, Op};
use crate::key::Key;
use crate::number::{unzigzag, zigzag};
use crate::reply::RowChange;
use crate::value::Value;

/// What both kinds of rows have in common.
pub(super) trait Row: Sized {
    /// Whether fields may carry old values, and rows clocks and a count.
    const LOGGED: bool;

    fn op(&self) -> Op;
    fn key(&self) -> &Key;
    /// The columns of its fields, ascending.
    fn columns(&self) -> impl Iterator<Item = u16> + '_;
    /// The field at a position: old and new value.
    fn field(&self, at: usize) -> Option<(Option<&Value>, &Value)>;
    /// Last clock, first clock, count.
    fn logged(&self) -> (Hlc, Hlc, u32);
    fn new(op: Op, key: Key, logged: (Hlc, Hlc, u32), fields: usize) -> Self;
    /// Columns come in ascending order.
    fn push(&mut self, column: u16, old: Option<Value>, new: Value);
}

impl Row for Change {
    const LOGGED: bool = true;

    fn op(&self) -> Op {
        self.op
    }
    fn key(&self) -> &Key {
        &self.key
    }
    fn columns(&self) -> impl Iterator<Item = u16> + '_ {
        self.fields.iter().map(|field| field.column)
    }
    fn field(&self, at: usize) -> Option<(Option<&Value>, &Value)> {
        self.fields.get(at).map(|field| (field.old.as_ref(), &field.new))
    }
    fn logged(&self) -> (Hlc, Hlc, u32) {
        (self.clock, self.first_clock, self.count)
    }
    fn new(op: Op, key: Key, logged: (Hlc, Hlc, u32), fields: usize) -> Change {
        let (clock, first_clock, count) = logged;
        Change { op, key, clock, first_clock, count, fields: Vec::with_capacity(fields) }
    }
    fn push(&mut self, column: u16, old: Option<Value>, new: Value) {
        self.fields.push(FieldChange { column, old, new });
    }
}

impl Row for RowChange {
    const LOGGED: bool = false;

    fn op(&self) -> Op {
        self.op
    }
    fn key(&self) -> &Key {
        &self.key
    }
    fn columns(&self) -> impl Iterator<Item = u16> + '_ {
        self.fields.iter().map(|(column, _)| *column)
    }
    fn field(&self, at: usize) -> Option<(Option<&Value>, &Value)> {
        self.fields.get(at).map(|(_, value)| (None, value))
    }
    fn logged(&self) -> (Hlc, Hlc, u32) {
        Default::default()
    }
    fn new(op: Op, key: Key, _logged: (Hlc, Hlc, u32), fields: usize) -> RowChange {
        RowChange { op, key, fields: Vec::with_capacity(fields) }
    }
    fn push(&mut self, column: u16, _old: Option<Value>, new: Value) {
        self.fields.push((column, new));
    }
}

const OPS: [Op; 4] = [Op::Insert, Op::Update, Op::Delete, Op::Cancelled];

/// A clock, told from another one.
pub(super) struct Clocks {
    ms: Signed,
    counter: Number,
}

impl Clocks {
    pub(super) fn new() -> Clocks {
        Clocks { ms: Signed::new(Number::modest(), Bit::default()), counter: Number::small() }
    }

    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, clock: Hlc, from: Hlc) -> Hlc {
        const COUNTER: u64 = 0xffff;
        let ms = self.ms.code(coder, clock.ms().wrapping_sub(from.ms()) as i64);
        let base = if ms == 0 { from.0 & COUNTER } else { 0 };
        let counter = (clock.0 & COUNTER) as i64 - base as i64;
        let counter = unzigzag(self.counter.code_up_to(coder, zigzag(counter), 17));
        Hlc(from.ms().wrapping_add(ms as u64) << 16 | (base as i64 + counter) as u64 & COUNTER)
    }
}

/// What is learned about rows, from table to table of a blob.
pub(super) struct Rows {
    count: Number,
    op: [Symbol; 4],
    clock: Clocks,
    first_is_last: Bit,
    first: Clocks,
    logged: Number,
    set_size: Number,
    set_gap: Number,
    set_member: [Bit; 2],
    mixed: Bit,
    relation: Symbol,
    /// The clock before: the next one is told from it.
    pub(super) last_clock: Hlc,
}

impl Rows {
    pub(super) fn new(now: Hlc) -> Rows {
        let mut logged = Number::small();
        // Most rows stand for one logged change.
        logged.code(&mut super::range::Writer::new(), 0);
        Rows {
            count: Number::small(),
            op: [(); 4].map(|()| Symbol::new()),
            clock: Clocks::new(),
            first_is_last: Bit::expecting_false(32),
            first: Clocks::new(),
            logged,
            set_size: Number::small(),
            set_gap: Number::small(),
            set_member: [Bit::default(); 2],
            mixed: Bit::expecting_false(224),
            relation: Symbol::new(),
            last_clock: now,
        }
    }

    fn code_clocks<C: Coder>(&mut self, coder: &mut C, logged: (Hlc, Hlc, u32)) -> (Hlc, Hlc, u32) {
        let clock = self.clock.code(coder, logged.0, self.last_clock);
        self.last_clock = clock;
        let first = if coder.bit(&mut self.first_is_last, logged.0 == logged.1) {
            clock
        } else {
            self.first.code(coder, logged.1, clock)
        };
        // Written as the difference to 1, around zero: 1, 0, 2, 3, …
        let count = unzigzag(self.logged.code_up_to(coder, zigzag(i64::from(logged.2) - 1), 33)) + 1;
        (clock, first, u32::try_from(count).unwrap_or(u32::MAX))
    }
}

/// How an old value travels.
const OLD_NONE: u8 = 0;
const OLD_NULL: u8 = 1;
/// As a difference to the new one, which is a number of the same class.
const OLD_NEAR: u8 = 2;
/// Among the values of its column.
const OLD_OTHER: u8 = 3;
const RELATIONS: u8 = 4;

/// Rows of a block: tables travel in blocks, so that neither end needs more memory than for one beside the pool. A block
/// with fewer rows is its table's last one.
pub(super) const BLOCK_ROWS: usize = 4096;

/// Writes a block of a table's rows. `columns` counts the key's too.
pub(super) fn write_block<R: Row>(out: &mut Out, models: &mut Rows, rows: &[R], key_len: usize, columns: usize) {
    models.count.code(&mut out.coder, rows.len() as u64);
    let _ = out.budget.take_many(rows.len(), ROW_BYTES);
    let mut last_op = 0;
    for row in rows {
        let op = OPS.iter().position(|op| *op == row.op()).unwrap_or(0) as u8;
        last_op = usize::from(models.op[last_op].code(&mut out.coder, op, 4));
    }
    if R::LOGGED {
        for row in rows {
            models.code_clocks(&mut out.coder, row.logged());
        }
    }
    for part in 0..key_len {
        let values: Vec<&Value> = rows.iter().filter_map(|row| row.key().0.get(part)).collect();
        let scale = column::scale_of(values.iter().copied());
        column::write(out, &values, scale, true);
    }
    let by_column = write_sets(out, models, rows, key_len, columns);
    let mut positions = vec![0u16; rows.len()];
    for members in by_column.iter().skip(key_len) {
        let fields: Vec<(Option<&Value>, &Value)> = members
            .iter()
            .filter_map(|row| {
                let position = positions.get_mut(*row as usize)?;
                *position += 1;
                rows.get(*row as usize)?.field(usize::from(*position) - 1)
            })
            .collect();
        if R::LOGGED {
            write_changes(out, models, &fields);
        } else {
            let values: Vec<&Value> = fields.iter().map(|(_, new)| *new).collect();
            let scale = column::scale_of(values.iter().copied());
            column::write(out, &values, scale, false);
        }
    }
}

/// Reads a block of a table's rows.
pub(super) fn read_block<R: Row>(
    input: &mut In<'_>,
    models: &mut Rows,
    key_len: usize,
    columns: usize,
    rows_left: &mut usize,
    rows_max: usize,
) -> Result<Vec<R>, WireError> {
    let count = usize::try_from(models.count.code(&mut input.coder, 0)).unwrap_or(usize::MAX);
    if count > BLOCK_ROWS {
        return Err(WireError::Damaged("a block has too many rows"));
    }
    *rows_left = rows_left.checked_sub(count).ok_or(WireError::Limit { what: "rows", most: rows_max })?;
    input.coder.check()?;
    input.budget.take_many(count, ROW_BYTES)?;
    let mut ops = Vec::with_capacity(count);
    let mut last_op = 0;
    for _ in 0..count {
        last_op = usize::from(models.op[last_op].code(&mut input.coder, 0, 4));
        ops.push(OPS[last_op]);
    }
    input.coder.check()?;
    let mut logged = Vec::new();
    if R::LOGGED {
        for _ in 0..count {
            logged.push(models.code_clocks(&mut input.coder, Default::default()));
            input.coder.check()?;
        }
    }
    let mut keys: Vec<Key> = Vec::new();
    if count > 0 {
        // An empty block's key may be anything, but no loop runs for a claimed number of parts.
        keys.resize(count, Key::default());
        for _ in 0..key_len {
            for (key, value) in keys.iter_mut().zip(column::read(input, count, true)?.0) {
                key.0.push(value);
            }
        }
    }
    let (sizes, by_column) = read_sets(input, models, count, key_len, columns)?;
    let mut rows: Vec<R> = Vec::with_capacity(count);
    for (at, (op, key)) in ops.into_iter().zip(keys).enumerate() {
        let logged = logged.get(at).copied().unwrap_or_default();
        rows.push(R::new(op, key, logged, sizes.get(at).copied().unwrap_or(0) as usize));
    }
    for (column, members) in by_column {
        if R::LOGGED {
            let fields = read_changes(input, models, members.len())?;
            for (row, (old, new)) in members.into_iter().zip(fields) {
                rows[row as usize].push(column, old, new);
            }
        } else {
            let (values, _) = column::read(input, members.len(), false)?;
            for (row, new) in members.into_iter().zip(values) {
                rows[row as usize].push(column, None, new);
            }
        }
    }
    Ok(rows)
}

/// Which columns each row has: sets repeat, so each is told once. Gives the rows of each column.
fn write_sets<R: Row>(out: &mut Out, models: &mut Rows, rows: &[R], key_len: usize, columns: usize) -> Vec<Vec<u32>> {
    let mut by_column: Vec<Vec<u32>> = vec![Vec::new(); columns];
    let mut index = Index::new();
    let mut known: QuickMap<Vec<u16>, usize> = QuickMap::default();
    let mut set = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        set.clear();
        set.extend(row.columns());
        for column in &set {
            if let Some(members) = by_column.get_mut(usize::from(*column)) {
                members.push(at as u32);
            }
        }
        let _ = out.budget.take_many(set.len(), VALUE_BYTES);
        let found = known.get(&set).copied();
        if index.code(&mut out.coder, found, known.len()).is_none() {
            let _ = out.budget.take(SET_BITS_MAX.max(2 * set.len()));
            if columns - key_len <= SET_BITS_MAX {
                code_bits(&mut out.coder, models, &set, key_len, columns);
            } else {
                models.set_size.code(&mut out.coder, set.len() as u64);
                code_gaps(&mut out.coder, &mut models.set_gap, &set, set.len(), key_len);
            }
            if known.len() < ENTRIES_MAX {
                known.insert(set.clone(), known.len());
            }
        }
    }
    by_column
}

/// For each row the number of its fields, and for each column that occurs its rows.
type Sets = (Vec<u32>, Vec<(u16, Vec<u32>)>);

fn read_sets(
    input: &mut In<'_>,
    models: &mut Rows,
    count: usize,
    key_len: usize,
    columns: usize,
) -> Result<Sets, WireError> {
    const WHY: WireError = WireError::Damaged("a change does not fit its table");
    let mut index = Index::new();
    let mut sets: Vec<Vec<u16>> = Vec::new();
    let mut sizes = Vec::with_capacity(count);
    let mut by_column: Vec<Vec<u32>> = vec![Vec::new(); if count > 0 { columns } else { 0 }];
    for row in 0..count {
        let known = index.code(&mut input.coder, None, sets.len());
        let mut fresh = Vec::new();
        if known.is_none() && columns.saturating_sub(key_len) <= SET_BITS_MAX {
            input.budget.take(SET_BITS_MAX)?;
            fresh = code_bits(&mut input.coder, models, &[], key_len, columns);
        } else if known.is_none() {
            let size = usize::try_from(models.set_size.code(&mut input.coder, 0)).unwrap_or(usize::MAX);
            input.coder.check()?;
            if size > columns.saturating_sub(key_len) {
                return Err(WHY);
            }
            input.budget.take_many(size, 2)?;
            fresh = code_gaps(&mut input.coder, &mut models.set_gap, &[], size, key_len);
            input.coder.check()?;
        }
        input.coder.check()?;
        let set = match known {
            Some(at) => sets.get(at).ok_or(WHY)?,
            None => &fresh,
        };
        // Ascending from the key on by construction; only the end can be wrong.
        if set.last().is_some_and(|column| usize::from(*column) >= columns) {
            return Err(WHY);
        }
        input.budget.take_many(set.len(), VALUE_BYTES)?;
        sizes.push(set.len() as u32);
        for column in set {
            if let Some(members) = by_column.get_mut(usize::from(*column)) {
                members.push(row as u32);
            }
        }
        if known.is_none() && sets.len() < ENTRIES_MAX {
            sets.push(fresh);
        }
    }
    let by_column = by_column.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
    Ok((sizes, by_column.map(|(column, rows)| (column as u16, rows)).collect()))
}

/// In tables of up to so many columns a set is a bit per column; in wider ones the gaps between its columns.
const SET_BITS_MAX: usize = 64;

/// A set of columns, a bit for each.
fn code_bits<C: Coder>(coder: &mut C, models: &mut Rows, set: &[u16], key_len: usize, columns: usize) -> Vec<u16> {
    let mut last = false;
    let mut wanted = set.iter().peekable();
    let mut found = Vec::new();
    for column in key_len as u16..columns as u16 {
        let member = wanted.next_if(|next| **next == column).is_some();
        last = coder.bit(&mut models.set_member[usize::from(last)], member);
        if last {
            found.push(column);
        }
    }
    found
}

/// A set of columns as the gaps between them.
fn code_gaps<C: Coder>(coder: &mut C, model: &mut Number, set: &[u16], size: usize, key_len: usize) -> Vec<u16> {
    let mut next = key_len as u64;
    (0..size)
        .map(|at| {
            let gap = set.get(at).map_or(0, |column| u64::from(*column).wrapping_sub(next));
            let column = next.saturating_add(model.code(coder, gap));
            next = column.saturating_add(1);
            // Too large for a table is too large for sixteen bits, or comes out as the largest of them, which is refused.
            u16::try_from(column).unwrap_or(u16::MAX)
        })
        .collect()
}

/// Writes a column's changes: how each old value travels, the new values with the other old ones behind them, differences.
fn write_changes(out: &mut Out, models: &mut Rows, fields: &[(Option<&Value>, &Value)]) {
    if fields.is_empty() {
        return;
    }
    let scale = column::scale_of(fields.iter().flat_map(|(old, new)| std::iter::once(*new).chain(*old)));
    let mut values: Vec<&Value> = fields.iter().map(|(_, new)| *new).collect();
    let mut relations = Vec::with_capacity(fields.len());
    let mut near = Vec::new();
    for (at, (old, new)) in fields.iter().enumerate() {
        relations.push(match old {
            None => OLD_NONE,
            Some(Value::Null) => OLD_NULL,
            Some(old) => {
                let (class, form) = classes::classify(old, scale);
                match form {
                    classes::Form::Number(number)
                        if classes::is_number(class) && classes::classify(new, scale).0 == class =>
                    {
                        near.push((at, number));
                        OLD_NEAR
                    }
                    _ => {
                        values.push(old);
                        OLD_OTHER
                    }
                }
            }
        });
    }
    code_relations(&mut out.coder, models, &mut relations);
    let done = column::write(out, &values, scale, false);
    let differences: Vec<i64> = near.into_iter().map(|(at, old)| done.numbers[at].wrapping_sub(old)).collect();
    let _ = out.budget.take_many(differences.len(), VALUE_BYTES);
    numbers::write(&mut out.coder, out.shared.differences(), &differences);
}

fn read_changes(input: &mut In<'_>, models: &mut Rows, count: usize) -> Result<Vec<(Option<Value>, Value)>, WireError> {
    const WHY: WireError = WireError::Damaged("an old value does not fit its new one");
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut relations = vec![0; count];
    code_relations(&mut input.coder, models, &mut relations);
    input.coder.check()?;
    let others = relations.iter().filter(|relation| **relation == OLD_OTHER).count();
    let near = relations.iter().filter(|relation| **relation == OLD_NEAR).count();
    let (mut values, done) = column::read(input, count + others, false)?;
    input.budget.take_many(near, VALUE_BYTES)?;
    let mut differences = numbers::read(&mut input.coder, input.shared.differences(), near)?.into_iter();
    let mut others = values.split_off(count).into_iter();
    let mut fields = Vec::with_capacity(count);
    for (at, new) in values.into_iter().enumerate() {
        let old = match relations[at] {
            OLD_NONE => None,
            OLD_NULL => Some(Value::Null),
            OLD_NEAR => {
                let class = done.classes[at];
                let number = done.numbers[at].wrapping_sub(differences.next().ok_or(WHY)?);
                let old = classes::value_of_number(class, number, done.scale).filter(|_| classes::is_number(class));
                Some(old.ok_or(WHY)?)
            }
            _ => Some(others.next().ok_or(WHY)?),
        };
        fields.push((old, new));
    }
    Ok(fields)
}

/// How each old value travels: the same for all rows of most columns.
fn code_relations<C: Coder>(coder: &mut C, models: &mut Rows, relations: &mut [u8]) {
    let first = relations.first().copied().unwrap_or(OLD_NONE);
    let mixed = relations.iter().any(|relation| *relation != first);
    let mixed = relations.len() > 1 && coder.bit(&mut models.mixed, mixed);
    let first = models.relation.code(coder, first, RELATIONS);
    if !mixed {
        relations.fill(first);
        return;
    }
    let mut by_last = [(); RELATIONS as usize].map(|()| Symbol::new());
    let mut last = first;
    for relation in relations {
        last = by_last[usize::from(last)].code(coder, *relation, RELATIONS);
        *relation = last;
    }
}
