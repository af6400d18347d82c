//! What the engine knows of tracked tables: columns, keys, references.
//!
//! Invariant: a description is as the catalogue has it now, and not as the transaction's snapshot shows it: a statement of an older
//! transaction (REPEATABLE READ, SERIALIZABLE) meets the table as it is, and so does its trigger. Descriptions are cached per backend
//! and dropped when Postgres announces that a relation has changed (which `enable` and `disable` also announce for their own data).

use crate::catch::{catch, SqlError};
use crate::guards::{AsOwner, LatestSnapshot};
use crate::sql::{self, ident, Cells, Param};
use crate::types::{self, ColumnType};
use fieldsync_core::clock::Hlc;
use fieldsync_core::clocks::{RowClocks, Stamp, HUB};
use fieldsync_core::value::Kind;
use fieldsync_core::Value;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

/// Columns that fieldsync keeps in every tracked table.
pub const SYNC_COLUMNS: [&str; 5] =
    ["sync_version", "sync_modified_at", "sync_deleted", "sync_origin_client", "fieldsync_clocks"];

/// A column of the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its attribute number, which is also its number in field clocks.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// NOT NULL.
    pub not_null: bool,
    /// GENERATED ALWAYS AS (…) STORED: read by applications, never sent.
    pub generated: bool,
}

/// What becomes of rows when the row that they refer to goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnDelete {
    /// NO ACTION and RESTRICT: it may not go.
    Refuse,
    /// They go as well.
    Cascade,
    /// These columns become NULL.
    SetNull(Vec<u16>),
    /// These columns get their defaults.
    SetDefault(Vec<u16>),
}

/// A foreign key between tracked tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Its columns, by attribute number.
    pub child_columns: Vec<u16>,
    /// The referenced table.
    pub parent: pg_sys::Oid,
    /// Its columns, by attribute number.
    pub parent_columns: Vec<u16>,
    /// What a deletion there does here.
    pub on_delete: OnDelete,
    /// Whether it can wait for the commit.
    pub deferrable: bool,
    /// SQL that says whether a row is there, marked or not, for a row's values in `child_columns` (`$1` …).
    pub parent_is_there: String,
}

impl ForeignKey {
    /// Whether rows go, or lose their reference, with the row that they refer to, so that nobody hears of it.
    pub fn acts_on_delete(&self) -> bool {
        self.on_delete != OnDelete::Refuse
    }
}

/// A tracked table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// fieldsync's number for it.
    pub table_id: i32,
    /// Its schema.
    pub schema: String,
    /// Its bare name, which is what travels.
    pub name: String,
    /// Schema and name, quoted.
    pub qualified: String,
    /// DELETE sets `sync_deleted` instead.
    pub soft_delete: bool,
    /// The stamp of rows that were there before tracking began.
    pub baseline: Stamp,
    /// The application's columns, in their order.
    pub columns: Vec<Column>,
    /// The primary key, as indexes into `columns`.
    pub key: Vec<usize>,
    /// The equality operator of each key column, as SQL writes it.
    pub key_equals: Vec<String>,
    /// The attribute number of `sync_deleted`: the field number of the row's deletion.
    pub deleted_number: u16,
    /// Foreign keys from this table.
    pub references: Vec<ForeignKey>,
    /// Whether anything about it can be checked as late as the commit.
    pub has_deferrable: bool,
    /// Whether rows are stored as they are written: no trigger of the application's can change them.
    pub stores_as_written: bool,
    /// Whether its inserts can say ON CONFLICT. Postgres has no such thing for deferrable keys, nor for tables with rules.
    pub has_on_conflict: bool,
    /// What is wrong with fieldsync's own columns, if somebody has altered them.
    pub altered: Option<AlteredColumn>,
}

/// One of fieldsync's own columns, as it must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlteredColumn {
    /// It is not there.
    Missing,
    /// It has another type: name, type, wanted type.
    Type(String, String, &'static str),
}

