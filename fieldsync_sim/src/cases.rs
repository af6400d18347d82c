//! Random conflicts with the core's decision, one JSON object each, for the oracle in another language to judge.
//!
//! The oracle sees the row's whole history; the core sees the field clocks that the same history leaves behind. So a
//! stamp that forgets something it should not is a difference, not an agreement.

use fastrand::Rng;
use fieldsync_core::clocks::{Origin, RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{decide, Context, Decision, HubRow, HubState, Incoming, IncomingField, Winner, Write};
use fieldsync_core::rules::{Detection, FieldStrategy, OnDelete, OnSameKey, Strategy, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Snapshot, Value};
use serde_json::{json, Map, Value as Json};
use std::collections::HashMap;

const FIELDS: u16 = 4;
const DEVICE: Origin = 2;
const CLIENTS: Origin = 4;
const HOUR_MS: u64 = 3_600_000;

struct Event {
    op: Op,
    version: u64,
    clock: Hlc,
    origin: Origin,
    fields: Vec<u16>,
}

/// The ids of clients sort otherwise than their numbers.
fn client_id(origin: Origin) -> String {
    format!("client-{}", (origin * 7) % 5)
}

/// One case as JSON.
pub fn case(seed: u64) -> Json {
    let mut rng = Rng::with_seed(seed);
    let kinds: Vec<Kind> = (0..FIELDS).map(|_| *pick(&mut rng, &KINDS)).collect();
    let rules = rules(&mut rng, &kinds);
    let base = base(&mut rng);
    let (history, hub) = history(&mut rng, &kinds, base.as_ref());
    let fields = change(&mut rng, &kinds, &hub);
    let ops: &[Op] = match &hub {
        HubState::Absent => &[Op::Insert, Op::Update, Op::Delete],
        _ => &[Op::Update, Op::Update, Op::Update, Op::Update, Op::Insert, Op::Delete],
    };
    let op = *pick(&mut rng, ops);
    let fields = match op {
        Op::Delete => Vec::new(),
        Op::Insert => whole(&mut rng, &kinds, fields),
        _ => fields,
    };
    let own = history.iter().filter(|event| event.origin == DEVICE).map(|event| event.clock).max();
    let clock = draw_clock(&mut rng).max(own.unwrap_or_default());
    let key_is_integer = rng.bool();
    let numbers = [Value::Null, Value::Int(1), Value::Int(2), Value::Int(3)];
    let priority = rng.bool().then(|| (pick(&mut rng, &numbers).clone(), pick(&mut rng, &numbers).clone()));
    let incoming = Incoming { op, origin: DEVICE, clock, seen: base.as_ref().into(), fields: &fields, key_is_integer };
    let context = Context { version: 1_000, client_id: &client_id, priority: priority.clone() };
    let decision = decide(&incoming, &hub, &rules, &context);
    json!({
        "seed": seed,
        "rules": rules_json(&rules, priority),
        "kinds": kinds.iter().enumerate().map(|(at, kind)| (name(at as u16 + 1), json!(word(*kind)))).collect::<Map<_, _>>(),
        "integer_key": key_is_integer,
        "alive": matches!(hub, HubState::Live(_)),
        "values": values(&hub),
        "history": history.iter().map(event_json).collect::<Vec<_>>(),
        "change": {
            "op": op.word(),
            "origin": client_id(DEVICE),
            "clock": clock.0,
            "base": base.map(|base| json!({"xmin": base.xmin, "xmax": base.xmax, "xip": base.xip})),
            "fields": fields.iter().map(|field| (name(field.number), json!({
                "old": field.old.as_ref().map_or(Json::Null, Value::to_json), "new": field.new.to_json(),
            }))).collect::<Map<_, _>>(),
        },
        "decision": decision_json(&decision, &hub),
    })
}

const KINDS: [Kind; 6] = [Kind::Int, Kind::Int, Kind::Real, Kind::Numeric, Kind::Array, Kind::Text];

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Int => "int",
        Kind::Real => "real",
        Kind::Numeric => "numeric",
        Kind::Array => "array",
        _ => "text",
    }
}

fn name(number: u16) -> String {
    number.to_string()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}

/// Few distinct clocks, so that equal ones are common.
fn draw_clock(rng: &mut Rng) -> Hlc {
    Hlc::from_ms(HOUR_MS * rng.u64(1..12))
}

