//! Rows that INSERT OR REPLACE and UPDATE OR REPLACE remove fire no delete trigger. So a BEFORE trigger looks, by the primary
//! key and by every other unique index, whether a row is in the way. Only then it finds out whether the statement replaces:
//! an `INSERT OR IGNORE` into the probe table is ignored, except under OR REPLACE, whose clause it inherits. If it does, the
//! row in the way is noted in `fs_gone_<n>`, and the AFTER trigger logs what became of it. A note that is not followed by a
//! replacement (a later trigger said RAISE(IGNORE), an upsert took over) does no harm: a noted row counts as replaced
//! only if it is gone, and every other way to go removes its note. Under an explicit OR ABORT, OR FAIL or OR ROLLBACK the probe
//! fails where the statement itself would have failed; the probe's index is named for the message that a person reads then.
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
            .map(|(part, name)| {
                let (quoted, collation) = (&part.quoted, &part.collation);
                format!("{quoted} = {gone}.{name}{collation} AND {quoted} COLLATE BINARY IS {gone}.{name}")
            })
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
            let key_to_come = self.key_is_rowid && name == "before_insert";
            self.trigger(name, &when, &exists.join("\n  OR "), &self.note_body(extra, key_to_come))
        })
        .collect()
    }

    /// `key_to_come`: NEW may have a rowid that SQLite has not chosen yet. It is -1 then, and a row of that number is not in the way: a
    /// probe on its account would refuse what nothing refuses. It is noted unprobed, as a note that no replacement follows does no harm.
    fn note_body(&self, extra: &str, key_to_come: bool) -> Vec<String> {
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
            let (probing, note) = match self.key.first().filter(|_| key_to_come) {
                Some(key) => self.note_with_key_to_come(&key.quoted, &names, &columns, &any),
                None => ("VALUES (1, 1)".to_owned(), note),
            };
            vec![
                format!("INSERT OR IGNORE INTO {probe}(one, replacing) {probing};"),
                note,
                format!("UPDATE {probe} SET replacing = 0 WHERE replacing;"),
            ]
        }
    }

    /// The probe's row and the note where the key may be one to come. Whoever does not replace does not replace an earlier note, either: it
    /// is set right, whatever the clause of the statement.
    fn note_with_key_to_come(&self, key: &str, names: &[String], columns: &[&str], any: &str) -> (String, String) {
        let (gone, probe) = (self.gone(), self.probe());
        let others: Vec<String> = self.in_the_way[1..]
            .iter()
            .map(|condition| format!(" OR EXISTS (SELECT 1 FROM {} WHERE {condition})", self.table))
            .collect();
        let set: Vec<String> = self.old_names().iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let set = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        (
            format!("SELECT 1, 1 WHERE NEW.{key} <> -1{}", others.concat()),
            format!(
                "INSERT INTO {gone}({}) SELECT {} FROM {} WHERE ({any}) AND (NEW.{key} = -1 OR (SELECT replacing FROM {probe})) ON CONFLICT(k1) DO {set};",
                names.join(", "),
                columns.join(", "),
                self.table
            ),
        )
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