impl AlteredColumn {
    /// The first of a table's columns that is so. The trigger writes their values as they are in memory: into another type they would be
    /// damage, or the end of the server.
    fn of(attributes: &[Vec<Value>]) -> Option<AlteredColumn> {
        SYNC_COLUMNS.iter().find_map(|name| {
            let Some(attribute) = attributes.iter().find(|attribute| attribute.text(1) == *name) else {
                return Some(AlteredColumn::Missing);
            };
            let (found, modifier) = (oid(attribute.int(2)), attribute.int(3));
            let (is_right, wanted) = match *name {
                "sync_version" => (found == pg_sys::INT8OID, "bigint"),
                "sync_modified_at" => (found == pg_sys::TIMESTAMPTZOID, "timestamp with time zone"),
                "sync_deleted" => (found == pg_sys::BOOLOID, "boolean"),
                "fieldsync_clocks" => (found == pg_sys::BYTEAOID, "bytea"),
                // A wider one does no harm. (A length is stored with four bytes more.)
                _ => (
                    found == pg_sys::TEXTOID || (found == pg_sys::VARCHAROID && !(0..64 + 4).contains(&modifier)),
                    "character varying(64)",
                ),
            };
            (!is_right).then(|| AlteredColumn::Type((*name).to_owned(), attribute.text(8).to_owned(), wanted))
        })
    }
}

/// The error where somebody has altered fieldsync's own columns of a table.
pub fn with_altered(table: &Table, altered: &AlteredColumn) -> SqlError {
    let enable = format!("SELECT sync_control.enable({})", sql::literal(&table.qualified));
    let (error, hint) = match altered {
        AlteredColumn::Missing => (
            SqlError::new("55000", format!("a sync_* column of {} is missing", table.qualified)),
            format!("{enable} adds it again."),
        ),
        AlteredColumn::Type(column, found, wanted) => (
            SqlError::new(
                "42804",
                format!("column {column} of {} is of type {found} and must be {wanted}", table.qualified),
            ),
            format!(
                "Change the column's type with ALTER TABLE … ALTER COLUMN … TYPE, or drop the column; then {enable}."
            ),
        ),
    };
    SqlError { table: Some(table.name.clone()), hint: Some(hint), ..error }
}

impl Table {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The column with this number.
    pub fn by_number(&self, number: u16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// The kinds of the key's columns.
    pub fn key_kinds(&self) -> Vec<Kind> {
        self.key.iter().map(|at| self.columns[*at].column_type.kind).collect()
    }

    /// A key as text.
    pub fn row_id(&self, key: &fieldsync_core::Key) -> String {
        crate::keys::row_id(key, &self.key_kinds())
    }

    /// Clocks as stored; rows from before tracking have none and count as the hub's.
    pub fn clocks(&self, stored: &[u8]) -> Result<RowClocks, SqlError> {
        if stored.is_empty() {
            return Ok(RowClocks::new(self.baseline));
        }
        RowClocks::from_bytes(stored)
            .map_err(|_| SqlError::new("XX001", format!("the field clocks of a row of {} are damaged", self.qualified)))
    }

    /// The end of an INSERT that leaves rows alone whose keys are taken. Without it a taken key is an error: that of its row.
    pub fn passes_over_taken_keys(&self) -> String {
        if !self.has_on_conflict {
            return String::new();
        }
        let key: Vec<String> = self.key.iter().map(|at| ident(&self.columns[*at].name)).collect();
        format!(" ON CONFLICT ({}) DO NOTHING", key.join(", "))
    }

    /// Columns in the order of a reply: the key, then the others that travel.
    pub fn reply_order(&self) -> Vec<usize> {
        let others = self.travelling().filter(|(at, _)| !self.key.contains(at)).map(|(at, _)| at);
        self.key.iter().copied().chain(others).collect()
    }

    /// Columns whose values travel, key columns included.
    pub fn travelling(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.generated)
    }
}

thread_local! {
    static TABLES: RefCell<HashMap<pg_sys::Oid, Rc<Table>>> = RefCell::new(HashMap::new());
    /// Counts announcements, so that a cache can tell whether it is current.
    static GENERATION: Cell<u64> = const { Cell::new(1) };
    static CACHED_AT: Cell<u64> = const { Cell::new(0) };
}

