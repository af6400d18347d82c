//! `fs_resolve`: settles a conflict by a fresh change.
//!
//! Invariant: a choice is an ordinary logged change of the row. Where the row shows the chosen values already and the hub has others, it is
//! logged all the same, as what was put in place of the hub's; else the hub would hear of a choice that comes to nothing.

mod row;
mod said;

use crate::call::{self, Function};
use crate::conflicts;
use crate::dropped::Unheard;
use crate::error::{Error, Result};
use crate::schema::Table;
use crate::sql::{self, atomically};
use crate::state::Standing;
use crate::track;
use fieldsync_core::{Key, Value};
use row::{bring_back, delete_row, row, touch, value_of, write_fields, write_under};
use rusqlite::{Connection, OptionalExtension};
use serde_json::{json, Map, Value as Json};

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_resolve", arities: &[2], writes: true, deterministic: false, body: fs_resolve }.register(db)
}

/// A conflict as it is settled.
struct Conflict {
    id: i64,
    table: String,
    key: Option<Key>,
    operation: String,
    base: Json,
    mine: Json,
    theirs: Json,
    rule: String,
    outcome: String,
    status: String,
    /// What a person has chosen before.
    choice: Option<String>,
    /// How it was settled is known at both ends.
    heard: bool,
    kept: Option<conflicts::KeptRow>,
}

impl Conflict {
    /// Whether the hub has not taken it, as far as is known here.
    fn was_refused(&self) -> bool {
        matches!(self.outcome.as_str(), "rejected" | "in_the_way")
    }

    /// Whether it is a refused change of which nobody, or only this end, knows what is to become.
    fn waits(&self) -> bool {
        self.was_refused() && !self.heard
    }

    /// Whether it has been settled here since the hub last heard of it.
    fn is_yet_to_be_told(&self) -> bool {
        self.status != "open" && !self.heard
    }

    /// Whether both sides have their own until a person decides.
    fn waits_for_a_person(&self) -> bool {
        self.outcome == "manual" && self.status == "open"
    }

    /// Whether the hub had no such row.
    fn theirs_is_none(&self) -> bool {
        self.theirs.as_object().is_none_or(|theirs| theirs.is_empty())
    }

    /// Whether it is a record that a person has dropped: what its key has now is another one.
    fn is_dropped(&self) -> bool {
        let dropped = self.status != "open" && self.choice.as_deref() == Some("theirs");
        dropped && self.operation == "insert" && self.theirs_is_none()
    }

    /// Whether the hub had no such row before this device's, or a person's, side was chosen.
    fn hub_had_none(&self) -> bool {
        let replaced = matches!(self.outcome.as_str(), "client" | "custom" | "recovered");
        self.theirs_is_none() && replaced && (self.operation == "insert" || self.rule.starts_with("on_delete/"))
    }

    /// Whether it is a record of which the hub has not heard, beside the hub's of its key: see [`conflicts::beside_the_hubs`].
    fn is_beside_the_hubs(&self) -> bool {
        self.outcome == "in_the_way" && self.operation == "insert" && !self.theirs_is_none()
    }

    /// Whether a person has put it in the place of the hub's.
    fn was_put_in_its_place(&self) -> bool {
        self.choice.as_deref().is_some_and(|choice| choice != "theirs")
    }

    /// The row that is aside, unless the table has one of its key again: the hub brought it back, or has another one.
    fn kept_row(&self, db: &Connection) -> Result<Option<&conflicts::KeptRow>> {
        let may_be_there = self.operation == "update" || !self.theirs_is_none();
        let there = self.key.is_some() && may_be_there && row(db, self)?.is_there(db)?;
        Ok(self.kept.as_ref().filter(|_| !there))
    }
}

