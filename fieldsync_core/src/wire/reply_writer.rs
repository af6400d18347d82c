//! Writing a reply row by row, for those who do not want all of its rows in memory at once.
//!
//! What stands before the rows tells of them (the latest clock among them), so they have to be gathered first: packed, a
//! fraction of what they take as structures.
//!
//! Invariant: the blob is the same, byte for byte, as [`super::encode_reply_for`] makes of the whole.

use super::body;
use super::seal::{self, BlobKind};
use super::shape::{Shape, Shapes};
use super::table::BLOCK_ROWS;
use crate::enrolment::MacKey;
use crate::reply::{Reply, RowChange};

/// Rows of one table, kept small until they are written.
#[derive(Debug, Default)]
pub struct PackedRows {
    /// Blocks in postcard's form.
    packed: Vec<Vec<u8>>,
    open: Vec<RowChange>,
    rows: usize,
}

impl PackedRows {
    /// Adds a row.
    pub fn push(&mut self, row: RowChange) {
        self.rows += 1;
        self.open.push(row);
        if self.open.len() == BLOCK_ROWS {
            // Memory takes whatever a derived Serialize writes, and a derived Deserialize reads it again.
            self.packed.push(postcard::to_allocvec(&self.open).expect("rows can be packed"));
            self.open.clear();
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Block by block: whole ones, and a last one with fewer rows.
    fn blocks(self) -> impl Iterator<Item = Vec<RowChange>> {
        let packed =
            self.packed.into_iter().map(|block| postcard::from_bytes(&block).expect("packed rows can be read"));
        packed.chain(std::iter::once(self.open))
    }
}

/// A reply as a blob, of everything in `reply` but its tables, and of these tables. Tables whose shape the device is known
/// to know travel without their names.
pub fn encode_packed_reply(
    reply: &Reply,
    tables: Vec<(Shape, PackedRows)>,
    key: Option<&MacKey>,
    known: &Shapes,
) -> Vec<u8> {
    let now_ms = seal::fitting_ms(reply.hub_now_ms);
    let mut writer = body::begin_reply(&reply.body, now_ms, known);
    for (shape, rows) in tables {
        writer.table(&shape, true);
        for block in rows.blocks() {
            writer.block(&shape, &block);
        }
    }
    let body = writer.finish_reply();
    seal::seal(BlobKind::Reply, reply.client, reply.history, now_ms, &body, key).0
}