fn value(rng: &mut Rng, kind: Kind) -> Value {
    if rng.u8(..6) == 0 {
        return Value::Null;
    }
    match kind {
        Kind::Int if rng.u8(..20) == 0 => Value::Int(if rng.bool() { i64::MAX } else { i64::MIN }),
        Kind::Int => Value::Int(rng.i64(-3..4)),
        Kind::Real => Value::Real(f64::from(rng.i32(-8..9)) / 4.0),
        Kind::Numeric => Value::from(*pick(rng, &["0.1", "0.30", "-7", "12345678901234567890.25", "0", "2.5"])),
        Kind::Array => {
            let elements: Vec<&str> = [r#""a""#, r#""b""#, "1", "true", r#"{"k": [1, 2]}"#, "null"]
                .into_iter()
                .filter(|_| rng.bool())
                .collect();
            Value::Text(format!("[{}]", elements.join(", ")))
        }
        _ => Value::from(*pick(rng, &["x", "y", "zebra", "", "10", "9"])),
    }
}

fn rules(rng: &mut Rng, kinds: &[Kind]) -> TableRules {
    let mut fields = HashMap::new();
    for (at, kind) in kinds.iter().enumerate() {
        let fitting: &[FieldStrategy] = match kind {
            Kind::Array | Kind::Text => {
                &[FieldStrategy::LastWriteWins, FieldStrategy::ServerWins, FieldStrategy::Union, FieldStrategy::Manual]
            }
            _ => &[
                FieldStrategy::Sum,
                FieldStrategy::Max,
                FieldStrategy::Min,
                FieldStrategy::ClientWins,
                FieldStrategy::LastWriteWins,
                FieldStrategy::ServerWins,
            ],
        };
        if rng.bool() {
            fields.insert(at as u16 + 1, *pick(rng, fitting));
        }
    }
    TableRules {
        detection: *pick(rng, Detection::ALL),
        strategy: *pick(rng, Strategy::ALL),
        merge_fields: (rng.u8(..3) == 0).then(|| (1..=FIELDS).filter(|_| rng.bool()).collect()),
        on_delete: *pick(rng, OnDelete::ALL),
        on_same_key: (rng.u8(..3) == 0).then(|| *pick(rng, OnSameKey::ALL)),
        fields,
        ..TableRules::default()
    }
}

/// Versions of histories lie between 10 and 50.
fn base(rng: &mut Rng) -> Option<Snapshot> {
    (rng.u8(..5) > 0).then(|| {
        let xmin = rng.u64(8..40);
        let xmax = xmin + rng.u64(..12);
        let xip: Vec<u64> = (xmin..xmax).filter(|_| rng.u8(..3) == 0).collect();
        Snapshot { xmin, xmax, xip }
    })
}

/// What happened to the row on the hub, and what is left of it.
fn history(rng: &mut Rng, kinds: &[Kind], base: Option<&Snapshot>) -> (Vec<Event>, HubState) {
    if rng.u8(..8) == 0 {
        return (Vec::new(), HubState::Absent);
    }
    let mut version = rng.u64(10..25);
    let all: Vec<u16> = (1..=FIELDS).collect();
    let origin = rng.u32(..CLIENTS);
    let clock = draw_clock(rng);
    let mut events = vec![Event { op: Op::Insert, version, clock, origin, fields: all }];
    let mut row = HubRow {
        values: (1..=FIELDS).zip(kinds).map(|(number, kind)| (number, value(rng, *kind))).collect(),
        clocks: RowClocks::new(Stamp::first(version, clock, origin)),
    };
    let mut unseen_by_device = Hlc::default();
    let mut own = Hlc::default();
    note(&events[0], base, &mut unseen_by_device, &mut own);
    for _ in 0..rng.usize(..5) {
        version = next_version(rng, version, base);
        let origin = rng.u32(..CLIENTS);
        let mut clock = draw_clock(rng);
        if origin == DEVICE {
            // A device's own accepted write over something unseen was the later one, and its clock only grows.
            clock = clock.max(own).max(Hlc(unseen_by_device.0 + 1));
        }
        let fields: Vec<u16> = (1..=FIELDS).filter(|_| rng.u8(..3) == 0).collect();
        for number in &fields {
            // A stamp's clock never goes back, whoever writes.
            clock = clock.max(row.clocks.field(*number).clock);
        }
        for number in &fields {
            row.values.insert(*number, value(rng, kinds[usize::from(*number) - 1]));
            row.clocks.touch(*number, version, clock, origin);
        }
        if !fields.is_empty() {
            let event = Event { op: Op::Update, version, clock, origin, fields };
            note(&event, base, &mut unseen_by_device, &mut own);
            events.push(event);
        }
    }
    if rng.u8(..4) > 0 {
        return (events, HubState::Live(row));
    }
    version = next_version(rng, version, base);
    let origin = rng.u32(..CLIENTS);
    let last = row.clocks.latest();
    let clock = draw_clock(rng).max(last.clock);
    events.push(Event { op: Op::Delete, version, clock, origin, fields: Vec::new() });
    (events, HubState::Deleted { row, deletion: last.followed_by(version, clock, origin) })
}

/// Row locks put a row's writers one after the other: who sees a later one has seen the earlier ones.
fn next_version(rng: &mut Rng, before: u64, base: Option<&Snapshot>) -> u64 {
    let mut version = before + rng.u64(1..6);
    while base.is_some_and(|base| base.visible(version) && !base.visible(before)) {
        version += 1;
    }
    version
}

fn note(event: &Event, base: Option<&Snapshot>, unseen_by_device: &mut Hlc, own: &mut Hlc) {
    if event.origin == DEVICE {
        *own = (*own).max(event.clock);
    } else if base.is_none_or(|base| !base.visible(event.version)) {
        *unseen_by_device = (*unseen_by_device).max(event.clock);
    }
}

/// Some changed fields. What the device had before is often what the hub still has.
fn change(rng: &mut Rng, kinds: &[Kind], hub: &HubState) -> Vec<IncomingField> {
    let mut fields = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        let number = at as u16 + 1;
        if rng.bool() {
            continue;
        }
        let there = match hub {
            HubState::Live(row) | HubState::Deleted { row, .. } => row.value(number),
            HubState::Absent => Value::Null,
        };
        let old = if rng.bool() { there.clone() } else { value(rng, *kind) };
        let new = if rng.u8(..6) == 0 { there } else { value(rng, *kind) };
        fields.push(IncomingField { number, kind: *kind, old: Some(old), new });
    }
    fields
}

