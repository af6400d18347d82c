//! The tables of a body, block by block: on their way out and in.

use super::error::WireError;
use super::front::Front;
use super::packing::{pack, Packed};
use super::parts::{In, Out};
use super::range::Coder;
use super::shape::{Shape, Shapes};
use super::shapers::{assert_fits, Shapers};
use super::table::{self, Row, Rows};
use crate::clock::Hlc;
use crate::limits::Limits;

/// A body's tables on their way out, block by block.
pub(super) struct TablesWriter<'k> {
    out: Out,
    front: Front,
    rows: Rows,
    shapers: Shapers,
    known: &'k Shapes,
}

impl<'k> TablesWriter<'k> {
    pub(super) fn new(out: Out, front: Front, now: Hlc, known: &'k Shapes) -> TablesWriter<'k> {
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
    pub(super) fn blocks<R: Row>(&mut self, shape: &Shape, rows: &[R]) {
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

    pub(super) fn finish_reply(mut self) -> Packed {
        self.out.coder.bit(&mut self.front.table, false);
        pack(self.out)
    }
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
    pub(super) fn new(input: In<'a>, front: Front, now: Hlc, known: &'a Shapes, limits: &Limits) -> Tables<'a> {
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
