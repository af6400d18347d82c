//! The change feed: which keys a transaction touched, in an append-only table beside the user's tables.
//!
//! Invariants:
//! * Every key that a committed transaction changed is in the feed under that transaction's id. The row trigger puts keys
//!   into this buffer; the buffer is written before the transaction commits or prepares, and before a pull reads.
//! * An entry says "look at this key" and no more. Keys of rolled back subtransactions may remain, at no harm: what is true
//!   is in the row, or in its absence and tombstone.
//! * A key is never lost with a subtransaction that is not its own: below the top level only keys that were noted in that
//!   very subtransaction are written early.
//! * An entry without keys says: look at the whole table.
//! * Keys of rows that stand exactly as a device has just sent them wait apart ([`note_as_sent`]) until the transaction ends:
//!   other devices must look at them, the answer to that device need not.
//! * A device's cursor calls the transaction that answered it seen. What that transaction writes *after* the answer is put
//!   on record ([`answered`]), and the device's next pull looks at the transaction again.

use crate::catch::SqlError;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys of one table, each with the subtransaction that noted it first.
type Keys = HashMap<Box<[u8]>, pg_sys::SubTransactionId, BuildHasherDefault<Xxh3>>;

/// xxh3 over the key's bytes: the buffer is private to a backend, and a transaction that floods it slows only itself.
#[derive(Default)]
pub struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }
    fn write_usize(&mut self, number: usize) {
        self.0 ^= number as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Buffer {
    tables: Vec<(i32, Keys)>,
    bytes: usize,
    /// Packed keys of rows that are as they were sent, in chunks of a feed row each.
    as_sent: Vec<(i32, Vec<u8>)>,
    as_sent_bytes: usize,
}

impl Buffer {
    /// Notes some keys in a row as noted by no subtransaction: their numbers begin with 1.
    fn keep_for_outermost(&mut self, table_id: i32, chunk: Vec<u8>) {
        self.bytes += chunk.len() + 32;
        let place = self.tables.iter().position(|(id, _)| *id == table_id).unwrap_or_else(|| {
            self.tables.push((table_id, Keys::default()));
            self.tables.len() - 1
        });
        self.tables[place].1.insert(chunk.into(), 0);
    }
}

/// Bytes of keys per feed row: large enough to be few rows, small enough to stay out of TOAST.
const CHUNK_BYTES: usize = 1900;
/// Bytes of buffered keys from which they are written early.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of keys that wait apart.
const AS_SENT_BYTES_MAX: usize = 16 * 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::new(Buffer::default());
    /// Clients that this transaction has answered, each with the batch, and whether it has written since.
    static ANSWERED: RefCell<Vec<(u32, u64, bool)>> = const { RefCell::new(Vec::new()) };
    static HAS_ANSWERED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whoever has been answered misses what comes now.
pub fn note_lateness() {
    if HAS_ANSWERED.get() {
        ANSWERED.with_borrow_mut(|answered| answered.iter_mut().for_each(|(_, _, late)| *late = true));
    }
}

/// Notes a changed key. Writes early when much has been noted.
pub fn note(table_id: i32, key: &[u8]) {
    note_lateness();
    let full = BUFFER.with_borrow_mut(|buffer| {
        let keys = match buffer.tables.iter().position(|(id, _)| *id == table_id) {
            Some(at) => &mut buffer.tables[at].1,
            None => {
                buffer.tables.push((table_id, Keys::default()));
                &mut buffer.tables.last_mut().expect("just pushed").1
            }
        };
        if !keys.contains_key(key) {
            // SAFETY: reads the current subtransaction's number.
            keys.insert(key.into(), unsafe { pg_sys::GetCurrentSubTransactionId() });
            buffer.bytes += key.len() + 32;
        }
        buffer.bytes > BUFFER_BYTES_MAX
    });
    if full {
        write(true);
    }
}

/// Notes the packed key of a new row that stands exactly as its device sent it. Beyond some megabytes it is noted like any
/// other: then the device's own pull looks at it in vain.
pub fn note_as_sent(table_id: i32, key: &[u8]) {
    note_lateness();
    let noted = BUFFER.with_borrow_mut(|buffer| {
        if buffer.as_sent_bytes + key.len() > AS_SENT_BYTES_MAX {
            return false;
        }
        buffer.as_sent_bytes += key.len();
        match buffer.as_sent.last_mut() {
            Some((table, chunk)) if *table == table_id && chunk.len() + key.len() <= CHUNK_BYTES => {
                chunk.extend_from_slice(key);
            }
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES.max(key.len()));
                chunk.extend_from_slice(key);
                buffer.as_sent.push((table_id, chunk));
            }
        }
        true
    });
    if !noted {
        note(table_id, key);
    }
}

