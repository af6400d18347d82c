//! Draws a plan from its seed: the one generator of the simulated and the full histories.

use super::{
    Act, Cell, Choice, Damage, Edit, Fate, Field, Hearing, Phone, Plan, RowEdit, Step, TablePlan, Timed, Troubles, Way,
};
use crate::schema::{self, pick, Table, TABLES};
use fastrand::Rng;

const YEAR_MS: i64 = 365 * 86_400_000;
/// Picks are taken modulo something small.
const PICKS: usize = 5040;

/// The plan of a seed with so many steps. Fewer steps are the beginning of more.
pub fn plan(seed: u64, steps: usize) -> Plan {
    let mut draw = Draw { rng: Rng::with_seed(seed), troubles: Troubles::of(seed), values: 0 };
    let rng = &mut draw.rng;
    let cascades = rng.bool();
    Plan {
        seed,
        troubles: draw.troubles,
        tables: TablePlan::draw(rng),
        cascades,
        wide: rng.bool(),
        late_default: rng.bool(),
        phones: (0..rng.usize(2..5))
            .map(|_| Phone {
                offset_ms: if rng.u8(..3) == 0 { rng.i64(-3_600_000..3_600_000) } else { 0 },
                // Cascades need enforcement; without them either may be.
                enforces: rng.bool() || cascades,
            })
            .collect(),
        steps: (0..steps).map(|at| Timed { at, after_ms: draw.rng.u64(1..5_000), step: draw.step() }).collect(),
    }
}

struct Draw {
    rng: Rng,
    troubles: Troubles,
    values: u64,
}

