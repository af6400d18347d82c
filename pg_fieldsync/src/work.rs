//! A delta, brought into the hub's terms: tables, keys and values as the hub has them.
//!
//! Invariants:
//! * A change that cannot be expressed in the hub's schema is refused by itself, with table and column named; nothing else
//!   in the delta suffers from it.
//! * Values are compared only after they took the hub's own form, so what went there and back counts as unchanged.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::feed::Xxh3;
use crate::field_values::FieldValues;
use crate::guards::{subtransaction, Settings};
use crate::sql::{self, Cells, Param};
use crate::types::{Canonical, ColumnType};
use fieldsync_core::delta::{Delta, FieldChange, Op, TableChanges};
use fieldsync_core::merge::{Collision, HubState, IncomingField, Outcome};
use fieldsync_core::rules::TableRules;
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::rc::Rc;

/// A table, its rules, and its `priority_field`.
pub type Ruled = (Rc<Table>, Rc<TableRules>, Option<String>);

/// Rules and `priority_field` by table number.
pub type RulesByTable = HashMap<i32, (Rc<TableRules>, Option<String>)>;

/// Everything that one delta asks for.
pub struct Work {
    /// Per table of the hub, parents first.
    pub tables: Vec<TableWork>,
    /// Changes of tables that the hub does not track.
    pub homeless: Vec<Homeless>,
}

/// Changes of one tracked table.
pub struct TableWork {
    /// The table.
    pub table: Rc<Table>,
    /// Its rules.
    pub rules: Rc<TableRules>,
    /// `priority_field`, where the rules name one.
    pub priority_field: Option<String>,
    /// Its rows, by ascending key: the order in which they are locked, everywhere.
    pub items: Vec<Item>,
    /// Field numbers that any change touches.
    pub touched: Vec<u16>,
}

/// All changes of one row.
pub struct Item {
    /// The row.
    pub key: Key,
    /// The changes, in the device's order.
    pub changes: Vec<Prepared>,
    /// From which change on the fields are as the device has them: earlier ones went with a deletion.
    echo_from: usize,
    /// What the device last did to the row; None: all of its changes were answered before and it is a plain update.
    pub last_op: Op,
    /// Whether the device has the row whole (it inserted it in this delta).
    pub inserted: bool,
    /// Fields of changes that were answered before. The device may have missed that answer and show something else by now, so
    /// they travel whatever its cursor has seen, unless a change of this delta says what it shows.
    pub repeated: HashSet<u16>,
    /// Whether such a change made or deleted the row: then it travels whole.
    pub repeated_whole: bool,
    /// Values in columns that the hub does not have: parked by themselves, while the rest of the row goes its way.
    pub lost: Vec<Lost>,
    /// Why the row's changes cannot even be tried.
    pub refused: Option<SqlError>,
    /// What the merge found and decided.
    pub merged: Merged,
}

/// A value in a column that the hub does not have.
pub struct Lost {
    /// The change that it was in.
    pub raw_clock: Hlc,
    /// The column.
    pub column: String,
    /// The value before.
    pub old: Option<Value>,
    /// The value after.
    pub new: Value,
}

/// One change in the hub's terms.
pub struct Prepared {
    /// What it does.
    pub op: Op,
    /// The corrected clock.
    pub clock: Hlc,
    /// The device's clock as it sent it.
    pub raw_clock: Hlc,
    /// What the device had seen when it made it.
    pub base: Option<Snapshot>,
    /// Logged changes in it.
    pub count: u32,
    /// Whether it belongs to a record of the device's own that waits in the conflicts under this key, beside the hub's.
    pub of_parked: bool,
    /// Whether it was found by comparing after a lost history.
    pub recovered: bool,
    /// The fields.
    pub fields: Vec<IncomingField>,
}

/// What the merge has found and decided about a row. Made anew on each attempt.
#[derive(Default)]
pub struct Merged {
    /// The row as it was.
    pub before: Option<HubState>,
    /// Whether the row, deleted, is still in the table, marked.
    pub marked: bool,
    /// The row as it shall be.
    pub after: Option<HubState>,
    /// Fields to be written.
    pub fields: FieldValues,
    /// The verdicts, one per change.
    pub outcomes: Vec<Outcome>,
    /// Who lost what, by change.
    pub collisions: Vec<(usize, Collision)>,
    /// The device needs the row whole.
    pub whole: bool,
    /// The row was not accepted.
    pub rejected: Option<SqlError>,
    /// Nothing was tried: another row of a strict table was rejected.
    pub parked_by_strict: bool,
}