/// What had been noted before a part of the transaction that may be rolled back.
pub struct Earlier(Buffer);

/// Puts what has been noted aside.
pub fn set_aside() -> Earlier {
    Earlier(BUFFER.with_borrow_mut(std::mem::take))
}

impl Earlier {
    /// That part was rolled back: what it noted is forgotten.
    pub fn instead(self) {
        BUFFER.with_borrow_mut(|buffer| *buffer = self.0);
    }

    /// That part stands: what it noted comes on top.
    pub fn and(self) {
        BUFFER.with_borrow_mut(|buffer| {
            let later = std::mem::replace(buffer, self.0);
            buffer.bytes += later.bytes;
            buffer.as_sent_bytes += later.as_sent_bytes;
            buffer.as_sent.extend(later.as_sent);
            for (table_id, keys) in later.tables {
                match buffer.tables.iter_mut().find(|(id, _)| *id == table_id) {
                    // The earlier note stands: it is of the outer level.
                    Some((_, known)) => keys.into_iter().for_each(|(key, noted_in)| {
                        known.entry(key).or_insert(noted_in);
                    }),
                    None => buffer.tables.push((table_id, keys)),
                }
            }
        });
    }
}

/// Notes that a client has been given this transaction's state as its cursor.
pub fn answered(client: u32, batch: u64) {
    ANSWERED.with_borrow_mut(|answered| answered.push((client, batch, false)));
    HAS_ANSWERED.set(true);
}

/// This transaction's version, and the batches of a client after whose answers it has gone on writing.
pub fn late_in_this_transaction(client: u32) -> (u64, Vec<u64>) {
    let late = ANSWERED.with_borrow(|answered| {
        answered.iter().filter(|(number, _, late)| *number == client && *late).map(|(_, batch, _)| *batch).collect()
    });
    (own_version(), late)
}

/// Puts on record which clients have missed something of this transaction.
fn write_late() {
    let late: Vec<(u32, u64)> = ANSWERED.with_borrow_mut(|answered| {
        let late = answered.iter().filter(|(_, _, late)| *late).map(|(client, batch, _)| (*client, *batch)).collect();
        answered.retain(|(_, _, late)| !late);
        late
    });
    if late.is_empty() {
        return;
    }
    let mut writer = Writer::open(c"late_write");
    for (client, batch) in late {
        let version = writer.version;
        writer.insert(&mut [
            pg_sys::Datum::from(client as i32),
            pg_sys::Datum::from(version),
            pg_sys::Datum::from(batch as i64),
        ]);
    }
}

/// Writes an entry that stands for every row of a table.
pub fn note_whole_table(table_id: i32) {
    note_lateness();
    let mut writer = Writer::open(c"feed");
    writer.append(table_id, &[]);
}

/// Writes what has been noted. Called before a commit, before a prepare, and before the feed is read.
pub fn flush() {
    write(false);
}

/// Writes the keys that wait apart: at the transaction's end, and before another delta of the same transaction is answered.
pub fn write_as_sent() {
    let chunks = BUFFER.with_borrow_mut(|buffer| {
        buffer.as_sent_bytes = 0;
        std::mem::take(&mut buffer.as_sent)
    });
    if chunks.is_empty() {
        return;
    }
    // SAFETY: reads the transaction state.
    if unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 } {
        // What is written here goes if this subtransaction does, and these rows may be of an outer one.
        BUFFER.with_borrow_mut(|buffer| {
            chunks.into_iter().for_each(|(table, chunk)| buffer.keep_for_outermost(table, chunk))
        });
        return;
    }
    let mut writer = Writer::open(c"feed");
    for (table_id, chunk) in &chunks {
        writer.append(*table_id, chunk);
    }
}

/// Forgets what has been noted: the transaction is over.
pub fn clear() {
    BUFFER.with_borrow_mut(|buffer| *buffer = Buffer::default());
    ANSWERED.with_borrow_mut(Vec::clear);
    HAS_ANSWERED.set(false);
}

