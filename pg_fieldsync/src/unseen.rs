//! What clients have not seen of tables that were withheld from them ([`crate::withheld`]), though their cursors call it seen.
//!
//! Invariant: what was written to a table while it was withheld counts as seen by none of the client's changes that were made before it
//! had the table again. What the client itself has written it knows, and what it wrote over was decided then; so it knows what conflicts
//! have told it ([`fieldsync_core::seen`]).

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use fieldsync_core::seen::{Told, Withheld};
use fieldsync_core::{Key, Snapshot};
use std::collections::HashMap;

/// A time in which a client did not have a table.
struct Span {
    /// What it had seen before; None: nothing.
    cursor: Option<Snapshot>,
    /// The version of the first answer with the table in it; None: it is still withheld.
    given_since: Option<u64>,
}

impl Span {
    fn holds(&self, base: &Snapshot) -> bool {
        self.given_since.is_none_or(|since| !base.visible(since))
    }
}

/// What is on record of a client, by table.
pub struct Unseen {
    client: u32,
    spans: HashMap<i32, Vec<Span>>,
}

impl Unseen {
    /// Of a client.
    pub fn of(client: u32) -> Result<Unseen, SqlError> {
        let _owner = AsOwner::new();
        let rows = sql::run(
            "SELECT table_id, cursor, given_since FROM fieldsync.unseen WHERE client_no = $1",
            &[Param::Int(i64::from(client))],
        )?;
        let mut spans: HashMap<i32, Vec<Span>> = HashMap::new();
        for row in &rows.rows {
            let cursor = row.maybe_text(1).and_then(|cursor| cursor.parse().ok());
            let given_since = (!row.is_null(2)).then(|| row.int(2) as u64);
            spans.entry(row.int(0) as i32).or_default().push(Span { cursor, given_since });
        }
        Ok(Unseen { client, spans })
    }

    /// What somebody was shown of a table who made a change on this base, where that is less than the base has seen.
    pub fn shown(&self, table_id: i32, base: Option<&Snapshot>) -> Option<Snapshot> {
        let base = base?;
        let spans = self.spans.get(&table_id)?.iter().filter(|span| span.holds(base));
        spans.fold(None, |shown: Option<Snapshot>, span| {
            let nothing = Snapshot::default();
            Some(shown.as_ref().unwrap_or(base).and(span.cursor.as_ref().unwrap_or(&nothing)))
        })
    }

    /// What conflicts have told the client of these rows; nothing, and without asking, of a table that it always had.
    pub fn told<'k>(
        &self,
        table: &Table,
        keys: impl Iterator<Item = &'k Key>,
    ) -> Result<HashMap<String, Vec<Heard>>, SqlError> {
        let mut told: HashMap<String, Vec<Heard>> = HashMap::new();
        if !self.spans.contains_key(&table.table_id) {
            return Ok(told);
        }
        let _owner = AsOwner::new();
        let row_ids: Vec<String> = keys.map(|key| table.row_id(key)).collect();
        let row_ids: Vec<Option<&str>> = row_ids.iter().map(|row_id| Some(row_id.as_str())).collect();
        let rows = sql::run_set(
            "SELECT row_id, raised_version, hub_clocks, change ->> 'hub' = 'none', operation = 'delete' FROM fieldsync.conflict
             WHERE client_no = $1 AND table_id = $2 AND row_id = ANY ($3) AND hub_clocks IS NOT NULL",
            &[Param::Int(i64::from(self.client)), Param::Int(i64::from(table.table_id)), Param::Texts(&row_ids)],
        )?;
        for row in &rows.rows {
            let clocks = table.clocks(row.bytes(2))?;
            let what = match (row.truth(3), row.truth(4)) {
                (true, _) => Told::Deletion(clocks.insert),
                (_, true) => Told::Row(clocks),
                _ => Told::Fields(clocks),
            };
            told.entry(row.text(0).to_owned()).or_default().push(Heard { version: row.int(1) as u64, told: what });
        }
        Ok(told)
    }
}

/// What one conflict has told a client of a row.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The version under which it was raised: a cursor that holds it has heard of it.
    version: u64,
    told: Told,
}

/// A row of a table that was withheld, as somebody knows it who was shown so much of the table and has this base.
pub fn withheld(shown: Snapshot, told: &[Heard], base: Option<&Snapshot>) -> Withheld {
    let heard = told.iter().filter(|heard| base.is_some_and(|base| base.visible(heard.version)));
    Withheld { shown, told: heard.map(|heard| heard.told.clone()).collect() }
}

/// An answer to a client with this cursor leaves a table out.
pub fn begin(client: u32, table_id: i32, cursor: Option<&Snapshot>) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let of_table = [Param::Int(i64::from(client)), Param::Int(i64::from(table_id))];
    let rows = sql::run(
        "SELECT unseen_id, cursor, given_since FROM fieldsync.unseen WHERE client_no = $1 AND table_id = $2",
        &of_table,
    )?;
    let had = cursor.and_then(Snapshot::for_postgres);
    let mut is_on_record = false;
    for row in &rows.rows {
        // An answer that gave it and was never applied gave nothing.
        let ended = !row.is_null(2) && cursor.is_some_and(|cursor| cursor.visible(row.int(2) as u64));
        if ended {
            continue;
        }
        is_on_record = true;
        // A copy of the device may have seen less.
        let noted: Option<Snapshot> = row.maybe_text(1).and_then(|noted| noted.parse().ok());
        let saw_less = noted.is_some_and(|noted| cursor.is_none_or(|cursor| noted.covers(cursor) && noted != *cursor));
        if saw_less || !row.is_null(2) {
            sql::run(
                "UPDATE fieldsync.unseen SET cursor = CASE WHEN $2 THEN $3 ELSE cursor END, given_since = NULL
                 WHERE unseen_id = $1",
                &[Param::Int(row.int(0)), Param::Bool(saw_less), Param::MaybeText(had.as_deref())],
            )?;
        }
    }
    if !is_on_record {
        sql::run(
            "INSERT INTO fieldsync.unseen (client_no, table_id, cursor) VALUES ($1, $2, $3)",
            &[Param::Int(i64::from(client)), Param::Int(i64::from(table_id)), Param::MaybeText(had.as_deref())],
        )?;
    }
    Ok(())
}

/// The answer of this version gives a client a table again, whole.
pub fn end(client: u32, table_id: i32, version: u64) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.unseen SET given_since = $3 WHERE client_no = $1 AND table_id = $2 AND given_since IS NULL",
        &[Param::Int(i64::from(client)), Param::Int(i64::from(table_id)), Param::Int(version as i64)],
    )
    .map(|_| ())
}
