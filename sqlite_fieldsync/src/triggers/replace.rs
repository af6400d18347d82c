//! Rows that INSERT OR REPLACE and UPDATE OR REPLACE remove fire no delete trigger. So a BEFORE trigger looks, by the primary
//! key and by every other unique index, whether a row is in the way. Only then it finds out whether the statement replaces:
//! an `INSERT OR IGNORE` into the probe table is ignored, except under OR REPLACE, whose clause it inherits. If it does, the
//! row in the way is noted in `fs_gone_<n>`, and the AFTER trigger logs what became of it. A note that is not followed by a
//! replacement (a later trigger said RAISE(IGNORE), an upsert took over) does no harm: a noted row counts as replaced
//! only if it is gone, and every other way to go removes its note. Under an explicit OR ABORT, OR FAIL or OR ROLLBACK the probe
//! fails where the statement itself would have failed; the probe's index is named for the message that a person reads then.
//!
//! A key that SQLite is still to give is -1 in a BEFORE trigger, and so may be a key that the program gives. A row that has this key is in
//! the way of the latter alone: the probe leaves it out, which would fail for both, and the row is noted in any case.
//!
//! Invariant: such a row is logged as deleted exactly if it is gone, and one that was replaced by itself as an update of what differs.

use super::{what, Field, Plan, NOW};
use crate::error::Result;
use crate::sql::quote;
use rusqlite::Connection;

impl Plan {
    pub(super) fn gone(&self) -> String {
        format!("fs_gone_{}", self.table_no)
    }

    fn probe(&self) -> String {
        format!("fs_probe_{}", self.table_no)
    }

    /// The row noted in the gone table stands in the table, under exactly this key.
    fn still_there(&self) -> String {
        let gone = self.gone();
        let parts: Vec<String> = self
            .key
            .iter()
            .zip(self.key_names("k"))
            .map(|(part, name)| format!("{0} = {gone}.{name} AND {0} COLLATE BINARY IS {gone}.{name}", part.quoted))
            .collect();
        format!("EXISTS (SELECT 1 FROM {} WHERE {})", self.table, parts.join(" AND "))
    }

    /// The note's key is the key of `row` (OLD or NEW).
    pub(super) fn note_is(&self, row: &str) -> String {
        let parts: Vec<String> = self
            .key_names("k")
            .iter()
            .zip(self.key_values(row))
            .map(|(name, value)| format!("{name} IS {value}"))
            .collect();
        parts.join(" AND ")
    }

    pub(super) fn scratch_tables(&self, db: &Connection) -> Result<Vec<String>> {
        let (gone, probe) = (self.gone(), self.probe());
        let mut columns = self.key_names("k");
        columns.extend(self.old_names());
        columns.extend(self.fields.iter().map(|field| format!("n{}", field.slot)));
        let message = quote(db, &format!("{}: a row with this key or unique value is there already", self.label))?;
        Ok(vec![
            format!("DROP TABLE IF EXISTS main.{gone}"),
            format!("DROP TABLE IF EXISTS main.{probe}"),
            format!(
                "CREATE TABLE main.{gone}({}, fate INTEGER, PRIMARY KEY ({}))",
                columns.join(", "),
                self.key_names("k").join(", ")
            ),
            format!("CREATE TABLE main.{probe}(one INTEGER NOT NULL, replacing INTEGER NOT NULL)"),
            format!("DROP INDEX IF EXISTS main.{message}"), // of a table that had this name before
            format!("CREATE UNIQUE INDEX main.{message} ON {probe}(one + 0)"),
            format!("INSERT INTO main.{probe} VALUES (1, 0)"),
        ])
    }