/// A change of a table that the hub does not track.
pub struct Homeless {
    /// The table's name as it was sent.
    pub table: String,
    /// The row.
    pub key: Key,
    /// What the change does.
    pub op: Op,
    /// Logged changes in it.
    pub count: u32,
    /// The device's clock as it sent it.
    pub raw_clock: Hlc,
    /// Key and fields by name.
    pub key_fields: Vec<(String, Value)>,
    /// Fields before.
    pub base: Vec<(String, Value)>,
    /// Fields after.
    pub fields: Vec<(String, Value)>,
    /// Why.
    pub error: SqlError,
}

/// Changes that are not to be merged again: known by table, row and clock.
pub type AlreadyMade = HashSet<(String, Key, Hlc)>;

/// What the sync knows of its client when it reads a delta.
pub struct Sender<'a> {
    /// The greatest clock that was answered; changes up to it are repeats.
    pub watermark: Hlc,
    /// Corrected clocks by raw ones.
    pub correct: &'a dyn Fn(Hlc) -> Hlc,
    /// Changes that an identity of the same device has delivered.
    pub already_made: &'a AlreadyMade,
    /// Tables whose changes this client may not send.
    pub no_push: &'a dyn Fn(&str) -> bool,
}

/// A column of the delta, as the hub has it.
enum Target {
    /// A field of the hub's.
    Field(usize),
    /// Nothing of the application's: the sync columns of a hand-made device, or a generated column.
    Ignored,
    /// The hub has no such column.
    Unknown,
}

/// Brings a delta into the hub's terms. `find` gives a table and its rules by the name that travels.
pub fn read(delta: &mut Delta, sender: &Sender<'_>, find: &dyn Fn(&str) -> Option<Ruled>) -> Result<Work, SqlError> {
    let mut work = Work { tables: Vec::new(), homeless: Vec::new() };
    let tables = std::mem::take(&mut delta.body.tables);
    for changes in tables {
        let Some((table, rules, priority_field)) = find(&changes.table) else {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new("42P01", format!("the hub has no enabled table \"{}\"", changes.table))
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        };
        if (sender.no_push)(&changes.table) {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new(
                    "42501",
                    format!("sync_direction lets this client send nothing to table \"{}\"", changes.table),
                )
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        }
        let Some(key_places) = key_places(&table, &changes) else {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new(
                    "42P10",
                    format!(
                        "table \"{}\" has the key ({}) on the device and ({}) on the hub",
                        changes.table,
                        changes
                            .columns
                            .iter()
                            .take(usize::from(changes.key_len))
                            .cloned()
                            .collect::<Vec<_>>()
                            .join(", "),
                        table.key.iter().map(|at| table.columns[*at].name.clone()).collect::<Vec<_>>().join(", ")
                    ),
                )
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        };
        let read = read_table(&delta.body, changes, &table, &key_places, sender)?;
        match work.tables.iter_mut().find(|known| known.table.oid == table.oid) {
            Some(known) => {
                known.take_in(read.0);
                known.touched.extend(read.1);
            }
            None => work.tables.push(TableWork { table, rules, priority_field, items: read.0, touched: read.1 }),
        }
    }
    for table in &mut work.tables {
        sort_by_key(&mut table.items);
        table.touched.sort_unstable();
        table.touched.dedup();
    }
    Ok(work)
}

/// Sorts by ascending key. Items are large and each key is there once, so the places are sorted first and each item is moved once.
fn sort_by_key(items: &mut [Item]) {
    let mut from: Vec<usize> = (0..items.len()).collect();
    from.sort_unstable_by(|one, other| items[*one].key.0.cmp(&items[*other].key.0));
    for start in 0..items.len() {
        let mut at = start;
        while from[at] != start {
            let next = from[at];
            items.swap(at, next);
            from[at] = at;
            at = next;
        }
        from[at] = at;
    }
}

/// Where the hub's key columns stand in the delta's key, in the hub's order.
fn key_places(table: &Table, changes: &TableChanges) -> Option<Vec<usize>> {
    let sent = changes.columns.get(..usize::from(changes.key_len))?;
    if sent.len() != table.key.len() {
        return None;
    }
    table.key.iter().map(|at| sent.iter().position(|name| *name == table.columns[*at].name)).collect()
}

