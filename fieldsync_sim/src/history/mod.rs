//! One history: a few devices, a hub, a network that does everything wrong, and what must hold nevertheless.

mod checks;
mod edits;
mod network;
mod troubles;

use crate::device::Device;
use crate::hub::Hub;
use crate::orders;
use crate::schema::{self, pick, RowName};
use fastrand::Rng;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::{Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

const YEAR_MS: i64 = 365 * 86_400_000;

/// What a history may contain.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many steps.
    pub steps: usize,
    /// Copied and restored devices.
    pub copies: bool,
    /// A hub that loses its last days.
    pub restored_hub: bool,
    /// Blobs in their plain form, not the wire's.
    pub plain: bool,
    /// Prints every step.
    pub trace: bool,
}

impl Options {
    /// What a seed's history contains, so that every kind of trouble also comes alone; most are short, a few very long.
    pub fn of(seed: u64) -> Options {
        let mut rng = Rng::with_seed(seed ^ 0x005e_ed0f_57e9);
        let steps = match rng.u8(..100) {
            0..=59 => rng.usize(15..45),
            60..=89 => rng.usize(45..110),
            90..=98 => rng.usize(110..280),
            _ => rng.usize(280..1200),
        };
        Options { steps, copies: seed % 3 == 1, restored_hub: seed % 3 == 2, plain: seed % 32 != 0, trace: false }
    }

    /// The command that replays it.
    pub fn replay(seed: u64, steps: usize) -> String {
        format!(
            "cargo run --release -p fieldsync_sim --bin simulate -- --from {seed} --count 1 --steps {steps} --trace 1"
        )
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
    rng: Rng,
    options: Options,
    now_ms: u64,
    hub: Hub,
    hub_backup: Option<Hub>,
    phones: Vec<Phone>,
    network: Vec<Letter>,
    archive: Vec<(usize, Rc<[u8]>)>,
    syncs_open: VecDeque<(u64, usize)>,
    writers_open: Vec<u64>,
    unique: i64,
    stock: BTreeMap<Key, i64>,
    stock_exact: bool,
    /// The last value that a device gave a field, unless it deleted the row after: (client, row, column) → value.
    last_edits: BTreeMap<(usize, RowName, u16), Value>,
    figures: Figures,
    /// Phones whose rows may have changed since they were last looked at.
    touched: BTreeSet<usize>,
    hub_looked_at: u64,
}

/// Runs one history.
pub fn run(seed: u64, options: Options) -> Result<Figures, Finding> {
    let mut world = World::new(seed, options);
    for step in 0..options.steps {
        world.step(step)?;
        world.hold(step)?;
    }
    world.quiesce()?;
    if seed % 4 == 0 {
        world.figures.orders += orders::of_several_devices(seed).map_err(Finding)?;
    }
    Ok(world.figures)
}

fn fail<T>(what: impl Into<String>) -> Result<T, Finding> {
    Err(Finding(what.into()))
}

impl World {
    fn new(seed: u64, options: Options) -> World {
        let mut rng = Rng::with_seed(seed);
        let rules = schema::rules(&mut rng);
        let late = if rng.bool() { schema::EXTRA - 1 } else { schema::EXTRA };
        let mut hub = Hub::new(rules, late);
        hub.priorities = schema::priorities(&mut rng);
        hub.soft = schema::soft(&mut rng);
        hub.plain = options.plain;
        let mut phones = Vec::new();
        for at in 0..rng.usize(2..5) {
            let key = MacKey([at as u8 + 1; 32]);
            let id = format!("phone{}", (at * 7 + 3) % 10);
            hub.register(&id, key.clone());
            let offset_ms = if rng.u8(..3) == 0 { rng.i64(-3_600_000..3_600_000) } else { 0 };
            let mut file = Device::new(&id, key, late);
            file.plain = options.plain;
            phones.push(Phone { file, backup: None, offset_ms, cursor: None });
        }
        let mut world = World {
            rng,
            options,
            now_ms: 1_790_000_000_000,
            hub,
            hub_backup: None,
            phones,
            network: Vec::new(),
            archive: Vec::new(),
            syncs_open: VecDeque::new(),
            writers_open: Vec::new(),
            unique: 0,
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

    fn fresh(&mut self) -> i64 {
        self.unique += 1;
        self.unique
    }

    fn step(&mut self, step: usize) -> Result<(), Finding> {
        self.now_ms += self.rng.u64(1..5_000);
        let phone = self.rng.usize(..self.phones.len());
        let roll = self.rng.u32(..100);
        match roll {
            0..=34 => self.edit(phone),
            35..=49 => self.export(phone),
            50..=69 => self.deliver()?,
            70..=74 => self.finish_a_sync(),
            75..=86 => self.portal(),
            87 if self.rng.bool() => self.lose_letters(),
            87 => self.settle(),
            88 => self.replay()?,
            89 => self.now_ms += self.rng.u64(1..91) * 86_400_000,
            90 => {
                let jump = pick(&mut self.rng, &[-30 * YEAR_MS, 30 * YEAR_MS, -3_600_000, 3_600_000, 0]);
                self.phones[phone].offset_ms = jump;
                self.trace(|| format!("{step}: clock of {phone} is off by {jump} ms"));
            }
            91 => {
                self.hub.add_column();
            }
            92 => {
                if self.hub.width[schema::PLACE] == schema::EXTRA {
                    self.phones[phone].file.add_column();
                }
            }
            93 if self.options.copies => self.copy(phone),
            94 if self.options.copies => {
                self.phones[phone].backup = Some(self.phones[phone].file.clone());
            }
            95 if self.options.copies => self.restore(phone),
            96 if self.options.restored_hub && self.hub_backup.is_none() => self.hub_backup = Some(self.hub.clone()),
            97 if self.options.restored_hub => self.restore_hub(),
            98 if self.rng.bool() => self.lose_shapes(phone),
            99 => self.orders(phone)?,
            _ => self.crash(phone),
        }
        Ok(())
    }
}
