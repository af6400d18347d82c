//! Starting and stopping the tracking of a table.
//!
//! Invariants:
//! * No row is rewritten: the new columns get their values from the catalogue (fast defaults), and rows without field
//!   clocks count as made by the hub when tracking began, so they reach every device.
//! * A table that followed the hand-written procedure keeps its columns, its data and its own trigger; fieldsync's trigger
//!   fires last and overrides what that one puts into the sync columns.
//! * Enabling twice is enabling once, and reads the table's shape again.

use crate::catalog::{self, oid_param, Table};
use crate::catch::SqlError;
use crate::error::HubError;
use crate::feed;
use crate::guards::{subtransaction, AsOwner};
use crate::history;
use crate::sql::{self, ident, Cells, Param};
use crate::trigger::now_ms;
use fieldsync_core::Hlc;
use pgrx::pg_sys;
use serde_json::Value as Json;
use std::rc::Rc;

/// What `enable` was asked for.
struct Options {
    soft_delete: Option<bool>,
}

fn options(json: &Json) -> Result<Options, HubError> {
    let mut options = Options { soft_delete: None };
    let Json::Object(fields) = json else {
        return Err(HubError::BadOption("the options of enable() must be a JSON object".to_owned()));
    };
    for (name, value) in fields {
        match (name.as_str(), value.as_str()) {
            ("delete", Some("hard")) => options.soft_delete = Some(false),
            ("delete", Some("soft")) => options.soft_delete = Some(true),
            ("delete", _) => return Err(HubError::BadOption(format!("\"delete\" cannot be {value}"))),
            _ => return Err(HubError::BadOption(format!("enable() knows no option \"{name}\""))),
        }
    }
    Ok(options)
}

/// Column, type as SQL writes it, type as the catalogue shows it.
const COLUMNS: [(&str, &str); 4] = [
    ("sync_version", "bigint"),
    ("sync_modified_at", "timestamp with time zone"),
    ("sync_deleted", "boolean"),
    ("sync_origin_client", "character varying(64)"),
];

/// Starts tracking, or reads the table's shape again. Gives what was done, in words.
pub fn enable(relation: pg_sys::Oid, json: &Json) -> Result<Json, HubError> {
    let options = options(json)?;
    let (schema, name) = check(relation)?;
    let qualified = format!("{}.{}", ident(&schema), ident(&name));
    // Nobody writes while the baseline is taken: a row written before the trigger is there has an earlier version than the
    // baseline or none, and one written after it has its own.
    sql::run(&format!("LOCK TABLE ONLY {qualified} IN SHARE ROW EXCLUSIVE MODE"), &[])?;
    let columns = columns(relation)?;
    let has_clocks = columns.iter().any(|(name, _, _)| name == "fieldsync_clocks");
    if has_clocks {
        // In a restored database the registry knows its tables by name until they are first used.
        adopt_restored(relation)?;
    }
    let known = registered(relation, &schema, &name)?;
    if let Some(other) = same_name(relation, &schema, &name)? {
        return Err(HubError::AmbiguousTable(other));
    }
    let version = feed::own_version();
    let clock = Hlc::from_ms(now_ms());
    let mut added = Vec::new();
    for (column, wanted) in COLUMNS {
        match columns.iter().find(|(name, _, _)| name == column) {
            None => added.push(column),
            Some((_, found, _)) => fit_column(&qualified, column, found, wanted)?,
        }
    }
    let continues = known.as_ref().is_some_and(|known| known.enabled);
    if has_clocks && !continues {
        // Left from an earlier tracking, which has missed what was written since: start over.
        sql::run(&format!("ALTER TABLE ONLY {qualified} DROP COLUMN fieldsync_clocks"), &[])?;
    }
    add_columns(&qualified, &added, !has_clocks || !continues, version)?;
    let mut notes = Vec::new();
    if !continues && !added.contains(&"sync_version") {
        // Numbers of the site's own making would be taken for transaction ids. No trigger fires; indexes and data stay.
        let renumber = format!(
            "ALTER TABLE ONLY {qualified} ALTER COLUMN sync_version DROP DEFAULT, ALTER COLUMN sync_version TYPE bigint USING {version}"
        );
        if let Err(error) = subtransaction(|| sql::run(&renumber, &[])) {
            notes
                .push(format!("sync_version keeps its old numbers in rows that have not been written since ({error})"));
        }
    }
    if known.is_some() && !continues {
        notes.push(
            "rows that were deleted while the table was not tracked stay on the devices that have them".to_owned(),
        );
    }
    let soft_delete = match (options.soft_delete, &known) {
        (Some(soft), _) => soft,
        (None, Some(known)) if known.enabled => known.soft_delete,
        // A site that marked deletions itself goes on doing so.
        (None, _) => {
            !added.contains(&"sync_deleted")
                && sql::scalar(&format!("SELECT EXISTS (SELECT 1 FROM ONLY {qualified} WHERE sync_deleted)"), &[])?
                    == fieldsync_core::Value::Int(1)
        }
    };
    let was_unseen = add_triggers(relation, &qualified, soft_delete)?;
    // The first time it gets its identity; in a restored database the registry's numbers are of another one.
    history::hub()?;
    let table_id = register(relation, &schema, &name, soft_delete, (!continues).then_some((version, clock)))?;
    catalog::announce_change(relation);
    // SAFETY: makes the catalogue changes above visible to what follows.
    unsafe { pg_sys::CommandCounterIncrement() };
    ask_again(table_id)?;
    if !continues {
        // Devices that already have a cursor look at the whole table once.
        feed::note_whole_table(table_id);
    } else if was_unseen {
        // Somebody had dropped a trigger: what was written since, nothing tracked.
        send_again(relation)?;
        notes.push(
            "a trigger was missing: every device gets all rows, and rows deleted meanwhile stay there".to_owned(),
        );
    }
    Ok(serde_json::json!({
        "table": qualified,
        "delete": if soft_delete { "soft" } else { "hard" },
        "added_columns": added,
        "refreshed": continues,
        "warnings": warnings(relation, &qualified)?.into_iter().chain(notes).collect::<Vec<_>>(),
    }))
}