fn refuse_all(changes: TableChanges, sender: &Sender<'_>, error: &SqlError, homeless: &mut Vec<Homeless>) {
    let named = |column: u16| changes.columns.get(usize::from(column)).cloned().unwrap_or_default();
    for change in changes.changes {
        if change.clock <= sender.watermark {
            continue;
        }
        homeless.push(Homeless {
            table: changes.table.clone(),
            key_fields: change.key.0.iter().enumerate().map(|(at, part)| (named(at as u16), part.clone())).collect(),
            op: change.op,
            count: change.count,
            raw_clock: change.clock,
            base: change.fields.iter().filter_map(|field| Some((named(field.column), field.old.clone()?))).collect(),
            fields: change.fields.into_iter().map(|field| (named(field.column), field.new)).collect(),
            key: change.key,
            error: error.clone(),
        });
    }
}

type ReadTable = (Vec<Item>, Vec<u16>);

fn read_table(
    body: &fieldsync_core::delta::DeltaBody,
    changes: TableChanges,
    table: &Rc<Table>,
    key_places: &[usize],
    sender: &Sender<'_>,
) -> Result<ReadTable, SqlError> {
    let targets: Vec<Target> = changes
        .columns
        .iter()
        .map(|name| match table.column(name) {
            Some(at) if table.columns[at].generated => Target::Ignored,
            Some(at) => Target::Field(at),
            None if crate::catalog::SYNC_COLUMNS.contains(&name.as_str()) => Target::Ignored,
            None => Target::Unknown,
        })
        .collect();
    let asked = ask(&changes, &targets, table)?;
    // The value in the hub's form, or why it has none, with the value.
    let canonical = |at: usize, value: Value| -> Result<Value, (SqlError, Value)> {
        let column = &table.columns[at];
        if column.column_type.holds(&value) {
            return Ok(value);
        }
        let named = |error: SqlError| SqlError {
            table: Some(table.name.clone()),
            column: Some(column.name.clone()),
            message: format!("{} in column \"{}\" of table \"{}\"", error.message, column.name, table.name),
            ..error
        };
        match column.column_type.canonical(&value) {
            Canonical::Done(value) => Ok(value),
            Canonical::Bad(error) => Err((named(error), value)),
            Canonical::Ask(text) => match asked.get(&(at, text)) {
                Some(Ok(answer)) => Ok(answer.clone()),
                Some(Err(error)) => Err((named(error.clone()), value)),
                None => Err((named(SqlError::new("XX000", "a value was not converted")), value)),
            },
        }
    };
    let mut items: Vec<Item> = Vec::with_capacity(changes.changes.len());
    let mut places: HashMap<Key, usize, BuildHasherDefault<Xxh3>> = HashMap::default();
    places.reserve(changes.changes.len());
    let mut touched: HashSet<u16> = HashSet::new();
    for change in changes.changes {
        let mut refused = None;
        let mut lost = Vec::new();
        let mut parts = Vec::with_capacity(key_places.len());
        for (key_at, place) in table.key.iter().zip(key_places) {
            let raw = change.key.0.get(*place).cloned().unwrap_or_default();
            match canonical(*key_at, raw) {
                Ok(part) => parts.push(part),
                Err((error, raw)) => {
                    refused.get_or_insert(error);
                    parts.push(raw);
                }
            }
        }
        let key = Key(parts);
        let repeated = change.clock <= sender.watermark;
        let mut fields = Vec::with_capacity(change.fields.len());
        for FieldChange { column, old, new } in change.fields {
            match targets.get(usize::from(column)) {
                Some(Target::Field(at)) if !table.key.contains(at) => {
                    let column = &table.columns[*at];
                    let old = match old.map(|old| canonical(*at, old)) {
                        // What the device had before may be nothing that the hub could hold; then it is no base for anything.
                        Some(Err(_)) | None => None,
                        Some(Ok(old)) => Some(old),
                    };
                    match canonical(*at, new) {
                        Ok(new) => {
                            touched.insert(column.number);
                            fields.push(IncomingField {
                                number: column.number,
                                kind: column.column_type.kind,
                                old,
                                new,
                            });
                        }
                        Err((error, new)) => {
                            refused.get_or_insert(error);
                            fields.push(IncomingField { number: column.number, kind: Kind::Text, old, new });
                        }
                    }
                }
                Some(Target::Field(_) | Target::Ignored) => {}
                // An additive change of the device's schema blocks nothing as long as there is nothing in it.
                Some(Target::Unknown) if new.is_null() && old.as_ref().is_none_or(Value::is_null) => {}
                _ => {
                    let column = changes.columns.get(usize::from(column)).cloned().unwrap_or_default();
                    lost.push(Lost { raw_clock: change.clock, column, old, new });
                }
            }
        }
        fields.sort_unstable_by_key(|field| field.number);
        let at = *places.entry(key.clone()).or_insert_with(|| {
            items.push(Item {
                key: key.clone(),
                changes: Vec::new(),
                echo_from: 0,
                last_op: Op::Update,
                inserted: false,
                repeated: HashSet::new(),
                repeated_whole: false,
                lost: Vec::new(),
                refused: None,
                merged: Merged::default(),
            });
            items.len() - 1
        });
        let item = &mut items[at];
        if repeated {
            item.repeated.extend(fields.iter().map(|field| field.number));
            item.repeated_whole |= matches!(change.op, Op::Insert | Op::Delete);
            continue;
        }
        item.last_op = change.op;
        match change.op {
            Op::Insert => item.inserted = true,
            Op::Delete | Op::Cancelled => item.inserted = false,
            Op::Update => {}
        }
        if change.op == Op::Delete {
            item.echo_from = item.changes.len() + 1;
        }
        if item.refused.is_none() {
            item.refused = refused;
        }
        item.lost.append(&mut lost);
        let already = !sender.already_made.is_empty()
            && sender.already_made.contains(&(changes.table.clone(), change.key.clone(), change.clock));
        let recovery = body.recovery.filter(|recovery| recovery.covers(change.clock));
        item.changes.push(Prepared {
            // Made before the device was copied, and delivered by the other copy: it only counts.
            op: if already { Op::Cancelled } else { change.op },
            clock: recovery.map_or_else(|| (sender.correct)(change.clock), |recovery| (sender.correct)(recovery.as_of)),
            raw_clock: change.clock,
            base: if recovery.is_some() { None } else { body.base_of(change.first_clock).cloned() },
            count: change.count,
            of_parked: false,
            recovered: recovery.is_some(),
            fields,
        });
    }
    Ok((items, touched.into_iter().collect()))
}

