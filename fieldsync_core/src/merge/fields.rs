//! Merging an update into a row, field by field.
//!
//! Three questions per field, in this order: may it be in conflict at all (the table's detection)? who decides (the
//! field's rule, else the table's strategy)? what is the value, and did anybody lose?

use super::values::{self, Joined};
use super::{Collision, Context, Decision, HubRow, Incoming, IncomingField, Outcome, Rejection, Winner, Write};
use crate::clocks::{Stamp, HUB};
use crate::delta::Op;
use crate::rules::{Detection, FieldStrategy, OnSameKey, Strategy, TableRules};
use crate::value::Value;
use std::cmp::Ordering;

/// What becomes of one field.
enum Verdict {
    /// The device's value.
    Take,
    /// The hub's value.
    Keep,
    /// Both have the same value, and the device's word for it counts: the field is as late as that, and as unseen.
    Again,
    /// Another value that holds both.
    Join(Value),
}

pub(super) fn update(change: &Incoming<'_>, row: &HubRow, rules: &TableRules, context: &Context<'_>) -> Decision {
    let judge = Judge { change, row, rules, context, row_in_conflict: row_in_conflict(change, row, rules, context) };
    let mut clocks = row.clocks.clone();
    let mut fields = Vec::new();
    let mut collisions = Vec::new();
    for field in change.fields {
        let server = row.value(field.number);
        let verdict = match judge.field(field, &server, &mut collisions) {
            Ok(verdict) => verdict,
            Err(why) => return Decision::rejected(why),
        };
        let (value, again) = match verdict {
            Verdict::Take => (field.new.clone(), false),
            Verdict::Keep => continue,
            Verdict::Again => (server.clone(), true),
            Verdict::Join(value) => (value, false),
        };
        if again || !values::same(field.kind, &value, &server) {
            let before = clocks.field(field.number);
            // A later write never has an earlier clock than what it replaces, or it would lose to it elsewhere.
            let clock = change.clock.max(before.clock);
            clocks.touch(field.number, context.version, clock, change.origin);
            fields.push((field.number, value));
        }
    }
    let concurrent = change.seen.misses_any(change.origin, &row.clocks);
    let outcome = match () {
        () if collisions.iter().any(|collision| !collision.quiet) => Outcome::Conflict,
        () if concurrent => Outcome::Merged,
        () => Outcome::Applied,
    };
    let write = if fields.is_empty() { Write::Nothing } else { Write::Update { fields, clocks } };
    Decision { write, collisions, ..Decision::nothing(outcome) }
}

/// Whether the table's detection calls the whole row a conflict. `field_compare` asks per field instead.
fn row_in_conflict(change: &Incoming<'_>, row: &HubRow, rules: &TableRules, context: &Context<'_>) -> bool {
    let concurrent = change.seen.misses_any(change.origin, &row.clocks);
    match rules.detection {
        Detection::FieldCompare => false,
        Detection::VersionCompare => concurrent,
        // What the device had seen it may overwrite, whatever the clocks say.
        Detection::TimestampCompare => {
            concurrent
                && match &context.priority {
                    Some((device, hub)) => values::compare(device, hub) == Some(Ordering::Less),
                    None => change
                        .seen
                        .latest_missed(change.origin, &row.clocks)
                        .is_some_and(|theirs| change.clock < theirs.clock),
                }
        }
    }
}

struct Judge<'a> {
    change: &'a Incoming<'a>,
    row: &'a HubRow,
    rules: &'a TableRules,
    context: &'a Context<'a>,
    row_in_conflict: bool,
}