    /// What became of noted rows when a row was inserted; the notes' own triggers go on. A trigger of its own: there is hardly
    /// ever a note, and a statement that finds none costs as much as the log entry (its registers are made for each row).
    /// SQLite fires the youngest trigger first, so this one is made before the one that logs the insert.
    /// Being the first that names columns, it is also the one that ALTER TABLE DROP COLUMN complains of, by its name: SQLite
    /// drops no column that a trigger names, and the name is the only place for a word about what to do.
    pub(super) fn after_insert(&self, db: &Connection) -> Result<String> {
        let mut set = vec![format!(
            "fate = CASE WHEN {} THEN 2 WHEN {} THEN 0 ELSE 1 END",
            self.note_is("NEW"),
            self.still_there()
        )];
        set.extend(self.fields.iter().map(|field| format!("n{} = NEW.{}", field.slot, field.quoted)));
        let body = [format!("UPDATE {} SET {};", self.gone(), set.join(", "))];
        let hint = format!(
            "fs_{}_after_insert (fieldsync: SELECT fs_untrack('{2}'), drop the column, then SELECT fs_track('{2}', '{1}'))",
            self.table_no, r#"{"existing": "ignore"}"#, self.label
        );
        let condition = format!("EXISTS (SELECT 1 FROM {})", self.gone());
        Ok(self.trigger_named(&quote(db, &hint)?, &self.table, "AFTER INSERT", &condition, &body))
    }

    pub(super) fn fate_after_update(&self, or: &str) -> String {
        format!("UPDATE {} SET fate = 1 WHERE NOT {} {or};", self.gone(), self.still_there())
    }

    /// Notes rows that the statement may be about to replace.
    pub(super) fn before_replace(&self) -> Vec<String> {
        let of = self.unique_columns.as_ref().map_or(String::new(), |columns| format!(" OF {}", columns.join(", ")));
        let not_self = format!(
            " AND NOT ({})",
            self.key
                .iter()
                .map(|part| format!("{0} COLLATE BINARY IS OLD.{0}", part.quoted))
                .collect::<Vec<_>>()
                .join(" AND ")
        );
        [
            ("before_insert", "BEFORE INSERT".to_owned(), ""),
            ("before_update", format!("BEFORE UPDATE{of}"), not_self.as_str()),
        ]
        .into_iter()
        .map(|(name, when, extra)| {
            let exists: Vec<String> = self
                .in_the_way
                .iter()
                .map(|condition| format!("EXISTS (SELECT 1 FROM {} WHERE {condition}{extra})", self.table))
                .collect();
            let certain = match name {
                "before_insert" if self.key_is_rowid => {
                    format!(" WHERE NEW.{} <> -1 OR {}", self.key[0].quoted, exists[1..].join(" OR "))
                        .trim_end_matches(" OR ")
                        .to_owned()
                }
                _ => String::new(),
            };
            self.trigger(name, &when, &exists.join("\n  OR "), &self.note_body(extra, &certain))
        })
        .collect()
    }

    /// `certain`: where it is not, a row may be in the way only of a key that this is not.
    fn note_body(&self, extra: &str, certain: &str) -> Vec<String> {
        let (gone, probe) = (self.gone(), self.probe());
        let any: Vec<String> = self.in_the_way.iter().map(|condition| format!("({condition}{extra})")).collect();
        let any = any.join(" OR ");
        let keys: Vec<&str> = self.key.iter().map(|part| part.quoted.as_str()).collect();
        let keys = keys.join(", ");
        let names: Vec<String> = self.key_names("k").into_iter().chain(self.old_names()).collect();
        let columns: Vec<&str> = self.key.iter().chain(&self.fields).map(|field| field.quoted.as_str()).collect();
        let replacing =
            if self.replaces_by_itself { String::new() } else { format!(" AND (SELECT replacing FROM {probe})") };
        let forget = format!(
            "DELETE FROM {gone} WHERE ({}) IN (SELECT {keys} FROM {} WHERE ({any}){replacing});",
            self.key_names("k").join(", "),
            self.table
        );
        let note = format!(
            "INSERT INTO {gone}({}) SELECT {} FROM {} WHERE ({any}){replacing};",
            names.join(", "),
            columns.join(", "),
            self.table
        );
        if self.replaces_by_itself {
            vec![forget, note]
        } else {
            // Who replaces inherits OR REPLACE: the note replaces an earlier one of the same row. A statement less for each row
            // that is inserted, also where nothing is in the way: SQLite makes the registers of all of them.
            let mut body = vec![
                format!("INSERT OR IGNORE INTO {probe}(one, replacing) SELECT 1, 1{certain};"),
                note,
                format!("UPDATE {probe} SET replacing = 0 WHERE replacing;"),
            ];
            if !certain.is_empty() {
                body.push(format!("DELETE FROM {gone} WHERE k1 = -1 AND NEW.{keys} = -1;"));
                body.push(format!(
                    "INSERT INTO {gone}({}) SELECT {} FROM {} WHERE {keys} = -1 AND NEW.{keys} = -1;",
                    names.join(", "),
                    columns.join(", "),
                    self.table
                ));
            }
            body
        }
    }