type Asked = HashMap<(usize, String), Result<Value, SqlError>>;

/// Has Postgres read all values that only it can read, each distinct one once, in one statement per column.
fn ask(changes: &TableChanges, targets: &[Target], table: &Table) -> Result<Asked, SqlError> {
    let mut questions: BTreeMap<usize, HashSet<String>> = BTreeMap::new();
    let mut note = |target: Option<&Target>, value: &Value| {
        if let Some(Target::Field(at)) =
            target.filter(|target| !matches!(target, Target::Field(at) if table.columns[*at].column_type.holds(value)))
        {
            if let Canonical::Ask(text) = table.columns[*at].column_type.canonical(value) {
                questions.entry(*at).or_default().insert(text);
            }
        }
    };
    for change in &changes.changes {
        for (part, target) in change.key.0.iter().zip(targets) {
            note(Some(target), part);
        }
        for field in &change.fields {
            let target = targets.get(usize::from(field.column));
            note(target, &field.new);
            if let Some(old) = &field.old {
                note(target, old);
            }
        }
    }
    let mut asked = HashMap::new();
    for (at, texts) in questions {
        let mut texts: Vec<String> = texts.into_iter().collect();
        texts.sort_unstable();
        let answers = convert(&table.columns[at].column_type, &texts)?;
        for (text, answer) in texts.into_iter().zip(answers) {
            asked.insert((at, text), answer);
        }
    }
    Ok(asked)
}

/// Each text read by the type's own input and given back in the wire's form. Where a set fails it is halved, so that few
/// bad values cost little.
pub fn convert(column_type: &ColumnType, texts: &[String]) -> Result<Vec<Result<Value, SqlError>>, SqlError> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let whole = subtransaction(|| {
        let _settings = Settings::for_text();
        let list: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        let read = column_type.text_to_sql("u.x", true);
        let shown = column_type.to_wire(&read);
        sql::run_set(
            &format!(
                "SELECT {shown} FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS u(x, place) ORDER BY u.place"
            ),
            &[Param::Texts(&list)],
        )
    });
    match whole {
        Ok(rows) => Ok(rows.rows.into_iter().map(|row| Ok(row.into_iter().next().unwrap_or_default())).collect()),
        Err(error) if error.is_transient() => Err(error),
        Err(error) if texts.len() == 1 => Ok(vec![Err(error)]),
        Err(_) => {
            let (left, right) = texts.split_at(texts.len() / 2);
            let mut answers = convert(column_type, left)?;
            answers.extend(convert(column_type, right)?);
            Ok(answers)
        }
    }
}