/// Counts the announced changes of relations.
pub fn generation() -> u64 {
    GENERATION.get()
}

/// Called by Postgres when a relation has changed.
///
/// # Safety
/// Called by Postgres as an invalidation callback; touches only backend memory, since it may come at any time.
pub unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    GENERATION.set(GENERATION.get() + 1);
}

/// Called by Postgres when a schema or a type has changed.
///
/// # Safety
/// As [`relation_changed`].
pub unsafe extern "C-unwind" fn name_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}

/// Makes every backend read a table's description again.
pub fn announce_change(oid: pg_sys::Oid) {
    // SAFETY: queues an invalidation message; the relation exists and is locked by the caller.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(oid) }
}

fn refresh() {
    // Take invalidations that other backends have announced.
    // SAFETY: inside a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if CACHED_AT.get() != GENERATION.get() {
        TABLES.with_borrow_mut(HashMap::clear);
        CACHED_AT.set(GENERATION.get());
    }
}

/// The tracked table with this OID. `None`: not tracked.
pub fn table(oid: pg_sys::Oid) -> Result<Option<Rc<Table>>, SqlError> {
    refresh();
    if let Some(table) = TABLES.with_borrow(|tables| tables.get(&oid).cloned()) {
        return Ok(Some(table));
    }
    let generation = GENERATION.get();
    let loaded = load(oid)?.map(Rc::new);
    if let Some(table) = &loaded {
        // Loading may itself have taken in announcements; what was read before them is not kept.
        if generation == GENERATION.get() {
            TABLES.with_borrow_mut(|tables| tables.insert(oid, Rc::clone(table)));
        }
    }
    Ok(loaded)
}

/// The OIDs of all enabled tables, in the order of their numbers.
pub fn enabled() -> Result<Vec<(i32, pg_sys::Oid, String, String)>, SqlError> {
    let _owner = AsOwner::new();
    let _now = LatestSnapshot::take();
    let rows = sql::read(
        "SELECT table_id, relid::bigint, schema_name::text, table_name::text FROM fieldsync.tracked_table
         WHERE enabled AND relid IS NOT NULL ORDER BY table_id",
        &[],
    )?;
    Ok(rows
        .rows
        .iter()
        .map(|row| (row.int(0) as i32, oid(row.int(1)), row.text(2).to_owned(), row.text(3).to_owned()))
        .collect())
}

/// All enabled tables.
pub fn tables() -> Result<Vec<Rc<Table>>, SqlError> {
    let mut tables = Vec::new();
    for (_, relation, _, _) in enabled()? {
        let Some(table) = table(relation)? else { continue };
        if table.key.is_empty() {
            // Not left out: devices would be told that they have seen all of it.
            return Err(without_key(&table));
        }
        if let Some(altered) = &table.altered {
            return Err(with_altered(&table, altered));
        }
        tables.push(table);
    }
    Ok(tables)
}

mod raw {
    //! Unguarded: pgrx's own binding would turn an error into a panic before [`super::catch`] sees it.
    use pgrx::pg_sys;
    unsafe extern "C-unwind" {
        pub fn LockRelationOid(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE);
    }
}

/// Locks a table until the transaction ends (or the subtransaction is rolled back), and asks for no privilege. Waits for whoever is
/// altering it.
pub fn lock(relation: pg_sys::Oid, mode: u32) -> Result<(), SqlError> {
    // SAFETY: only C is called; a relation that is gone can be locked, too.
    unsafe { catch(|| raw::LockRelationOid(relation, mode as pg_sys::LOCKMODE)) }
}

/// Whether the transaction's snapshot is older than the table's files: to such a one a table that was rewritten or truncated looks empty.
/// The table has to be locked.
pub fn is_newer_than_snapshot(relation: pg_sys::Oid) -> Result<bool, SqlError> {
    let rows = sql::run(
        "SELECT relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(oid) FROM pg_catalog.pg_class WHERE oid = $1::oid",
        &[oid_param(relation)],
    )?;
    Ok(rows.rows.first().is_none_or(|row| row.truth(0)))
}

