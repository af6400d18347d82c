//! Writing a delta change by change, for those who do not want all of its changes in memory at once.
//!
//! Invariant: the blob is the same, byte for byte, as [`super::encode_delta_for`] makes of the whole.

use super::body;
use super::seal::{self, BlobKind};
use super::shape::{Shape, Shapes};
use super::table::BLOCK_ROWS;
use super::tables::TablesWriter;
use crate::clock::Hlc;
use crate::delta::{BatchId, Change, ClientTag, Delta, HistoryTag};
use crate::enrolment::MacKey;

/// A delta on its way out.
pub struct DeltaWriter<'k> {
    client: ClientTag,
    history: HistoryTag,
    now_ms: u64,
    tables: TablesWriter<'k>,
    open: Option<Shape>,
    block: Vec<Change>,
    latest: Hlc,
    any: bool,
}

impl<'k> DeltaWriter<'k> {
    /// Begins with everything but the tables and `high` of `delta`, which are not looked at. Tables whose shape is among
    /// `known` travel without their names.
    pub fn begin(delta: &Delta, known: &'k Shapes) -> DeltaWriter<'k> {
        let now_ms = seal::fitting_ms(delta.device_now_ms);
        DeltaWriter {
            client: delta.client,
            history: delta.history,
            now_ms,
            tables: body::begin_delta(&delta.body, now_ms, known),
            open: None,
            block: Vec::new(),
            latest: delta.body.watermark,
            any: false,
        }
    }

    /// Begins a table; the one before has ended.
    pub fn table(&mut self, shape: Shape) {
        self.end_table();
        self.tables.table(&shape, false);
        self.open = Some(shape);
    }

    /// A change of the table begun last. They come in the order of their clocks.
    pub fn change(&mut self, change: Change) {
        self.latest = if self.any { self.latest.max(change.clock) } else { change.clock };
        self.any = true;
        self.block.push(change);
        if self.block.len() == BLOCK_ROWS {
            self.write_block();
        }
    }

    fn write_block(&mut self) {
        if let Some(shape) = &self.open {
            self.tables.block(shape, &self.block);
        }
        self.block.clear();
    }

    fn end_table(&mut self) {
        if self.open.is_some() {
            self.write_block(); // with fewer rows than a whole block, perhaps none: the table's last
            self.open = None;
        }
    }

    /// The blob, and the identity of the batch that it is. Everything up to `high` is in it.
    pub fn finish(mut self, high: Hlc, key: Option<&MacKey>) -> (Vec<u8>, BatchId) {
        self.end_table();
        let body = self.tables.finish_delta(high, self.latest);
        seal::seal(BlobKind::Delta, self.client, self.history, self.now_ms, &body, key)
    }
}
