//! Where the rows of an apply come from: those kept from earlier, then those of the reply, block by block.
//!
//! Invariant: every time they are gone through, the same rows come in the same places, so that a place names a row.

use super::kept;
use super::pass::Place;
use crate::conflicts::uuid_text;
use crate::error::Result;
use fieldsync_core::delta::Op;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::value::Kind;
use fieldsync_core::wire::{ReplyStream, Shapes};
use fieldsync_core::{Key, Value};
use std::collections::{HashMap, HashSet};

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
    (table.table.to_ascii_lowercase(), key.row_id())
}

/// Puts the values of a later update into a row that waits, where it has older ones.
fn renew(kept: &mut RowChange, head: &TableRows, later: &RowChange, block: &TableRows) {
    for (at, value) in &mut kept.fields {
        let Some(name) = head.columns.get(usize::from(*at)) else { continue };
        let newer = later.fields.iter().find(|(later, _)| block.columns.get(usize::from(*later)) == Some(name));
        if let Some((_, newer)) = newer {
            *value = newer.clone();
        }
    }
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
    blob: Option<Blob<'b>>,
    /// The reply as it was opened first: expanding its texts is worth doing once.
    opened: Option<Opened<'b>>,
}

/// A reply whose first block has been read.
struct Opened<'b> {
    stream: ReplyStream<'b>,
    first: Option<(TableRows, bool)>,
}

impl<'b> Source<'b> {
    /// Only rows that were kept.
    pub fn of_kept(kept: Vec<TableRows>) -> Source<'b> {
        Source { kept, blob: None, opened: None }
    }

    /// Kept rows, then those of a reply; `stream` is the reply, opened.
    pub fn new(kept: Vec<TableRows>, blob: Blob<'b>, mut stream: ReplyStream<'b>) -> Result<Source<'b>> {
        room_for_a_block()?;
        let first = stream.next_block()?;
        Ok(Source { kept, blob: Some(blob), opened: Some(Opened { stream, first }) })
    }

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
        let Opened { mut stream, first } = match (self.opened.take(), &self.blob) {
            (Some(opened), _) => opened,
            (None, Some(blob)) => {
                let mut stream = blob.open()?;
                let first = stream.next_block()?;
                Opened { stream, first }
            }
            (None, None) => return Ok(()),
        };
        let mut next = first;
        while let Some((mut block, continues)) = next {
            number += usize::from(!continues);
            let mut rows = std::mem::take(&mut block.rows);
            visit(number - 1, &block, !continues, &mut rows)?;
            drop(rows);
            room_for_a_block()?;
            next = stream.next_block()?;
        }
        Ok(())
    }

    /// Kept rows that the reply brings anew, whole, or deletes: what was kept is older, and counts no more. So are single values of
    /// which it brings newer ones: the row may go on waiting while those are written, and must not take them back when it comes.
    pub fn forget_superseded(&mut self) -> Result<()> {
        let Some(blob) = self.blob.as_ref().filter(|_| !self.kept.is_empty()) else { return Ok(()) };
        let heads: Vec<TableRows> = self.kept.iter().map(kept::head).collect();
        let mut waiting: HashMap<(String, String), Vec<Place>> = HashMap::new();
        for (number, (table, head)) in self.kept.iter().zip(&heads).enumerate() {
            for (at, row) in table.rows.iter().enumerate() {
                waiting.entry(spelled(head, &row.key)).or_default().push((number, at));
            }
        }
        let mut superseded: HashSet<Place> = HashSet::new();
        let mut stream = blob.open()?;
        while let Some((block, _)) = stream.next_block()? {
            for row in &block.rows {
                for place in waiting.get(&spelled(&block, &row.key)).into_iter().flatten() {
                    if row.op == Op::Update {
                        let (number, at) = *place;
                        renew(&mut self.kept[number].rows[at], &heads[number], row, &block);
                    } else {
                        superseded.insert(*place);
                    }
                }
            }
        }
        for (number, table) in self.kept.iter_mut().enumerate() {
            let mut at = 0;
            table.rows.retain(|_| {
                at += 1;
                !superseded.contains(&(number, at - 1))
            });
        }
        self.kept.retain(|table| !table.rows.is_empty());
        Ok(())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.opened.as_ref().is_none_or(|opened| opened.first.is_none())
    }

    /// The tables' names, lower case.
    pub fn names(&mut self) -> Result<HashSet<String>> {
        let mut names = HashSet::new();
        self.each(|_, table, first, _| {
            if first {
                names.insert(table.table.to_ascii_lowercase());
            }
            Ok(())
        })?;
        Ok(names)
    }
}
