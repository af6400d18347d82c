//! Reading a blob block by block, for those who do not want all of its rows in memory at once.
//!
//! Invariant: header, MAC (or checksum) and what stands before the tables have been checked when `open` returns; what
//! comes after the last block only when `next_block` has given `None`. Whoever writes rows before that does so in a transaction.

use super::body;
use super::error::WireError;
use super::seal::{self, BlobKind};
use super::shape::Shapes;
use super::tables::Tables;
use crate::clock::Hlc;
use crate::delta::{Change, Delta, TableChanges};
use crate::enrolment::MacKey;
use crate::limits::Limits;
use crate::reply::{Reply, RowChange, TableRows};

/// A delta, block by block.
pub struct DeltaStream<'a> {
    /// Everything but its tables. `high` is right once `next_block` has given `None`.
    pub delta: Delta,
    tables: Tables<'a>,
    latest: Option<Hlc>,
    ended: bool,
}

impl<'a> DeltaStream<'a> {
    /// Checks a blob and reads what is before its tables.
    pub fn open(
        blob: &'a [u8],
        key: Option<&MacKey>,
        limits: &Limits,
        known: &'a Shapes,
    ) -> Result<DeltaStream<'a>, WireError> {
        let (header, bytes) = seal::open(blob, BlobKind::Delta, key, limits)?;
        let (body, tables) = body::read_delta(bytes, &header, known, limits)?;
        let delta = Delta { client: header.client, history: header.history, device_now_ms: header.now_ms, body };
        Ok(DeltaStream { delta, tables, latest: None, ended: false })
    }

    /// The next block of a table's changes, and whether it continues the table of the block before.
    pub fn next_block(&mut self) -> Result<Option<(TableChanges, bool)>, WireError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.tables.next::<Change>(false)? else {
            self.delta.body.high = self.tables.high(self.latest.unwrap_or(self.delta.body.watermark));
            self.tables.finish()?;
            self.ended = true;
            return Ok(None);
        };
        self.latest = self.latest.max(block.rows.iter().map(|change| change.clock).max());
        let shape = block.shape;
        let table =
            TableChanges { table: shape.table, columns: shape.columns, key_len: shape.key_len, changes: block.rows };
        Ok(Some((table, block.continues)))
    }
}

/// A reply, block by block.
pub struct ReplyStream<'a> {
    /// Everything but its tables.
    pub reply: Reply,
    tables: Tables<'a>,
    ended: bool,
}

impl<'a> ReplyStream<'a> {
    /// Checks a blob and reads what is before its tables.
    pub fn open(
        blob: &'a [u8],
        key: Option<&MacKey>,
        limits: &Limits,
        known: &'a Shapes,
    ) -> Result<ReplyStream<'a>, WireError> {
        let (header, bytes) = seal::open(blob, BlobKind::Reply, key, limits)?;
        let (body, tables) = body::read_reply(bytes, &header, known, limits)?;
        let reply = Reply { client: header.client, history: header.history, hub_now_ms: header.now_ms, body };
        Ok(ReplyStream { reply, tables, ended: false })
    }

    /// The next block of a table's rows, and whether it continues the table of the block before.
    pub fn next_block(&mut self) -> Result<Option<(TableRows, bool)>, WireError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.tables.next::<RowChange>(true)? else {
            self.tables.finish()?;
            self.ended = true;
            return Ok(None);
        };
        let shape = block.shape;
        let table = TableRows {
            table: shape.table,
            columns: shape.columns,
            kinds: shape.kinds,
            key_len: shape.key_len,
            sums: shape.sums,
            rows: block.rows,
        };
        Ok(Some((table, block.continues)))
    }
}
