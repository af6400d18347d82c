//! The relations that people read and operators script against, as plain SQL views over `fs_*`.
//!
//! Invariants: no view names a table of the application, so that programs can rebuild and rename theirs. None uses a JSON
//! function: SQLite 3.38 to 3.40 refuses these in views under `PRAGMA trusted_schema = OFF`, and before 3.38 not every build
//! has them.

use crate::error::Result;
use crate::sql::literal;
use crate::track;
use rusqlite::Connection;

/// The views that do not depend on what is tracked.
const VIEWS: &str = include_str!("../../sql/device/20_views.sql");

/// SELECTs in one compound at most; SQLite's own limit is 500, and hosts may lower it.
const TERMS_MAX: usize = 100;

/// Makes the views again; after the set of tracked tables or their columns changed.
pub fn refresh(db: &Connection) -> Result<()> {
    db.execute_batch("DROP VIEW IF EXISTS main.fs_changelog; DROP VIEW IF EXISTS main.sync_queue; DROP VIEW IF EXISTS main.fs_row_status;")?;
    db.execute_batch(&changelog(db)?)?;
    db.execute_batch(VIEWS)?;
    db.execute_batch(&delete_from_queue(db)?)?;
    Ok(())
}

/// A value as JSON text; blobs, and text with a zero in it, as `\x` and hexadecimal digits.
fn json(value: &str) -> String {
    let replace = |text: String, character: &str, escape: &str| format!("replace({text}, {character}, '{escape}')");
    let mut escaped = replace(replace(value.to_owned(), r"'\'", r"\\"), "'\"'", "\\\"");
    for (control, escape) in [(8, r"\b"), (9, r"\t"), (10, r"\n"), (12, r"\f"), (13, r"\r")] {
        escaped = replace(escaped, &format!("char({control})"), escape);
    }
    // The rare ones in steps, one beside the other: SQLite's parser has a stack of 100, and a call inside a call takes three.
    let rare: Vec<u32> = (1..0x20).filter(|control| ![8, 9, 10, 12, 13].contains(control)).collect();
    let mut steps = vec![format!("e0(v) AS (SELECT {escaped})")];
    for some in rare.chunks(5) {
        let step = some.iter().fold("v".to_owned(), |text, control| {
            replace(text, &format!("char({control})"), &format!(r"\u{control:04x}"))
        });
        steps.push(format!("e{}(v) AS (SELECT {step} FROM e{})", steps.len(), steps.len() - 1));
    }
    let all = format!("WITH {} SELECT v FROM e{}", steps.join(", "), steps.len() - 1);
    format!(
        "CASE WHEN {value} IS NULL THEN 'null'
              WHEN typeof({value}) = 'blob' OR instr({value}, char(0)) THEN '\"\\\\x' || lower(hex({value})) || '\"'
              WHEN typeof({value}) <> 'text' THEN replace(quote({value}), 'Inf', '9.0e+999')
              WHEN {value} GLOB '*[' || char(1) || '-' || char(31) || ']*' THEN '\"' || ({all}) || '\"'
              ELSE '\"' || {escaped} || '\"' END"
    )
}

/// A real as fieldsync_core spells it in keys (`Value::to_text`): fifteen digits, or seventeen where fifteen are another number. A
/// CAST would give as many as this SQLite thinks fit. Of the seventeen SQLites differ in the last; what an entry has spelt is
/// looked up ([`crate::conflicts::row_id`]).
fn real(value: &str) -> String {
    let short = format!("printf('%!.15g', {value})");
    let spelt =
        format!("SELECT substr(name, 6) FROM fs_state WHERE name >= 'real ' AND name < 'real!' AND value = {value}");
    format!(
        "replace(CASE WHEN CAST({short} AS REAL) = {value} THEN {short}
                      ELSE coalesce(({spelt}), printf('%!.17g', {value})) END, 'Inf', 'Infinity')"
    )
}

/// A key part as text.
fn text(value: &str) -> String {
    format!(
        "CASE typeof({value}) WHEN 'blob' THEN lower(hex({value})) WHEN 'real' THEN {} ELSE CAST({value} AS TEXT) END",
        real(value)
    )
}

/// A composite key as text: the JSON array of its parts, which are in the side table's columns of this letter.
fn parts_text(letter: char, key_len: usize) -> String {
    let part = |value: String| {
        let (real, json) = (real(&value), json(&value));
        format!("CASE WHEN typeof({value}) <> 'real' THEN {json} WHEN abs({value}) = 9e999 THEN '\"' || {real} || '\"' ELSE {real} END")
    };
    let list: Vec<String> = (1..=key_len).map(|no| part(format!("s.{letter}{no}"))).collect();
    format!("'[' || {} || ']'", list.join(" || ',' || "))
}

