//! The verdict of every change: all of them counted, and named where there is something to say.
//!
//! Invariants:
//! * Each change of a delta has one verdict, counted in logged changes; the counts are what the ledger adds up.
//! * Changes that were applied as they came are named only as far as the reader of a report cares, so that a delta of a
//!   hundred thousand new rows has no report of a hundred thousand lines.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::work::Work;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::Outcome;
use fieldsync_core::reply::Outcomes;
use fieldsync_core::Key;
use serde_json::{json, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// The verdict of a change, for the report.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The table.
    pub table: String,
    /// The row.
    pub row_id: String,
    /// What the change does.
    pub op: Op,
    /// What became of it.
    pub outcome: Outcome,
    /// Logged changes in it.
    pub count: u32,
    /// Why it was rejected.
    pub error: Option<SqlError>,
}

impl Verdict {
    /// As `report.changes` lists it.
    pub fn to_json(&self) -> Json {
        let mut line = json!({
            "table": self.table, "row_id": self.row_id, "op": self.op.word(), "verdict": self.outcome.word(), "count": self.count,
        });
        if let Some(error) = &self.error {
            line["sqlstate"] = json!(error.sqlstate);
            line["constraint"] = json!(error.constraint);
            line["column"] = json!(error.column);
            line["message"] = json!(error.to_string());
        }
        line
    }
}

/// All verdicts of a delta.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// All of them, counted.
    pub outcomes: Outcomes,
    /// Those that are named.
    pub named: Vec<Verdict>,
    /// Applied changes that are not named: rows and logged changes, by table and operation.
    unnamed: BTreeMap<(String, Op), (u64, u64)>,
    /// Tables that any change was of.
    pub tables: BTreeSet<String>,
    /// How many applied changes may be named.
    applied_named_max: usize,
}

impl Verdicts {
    /// None yet.
    pub fn naming_applied_up_to(applied_named_max: usize) -> Verdicts {
        Verdicts { applied_named_max, ..Verdicts::default() }
    }

    /// A change that was written as it came.
    pub fn applied(&mut self, table: &Table, key: &Key, op: Op, count: u32) {
        if self.named.len() < self.applied_named_max {
            let (name, row_id) = (table.name.clone(), table.row_id(key));
            self.note(Verdict { table: name, row_id, op, outcome: Outcome::Applied, count, error: None });
        } else {
            self.applied_unnamed(table, op, 1, u64::from(count));
        }
    }

    /// Whether [`Verdicts::applied`] would name another one.
    pub fn names_applied(&self) -> bool {
        self.named.len() < self.applied_named_max
    }

    /// Changes that were written as they came, and that nobody asks for by name.
    pub fn applied_unnamed(&mut self, table: &Table, op: Op, rows: u64, count: u64) {
        self.outcomes.count(Outcome::Applied, count);
        if !self.tables.contains(&table.name) {
            self.tables.insert(table.name.clone());
        }
        let unnamed = match self.unnamed.get_mut(&(table.name.clone(), op)) {
            Some(unnamed) => unnamed,
            None => self.unnamed.entry((table.name.clone(), op)).or_default(),
        };
        unnamed.0 += rows;
        unnamed.1 += count;
    }

    fn note(&mut self, verdict: Verdict) {
        self.outcomes.count(verdict.outcome, u64::from(verdict.count));
        if !self.tables.contains(&verdict.table) {
            self.tables.insert(verdict.table.clone());
        }
        self.named.push(verdict);
    }

    /// Those of a delta that the rules have decided about.
    pub fn of_work(&mut self, work: &Work) {
        for homeless in &work.homeless {
            self.note(Verdict {
                table: homeless.table.clone(),
                row_id: homeless.key.row_id(),
                op: homeless.op,
                outcome: Outcome::Rejected,
                count: homeless.count,
                error: Some(homeless.error.clone()),
            });
        }
        for table in &work.tables {
            for item in &table.items {
                for (place, change) in item.changes.iter().enumerate() {
                    let lost = item.lost.iter().find(|lost| lost.raw_clock == change.raw_clock);
                    let rejected = (item.merged.rejected.is_some() || lost.is_some()) && change.op != Op::Cancelled;
                    let outcome = match item.merged.outcomes.get(place) {
                        _ if rejected => Outcome::Rejected,
                        Some(outcome) => *outcome,
                        None => Outcome::Superseded,
                    };
                    if outcome == Outcome::Applied {
                        self.applied(&table.table, &item.key, change.op, change.count);
                        continue;
                    }
                    let error = rejected.then(|| {
                        let of_row = item.merged.rejected.as_deref().cloned();
                        of_row.or_else(|| lost.map(|lost| unknown_column(&table.table, &lost.column)))
                    });
                    self.note(Verdict {
                        table: table.table.name.clone(),
                        row_id: table.table.row_id(&item.key),
                        op: change.op,
                        outcome,
                        count: change.count,
                        error: error.flatten(),
                    });
                }
            }
        }
    }

    /// Those that were rejected.
    pub fn rejected(&self) -> impl Iterator<Item = &Verdict> {
        self.named.iter().filter(|verdict| verdict.error.is_some())
    }

    /// `report.changes`: the named ones, and a line without a row for each kind of those that are not.
    pub fn to_json(&self) -> Json {
        let unnamed = self.unnamed.iter().map(|((table, op), (rows, count))| {
            json!({ "table": table, "op": op.word(), "verdict": Outcome::Applied.word(), "rows": rows, "count": count })
        });
        self.named.iter().map(Verdict::to_json).chain(unnamed).collect()
    }
}

/// Counts as reports show them.
pub fn outcomes_json(outcomes: &Outcomes) -> Json {
    json!({
        "applied": outcomes.applied, "merged": outcomes.merged, "superseded": outcomes.superseded,
        "conflict": outcomes.conflict, "rejected": outcomes.rejected,
    })
}

/// Why a value could not be taken.
pub fn unknown_column(table: &Table, column: &str) -> SqlError {
    SqlError {
        table: Some(table.name.clone()),
        column: Some(column.to_owned()),
        ..SqlError::new("42703", format!("table \"{}\" of the hub has no column \"{column}\"", table.name))
    }
}