fn fs_resolve(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let Some(id) = call::optional_integer(arguments, 0, "the conflict's number")? else {
        return Err(Error::argument("the conflict's number is missing"));
    };
    let choice = call::text(arguments, 1, "the choice")?;
    let given: Option<Map<String, Json>> = match choice {
        "mine" | "theirs" => None,
        text => match serde_json::from_str(text) {
            Ok(Json::Object(fields)) => Some(fields),
            _ => return Err(Error::argument("the choice must be 'mine', 'theirs' or a JSON object of fields")),
        },
    };
    atomically(db, || {
        Standing::load(db)?;
        track::renew(db)?;
        let conflict = load(db, id)?;
        let rekeyed = match &given {
            Some(fields) => another_key(db, &conflict, fields)?,
            None => None,
        };
        let changed = match given {
            Some(fields) => settle_edited(db, &conflict, fields)?,
            None if choice == "mine" => settle_mine(db, &conflict)?,
            None => settle_theirs(db, &conflict)?,
        };
        let word = if matches!(choice, "mine" | "theirs") { choice } else { "edited" };
        // A rejected change that is offered again is closed by the hub when it accepts it; dropping one is told, unless it is closed.
        let stays = conflict.outcome == "rejected" && rekeyed.is_none() && (word != "theirs" || conflict.heard);
        db.execute(
            "UPDATE main.fs_conflict SET status = CASE WHEN ?3 THEN status ELSE 'resolved' END, choice = ?2,
                    kept = NULL, told = CASE WHEN ?3 THEN told ELSE 0 END,
                    resolved_at = CASE WHEN ?3 THEN resolved_at ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END
             WHERE conflict_id = ?1",
            (id, word, stays),
        )?;
        // Whatever is chosen next is about the record under its new key, where the hub has none.
        if let Some(key) = rekeyed.filter(|_| conflict.was_refused() && conflict.operation == "insert") {
            db.execute(
                "UPDATE main.fs_conflict SET row_id = ?2, row_key = ?3, theirs = NULL WHERE conflict_id = ?1",
                (id, conflicts::row_id(db, &key)?, conflicts::key_to_bytes(&key)?),
            )?;
        }
        Ok(Value::Text(json!({ "conflict_id": id, "choice": word, "changed": changed }).to_string()))
    })
}

fn load(db: &Connection, id: i64) -> Result<Conflict> {
    let found = db
        .query_row(
            "SELECT table_name, row_key, operation, base, mine, theirs, outcome, status, kept,
                    status = 'resolved' AND told = 1, rule, choice FROM main.fs_conflict WHERE conflict_id = ?1",
            [id],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, Option<Vec<u8>>>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, Option<String>>(3)?,
                    row.get::<_, Option<String>>(4)?,
                    row.get::<_, Option<String>>(5)?,
                    row.get::<_, String>(6)?,
                    row.get::<_, String>(7)?,
                    row.get::<_, Option<Vec<u8>>>(8)?,
                    row.get::<_, bool>(9)?,
                    row.get::<_, String>(10)?,
                    row.get::<_, Option<String>>(11)?,
                ))
            },
        )
        .optional()?;
    let Some((table, key, operation, base, mine, theirs, outcome, status, kept, heard, rule, choice)) = found else {
        return Err(Error::argument(format!("there is no conflict {id}")));
    };
    Ok(Conflict {
        id,
        table,
        key: key.map(|bytes| conflicts::key_from_bytes(&bytes)).transpose()?,
        operation,
        base: side(base)?,
        mine: side(mine)?,
        theirs: side(theirs)?,
        outcome,
        status,
        choice,
        heard,
        rule,
        kept: kept.map(|bytes| conflicts::kept_from_bytes(&bytes)).transpose()?,
    })
}

/// One side of a conflict. Numbers stay as they are written: money has more digits than a float.
fn side(text: Option<String>) -> Result<Json> {
    let parsed = text.map(|text| serde_json::from_str(&text).map_err(|error| Error::OwnData(error.to_string())));
    Ok(parsed.transpose()?.unwrap_or_default())
}

