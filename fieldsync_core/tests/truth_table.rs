//! The README's table of truth is what the code does.
//!
//! Method: the table is generated from [`fieldsync_core::merge::decide`] itself, over every detection, strategy and field
//! rule in the same three situations, and compared with the README between its markers. With `BLESS=1` it is written there
//! instead. No other test notices when words and behaviour drift apart.

use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{decide, Context, Decision, HubRow, HubState, Incoming, IncomingField, Write};
use fieldsync_core::rules::{Detection, FieldStrategy, OnDelete, OnSameKey, Strategy, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Snapshot, Value};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

const DEVICE: u32 = 1;
const OTHER: u32 = 2;
/// The device has seen versions below 100 only.
const SEEN: u64 = 50;
const UNSEEN: u64 = 150;

const BEGIN: &str = "<!-- truth table: generated, see fieldsync_core/tests/truth_table.rs -->\n";
const END: &str = "<!-- end of truth table -->";

fn base() -> Snapshot {
    Snapshot { xmin: 100, xmax: 100, xip: vec![] }
}

/// A row of two fields; somebody else changed the given field, unseen, at clock 500.
fn row(values: [i64; 2], changed: Option<u16>) -> HubRow {
    let mut clocks = RowClocks::new(Stamp::first(SEEN, Hlc(100), OTHER));
    if let Some(number) = changed {
        clocks.touch(number, UNSEEN, Hlc(500), OTHER);
    }
    HubRow { values: HashMap::from([(1, Value::Int(values[0])), (2, Value::Int(values[1]))]), clocks }
}

fn change(op: Op, clock: u64, fields: &[IncomingField], hub: &HubState, rules: &TableRules) -> Decision {
    let base = base();
    let incoming =
        Incoming { op, origin: DEVICE, clock: Hlc(clock), seen: Some(&base).into(), fields, key_is_integer: false };
    let context = Context { version: 200, client_id: &|origin| format!("client {origin}"), priority: None };
    decide(&incoming, hub, rules, &context)
}

fn update(old: i64, new: i64) -> [IncomingField; 1] {
    [IncomingField { number: 1, kind: Kind::Int, old: Some(Value::Int(old)), new: Value::Int(new) }]
}

/// What field 1 is afterwards, and the verdict.
fn shown(decision: &Decision, hub: i64) -> String {
    let value = match &decision.write {
        Write::Nothing => Value::Int(hub),
        Write::Update { fields, .. } | Write::Insert { fields, .. } | Write::Revive { fields, .. } => {
            fields.iter().find(|(number, _)| *number == 1).map_or(Value::Int(hub), |(_, value)| value.clone())
        }
        Write::Delete { .. } => return format!("deleted, {}", decision.outcome.word()),
    };
    let open = decision.collisions.iter().any(|collision| collision.winner.word() == "manual");
    let listed = if decision.collisions.iter().any(|collision| collision.quiet) { ", on record" } else { "" };
    format!("{}, {}{}{listed}", value.to_text(), decision.outcome.word(), if open { " (open)" } else { "" })
}

/// The three situations of a device that changes a field from 10 to 12.
fn situations(rules: &TableRules) -> [String; 3] {
    let same_field = HubState::Live(row([15, 0], Some(1)));
    let other_field = HubState::Live(row([10, 1], Some(2)));
    [
        shown(&change(Op::Update, 900, &update(10, 12), &same_field, rules), 15),
        shown(&change(Op::Update, 300, &update(10, 12), &same_field, rules), 15),
        shown(&change(Op::Update, 300, &update(10, 12), &other_field, rules), 10),
    ]
}