impl Draw {
    fn pick(&mut self) -> usize {
        self.rng.usize(..PICKS)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    fn step(&mut self) -> Step {
        let phone = self.pick();
        match self.rng.u32(..100) {
            0..=7 if self.troubles.persons => self.settle(phone),
            0..=34 => Step::Edit { phone, edits: (0..self.rng.usize(1..4)).map(|_| self.edit()).collect() },
            35..=49 => Step::Export { phone, most: self.one_in(4).then(|| self.rng.usize(..4)) },
            50..=69 => Step::Deliver {
                pick: self.one_in(3).then(|| self.pick()),
                twice: self.one_in(8),
                damage: self.damage(),
                hearing: self.hearing(),
                dies: self.one_in(20),
            },
            70..=74 => Step::Finish { aborts: self.one_in(4) },
            75..=86 => Step::Portal { begins: self.rng.bool(), pick: self.pick(), act: self.act() },
            87 if self.rng.bool() => Step::LoseLetters { keep: self.pick() },
            87 => Step::DropRejections,
            88 => Step::Replay { pick: self.pick(), hearing: self.hearing() },
            89 => Step::Wait { days: self.rng.u64(1..91) },
            90 => Step::SetClock {
                phone,
                offset_ms: pick(&mut self.rng, &[-30 * YEAR_MS, 30 * YEAR_MS, -3_600_000, 3_600_000, 0]),
            },
            91 => Step::WidenHub,
            92 => Step::Widen { phone },
            roll @ 93..=97 => self.trouble(roll, phone),
            98 if self.rng.bool() => Step::LoseShapes { phone, which: self.rng.u8(..3) },
            99 => Step::Orders { phone, most: self.rng.usize(..4) },
            _ => Step::LoseExport { phone },
        }
    }

    fn trouble(&mut self, roll: u32, phone: usize) -> Step {
        let Troubles { copies, restored_hub, persons } = self.troubles;
        match roll {
            93 if copies => Step::Copy { phone },
            94 | 96 if copies => Step::BackUp { phone },
            _ if copies => Step::Restore { phone },
            93 | 94 | 96 if restored_hub => Step::BackUpHub,
            _ if restored_hub => Step::RestoreHub { noticed: (!self.one_in(3)).then(|| self.rng.u32(1..100)) },
            93 if persons && self.rng.bool() => Step::Purge { phone },
            93 if persons => Step::PurgeHub,
            _ if persons => Step::SettleOnHub { pick: self.pick(), client: self.rng.bool() },
            _ => Step::LoseExport { phone },
        }
    }

    fn settle(&mut self, phone: usize) -> Step {
        let choice = match self.rng.u8(..6) {
            0 | 1 => Choice::Mine,
            2 => Choice::Theirs,
            3 | 4 => Choice::Edited,
            _ => Choice::Another,
        };
        Step::Settle { phone, pick: self.pick(), choice, value: self.text() }
    }

    fn hearing(&mut self) -> Hearing {
        let fate = match self.rng.u8(..10) {
            0 => Fate::Never,
            1 | 2 => Fate::Later,
            _ => Fate::Now,
        };
        Hearing { fate, prepared: self.one_in(3) }
    }

    fn damage(&mut self) -> Damage {
        match self.rng.u8(..40) {
            0 => Damage::Truncate(self.rng.usize(..100_000)),
            1 => Damage::Flip(self.rng.usize(..1_000_000)),
            _ => Damage::None,
        }
    }

    fn act(&mut self) -> Act {
        match self.rng.u8(..6) {
            0 | 1 => Act::Commit,
            2 => Act::Abort,
            _ if self.one_in(60) => Act::Truncate { table: pick(&mut self.rng, &schema::LEAVES) },
            _ => {
                let rows: Vec<Table> = (0..TABLES.len()).filter(|table| *table != schema::STOCK).collect();
                let table = pick(&mut self.rng, &rows);
                Act::Write(self.row(table, 4))
            }
        }
    }

    fn edit(&mut self) -> Edit {
        match self.rng.usize(..TABLES.len()) {
            schema::STOCK => {
                Edit::Count { pick: self.pick(), difference: self.rng.i64(-9..10), after_ms: self.rng.u64(..1_000) }
            }
            table => Edit::Row(self.row(table, 5)),
        }
    }

    /// `deletions`: one in so many.
    fn row(&mut self, table: Table, deletions: u32) -> RowEdit {
        RowEdit {
            table,
            key: self.key(table),
            deletes: self.one_in(deletions),
            way: self.way(table),
            fields: schema::fields(table, schema::width(table)).map(|number| self.field(table, number)).collect(),
            after_ms: self.rng.u64(..1_000),
        }
    }

    fn key(&mut self, table: Table) -> Vec<Cell> {
        let text = |first: &str, n: u8| Cell::Text(format!("{first}{n}"));
        match table {
            schema::VISIT => vec![Cell::Int(self.rng.i64(1..7))],
            schema::ATTENDANCE => vec![text("p", self.rng.u8(..6)), Cell::Int(self.rng.i64(1..4))],
            schema::PERSON => vec![text("p", self.rng.u8(..6))],
            schema::MEMO => vec![text("m", self.rng.u8(..4))],
            _ => vec![text("l", self.rng.u8(..6))],
        }
    }

    fn way(&mut self, table: Table) -> Way {
        match self.rng.u8(..10) {
            0 if schema::MOVING.contains(&table) => Way::Replace,
            1 if table != schema::VISIT => Way::Upsert, // its NOT NULL comes before the conflict
            2 if schema::MOVING.contains(&table) => match self.key(table).pop() {
                Some(last) => Way::Move(last),
                None => Way::Plain,
            },
            _ => Way::Plain,
        }
    }

    fn field(&mut self, table: Table, number: u16) -> Field {
        let changes = self.one_in(3);
        let value = if schema::parent_table(table, number).is_some() {
            Cell::Parent { parent: self.pick() }
        } else {
            self.value(table, number)
        };
        Field { number, column: schema::column_name(table, number), changes, value }
    }

    /// A text that nobody has written before.
    fn text(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    fn value(&mut self, table: Table, number: u16) -> Cell {
        let text = self.text();
        if self.one_in(12) {
            return Cell::Null(());
        }
        match (table, number) {
            (schema::PERSON, schema::CODE) => Cell::Text(format!("c{}", self.rng.u8(..6))),
            (schema::PERSON | schema::ATTENDANCE, 3) => Cell::Int(self.rng.i64(0..50)),
            (schema::PERSON, 4) => {
                let tags: Vec<String> = (0..5).filter(|_| self.rng.bool()).map(|tag| format!("\"t{tag}\"")).collect();
                Cell::Text(format!("[{}]", tags.join(", ")))
            }
            (schema::VISIT, schema::AMOUNT) => Cell::Text(format!("{}.{:02}", self.rng.u16(..30), self.rng.u8(..100))),
            _ if self.one_in(40) && schema::is_checked(table, number) => Cell::Text(schema::REFUSED.to_owned()),
            _ if self.one_in(10) => Cell::Same { same: true },
            _ => Cell::Text(text),
        }
    }
}