fn write(early: bool) {
    if BUFFER.with_borrow(|buffer| buffer.tables.is_empty()) {
        return;
    }
    // SAFETY: both read the transaction state.
    let own = unsafe { (pg_sys::GetCurrentTransactionNestLevel() > 1).then(|| pg_sys::GetCurrentSubTransactionId()) };
    let mut taken = BUFFER.with_borrow_mut(std::mem::take);
    let mut kept =
        Buffer { as_sent: std::mem::take(&mut taken.as_sent), as_sent_bytes: taken.as_sent_bytes, ..Buffer::default() };
    let mut writer = Writer::open(c"feed");
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + 64);
    for (table_id, keys) in taken.tables.drain(..) {
        let mut remaining = Keys::default();
        for (key, noted_in) in keys {
            // In a subtransaction all keys must be written for a reader's sake, but those of outer levels must also stay:
            // what is written here goes if this subtransaction does.
            let stays = own.is_some_and(|own| own != noted_in);
            if !(early && stays) && key.is_empty() {
                // A row of a table that has no key right now: it may be any of them.
                writer.append(table_id, &[]);
            } else if !(early && stays) {
                if chunk.len() + key.len() > CHUNK_BYTES && !chunk.is_empty() {
                    writer.append(table_id, &chunk);
                    chunk.clear();
                }
                chunk.extend_from_slice(&key);
            }
            if stays {
                kept.bytes += key.len() + 32;
                remaining.insert(key, noted_in);
            }
        }
        if !chunk.is_empty() {
            writer.append(table_id, &chunk);
            chunk.clear();
        }
        if !remaining.is_empty() {
            kept.tables.push((table_id, remaining));
        }
    }
    drop(writer);
    BUFFER.with_borrow_mut(|buffer| *buffer = kept);
}

/// Inserts feed rows directly into the heap and its index: no plan, no executor, and no privileges of whoever wrote.
struct Writer {
    relation: pg_sys::Relation,
    indexes: pg_sys::CatalogIndexState,
    version: i64,
}

impl Writer {
    fn open(table: &std::ffi::CStr) -> Writer {
        // SAFETY: opens the extension's own table; closed by Drop, or by the abort if something is raised. Looked up by name
        // each time (a cache lookup), because DROP and CREATE EXTENSION give it another OID.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"fieldsync".as_ptr(), false);
            let oid = pg_sys::get_relname_relid(table.as_ptr(), schema);
            let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
            let indexes = pg_sys::CatalogOpenIndexes(relation);
            let version = own_version() as i64;
            Writer { relation, indexes, version }
        }
    }

    fn append(&mut self, table_id: i32, keys: &[u8]) {
        let packed = pgrx::varlena::rust_byte_slice_to_bytea(keys);
        let version = self.version;
        // SAFETY: reads the transaction's start.
        let now = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
        self.insert(&mut [
            pg_sys::Datum::from(version),
            pg_sys::Datum::from(table_id),
            pg_sys::Datum::from(packed.into_pg()),
            pg_sys::Datum::from(now),
        ]);
    }

    /// Inserts a row without NULLs; the values must be those of the table's columns.
    fn insert(&mut self, values: &mut [pg_sys::Datum]) {
        let mut nulls = vec![false; values.len()];
        // SAFETY: as many values as columns, each of its column's type; the tuple is copied by the insert.
        unsafe {
            debug_assert_eq!((*(*self.relation).rd_att).natts as usize, values.len());
            let tuple = pg_sys::heap_form_tuple((*self.relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsertWithInfo(self.relation, tuple, self.indexes);
            pg_sys::heap_freetuple(tuple);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // While a panic unwinds the (sub)transaction is lost, and its abort closes what is open.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: closes what `open` opened.
        unsafe {
            pg_sys::CatalogCloseIndexes(self.indexes);
            pg_sys::table_close(self.relation, pg_sys::RowExclusiveLock as i32);
        }
    }
}

/// This transaction's id, as stored in versions.
pub fn own_version() -> u64 {
    // SAFETY: assigns an id if there is none yet; raises on a standby, where nothing is written anyway.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// What happens to the buffer at a transaction's end.
///
/// # Safety
/// Called by Postgres as a transaction callback.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            flush();
            write_as_sent();
            write_late();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_ABORT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            clear();
            crate::applying::forget();
            crate::marked::forget();
        }
        _ => {}
    }
}

/// Raised when the feed holds bytes that are no keys.
pub fn damaged() -> SqlError {
    SqlError::new("XX001", "fieldsync.feed holds an entry that cannot be read")
}
