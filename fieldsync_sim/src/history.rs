//! One history: a few devices, a hub, a network that does everything wrong, and what must hold nevertheless.

use crate::device::{self, Device};
use crate::hub::{self, Hub};
use crate::schema::{self, pick, Row, RowName, TABLES};
use crate::{orders, post};
use fastrand::Rng;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::wire::Shapes;
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

    // ---- steps -----------------------------------------------------------------------------------------------------

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

    fn value(&mut self, table: usize, column: u16, before: &Value) -> Value {
        let number = self.fresh();
        if self.rng.u8(..12) == 0 && !(table == schema::VISIT && column == 1) {
            return Value::Null;
        }
        match (table, column) {
            (schema::PERSON, schema::CODE) => Value::Text(format!("c{}", self.rng.u8(..6))),
            (schema::PERSON | schema::ATTENDANCE, 3) | (schema::PLACE, schema::EXTRA) => {
                Value::Int(self.rng.i64(0..50))
            }
            (schema::PERSON, 4) => {
                let tags: Vec<String> = (0..5).filter(|_| self.rng.bool()).map(|tag| format!("\"t{tag}\"")).collect();
                Value::Text(format!("[{}]", tags.join(", ")))
            }
            (schema::VISIT, schema::AMOUNT) => Value::Text(format!("{}.{:02}", self.rng.u16(..30), self.rng.u8(..100))),
            _ if self.rng.u8(..40) == 0 && table != schema::PLACE && schema::is_checked(table, column) => {
                schema::REFUSED.into()
            }
            _ if self.rng.u8(..10) == 0 => before.clone(),
            _ => Value::Text(format!("v{number}")),
        }
    }

    /// A row's fields for an insert or an update, with parents from what the writer sees.
    fn draw(
        &mut self,
        name: &RowName,
        width: u16,
        before: &Row,
        parents: &dyn Fn(usize) -> Vec<Key>,
    ) -> Option<Vec<(u16, Value)>> {
        let (table, _) = *name;
        let whole = before.is_empty();
        if table == schema::ATTENDANCE && whole && !parents(schema::PERSON).iter().any(|key| key.0[0] == name.1 .0[0]) {
            return None;
        }
        let mut fields = Vec::new();
        for column in schema::fields(table, width) {
            if !whole && self.rng.u8(..3) > 0 {
                continue;
            }
            let parent = TABLES[table].parents.iter().find(|(child, _)| *child == column).map(|(_, parent)| *parent);
            let value = match parent {
                Some(parent) => {
                    let known: Vec<Key> =
                        parents(parent).into_iter().filter(|key| table != parent || key < &name.1).collect();
                    match (known.is_empty(), table) {
                        (true, schema::VISIT) => return None,
                        (true, _) => Value::Null,
                        _ => pick(&mut self.rng, &known).0[0].clone(),
                    }
                }
                None => {
                    let before = before.get(usize::from(column)).cloned().unwrap_or_default();
                    self.value(table, column, &before)
                }
            };
            fields.push((column, value));
        }
        Some(fields)
    }

    fn draw_key(&mut self, table: usize) -> Key {
        Key(vec![match table {
            schema::VISIT => Value::Int(self.rng.i64(1..7)),
            schema::ATTENDANCE => {
                return Key(vec![Value::Text(format!("p{}", self.rng.u8(..6))), Value::Int(self.rng.i64(1..4))]);
            }
            schema::PERSON => Value::Text(format!("p{}", self.rng.u8(..6))),
            _ => Value::Text(format!("l{}", self.rng.u8(..6))),
        }])
    }

    fn edit(&mut self, phone: usize) {
        self.touched.insert(phone);
        for _ in 0..self.rng.usize(1..4) {
            let wall = self.wall(phone) + self.rng.u64(..1_000);
            let table = self.rng.usize(..TABLES.len());
            if table == schema::STOCK {
                self.count(phone, wall);
                continue;
            }
            let name: RowName = (table, self.draw_key(table));
            let file = &self.phones[phone].file;
            let width = file.width[table];
            let there = file.row(&name).cloned();
            let hidden = there.is_none() && file.rows.contains_key(&name);
            if hidden {
                continue; // stepped aside: the application cannot write it
            }
            let needed = file.is_needed(&name);
            let known: Vec<Vec<Key>> = (0..TABLES.len()).map(|table| file.keys(table)).collect();
            let parents = move |table: usize| known[table].clone();
            self.figures.edits += 1;
            match there {
                Some(_) if self.rng.u8(..5) == 0 => {
                    if needed {
                        continue;
                    }
                    self.trace(|| format!("phone {phone}: delete {}", Device::describe(&name)));
                    self.phones[phone].file.delete(wall, &name);
                    self.last_edits.retain(|(editor, row, _), _| *editor != phone || *row != name);
                }
                before => {
                    let Some(fields) = self.draw(&name, width, before.as_ref().unwrap_or(&Vec::new()), &parents) else {
                        continue;
                    };
                    let mut row = before.clone().unwrap_or_else(|| schema::blank(table));
                    fields.iter().for_each(|(column, value)| row[usize::from(*column)] = value.clone());
                    let taken = schema::code_of(table, &row).is_some_and(|code| {
                        self.phones[phone]
                            .file
                            .visible()
                            .any(|(other, twin)| *other != name && schema::code_of(other.0, twin) == Some(code))
                    });
                    if taken {
                        continue;
                    }
                    self.trace(|| format!("phone {phone} ({wall}): write {} {fields:?}", Device::describe(&name)));
                    let changed: Vec<(u16, Value)> = fields
                        .iter()
                        .filter(|(column, value)| {
                            before.as_ref().is_none_or(|before| before[usize::from(*column)] != *value)
                        })
                        .cloned()
                        .collect();
                    for (column, value) in changed {
                        self.last_edits.insert((phone, name.clone(), column), value);
                    }
                    if before.is_some() {
                        self.phones[phone].file.update(wall, &name, fields);
                    } else {
                        self.phones[phone].file.insert(wall, &name, row);
                    }
                }
            }
        }
    }

    fn count(&mut self, phone: usize, wall: u64) {
        let keys = self.phones[phone].file.keys(schema::STOCK);
        if keys.is_empty() {
            return;
        }
        let key = pick(&mut self.rng, &keys);
        let name = (schema::STOCK, key.clone());
        let difference = self.rng.i64(-9..10);
        let Some(Value::Int(before)) = self.phones[phone].file.row(&name).map(|row| row[1].clone()) else { return };
        self.trace(|| format!("phone {phone} ({wall}): {} {before} {difference:+}", Device::describe(&name)));
        self.phones[phone].file.update(wall, &name, vec![(schema::QUANTITY, Value::Int(before + difference))]);
        *self.stock.entry(key).or_default() += difference;
        self.figures.edits += 1;
    }

    fn export(&mut self, phone: usize) {
        let wall = self.wall(phone);
        let most = (self.rng.u8(..4) == 0).then(|| self.rng.usize(..4));
        let (blob, _) = self.phones[phone].file.export(wall, most);
        self.trace(|| format!("phone {phone}: export"));
        let blob: Rc<[u8]> = blob.into();
        self.archive.push((phone, blob.clone()));
        self.network.push(Letter::ToHub { from: phone, blob });
    }

    fn deliver(&mut self) -> Result<(), Finding> {
        if self.network.is_empty() {
            return Ok(());
        }
        let at = if self.rng.u8(..3) == 0 { self.rng.usize(..self.network.len()) } else { 0 };
        let twice = self.rng.u8(..8) == 0;
        let letter = self.network.remove(at);
        match letter {
            Letter::ToHub { from, blob } => {
                if twice {
                    self.network.push(Letter::ToHub { from, blob: blob.clone() });
                }
                let blob = self.damaged(blob);
                self.hear_of(from, &blob)
            }
            Letter::ToDevice { to, blob } => {
                if twice {
                    self.network.push(Letter::ToDevice { to, blob: blob.clone() });
                }
                let blob = self.damaged(blob);
                self.apply(to, &blob)
            }
        }
    }

    fn damaged(&mut self, blob: Rc<[u8]>) -> Rc<[u8]> {
        match self.rng.u8(..40) {
            0 => blob[..self.rng.usize(..blob.len().max(1))].into(),
            1 if !blob.is_empty() => {
                let mut bytes = blob.to_vec();
                let at = self.rng.usize(..bytes.len());
                bytes[at] ^= 1 << self.rng.u8(..8);
                bytes.into()
            }
            _ => blob,
        }
    }

    /// A delta reaches the hub; the commit may come later, or never.
    fn hear_of(&mut self, from: usize, blob: &[u8]) -> Result<(), Finding> {
        match self.hub.sync(blob, self.now_ms) {
            Ok(Ok(xid)) => {
                self.trace(|| self.told(xid, from, blob));
                match self.rng.u8(..10) {
                    0 => self.hub.abort(xid),
                    1 | 2 => self.syncs_open.push_back((xid, from)),
                    _ => self.commit_sync(xid, from),
                }
            }
            Ok(Err(reply)) => self.network.push(Letter::ToDevice { to: from, blob: reply }),
            Err(refusal) => {
                self.trace(|| format!("hub refuses: {refusal:?}"));
                let forgotten = self.options.restored_hub && refusal == hub::Refusal::Unknown;
                if !forgotten && refusal != hub::Refusal::Damaged {
                    return fail(format!("the hub refused phone {from}: {refusal:?}"));
                }
            }
        }
        Ok(())
    }

    /// A sync in words, for a trace.
    fn told(&self, xid: u64, from: usize, blob: &[u8]) -> String {
        let mut text = format!("hub: sync {xid} of phone {from}");
        let Ok(envelope) = post::peek(blob) else { return text };
        let Some(client) = self.hub.clients.get(&envelope.client) else { return text };
        let delta = post::read_delta(blob, &client.key, &client.delta_shapes);
        for table in delta.into_iter().flat_map(|(delta, _)| delta.body.tables) {
            for change in table.changes {
                text += &format!("\n    {}/{} {change:?}", table.table, change.key.row_id());
            }
        }
        let Some(own) = self.hub.running.get(&xid) else { return text };
        let knows = own.client.as_ref().map_or(Shapes::none(), |after| after.knows.clone());
        let reply = post::read_reply(&own.reply, &client.key, &knows).ok();
        if let Some(reply) = &reply {
            text += &format!("\n    cursor {} watermark {:?}", reply.body.cursor, reply.body.watermark);
            for notice in
                reply.body.notices.iter().filter(|notice| !matches!(notice, fieldsync_core::reply::Notice::Conflict(_)))
            {
                text += &format!("\n    {notice:?}");
            }
        }
        for (name, state) in &own.writes {
            text += &format!("\n    -> {} {state:?}", Device::describe(name));
        }
        for record in own.records.values() {
            text += &format!(
                "\n    !! {} {} {} open={} {:?}",
                Device::describe(&record.row),
                record.outcome,
                record.rule,
                record.open,
                record.values
            );
        }
        for table in reply.into_iter().flat_map(|reply| reply.body.tables) {
            for row in table.rows {
                text += &format!("\n    <- {}/{} {:?} {:?}", table.table, row.key.row_id(), row.op, row.fields);
            }
        }
        text
    }

    fn commit_sync(&mut self, xid: u64, to: usize) {
        let reply = self.hub.running.get(&xid).map(|own| own.reply.clone());
        self.hub.commit(xid);
        self.figures.syncs += 1;
        if let Some(blob) = reply {
            self.network.push(Letter::ToDevice { to, blob });
        }
    }

    fn finish_a_sync(&mut self) {
        if let Some((xid, from)) = self.syncs_open.pop_front() {
            if self.rng.u8(..4) == 0 {
                self.hub.abort(xid);
            } else {
                self.commit_sync(xid, from);
            }
        }
    }

    fn apply(&mut self, to: usize, blob: &[u8]) -> Result<(), Finding> {
        if self.rng.u8(..20) == 0 {
            return Ok(()); // it died before the commit: nothing happened
        }
        let outcome = self.phones[to].file.apply(blob);
        self.trace(|| format!("phone {to}: apply {outcome:?} watermark {:?}", self.phones[to].file.watermark));
        self.touched.insert(to);
        if outcome == Err(device::Refusal::NotMine) || outcome == Err(device::Refusal::Stale) {
            return Ok(());
        }
        let file = &self.phones[to].file;
        let back = match (&self.phones[to].cursor, &file.cursor) {
            (Some(before), Some(now)) => !now.covers(before),
            _ => false,
        };
        if back {
            return fail(format!("the cursor of phone {to} went back"));
        }
        self.phones[to].cursor = self.phones[to].file.cursor.clone();
        Ok(())
    }

    /// The hub's own application writes, slowly.
    fn portal(&mut self) {
        if self.writers_open.len() < 2 && self.rng.bool() {
            let xid = self.hub.begin();
            self.writers_open.push(xid);
        }
        if self.writers_open.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.writers_open.len());
        let xid = self.writers_open[at];
        if !self.hub.running.contains_key(&xid) {
            self.writers_open.remove(at); // somebody waited for it
            return;
        }
        match self.rng.u8(..6) {
            0 | 1 => {
                self.hub.commit(xid);
                self.writers_open.remove(at);
            }
            2 => {
                self.hub.abort(xid);
                self.writers_open.remove(at);
            }
            _ if self.rng.u8(..60) == 0 => {
                let table = pick(&mut self.rng, &schema::LEAVES);
                self.hub.truncate(xid, self.now_ms, table);
                self.trace(|| format!("portal {xid}: TRUNCATE {}", TABLES[table].name));
            }
            _ => {
                let table = pick(&mut self.rng, &[schema::PERSON, schema::VISIT, schema::PLACE, schema::ATTENDANCE]);
                let name: RowName = (table, self.draw_key(table));
                let width = self.hub.width[table];
                let before = self.hub.row(&name);
                let known: Vec<Vec<Key>> = (0..TABLES.len()).map(|table| self.hub.keys(table)).collect();
                let parents = move |table: usize| known[table].clone();
                let wanted = if before.is_some() && self.rng.u8(..4) == 0 {
                    None
                } else {
                    let Some(fields) = self.draw(&name, width, before.as_ref().unwrap_or(&Vec::new()), &parents) else {
                        return;
                    };
                    let mut row = before.unwrap_or_else(|| schema::blank(table));
                    fields.into_iter().for_each(|(column, value)| row[usize::from(column)] = value);
                    Some(row)
                };
                let done = self.hub.write(xid, self.now_ms, &name, wanted.clone());
                self.trace(|| format!("portal {xid}: {} {wanted:?} {done}", Device::describe(&name)));
            }
        }
    }

    /// A person drops what was rejected, while the devices don't look.
    fn settle(&mut self) {
        // A sync under way holds the entries that it writes.
        if self.hub.running.values().all(|running| running.client.is_none()) {
            let dropped = self.hub.drop_rejections();
            self.trace(|| format!("{dropped} rejections are dropped"));
        }
    }

    fn lose_letters(&mut self) {
        let keep = self.rng.usize(..self.network.len() + 1);
        self.network.truncate(keep);
    }

    fn replay(&mut self) -> Result<(), Finding> {
        if self.archive.is_empty() {
            return Ok(());
        }
        let (from, blob) = self.archive[self.rng.usize(..self.archive.len())].clone();
        self.trace(|| format!("an old blob of phone {from} again"));
        self.hear_of(from, &blob)
    }

    /// Copies of the hub and a phone get the same letters in other orders.
    fn orders(&mut self, phone: usize) -> Result<(), Finding> {
        let wall = self.wall(phone);
        match orders::of_one_device(&self.hub, &self.phones[phone].file, &mut self.rng, wall, self.now_ms) {
            Ok(compared) => self.figures.orders += compared,
            Err(what) => return fail(format!("phone {phone}: {what}")),
        }
        Ok(())
    }

    fn crash(&mut self, phone: usize) {
        // Exported, and the blob never left.
        let wall = self.wall(phone);
        let _ = self.phones[phone].file.export(wall, None);
    }

    /// What either end kept of the other's names is gone: a damaged table, a careless operator.
    fn lose_shapes(&mut self, phone: usize) {
        let tag = self.phones[phone].file.tag();
        let which = self.rng.u8(..3);
        if which == 0 {
            self.phones[phone].file.reply_shapes = Shapes::none();
        } else if let Some(client) = self.hub.clients.get_mut(&tag) {
            if which == 1 {
                client.delta_shapes = Shapes::none();
            } else {
                client.knows = Shapes::none();
            }
        }
        self.trace(|| format!("shapes of phone {phone} are lost ({which})"));
    }

    fn copy(&mut self, phone: usize) {
        if self.phones.len() > 5 {
            return;
        }
        let file = self.phones[phone].file.clone();
        // What waits in both files counts once; which of the two tells first is open.
        self.stock_exact &= file.pending() == 0;
        self.trace(|| format!("phone {phone} is copied to {}", self.phones.len()));
        let cursor = file.cursor.clone();
        self.phones.push(Phone { file, backup: None, offset_ms: 0, cursor });
    }

    fn restore(&mut self, phone: usize) {
        if let Some(backup) = self.phones[phone].backup.take() {
            self.trace(|| format!("phone {phone} is restored"));
            self.stock_exact = false;
            self.phones[phone].cursor = backup.cursor.clone();
            self.phones[phone].file = backup;
            // What was edited since is gone with the phone.
            self.last_edits.retain(|(editor, _, _), _| *editor != phone);
        }
    }

    fn restore_hub(&mut self) {
        if let Some(backup) = self.hub_backup.take() {
            let migrated = self.hub.width;
            self.hub = Hub::restored_from(&backup);
            self.hub.width = migrated; // its operator brings the schema up to date first
                                       // A dump, another server, a promotion: the hub sees that by itself. A disk put back under it shows only by what
                                       // devices have seen, and not where a blob of the lost days comes late: its answer hides what its device saw.
            let noticed = self.rng.u8(..3) > 0;
            if noticed {
                self.hub.epoch += 1 + self.rng.u32(..100);
            } else {
                self.network.clear();
                self.archive.clear();
            }
            self.trace(|| format!("the hub is restored, noticed by itself: {noticed}"));
            self.syncs_open.clear();
            self.writers_open.clear();
            for phone in &mut self.phones {
                phone.cursor = None;
            }
        }
    }

    // ---- what holds at every step ----------------------------------------------------------------------------------

    fn hold(&mut self, step: usize) -> Result<(), Finding> {
        if self.hub.commits != self.hub_looked_at {
            self.hub_looked_at = self.hub.commits;
            self.hub_holds(step)?;
        }
        for at in std::mem::take(&mut self.touched) {
            self.phone_holds(at, step)?;
        }
        Ok(())
    }

    fn hub_holds(&self, step: usize) -> Result<(), Finding> {
        if let Some((constraint, rows)) = self.hub.violations(&BTreeMap::new()).first() {
            return fail(format!("step {step}: the hub breaks {constraint}: {rows:?}"));
        }
        for client in self.hub.clients.values() {
            if client.outcomes.total() != client.acknowledged {
                return fail(format!("step {step}: the ledger of {} does not add up: {client:?}", client.client_id));
            }
        }
        Ok(())
    }

    fn phone_holds(&self, at: usize, step: usize) -> Result<(), Finding> {
        let file = &self.phones[at].file;
        let mut codes: BTreeMap<&Value, &RowName> = BTreeMap::new();
        for (name, row) in file.visible() {
            if let Some(parent) = schema::parents_of(name, row).iter().find(|parent| file.row(parent).is_none()) {
                return fail(format!(
                    "step {step}: phone {at} has {} without {}",
                    Device::describe(name),
                    Device::describe(parent)
                ));
            }
            if let Some(twin) = schema::code_of(name.0, row).and_then(|code| codes.insert(code, name)) {
                let (name, twin) = (Device::describe(name), Device::describe(twin));
                return fail(format!("step {step}: phone {at} has a code twice: {name}, {twin}"));
            }
        }
        Ok(())
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    fn exchange(&mut self, phone: usize) -> Result<usize, Finding> {
        let mut moved = 0;
        for _ in 0..40 {
            self.now_ms += 1_000;
            let wall = self.wall(phone);
            let (blob, changes) = self.phones[phone].file.export(wall, None);
            let reply = match self.hub.sync(&blob, self.now_ms) {
                Ok(Ok(xid)) => {
                    self.trace(|| self.told(xid, phone, &blob));
                    self.hub.commit(xid)
                }
                Ok(Err(reply)) => reply,
                // A restored hub has forgotten an identity that it gave since the backup: its operator registers it again.
                Err(hub::Refusal::Unknown) if self.options.restored_hub => {
                    let file = &self.phones[phone].file;
                    self.hub.register(&file.client_id.clone(), file.key.clone());
                    continue;
                }
                Err(refusal) => return fail(format!("at the end the hub refuses phone {phone}: {refusal:?}")),
            };
            self.figures.syncs += 1;
            let report = match self.phones[phone].file.apply(&reply) {
                Ok(report) => report,
                Err(refusal) => return fail(format!("at the end phone {phone} refuses its answer: {refusal:?}")),
            };
            self.touched.insert(phone);
            self.trace(|| format!("end: phone {phone} sent {changes} and got {}", report.rows));
            moved += changes + report.rows;
            if !report.more {
                return Ok(moved);
            }
        }
        fail(format!("phone {phone} never stops"))
    }

    fn quiesce(&mut self) -> Result<(), Finding> {
        let open: Vec<u64> = self.hub.running.keys().copied().collect();
        open.into_iter().for_each(|xid| {
            self.hub.commit(xid);
        });
        self.hub.add_column();
        for phone in &mut self.phones {
            phone.file.add_column();
        }
        for round in 0..12 {
            let mut moved = 0;
            for phone in 0..self.phones.len() {
                moved += self.exchange(phone)?;
                self.hold(1_000_000 + round)?;
            }
            let dropped = self.hub.drop_rejections();
            self.trace(|| format!("end: round {round} moved {moved}, {dropped} rejections dropped"));
            if moved == 0 && dropped == 0 {
                return self.judge();
            }
        }
        for (at, phone) in self.phones.iter().enumerate() {
            let file = &phone.file;
            self.trace(|| {
                let parked: Vec<_> = file.log.iter().filter(|entry| entry.parked || entry.again).collect();
                format!(
                    "phone {at}: wants {:?} waiting {:?} doomed {:?} aside {:?} refused {:?} parked {parked:?}",
                    file.wants, file.waiting, file.doomed, file.aside, file.rejections
                )
            });
        }
        fail("it does not come to rest in twelve rounds")
    }

    fn judge(&mut self) -> Result<(), Finding> {
        self.figures.records = self.hub.records.len() as u64;
        let hub = self.hub.live_rows();
        for (at, phone) in self.phones.iter().enumerate() {
            let file = &phone.file;
            let shown: BTreeMap<RowName, Row> = file.visible().map(|(name, row)| (name.clone(), row.clone())).collect();
            if shown != hub {
                let names: BTreeSet<&RowName> = hub.keys().chain(shown.keys()).collect();
                let wrong = names.into_iter().find(|name| hub.get(*name) != shown.get(*name));
                let wrong = wrong.map(|name| {
                    format!("{}: hub {:?}, phone {:?}", Device::describe(name), hub.get(name), shown.get(name))
                });
                return fail(format!("phone {at} differs: {}", wrong.unwrap_or_default()));
            }
            let asked = file.wants.len() + file.waiting.len();
            let rest = (file.pending(), asked, file.doomed.len(), file.aside.len(), file.rejections.len());
            if rest != (0, 0, 0, 0, 0) {
                return fail(format!(
                    "phone {at} has work left: pending, asked, doomed, aside, rejected = {rest:?} {:?} {:?} {:?} {:?} {:?}",
                    file.wants, file.waiting, file.doomed, file.aside, file.rejections
                ));
            }
        }
        if self.stock_exact {
            for (key, expected) in &self.stock {
                let name = (schema::STOCK, key.clone());
                let found = hub.get(&name).map(|row| row[usize::from(schema::QUANTITY)].clone());
                if found != Some(Value::Int(*expected)) {
                    return fail(format!("{} is {found:?} and should be {expected}", Device::describe(&name)));
                }
            }
        }
        if !self.options.restored_hub {
            self.every_edit_is_somewhere()?;
        }
        Ok(())
    }

    /// The last value that a device gave a field was written on the hub at some time, or is on record.
    fn every_edit_is_somewhere(&self) -> Result<(), Finding> {
        let recorded: BTreeSet<&Value> = self.hub.records.values().flat_map(|record| &record.values).collect();
        for ((phone, name, column), value) in &self.last_edits {
            let unique = matches!(value, Value::Text(text) if text.starts_with('v'));
            if unique && !self.hub.ever.contains(value) && !recorded.contains(value) {
                return fail(format!(
                    "{value:?}, which phone {phone} wrote into column {column} of {}, is nowhere",
                    Device::describe(name)
                ));
            }
        }
        Ok(())
    }
}