/// Whether all statements of this transaction share one snapshot: under REPEATABLE READ and SERIALIZABLE.
pub fn has_own_snapshot() -> bool {
    // SAFETY: a plain global that is set at transaction start.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The error where a table's rows cannot be told apart any more: its key has been dropped.
pub fn without_key(table: &Table) -> SqlError {
    SqlError {
        table: Some(table.name.clone()),
        hint: Some(format!(
            "ALTER TABLE {} ADD PRIMARY KEY (…) gives it one; SELECT sync_control.disable({}) stops its sync.",
            table.qualified,
            sql::literal(&table.qualified)
        )),
        ..SqlError::new("55000", format!("table {} has lost its primary key", table.qualified))
    }
}

/// An OID as SQL's bigint gave it.
pub fn oid(number: i64) -> pg_sys::Oid {
    pg_sys::Oid::from(u32::try_from(number).unwrap_or(0))
}

/// As a bigint parameter.
pub fn oid_param(oid: pg_sys::Oid) -> Param<'static> {
    Param::Int(i64::from(oid.to_u32()))
}

fn load(relation: pg_sys::Oid) -> Result<Option<Table>, SqlError> {
    let _owner = AsOwner::new();
    let _now = LatestSnapshot::take();
    let found = sql::read(
        "SELECT t.table_id, n.nspname::text, c.relname::text, t.soft_delete, t.baseline_version, t.baseline_clock
         FROM fieldsync.tracked_table t
         JOIN pg_catalog.pg_class c ON c.oid = t.relid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE t.enabled AND t.relid = $1::oid",
        &[oid_param(relation)],
    )?;
    let Some(row) = found.rows.first() else { return Ok(None) };
    let (schema, name) = (row.text(1).to_owned(), row.text(2).to_owned());
    let attributes = sql::read(
        "SELECT attnum, attname::text, atttypid::bigint, atttypmod, attnotnull, atthasdef, attgenerated <> '', attidentity <> '',
                format_type(atttypid, atttypmod)
         FROM pg_catalog.pg_attribute
         WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        &[oid_param(relation)],
    )?;
    let mut columns = Vec::new();
    let mut deleted_number = 0;
    for attribute in &attributes.rows {
        let column = attribute.text(1);
        if SYNC_COLUMNS.contains(&column) {
            if column == "sync_deleted" {
                deleted_number = attribute.int(0) as u16;
            }
            continue;
        }
        let generated = attribute.truth(6);
        columns.push(Column {
            number: attribute.int(0) as u16,
            name: column.to_owned(),
            column_type: column_type(oid(attribute.int(2)), attribute.int(3) as i32),
            not_null: attribute.truth(4),
            generated,
        });
    }
    let key_rows = sql::read(
        "SELECT k.attnum, n.nspname::text, o.oprname::text
         FROM pg_catalog.pg_index i
         CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, place)
         JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass
         JOIN pg_catalog.pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
              AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
         JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr
         JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
         WHERE i.indrelid = $1::oid AND i.indisprimary ORDER BY k.place",
        &[oid_param(relation)],
    )?;
    let mut key = Vec::new();
    let mut key_equals = Vec::new();
    for part in &key_rows.rows {
        if let Some(at) = columns.iter().position(|column| i64::from(column.number) == part.int(0)) {
            key.push(at);
            key_equals.push(format!("OPERATOR({}.{})", ident(part.text(1)), part.text(2)));
        }
    }
    Ok(Some(Table {
        oid: relation,
        table_id: row.int(0) as i32,
        altered: AlteredColumn::of(&attributes.rows),
        qualified: format!("{}.{}", ident(&schema), ident(&name)),
        schema,
        name,
        soft_delete: row.truth(3),
        baseline: Stamp::first(row.int(4) as u64, Hlc::from_i64(row.int(5)), HUB),
        columns,
        key,
        key_equals,
        deleted_number,
        references: foreign_keys(relation)?,
        has_deferrable: flag(
            relation,
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1::oid AND tgdeferrable)
                 OR EXISTS (SELECT 1 FROM pg_catalog.pg_constraint WHERE conrelid = $1::oid AND condeferrable)",
        )?,
        stores_as_written: !flag(
            relation,
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_trigger
                            WHERE tgrelid = $1::oid AND NOT tgisinternal AND tgname NOT LIKE '~fieldsync\\_%')
                 OR (SELECT relhasrules FROM pg_catalog.pg_class WHERE oid = $1::oid)",
        )?,
        has_on_conflict: !flag(
            relation,
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index WHERE indrelid = $1::oid AND indisprimary AND NOT indimmediate)
                 OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite WHERE ev_class = $1::oid AND ev_type IN ('2', '3'))",
        )?,
    }))
}