/// One SELECT per tracked table, put together.
fn changelog(db: &Connection) -> Result<String> {
    let mut parts = Vec::new();
    for known in track::tracked(db)? {
        let no = known.table_no;
        let mut columns = db.prepare_cached(
            "SELECT slot, name, key_part FROM main.fs_column WHERE table_no = ?1 ORDER BY key_part = 0, key_part, position, slot",
        )?;
        let found: Vec<(i64, String, i64)> = columns
            .query_map([no], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let key_len = found.iter().filter(|(_, _, part)| *part > 0).count();
        let row_id = if key_len == 1 { text("l.key") } else { parts_text('k', key_len) };
        // (label, value, condition) of every field; put together by `object`.
        let mut old = Vec::new();
        let mut new = Vec::new();
        for (slot, name, _) in found.iter().filter(|(_, _, part)| *part == 0) {
            let label = literal(db, &format!(",{}:", serde_json::Value::String(name.clone())))?;
            let (before, after) = (format!("s.o{slot}"), format!("s.n{slot}"));
            let changed = format!("l.what & 7 = 2 AND {before} IS NOT {after}");
            let value = |logged: &str, kept: &str| format!("CASE WHEN l.field = {slot} THEN {logged} ELSE {kept} END");
            let field = format!("l.field = {slot} OR ({changed})");
            old.push((label.clone(), value("l.old", &before), format!("{field} OR l.what & 7 > 2")));
            new.push((label, value("l.new", &after), field));
        }
        let new_key = if key_len == 1 { text("s.q1") } else { parts_text('q', key_len) };
        parts.push(format!(
            "SELECT l.clock, l.what, l.at, {} AS table_name, {row_id} AS row_id,
              CASE WHEN l.what & 7 = 4 THEN {new_key} END AS new_row_id,
              CASE WHEN l.what & 7 > 1 THEN {} END AS old, CASE WHEN l.what & 7 = 2 THEN {} END AS new
             FROM fs_log l LEFT JOIN fs_side_{no} s ON s.clock = l.clock WHERE l.what >> 3 = {no}",
            literal(db, &known.name)?,
            object(&old),
            object(&new)
        ));
    }
    if parts.is_empty() {
        parts.push("SELECT NULL AS clock, NULL AS what, NULL AS at, NULL AS table_name, NULL AS row_id, NULL AS new_row_id, NULL AS old, NULL AS new WHERE 0".into());
    }
    Ok(format!(
        "CREATE VIEW main.fs_changelog AS
         SELECT clock, strftime('%Y-%m-%dT%H:%M:%fZ', ifnull(at, (clock >> 16) / 86400000.0 + 2440587.5)) AS changed_at,
                table_name, row_id,
                CASE what & 7 WHEN 1 THEN 'insert' WHEN 2 THEN 'update' WHEN 3 THEN 'delete' ELSE 'key change' END AS operation,
                old, new, new_row_id,
                (SELECT value FROM fs_state WHERE name = 'client_id') AS client_id,
                CASE WHEN clock > (SELECT ifnull(max(value), 0) FROM fs_state WHERE name = 'watermark_place') THEN 'pending' ELSE 'acknowledged' END AS status
         FROM ({})",
        parts.join("\nUNION ALL ")
    ))
}

/// A JSON object of fields. They are rows of a subquery, so that the long expression for a value stands there once.
fn object(fields: &[(String, String, String)]) -> String {
    if fields.is_empty() {
        return "NULL".to_owned();
    }
    let mut parts = Vec::new();
    for some in fields.chunks(TERMS_MAX) {
        let rows: Vec<String> = some
            .iter()
            .map(|(label, value, condition)| format!("SELECT {label} AS label, {value} AS value WHERE {condition}"))
            .collect();
        parts.push(format!(
            "ifnull((SELECT group_concat(f.label || {}, '') FROM ({}) AS f), '')",
            json("f.value"),
            rows.join(" UNION ALL ")
        ));
    }
    format!("'{{' || substr({}, 2) || '}}'", parts.join(" || "))
}

/// `DELETE FROM sync_queue` drops answered entries, whatever their age, and refuses to drop others.
fn delete_from_queue(db: &Connection) -> Result<String> {
    let mut sides = String::new();
    for known in track::tracked(db)? {
        sides.push_str(&format!("  DELETE FROM fs_side_{} WHERE clock = OLD.queue_id;\n", known.table_no));
    }
    Ok(format!(
        "CREATE TRIGGER main.sync_queue_delete INSTEAD OF DELETE ON sync_queue
         BEGIN
           SELECT RAISE(ABORT, 'sync_queue: this change has not been synced, or waits for a decision; deleting it would lose it')
           WHERE OLD.status <> 'synced';
         {sides}
           -- Its place and its time stay: the clocks of those after it follow from them.
           UPDATE fs_log SET what = 7, key = NULL, field = NULL, old = NULL, new = NULL WHERE clock = OLD.queue_id;
         END"
    ))
}