fn settle_mine(db: &Connection, conflict: &Conflict) -> Result<bool> {
    if let Some(kept) = conflict.kept_row(db)? {
        return bring_back(db, conflict, kept, &Map::new());
    }
    if conflict.operation == "delete" {
        return match delete_row(db, conflict)? {
            true => Ok(true),
            false if conflict.was_refused() => touch(db, conflict),
            false => said::deletion(db, conflict),
        };
    }
    if conflict.waits() && conflict.kept.is_none() && shows_it_still(db, conflict)? {
        return touch(db, conflict);
    }
    not_anothers(db, conflict)?;
    let (fields, gone) = still_here(db, conflict, &conflict.mine)?;
    if let (true, Some(gone)) = (fields.is_empty(), gone) {
        return Err(Error::argument(format!(
            "the change was about column '{gone}', which table '{}' does not have any more; settle it with 'theirs' or with a JSON object of fields",
            conflict.table
        )));
    }
    let changed = write_fields(db, conflict, &fields)?;
    said_anyway(db, conflict, changed, &fields)
}

/// A row that shows what was chosen already: a refused change is offered again, another one is said once more. A row that the hub has
/// deleted comes back to it whole.
fn said_anyway(db: &Connection, conflict: &Conflict, changed: bool, fields: &Map<String, Json>) -> Result<bool> {
    match conflict.outcome.as_str() {
        "server" | "manual" if conflict.theirs_is_none() => Ok(said::whole(db, conflict)? || changed),
        _ if changed => Ok(true),
        "rejected" => touch(db, conflict),
        "in_the_way" | "refused_here" => Ok(false),
        _ => said::instead_of_theirs(db, conflict, fields),
    }
}

/// Whether the row is as its rejected change left it: it need not be written again. The hub's spelling of it would tear it from a parent
/// that was refused, too, and is here under the spelling of this device.
fn shows_it_still(db: &Connection, conflict: &Conflict) -> Result<bool> {
    if conflict.operation == "insert" && !conflict.theirs_is_none() {
        return Ok(false); // it is beside the hub's
    }
    let untouched: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.fs_conflict c WHERE c.conflict_id = ?1 AND c.status = 'open' AND ifnull(c.choice, 'mine') = 'mine'
           AND c.first_clock IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM main.fs_changelog l WHERE l.clock > c.last_clock AND l.table_name = c.table_name COLLATE NOCASE
                           AND c.row_id IN (l.row_id, l.new_row_id)))",
        [conflict.id],
        |row| row.get(0),
    )?;
    Ok(untouched && row(db, conflict)?.is_there(db)?)
}

fn settle_edited(db: &Connection, conflict: &Conflict, fields: Map<String, Json>) -> Result<bool> {
    if let Some(kept) = conflict.kept_row(db)? {
        return bring_back(db, conflict, kept, &fields);
    }
    if let Some(key) = another_key(db, conflict, &fields)? {
        if conflict.operation != "insert" {
            return Err(Error::argument(format!(
                "conflict {} is about a record that the hub has; its key cannot be chosen here, change it in the row itself",
                conflict.id
            )));
        }
        return write_under(db, conflict, &fields, &key);
    }
    not_anothers(db, conflict)?;
    let fields = with_the_rest(db, conflict, fields)?;
    let changed = write_fields(db, conflict, &fields)?;
    said_anyway(db, conflict, changed, &fields)
}

/// An error if a record that was dropped is wanted after all, and its key has been given to another one.
fn not_anothers(db: &Connection, conflict: &Conflict) -> Result<()> {
    if conflict.is_dropped() {
        let row = row(db, conflict)?;
        if row.is_there(db)? {
            return Err(Error::argument(format!(
                "row {} of table '{}' is another record by now; give this one another key",
                row.key.row_id(),
                row.table.name
            )));
        }
    }
    Ok(())
}

