//! Which triggers fire while rows of the hub are written.
//!
//! Effects that travel as rows of their own must not happen twice: triggers that write tracked tables do not fire. Derived
//! local data must stay right: triggers that write only untracked tables (a full-text index) do. Triggers that write nothing
//! (they can only refuse) do not: the hub has already accepted the row. Capture never sees these writes.
//!
//! A trigger that fires and refuses by `RAISE(ROLLBACK, …)` says ABORT meanwhile: it may keep its row away, and not take the whole reply
//! back.
//!
//! What a trigger writes is read from its text. The grammar allows that exactly: the statements of a trigger's body begin
//! with INSERT, REPLACE, UPDATE, DELETE or SELECT, and name their table without a schema. (An authorizer would tell the same, but
//! the host's own could not be put back.)

use crate::error::Result;
use crate::schema::{tokens, unquoted};
use crate::sql::{self, quote, TAKE_BACK};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Statement};
use std::collections::{HashMap, HashSet};

/// Triggers and foreign key actions are as this call needs them until it is dropped.
pub struct Muted<'a> {
    db: &'a Connection,
    triggers_were_on: bool,
    keys_were_on: bool,
    /// Triggers taken away, to be made again in their order.
    taken: Vec<Trigger>,
    /// Takes the transaction back where an interrupted connection runs no ROLLBACK; see [`crate::sql::atomically`], whose own
    /// statement has expired with the settings that change here.
    by_force: Option<Statement<'a>>,
}

#[derive(Debug, Clone)]
struct Trigger {
    schema: &'static str,
    name: String,
    sql: String,
    /// It is on a table that is written to, and fires.
    fires: bool,
    meanwhile: Meanwhile,
}

/// What stands of a trigger while rows are written.
#[derive(Debug, Clone)]
enum Meanwhile {
    Nothing,
    Itself,
    Another(String),
}

impl<'a> Muted<'a> {
    /// Mutes what must not fire. `tracked` are all tracked tables (lower case); `written` gives those that will be written to,
    /// and is asked only where it matters.
    pub fn new(
        db: &'a Connection,
        tracked: &HashSet<String>,
        written: impl FnOnce() -> Result<HashSet<String>>,
    ) -> Result<Muted<'a>> {
        let on = |option| db.db_config(option);
        let mut muted = Muted {
            db,
            triggers_were_on: on(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?,
            keys_were_on: on(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)?,
            taken: Vec::new(),
            by_force: None,
        };
        // Foreign keys are checked by ourselves when all rows are there (`references`): the rows come in the hub's order, and an
        // ON DELETE CASCADE here would take local edits along that nobody has logged.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        let fires = |triggers: &[Trigger]| muted.triggers_were_on && triggers.iter().any(|trigger| trigger.fires);
        let mut triggers = triggers(db, tracked, tracked)?;
        if fires(&triggers) {
            triggers = self::triggers(db, &written()?, tracked)?;
        }
        let some_fire = fires(&triggers);
        muted.by_force = Some(db.prepare(TAKE_BACK)?);
        if some_fire {
            for trigger in triggers {
                match &trigger.meanwhile {
                    Meanwhile::Nothing => muted.drop_trigger(&trigger)?,
                    Meanwhile::Itself => {}
                    Meanwhile::Another(sql) => {
                        muted.drop_trigger(&trigger)?;
                        db.execute_batch(sql)?;
                    }
                }
                muted.taken.push(trigger);
            }
        } else {
            // Since SQLite 3.35 the switch leaves those of the connection's own schema on.
            for mut trigger in triggers.into_iter().filter(|trigger| trigger.schema == "temp") {
                muted.drop_trigger(&trigger)?;
                trigger.meanwhile = Meanwhile::Nothing;
                muted.taken.push(trigger);
            }
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            muted.by_force = Some(db.prepare(TAKE_BACK)?);
        }
        Ok(muted)
    }

    fn drop_trigger(&self, trigger: &Trigger) -> Result<()> {
        let name = quote(self.db, &trigger.name)?;
        Ok(self.db.execute_batch(&format!("DROP TRIGGER {}.{name}", trigger.schema))?)
    }