    /// What became of noted rows.
    pub(super) fn after_replace(&self) -> Vec<String> {
        let gone = self.gone();
        let of = self.unique_columns.as_ref().map_or(String::new(), |columns| format!(" OF {}", columns.join(", ")));
        let mut all = vec![self.trigger(
            "after_update",
            &format!("AFTER UPDATE{of}"),
            &format!("EXISTS (SELECT 1 FROM {gone}) AND {}", self.same_key()),
            &[self.fate_after_update("")],
        )];
        if self.replaces_by_itself {
            // An upsert into such a table leaves a note of the row that it updated.
            all.push(self.trigger(
                "upserted",
                "AFTER UPDATE",
                &format!("EXISTS (SELECT 1 FROM {gone})"),
                &[format!("DELETE FROM {gone} WHERE {} AND {};", self.note_is("OLD"), self.still_there())],
            ));
        }
        let note_key = self.key_names("k").iter().map(|name| format!("OLD.{name}")).collect::<Vec<_>>();
        let this_note = self.key_names("k").iter().map(|name| format!("{name} IS OLD.{name}")).collect::<Vec<_>>();
        let forget = format!("DELETE FROM {gone} WHERE {};", this_note.join(" AND "));
        let what_delete = self.what(what::DELETE);
        let (mut columns, mut values) =
            if self.composite() { (self.key_names("k"), note_key.clone()) } else { (Vec::new(), Vec::new()) };
        columns.extend(self.old_names());
        values.extend(self.fields.iter().map(|field| format!("OLD.o{}", field.slot)));
        let mut body = vec![if self.composite() {
            format!("INSERT INTO fs_log(what, at) VALUES ({what_delete}, {NOW});")
        } else {
            format!("INSERT INTO fs_log(what, key, at) VALUES ({what_delete}, OLD.k1, {NOW});")
        }];
        if !columns.is_empty() {
            body.push(self.side_entry(&columns, &values, ""));
        }
        body.push(forget.clone());
        all.push(self.trigger_on(&gone, "gone", "AFTER UPDATE OF fate", "NEW.fate = 1", &body));
        all.push(self.same_row_again(&forget));
        all
    }

    /// A row replaced by one with the same key is an update of what differs: the insert just logged becomes that.
    fn same_row_again(&self, forget: &str) -> String {
        let (gone, side) = (self.gone(), self.side());
        let (insert, update) = (self.what(what::INSERT), self.what(what::UPDATE));
        let logged = format!("(SELECT clock FROM fs_log WHERE what = {insert} ORDER BY clock DESC LIMIT 1)");
        let differs = |field: &Field| {
            let slot = field.slot;
            if field.any_type {
                format!("(NEW.o{slot} IS NOT NEW.n{slot} OR typeof(NEW.o{slot}) <> typeof(NEW.n{slot}))")
            } else {
                format!("NEW.o{slot} IS NOT NEW.n{slot}")
            }
        };
        let any: Vec<String> = self.fields.iter().map(differs).collect();
        let any = if any.is_empty() { "0".to_owned() } else { any.join(" OR ") };
        let mut columns = vec!["clock".to_owned()];
        let mut values = vec![logged.clone()];
        if self.composite() {
            columns.extend(self.key_names("k"));
            values.extend(self.key_names("k").iter().map(|name| format!("NEW.{name}")));
        }
        for field in &self.fields {
            let slot = field.slot;
            columns.extend([format!("o{slot}"), format!("n{slot}")]);
            values.extend(["o", "n"].map(|side| format!("CASE WHEN {} THEN NEW.{side}{slot} END", differs(field))));
        }
        let body = [
            format!("DELETE FROM {side} WHERE clock = {logged};"),
            format!("INSERT INTO {side}({}) SELECT {} WHERE {any};", columns.join(", "), values.join(", ")),
            format!("DELETE FROM fs_log WHERE clock = {logged} AND NOT ({any});"),
            format!("UPDATE fs_log SET what = {update} WHERE clock = {logged} AND ({any});"),
            forget.to_owned(),
        ];
        self.trigger_on(&gone, "again", "AFTER UPDATE OF fate", "NEW.fate = 2", &body)
    }
}
