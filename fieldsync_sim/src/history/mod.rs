//! One history: a few devices, a hub, a network that does everything wrong, and what must hold nevertheless.

mod checks;
mod edits;
mod network;
mod troubles;

use crate::device::Device;
use crate::hub::Hub;
use crate::orders;
use crate::plan::{Plan, Step, Troubles};
use crate::schema::{self, RowName};
use fastrand::Rng;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::{Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// How a plan is carried out.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Blobs in their plain form, not the wire's.
    pub plain: bool,
    /// Prints every step.
    pub trace: bool,
}

impl Options {
    /// A seed's: one in 32 travels as the extensions would send it.
    pub fn of(seed: u64) -> Options {
        Options { plain: seed % 32 != 0, trace: false }
    }
}

/// How many steps a seed's history has: most are short, a few very long.
pub fn steps_of(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed ^ 0x005e_ed0f_57e9);
    match rng.u8(..100) {
        0..=59 => rng.usize(15..45),
        60..=89 => rng.usize(45..110),
        90..=98 => rng.usize(110..280),
        _ => rng.usize(280..1200),
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding(pub String);

/// Figures of a history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Edits on devices.
    pub edits: u64,
    /// Deltas that the hub merged.
    pub syncs: u64,
    /// Collisions and rejections on record.
    pub records: u64,
    /// Orders of delivery whose outcomes were compared.
    pub orders: u64,
}

impl Figures {
    /// Adds another history's.
    pub fn add(&mut self, other: &Figures) {
        self.edits += other.edits;
        self.syncs += other.syncs;
        self.records += other.records;
        self.orders += other.orders;
    }
}

#[derive(Clone)]
enum Letter {
    ToHub { from: usize, blob: Rc<[u8]> },
    ToDevice { to: usize, blob: Rc<[u8]> },
}

struct Phone {
    file: Device,
    backup: Option<Device>,
    offset_ms: i64,
    cursor: Option<Snapshot>,
}

struct World {
    troubles: Troubles,
    options: Options,
    now_ms: u64,
    hub: Hub,
    hub_backup: Option<Hub>,
    phones: Vec<Phone>,
    network: Vec<Letter>,
    archive: Vec<(usize, Rc<[u8]>)>,
    syncs_open: VecDeque<(u64, usize)>,
    writers_open: Vec<u64>,
    stock: BTreeMap<Key, i64>,
    stock_exact: bool,
    /// The last value that a device gave a field, unless it deleted the row after: (client, row, column) → value.
    last_edits: BTreeMap<(usize, RowName, u16), Value>,
    figures: Figures,
    /// Phones whose rows may have changed since they were last looked at.
    touched: BTreeSet<usize>,
    hub_looked_at: u64,
}

/// Carries a plan out.
pub fn run(plan: &Plan, options: Options) -> Result<Figures, Finding> {
    let mut world = World::new(plan, options);
    for timed in &plan.steps {
        world.now_ms += timed.after_ms;
        world.step(timed.at, &timed.step)?;
        world.hold(timed.at)?;
    }
    world.quiesce()?;
    if plan.seed % 4 == 0 {
        world.figures.orders += orders::of_several_devices(plan.seed).map_err(Finding)?;
    }
    Ok(world.figures)
}

fn fail<T>(what: impl Into<String>) -> Result<T, Finding> {
    Err(Finding(what.into()))
}

impl World {
    fn new(plan: &Plan, options: Options) -> World {
        let late = if plan.wide { schema::EXTRA } else { schema::EXTRA - 1 };
        let mut hub = Hub::new(plan.tables.iter().map(|table| table.rules.clone()).collect(), late);
        for table in &plan.tables {
            hub.priorities[table.table] = table.priority;
            hub.soft[table.table] = table.soft;
        }
        hub.plain = options.plain;
        let mut phones = Vec::new();
        for (at, phone) in plan.phones.iter().enumerate() {
            let key = MacKey([at as u8 + 1; 32]);
            let id = format!("phone{}", (at * 7 + 3) % 10);
            hub.register(&id, key.clone());
            let mut file = Device::new(&id, key, late);
            file.plain = options.plain;
            phones.push(Phone { file, backup: None, offset_ms: phone.offset_ms, cursor: None });
        }
        let mut world = World {
            troubles: plan.troubles,
            options,
            now_ms: 1_790_000_000_000,
            hub,
            hub_backup: None,
            phones,
            network: Vec::new(),
            archive: Vec::new(),
            syncs_open: VecDeque::new(),
            writers_open: Vec::new(),
            stock: BTreeMap::new(),
            stock_exact: true,
            last_edits: BTreeMap::new(),
            figures: Figures::default(),
            touched: BTreeSet::new(),
            hub_looked_at: u64::MAX,
        };
        let xid = world.hub.begin();
        for name in ["flour", "oil"] {
            let key = Key(vec![name.into()]);
            world.hub.write(xid, world.now_ms, &(schema::STOCK, key.clone()), Some(vec![Value::Null, Value::Int(100)]));
            world.stock.insert(key, 100);
        }
        world.hub.commit(xid);
        world
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{}", what());
        }
    }

    fn wall(&self, phone: usize) -> u64 {
        u64::try_from(self.now_ms as i64 + self.phones[phone].offset_ms).unwrap_or(0)
    }

    fn step(&mut self, at: usize, step: &Step) -> Result<(), Finding> {
        let number = |phone: &usize| phone % self.phones.len();
        match step {
            Step::Edit { phone, edits } => self.edit(number(phone), edits),
            Step::Export { phone, most } => self.export(number(phone), *most),
            Step::LoseExport { phone } => self.lose_export(number(phone)),
            Step::Deliver { pick, twice, damage, hearing, dies } => {
                self.deliver(*pick, *twice, *damage, hearing.fate, *dies)?;
            }
            Step::Finish { aborts } => self.finish(*aborts),
            Step::LoseLetters { keep } => self.network.truncate(keep % (self.network.len() + 1)),
            Step::Replay { pick, hearing } => self.replay(*pick, hearing.fate)?,
            Step::Portal { begins, pick, act } => self.portal(*begins, *pick, act),
            Step::Wait { days } => self.now_ms += days * 86_400_000,
            Step::SetClock { phone, offset_ms } => {
                let phone = number(phone);
                self.phones[phone].offset_ms = *offset_ms;
                self.trace(|| format!("{at}: clock of {phone} is off by {offset_ms} ms"));
            }
            Step::WidenHub => self.hub.add_column(),
            Step::Widen { phone } => {
                if self.hub.width[schema::MEMO] == schema::EXTRA {
                    let phone = number(phone);
                    self.phones[phone].file.add_column();
                }
            }
            Step::Copy { phone } => self.copy(number(phone)),
            Step::BackUp { phone } => {
                let phone = number(phone);
                self.phones[phone].backup = Some(self.phones[phone].file.clone());
            }
            Step::Restore { phone } => self.restore(number(phone)),
            Step::BackUpHub => {
                if self.hub_backup.is_none() {
                    self.hub_backup = Some(self.hub.clone());
                }
            }
            Step::RestoreHub { noticed } => self.restore_hub(*noticed),
            Step::LoseShapes { phone, which } => self.lose_shapes(number(phone), *which),
            Step::Orders { phone, most } => self.orders(number(phone), *most)?,
            Step::DropRejections => self.settle(),
            // Persons choose among entries, and what is kept for them is thrown away, on real databases only.
            Step::Settle { .. } | Step::SettleOnHub { .. } | Step::Purge { .. } | Step::PurgeHub => {}
        }
        Ok(())
    }
}
