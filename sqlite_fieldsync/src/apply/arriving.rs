//! Where the rows of an apply come from: those kept from earlier, then those of the reply, block by block.
//!
//! Invariant: every time they are gone through, the same rows come in the same places, so that a place names a row.

use super::kept;
use crate::conflicts::uuid_text;
use crate::error::Result;
use fieldsync_core::delta::Op;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::value::Kind;
use fieldsync_core::wire::{ReplyStream, Shapes};
use fieldsync_core::{Key, Value};
use std::collections::HashSet;

/// A reply that can be read from its beginning.
pub struct Blob<'b> {
    /// As it travelled.
    pub bytes: &'b [u8],
    /// The key under it.
    pub key: Option<&'b MacKey>,
    /// The shapes that the hub may leave out the names of.
    pub known: &'b Shapes,
}

impl<'b> Blob<'b> {
    /// Begins to read.
    pub fn open(&self) -> Result<ReplyStream<'b>> {
        room_for_a_block()?;
        Ok(ReplyStream::open(self.bytes, self.key, &Limits::default(), self.known)?)
    }
}

/// A row's name: table and key, a uuid always as text (as it was kept, it may have been fitted to a column of text).
fn spelled(table: &TableRows, key: &Key) -> (String, String) {
    let mut key = key.clone();
    for (part, kind) in key.0.iter_mut().zip(&table.kinds) {
        if let (Value::Blob(bytes), Kind::Uuid) = (&*part, kind) {
            *part = Value::Text(uuid_text(bytes));
        }
    }
    (table.table.to_lowercase(), key.row_id())
}

/// Address space that has to be free before a block is read.
const ROOM_BYTES: usize = 32 << 20;

/// An error if memory is short. A block is many small allocations, and where one of these fails the process ends; one large one
/// can be asked for, and given back. (Where the system promises more memory than it has, nothing fails here.)
fn room_for_a_block() -> Result<()> {
    let mut room: Vec<u8> = Vec::new();
    room.try_reserve_exact(ROOM_BYTES).map_err(|_| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOMEM);
        let text = "there is not enough memory to read the reply; nothing was changed";
        rusqlite::Error::SqliteFailure(code, Some(text.into()))
    })?;
    // The compiler must not find out that it is not used.
    std::hint::black_box(&room);
    Ok(())
}

/// All rows of an apply, parents first.
pub struct Source<'b> {
    /// Rows kept from earlier.
    pub kept: Vec<TableRows>,
    /// The reply.
    pub blob: Option<Blob<'b>>,
}

impl Source<'_> {
    /// Gives every block of rows: its table's number in this apply, the table without its rows, whether this is the first
    /// block of the table, and the rows.
    pub fn each(
        &mut self,
        mut visit: impl FnMut(usize, &TableRows, bool, &mut [RowChange]) -> Result<()>,
    ) -> Result<()> {
        let mut number = 0;
        for table in &mut self.kept {
            let mut rows = std::mem::take(&mut table.rows);
            let done = visit(number, table, true, &mut rows);
            table.rows = rows;
            done?;
            number += 1;
        }
        let Some(blob) = &self.blob else { return Ok(()) };
        let mut stream = blob.open()?;
        loop {
            room_for_a_block()?;
            let Some((mut block, continues)) = stream.next_block()? else { break };
            number += usize::from(!continues);
            let mut rows = std::mem::take(&mut block.rows);
            visit(number - 1, &block, !continues, &mut rows)?;
        }
        Ok(())
    }

    /// Kept rows that the reply brings anew, whole, or deletes: what was kept is older, and counts no more.
    pub fn forget_superseded(&mut self) -> Result<()> {
        let Some(blob) = self.blob.as_ref().filter(|_| !self.kept.is_empty()) else { return Ok(()) };
        let mut superseded = HashSet::new();
        let mut stream = blob.open()?;
        while let Some((block, _)) = stream.next_block()? {
            for row in block.rows.iter().filter(|row| row.op != Op::Update) {
                superseded.insert(spelled(&block, &row.key));
            }
        }
        for table in &mut self.kept {
            let head = kept::head(table);
            table.rows.retain(|row| !superseded.contains(&spelled(&head, &row.key)));
        }
        self.kept.retain(|table| !table.rows.is_empty());
        Ok(())
    }

    /// Whether there is nothing.
    pub fn is_empty(&mut self) -> Result<bool> {
        let mut empty = true;
        if self.kept.is_empty() {
            if let Some(blob) = &self.blob {
                empty = blob.open()?.next_block()?.is_none();
            }
        } else {
            empty = false;
        }
        Ok(empty)
    }

    /// The tables' names, lower case.
    pub fn names(&mut self) -> Result<HashSet<String>> {
        let mut names = HashSet::new();
        self.each(|_, table, first, _| {
            if first {
                names.insert(table.table.to_lowercase());
            }
            Ok(())
        })?;
        Ok(names)
    }
}