/// The given fields, and of a rejected change the rest as it was, where the row does not show it any more: the person had dropped the
/// change before, or the row is not there.
fn with_the_rest(db: &Connection, conflict: &Conflict, fields: Map<String, Json>) -> Result<Map<String, Json>> {
    let there = row(db, conflict)?.is_there(db)?;
    let rest = match conflict.operation.as_str() {
        "insert" if !there => &conflict.mine,
        _ if !conflict.waits() => return Ok(fields),
        "insert" if !conflict.theirs_is_none() => &conflict.mine, // the row shows the hub's
        "delete" if !there => &conflict.theirs,
        "update" if !there || conflict.status != "open" || conflict.kept.is_some() => &conflict.mine,
        _ => {
            remember_what_was(db, conflict, &fields)?;
            return Ok(fields);
        }
    };
    Ok(over(&still_here(db, conflict, rest)?.0, &fields))
}

/// Fields over those of the same names.
fn over(under: &Map<String, Json>, fields: &Map<String, Json>) -> Map<String, Json> {
    let mut all = under.clone();
    for (field, value) in fields {
        all.retain(|name, _| !name.eq_ignore_ascii_case(field));
        all.insert(field.clone(), value.clone());
    }
    all
}

/// A person sets fields that were not part of the rejected change: now they are, and what they held before is in the entry's base.
fn remember_what_was(db: &Connection, conflict: &Conflict, fields: &Map<String, Json>) -> Result<()> {
    let mut base = conflict.base.as_object().cloned().unwrap_or_default();
    let before = base.len();
    let mine = conflict.mine.as_object();
    let row = row(db, conflict)?;
    let values = row.values(db)?;
    for field in fields.keys() {
        let is_named = |name: &String| name.eq_ignore_ascii_case(field);
        let column = row.table.columns.iter().find(|column| is_named(&column.name) && column.key_part == 0);
        let Some(column) =
            column.filter(|_| !base.keys().chain(mine.iter().flat_map(|mine| mine.keys())).any(is_named))
        else {
            continue;
        };
        if let Some((name, value)) = values.iter().find(|(name, _)| *name == column.name) {
            base.insert(name.clone(), value.to_json());
        }
    }
    if base.len() > before {
        let base = Json::Object(base).to_string();
        db.execute("UPDATE main.fs_conflict SET base = ?2 WHERE conflict_id = ?1", (conflict.id, base))?;
    }
    Ok(())
}

/// The key that the given fields name, if it is not the conflict's own.
fn another_key(db: &Connection, conflict: &Conflict, fields: &Map<String, Json>) -> Result<Option<Key>> {
    let row = row(db, conflict)?;
    let mut key = row.key.clone();
    for (part, column) in key.0.iter_mut().zip(row.table.key()) {
        if let Some((_, value)) = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(&column.name)) {
            *part = value_of(value, column);
        }
    }
    conflicts::own_form(db, &row.table, &mut key)?;
    Ok((key != row.key).then_some(key))
}

/// The fields of one side that the table has, and the name of one that it does not have (only the hub does, or it was dropped).
fn still_here(db: &Connection, conflict: &Conflict, side: &Json) -> Result<(Map<String, Json>, Option<String>)> {
    let mut fields = side.as_object().cloned().unwrap_or_default();
    let mut gone = None;
    if !fields.is_empty() {
        let table = row(db, conflict)?.table;
        fields.retain(|name, _| {
            let here = table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
            if !here {
                gone = Some(name.clone());
            }
            here
        });
    }
    Ok((fields, gone))
}