fn table() -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "A device changes a field from 10 to 12; meanwhile, unseen by it, the hub has changed\n\
         (a, b) the same field from 10 to 15, or (c) another field. In (a) the device's clock is the later one, in (b) and (c) the\n\
         hub's. Shown: the field on the hub afterwards, and the verdict.\n\n\
         | rule | (a) same field, device later | (b) same field, hub later | (c) another field, hub later |\n|---|---|---|---|"
    );
    for detection in Detection::ALL {
        for strategy in Strategy::ALL {
            let rules = TableRules { detection: *detection, strategy: *strategy, ..TableRules::default() };
            let [a, b, c] = situations(&rules);
            let _ = writeln!(out, "| `{}` `{}` | {a} | {b} | {c} |", detection.word(), strategy.word());
        }
    }
    for strategy in FieldStrategy::ALL {
        let rules = TableRules { fields: HashMap::from([(1, *strategy)]), ..TableRules::default() };
        let [a, b, c] = situations(&rules);
        let _ = writeln!(out, "| field rule `{}` | {a} | {b} | {c} |", strategy.word());
    }
    let _ = writeln!(
        out,
        "\n| rule | device updates what the hub deleted | device deletes what the hub updated |\n|---|---|---|"
    );
    for on_delete in OnDelete::ALL {
        let rules = TableRules { on_delete: *on_delete, ..TableRules::default() };
        let deletion = Stamp { version: UNSEEN, clock: Hlc(500), origin: OTHER, foreign: SEEN };
        let deleted = HubState::Deleted { row: row([10, 0], None), deletion };
        let updated = change(Op::Update, 300, &update(10, 12), &deleted, &rules);
        let up = match &updated.write {
            Write::Revive { .. } => "comes back, whole, with the device's value",
            _ => "stays deleted",
        };
        let live = HubState::Live(row([15, 0], Some(1)));
        let removed = change(Op::Delete, 900, &[], &live, &rules);
        let down = if matches!(removed.write, Write::Delete { .. }) {
            "is deleted"
        } else {
            "stays, and returns to the device"
        };
        let open = |decision: &Decision| {
            if decision.collisions.iter().any(|collision| collision.winner.word() == "manual") {
                " (open)"
            } else {
                ""
            }
        };
        let _ = writeln!(
            out,
            "| `on_delete` `{}` | {up}, {}{} | {down}, {}{} |",
            on_delete.word(),
            updated.outcome.word(),
            open(&updated),
            removed.outcome.word(),
            open(&removed)
        );
    }
    let _ = writeln!(out, "\n| rule | device inserts a key that another origin inserted unseen |\n|---|---|");
    for (name, rule, integer) in [
        ("default, integer key", None, true),
        ("default, other keys", None, false),
        ("`on_same_key` `separate`", Some(OnSameKey::Separate), false),
        ("`on_same_key` `merge`", Some(OnSameKey::Merge), true),
    ] {
        let rules = TableRules { on_same_key: rule, ..TableRules::default() };
        let clocks = RowClocks::new(Stamp::first(UNSEEN, Hlc(500), OTHER));
        let hub = HubState::Live(HubRow { values: HashMap::from([(1, Value::Int(15))]), clocks });
        let base = base();
        let fields = [IncomingField { number: 1, kind: Kind::Int, old: None, new: Value::Int(12) }];
        let incoming = Incoming {
            op: Op::Insert,
            origin: DEVICE,
            clock: Hlc(900),
            seen: Some(&base).into(),
            fields: &fields,
            key_is_integer: integer,
        };
        let context = Context { version: 200, client_id: &|origin| format!("client {origin}"), priority: None };
        let decision = decide(&incoming, &hub, &rules, &context);
        let words = if decision.collisions.iter().any(|collision| collision.rule.starts_with("on_same_key")) {
            "two records: the second waits for a person"
        } else {
            "one record: merged by rule"
        };
        let _ = writeln!(out, "| {name} | {words}, {} |", decision.outcome.word());
    }
    out
}

#[test]
fn the_readme_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md");
    let begin = readme.find(BEGIN).expect("the README has the begin marker") + BEGIN.len();
    let end = readme.find(END).expect("the README has the end marker");
    if std::env::var_os("BLESS").is_some() {
        let fresh = format!("{}{}{}", &readme[..begin], table(), &readme[end..]);
        std::fs::write(&path, fresh).expect("README.md can be written");
        return;
    }
    assert_eq!(&readme[begin..end], table(), "run BLESS=1 cargo test -p fieldsync_core --test truth_table");
}