/// An insert brings every field, and no values before.
fn whole(rng: &mut Rng, kinds: &[Kind], some: Vec<IncomingField>) -> Vec<IncomingField> {
    (1..=FIELDS)
        .map(|number| {
            let kind = kinds[usize::from(number) - 1];
            let new = some.iter().find(|field| field.number == number).map(|field| field.new.clone());
            IncomingField { number, kind, old: None, new: new.unwrap_or_else(|| value(rng, kind)) }
        })
        .collect()
}

fn values(hub: &HubState) -> Json {
    match hub {
        HubState::Absent => json!({}),
        HubState::Live(row) | HubState::Deleted { row, .. } => {
            (1..=FIELDS).map(|number| (name(number), row.value(number).to_json())).collect::<Map<_, _>>().into()
        }
    }
}

fn event_json(event: &Event) -> Json {
    json!({
        "op": event.op.word(),
        "version": event.version,
        "clock": event.clock.0,
        // The hub is the lowest of all.
        "origin": if event.origin == 0 { String::new() } else { client_id(event.origin) },
        "fields": event.fields.iter().map(|number| name(*number)).collect::<Vec<_>>(),
    })
}

fn rules_json(rules: &TableRules, priority: Option<(Value, Value)>) -> Json {
    json!({
        "detection": rules.detection.word(),
        "strategy": rules.strategy.word(),
        "merge_fields": rules.merge_fields.as_ref().map(|fields| fields.iter().map(|number| name(*number)).collect::<Vec<_>>()),
        "on_delete": rules.on_delete.word(),
        "on_same_key": rules.on_same_key.map(OnSameKey::word),
        "fields": rules.fields.iter().map(|(number, rule)| (name(*number), json!(rule.word()))).collect::<Map<_, _>>(),
        "priority": priority.map(|(device, hub)| json!([device.to_json(), hub.to_json()])),
    })
}

fn decision_json(decision: &Decision, hub: &HubState) -> Json {
    let mut values = match hub {
        HubState::Live(row) => Some(row.values.clone()),
        _ => None,
    };
    match &decision.write {
        Write::Nothing => {}
        Write::Insert { fields, .. } | Write::Revive { fields, .. } => values = Some(fields.iter().cloned().collect()),
        Write::Update { fields, .. } => {
            if let Some(values) = &mut values {
                values.extend(fields.iter().cloned());
            }
        }
        Write::Delete { .. } => values = None,
    }
    let side = |winner: Winner, quiet: bool| {
        let mut names: Vec<String> = decision
            .collisions
            .iter()
            .filter(|collision| collision.quiet == quiet && (quiet || collision.winner == winner))
            .map(|collision| collision.number.map_or("*".to_owned(), name))
            .collect();
        names.sort();
        names
    };
    let exists = values.is_some();
    let values = values.unwrap_or_default();
    let numbers = 1..=if exists { FIELDS } else { 0 };
    json!({
        "verdict": decision.outcome.word(),
        "exists": exists,
        "values": numbers.map(|number| (name(number), values.get(&number).map_or(Json::Null, Value::to_json)))
            .collect::<Map<_, _>>(),
        "won": side(Winner::Client, false),
        "lost": side(Winner::Server, false),
        "waiting": side(Winner::Person, false),
        "quiet": side(Winner::Client, true),
    })
}