/// A relation by its names.
struct Named {
    schema: String,
    name: String,
    is_callers: bool,
}

impl Named {
    fn of(relation: pg_sys::Oid) -> Result<Named, HubError> {
        let rows = sql::run(
            "SELECT n.nspname::text, c.relname::text, pg_catalog.pg_has_role(c.relowner, 'USAGE')
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
            &[oid_param(relation)],
        )?;
        let Some(row) = rows.rows.first() else {
            return Err(HubError::NotTracked(relation.to_u32().to_string()));
        };
        Ok(Named { schema: row.text(0).to_owned(), name: row.text(1).to_owned(), is_callers: row.truth(2) })
    }

    /// Schema and name, for its owner.
    fn for_owner(self) -> Result<(String, String), HubError> {
        if self.is_callers {
            return Ok((self.schema, self.name));
        }
        Err(HubError::Sql(SqlError::new("42501", format!("must be owner of table {}", self.name))))
    }
}

/// Refuses what cannot be tracked; gives schema and name.
fn check(relation: pg_sys::Oid) -> Result<(String, String), HubError> {
    let named = Named::of(relation)?;
    let rows = sql::run(
        "SELECT c.relkind::text, c.relpersistence::text, c.relispartition,
                EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
                EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid OR h.inhparent = c.oid),
                EXISTS (SELECT 1 FROM pg_catalog.pg_index i
                        CROSS JOIN LATERAL unnest(i.indclass::oid[], i.indcollation::oid[]) AS k(opclass, own_collation)
                        JOIN pg_catalog.pg_opclass o ON o.oid = k.opclass JOIN pg_catalog.pg_type t ON t.oid = o.opcintype
                        LEFT JOIN pg_catalog.pg_collation l ON l.oid = k.own_collation
                        -- Support function 4 says that what is equal is the same bytes.
                        WHERE i.indrelid = c.oid AND i.indisprimary AND (l.collisdeterministic IS FALSE
                           OR t.typcategory = 'S' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_amproc p
                               WHERE p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype AND p.amprocnum = 4))),
                EXISTS (SELECT 1 FROM pg_catalog.pg_index i
                        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attgenerated <> ''),
                (SELECT min(pg_catalog.format_type(a.atttypid, NULL)) FROM pg_catalog.pg_index i
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.atttypid = ANY ('{xid8,regclass}'::pg_catalog.regtype[]))
         FROM pg_catalog.pg_class c WHERE c.oid = $1::oid",
        &[oid_param(relation)],
    )?;
    let Some(row) = rows.rows.first() else {
        return Err(HubError::NotTracked(relation.to_u32().to_string()));
    };
    let table = format!("{}.{}", ident(&named.schema), ident(&named.name));
    let refuse = |why: &str| Err(HubError::CannotTrack { table: table.clone(), why: why.to_owned() });
    match row.text(0) {
        "r" => {}
        "p" => return refuse("it is a partitioned table"),
        "f" => return refuse("it is a foreign table"),
        "v" => return refuse("it is a view"),
        "m" => return refuse("it is a materialized view"),
        _ => return refuse("it is not a table"),
    }
    if row.truth(2) {
        return refuse("it is a partition of another table");
    }
    if row.truth(4) {
        return refuse("it takes part in table inheritance");
    }
    match row.text(1) {
        "t" => return refuse("it is a temporary table"),
        "u" => return refuse("it is unlogged: its rows would vanish in a crash, and devices would never hear of it"),
        _ => {}
    }
    if ["sync_control", "fieldsync", "pg_catalog", "information_schema"].contains(&named.schema.as_str()) {
        return refuse("it belongs to the system");
    }
    if !row.truth(3) {
        return refuse("it has no primary key");
    }
    if row.truth(5) {
        return refuse("texts that differ (in case, say) are the same key to it, and two records on any device");
    }
    if row.truth(6) {
        return refuse("its primary key has a generated column, which is computed after all triggers and never sent");
    }
    if let Some(name) = row.maybe_text(7) {
        return refuse(&format!(
            "values of type {name}, which is in its primary key, mean nothing outside this database"
        ));
    }
    named.for_owner()
}

