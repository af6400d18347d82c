//! Where the rows of an apply come from: those kept from earlier, then those of the reply, block by block.
//!
//! Invariant: every time they are gone through, the same rows come in the same places, so that a place names a row.

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

/// Puts the fields of an update over those of a kept row.
fn put_over(kept: &mut TableRows, at: usize, table: &TableRows, update: &RowChange) {
    if kept.rows[at].op == Op::Delete {
        return;
    }
    for (column, value) in &update.fields {
        let (Some(name), Some(kind)) = (table.columns.get(usize::from(*column)), table.kinds.get(usize::from(*column)))
        else {
            continue;
        };
        let place = kept.columns.iter().position(|known| known == name).unwrap_or_else(|| {
            kept.columns.push(name.clone());
            kept.kinds.push(*kind);
            kept.columns.len() - 1
        });
        let fields = &mut kept.rows[at].fields;
        let place = place as u16;
        match fields.binary_search_by_key(&place, |(column, _)| *column) {
            Ok(found) => fields[found].1.clone_from(value),
            Err(before) => fields.insert(before, (place, value.clone())),
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

    /// Kept rows as the reply leaves them. What it brings anew, whole, or deletes, counts no more. Fields that it brings go over those
    /// that were kept: a row that has to be kept on would otherwise go over them when its time comes, where the row itself is here
    /// already (without its parent) and has them.
    pub fn bring_kept_up_to_date(&mut self) -> Result<()> {
        let Some(blob) = self.blob.as_ref().filter(|_| !self.kept.is_empty()) else { return Ok(()) };
        let mut waiting: HashMap<(String, String), Vec<(usize, usize)>> = HashMap::new();
        for (number, table) in self.kept.iter().enumerate() {
            for (at, row) in table.rows.iter().enumerate() {
                waiting.entry(spelled(table, &row.key)).or_default().push((number, at));
            }
        }
        let mut superseded: HashSet<(usize, usize)> = HashSet::new();
        let mut stream = blob.open()?;
        while let Some((block, _)) = stream.next_block()? {
            for row in &block.rows {
                let Some(places) = waiting.get(&spelled(&block, &row.key)) else { continue };
                if row.op == Op::Update {
                    places.iter().for_each(|(number, at)| put_over(&mut self.kept[*number], *at, &block, row));
                } else {
                    superseded.extend(places);
                }
            }
        }
        for (number, table) in self.kept.iter_mut().enumerate() {
            let mut places = 0..;
            table.rows.retain(|_| !superseded.contains(&(number, places.next().unwrap_or_default())));
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
