//! Any order and repetition of deliveries gives the same state.
//!
//! Two checks. Of one device: its exports reach the hub in any order and number, and the answers reach it so; rows, watermark
//! and counted changes come out the same, under all rules. Of several devices that edited the same fields without having
//! seen each other: whoever comes first, the rows come out the same, under rules that go by clocks, differences or sets
//! (`server_wins` and the like mean the order, by their words).

use crate::device::Device;
use crate::hub::{Hub, Record};
use crate::schema::{self, pick, Row, RowName};
use fastrand::Rng;
use fieldsync_core::clock::Hlc;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::{Key, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

type Rows = BTreeMap<RowName, Row>;

/// What came of some blobs.
struct After {
    hub: Hub,
    answers: Vec<Rc<[u8]>>,
    /// Deleted parents that came back for a child.
    revived: BTreeSet<RowName>,
}

/// The hub after some blobs; None where one of them meets a turning point.
fn after(hub: &Hub, blobs: &[&[u8]], now_ms: u64) -> Option<After> {
    let mut hub = hub.clone();
    let open: Vec<u64> = hub.running.keys().copied().collect();
    open.into_iter().for_each(|xid| {
        hub.commit(xid);
    });
    let (mut answers, mut revived) = (Vec::new(), BTreeSet::new());
    for (at, blob) in blobs.iter().enumerate() {
        match hub.sync(blob, now_ms + at as u64).ok()? {
            Ok(xid) => {
                let own = hub.running.get(&xid).filter(|own| own.client.is_some())?;
                revived.extend(own.revived.iter().cloned());
                answers.push(hub.commit(xid));
            }
            Err(reply) => answers.push(reply),
        }
    }
    Some(After { hub, answers, revived })
}

fn comes_to_rest(hub: &Hub, device: &mut Device, wall_ms: u64, now_ms: u64) -> bool {
    let mut hub = hub.clone();
    (0..8).any(|turn| {
        let (blob, _) = device.export(wall_ms + turn, None);
        let reply = match hub.sync(&blob, now_ms + turn) {
            Ok(Ok(xid)) => hub.commit(xid),
            Ok(Err(reply)) => reply,
            Err(_) => return false,
        };
        device.apply(&reply).is_ok_and(|report| !report.more)
    })
}

fn shown(device: &Device) -> Rows {
    device.visible().map(|(name, row)| (name.clone(), row.clone())).collect()
}

/// The first check, on copies of a hub and a device in the middle of a history; the device's first export has at most `most` changes. Gives the number of orders compared.
pub fn of_one_device(hub: &Hub, device: &Device, most: usize, wall_ms: u64, now_ms: u64) -> Result<u64, String> {
    if device.reconciling || device.recovery.is_some() || device.names_wanted {
        return Ok(0); // the answer to the first of its exports brings something for the second one
    }
    let mut device = device.clone();
    let tag = device.tag();
    let (part, _) = device.export(wall_ms, Some(most));
    let (whole, _) = device.export(wall_ms + 1, None);
    let orders: [&[&[u8]]; 4] =
        [&[&part, &whole], &[&whole], &[&part, &part, &whole, &whole], &[&whole, &part, &whole]];
    let mut first: Option<(Rows, Hlc, u64)> = None;
    let mut compared = 0;
    let before = hub;
    let mut brought_back: Option<BTreeSet<RowName>> = None;
    for blobs in orders {
        let Some(After { hub, answers: replies, revived }) = after(hub, blobs, now_ms) else { return Ok(compared) };
        let Some(client) = hub.clients.get(&tag) else { return Ok(compared) };
        // The final state of a delta counts: half of it may be refused where the whole is not.
        let by_constraint = |record: &Record| record.outcome == "rejected" || record.rule.starts_with("on_");
        let is_new = |number: &u64, told: u64| before.records.get(number).is_none_or(|old| old.told != told);
        if hub.records.iter().any(|(number, record)| by_constraint(record) && is_new(number, record.told)) {
            return Ok(compared);
        }
        // For the same reason half of it may bring a deleted parent back that the whole has no child of any more.
        if *brought_back.get_or_insert_with(|| revived.clone()) != revived {
            return Ok(compared);
        }
        let found = (hub.live_rows(), client.watermark, client.acknowledged);
        compared += 1;
        match &first {
            None => first = Some(found),
            Some(first) if *first != found => {
                let wrong = first.0.iter().find(|(name, row)| found.0.get(*name) != Some(*row));
                let other = wrong.and_then(|(name, _)| found.0.get(name));
                return Err(format!(
                    "{} deliveries of two exports come out otherwise than [part, whole]: {wrong:?} and {other:?}, {:?} {} against {:?} {}",
                    blobs.len(),
                    first.1,
                    first.2,
                    found.1,
                    found.2
                ));
            }
            Some(_) => {}
        }
        if let [a, b] = replies.as_slice() {
            let mut seen: Option<(Rows, usize)> = None;
            let answers: [&[&[u8]]; 4] = [&[a, b], &[b], &[b, a], &[a, a, b, a, b]];
            for answers in answers {
                let mut device = device.clone();
                let said: Vec<_> = answers.iter().map(|answer| device.apply(answer)).collect();
                // An answer without rows makes the device ask for some: what counts is what it comes to.
                if !comes_to_rest(&hub, &mut device, wall_ms + 2, now_ms + 10) {
                    return Ok(compared);
                }
                let found = (shown(&device), device.pending());
                compared += 1;
                let (rows, pending) = seen.get_or_insert_with(|| found.clone());
                if (&*rows, *pending) != (&found.0, found.1) {
                    let wrong = rows.iter().find(|(name, row)| found.0.get(*name) != Some(*row));
                    let more = found.0.keys().find(|name| !rows.contains_key(*name));
                    return Err(format!(
                        "{said:?} come out otherwise than two answers in their order: {wrong:?} {more:?} {pending} {}",
                        found.1
                    ));
                }
            }
        }
    }
    Ok(compared)
}

/// Rows as they are compared: a set has no order.
fn settled(hub: &Hub) -> Rows {
    let mut rows = hub.live_rows();
    for ((table, _), row) in &mut rows {
        if let Some(Value::Text(tags)) = row.get(4).filter(|_| *table == schema::PERSON) {
            let mut tags: Vec<&str> = tags.trim_matches(['[', ']']).split(", ").collect();
            tags.sort_unstable();
            row[4] = Value::Text(tags.join(", "));
        }
    }
    rows
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(of - 1) {
        for at in 0..of {
            let mut longer = shorter.clone();
            longer.insert(at, of - 1);
            all.push(longer);
        }
    }
    all
}

/// The second check: a world of its own. Gives the number of orders compared.
pub fn of_several_devices(seed: u64) -> Result<u64, String> {
    const NOW_MS: u64 = 1_790_000_000_000;
    let mut rng = Rng::with_seed(seed);
    let mut rules: Vec<TableRules> = (0..schema::TABLES.len()).map(|_| TableRules::default()).collect();
    let ruled = [(schema::STOCK, 1, FieldStrategy::Sum), (schema::PERSON, 4, FieldStrategy::Union)];
    for (table, column, rule) in ruled {
        rules[table].fields.insert(column, rule);
    }
    if rng.bool() {
        let rule = if rng.bool() { FieldStrategy::Max } else { FieldStrategy::Min };
        rules[schema::PERSON].fields.insert(3, rule);
    }
    let mut hub = Hub::new(rules, schema::EXTRA);
    let xid = hub.begin();
    let names: [RowName; 3] = [
        (schema::PERSON, Key(vec!["p0".into()])),
        (schema::PERSON, Key(vec!["p1".into()])),
        (schema::STOCK, Key(vec!["oil".into()])),
    ];
    for name in &names {
        let mut row = schema::blank(name.0);
        if name.0 == schema::STOCK {
            row[1] = Value::Int(100);
        } else {
            (row[1], row[3], row[4]) = ("v0".into(), Value::Int(20), "[\"t0\", \"t1\"]".into());
        }
        hub.write(xid, NOW_MS, name, Some(row));
    }
    hub.commit(xid);
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for at in 0..rng.usize(2..5) {
        let id = format!("phone{}", (at * 7 + 3) % 10);
        let key = MacKey([at as u8 + 1; 32]);
        hub.register(&id, key.clone());
        let mut device = Device::new(&id, key, schema::EXTRA);
        let (blob, _) = device.export(NOW_MS, None);
        let answer = match hub.sync(&blob, NOW_MS) {
            Ok(Ok(xid)) => hub.commit(xid),
            other => return Err(format!("the first sync: {:?}", other.err())),
        };
        device.apply(&answer).map_err(|refusal| format!("the first answer: {refusal:?}"))?;
        // Few values and close clocks, so that equal values and equal clocks are common.
        for _ in 0..rng.usize(1..5) {
            let wall = NOW_MS + rng.u64(..4);
            let name = pick(&mut rng, &names);
            let Some(row) = device.row(&name).cloned() else { continue };
            let change = match (name.0, rng.u8(..4), &row[1]) {
                (schema::STOCK, _, Value::Int(before)) => (1, Value::Int(before + rng.i64(-5..6))),
                (_, 0, _) => (1, Value::Text(format!("v{}", rng.u8(..3)))),
                (_, 1, _) => (5, Value::Text(format!("n{}", rng.u8(..2)))),
                (_, 2, _) => (3, Value::Int(rng.i64(18..23))),
                _ => {
                    let tags: Vec<String> = (0..4).filter(|_| rng.bool()).map(|tag| format!("\"t{tag}\"")).collect();
                    (4, Value::Text(format!("[{}]", tags.join(", "))))
                }
            };
            device.update(wall, &name, vec![change]);
        }
        blobs.push(device.export(NOW_MS, None).0);
    }
    let mut first: Option<Rows> = None;
    let mut compared = 0;
    for order in permutations(blobs.len()) {
        let mut sent: Vec<&[u8]> = order.iter().map(|at| blobs[*at].as_slice()).collect();
        sent.insert(rng.usize(..=sent.len()), sent[0]);
        let Some(After { hub, .. }) = after(&hub, &sent, NOW_MS + 10) else { return Err("a turning point".to_owned()) };
        let found = settled(&hub);
        compared += 1;
        let first = first.get_or_insert_with(|| found.clone());
        if *first != found {
            let wrong = found.iter().find(|(name, row)| first.get(*name) != Some(*row));
            let other = wrong.and_then(|(name, _)| first.get(name));
            return Err(format!("order {order:?}: {wrong:?} and not {other:?}"));
        }
    }
    Ok(compared)
}