struct Registered {
    enabled: bool,
    soft_delete: bool,
}

fn registered(relation: pg_sys::Oid, schema: &str, name: &str) -> Result<Option<Registered>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT enabled AND relid = $1::oid, soft_delete FROM fieldsync.tracked_table
         WHERE $1::oid IN (relid, disabled_relid) OR (schema_name = $2 AND table_name = $3)
         ORDER BY (relid = $1::oid) DESC NULLS LAST LIMIT 1",
        &[oid_param(relation), Param::Text(schema), Param::Text(name)],
    )?;
    Ok(rows.rows.first().map(|row| Registered { enabled: row.truth(0), soft_delete: row.truth(1) }))
}

/// Another enabled table of the same bare name.
fn same_name(relation: pg_sys::Oid, schema: &str, name: &str) -> Result<Option<String>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT t.table_name::text FROM fieldsync.tracked_table t JOIN pg_catalog.pg_class c ON c.oid = t.relid
         WHERE t.enabled AND c.relname = $2 AND t.relid <> $1::oid AND t.schema_name <> $3",
        &[oid_param(relation), Param::Text(name), Param::Text(schema)],
    )?;
    Ok(rows.rows.first().map(|row| row.text(0).to_owned()))
}

/// Name, type, whether NOT NULL.
fn columns(relation: pg_sys::Oid) -> Result<Vec<(String, String, bool)>, SqlError> {
    let rows = sql::run(
        "SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull FROM pg_catalog.pg_attribute
         WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped",
        &[oid_param(relation)],
    )?;
    Ok(rows.rows.iter().map(|row| (row.text(0).to_owned(), row.text(1).to_owned(), row.truth(2))).collect())
}

