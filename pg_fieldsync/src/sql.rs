//! Statements through SPI, with errors as values and results as wire values.
//!
//! Plans are prepared once per backend and kept by their text. Statements over arrays always get a plan for their
//! actual array lengths ([`Plan::Custom`]): a generic plan guesses ten elements.

use crate::catch::{catch, SqlError};
use crate::types::Decoder;
use fieldsync_core::Value;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_long, CString};

mod raw {
    //! Unguarded, for [`catch`]: pgrx's own bindings would panic first and lose parts of the error.
    use super::*;
    unsafe extern "C-unwind" {
        pub fn SPI_connect() -> c_int;
        pub fn SPI_finish() -> c_int;
        pub fn SPI_prepare_cursor(
            src: *const c_char,
            nargs: c_int,
            argtypes: *mut pg_sys::Oid,
            options: c_int,
        ) -> pg_sys::SPIPlanPtr;
        pub fn SPI_keepplan(plan: pg_sys::SPIPlanPtr) -> c_int;
        pub fn SPI_execute_plan(
            plan: pg_sys::SPIPlanPtr,
            values: *mut pg_sys::Datum,
            nulls: *const c_char,
            read_only: bool,
            tcount: c_long,
        ) -> c_int;
        pub fn SPI_cursor_open(
            name: *const c_char,
            plan: pg_sys::SPIPlanPtr,
            values: *mut pg_sys::Datum,
            nulls: *const c_char,
            read_only: bool,
        ) -> pg_sys::Portal;
        pub fn SPI_cursor_fetch(portal: pg_sys::Portal, forward: bool, count: c_long);
        pub fn SPI_cursor_close(portal: pg_sys::Portal);
    }
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub enum Param<'a> {
    /// bool
    Bool(bool),
    /// bigint
    Int(i64),
    /// text
    Text(&'a str),
    /// text, or NULL
    MaybeText(Option<&'a str>),
    /// bytea
    Bytes(&'a [u8]),
    /// bytea, or NULL
    MaybeBytes(Option<&'a [u8]>),
    /// bigint[]
    Ints(&'a [Option<i64>]),
    /// double precision[]
    Reals(&'a [Option<f64>]),
    /// boolean[]
    Bools(&'a [Option<bool>]),
    /// text[]
    Texts(&'a [Option<&'a str>]),
    /// uuid[]
    Uuids(&'a [Option<[u8; 16]>]),
    /// bytea[]
    Blobs(&'a [Option<&'a [u8]>]),
    /// timestamptz[], in microseconds since 2000
    Instants(&'a [Option<i64>]),
    /// A datum of any type, which must outlive the call.
    Datum(pg_sys::Oid, pg_sys::Datum),
}

impl Param<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Param::Bool(_) => pg_sys::BOOLOID,
            Param::Int(_) => pg_sys::INT8OID,
            Param::Text(_) | Param::MaybeText(_) => pg_sys::TEXTOID,
            Param::Bytes(_) | Param::MaybeBytes(_) => pg_sys::BYTEAOID,
            Param::Ints(_) => pg_sys::INT8ARRAYOID,
            Param::Reals(_) => pg_sys::FLOAT8ARRAYOID,
            Param::Bools(_) => pg_sys::BOOLARRAYOID,
            Param::Texts(_) => pg_sys::TEXTARRAYOID,
            Param::Uuids(_) => pg_sys::UUIDARRAYOID,
            Param::Blobs(_) => pg_sys::BYTEAARRAYOID,
            Param::Instants(_) => pg_sys::TIMESTAMPTZARRAYOID,
            Param::Datum(oid, _) => *oid,
        }
    }

    /// The datum in the current memory context; `None` is NULL.
    fn datum(&self) -> Result<Option<pg_sys::Datum>, SqlError> {
        Ok(match self {
            Param::Bool(truth) => Some(pg_sys::Datum::from(*truth)),
            Param::Int(number) => Some(pg_sys::Datum::from(*number)),
            Param::Text(text) | Param::MaybeText(Some(text)) => Some(varlena(text.as_bytes())?),
            Param::Bytes(bytes) | Param::MaybeBytes(Some(bytes)) => Some(varlena(bytes)?),
            Param::MaybeText(None) | Param::MaybeBytes(None) => None,
            Param::Ints(list) => Some(array(pg_sys::INT8OID, 8, list, |out, number| {
                out.extend_from_slice(&number.to_ne_bytes());
            })?),
            Param::Reals(list) => Some(array(pg_sys::FLOAT8OID, 8, list, |out, number| {
                out.extend_from_slice(&number.to_ne_bytes());
            })?),
            Param::Bools(list) => Some(array(pg_sys::BOOLOID, 1, list, |out, truth| out.push(u8::from(*truth)))?),
            Param::Texts(list) => Some(array(pg_sys::TEXTOID, 4, list, |out, text| element(out, text.as_bytes()))?),
            Param::Uuids(list) => Some(array(pg_sys::UUIDOID, 1, list, |out, bytes| out.extend_from_slice(bytes))?),
            Param::Blobs(list) => Some(array(pg_sys::BYTEAOID, 4, list, |out, bytes| element(out, bytes))?),
            Param::Instants(list) => Some(array(pg_sys::TIMESTAMPTZOID, 8, list, |out, number| {
                out.extend_from_slice(&number.to_ne_bytes());
            })?),
            Param::Datum(_, datum) => Some(*datum),
        })
    }
}

/// The four-byte length word of an uncompressed varlena of `total` bytes, header included.
fn length_word(total: usize) -> u32 {
    if cfg!(target_endian = "big") {
        total as u32 & 0x3fff_ffff
    } else {
        (total as u32) << 2
    }
}

fn element(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length_word(bytes.len() + 4).to_ne_bytes());
    out.extend_from_slice(bytes);
}

/// Postgres refuses allocations of 1 GB and more (`MaxAllocSize`).
const ALLOCATION_BYTES_MAX: usize = 0x3fff_ffff;

/// Said politely, before Postgres does.
fn too_large() -> SqlError {
    SqlError::new("54000", "a value or a set of values is larger than 1 GB")
}

fn varlena(bytes: &[u8]) -> Result<pg_sys::Datum, SqlError> {
    let total = bytes.len() + 4;
    if total >= ALLOCATION_BYTES_MAX {
        return Err(too_large());
    }
    // SAFETY: the allocation has room for the header and the bytes.
    unsafe {
        let pointer = pg_sys::palloc(total).cast::<u8>();
        pointer.cast::<u32>().write_unaligned(length_word(total));
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer.add(4), bytes.len());
        Ok(pg_sys::Datum::from(pointer))
    }
}

/// A one-dimensional array in Postgres' own layout (`ArrayType`): building it here costs one copy instead of an
/// allocation and a guarded call per element.
fn array<T>(
    element_type: pg_sys::Oid,
    align: usize,
    list: &[Option<T>],
    mut write: impl FnMut(&mut Vec<u8>, &T),
) -> Result<pg_sys::Datum, SqlError> {
    let has_nulls = list.iter().any(Option::is_none);
    let header = 24;
    let bitmap = if has_nulls { list.len().div_ceil(8) } else { 0 };
    let data_offset = (header + bitmap).next_multiple_of(8);
    let mut out: Vec<u8> = Vec::with_capacity(data_offset + list.len() * 8);
    if list.is_empty() {
        // An empty array has no dimensions.
        out.extend_from_slice(&length_word(16).to_ne_bytes());
        out.extend_from_slice(&0i32.to_ne_bytes());
        out.extend_from_slice(&0i32.to_ne_bytes());
        out.extend_from_slice(&element_type.to_u32().to_ne_bytes());
    } else {
        out.resize(data_offset, 0);
        for (at, entry) in list.iter().enumerate() {
            match entry {
                Some(entry) => {
                    if has_nulls {
                        out[header + at / 8] |= 1 << (at % 8);
                    }
                    let start = out.len().next_multiple_of(align);
                    out.resize(start, 0);
                    write(&mut out, entry);
                }
                None => continue,
            }
        }
        // Postgres counts the padding after the last element as part of the array.
        let end = out.len().next_multiple_of(align);
        out.resize(end, 0);
        if out.len() >= ALLOCATION_BYTES_MAX {
            return Err(too_large());
        }
        let length = length_word(out.len());
        out[0..4].copy_from_slice(&length.to_ne_bytes());
        out[4..8].copy_from_slice(&1i32.to_ne_bytes());
        out[8..12].copy_from_slice(&(if has_nulls { data_offset as i32 } else { 0 }).to_ne_bytes());
        out[12..16].copy_from_slice(&element_type.to_u32().to_ne_bytes());
        out[16..20].copy_from_slice(&(list.len() as i32).to_ne_bytes());
        out[20..24].copy_from_slice(&1i32.to_ne_bytes());
    }
    // SAFETY: copies the finished bytes into an allocation of their size.
    unsafe {
        let pointer = pg_sys::palloc(out.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(out.as_ptr(), pointer, out.len());
        Ok(pg_sys::Datum::from(pointer))
    }
}

/// How a statement is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Postgres decides between a generic and a custom plan.
    Auto,
    /// For the actual parameters, each time.
    Custom,
}

/// What a statement gave.
#[derive(Debug, Default)]
pub struct Rows {
    /// The rows, as wire values.
    pub rows: Vec<Vec<Value>>,
    /// Rows processed.
    pub processed: u64,
}

/// Ends the SPI connection and frees what the statement allocated, whichever way control leaves.
struct Connection {
    outer: pg_sys::MemoryContext,
    scratch: pg_sys::MemoryContext,
    connected: bool,
}

impl Connection {
    fn open() -> Result<Connection, SqlError> {
        // SAFETY: a child of the current context, deleted by Drop.
        unsafe {
            let outer = pg_sys::CurrentMemoryContext;
            let scratch = pg_sys::AllocSetContextCreateInternal(
                outer,
                c"fieldsync statement".as_ptr(),
                0,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            DEPTH.set(DEPTH.get() + 1);
            let mut connection = Connection { outer, scratch, connected: false };
            catch(|| raw::SPI_connect())?;
            connection.connected = true;
            pg_sys::MemoryContextSwitchTo(scratch);
            Ok(connection)
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: after an error SPI's own stack is cleaned by the (sub)transaction's abort, so it is finished only when
        // nothing was raised; a second finish would close somebody else's connection.
        unsafe {
            if self.connected {
                let _ = catch(|| raw::SPI_finish());
            }
            pg_sys::MemoryContextSwitchTo(self.outer);
            pg_sys::MemoryContextDelete(self.scratch);
        }
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Plans kept per backend. Bounded: texts are per table and shape of change, which a client could vary without end.
const MAX_PLANS: usize = 400;

/// What a kept plan is found by: its text, its parameters' types, and how it is planned.
type PlanKey = (String, Vec<pg_sys::Oid>, Plan);

thread_local! {
    /// Statements open now: an application's trigger may lead from one statement of ours into another.
    static DEPTH: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    static PLANS: RefCell<HashMap<PlanKey, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

fn plan(sql: &str, types: &mut [pg_sys::Oid], mode: Plan) -> Result<pg_sys::SPIPlanPtr, SqlError> {
    let key = (sql.to_owned(), types.to_vec(), mode);
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&key).copied()) {
        return Ok(plan);
    }
    let text = CString::new(sql).map_err(|_| SqlError::new("22021", "a statement holds a NUL byte"))?;
    let options = match mode {
        Plan::Auto => 0,
        Plan::Custom => pg_sys::CURSOR_OPT_CUSTOM_PLAN as c_int,
    };
    let (source, count, types) = (text.as_ptr(), types.len() as c_int, types.as_mut_ptr());
    // SAFETY: only C is called; text and types outlive the calls.
    let plan = unsafe {
        let plan = catch(|| raw::SPI_prepare_cursor(source, count, types, options))?;
        if plan.is_null() {
            return Err(SqlError::new("XX000", format!("cannot prepare: {sql}")));
        }
        catch(|| raw::SPI_keepplan(plan))?;
        plan
    };
    PLANS.with_borrow_mut(|plans| {
        if plans.len() >= MAX_PLANS && DEPTH.get() <= 1 {
            for (_, old) in plans.drain() {
                // SAFETY: no statement is running: this connection is the only one open, and it is about to plan.
                unsafe { pg_sys::SPI_freeplan(old) };
            }
        }
        plans.insert(key, plan);
    });
    Ok(plan)
}

/// Forgets kept plans, so that what follows is planned by what the login may see now: Postgres notices other policies by itself, but not
/// before version 14 that a role has come to stand above them.
pub fn forget_plans() {
    if DEPTH.get() > 0 {
        return;
    }
    for (_, plan) in PLANS.take() {
        // SAFETY: no statement of ours is running.
        unsafe { pg_sys::SPI_freeplan(plan) };
    }
}

/// Runs a statement and gives its rows as wire values.
pub fn run(sql: &str, params: &[Param<'_>]) -> Result<Rows, SqlError> {
    run_as(sql, params, Plan::Auto, false)
}

/// Runs a set-based statement: planned for its actual arrays.
pub fn run_set(sql: &str, params: &[Param<'_>]) -> Result<Rows, SqlError> {
    run_as(sql, params, Plan::Custom, false)
}

/// Runs a query under the active snapshot, which several queries can share.
pub fn read(sql: &str, params: &[Param<'_>]) -> Result<Rows, SqlError> {
    run_as(sql, params, Plan::Auto, true)
}

/// The same for a set-based query.
pub fn read_set(sql: &str, params: &[Param<'_>]) -> Result<Rows, SqlError> {
    run_as(sql, params, Plan::Custom, true)
}

/// Rows that [`read_portions`] holds at once.
const PORTION_ROWS: c_long = 2_000;

/// Runs a query under the active snapshot and gives its rows in portions, for results that would fill memory.
pub fn read_portions(
    sql: &str,
    params: &[Param<'_>],
    take: impl FnMut(Vec<Vec<Value>>) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    portions(sql, params, true, take)
}

/// The same for a query that may lock rows, under a snapshot of its own.
pub fn lock_portions(
    sql: &str,
    params: &[Param<'_>],
    take: impl FnMut(Vec<Vec<Value>>) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    portions(sql, params, false, take)
}

fn portions(
    sql: &str,
    params: &[Param<'_>],
    read_only: bool,
    mut take: impl FnMut(Vec<Vec<Value>>) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let mut connection = Connection::open()?;
    let mut opened = || -> Result<(), SqlError> {
        let (mut types, mut values, nulls) = datums(params)?;
        let plan = plan(sql, &mut types, Plan::Custom)?;
        let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr());
        // SAFETY: only C is called; the portal copies its parameters.
        let portal = unsafe { catch(|| raw::SPI_cursor_open(std::ptr::null(), plan, values, nulls, read_only))? };
        loop {
            // SAFETY: the portal was opened above; SPI's result globals are valid until the next call.
            let rows = unsafe {
                catch(|| raw::SPI_cursor_fetch(portal, true, PORTION_ROWS))?;
                let table = pg_sys::SPI_tuptable;
                if table.is_null() || (*table).numvals == 0 {
                    break;
                }
                let decoder = Decoder::new((*table).tupdesc);
                let tuples = std::slice::from_raw_parts((*table).vals, (*table).numvals as usize);
                let rows = decoder.rows(tuples);
                pg_sys::SPI_freetuptable(table);
                rows?
            };
            take(rows)?;
        }
        // SAFETY: closes what was opened above; after an error the abort does.
        unsafe { catch(|| raw::SPI_cursor_close(portal)) }
    };
    let outcome = opened();
    if outcome.is_err() {
        connection.connected = false;
    }
    outcome
}

/// Types, values and null flags of parameters, as SPI wants them.
type Datums = (Vec<pg_sys::Oid>, Vec<pg_sys::Datum>, Vec<c_char>);

fn datums(params: &[Param<'_>]) -> Result<Datums, SqlError> {
    let types = params.iter().map(Param::type_oid).collect();
    let mut values = Vec::with_capacity(params.len());
    let mut nulls: Vec<c_char> = Vec::with_capacity(params.len() + 1);
    for param in params {
        let datum = param.datum()?;
        values.push(datum.unwrap_or(pg_sys::Datum::null()));
        nulls.push(if datum.is_some() { b' ' } else { b'n' } as c_char);
    }
    nulls.push(0);
    Ok((types, values, nulls))
}

fn run_as(sql: &str, params: &[Param<'_>], mode: Plan, read_only: bool) -> Result<Rows, SqlError> {
    let mut connection = Connection::open()?;
    let (mut types, mut values, nulls) = datums(params)?;
    let plan = match plan(sql, &mut types, mode) {
        Ok(plan) => plan,
        Err(error) => {
            connection.connected = false;
            return Err(error);
        }
    };
    let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr());
    // SAFETY: only C is called; parameters outlive the call.
    let code = match unsafe { catch(|| raw::SPI_execute_plan(plan, values, nulls, read_only, 0)) } {
        Ok(code) => code,
        Err(error) => {
            connection.connected = false;
            return Err(error);
        }
    };
    if code < 0 {
        return Err(SqlError::new("XX000", format!("SPI error {code} from: {sql}")));
    }
    // SAFETY: SPI's result globals are valid until the connection ends.
    unsafe {
        let processed = pg_sys::SPI_processed;
        let table = pg_sys::SPI_tuptable;
        let mut rows = Vec::new();
        if !table.is_null() {
            let decoder = Decoder::new((*table).tupdesc);
            let tuples = std::slice::from_raw_parts((*table).vals, (*table).numvals as usize);
            rows = decoder.rows(tuples)?;
        }
        Ok(Rows { rows, processed })
    }
}

/// The one value of a one-row, one-column result; NULL when there is no row.
pub fn scalar(sql: &str, params: &[Param<'_>]) -> Result<Value, SqlError> {
    let rows = run(sql, params)?.rows;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or(Value::Null))
}

/// Reading cells of internal results, whose types the statement fixes.
pub trait Cells {
    /// An integer (or a truth value); 0 for NULL.
    fn int(&self, at: usize) -> i64;
    /// A truth value.
    fn truth(&self, at: usize) -> bool {
        self.int(at) != 0
    }
    /// Text; empty for NULL.
    fn text(&self, at: usize) -> &str;
    /// Text, or nothing for NULL.
    fn maybe_text(&self, at: usize) -> Option<&str>;
    /// Bytes; empty for NULL.
    fn bytes(&self, at: usize) -> &[u8];
    /// Whether the cell is NULL.
    fn is_null(&self, at: usize) -> bool;
}

impl Cells for [Value] {
    fn int(&self, at: usize) -> i64 {
        match self.get(at) {
            Some(Value::Int(number)) => *number,
            _ => 0,
        }
    }

    fn text(&self, at: usize) -> &str {
        self.maybe_text(at).unwrap_or_default()
    }

    fn maybe_text(&self, at: usize) -> Option<&str> {
        match self.get(at) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn bytes(&self, at: usize) -> &[u8] {
        match self.get(at) {
            Some(Value::Blob(bytes)) => bytes,
            _ => &[],
        }
    }

    fn is_null(&self, at: usize) -> bool {
        matches!(self.get(at), None | Some(Value::Null))
    }
}

/// An identifier, quoted always.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal, quoted whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
