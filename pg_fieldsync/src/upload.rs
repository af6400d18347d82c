//! A delta's changes on their way into the tables.
//!
//! Invariants:
//! * Blocks of new rows go straight ([`crate::fresh`]); everything else goes the long way ([`crate::read`], [`crate::merge`]),
//!   all of it together, because the final state of a delta is what counts.
//! * If the two ways could come in each other's way (they meet in a row, or a race is lost while the first holds locks),
//!   everything is rolled back and the whole delta goes the long way.

use crate::applying;
use crate::catch::SqlError;
use crate::copies;
use crate::decide::Deciding;
use crate::error::HubError;
use crate::feed;
use crate::fresh::Fresh;
use crate::guards::subtransaction;
use crate::merge;
use crate::read;
use crate::receive::{self, Received};
use crate::record;
use crate::schema::Schema;
use crate::separate::{self, Separate};
use crate::trigger::now_ms;
use crate::unseen::Unseen;
use crate::verdicts::Verdicts;
use crate::work::{AlreadyMade, Sender, Work};
use crate::{catalog::Table, client};
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::delta::TableChanges;
use fieldsync_core::wire::WireError;
use fieldsync_core::Hlc;
use std::collections::{HashMap, HashSet};

/// A delta that has been merged (for good or on trial).
pub struct Merged {
    /// What went the long way, with what became of it.
    pub work: Work,
    /// What became of all of it.
    pub verdicts: Verdicts,
}

/// Times that a delta is begun anew because somebody has altered its tables meanwhile.
const ALTERED_MAX: u32 = 5;

/// Merges a delta into the hub. Names up to so many of the changes that are applied as they came. Gives the schema that held, too.
pub fn merge(
    received: &mut Received<'_>,
    mut schema: Schema,
    version: u64,
    applied_named_max: usize,
) -> Result<(Schema, Merged), HubError> {
    // Rows of an earlier delta of this very transaction are news to this sender.
    feed::write_as_sent();
    let body = &received.delta.body;
    let not_taken = record::not_taken(&received.client)?;
    record::settle(&received.client, &body.settled, body.cursor.as_ref(), version)?;
    let mut times = 0;
    loop {
        match merge_by(&schema, received, not_taken.clone(), version, applied_named_max) {
            // Nothing has been written yet.
            Err(HubError::Altered(_)) if times < ALTERED_MAX => {
                times += 1;
                schema = Schema::load(&received.client)?;
            }
            merged => return Ok((schema, merged?)),
        }
    }
}

/// Merges a delta by what is known of the tables.
fn merge_by(
    schema: &Schema,
    received: &mut Received<'_>,
    not_taken: HashSet<(i32, String)>,
    version: u64,
    applied_named_max: usize,
) -> Result<Merged, HubError> {
    let client = received.client.clone();
    let upload = Upload {
        already_made: copies::delivered_by_others(&client, schema, &receive::limits())?,
        separate: record::separate_records(&client)?,
        not_taken,
        correction: SkewCorrection::new(received.delta.device_now_ms, now_ms()),
        lost_history: received.delta.history != 0 && received.delta.body.cursor.is_none(),
        names: client::names()?,
        unseen: Unseen::of(client.number)?,
        client,
        schema,
        version,
        applied_named_max,
    };
    applying::write_for(Some(&upload.client.client_id));
    let merged = upload.merge(received);
    applying::write_for(None);
    merged
}

/// What both ways need to know.
struct Upload<'a> {
    client: client::Client,
    schema: &'a Schema,
    version: u64,
    correction: SkewCorrection,
    already_made: AlreadyMade,
    separate: Separate,
    /// Records that the hub has not taken.
    not_taken: HashSet<(i32, String)>,
    lost_history: bool,
    names: HashMap<u32, String>,
    unseen: Unseen,
    applied_named_max: usize,
}

/// Why the straight way ended early.
enum Ended {
    /// The whole delta goes the long way.
    Whole,
    /// For good.
    Raised(HubError),
}

impl From<SqlError> for Ended {
    fn from(error: SqlError) -> Self {
        if error.is_transient() && !error.is_worth_retrying() {
            Ended::Raised(error.into())
        } else {
            Ended::Whole
        }
    }
}

impl From<HubError> for Ended {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Sql(error) => error.into(),
            other => Ended::Raised(other),
        }
    }
}

impl From<WireError> for Ended {
    fn from(error: WireError) -> Self {
        Ended::Raised(error.into())
    }
}

