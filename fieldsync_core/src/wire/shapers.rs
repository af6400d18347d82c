//! How a table says what it looks like: by the tag of a shape that both ends know, or by its names.

use super::error::WireError;
use super::model::{Number, Symbol};
use super::parts::{In, Out};
use super::range::{Bit, Coder};
use super::shape::{Shape, Shapes};
use super::table::Row;
use crate::limits::Limits;
use crate::value::Kind;

/// Models of what tables look like.
pub(super) struct Shapers {
    known: Bit,
    columns: Number,
    key_len: Number,
    kind: Symbol,
    sum: Bit,
}

impl Shapers {
    pub(super) fn new() -> Shapers {
        Shapers {
            known: Bit::expecting_false(64),
            columns: Number::modest(),
            key_len: Number::small(),
            kind: Symbol::new(),
            sum: Bit::expecting_false(240),
        }
    }

    pub(super) fn write(&mut self, out: &mut Out, shape: &Shape, shapes: &Shapes, of_reply: bool) {
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
                let kind = shape.kinds.get(at).and_then(|kind| Kind::ALL.iter().position(|known| known == kind));
                self.kind.code(&mut out.coder, kind.unwrap_or(0) as u8, Kind::ALL.len() as u8);
                out.coder.bit(&mut self.sum, shape.sums.contains(&(at as u16)));
            }
        }
    }

    pub(super) fn read(
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
                shape.kinds.push(Kind::ALL[usize::from(self.kind.code(&mut input.coder, 0, Kind::ALL.len() as u8))]);
                if input.coder.bit(&mut self.sum, false) {
                    shape.sums.push(at as u16);
                }
            }
        }
        fitting(shape, limits, of_reply)
    }
}

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
pub(super) fn assert_fits<R: Row>(shape: &Shape, rows: &[R]) {
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