impl Item {
    /// What the device has in a field after the changes that this delta brings, if they touch it: for leaving out of the answer
    /// what it knows.
    pub fn echo(&self, number: u16) -> Option<&Value> {
        let changes = self.changes.get(self.echo_from..)?;
        changes.iter().rev().find_map(|change| {
            let at = change.fields.binary_search_by_key(&number, |field| field.number).ok()?;
            Some(&change.fields[at].new)
        })
    }

    /// A field's value after the merge, where the delta has anything to do with it.
    pub fn value_after(&self, number: u16) -> Option<&Value> {
        match &self.merged.after {
            Some(HubState::Live(row)) => self.merged.fields.get(number).or_else(|| row.values.get(&number)),
            _ => None,
        }
    }
}

impl TableWork {
    /// Adds rows; a row that is here already gets the changes on top.
    fn take_in(&mut self, items: Vec<Item>) {
        let mut places: HashMap<Key, usize> =
            self.items.iter().enumerate().map(|(at, item)| (item.key.clone(), at)).collect();
        for mut item in items {
            let Some(at) = places.get(&item.key) else {
                places.insert(item.key.clone(), self.items.len());
                self.items.push(item);
                continue;
            };
            let known = &mut self.items[*at];
            if known.echo_from > 0 || item.echo_from > 0 {
                // Which of them came after the deletion is not known any more: all of it is sent back.
                known.echo_from = usize::MAX;
            }
            known.changes.append(&mut item.changes);
            known.changes.sort_by_key(|change| change.raw_clock);
            known.lost.append(&mut item.lost);
            known.repeated.extend(item.repeated);
            known.repeated_whole |= item.repeated_whole;
            known.last_op = item.last_op;
            known.inserted |= item.inserted;
            known.refused = known.refused.take().or(item.refused);
        }
    }

    /// Marks changes that a device made to its own record of a key before it learnt that the record waits in the conflicts.
    pub fn mark_separate(&mut self, parked: &HashMap<(i32, String), u64>) {
        if parked.is_empty() {
            return;
        }
        for item in &mut self.items {
            let Some(told) = parked.get(&(self.table.table_id, self.table.row_id(&item.key))) else { continue };
            for change in &mut item.changes {
                change.of_parked = change.base.as_ref().is_none_or(|base| !base.visible(*told));
            }
        }
    }

    /// Whether all parts of the key are integers.
    pub fn key_is_integer(&self) -> bool {
        self.table.key_kinds().iter().all(|kind| *kind == Kind::Int)
    }
}

/// Reads the rules of all tables.
pub fn rules(tables: &[Rc<Table>]) -> Result<RulesByTable, crate::error::HubError> {
    use crate::error::HubError;
    let _owner = crate::guards::AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, detection_method, resolution_strategy, priority_field, array_to_json(merge_fields)::text,
                on_delete, on_reject, on_same_key
         FROM fieldsync.table_rule",
        &[],
    )?;
    let field_rows = sql::run("SELECT table_id, field_name, strategy FROM fieldsync.table_field_rule", &[])?;
    let bad = |error: fieldsync_core::rules::UnknownWord| HubError::BadRule(error.to_string());
    let mut all = HashMap::new();
    for row in &rows.rows {
        let Some(table) = tables.iter().find(|table| i64::from(table.table_id) == row.int(0)) else { continue };
        let number = |name: &str| table.column(name).map(|at| table.columns[at].number);
        let merge_fields = row.maybe_text(4).map(|json| {
            let names: Vec<String> = serde_json::from_str(json).unwrap_or_default();
            names.iter().filter_map(|name| number(name)).collect()
        });
        let mut rules = TableRules {
            detection: row.text(1).parse().map_err(bad)?,
            strategy: row.text(2).parse().map_err(bad)?,
            merge_fields,
            on_delete: row.text(5).parse().map_err(bad)?,
            on_reject: row.text(6).parse().map_err(bad)?,
            on_same_key: row.maybe_text(7).map(str::parse).transpose().map_err(bad)?,
            fields: HashMap::new(),
        };
        for field in field_rows.rows.iter().filter(|field| field.int(0) == row.int(0)) {
            if let Some(number) = number(field.text(1)) {
                rules.fields.insert(number, field.text(2).parse().map_err(bad)?);
            }
        }
        all.insert(table.table_id, (Rc::new(rules), row.maybe_text(3).map(str::to_owned)));
    }
    Ok(all)
}