impl Upload<'_> {
    fn merge(&self, received: &mut Received<'_>) -> Result<Merged, HubError> {
        let body = &received.delta.body;
        // Where the device may be repeating itself, or telling of a history that is lost, each row has to be looked at.
        let plain = body.recovery.is_none()
            && !self.lost_history
            && self.already_made.is_empty()
            && self.client.watermark <= body.watermark;
        if plain {
            let earlier = feed::set_aside();
            match subtransaction(|| self.straight(received)) {
                Ok(merged) => {
                    earlier.and();
                    return Ok(merged);
                }
                Err(ended) => {
                    earlier.instead();
                    if let Ended::Raised(error) = ended {
                        return Err(error);
                    }
                }
            }
        }
        let mut tables = received.tables()?;
        for changes in &tables {
            self.schema.hold(&changes.table)?;
        }
        tables.iter_mut().for_each(|changes| self.schema.spell(changes));
        let mut verdicts = Verdicts::naming_applied_up_to(self.applied_named_max);
        let mut work = self.read(received, tables)?;
        merge::merge(&mut work, &self.deciding(), true)?;
        verdicts.of_work(&work);
        Ok(Merged { work, verdicts })
    }

    /// Blocks of new rows as they come, and then the rest.
    fn straight(&self, received: &mut Received<'_>) -> Result<Merged, Ended> {
        let waiting = record::waiting_rows(&self.client)?;
        let mut verdicts = Verdicts::naming_applied_up_to(self.applied_named_max);
        let mut fresh = Fresh::new(&self.client, self.schema, &self.correction, self.version, &waiting);
        let mut rest = Vec::new();
        let mut blocks = received.blocks().map_err(Ended::Raised)?;
        while let Some(mut block) = blocks.next()? {
            self.schema.hold(&block.table)?;
            self.schema.spell(&mut block);
            if let Some(block) = fresh.offer(block, &mut verdicts)? {
                receive::add(&mut rest, block);
            }
        }
        received.ended(blocks);
        for block in fresh.finish(&mut verdicts)? {
            receive::add(&mut rest, block);
        }
        // Blocks that waited come after later ones.
        for table in &mut rest {
            table.changes.sort_by_key(|change| change.clock);
        }
        let mut work = self.read(received, rest)?;
        let alone = fresh.is_empty();
        let parents = fresh.referred_to()?;
        let wrote = fresh.wrote();
        if work.tables.iter().any(|table| table.items.iter().any(|item| wrote(&table.table, &item.key))) {
            return Err(Ended::Whole);
        }
        merge::merge(&mut work, &self.deciding(), alone)?;
        if parents.iter().any(|parent| separate::any_of(parent, &work.tables, &self.separate)) {
            return Err(Ended::Whole);
        }
        verdicts.of_work(&work);
        Ok(Merged { work, verdicts })
    }

    fn deciding(&self) -> Deciding<'_> {
        Deciding {
            origin: self.client.number,
            version: self.version,
            lost_history: self.lost_history,
            names: &self.names,
            separate: &self.separate,
            unseen: &self.unseen,
        }
    }

    /// Changes in the hub's terms, parents first.
    fn read(&self, received: &Received<'_>, tables: Vec<TableChanges>) -> Result<Work, SqlError> {
        let corrected = corrected_clocks(&tables, &self.correction);
        let sender = Sender {
            watermark: self.client.watermark,
            correct: &|clock| match corrected.binary_search_by_key(&clock, |(raw, _)| *raw) {
                Ok(at) => corrected[at].1,
                Err(_) => self.correction.correct(clock),
            },
            already_made: &self.already_made,
            no_push: &|table| matches!(self.schema.direction(table), "pull" | "none"),
        };
        let mut work = read::read(&received.delta.body, tables, &sender, &|name| self.schema.find(name))?;
        let place = |table: &Table| self.schema.tables.iter().position(|(known, _, _)| known.oid == table.oid);
        work.tables.sort_by_key(|table| place(&table.table));
        for table in &mut work.tables {
            table.mark_separate(&self.separate);
            table.take_back(&self.not_taken);
        }
        Ok(work)
    }
}

/// Every stamp of some changes in the hub's time, in the device's order.
fn corrected_clocks(tables: &[TableChanges], correction: &SkewCorrection) -> Vec<(Hlc, Hlc)> {
    let mut raw: Vec<Hlc> = tables.iter().flat_map(|table| &table.changes).map(|change| change.clock).collect();
    raw.sort_unstable();
    raw.dedup();
    let corrected = correction.correct_all(raw.iter().copied());
    raw.into_iter().zip(corrected).collect()
}