impl Judge<'_> {
    fn field(
        &self,
        field: &IncomingField,
        server: &Value,
        collisions: &mut Vec<Collision>,
    ) -> Result<Verdict, Rejection> {
        let stamp = self.row.clocks.field(field.number);
        let concurrent = self.change.seen.misses_field(self.change.origin, &self.row.clocks, field.number);
        let rule = self.rules.fields.get(&field.number).copied();
        // A value that went there and back: nothing was said.
        if field.old.as_ref().is_some_and(|old| values::same(field.kind, old, &field.new)) {
            return Ok(Verdict::Keep);
        }
        if rule == Some(FieldStrategy::Sum) {
            return self.sum(field, server, stamp, concurrent, collisions);
        }
        if values::same(field.kind, &field.new, server) {
            // Else a third writer, between the two in time or knowing of one of them only, would win or lose by who came first.
            let says_more = match rule {
                Some(FieldStrategy::Max | FieldStrategy::Min) => true,
                rule => self.goes_by_clock(field.number, rule) && self.is_later(stamp),
            };
            return Ok(if says_more { Verdict::Again } else { Verdict::Keep });
        }
        match rule {
            Some(rule @ (FieldStrategy::Max | FieldStrategy::Min)) if concurrent => {
                let wanted = if rule == FieldStrategy::Max { Ordering::Greater } else { Ordering::Less };
                return Ok(match values::compare(&field.new, server) {
                    Some(order) if order == wanted => Verdict::Take,
                    Some(_) => Verdict::Keep,
                    None => {
                        // NULL against a value: neither is the greater, so one is lost, by the clock and on record.
                        let (verdict, winner) = self.later(stamp);
                        self.collide(field, server, stamp, winner, format!("field/{}", rule.word()), collisions);
                        verdict
                    }
                });
            }
            Some(FieldStrategy::Union) if concurrent => {
                if let Joined::Value(value) = values::union(field.old.as_ref(), &field.new, server) {
                    return Ok(Verdict::Join(value));
                }
                // Not arrays on both sides: the clock decides, on record.
                let (verdict, winner) = self.later(stamp);
                self.collide(field, server, stamp, winner, "union/last_write_wins".into(), collisions);
                return Ok(verdict);
            }
            _ => {}
        }
        let in_conflict = concurrent || self.row_in_conflict;
        if !in_conflict {
            self.made_anew(field, server, stamp, collisions);
            return Ok(Verdict::Take);
        }
        // `timestamp_compare` found no conflict, but something unseen is overwritten: on record all the same.
        if self.rules.detection == Detection::TimestampCompare && !self.row_in_conflict && rule.is_none() {
            self.replace_on_record(field, server, stamp, self.rules.name(), collisions);
            return Ok(Verdict::Take);
        }
        let (verdict, winner) = self.strategy(field.number, stamp, concurrent, rule);
        let name = rule.map_or_else(|| self.rules.name(), |rule| format!("field/{}", rule.word()));
        self.collide(field, server, stamp, winner, name, collisions);
        Ok(verdict)
    }

    /// Whether the device's word is the later one, and not the same word again.
    fn is_later(&self, stamp: Stamp) -> bool {
        let again = (self.change.clock, self.change.origin) == (stamp.clock, stamp.origin);
        !again && matches!(self.later(stamp), (Verdict::Take, _))
    }

    /// Whether nothing but the clock decides between two values of the field.
    fn goes_by_clock(&self, number: u16, rule: Option<FieldStrategy>) -> bool {
        match rule {
            Some(rule) => rule == FieldStrategy::LastWriteWins,
            None => self.rules.merges_by_field(number) || self.rules.strategy == Strategy::LastWriteWins,
        }
    }

    fn strategy(&self, number: u16, stamp: Stamp, concurrent: bool, rule: Option<FieldStrategy>) -> (Verdict, Winner) {
        match rule {
            Some(FieldStrategy::LastWriteWins) => self.later_if(concurrent, stamp),
            Some(FieldStrategy::ServerWins) => (Verdict::Keep, Winner::Server),
            Some(FieldStrategy::ClientWins) => (Verdict::Take, Winner::Client),
            Some(FieldStrategy::Manual) => (Verdict::Keep, Winner::Person),
            // Joining rules come here only for a row-level conflict over a field that nobody else changed.
            Some(FieldStrategy::Sum | FieldStrategy::Max | FieldStrategy::Min | FieldStrategy::Union) => {
                (Verdict::Take, Winner::Client)
            }
            None if self.rules.merges_by_field(number) => self.later_if(concurrent, stamp),
            None => match self.rules.strategy {
                Strategy::ServerWins | Strategy::FieldMerge => (Verdict::Keep, Winner::Server),
                Strategy::ClientWins => (Verdict::Take, Winner::Client),
                Strategy::Manual => (Verdict::Keep, Winner::Person),
                Strategy::LastWriteWins => match self.change.seen.latest_missed(self.change.origin, &self.row.clocks) {
                    Some(theirs) => self.later(theirs),
                    None => (Verdict::Take, Winner::Client),
                },
            },
        }
    }

    /// The later clock wins a field, if both sides changed it; else the only change stands.
    fn later_if(&self, concurrent: bool, stamp: Stamp) -> (Verdict, Winner) {
        if concurrent {
            self.later(stamp)
        } else {
            (Verdict::Take, Winner::Client)
        }
    }

    /// The later clock; equal clocks: the greater client id, the hub lowest.
    fn later(&self, stamp: Stamp) -> (Verdict, Winner) {
        let device_is_later = match self.change.clock.cmp(&stamp.clock) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal if stamp.origin == HUB => true,
            Ordering::Equal => (self.context.client_id)(self.change.origin) >= (self.context.client_id)(stamp.origin),
        };
        if device_is_later {
            (Verdict::Take, Winner::Client)
        } else {
            (Verdict::Keep, Winner::Server)
        }
    }

    /// Adds the device's own difference. A NULL counts as 0; setting NULL is a reset, and goes by the clock.
    fn sum(
        &self,
        field: &IncomingField,
        server: &Value,
        stamp: Stamp,
        concurrent: bool,
        collisions: &mut Vec<Collision>,
    ) -> Result<Verdict, Rejection> {
        // An insert offered again (a refilled hub) has no difference of its own.
        let offered_again =
            self.change.op == Op::Insert && !self.change.seen.misses_making(self.change.origin, &self.row.clocks);
        if field.new.is_null() || offered_again {
            if values::same(field.kind, &field.new, server) {
                return Ok(Verdict::Keep);
            }
            if !concurrent || server.is_null() {
                self.made_anew(field, server, stamp, collisions);
                return Ok(Verdict::Take);
            }
            let (verdict, winner) = self.later(stamp);
            self.collide(field, server, stamp, winner, "field/sum".into(), collisions);
            return Ok(verdict);
        }
        let before = field.old.clone().unwrap_or_default();
        values::add_difference(field.kind, server, &before, &field.new).map(Verdict::Join)
    }

    /// Who makes a record that it has seen may have lost that, and mean another one: what it replaces is on record.
    fn made_anew(&self, field: &IncomingField, server: &Value, stamp: Stamp, collisions: &mut Vec<Collision>) {
        if self.change.op == Op::Insert && !server.is_null() {
            let name = format!("on_same_key/{}", OnSameKey::Merge.word());
            self.replace_on_record(field, server, stamp, name, collisions);
        }
    }

    /// What the device's value replaces is on record, and not called a conflict.
    fn replace_on_record(
        &self,
        field: &IncomingField,
        server: &Value,
        server_stamp: Stamp,
        rule: String,
        collisions: &mut Vec<Collision>,
    ) {
        self.collide(field, server, server_stamp, Winner::Client, rule, collisions);
        if let Some(collision) = collisions.last_mut() {
            collision.quiet = true;
        }
    }

    fn collide(
        &self,
        field: &IncomingField,
        server: &Value,
        server_stamp: Stamp,
        winner: Winner,
        rule: String,
        collisions: &mut Vec<Collision>,
    ) {
        collisions.push(Collision {
            number: Some(field.number),
            base: field.old.clone(),
            client: field.new.clone(),
            server: server.clone(),
            server_stamp,
            winner,
            rule,
            quiet: false,
        });
    }
}