/// Brings a column that was there before to the type of the contract, where that loses nothing; and lets it be NULL, as
/// fieldsync's own are.
fn fit_column(qualified: &str, column: &str, found: &str, wanted: &str) -> Result<(), HubError> {
    if found != wanted {
        let widens = match column {
            "sync_version" => matches!(found, "integer" | "smallint"),
            "sync_modified_at" => found.starts_with("timestamp") && found.ends_with("without time zone"),
            "sync_origin_client" => found == "text" || found.starts_with("character varying"),
            _ => false,
        };
        if !widens {
            return Err(HubError::SyncColumn {
                table: qualified.to_owned(),
                column: column.to_owned(),
                found: found.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
        sql::run(&format!("ALTER TABLE ONLY {qualified} ALTER COLUMN {} TYPE {wanted}", ident(column)), &[])?;
    }
    sql::run(&format!("ALTER TABLE ONLY {qualified} ALTER COLUMN {} DROP NOT NULL", ident(column)), &[])?;
    Ok(())
}

/// Adds what is missing in one ALTER TABLE. The defaults are constants, so no row is rewritten; those of version and time
/// are taken away again, because from now on the trigger gives them.
fn add_columns(qualified: &str, added: &[&str], with_clocks: bool, version: u64) -> Result<(), SqlError> {
    let mut parts = Vec::new();
    let mut after = Vec::new();
    for column in added {
        match *column {
            "sync_version" => {
                parts.push(format!("ADD COLUMN sync_version bigint DEFAULT {version}"));
                after.push("ALTER COLUMN sync_version DROP DEFAULT");
            }
            "sync_modified_at" => {
                parts.push(
                    "ADD COLUMN sync_modified_at timestamptz DEFAULT pg_catalog.transaction_timestamp()".to_owned(),
                );
                after.push("ALTER COLUMN sync_modified_at DROP DEFAULT");
            }
            "sync_deleted" => parts.push("ADD COLUMN sync_deleted boolean DEFAULT false".to_owned()),
            _ => parts.push("ADD COLUMN sync_origin_client varchar(64)".to_owned()),
        }
    }
    if with_clocks {
        parts.push("ADD COLUMN fieldsync_clocks bytea".to_owned());
        // Small and read with every merge: kept in the row, not compressed.
        after.push("ALTER COLUMN fieldsync_clocks SET STORAGE PLAIN");
    }
    for parts in [parts.join(", "), after.join(", ")] {
        if !parts.is_empty() {
            sql::run(&format!("ALTER TABLE ONLY {qualified} {parts}"), &[])?;
        }
    }
    Ok(())
}

const ROW: &str = "BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION fieldsync.row_changed()";
const TRUNCATE: &str = "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fieldsync.table_truncated()";
/// Where a deletion only marks its row, and foreign keys see nothing of it: their time to refuse it, and that of the deferrable ones.
const MARKED: &str = "AFTER DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fieldsync.rows_marked()";
const MARKED_AT_COMMIT: &str = "AFTER UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
     WHEN (NEW.sync_deleted IS TRUE AND OLD.sync_deleted IS NOT TRUE) EXECUTE FUNCTION fieldsync.rows_marked()";

/// fieldsync's triggers: the name, whether tables have it that do not mark deleted rows, how it is made, and its definition.
const TRIGGERS: [(&str, bool, &str, &str); 4] = [
    ("~fieldsync_row", true, "CREATE TRIGGER", ROW),
    ("~fieldsync_truncate", true, "CREATE TRIGGER", TRUNCATE),
    ("~fieldsync_marked", false, "CREATE TRIGGER", MARKED),
    ("~fieldsync_marked_at_commit", false, "CREATE CONSTRAINT TRIGGER", MARKED_AT_COMMIT),
];

/// Gives whether one was missing that tracks. These are ALWAYS enabled: writes that arrive by logical replication are tracked as well.
/// (CREATE OR REPLACE TRIGGER came with Postgres 14.)
fn add_triggers(relation: pg_sys::Oid, qualified: &str, soft_delete: bool) -> Result<bool, SqlError> {
    let mut missing = false;
    for (name, tracks, create, what) in TRIGGERS {
        let is_there = has_trigger(relation, name)?;
        let name = ident(name);
        let wanted = tracks || soft_delete;
        if wanted && !is_there {
            sql::run(&format!("{create} {name} {}", what.replace("{table}", qualified)), &[])?;
            missing |= tracks;
        } else if !wanted && is_there {
            sql::run(&format!("DROP TRIGGER {name} ON {qualified}"), &[])?;
        }
        if tracks {
            sql::run(&format!("ALTER TABLE ONLY {qualified} ENABLE ALWAYS TRIGGER {name}"), &[])?;
        }
    }
    Ok(missing)
}

fn has_trigger(relation: pg_sys::Oid, name: &str) -> Result<bool, SqlError> {
    let found = sql::run(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1::oid AND tgname = $2",
        &[oid_param(relation), Param::Text(name)],
    )?;
    Ok(!found.rows.is_empty())
}

fn register(
    relation: pg_sys::Oid,
    schema: &str,
    name: &str,
    soft_delete: bool,
    baseline: Option<(u64, Hlc)>,
) -> Result<i32, SqlError> {
    let _owner = AsOwner::new();
    // Another table that had this name and was renamed keeps its number.
    sql::run(
        "UPDATE fieldsync.tracked_table SET table_name = c.relname, schema_name = n.nspname
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = relid AND c.oid <> $1::oid AND (schema_name, table_name) = ($2, $3)",
        &[oid_param(relation), Param::Text(schema), Param::Text(name)],
    )?;
    // So does this one, if it was renamed while it was disabled or nobody was told.
    sql::run(
        "SELECT fieldsync.take_name((SELECT t.table_id FROM fieldsync.tracked_table t WHERE $1::oid IN (t.relid, t.disabled_relid)
                                     ORDER BY t.relid NULLS LAST LIMIT 1), $2, $3)",
        &[oid_param(relation), Param::Text(schema), Param::Text(name)],
    )?;
    let (version, clock) = baseline.unwrap_or_default();
    // What is known of a table that was disabled is this one's only if this is that table.
    sql::run(
        "DELETE FROM fieldsync.tombstone d USING fieldsync.tracked_table t
         WHERE d.table_id = t.table_id AND t.schema_name = $2 AND t.table_name = $3
           AND $1::oid IS DISTINCT FROM COALESCE(t.relid, t.disabled_relid)",
        &[oid_param(relation), Param::Text(schema), Param::Text(name)],
    )?;
    let rows = sql::run(
        "INSERT INTO fieldsync.tracked_table AS t
                (relid, schema_name, table_name, soft_delete, baseline_version, baseline_clock, enabled, columns)
         VALUES ($1::oid, $2, $3, $4, $5, $6, true, fieldsync.columns_of($1::oid))
         ON CONFLICT (schema_name, table_name) DO UPDATE SET relid = EXCLUDED.relid, soft_delete = EXCLUDED.soft_delete,
             enabled = true, disabled_relid = NULL,
             columns = CASE WHEN EXCLUDED.relid = COALESCE(t.relid, t.disabled_relid) THEN t.columns ELSE EXCLUDED.columns END,
             key_columns = CASE WHEN EXCLUDED.relid = COALESCE(t.relid, t.disabled_relid) THEN t.key_columns ELSE '{}' END,
             column_types = CASE WHEN EXCLUDED.relid = COALESCE(t.relid, t.disabled_relid) THEN t.column_types ELSE '{}' END,
             baseline_version = CASE WHEN $7 THEN EXCLUDED.baseline_version ELSE t.baseline_version END,
             baseline_clock = CASE WHEN $7 THEN EXCLUDED.baseline_clock ELSE t.baseline_clock END
         RETURNING table_id",
        &[
            oid_param(relation),
            Param::Text(schema),
            Param::Text(name),
            Param::Bool(soft_delete),
            Param::Int(version as i64),
            Param::Int(clock.as_i64()),
            Param::Bool(baseline.is_some()),
        ],
    )?;
    let table_id = rows.rows.first().map_or(0, |row| row.int(0) as i32);
    if baseline.is_some() {
        // Cursors went on while the table was disabled, and nothing of it travelled: like its rows, what was deleted before is news.
        sql::run(
            "UPDATE fieldsync.tombstone SET version = $2 WHERE table_id = $1",
            &[Param::Int(i64::from(table_id)), Param::Int(version as i64)],
        )?;
    }
    // Columns may have got other names, and the table another key, where no event trigger fired, or while it was disabled.
    sql::run(
        "SELECT fieldsync.follow_columns($1::integer, $2::oid), fieldsync.follow_key($1::integer, $2::oid)",
        &[Param::Int(i64::from(table_id)), oid_param(relation)],
    )?;
    Ok(table_id)
}

/// What an operator should know, in words.
fn warnings(relation: pg_sys::Oid, qualified: &str) -> Result<Vec<String>, SqlError> {
    let mut warnings = Vec::new();
    let indexes = sql::run(
        "SELECT DISTINCT i.indexrelid::regclass::text FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = $1::oid AND a.attname IN ('sync_version', 'sync_modified_at')",
        &[oid_param(relation)],
    )?;
    for row in &indexes.rows {
        warnings.push(format!(
            "index {} covers a column that every write changes: updates cannot be HOT while it exists, and fieldsync does \
             not use it; consider DROP INDEX",
            row.text(0)
        ));
    }
    let triggers = sql::run(
        "SELECT tgname::text FROM pg_catalog.pg_trigger
         WHERE tgrelid = $1::oid AND NOT tgisinternal AND tgtype & 2 = 2 AND tgname > '~fieldsync_row'
           AND tgname <> '~fieldsync_truncate'",
        &[oid_param(relation)],
    )?;
    for row in &triggers.rows {
        warnings.push(format!(
            "trigger {} of {qualified} fires after fieldsync's; what it changes is not seen. Rename it",
            ident(row.text(0))
        ));
    }
    Ok(warnings)
}

/// Stops tracking. The four sync_* columns stay, because an application may read them; the field clocks go.
pub fn disable(relation: pg_sys::Oid) -> Result<(), HubError> {
    // Whatever has become of the table since: what could not be enabled any more can be disabled.
    let (schema, name) = Named::of(relation)?.for_owner()?;
    let qualified = format!("{}.{}", ident(&schema), ident(&name));
    let is_enabled = || registered(relation, &schema, &name).map(|known| known.is_some_and(|known| known.enabled));
    // In a restored database the registry knows its tables by name until they are first used.
    if !is_enabled()? && (adopt_restored(relation)?.is_none() || !is_enabled()?) {
        return Err(HubError::NotTracked(name));
    }
    // First, so that what goes now is not taken for somebody's mistake.
    forget(relation)?;
    for (name, ..) in TRIGGERS {
        if has_trigger(relation, name)? {
            sql::run(&format!("DROP TRIGGER {} ON {qualified}", ident(name)), &[])?;
        }
    }
    sql::run(&format!("ALTER TABLE ONLY {qualified} DROP COLUMN IF EXISTS fieldsync_clocks"), &[])?;
    catalog::announce_change(relation);
    Ok(())
}

/// Every device gets all rows of a table with its next sync: values were made there that no row trigger saw. Exact however many
/// syncs run meanwhile, because the cursors tell who has seen this transaction.
pub fn send_again(relation: pg_sys::Oid) -> Result<(), HubError> {
    let version = feed::own_version();
    let mut table_id = remade(relation, version)?;
    if table_id.is_none() && adopt_restored(relation)?.is_some() {
        table_id = remade(relation, version)?;
    }
    let Some(table_id) = table_id else {
        let name = sql::run("SELECT $1::oid::pg_catalog.regclass::text", &[oid_param(relation)])?;
        return Err(HubError::NotTracked(name.rows.first().map_or_else(String::new, |row| row.text(0).to_owned())));
    };
    feed::note_whole_table(table_id);
    Ok(())
}

fn remade(relation: pg_sys::Oid, version: u64) -> Result<Option<i32>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "UPDATE fieldsync.tracked_table SET remade_version = $2 WHERE relid = $1::oid AND enabled RETURNING table_id",
        &[oid_param(relation), Param::Int(version as i64)],
    )?;
    Ok(rows.rows.first().map(|row| row.int(0) as i32))
}