fn settle_theirs(db: &Connection, conflict: &Conflict) -> Result<bool> {
    if Table::read_plain(db, &conflict.table)?.is_none() {
        // There is nothing to change here; if ever the table is there again, it is to have what the hub has.
        if let (true, Some(key)) = (conflict.operation != "insert", &conflict.key) {
            conflicts::ask_for(db, &conflict.table, key)?;
        }
        return Ok(false);
    }
    if conflict.kept.is_some() || conflict.outcome == "refused_here" {
        return Ok(false); // the row that made room stays away
    }
    if conflict.is_beside_the_hubs() {
        return give_back_the_hubs(db, conflict);
    }
    if conflict.waits() {
        // The person drops the change: the row becomes what the hub has. What that is, the hub tells.
        return drop_rejected(db, conflict);
    }
    if conflict.was_refused() {
        return Ok(false); // the hub has taken a correction: the row stays as the hub has it
    }
    if conflict.hub_had_none() {
        return delete_row(db, conflict);
    }
    if conflict.waits_for_a_person() && conflict.theirs_is_none() && conflict.operation != "delete" {
        return delete_row(db, conflict); // the hub has deleted it, and this device was not given that
    }
    let (fields, _) = still_here(db, conflict, &conflict.theirs)?;
    if fields.is_empty() || (conflict.operation == "update" && !row(db, conflict)?.is_there(db)?) {
        return Ok(false);
    }
    write_fields(db, conflict, &fields)
}

/// The record of the hub beside which another one was made gets its values back, if a person had put that one in its place before. It is
/// not the dropped one: it stays.
fn give_back_the_hubs(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let row = row(db, conflict)?;
    if !conflict.was_put_in_its_place() || !row.is_there(db)? {
        return Ok(false);
    }
    write_back(db, conflict, &conflict.theirs)?;
    conflicts::ask_for(db, &conflict.table, &row.key)?;
    Ok(true)
}

/// Undoes a rejected change, and whatever was to become of it meanwhile, and asks the hub for the row.
fn drop_rejected(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let Some(key) = &conflict.key else { return Ok(false) };
    match conflict.operation.as_str() {
        // The hub never had the row. Its log entries are answered; the deletion is a change like any other and cancels out.
        "insert" if conflict.is_dropped() => return Ok(false),
        "insert" => return delete_row(db, conflict),
        "delete" => {
            if let Some(unheard) = Unheard::of(db, &conflict.table, key, None)? {
                match unheard.exported {
                    true => write_back(db, conflict, &conflict.theirs)?,
                    false => unheard.forget()?,
                }
            }
        }
        _ => {
            let (mut former, _) = still_here(db, conflict, &conflict.theirs)?;
            former = over(&former, &still_here(db, conflict, &conflict.base)?.0);
            if row(db, conflict)?.is_there(db)? {
                write_back(db, conflict, &Json::Object(former.clone()))?;
            }
            let fields: Vec<String> = former.keys().map(|name| name.to_ascii_lowercase()).collect();
            let unheard = Unheard::of(db, &conflict.table, key, Some(&fields))?;
            if let Some(unheard) = unheard.filter(|unheard| !unheard.exported) {
                unheard.forget()?;
                // What is written into the row from now on does not start from what was rejected.
                db.execute(
                    "UPDATE main.fs_conflict SET first_clock = NULL, last_clock = NULL WHERE conflict_id = ?1",
                    [conflict.id],
                )?;
            }
        }
    }
    conflicts::ask_for(db, &conflict.table, key)?;
    Ok(true)
}

/// Gives the row the hub's values, as far as they are known here. A row that this database refuses (another one has its UNIQUE value
/// by now, or what it refers to is gone) waits for the hub's answer as it is.
fn write_back(db: &Connection, conflict: &Conflict, theirs: &Json) -> Result<()> {
    let (fields, _) = still_here(db, conflict, theirs)?;
    db.execute_batch("SAVEPOINT fs_back")?;
    let refused = match write_fields(db, conflict, &fields) {
        Ok(_) => false,
        Err(Error::Sqlite(error)) if sql::is_refusal(&error) => true,
        Err(Error::Argument(_)) => true,
        Err(error) => return Err(error),
    };
    db.execute_batch(if refused { "ROLLBACK TO fs_back; RELEASE fs_back" } else { "RELEASE fs_back" })?;
    Ok(())
}