fn flag(relation: pg_sys::Oid, question: &str) -> Result<bool, SqlError> {
    let rows = sql::read(question, &[oid_param(relation)])?;
    Ok(rows.rows.first().is_some_and(|row| row.truth(0)))
}

fn foreign_keys(relation: pg_sys::Oid) -> Result<Vec<ForeignKey>, SqlError> {
    let rows = sql::read(
        // The columns that ON DELETE sets can be chosen since Postgres 15.
        "SELECT c.confrelid::bigint, array_to_string(c.conkey, ','), array_to_string(c.confkey, ','), c.conname::text,
                c.confdeltype::text, c.condeferrable::int,
                (SELECT string_agg(part, ',')
                 FROM jsonb_array_elements_text(COALESCE(NULLIF(to_jsonb(c) -> 'confdelsetcols', 'null'), to_jsonb(c.conkey))) AS s(part)),
                (SELECT format('SELECT EXISTS (SELECT FROM %s%I.%I AS p WHERE %s)', CASE p.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END,
                               n.nspname, p.relname, string_agg(format('p.%I OPERATOR(%I.%s) $%s', a.attname, s.nspname, o.oprname,
                                                                       k.place), ' AND '))
                 FROM ROWS FROM (unnest(c.confkey), unnest(c.conpfeqop)) WITH ORDINALITY AS k(number, operator, place)
                 JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.number
                 JOIN pg_operator AS o ON o.oid = k.operator
                 JOIN pg_namespace AS s ON s.oid = o.oprnamespace
                 JOIN pg_class AS p ON p.oid = c.confrelid
                 JOIN pg_namespace AS n ON n.oid = p.relnamespace
                 GROUP BY p.relkind, n.nspname, p.relname)
         FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = $1::oid AND c.contype = 'f' ORDER BY c.conname",
        &[oid_param(relation)],
    )?;
    let numbers = |text: &str| text.split(',').filter_map(|number| number.parse().ok()).collect::<Vec<u16>>();
    Ok(rows
        .rows
        .iter()
        .map(|row| ForeignKey {
            child_columns: numbers(row.text(1)),
            parent: oid(row.int(0)),
            parent_columns: numbers(row.text(2)),
            name: row.text(3).to_owned(),
            on_delete: match row.text(4) {
                "c" => OnDelete::Cascade,
                "n" => OnDelete::SetNull(numbers(row.text(6))),
                "d" => OnDelete::SetDefault(numbers(row.text(6))),
                _ => OnDelete::Refuse,
            },
            deferrable: row.int(5) != 0,
            parent_is_there: row.text(7).to_owned(),
        })
        .collect())
}

/// A column's type; a domain goes by its base type.
pub fn column_type(type_oid: pg_sys::Oid, modifier: i32) -> ColumnType {
    let mut typmod = modifier;
    // SAFETY: catalogue lookups of an existing type.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(type_oid, &mut typmod) };
    ColumnType {
        base,
        typmod,
        kind: types::kind(base),
        sql: type_name(base, -1),
        sql_with_modifier: type_name(base, typmod),
    }
}

/// A type's name, qualified. The modifier is always given: without one, `bpchar` would be printed as `character`, which
/// means one character.
fn type_name(type_oid: pg_sys::Oid, modifier: i32) -> String {
    let flags = (pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY) as u16;
    // SAFETY: gives a palloc'd C string.
    unsafe {
        let text = pg_sys::format_type_extended(type_oid, modifier, flags);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