/// What was refused while the table, or a column of it, was not there may be taken by now.
fn ask_again(table_id: i32) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run("SELECT fieldsync.ask_again($1::integer)", &[Param::Int(i64::from(table_id))]).map(drop)
}

/// Takes a table out of the registry. Its feed goes: enabled again, it is looked at as a whole. Conflicts stay as a record, tombstones for
/// devices that have not heard of them when that comes.
fn forget(relation: pg_sys::Oid) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "WITH gone AS (UPDATE fieldsync.tracked_table SET enabled = false, relid = NULL, disabled_relid = relid
                       WHERE relid = $1::oid RETURNING table_id)
         DELETE FROM fieldsync.feed USING gone WHERE feed.table_id = gone.table_id",
        &[oid_param(relation)],
    )?;
    Ok(())
}

/// A table that carries fieldsync's trigger and is not in the registry under its OID: after a restore tables have new OIDs,
/// and the registry knows them by name.
pub fn adopt_restored(relation: pg_sys::Oid) -> Result<Option<Rc<Table>>, SqlError> {
    let adopted = {
        let _owner = AsOwner::new();
        sql::run(
            "UPDATE fieldsync.tracked_table t
             SET relid = c.oid, columns = fieldsync.columns_of(c.oid), key_columns = fieldsync.key_columns_of(c.oid),
                 column_types = fieldsync.column_types_of(c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1::oid AND t.enabled AND t.schema_name = n.nspname AND t.table_name = c.relname
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class old WHERE old.oid = t.relid AND old.relname = t.table_name)",
            &[oid_param(relation)],
        )?
        .processed
    };
    if adopted == 0 {
        return Ok(None);
    }
    // SAFETY: makes the update above visible to the look-up.
    unsafe { pg_sys::CommandCounterIncrement() };
    catalog::table(relation)
}