    /// Puts back what was taken away.
    pub fn restore(mut self) -> Result<bool> {
        let taken = std::mem::take(&mut self.taken);
        for trigger in taken.iter().filter(|trigger| !matches!(trigger.meanwhile, Meanwhile::Nothing)) {
            self.drop_trigger(trigger)?; // so that all are made again in the order they had
        }
        for trigger in &taken {
            self.db.execute_batch(&trigger.sql)?;
        }
        self.by_force = None;
        Ok(!taken.is_empty())
    }
}

impl Drop for Muted<'_> {
    fn drop(&mut self) {
        if let Some(mut statement) = self.by_force.take() {
            // Something failed, and the transaction will be undone anyway.
            let _ = statement.raw_query().next();
        }
        // Dropped triggers come back with the transaction that is rolled back when this is dropped without `restore`.
        let _ = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, self.triggers_were_on);
        let _ = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, self.keys_were_on);
    }
}

fn triggers(db: &Connection, written: &HashSet<String>, tracked: &HashSet<String>) -> Result<Vec<Trigger>> {
    let mut found = Vec::new();
    let mut all: Vec<(&'static str, String, String, String)> = Vec::new();
    for (schema, catalog) in [("main", "main.sqlite_master"), ("temp", "sqlite_temp_master")] {
        let mut statement = db.prepare(&format!(
            "SELECT name, tbl_name, sql FROM {catalog} WHERE type = 'trigger' AND sql IS NOT NULL ORDER BY rowid"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            all.push((schema, row.get(0)?, sql::folded(row, 1)?, row.get(2)?));
        }
    }
    // What is written to a view is written by its INSTEAD OF triggers. These stay: they fire only for others.
    let views: HashSet<String> = db
        .prepare("SELECT name FROM (SELECT type, name FROM main.sqlite_master UNION ALL SELECT type, name FROM sqlite_temp_master) WHERE type = 'view'")?
        .query_map([], |row| sql::folded(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut instead: HashMap<String, HashSet<String>> = HashMap::new();
    for (_, _, view, sql) in all.iter().filter(|(_, _, table, _)| views.contains(table)) {
        instead.entry(view.clone()).or_default().extend(targets(sql));
    }
    // A trigger that fires may set off others, on tables that are not in the reply: those that write tracked tables
    // must be silent as well.
    for (schema, name, table, sql) in all.into_iter().filter(|(_, _, table, _)| !views.contains(table)) {
        let ours = is_ours(&name);
        let writes = through_views(targets(&sql), &instead);
        let to_tracked = writes.iter().any(|target| tracked.contains(target));
        let on_written = written.contains(&table);
        let fires = !ours && !writes.is_empty() && !to_tracked;
        let silent = if on_written { !fires } else { !fires && (ours || to_tracked) };
        let softer = if silent { None } else { without_rollback(&sql) };
        if on_written || silent || softer.is_some() {
            let here = |sql: String| match schema {
                "temp" => sql.replacen("CREATE TRIGGER", "CREATE TEMP TRIGGER", 1),
                _ => sql,
            };
            let meanwhile = match (silent, softer) {
                (true, _) => Meanwhile::Nothing,
                (false, None) => Meanwhile::Itself,
                (false, Some(softer)) => Meanwhile::Another(here(softer)),
            };
            found.push(Trigger { schema, name, sql: here(sql), fires: fires && on_written, meanwhile });
        }
    }
    Ok(found)
}

/// The tables written, also by way of views.
fn through_views(named: HashSet<String>, instead: &HashMap<String, HashSet<String>>) -> HashSet<String> {
    let mut all = named.clone();
    let mut open: Vec<String> = named.into_iter().collect();
    while let Some(target) = open.pop() {
        for next in instead.get(&target).into_iter().flatten() {
            if all.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    all
}

/// Whether a trigger is one of the capture triggers (`fs_<number>_…`).
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("fs_") else { return false };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
    digits > 0 && rest[digits..].starts_with('_')
}

/// Whether a trigger can fire whose statements say what becomes of conflicts (INSERT OR REPLACE).
pub fn some_trigger_has_a_clause(db: &Connection) -> Result<bool> {
    if !db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)? {
        return Ok(false);
    }
    let mut statement = db.prepare_cached(
        "SELECT name, sql FROM (SELECT type, name, sql FROM main.sqlite_master UNION ALL SELECT type, name, sql FROM sqlite_temp_master)
         WHERE type = 'trigger' AND sql IS NOT NULL",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        let words = tokens(&sql);
        let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
        let or = |words: &[&str]| (is(words[0], "insert") || is(words[0], "update")) && is(words[1], "or");
        let replace = |words: &[&str]| is(words[0], "replace") && is(words[1], "into");
        if !is_ours(&name) && words.windows(2).any(|words| or(words) || replace(words)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The trigger with ABORT in the place of every ROLLBACK of its own, if it has any.
fn without_rollback(sql: &str) -> Option<String> {
    let words = tokens(sql);
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let begins = |word: &str| ["insert", "update"].iter().any(|wanted| is(word, wanted));
    let mut softer = String::new();
    let mut rest = 0;
    for window in words.windows(3) {
        let [first, second, word] = window else { continue };
        // RAISE(ROLLBACK, …), INSERT OR ROLLBACK, UPDATE OR ROLLBACK
        let by_clause = begins(first) && is(second, "or");
        if is(word, "rollback") && (by_clause || (is(first, "raise") && *second == "(")) {
            let at = word.as_ptr() as usize - sql.as_ptr() as usize; // words are parts of the text
            softer += &sql[rest..at];
            softer += "ABORT";
            rest = at + word.len();
        }
    }
    (rest > 0).then(|| softer + &sql[rest..])
}

/// The tables that a trigger's statements write, lower case.
fn targets(sql: &str) -> HashSet<String> {
    let words = tokens(sql);
    let is = |at: usize, word: &str| words.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word));
    let mut found = HashSet::new();
    // A column may bear the name, too, and stand in the condition.
    let begins = |at: usize| ["insert", "replace", "update", "delete", "select"].iter().any(|word| is(at, word));
    let Some(begin) = (0..words.len()).find(|at| is(*at, "begin") && begins(at + 1)) else { return found };
    let mut start = true;
    for at in begin + 1..words.len() {
        if start {
            // INSERT [OR x] INTO t, REPLACE INTO t, UPDATE [OR x] t, DELETE FROM t
            let name = if is(at, "update") {
                Some(if is(at + 1, "or") { at + 3 } else { at + 1 })
            } else if is(at, "delete") || is(at, "replace") {
                Some(at + 2)
            } else if is(at, "insert") {
                Some(if is(at + 1, "or") { at + 4 } else { at + 2 })
            } else {
                None
            };
            if let Some(name) = name.and_then(|name| words.get(name)) {
                found.insert(unquoted(name).to_ascii_lowercase());
            }
        }
        start = words[at] == ";";
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_a_trigger() {
        let sql = "CREATE TRIGGER x AFTER UPDATE ON t WHEN new.a BEGIN
            INSERT OR REPLACE INTO \"A\"\"b\"(x) SELECT 1 FROM z; -- UPDATE no
            UPDATE [c d] SET x = (SELECT 1; 2); DELETE FROM e WHERE 1; REPLACE INTO f VALUES (';'); SELECT 1; END";
        let mut found: Vec<_> = targets(sql).into_iter().collect();
        found.sort();
        assert_eq!(found, ["a\"b", "c d", "e", "f"]);
        assert!(targets("CREATE TRIGGER x AFTER UPDATE OF begin ON t WHEN new.begin > 1 BEGIN DELETE FROM g; END")
            .contains("g"));
        assert_eq!(
            without_rollback(
                "CREATE TRIGGER r AFTER UPDATE ON t BEGIN INSERT OR ROLLBACK INTO g SELECT rollback OR rollback, 'OR ROLLBACK';
                 SELECT raise ( RollBack , 'ROLLBACK'); END"
            )
            .as_deref(),
            Some(
                "CREATE TRIGGER r AFTER UPDATE ON t BEGIN INSERT OR ABORT INTO g SELECT rollback OR rollback, 'OR ROLLBACK';
                 SELECT raise ( ABORT , 'ROLLBACK'); END"
            )
        );
        assert!(without_rollback("CREATE TRIGGER rollback AFTER INSERT ON t BEGIN DELETE FROM g; END").is_none());
        assert!(is_ours("fs_12_insert") && !is_ours("fs_insert") && !is_ours("fs_1x"));
    }
}
